"""What is stored is plain Arrow: an export read by DuckDB, with nothing of this software."""

import duckdb
import numpy as np
import pyarrow.feather
from stage import open_stage

from pipeline.store.arrow import export_clips
from pipeline.store.keys import record_id

with open_stage(ray={"enabled": False}) as (pipeline, videos):
    pipeline.ingest(str(videos["lecture"]), stream="lecture")
    export = videos["lecture"].with_suffix(".arrow")
    store, spans = pipeline.store, pipeline.store.list_spans("lecture")  # `aot clips export`
    keys = (record_id(span.stream_id, span.epoch, span.index) for span in spans)
    export_clips(zip(keys, map(store.get_record, spans), strict=True), export)
    clips = pyarrow.feather.read_table(export)

print(
    duckdb.sql(
        """
        SELECT "index" AS clip, min(start_s) AS start_s, count(*) AS tokens,
               count(DISTINCT time_s) AS frames, round(sum(mass), 1) AS mass
        FROM clips GROUP BY ALL ORDER BY clip
        """
    )
)
bits = np.stack(clips["token"].to_numpy())  # bf16 as uint16, one row a token
tokens = (bits.astype("u4") << 16).view("f4")
print(f"{tokens.shape[0]} tokens of width {tokens.shape[1]}, {tokens.dtype}")
