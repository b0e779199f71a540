"""Clips that are old, as Parquet files on any filesystem; their index rows stay in the server.

`tier` is where they lie, `moving` takes them there, `tidying` joins small files and removes what no
row names. A row says where its record is; whoever reads asks the store, which looks there.
"""

from pipeline.store.cold.tier import ColdTier, open_cold

__all__ = ["ColdTier", "open_cold"]
