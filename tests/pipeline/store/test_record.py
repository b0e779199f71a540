"""A record: what goes in comes out, the same bytes every time, and nothing else is accepted."""

import dataclasses
import io
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot import ClipTokens
from pipeline.store import envelope
from pipeline.store.arrow import decode_clip, encode_clip, record_body, record_schema, same_content
from pipeline.store.arrow.stream import read_batch
from pipeline.store.metadata import describe, to_text
from pipeline.values.errors import CorruptValue, InvalidRecord, SchemaMismatch
from workers.types import ClipStats, CompressedClip, Level, TokenLayout

KEY = "lobby/0/0"
GOLDEN = Path(__file__).parent / "golden"


def with_tokens(clip, **columns):
    return dataclasses.replace(clip, tokens=dataclasses.replace(clip.tokens, **columns))


# --- what goes in comes out ------------------------------------------------------------------


@st.composite
def clip_parts(draw):
    """(fields of the clip, fields of its tokens); the shape checks of tests draw random numbers of
    their own, so that the values are made outside the strategy."""
    num_tokens = draw(st.integers(0, 6))
    width = draw(st.integers(1, 5))
    grid = draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    times = st.floats(-1e9, 1e9, allow_nan=False)
    pts_s = tuple(sorted(draw(st.lists(times, min_size=1, max_size=5))))

    def column(values, dtype):
        return torch.tensor(
            draw(st.lists(values, min_size=num_tokens, max_size=num_tokens)), dtype=dtype
        )

    bits = st.integers(0, 0xFFFF).filter(lambda value: value & 0x7F80 != 0x7F80)
    size = num_tokens * width
    token_bits = np.array(draw(st.lists(bits, min_size=size, max_size=size)), np.uint16)
    tokens = torch.from_numpy(token_bits.reshape(num_tokens, width)).view(torch.bfloat16)
    clip = dict(
        stream_id=draw(st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)),
        epoch=draw(st.integers(0, 2**31)),
        index=draw(st.integers(0, 2**31)),
        start_s=pts_s[0],
        end_s=draw(st.floats(pts_s[-1], 2e9, allow_nan=False)),
        pts_s=pts_s,
        wall_start_s=draw(st.none() | times),
        stats=ClipStats(frames_in=draw(st.integers(0, 99)), shed=draw(st.integers(0, 9))),
    )
    columns = dict(
        tokens=tokens,
        frame=column(st.integers(0, len(pts_s) - 1), torch.int64),
        cell=column(st.integers(0, grid[0] * grid[1] - 1), torch.int64),
        mass=column(st.floats(0, 2.0**20, width=32), torch.float32),
        kind=column(st.integers(0, 2), torch.uint8),
        grid=grid,
    )
    return clip, columns


@settings(max_examples=60)
@given(clip_parts(), st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()))
def test_any_clip_comes_back_bit_for_bit(parts, fingerprint):
    clip = CompressedClip(**parts[0], tokens=ClipTokens(**parts[1]))
    blob = encode_clip(clip, fingerprint=fingerprint)
    record = decode_clip(blob, key=f"{clip.stream_id}/{clip.epoch}/{clip.index}")
    assert record.fingerprint == fingerprint
    got = record.clip
    assert got.tokens.tokens.dtype == torch.bfloat16
    assert torch.equal(got.tokens.tokens.view(torch.int16), clip.tokens.tokens.view(torch.int16))
    for name in ("frame", "cell", "mass", "kind"):
        column, expected = getattr(got.tokens, name), getattr(clip.tokens, name)
        assert column.dtype == expected.dtype
        assert torch.equal(column, expected)
    assert got.tokens.grid == clip.tokens.grid
    assert dataclasses.replace(got, tokens=clip.tokens) == clip
    assert encode_clip(got, fingerprint=fingerprint) == blob


def test_float32_tokens_are_rounded_to_bf16_once(make_clip):
    clip = make_clip(dtype=torch.float32)
    record = decode_clip(encode_clip(clip, fingerprint="f"), key=KEY)
    assert torch.equal(record.clip.tokens.tokens, clip.tokens.tokens.to(torch.bfloat16))


def test_int8_tokens_are_off_by_half_a_step_at_most(make_clip):
    clip = make_clip(num_tokens=50, width=64, dtype=torch.float32)
    clip.tokens.tokens[0] = 0
    record = decode_clip(encode_clip(clip, fingerprint="f", dtype="int8"), key=KEY)
    step = clip.tokens.tokens.abs().amax(dim=1, keepdim=True) / 127
    error = (record.clip.tokens.tokens - clip.tokens.tokens).abs()
    assert record.dtype == "int8"
    assert bool((error <= step * 0.5001).all())
    assert not record.clip.tokens.tokens[0].any()


def test_the_tensors_are_a_copy_that_may_be_written(make_clip):
    blob = encode_clip(make_clip(), fingerprint="f")
    before = bytes(blob)
    decode_clip(blob, key=KEY).clip.tokens.tokens.zero_()
    assert blob == before


def test_the_tokens_of_memory_that_may_be_written_share_it(make_clip):
    blob = bytearray(encode_clip(make_clip(), fingerprint="f"))
    before = bytes(blob)
    clip = decode_clip(memoryview(blob), key=KEY).clip
    assert blob == before
    for name in ("frame", "cell", "mass", "kind"):
        getattr(clip.tokens, name).zero_()
    assert blob == before
    clip.tokens.tokens.zero_()
    at = before.index(make_clip().tokens.tokens.view(torch.int16).numpy().tobytes())
    size_bytes = 2 * clip.tokens.tokens.numel()
    assert blob == before[:at] + bytes(size_bytes) + before[at + size_bytes :]


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_a_record_may_lie_anywhere_in_memory(make_clip, dtype, shift):
    blob = encode_clip(make_clip(), fingerprint="f", dtype=dtype)
    view = memoryview(bytearray(bytes(shift) + blob))[shift:]
    got, expected = (decode_clip(record, key=KEY).clip.tokens for record in (view, blob))
    assert torch.equal(got.tokens, expected.tokens)
    assert torch.equal(got.tokens.float() @ torch.ones(8), expected.tokens.float() @ torch.ones(8))


def test_memory_that_may_not_be_written_is_copied(make_clip):
    blob = encode_clip(make_clip(), fingerprint="f")
    before = bytes(blob)
    decode_clip(memoryview(blob), key=KEY).clip.tokens.tokens.zero_()
    assert blob == before


def test_seconds_of_work_are_not_part_of_the_record(make_clip):
    clip = make_clip()
    slow = dataclasses.replace(clip, stats=dataclasses.replace(clip.stats, encode_s=3.5))
    assert encode_clip(slow, fingerprint="f") == encode_clip(clip, fingerprint="f")


def test_shed_frames_lower_the_coverage(make_clip):
    clip = dataclasses.replace(make_clip(), stats=ClipStats(frames_in=6, shed=2))
    assert decode_clip(encode_clip(clip, fingerprint="f"), key=KEY).coverage == 0.75


def test_the_body_opens_with_plain_pyarrow(make_clip):
    clip = make_clip()
    body = record_body(encode_clip(clip, fingerprint="f"), key=KEY)
    table = pa.ipc.open_stream(io.BytesIO(body)).read_all()
    bits = np.stack(table["token"].to_numpy()).astype(np.uint32) << 16
    assert np.array_equal(bits.view(np.float32), clip.tokens.tokens.float().numpy())
    assert table.schema.metadata[b"aot.grid"] == b"2x3"


def test_every_released_version_is_read():
    for path in sorted(GOLDEN.glob("v*.bin")):
        expected = json.loads(path.with_suffix(".json").read_text())
        record = decode_clip(path.read_bytes(), key=expected["key"])
        assert record.digest == expected["digest"]
        assert record.clip.tokens.tokens.float().tolist() == expected["tokens"]
        assert record.clip.tokens.mass.tolist() == expected["mass"]
        assert record.clip.tokens.kind.tolist() == expected["kind"]
        assert list(record.clip.pts_s) == expected["pts_s"]
        layout = expected.get("layout", {"frames": 1, "parts": []})
        assert record.clip.layout == TokenLayout(layout["frames"], tuple(layout["parts"]))
        assert record.clip.level == Level(**expected.get("level", {}))
    for version in envelope.READABLE:
        assert (GOLDEN / f"v{version}-bf16.bin").exists()


# --- a token that is more than one embedding of one frame ------------------------------------

LAYERED = TokenLayout(frames=2, parts=(5, 2, 1))


def layered(make_clip):
    return dataclasses.replace(make_clip(), layout=LAYERED)


@pytest.mark.parametrize("layout", [LAYERED, TokenLayout(frames=2), TokenLayout(parts=(4, 4))])
def test_what_a_token_is_comes_back_with_it(make_clip, layout):
    clip = dataclasses.replace(make_clip(), layout=layout)
    blob = encode_clip(clip, fingerprint="f")

    record = decode_clip(blob, key=KEY)

    assert record.clip.layout == layout
    assert torch.equal(record.clip.tokens.tokens, clip.tokens.tokens.bfloat16())
    assert encode_clip(record.clip, fingerprint="f") == blob


def test_only_what_needs_it_is_of_the_newer_version(make_clip):
    plain = encode_clip(make_clip(), fingerprint="f")
    rich = encode_clip(layered(make_clip), fingerprint="f")

    assert envelope.unseal(plain, KEY)[0] == 1
    assert envelope.unseal(rich, KEY)[0] == 2


def test_each_part_of_a_token_has_a_scale_of_its_own(make_clip):
    clip = layered(make_clip)
    values = clip.tokens.tokens.float().clone()
    values[:, 5:] *= 1e-3  # one scale for the row would leave nothing of these
    clip = with_tokens(clip, tokens=values)

    read = decode_clip(encode_clip(clip, fingerprint="f", dtype="int8"), key=KEY).clip.tokens.tokens

    for part in (slice(0, 5), slice(5, 7), slice(7, 8)):
        largest = values[:, part].abs().amax(dim=1, keepdim=True)
        assert ((read[:, part] - values[:, part]).abs() <= largest / 127 * 0.51).all()


def test_parts_that_are_not_as_wide_as_the_token_are_refused(make_clip):
    clip = dataclasses.replace(make_clip(), layout=TokenLayout(parts=(4, 5)))
    with pytest.raises(InvalidRecord, match=r"8 wide, expected 9 for parts \(4, 5\)"):
        encode_clip(clip, fingerprint="f")


@pytest.mark.parametrize(
    "text", ['{"frames":0,"parts":[]}', '{"frames":1,"parts":[]}', '{"frames":2}', "7", "nan"]
)
def test_a_layout_that_no_release_writes_is_corrupt(make_clip, text):
    blob = encode_clip(layered(make_clip), fingerprint="f")
    batch = read_batch(pa.py_buffer(record_body(blob, key=KEY)), KEY)
    changed = batch.replace_schema_metadata({**batch.schema.metadata, b"aot.layout": text.encode()})

    with pytest.raises(CorruptValue):
        decode_clip(sealed(changed, version=2), key=KEY)


# --- what cannot be stored -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frame": torch.tensor([0, 1, 2, 3, 4])}, "frame runs from 0 to 4, expected 0 to 3"),
        ({"cell": torch.tensor([0, 1, 2, 3, -1])}, "cell runs from -1 to 3, expected 0 to 5"),
        ({"cell": torch.tensor([0, 1, 2, 3, 70000])}, "cell holds values outside int16"),
        ({"mass": torch.tensor([1, 1, 1, 1, float("nan")])}, "mass holds a negative value, NaN"),
        ({"kind": torch.tensor([0, 1, 2, 0, 3], dtype=torch.uint8)}, "kind runs from 0 to 3"),
        ({"grid": (0, 6)}, "grid"),
    ],
)
def test_columns_out_of_range_are_refused(make_clip, change, said):
    with pytest.raises(InvalidRecord, match=said):
        encode_clip(with_tokens(make_clip(), **change), fingerprint="f")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3.4e38])
@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_tokens_that_are_not_finite_are_refused(make_clip, value, dtype):
    clip = make_clip(dtype=torch.float32)
    clip.tokens.tokens[1, 2] = value
    if value == 3.4e38 and dtype == "int8":  # finite, and int8 has its own scale
        assert decode_clip(encode_clip(clip, fingerprint="f", dtype=dtype), key=KEY)
        return
    with pytest.raises(InvalidRecord, match="NaN or infinity"):
        encode_clip(clip, fingerprint="f", dtype=dtype)


@pytest.mark.parametrize(
    "change",
    [
        {"start_s": float("nan")},
        {"end_s": -1.0},
        {"pts_s": ()},
        {"epoch": -1},
        {"stream_id": "a/b"},
        {"wall_start_s": float("inf")},
    ],
)
def test_a_clip_that_cannot_be_is_refused(make_clip, change):
    with pytest.raises(InvalidRecord):
        encode_clip(dataclasses.replace(make_clip(), **change), fingerprint="f")


def test_an_unknown_dtype_is_refused(make_clip):
    with pytest.raises(InvalidRecord, match="'fp4', expected one of"):
        encode_clip(make_clip(), fingerprint="f", dtype="fp4")  # type: ignore[arg-type]


# --- what is not accepted --------------------------------------------------------------------


def test_a_record_of_another_key_is_refused(make_clip):
    blob = encode_clip(make_clip(1), fingerprint="f")
    with pytest.raises(CorruptValue, match="lobby/0/2: the digest does not match"):
        decode_clip(blob, key="lobby/0/2")


def test_a_newer_version_is_named_with_what_to_do(make_clip):
    blob = bytearray(encode_clip(make_clip(), fingerprint="f"))
    blob[8] = 7
    with pytest.raises(SchemaMismatch, match="version 7, this release reads 1, 2, 3; upgrade"):
        decode_clip(bytes(blob), key=KEY)


@pytest.mark.parametrize("length", [0, 7, 63, 64, 200])
def test_a_cut_record_is_refused(make_clip, length):
    with pytest.raises(CorruptValue):
        decode_clip(encode_clip(make_clip(), fingerprint="f")[:length], key=KEY)


def test_a_longer_record_is_refused(make_clip):
    with pytest.raises(CorruptValue, match="header says"):
        decode_clip(encode_clip(make_clip(), fingerprint="f") + b"\0", key=KEY)


def test_a_body_above_the_cap_is_refused_from_its_header(make_clip):
    blob = bytearray(encode_clip(make_clip(), fingerprint="f"))
    blob[16:24] = (1 << 40).to_bytes(8, "little")
    with pytest.raises(CorruptValue, match="cap"):
        decode_clip(bytes(blob), key=KEY)


def sealed(batch, key=KEY, version=1, **options):
    """A record with a valid digest around a stream that was made by hand."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, **options) as writer:
        writer.write_batch(batch)
    return envelope.seal(sink.getvalue().to_pybytes(), key, version)


@pytest.fixture
def batch(make_clip):
    """A right batch, to be made wrong."""
    blob = encode_clip(make_clip(), fingerprint="f")
    return read_batch(pa.py_buffer(record_body(blob, key=KEY)), KEY)


def replaced(batch, name, array, **changes):
    columns = [array if n == name else batch.column(n) for n in batch.schema.names]
    fields = [
        pa.field(n, c.type, nullable=False, **(changes if n == name else {}))
        for n, c in zip(batch.schema.names, columns, strict=True)
    ]
    return pa.record_batch(columns, schema=pa.schema(fields, metadata=batch.schema.metadata))


def test_the_hand_made_record_is_accepted_when_nothing_is_wrong(batch):
    assert decode_clip(sealed(batch), key=KEY).clip.index == 0


def test_a_column_too_many_is_refused(batch):
    wide = batch.append_column("more", pa.array([1] * 5))
    with pytest.raises(SchemaMismatch, match="columns are"):
        decode_clip(sealed(wide), key=KEY)


def test_a_column_of_another_type_is_refused(batch):
    wrong = replaced(batch, "mass", batch.column("mass").cast(pa.float64()))
    with pytest.raises(SchemaMismatch):
        decode_clip(sealed(wrong), key=KEY)


def test_a_registered_extension_type_is_refused(batch):
    storage = batch.column("kind").cast(pa.int8())
    wrong = replaced(batch, "kind", pa.ExtensionArray.from_storage(pa.bool8(), storage))
    with pytest.raises(SchemaMismatch, match="extension"):
        decode_clip(sealed(wrong), key=KEY)


def test_the_metadata_of_an_unknown_extension_type_is_refused(batch):
    metadata = {"ARROW:extension:name": "evil", "ARROW:extension:metadata": "gASV"}
    wrong = replaced(batch, "kind", batch.column("kind"), metadata=metadata)
    with pytest.raises(SchemaMismatch):
        decode_clip(sealed(wrong), key=KEY)


def test_a_dictionary_column_is_refused(batch):
    wrong = replaced(batch, "mass", batch.column("mass").dictionary_encode())
    with pytest.raises((CorruptValue, SchemaMismatch)):
        decode_clip(sealed(wrong), key=KEY)


def test_nulls_are_refused(batch):
    mass = pa.array([1.0, None, 1.0, 1.0, 1.0], pa.float32())
    columns = [mass if n == "mass" else batch.column(n) for n in batch.schema.names]
    wrong = pa.RecordBatch.from_arrays(columns, schema=batch.schema)
    with pytest.raises(CorruptValue):
        decode_clip(sealed(wrong), key=KEY)


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_compressed_batch_is_refused_before_it_inflates(batch, codec):
    zeros = pa.array(np.zeros(5, np.float32))
    blob = sealed(replaced(batch, "mass", zeros), options=pa.ipc.IpcWriteOptions(compression=codec))
    with pytest.raises(CorruptValue, match="compressed"):
        decode_clip(blob, key=KEY)


def test_a_deeply_nested_schema_is_refused(batch):
    nested = pa.int8()
    for _ in range(60):
        nested = pa.list_(nested)
    wrong = replaced(batch, "kind", pa.nulls(5, nested))
    with pytest.raises((CorruptValue, SchemaMismatch)):
        decode_clip(sealed(wrong), key=KEY)


@pytest.mark.parametrize("length", [1 << 31, 1 << 40, (1 << 63) - 1, -1])
@pytest.mark.parametrize("claim", [5, 80])
def test_lengths_beyond_the_body_are_refused(batch, claim, length):
    """5 is the number of rows, 80 the bytes of the token buffer."""
    body = sealed(batch)[envelope.HEADER_BYTES :]
    right, wrong = struct.pack("<q", claim), struct.pack("<q", length)
    assert right in body
    with pytest.raises(CorruptValue, match="not the Arrow stream of a clip"):
        decode_clip(envelope.seal(body.replace(right, wrong), KEY), key=KEY)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("aot.epoch", "1"),
        ("aot.num_tokens", "6"),
        ("aot.version", "2"),
        ("aot.version", "x"),
        ("aot.pts_s", "[" * 100_000),
        ("aot.pts_s", "[NaN]"),
        ("aot.grid", "2x3x4"),
        ("aot.dtype", "int8"),
        ("aot.stats", "{}"),
        ("aot.coverage", "1.00"),
        ("aot.extra", "1"),
        ("aot.stream", "../x"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(batch, key, value):
    wrong = batch.replace_schema_metadata({**batch.schema.metadata, key.encode(): value})
    with pytest.raises((CorruptValue, SchemaMismatch)):
        decode_clip(sealed(wrong), key=KEY)


def test_missing_metadata_is_refused(batch):
    with pytest.raises(SchemaMismatch, match="for dtype ''"):
        decode_clip(sealed(batch.replace_schema_metadata(None)), key=KEY)


def test_values_out_of_range_are_refused(batch):
    wrong = replaced(batch, "frame", pa.array([0, 1, 2, 3, 4], pa.int16()))
    with pytest.raises(CorruptValue, match="frame runs from 0 to 4"):
        decode_clip(sealed(wrong), key=KEY)


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x7F81])
def test_token_bits_that_are_not_finite_are_refused(batch, bits):
    values = batch.column("token").flatten().to_numpy().copy()
    values[11] = bits
    kind = batch.schema.field("token").type
    array = pa.FixedSizeListArray.from_arrays(pa.array(values), type=kind)
    with pytest.raises(CorruptValue, match="NaN or infinity"):
        decode_clip(sealed(replaced(batch, "token", array)), key=KEY)


def test_a_body_that_is_no_arrow_stream_is_refused():
    for body in (b"", b"\0" * 64, b"\xff\xff\xff\xff\xff\xff\xff\x7f" + b"x" * 64):
        with pytest.raises(CorruptValue, match="not the Arrow stream of a clip"):
            decode_clip(envelope.seal(body, KEY), key=KEY)


def test_equal_clips_in_another_layout_are_the_same_content(batch, make_clip):
    blob = encode_clip(make_clip(), fingerprint="f")
    other = sealed(
        batch, options=pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4)
    )
    assert other != blob
    assert same_content(blob, other, key=KEY)
    third = encode_clip(make_clip(seed=1), fingerprint="f")
    assert not same_content(blob, third, key=KEY)


def test_the_metadata_of_the_schema_is_what_describe_says(make_clip, batch):
    text = to_text(describe(make_clip(), fingerprint="f", dtype="bf16"))
    assert {k.encode(): v.encode() for k, v in text.items()} == batch.schema.metadata
    assert batch.schema.remove_metadata() == record_schema("bf16", 8)


MANY_WRITERS = """
import pyarrow as pa, threading
from pathlib import Path
from pipeline.store import arrow

def anonymous_kb():
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(text.partition("Anonymous:")[2].split()[0])

def write():
    sink = pa.BufferOutputStream()
    sink.write(bytes(10_000))
    sink.getvalue()
    wrote.wait(60)
    done.wait(60)

arrow.share_one_heap()
wrote, done = threading.Barrier(101), threading.Event()
threads = [threading.Thread(target=write) for _ in range(100)]
before = anonymous_kb()
for thread in threads:
    thread.start()
wrote.wait(60)
print(anonymous_kb() - before)
done.set()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_hundred_threads_that_write_records_share_one_heap():
    """A stack and some kB each; Arrow's own allocator takes 1 MB for each of them besides."""
    done = subprocess.run(
        [sys.executable, "-c", MANY_WRITERS], capture_output=True, text=True, timeout=100
    )
    assert int(done.stdout) < 40_000, done.stderr
