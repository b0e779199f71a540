"""One Arrow file of many clips: opens without our code, comes back as it went out."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.store.arrow import encode_clip, export_clips, iter_exported
from pipeline.values.errors import (
    Conflict,
    CorruptValue,
    NoFootage,
    SchemaMismatch,
    StoreFull,
    StoreUnavailable,
)


def records_of(clips, dtype="bf16"):
    return [
        (f"{c.stream_id}/{c.epoch}/{c.index}", encode_clip(c, fingerprint="f1", dtype=dtype))
        for c in clips
    ]


@pytest.fixture(params=["bf16", "int8"])
def records(request, make_clip):
    return records_of([make_clip(0), make_clip(1, num_tokens=0), make_clip(2)], request.param)


@pytest.fixture
def exported(records, tmp_path):
    path = tmp_path / "clips.arrow"
    assert export_clips(iter(records), path) == 3
    return path


def test_what_comes_back_is_what_went_out(records, exported):
    assert list(iter_exported(exported)) == records


def test_an_export_is_the_same_bytes_every_time(records, exported, tmp_path):
    export_clips(iter(records), tmp_path / "again.arrow")
    assert (tmp_path / "again.arrow").read_bytes() == exported.read_bytes()


def test_the_columns_say_where_each_token_lies(make_clip, tmp_path):
    clip = make_clip(3)
    export_clips(iter(records_of([clip])), tmp_path / "c.arrow")
    table = pa.ipc.open_file(tmp_path / "c.arrow").read_all()
    assert set(table["index"].to_pylist()) == {3}
    assert set(table["start_s"].to_pylist()) == {12.0}
    assert table["time_s"].to_pylist() == [12.0 + frame for frame in clip.tokens.frame.tolist()]


PLAIN = """
import sys
import numpy as np, pandas as pd, pyarrow as pa
frame = pd.read_feather(sys.argv[1])
table = pa.ipc.open_file(sys.argv[1]).read_all()
assert not {"pipeline", "workers", "aot"} & set(sys.modules)
bits = np.stack(frame["token"].to_numpy())
values = (bits.astype("u4") << 16).view("f4")
print(table.num_rows, sorted(frame["index"].unique()), values.shape, float(values[0, 0]))
"""


def test_it_opens_in_plain_pyarrow_and_pandas(make_clip, tmp_path):
    clips = [make_clip(0), make_clip(1)]
    export_clips(iter(records_of(clips)), tmp_path / "c.arrow")
    said = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, str(tmp_path / "c.arrow")],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=tmp_path,
    )
    expected = float(clips[0].tokens.tokens[0, 0])
    assert said.stderr == ""
    assert said.stdout.split("(")[0].startswith("10 [")
    assert said.stdout.rstrip().endswith(f"(10, 8) {expected}")


def test_no_clips_make_no_file(tmp_path):
    with pytest.raises(NoFootage):
        export_clips(iter([]), tmp_path / "c.arrow")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_the_old_file_and_no_other(records, exported, tmp_path):
    before = exported.read_bytes()
    damaged = [records[0], (records[2][0], records[2][1][:-1] + b"x")]
    with pytest.raises(CorruptValue):
        export_clips(iter(damaged), exported)
    assert exported.read_bytes() == before
    assert list(tmp_path.iterdir()) == [exported]


def test_clips_of_two_dtypes_are_refused(make_clip, tmp_path):
    mixed = [*records_of([make_clip(0)]), *records_of([make_clip(1)], "int8")]
    with pytest.raises(SchemaMismatch, match="clip 1 of the export"):
        export_clips(iter(mixed), tmp_path / "c.arrow")


def test_a_place_that_cannot_be_written_is_a_typed_error(records, tmp_path):
    with pytest.raises(StoreUnavailable, match="nothing was written"):
        export_clips(iter(records), tmp_path / "none" / "c.arrow")


def test_a_full_disk_is_a_full_store(records, tmp_path, monkeypatch):
    opened = Path.open
    full = lambda path, *mode: opened(Path("/dev/full"), *mode)  # noqa: E731
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StoreFull, match="No space left"):
        export_clips(iter(records), tmp_path / "c.arrow")


def test_a_file_that_is_not_there_is_a_typed_error(tmp_path):
    with pytest.raises(StoreUnavailable, match="check the path"):
        next(iter_exported(tmp_path / "none.arrow"))


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0", b"x" * 999, b"ARROW1\0\0" + b"\xff" * 99])
def test_a_file_that_is_no_export_is_refused(tmp_path, content):
    (tmp_path / "c.arrow").write_bytes(content)
    with pytest.raises(CorruptValue):
        list(iter_exported(tmp_path / "c.arrow"))


def rewritten(exported, path, change):
    """The export with one batch changed by hand, metadata as it was."""
    reader = pa.ipc.open_file(exported)
    with pa.ipc.new_file(path, reader.schema) as writer:
        for number in range(reader.num_record_batches):
            wide = reader.get_batch_with_custom_metadata(number)
            batch, metadata = change(number, wide.batch, dict(wide.custom_metadata))
            writer.write_batch(batch, custom_metadata=metadata)
    return path


@pytest.mark.parametrize("column", ["mass", "cell", "start_s", "time_s", "index"])
def test_a_changed_value_is_found(exported, tmp_path, column):
    def change(number, batch, metadata):
        if number == 2:
            values = batch.column(column).to_numpy().copy()
            values[0] = values[0] / 2 if column in ("mass", "time_s", "start_s") else 5 - values[0]
            at = batch.schema.names.index(column)
            batch = batch.set_column(at, batch.schema.field(at), pa.array(values))
        return batch, metadata

    path = rewritten(exported, tmp_path / "changed.arrow", change)
    with pytest.raises(CorruptValue, match="clip 2"):
        list(iter_exported(path))


@pytest.mark.parametrize("key", [b"aot.fingerprint", b"aot.pts_s", b"aot.content_sha256"])
def test_changed_metadata_are_found(exported, tmp_path, key):
    def change(number, batch, metadata):
        return batch, {**metadata, key: metadata[key].replace(b"0", b"1").replace(b"f", b"e")}

    path = rewritten(exported, tmp_path / "changed.arrow", change)
    with pytest.raises(CorruptValue):
        list(iter_exported(path))


def test_a_compressed_file_is_refused(exported, tmp_path):
    table = pa.ipc.open_file(exported).read_all()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(tmp_path / "z.arrow", table.schema, options=options) as writer:
        writer.write_table(table)
    with pytest.raises(CorruptValue, match="compressed"):
        list(iter_exported(tmp_path / "z.arrow"))


def test_changed_bytes_give_the_same_clips_or_a_typed_error(records, exported, tmp_path):
    """300 seeded changes; padding and the footer may change unseen, clips may not."""
    original = exported.read_bytes()
    refused = 0
    for number in range(300):
        dice = random.Random(number)
        data = bytearray(original)
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path = tmp_path / "mutant.arrow"
        path.write_bytes(data)
        try:
            assert list(iter_exported(path)) == records
        except (CorruptValue, SchemaMismatch):
            refused += 1
    assert refused > 100


def test_tokens_keep_their_bits(make_clip, tmp_path):
    clip = make_clip(0)
    export_clips(iter(records_of([clip])), tmp_path / "c.arrow")
    bits = np.stack(pa.ipc.open_file(tmp_path / "c.arrow").read_all()["token"].to_numpy())
    assert np.array_equal((bits.astype("u4") << 16).view("f4"), clip.tokens.tokens.float().numpy())


def test_a_footer_that_names_other_blocks_is_not_followed(records, tmp_path):
    """It names clip 0 twice and clip 2 never: the sequence is read, which was looked at."""
    path = tmp_path / "a.arrow"
    export_clips(iter(records), path)
    data = path.read_bytes()
    size = int.from_bytes(data[-10:-6], "little")
    footer = data[-10 - size : -10]
    offsets = [footer.find(n.to_bytes(8, "little")) for n in _block_offsets(data)]
    assert all(at >= 0 for at in offsets)
    forged = bytearray(footer)
    forged[offsets[2] : offsets[2] + 8] = footer[offsets[0] : offsets[0] + 8]
    path.write_bytes(data[: -10 - size] + bytes(forged) + data[-10:])
    assert list(iter_exported(path)) == records


def _block_offsets(data):
    """Where each message of the sequence after the schema begins."""
    at, offsets = 8, []
    while int.from_bytes(data[at + 4 : at + 8], "little"):
        reader = pa.BufferReader(data[at:])
        pa.ipc.read_message(reader)
        offsets.append(at)
        at += reader.tell()
    return offsets[1:]


def test_a_sequence_that_ends_early_is_refused(exported):
    data = exported.read_bytes()
    exported.write_bytes(data[: _block_offsets(data)[2]])
    with pytest.raises(CorruptValue):
        list(iter_exported(exported))


def test_a_file_that_is_there_is_replaced_only_when_told(records, exported):
    before = exported.read_bytes()
    with pytest.raises(Conflict, match=r"there already; .* --force"):
        export_clips(iter(records[:1]), exported, replace=False)
    assert exported.read_bytes() == before
