"""Every wanted picture is there, at its time, or the record says why not: ffmpeg is the judge.

A table of container x codec x rate x start x damage; a few rows of it in every run, all of them
with the slow tests. `python -m tests.sweep FOLDER` does the same for files of one's own.
"""

import random
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from tests.sweep import check_file, why_not
from tests.videos import CASES, VideoSpec, write_video

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

CODECS = {
    "p": CASES["h264_closed_p"],
    "b": CASES["h264_closed_b"],
    "open": CASES["h264_open_gop"],
    "pyramid": CASES["h264_b_pyramid"],
    "hevc": CASES["hevc_closed"],
    "cra": CASES["hevc_open_cra_rasl"],
    "vp9": CASES["vp9"],
    "mpeg4": CASES["mpeg4_avi_b"],
    "mpeg2": CASES["mpeg2_ts"],
    "mjpeg": CASES["mjpeg_avi"],
}
CONTAINERS = {
    ".mp4": "p b open pyramid hevc cra vp9 mpeg4 mpeg2",
    ".frag.mp4": "p b open hevc",
    ".mov": "b mpeg4 mjpeg",
    ".mkv": "p b open pyramid hevc cra vp9 mpeg4 mpeg2 mjpeg",
    ".ts": "p b open pyramid hevc cra mpeg2 mpeg4",
    ".avi": "p b mpeg4 mjpeg",
    ".flv": "p b",
}
RATES = ("1/10", "1/4", "1/2", "1", "2", "5", "15", "25", "30000/1001", "60", "120", "240", "vary")
ENCODABLE = {"mpeg2": ("25", "30000/1001", "60"), "mpeg4": RATES[:-1]}
"""Rates of encoders that do not take all of them."""
STARTS_S = (0, 1.372, 36_000)
DAMAGES = ("none", "cut", "zeroed", "packets")


@dataclass(frozen=True)
class Row:
    """One file of the table."""

    container: str
    codec: str
    rate: str
    start_s: float
    damage: str

    def __str__(self) -> str:
        rate = self.rate.replace("/", "over")
        return f"{self.codec}-{rate}-{self.start_s}-{self.damage}{self.container}"

    def write(self, folder: Path) -> Path:
        path = write_video(folder / str(self), self._spec())
        data = bytearray(path.read_bytes())
        if self.damage == "cut":
            del data[len(data) * 7 // 10 :]
        elif self.damage == "zeroed":
            middle = len(data) // 2
            data[middle : middle + 600] = bytes(600)
        elif self.damage == "packets":
            middle = len(data) // 188 // 2 * 188
            del data[middle : middle + 188 * 5]
        path.write_bytes(data)
        return path

    def _spec(self) -> VideoSpec:
        spec, vary = CODECS[self.codec], self.rate == "vary"
        fps = Fraction(25 if vary else self.rate)
        frames = 45 if vary else min(400, max(45, int(3 * fps)))
        mux = {}
        if self.container == ".frag.mp4":
            mux = {"movflags": "+frag_keyframe+empty_moov+default_base_moof"}
        elif self.container in (".mp4", ".mov") and self.damage != "none":
            mux = {"movflags": "+faststart"}
        return VideoSpec(
            suffix=self.container,
            codec=spec.codec,
            frames=frames,
            fps=fps,
            width=64,
            height=64,
            gop=spec.gop,
            b_frames=spec.b_frames,
            pix_fmt=spec.pix_fmt,
            options=spec.options,
            times_s=_vary(frames) if vary else None,
            offset=int(self.start_s * 90_000),
            mux_options=mux,
        )


def _vary(frames: int) -> list[float]:
    """Steps of 40 ms to 12 s, as of a screen that changes now and then."""
    steps_s = np.random.default_rng(1).choice(
        [0.04, 0.1, 0.5, 1.5, 4, 12], frames, p=[0.3, 0.2, 0.2, 0.15, 0.1, 0.05]
    )
    steps_s[0] = 0
    return [float(t) for t in np.cumsum(steps_s).round(3)]


def _rows() -> list[Row]:
    rows = [
        Row(container, codec, rate, start_s, damage)
        for container, codecs in CONTAINERS.items()
        for codec in codecs.split()
        for rate in RATES
        for start_s in STARTS_S
        for damage in DAMAGES
        if (start_s == 0 or container != ".avi")  # AVI counts from its first picture
        and (damage != "packets" or container == ".ts")
        and (damage == "none" or (start_s == 0 and rate in ("1", "25", "vary")))
        and (start_s < 36_000 or rate in ("1/4", "1", "25", "vary"))
        # Times of pictures that vary and are reordered are not to be had from AVI.
        and (container, codec, rate) != (".avi", "b", "vary")
        and rate in ENCODABLE.get(codec, RATES)
    ]
    random.Random(18).shuffle(rows)
    return rows


ROWS = _rows()
EVERY_RUN = 24


@pytest.mark.parametrize("row", ROWS[:EVERY_RUN], ids=str)
def test_nothing_is_lost_without_a_word(tmp_path: Path, row: Row):
    finding = check_file(row.write(tmp_path), content=row.damage == "none")
    assert finding.problems == []
    assert finding.shown > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(4))
def test_nothing_is_lost_anywhere_in_the_table(tmp_path: Path, part: int):
    problems = {}
    for row in islice(ROWS, part, None, 4):
        path = row.write(tmp_path)
        finding = check_file(path, content=row.damage == "none")
        if finding.problems:
            problems[str(row)] = finding.problems
        path.unlink()
    assert problems == {}


CASES_SHARED = {
    "mjpeg_exif.avi": 4,
    "mkv_1fps_bframes.mkv": 139,
    "mkv_screen_vfr_bframes.mkv": 69,
    "mkv_segment_keeps_time.mkv": 6,
    "real_iibbibb_editlist.mp4": 12,
    "real_mvhevc_spatial.mov": 1,
    "slides_vfr.mp4": 201,
}
"""Samples at one a second of files that were read wrongly once."""


@pytest.mark.parametrize("name", CASES_SHARED)
def test_a_file_that_was_read_wrongly_is_read_as_ffmpeg_shows_it(shared: Path, name: str):
    finding = check_file(shared / "cases" / name)
    assert finding.problems == []
    assert finding.frames == CASES_SHARED[name]
    assert "[complete, 1 epochs, 0 damaged]" in finding.note


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_real_footage_is_read_as_ffmpeg_shows_it(shared: Path):
    findings = [check_file(path) for path in sorted((shared / "videos").glob("*.m*"))]
    assert {f.path.name: f.problems for f in findings if f.problems} == {}
    assert len(findings) >= 7
