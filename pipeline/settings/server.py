"""Which service the commands ask: named on the command line or in the environment."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.values.errors import InvalidSettings

SERVER, KEY, KEY_FILE = "AOT_SERVER", "AOT_KEY", "AOT_KEY_FILE"
"""Variables that are no settings: they say whom to ask, not how to answer."""


@dataclass(frozen=True)
class ServerAddress:
    """A service, and the key that is shown to it."""

    url: str
    key: str | None = field(default=None, repr=False)


def find_server(given: str | None = None) -> ServerAddress | None:
    """The service to ask: `given`, else what `AOT_SERVER` names; None without either.

    Its key is `AOT_KEY`, or stands in the file that `AOT_KEY_FILE` names.

    Raises:
        InvalidSettings: no URL of a service, or the file does not read.
    """
    url = given or os.environ.get(SERVER)
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise InvalidSettings(
            "the server to ask is named by a URL such as http://localhost:8400, without user and "
            f"password; mend --server or {SERVER}, and put the key into {KEY}"
        )
    return ServerAddress(url.rstrip("/"), _read_key())


def _read_key() -> str | None:
    if key := os.environ.get(KEY):
        return key.strip()
    path = os.environ.get(KEY_FILE)
    if not path:
        return None
    try:
        return Path(path).expanduser().read_text().strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(
            f"{KEY_FILE}: {path} does not read ({type(error).__name__}); it holds one key"
        ) from None
