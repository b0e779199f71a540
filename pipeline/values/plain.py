"""Values and errors fit to be shown: plain JSON, one line, no control character, no credential.

Text that came from outside (file names, metadata, errors of libraries) is shown with control
characters escaped, so that it can neither move a cursor nor forge a line. Every surface shows
through here.
"""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from workers.redact import redact_text


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as JSON takes them."""
    if is_dataclass(value) and not isinstance(value, type):
        return {key: to_plain(item) for key, item in asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return str(value)


def one_line(error: BaseException) -> str:
    """An error's text without line ends, control characters and credentials."""
    return escape(redact_text(" ".join(str(error).split()))) or type(error).__name__


def escape(text: str) -> str:
    """Control characters and undecodable bytes as backslash escapes; all else as it is."""
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
    return shown.encode("utf-8", "backslashreplace").decode()
