"""Live decoding spares what no sample needs, and samples what decoding everything would."""

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from workers.decode.live import LiveDecoder
from workers.decode.sampling import Sampler, SamplingGrid
from workers.decode.track import open_track

RATE = 10
CODECS = {
    "h264": ("libx264", {"preset": "ultrafast"}),
    "h264 with B-frames": ("libx264", {"preset": "ultrafast", "bf": "2", "b-pyramid": "none"}),
    "h264 with open GOPs": ("libx264", {"bf": "2", "x264-params": "open-gop=1"}),
    "h264 refreshed in turn": ("libx264", {"x264-params": "intra-refresh=1"}),
    "hevc": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none:open-gop=0"}),
    "hevc with open GOPs": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none"}),
    "vp8": ("libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    "mjpeg": ("mjpeg", {}),
}
SPARED = {"h264", "h264 with B-frames", "hevc", "vp8", "mjpeg"}
"""Of which keyframes prove that nothing reaches over them."""


def write(path, codec, gop, *, pictures=80, skipped=()):
    name, options = CODECS[codec]
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 255, (64, 96 + pictures, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(name, rate=RATE, options=dict(options))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        if name == "mjpeg":
            stream.pix_fmt = "yuvj420p"
        stream.codec_context.gop_size = gop
        for number in range(pictures):
            if number in skipped:
                continue
            rgb = np.ascontiguousarray(noise[:, number : number + 96])
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read(path, fps):
    with open_track(str(path), roots=(path.parent,)) as track:
        decoder = LiveDecoder(track, fps=fps)
        pictures = [(p.media_s, p.damaged, p.rgb.tobytes()) for p in decoder.pictures()]
        return pictures, decoder.tally, track.time_base


def sample(pictures, fps):
    """Of all pictures those that a rate takes, by their times alone."""
    base = Fraction(1, 1000)
    sampler = Sampler(SamplingGrid(base, 0, fps))
    return [one for one in pictures if sampler.take(round(one[0] * 1000))]


@pytest.mark.parametrize("gop", [5, 10, 13])
@pytest.mark.parametrize("codec", CODECS)
def test_samples_are_those_of_all_pictures(tmp_path, codec, gop):
    path = write(tmp_path / "camera.mkv", codec, gop)
    every, all_tally, _ = read(path, None)
    assert all_tally.spared == 0
    for fps in (0.5, 1.0, 2.0, 3.0):
        assert read(path, fps)[0] == sample(every, fps)


@pytest.mark.parametrize("codec", CODECS)
def test_what_lies_between_a_sample_and_a_keyframe_is_spared(tmp_path, codec):
    path = write(tmp_path / "camera.mkv", codec, 10)
    _, tally, _ = read(path, 1.0)
    came = tally.packets - tally.before_keyframe
    if codec in SPARED:
        assert tally.spared >= came // 2
        assert tally.spared + tally.decoded == came
    else:
        assert tally.spared == 0


def test_a_keyframe_that_does_not_come_costs_no_sample(tmp_path):
    """GOPs of a second, then one that is longer: what waited is decoded."""
    path = write(tmp_path / "camera.mkv", "h264", 10, skipped=range(41, 50))
    every, _, _ = read(path, None)
    for fps in (0.5, 1.0, 2.0):
        assert read(path, fps)[0] == sample(every, fps)


def test_a_picture_comes_as_often_as_keyframes_do(tmp_path):
    """However seldom one is wanted: by pictures a living source is told from a dead one."""
    path = write(tmp_path / "camera.mkv", "h264", 10)
    _, tally, _ = read(path, 0.1)
    assert tally.decoded >= 8


def test_under_overload_keyframes_alone_are_read_as_before(tmp_path):
    path = write(tmp_path / "camera.mkv", "h264", 10)
    with open_track(str(path), roots=(path.parent,)) as track:
        decoder = LiveDecoder(track, fps=2.0)
        seconds = []
        for picture in decoder.pictures():
            seconds.append(picture.media_s)
            if len(seconds) == 6:
                decoder.pace = "keyframes"
            if len(seconds) == 9:
                decoder.pace = "all"
    assert seconds[6:9] == [3.0, 4.0, 5.0]
    assert all(later > earlier for earlier, later in pairwise(seconds))
