"""What is known of streams, rows that cannot be."""

import dataclasses

import pytest

from pipeline.values.errors import InvalidRecord
from pipeline.values.types import ClipSpan, Gap, StreamInfo


def test_a_stream_info_never_holds_credentials():
    assert StreamInfo("a", "rtsp://u:pw@h/1", "m", "f").source == "rtsp://h/1"
    known = StreamInfo("a", "x", "m", "f", "failed", "SourceRefused: rtsp://u:p/w@h/1: got it")
    assert known.error == "SourceRefused: rtsp://h/1: got it"


@pytest.mark.parametrize("change", [{"stream_id": "a/b"}, {"status": "gone"}])
def test_a_stream_info_that_cannot_be_is_refused(change):
    with pytest.raises(InvalidRecord):
        dataclasses.replace(StreamInfo("a", "x", "m", "f"), **change)


@pytest.mark.parametrize(
    ("start_s", "end_s"), [(2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))]
)
def test_a_gap_that_cannot_be_is_refused(start_s, end_s):
    with pytest.raises(InvalidRecord, match="expected finite times"):
        Gap("a", 0, start_s, end_s, "paused")


@pytest.mark.parametrize(
    ("start_s", "end_s", "overlaps"),
    [
        (None, None, True),
        (4, 8, True),
        (8, 9, False),
        (0, 4, False),
        (7.9, None, True),
        (5, 5.1, True),
    ],
)
def test_a_span_overlaps_a_half_open_range(start_s, end_s, overlaps):
    assert ClipSpan("a", 0, 1, 4.0, 8.0, 5, 100).overlaps(start_s, end_s) is overlaps
