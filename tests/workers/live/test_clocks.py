"""What a source says of the time of day comes with its pictures: RTSP's reports, HLS's dates."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.videos import read_index, split_video, write_video
from tests.workers.live.web import serve_http
from workers.live.process import DecoderProcess

FPS, SEGMENT_S = 10, 2.0


def test_an_rtsp_senders_report_places_a_picture_to_the_frame(camera, request_for):
    with DecoderProcess(request_for(camera.url)) as decoder:
        pictures = [picture for picture, _ in zip(decoder, range(30), strict=False)]

    late_s = [p.arrived_s - p.sent_s for p in pictures[15:] if p.sent_s is not None]
    assert len(late_s) == 15
    # A packet is known to be whole with the next one's first: one frame later.
    assert min(late_s) == pytest.approx(1 / FPS, abs=0.05)


@pytest.fixture(scope="module")
def segments(tmp_path_factory):
    """Segments of 2 s; the clock of the last two begins anew."""
    folder = tmp_path_factory.mktemp("hls")
    first = write_video(folder / "first.ts", frames=60, fps=FPS, gop=20)
    later = write_video(folder / "later.ts", frames=40, fps=FPS, gop=20)
    return [
        path.read_bytes()
        for whole in (first, later)
        for path in split_video(whole, folder / whole.stem, "%03d.ts", keep_times=True)
    ]


def serve_playlist(segments, tags):
    """An address whose playlist has these lines before its segments."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", f"#EXT-X-TARGETDURATION:{SEGMENT_S:.0f}"]
    for number in range(len(segments)):
        lines += [*tags.get(number, ()), f"#EXTINF:{SEGMENT_S},", f"{number}.ts"]
    text = "\n".join([*lines, "#EXT-X-ENDLIST", ""]).encode()

    def answer(request):
        name = Path(request.path).name
        body = text if name == "live.m3u8" else segments[int(Path(name).stem)]
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return serve_http(answer)


def date(unix_s):
    return f"#EXT-X-PROGRAM-DATE-TIME:{datetime.fromtimestamp(unix_s, UTC).isoformat()}"


def read(segments, tags, request_for):
    with (
        serve_playlist(segments, tags) as url,
        DecoderProcess(request_for(f"{url}/live.m3u8")) as decoder,
    ):
        return list(decoder)


def test_a_playlists_dates_place_its_pictures_in_each_epoch(segments, request_for):
    now_s = round(time.time()) - 20.0
    tags = {0: [date(now_s)], 3: ["#EXT-X-DISCONTINUITY", date(now_s + 7.5)]}

    pictures = read(segments, tags, request_for)

    assert [read_index(picture.rgb) for picture in pictures] == [*range(60), *range(40)]
    expected = [now_s + i / FPS for i in range(60)] + [now_s + 7.5 + i / FPS for i in range(40)]
    assert [picture.sent_s for picture in pictures] == pytest.approx(expected, abs=1e-3)
    assert [picture.epoch for picture in pictures] == [0] * 60 + [1] * 40


def test_without_dates_nothing_is_told(segments, request_for):
    pictures = read(segments[:2], {}, request_for)

    assert {picture.sent_s for picture in pictures} == {None}


def test_a_date_before_a_break_says_nothing_of_what_is_behind_it(segments, request_for):
    tags = {0: [date(time.time())], 3: ["#EXT-X-DISCONTINUITY"]}

    pictures = read(segments, tags, request_for)

    assert {picture.sent_s for picture in pictures if picture.epoch == 1} == {None}
