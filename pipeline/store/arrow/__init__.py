"""Clips to Arrow records and back; the only home of pyarrow. `tensors` alone makes tensors.

A record is an envelope around one Arrow IPC stream of one record batch, a row per token:

    token   fixed_size_list<uint16>[d]   bf16 bits       or fixed_size_list<int8>[d] with
                                                         scale float32, value = token * scale
    frame   int16      position of the frame in the clip
    cell    int16      row-major cell of the pooled grid
    mass    float32    how many original tokens it stands for
    kind    uint8      `aot.TokenKind`

The reader trusts nothing: magic, version, size and digest come first (`envelope`), then the shape
of the messages, schema equality, `validate(full=True)`, then ranges. Arrow's own validation is not
enough (more than half of mutated streams pass it with changed data), and without it some kill the
process. Records are not compressed: bf16 tokens hardly shrink, and inflating is where bombs live.

pyarrow and torch are loaded when the first record is written or read: an index needs neither.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.store.arrow.export import (
        ExportedFacts,
        export_clips,
        exported_facts,
        iter_exported,
    )
    from pipeline.store.arrow.folder import Folder
    from pipeline.store.arrow.parquet import iter_parquet, parquet_facts, write_parquet
    from pipeline.store.arrow.record import (
        ClipRecord,
        decode_clip,
        encode_clip,
        record_body,
        same_clip,
        same_content,
    )
    from pipeline.store.arrow.stream import record_schema, share_one_heap

__all__ = [
    "ClipRecord",
    "ExportedFacts",
    "Folder",
    "decode_clip",
    "encode_clip",
    "export_clips",
    "exported_facts",
    "iter_exported",
    "iter_parquet",
    "parquet_facts",
    "record_body",
    "record_schema",
    "same_clip",
    "same_content",
    "share_one_heap",
    "write_parquet",
]

_HOMES = {
    "export": ("ExportedFacts", "export_clips", "exported_facts", "iter_exported"),
    "folder": ("Folder",),
    "parquet": ("iter_parquet", "parquet_facts", "write_parquet"),
    "record": (
        "ClipRecord",
        "decode_clip",
        "encode_clip",
        "record_body",
        "same_clip",
        "same_content",
    ),
    "stream": ("record_schema", "share_one_heap"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """A public name, loaded with the module it lives in (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
