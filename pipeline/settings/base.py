"""What every group of settings is: frozen, no unknown key, shown without secrets."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.values.errors import InvalidQuery
from pipeline.values.times import parse_duration
from workers.redact import redact_url

ENV_PREFIX = "AOT_"


class Group(BaseModel):
    """A part of a settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, redact_url(value) if isinstance(value, str) else value


def parse_length(value: Any) -> Any:
    """Seconds of `30d` or `12h`; what is no text as it is."""
    if not isinstance(value, str):
        return value
    try:
        return parse_duration(value)
    except InvalidQuery as error:
        raise ValueError(str(error)) from None


def parse_share(value: Any) -> Any:
    """A share of `2%`; what is no such text as it is."""
    if isinstance(value, str) and value.rstrip().endswith("%"):
        return float(value.rstrip()[:-1]) / 100
    return value
