"""A clip's tokens as they go out: the Arrow stream of its record, verified."""

import re

from pipeline.store import ClipStore
from pipeline.store.arrow import record_body
from pipeline.store.keys import record_id
from pipeline.values.errors import MissingValue, UnknownClip
from pipeline.values.types import ClipSpan

ARROW = "application/vnd.apache.arrow.stream"
CLIP_KEY = re.compile(r"[0-9]{1,9}-[0-9]{1,12}")
"""`EPOCH-INDEX`."""


def read_body(store: ClipStore, stream_id: str, key: str) -> bytes:
    """The Arrow IPC stream of one record, a row a token.

    Raises:
        UnknownClip: the stream has none of that place.
        CorruptValue: it is not what was written.
    """
    missing = UnknownClip(f"{stream_id} has no clip {key[:30]!r}; see its list of clips")
    if not CLIP_KEY.fullmatch(key):
        raise missing
    epoch, index = map(int, key.split("-"))
    try:
        blob = store.get_record(ClipSpan(stream_id, epoch, index, 0.0, 0.0, 0, 0))
    except MissingValue:
        raise missing from None
    return bytes(record_body(blob, key=record_id(stream_id, epoch, index)))
