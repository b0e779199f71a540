"""Wall times of a playlist's segments, and which one is read."""

import pytest

from workers.decode.hls import ProgramClock, time_segments

URL = "http://cam/live/index.m3u8"
TIME = "#EXT-X-PROGRAM-DATE-TIME:2026-08-31T14:00:00.000+02:00"
AT_TIME_S = 1_788_177_600.0


def playlist(*lines):
    return "\n".join(("#EXTM3U", "#EXT-X-TARGETDURATION:4", *lines))


def times(*lines):
    return {url.rpartition("/")[2]: wall for url, wall in time_segments(URL, playlist(*lines))}


def test_a_time_counts_for_its_segment_and_those_around_it():
    found = times("#EXTINF:4,", "a.ts", TIME, "#EXTINF:3.5,", "b.ts", "#EXTINF:4,", "c.ts")

    assert found == {"a.ts": AT_TIME_S - 4, "b.ts": AT_TIME_S, "c.ts": AT_TIME_S + 3.5}


def test_a_later_time_corrects_what_lengths_say():
    later = TIME.replace("00.000", "05.250")
    found = times(TIME, "#EXTINF:4,", "a.ts", later, "#EXTINF:4,", "b.ts", "#EXTINF:4,", "c.ts")

    assert found == {"a.ts": AT_TIME_S, "b.ts": AT_TIME_S + 5.25, "c.ts": AT_TIME_S + 9.25}


def test_nothing_is_told_across_a_discontinuity():
    found = times(
        TIME, "#EXTINF:4,", "a.ts", "#EXT-X-DISCONTINUITY", "#EXTINF:4,", "b.ts", "#EXTINF:4,", "c"
    )

    assert found == {"a.ts": AT_TIME_S, "b.ts": None, "c": None}


@pytest.mark.parametrize("time", ["2026-08-31T14:00:00", "yesterday", ""])
def test_a_time_without_a_zone_or_that_is_none_is_not_taken(time):
    assert times(f"#EXT-X-PROGRAM-DATE-TIME:{time}", "#EXTINF:4,", "a.ts") == {"a.ts": None}


@pytest.mark.parametrize(
    "text", [b"#EXTM3U", b"\xff\xfe#EXTINF:nan\n\n#EXTINF:,\nx", b"#EXTINF:-1,\na"]
)
def test_what_is_no_sound_playlist_tells_nothing(text):
    clock = ProgramClock()
    clock.read_playlist(URL, text)
    clock.open_url("http://cam/live/a")

    assert clock.wall_s is None


def test_the_first_segment_and_the_last_one_that_was_opened_are_known():
    clock = ProgramClock()
    text = playlist(TIME, "#EXTINF:4,", "a.ts", "#EXTINF:4,", "b.ts", "#EXTINF:4,", "c.ts")
    clock.read_playlist(URL, text.encode())
    for url in (URL, "http://cam/live/b.ts", "http://cam/live/key", "http://cam/live/c.ts"):
        clock.open_url(url)

    assert (clock.first_wall_s, clock.wall_s) == (AT_TIME_S + 4, AT_TIME_S + 8)
