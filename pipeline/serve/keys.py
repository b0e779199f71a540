"""Keys of callers: what is kept of them, who a caller is, and what one may do.

A key is shown once, when it is made, and never again: the file has its SHA-256. That is enough for
256 random bits, which nobody guesses; a slow hash is for what people think up. Knows of no HTTP.
"""

import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pipeline.values.errors import InvalidQuery, InvalidSettings, NotAllowed, UnknownKey
from pipeline.values.types import require_stream_id

Scope = Literal["read", "ingest", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "ingest", "admin")
"""Each may do what those before it may."""
PREFIX = "aot"
_NOBODY = "0" * 64


@dataclass(frozen=True)
class Key:
    """What is kept of a key."""

    key_id: str
    digest: str
    """SHA-256 of the whole key, in hex."""
    scope: Scope
    streams: tuple[str, ...] = ()
    """Streams it is for; empty for all."""
    note: str = ""
    created_at_s: float = 0.0

    def allows(self, scope: Scope) -> bool:
        """Whether it may do what takes this scope."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)

    def sees(self, stream_id: str) -> bool:
        """Whether it is for this stream."""
        return not self.streams or stream_id in self.streams


LOCAL = Key("local", _NOBODY, "admin")
"""Whoever asks from this machine while there are no keys."""


def require_scope(key: Key, scope: Scope) -> None:
    """Raise `NotAllowed` where a key may not do what takes this scope."""
    if not key.allows(scope):
        raise NotAllowed(f"the key may not do this; it takes the scope {scope!r}")


class KeyBook:
    """The keys of a file, read anew when it changed. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self._path = path.expanduser()
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._keys: dict[str, Key] = {}

    def find(self, given: str) -> Key | None:
        """The key that was given, None for any other text; takes as long for each."""
        key_id = given.split("_")[1] if given.count("_") >= 2 else ""
        known = self._read().get(key_id)
        digest = hashlib.sha256(given.encode()).hexdigest()
        is_it = hmac.compare_digest(digest, _NOBODY if known is None else known.digest)
        return known if is_it else None

    def list_keys(self) -> list[Key]:
        """All of them, the oldest first."""
        return sorted(self._read().values(), key=lambda key: (key.created_at_s, key.key_id))

    def add(self, scope: str, streams: Iterable[str] = (), note: str = "") -> tuple[str, Key]:
        """Make a key; the text is to be shown once.

        Raises:
            InvalidQuery: no such scope.
            InvalidRecord: what is no stream's id.
        """
        if scope not in SCOPES:
            raise InvalidQuery(f"got scope {scope!r}, expected one of {', '.join(SCOPES)}")
        names = tuple(dict.fromkeys(streams))
        for name in names:
            require_stream_id(name)
        key_id = secrets.token_hex(4)
        text = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
        digest = hashlib.sha256(text.encode()).hexdigest()
        key = Key(key_id, digest, scope, names, note, time.time())  # type: ignore[arg-type]
        self._write({**self._read(), key_id: key})
        return text, key

    def remove(self, key_id: str) -> None:
        """Take a key back; whoever uses it is refused from now on.

        Raises:
            UnknownKey: there is none of that id.
        """
        keys = dict(self._read())
        if keys.pop(key_id, None) is None:
            raise UnknownKey(f"no key {key_id!r} in {self._path}; see `aot keys ls`")
        self._write(keys)

    def _read(self) -> dict[str, Key]:
        with self._lock:
            try:
                now = self._path.stat()
            except FileNotFoundError:
                return {}
            seen = (now.st_mtime_ns, now.st_ino)
            if seen != self._seen:
                self._keys, self._seen = _parse(self._path), seen
            return self._keys

    def _write(self, keys: dict[str, Key]) -> None:
        """Whole or not at all, for the owner's eyes alone."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump({"keys": [asdict(key) for key in keys.values()]}, file, indent=1)
        part.replace(self._path)


def _parse(path: Path) -> dict[str, Key]:
    try:
        rows = json.loads(path.read_text())["keys"]
        keys = [Key(**{**row, "streams": tuple(row["streams"])}) for row in rows]
        if any(key.scope not in SCOPES for key in keys):
            raise ValueError("an unknown scope")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidSettings(
            f"{path} is no file of keys ({type(error).__name__}); mend it, or move it away and "
            "make keys anew: `aot keys add`"
        ) from None
    return {key.key_id: key for key in keys}
