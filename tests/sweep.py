"""Reads videos through the product and through ffmpeg, and says where they differ.

    python -m tests.sweep FOLDER        one line a file, then a summary; 1 where anything was lost
                                        in silence or the product failed

What is held: every picture that ffmpeg shows at a sampled time is there, at its time and with its
content, or the record says why not (a gap, damage, a source that ended early). ffmpeg's command
line is another build and another version, and shares no code with the reader's clocks and plans.
"""

import json
import shutil
import subprocess
import sys
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from workers.decode.reader import VideoReader
from workers.decode.report import DecodeReport, VideoInfo
from workers.errors import SourceError
from workers.types import Frame, PixelFormat, VideoSource, is_gap

SIDE = 8
"""Pictures are compared as squares of so many gray blocks a side."""
LOOK = PixelFormat(height=64, width=64)
TURN_S = 2**33 / 90_000
"""After which the clock of MPEG streams begins anew."""
MAX_DIFFERENCE = 14.0
"""Mean difference of two looks at one picture, of 255: other scalers, other colour matrices."""


@dataclass
class Finding:
    """What became of one file."""

    path: Path
    frames: int = 0
    shown: int = 0
    """Pictures that ffmpeg shows."""
    problems: list[str] = field(default_factory=list)
    """What was lost in silence, or shown wrongly."""
    internal: str | None = None
    """An error that is no error of a source: a fault of the product."""
    refused: str | None = None
    """It was refused, with an error that says why, and ffmpeg shows something of it."""
    note: str = ""

    def __str__(self) -> str:
        told = [text for text in (self.internal, self.refused) if text is not None]
        verdict = "; ".join([*told, *self.problems]) or "ok"
        return f"{self.path.name}: {self.frames} of {self.shown} shown {self.note} {verdict}"


def why_not() -> str | None:
    """Why nothing can be compared here."""
    missing = [name for name in ("ffmpeg", "ffprobe") if shutil.which(name) is None]
    return f"no {' and no '.join(missing)} on this machine" if missing else None


def check_file(path: Path, *, fps: float = 1.0, content: bool = True) -> Finding:
    """Compare a file's samples with what ffmpeg shows of it."""
    finding = Finding(path)
    try:
        with VideoReader(VideoSource(str(path), "sweep", fps=fps), LOOK) as reader:
            info = reader.info
            frames = list(reader)
            report = reader.report
    except SourceError as error:
        finding.note = f"[{error.code}]"
        finding.shown = len(shown_times(path, "v", 0.0))
        if finding.shown > 1 and error.code in ("NoFrames", "NoKeyframe", "NoVideoStream"):
            finding.refused = f"refused as {error.code}, ffmpeg shows it"
        return finding
    finding.frames = len(frames)
    finding.note = f"[{report.end}, {report.epochs} epochs, {report.damaged_frames} damaged]"
    times_s = shown_times(path, info.track, info.start_s)
    if info.container in ("mpeg", "mpegts"):
        times_s = in_the_same_turn(times_s)
    finding.shown = len(times_s)
    if not times_s:
        finding.note += " ffmpeg shows nothing"
    elif report.epochs > 1:
        finding.problems += check_epochs(frames, times_s)
    else:
        finding.problems += check_times(frames, report, times_s, fps, _slack_s(info, times_s))
        if content and report.is_sound:  # each decoder hides damage in its own way
            finding.problems += check_content(path, info.track, frames, times_s)
    return finding


def check_times(
    frames: list[Frame],
    report: DecodeReport,
    times_s: list[float],
    fps: float,
    slack_s: float,
) -> list[str]:
    """Samples that no picture of ffmpeg's explains, and pictures of its that no sample shows."""
    if not frames:
        return ["no frame came"]
    problems, interval_s = [], 1 / fps
    for frame in frames:
        at = bisect_right(times_s, frame.pts_s + slack_s) - 1
        own = at >= 0 and frame.pts_s - times_s[at] <= slack_s
        held = at >= 0 and (frame.end_s or 0.0) > frame.pts_s
        if not own and not held and report.is_sound:
            problems.append(f"nothing is shown at {frame.pts_s:.3f} s")
    sampled = {int((f.pts_s + 0.0011) * fps) for f in frames}
    lost = [
        t
        for t in times_s
        if t >= 0 and int((t + 0.0011) * fps) not in sampled and not _explained(t, frames, report)
    ]
    if lost:
        problems.append(f"{len(lost)} pictures lost, from {lost[0]:.3f} s on")
    for before, after in pairwise(frames):
        end_s = max(before.pts_s + interval_s, before.end_s or 0.0)
        if is_gap(after.pts_s - end_s + interval_s, interval_s) and after.gap is None:
            problems.append(f"a gap before {after.pts_s:.3f} s without a reason")
        is_told = after.gap is not None or before.damaged or after.damaged
        if is_gap(after.pts_s - before.pts_s, interval_s) and not is_told:
            problems.append(f"no sample between {before.pts_s:.3f} and {after.pts_s:.3f} s")
    return problems[:4]


def _slack_s(info: VideoInfo, times_s: list[float]) -> float:
    """How far times may be apart: a tick of Matroska; more where the container has none of its own.

    AVI counts pictures in decode order. ffmpeg shows its first ones late where B-frames are.
    """
    if info.container != "avi" or len(times_s) < 3:
        return 0.002
    return 4 * float(np.median(np.diff(times_s)))


def _explained(time_s: float, frames: list[Frame], report: DecodeReport) -> bool:
    """Whether the record says why the picture at a time is not there."""
    if time_s > frames[-1].pts_s and report.end != "complete":
        return True
    following = next((f for f in frames if f.pts_s > time_s), None)
    if following is None:
        return report.end != "complete"
    near = following.pts_s - time_s < 3.0 and report.damaged_packets > 0
    return following.gap is not None or following.damaged or near


def in_the_same_turn(times_s: list[float]) -> list[float]:
    """Times of a 33-bit clock that ffprobe counts from one turn of it and the reader from another.

    Of MPEG program streams ffprobe takes a clock near its end for one before its beginning.
    """
    turns = round(times_s[0] / TURN_S) if times_s else 0
    return [time_s - turns * TURN_S for time_s in times_s]


def check_epochs(frames: list[Frame], times_s: list[float]) -> list[str]:
    """Of several epochs only how long they are together: ffmpeg knows none."""
    steps = [b - a for a, b in pairwise(times_s) if 0 < b - a < 600]
    length_s = sum(steps)
    ours_s = frames[-1].pts_s - frames[0].pts_s
    return [] if ours_s > length_s - 5 else [f"{ours_s:.0f} of {length_s:.0f} s in its epochs"]


def check_content(path: Path, track: int, frames: list[Frame], times_s: list[float]) -> list[str]:
    """Samples that do not look like the picture ffmpeg shows at their time."""
    looks = ffmpeg_looks(path, track)
    if len(looks) != len(times_s):
        return []  # ffmpeg repeated or dropped pictures: not to be told apart by number
    wrong = []
    for frame in frames:
        at = bisect_right(times_s, frame.pts_s + 0.002) - 1
        if frame.damaged or at < 0:
            continue
        near = looks[max(0, at - 1) : at + 2]
        if np.abs(near - look_at(frame.pixels)).mean(axis=(1, 2)).min() > MAX_DIFFERENCE:
            wrong.append(frame.pts_s)
    return [f"{len(wrong)} pictures look otherwise, from {wrong[0]:.3f} s on"] if wrong else []


def look_at(pixels: np.ndarray) -> np.ndarray:
    """f64[SIDE SIDE]: gray means of blocks."""
    gray = pixels.astype(np.float64) @ (0.299, 0.587, 0.114)
    height, width = gray.shape
    return gray.reshape(SIDE, height // SIDE, SIDE, width // SIDE).mean(axis=(1, 3))


def ffmpeg_looks(path: Path, track: int) -> np.ndarray:
    """f64[pictures SIDE SIDE] of all pictures ffmpeg gives."""
    scale = f"scale={SIDE}:{SIDE}:flags=area,format=gray"
    command = ["ffmpeg", "-v", "quiet", "-i", str(path), "-map", f"0:{track}", "-vsync", "0"]
    command += ["-vf", scale, "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    done = subprocess.run(command, capture_output=True, timeout=300, check=False)
    whole = len(done.stdout) // SIDE**2 * SIDE**2
    pictures = np.frombuffer(done.stdout[:whole], np.uint8)
    return pictures.reshape(-1, SIDE, SIDE).astype(np.float64)


def shown_times(path: Path, track: int | str, start_s: float) -> list[float]:
    """Times of the pictures that ffprobe shows, in its order, from the source's start on."""
    command = ["ffprobe", "-v", "quiet", "-select_streams", str(track), "-of", "json"]
    command += ["-show_entries", "frame=best_effort_timestamp_time", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    try:
        frames = json.loads(done.stdout or "{}").get("frames", [])
    except ValueError:  # ffprobe does not escape all that a broken file may hold
        return []
    stamps = [f.get("best_effort_timestamp_time") for f in frames]
    return [float(stamp) - start_s for stamp in stamps if stamp not in (None, "N/A")]


def main(folder: Path) -> int:
    if (reason := why_not()) is not None:
        print(f"nothing compared: {reason}")
        return 0
    findings = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            findings.append(check_file(path))
        except Exception as error:  # a fault of the product, which is what is looked for
            findings.append(Finding(path, internal=f"{type(error).__name__}: {error}"))
        print(findings[-1], flush=True)
    lost = sum(bool(f.problems) for f in findings)
    internal = sum(f.internal is not None for f in findings)
    refused = sum(f.refused is not None for f in findings)
    frames = sum(f.frames for f in findings)
    print(
        f"{len(findings)} files, {frames} frames: {internal} internal errors, {lost} with silent "
        f"losses or wrong pictures, {refused} refused that ffmpeg shows"
    )
    return 1 if lost or internal else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
