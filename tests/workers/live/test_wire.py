"""What crosses between a decoder's process and its supervisor, byte by byte and slot by slot."""

import os
import threading

import numpy as np
import pytest

from workers.decode.live import Picture
from workers.live.slots import SLOT_BYTES, SLOTS, PictureSlots
from workers.live.wire import (
    MAX_HEAD_BYTES,
    Beat,
    Ended,
    MessageReader,
    MessageWriter,
    WireError,
)


@pytest.fixture
def slots():
    made = PictureSlots.create()
    yield made
    made.close()


def picture(seed, rows=6, columns=4):
    rgb = np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    return Picture(rgb, media_s=seed / 10, epoch=1, arrived_s=5.0, damaged=True, sent_s=None)


def written(slots, *messages):
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as there, os.fdopen(writing, "wb") as here:
        writer = MessageWriter(here, slots)
        for message in messages:
            writer.write(message)
        here.close()
        return there.read()


def head_of(text):
    return len(text).to_bytes(4, "little") + text


def test_messages_come_out_as_they_went_in_however_the_bytes_are_cut(slots):
    sent = [Beat(1, 2, 3, 4), picture(7), Ended("SourceBroken", "it broke")]
    reader, got = MessageReader(slots), []
    for byte in written(slots, *sent):
        reader.feed(bytes([byte]))
        got += iter(reader.take, None)

    assert (got[0], got[2]) == (sent[0], sent[2])
    assert isinstance(got[1], Picture)
    assert np.array_equal(got[1].rgb, sent[1].rgb)
    assert (got[1].media_s, got[1].epoch, got[1].damaged) == (0.7, 1, True)


@pytest.mark.parametrize("kept", [1, 2, 2 * SLOTS])
def test_pictures_that_are_kept_are_not_touched_by_those_that_follow(slots, kept):
    reader, held = MessageReader(slots), []
    for seed in range(kept + 3 * SLOTS):
        reader.feed(written(slots, picture(seed)))
        held = [*held, reader.take()][:kept]

    assert all(np.array_equal(one.rgb, picture(seed).rgb) for seed, one in enumerate(held))


def test_a_picture_may_be_kept_beyond_its_decoder():
    slots = PictureSlots.create()
    taken = slots.take(slots.put(picture(3).rgb), 6, 4)
    slots.close()
    assert np.array_equal(taken, picture(3).rgb)


def test_who_fills_slots_waits_for_who_looks_at_them(slots):
    filled = [slots.put(picture(seed).rgb) for seed in range(SLOTS)]
    waiting = threading.Thread(target=slots.put, args=(picture(9).rgb,), daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()

    looked_at = slots.take(filled[1], 6, 4)
    waiting.join(0.2)
    assert waiting.is_alive()

    del looked_at
    waiting.join(60)
    assert not waiting.is_alive()


def test_a_slot_is_not_read_twice_while_its_picture_is_held(slots):
    slot = slots.put(picture(1).rgb)
    held = slots.take(slot, 6, 4)
    with pytest.raises(ValueError, match="a second picture in slot"):
        slots.take(slot, 6, 4)
    assert np.array_equal(held, picture(1).rgb)


def test_the_other_side_cannot_take_the_memory_away(slots):
    with pytest.raises(PermissionError):
        os.ftruncate(slots.fds[0], 0)
    with pytest.raises(PermissionError):
        os.ftruncate(slots.fds[0], SLOTS * SLOT_BYTES + 1)


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"kind": "nothing"}',
        b'{"kind": "beat"}',
        b'{"kind": "picture", "slot": 3, "rows": 4, "columns": 4}',
        b'{"kind": "picture", "slot": -1, "rows": 4, "columns": 4}',
        b'{"kind": "picture", "slot": 0, "rows": 99999, "columns": 99999}',
        b'{"kind": "picture", "slot": 0, "rows": -4, "columns": -4}',
        b'{"kind": "picture", "slot": 0, "rows": 4, "columns": 4}',
    ],
)
def test_a_head_that_does_not_read_is_an_error_of_its_own(slots, text):
    reader = MessageReader(slots)
    reader.feed(head_of(text))
    with pytest.raises(WireError, match="got a head that does not read"):
        reader.take()


def test_a_head_without_an_end_is_refused_before_it_is_kept(slots):
    reader = MessageReader(slots)
    reader.feed((MAX_HEAD_BYTES + 1).to_bytes(4, "little"))
    with pytest.raises(WireError, match="expected at most"):
        reader.take()
