"""Credentials that must not be shown, rows that cannot be."""

import dataclasses

import pytest

from pipeline.errors import InvalidRecord
from pipeline.types import ClipSpan, Gap, StreamInfo, without_credentials


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://admin:pw@10.0.0.7:554/live/1", "rtsp://10.0.0.7:554/live/1"),
        ("rtsp://admin@cam/live", "rtsp://cam/live"),
        ("redis://:pw@h:6379/0", "redis://h:6379/0"),
        ("unix://user:pw@/run/redis.sock", "unix:///run/redis.sock"),
        ("unix:///run/redis.sock?password=pw&db=1", "unix:///run/redis.sock?password=***&db=1"),
        (
            "http://h/a.m3u8?channel=1&Access_Token=x#t",
            "http://h/a.m3u8?channel=1&Access_Token=***#t",
        ),
        ("rtsp://u:p/w@host/live", "rtsp://host/live"),
        ("rtsp://u:p?w#@host/live", "rtsp://host/live"),
        ("rtsp://u:p@w@host/live", "rtsp://host/live"),
        ("http://u:p@[::1/x", "http://[::1/x"),
        ("http://[::1]:80/@user", "http://[::1]:80/@user"),
        ("http://host:80/@user", "http://host:80/@user"),
        ("/videos/a@b.mp4", "/videos/a@b.mp4"),
        ("stream://lobby?start=1", "stream://lobby?start=1"),
    ],
)
def test_credentials_are_removed_and_nothing_else(url, shown):
    assert without_credentials(url) == shown


def test_a_stream_info_never_holds_credentials():
    assert StreamInfo("a", "rtsp://u:pw@h/1", "m", "f").source == "rtsp://h/1"


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
