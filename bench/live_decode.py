"""What decoding a camera costs where few of its pictures are wanted: `python -m bench.live_decode`.

A generated 1080p camera, 25 pictures a second, H.264 with B-frames, a keyframe every one, two and
four seconds. CPU of `LiveDecoder`, which spares what lies between a sample and the next keyframe,
against bare PyAV that decodes every picture, both on one thread and with the wanted ones as RGB, in
turns in one run; medians of the rounds. Sampled are the same pictures.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.camera import iter_rgb, write_camera_clips
from bench.facts import measured_commit
from workers.decode.live import LiveDecoder
from workers.decode.track import open_track

RATE, GOPS, RATES_FPS = 25, (25, 50, 100), (1.0, 0.5)
SECONDS, LOOPS, ROUNDS = 8, 5, 3

Report = Callable[[str], None]


def run(
    *,
    rounds: int = ROUNDS,
    seconds: int = SECONDS,
    height: int = 1080,
    width: int = 1920,
    on_progress: Report = lambda _: None,
) -> dict[str, object]:
    """CPU seconds of a second of footage, by pictures from keyframe to keyframe and by rate."""
    figures: dict[str, object] = {"bench": "live_decode", "commit": measured_commit()}
    with tempfile.TemporaryDirectory(prefix="aot-bench-") as name:
        paths = write_camera_clips(
            Path(name), GOPS, seconds=seconds, loops=LOOPS, height=height, width=width
        )
        for gop, path in paths.items():
            for fps in RATES_FPS:
                pairs = [
                    (
                        _cpu_s(iter_rgb(path, every=round(RATE / fps))),
                        _cpu_s(_decode_live(path, fps)),
                    )
                    for _ in range(rounds)
                ]
                bare_s, live_s = (
                    statistics.median(each) / (seconds * LOOPS) for each in zip(*pairs, strict=True)
                )
                figures[f"gop_{gop}_at_{fps:g}"] = [round(bare_s, 4), round(live_s, 4)]
                on_progress(
                    f"a keyframe in {gop / RATE:g} s, {fps:g} fps: {1e3 * bare_s:.0f} ms of CPU a "
                    f"second decoding all, {1e3 * live_s:.0f} ms live"
                )
    return figures


def _cpu_s(pictures: Iterator[object]) -> float:
    began_s = time.process_time()
    for _ in pictures:
        pass
    return time.process_time() - began_s


def _decode_live(path: Path, fps: float) -> Iterator[object]:
    with open_track(str(path), roots=(path.parent,)) as track:
        yield from LiveDecoder(track, fps=fps).pictures()


if __name__ == "__main__":
    print(json.dumps(run(on_progress=lambda line: print(line, file=sys.stderr))))
