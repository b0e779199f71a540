"""What can be set of the store: where records are, where they wait for it, how long they stay.

Passwords are kept apart from URLs, and neither is shown.
"""

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

from pydantic import ByteSize, Field, SecretStr, field_validator, model_validator

from pipeline.settings.base import ENV_PREFIX, Group, parse_length, parse_share
from pipeline.store import StoreConfig
from pipeline.store.fading import KEYFRAME
from pipeline.store.password import read_password
from pipeline.store.retention import FadeRule, RetentionRules
from pipeline.values.errors import InvalidSettings

DATA_FOLDER = "~/.local/share/aot-stream"
_WITH_PASSWORD = ("redis://", "rediss://", "unix://", "sentinel://")

_EARLY_END = re.compile(r"(?:rediss?|unix|sentinel)://[^/?#@]+[/?#].*@", re.IGNORECASE)
"""A `/`, `?` or `#` in a password: the host would be taken from what stands before it."""


class StoreSettings(Group):
    """Where the records are."""

    url: str = f"embedded://{DATA_FOLDER}"
    """embedded://FOLDER, unix:///SOCKET, redis://HOST:PORT/DB, rediss://... or sentinel://...; of a
    cluster any of its nodes, or several: redis://HOST:PORT,HOST:PORT/0."""
    password: SecretStr | None = None
    """Of the server; in the environment (AOT_STORE__PASSWORD) rather than in a file."""
    password_file: Path | None = None
    """A file that holds the password and nothing else, on every machine that opens the store."""
    namespace: str = "aot"
    dtype: Literal["bf16", "int8"] = "bf16"
    timeout_s: float = Field(default=5.0, gt=0, le=600)
    connect_timeout_s: float = Field(default=2.0, gt=0, le=60)
    outage_s: float = Field(default=300.0, ge=0, le=86_400)
    """How long a session waits for a server that is away before it gives up."""
    appendfsync: Literal["everysec", "always"] = "everysec"
    cold: str | None = None
    """Where clips go that are older than `retention.cool_after`: a folder that every machine sees,
    `s3://BUCKET/PREFIX?region=...` or `gs://...`; credentials come from the environment."""

    @field_validator("cold")
    @classmethod
    def _check_cold(cls, cold: str | None) -> str | None:
        if cold is None or "://" in cold:
            return cold
        return str(Path(cold).expanduser().absolute())

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        if _EARLY_END.match(url):
            raise ValueError(
                "a password in a URL must have / as %2F, ? as %3F and # as %23; better set "
                f"{ENV_PREFIX}STORE__PASSWORD or store.password_file"
            )
        try:
            urlsplit(url)
        except ValueError:  # its text may hold a part of the password
            raise ValueError("is no URL; expected such as redis://HOST:PORT/DB") from None
        return url

    @model_validator(mode="after")
    def _check_password(self) -> "StoreSettings":
        if self.password is None and self.password_file is None:
            return self
        if self.password is not None and self.password_file is not None:
            raise ValueError("got both a password and a password_file, expected one of them")
        if not self.url.lower().startswith(_WITH_PASSWORD):
            raise ValueError(
                "only redis://, rediss://, unix:// and sentinel:// stores take a password"
            )
        return self

    def to_config(self) -> StoreConfig:
        """What opens the store, here and in every worker; of a password's file its name alone.

        Raises:
            InvalidSettings: the password's file cannot be read.
        """
        fields = self.model_dump(exclude={"password", "password_file", "url"})
        if self.password_file is None:
            return StoreConfig(_with_password(self), **fields)
        read_password(self.password_file)  # what is wrong here is so before anything is started
        _require_no_password(self.url)
        path = self.password_file.expanduser().absolute()
        return StoreConfig(self.url, password_file=str(path), **fields)


class SpoolSettings(Group):
    """Where clips of endless sources are kept while the store is away. Files are not spooled: they
    wait, and can be read again."""

    folder: Path | None = None
    """On a disk of the machine that reads the sources; null takes `spool` in an embedded store's
    folder, else ~/.local/share/aot-stream/spool."""
    max_bytes: ByteSize = Field(default=ByteSize(2_000_000_000), ge=0)
    """Of all streams of this machine; beyond it footage is lost and recorded as a gap `store`. 0
    keeps no spool: a session waits for its store, and what is not read meanwhile is the gap."""


class FadeSettings(Group):
    """What stays of footage from some age on."""

    after: float = Field(gt=0)
    """`1d`, `12h`, or seconds."""
    keep: Literal["keyframe"] | Annotated[float, Field(gt=0, lt=1)]
    """Share of the tokens before the reduction, `2%` or 0.02; or `keyframe`: its anchors alone."""

    _parse_after = field_validator("after", mode="before")(parse_length)
    _parse_keep = field_validator("keep", mode="before")(parse_share)

    def to_rule(self) -> FadeRule:
        """As the store applies it."""
        return FadeRule(self.after, KEYFRAME if self.keep == "keyframe" else self.keep)


class RetentionSettings(Group):
    """How long footage is kept; null keeps it without a limit."""

    max_age: float | None = Field(default=None, gt=0)
    """`30d`, `12h`, or seconds: of footage since it was seen."""
    max_bytes_per_stream: ByteSize | None = Field(default=None, gt=0)
    """`50GB`, `500MB`, or bytes: of a stream's records; the oldest go first."""
    max_bytes: ByteSize | None = Field(default=None, gt=0)
    """The same of all streams together."""
    cool_after: float | None = Field(default=None, gt=0)
    """`7d`, `12h`, or seconds: older footage is kept in the cold tier (`store.cold`)."""
    fade: tuple[FadeSettings, ...] = ()
    """`[{after: 1d, keep: 2%}, {after: 30d, keep: keyframe}]`: older footage keeps fewer of its
    tokens, a share of those before the reduction or the keyframe's anchors; each later rule keeps
    less, and `keyframe` is the last."""
    levels: bool = False
    """Sessions also keep records of 4, 16, 64, ... clips together, so that the first question over
    a long range costs what later ones do (`ask.fit: recompress`); a third more bytes at most, which
    no limit counts."""

    _parse_age = field_validator("max_age", "cool_after", mode="before")(parse_length)

    def to_rules(self) -> RetentionRules:
        """What sessions remove of what they wrote."""
        return RetentionRules(
            self.max_age,
            self.max_bytes_per_stream,
            self.max_bytes,
            self.cool_after,
            tuple(rule.to_rule() for rule in self.fade),
            self.levels,
        )


def _with_password(store: StoreSettings) -> str:
    """The store's URL with its password, wherever that came from."""
    if store.password is None:
        return store.url
    _require_no_password(store.url)
    password = store.password.get_secret_value()
    scheme, _, rest = store.url.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}://{user if at else ''}:{quote(password, safe='')}@{place}"


def _require_no_password(url: str) -> None:
    login, _, _ = url.partition("://")[2].rpartition("@")
    if ":" in login:
        raise InvalidSettings("store: got a password in the URL and another; take one of them out")
