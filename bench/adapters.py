"""`aot bench adapters`: what each family's adapter costs over transformers' own tower.

Both get the same frames and give the same tokens. The bare tower is given normalised pixels; the
adapter starts from bytes, and sums the attention received in two layers beside. Times are CPU time
of the thread, all in turn in every round; ratios are medians of the rounds' own. Memory is the rise
of the resident high-water mark of a fresh process during one clip (weights are not in it).

Towers have their published widths and fewer layers, as the two layers whose attention is read then
weigh more: what is shown is dearer than the whole tower, which `layers=0` runs.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.facts import measured_commit, processor, rise_mb
from bench.random_families import PIXEL_MEAN, RANDOM_FAMILIES, RandomFamily
from workers.models import VisionEncoder, open_vision_encoder

LAYERS = 8
FRAMES = 2
GOAL = 1.05


def run(
    *,
    families: str = "",
    layers: int = LAYERS,
    frames: int = FRAMES,
    rounds: int = 5,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """All figures, keyed as in the line of JSON.

    Args:
        families: `model_type`s, with commas; all without it.
        layers: of each tower, 0 for all that it has.
        frames: of the clip, even.
        rounds: after one that warms up.
    """
    chosen = [f for f in RANDOM_FAMILIES if f.name in (families.split(",") if families else NAMES)]
    result: dict[str, Any] = {"bench": "adapters", "layers": layers, "frames": frames}
    on_progress(f"{'family':<16} {'bare':>9} {'adapter':>9} {'time':>7} {'at once':>8} "
                f"{'bare':>8} {'adapter':>8} {'memory':>7}")  # fmt: skip
    for family in chosen:
        figures = measure_family(family, layers or family.depth, frames, rounds)
        result |= {f"{name}_{family.name}": value for name, value in figures.items()}
        on_progress(format_family(family.name, figures))
    return result | {
        "time_ratio": max(result[f"time_ratio_{family.name}"] for family in chosen),
        "memory_ratio": max(result[f"memory_ratio_{family.name}"] or 0.0 for family in chosen),
        "goal": GOAL,
        "rounds": rounds,
        "commit": measured_commit(),
        "device": processor(),
        "dtype": "float32",
        "torch": torch.__version__,
    }


NAMES = [family.name for family in RANDOM_FAMILIES]


def format_family(name: str, figures: dict[str, Any]) -> str:
    """A row of the table."""
    return (
        f"{name:<16} {figures['bare_ms']:>6.0f} ms {figures['adapter_ms']:>6.0f} ms "
        f"{figures['time_ratio']:>6.3f}x {figures['at_once_ratio']:>7.3f}x "
        f"{figures['bare_mb'] or nan:>5.0f} MB {figures['adapter_mb'] or nan:>5.0f} MB "
        f"{figures['memory_ratio'] or nan:>6.3f}x"
    )


def measure_family(family: RandomFamily, layers: int, frames: int, rounds: int) -> dict[str, Any]:
    """Time and memory of one family's adapter and of its bare tower."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / family.name
        folder.mkdir()
        family.write(folder, layers)
        peaks = {kind: peak_mb(folder, kind, frames) for kind in ("bare", "adapter")}
        ways = open_ways(family, folder, frames)
        times, apart = compare(ways, rounds)
    ratios = [adapter / bare for bare, _, adapter in times]
    at_once = [adapter / whole for _, whole, adapter in times]
    bare_s, _, adapter_s = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "bare_ms": round(1000 * bare_s, 1),
        "adapter_ms": round(1000 * adapter_s, 1),
        "time_ratio": round(statistics.median(ratios), 4),
        "time_ratios": [round(ratio, 3) for ratio in ratios],
        "at_once_ratio": round(statistics.median(at_once), 4),
        **{f"{kind}_mb": peak for kind, peak in peaks.items()},
        "memory_ratio": _ratio(peaks["adapter"], peaks["bare"]),
        "tokens_apart": apart,
    }


def _ratio(one: float | None, other: float | None) -> float | None:
    return round(one / other, 4) if one and other else None


def open_ways(family: RandomFamily, folder: Path, frames: int) -> dict[str, Callable[[], Tensor]]:
    """The contestants, each from a clip to its tokens: the bare tower as many frames at a time as
    the adapter takes on a CPU, and all at once.
    """
    pixels, values = make_clip(family, frames)
    encoder, model = open_vision_encoder(folder), family.open_bare(folder)
    return {
        "bare": lambda: bare(family, model, values),
        "at once": lambda: family.bare(model, values),
        "adapter": lambda: encode(encoder, pixels),
    }


def bare(family: RandomFamily, model: Any, values: Tensor) -> Tensor:
    """Tokens by transformers alone."""
    return torch.cat([family.bare(model, part) for part in values.split(family.patch_frames)])


def encode(encoder: VisionEncoder, pixels: np.ndarray) -> Tensor:
    """Tokens by the adapter."""
    return encoder.encode(pixels).tokens


def make_clip(family: RandomFamily, frames: int) -> tuple[np.ndarray, Tensor]:
    """Frames of noise, as bytes `[t h w 3]` and normalised `[t 3 h w]`."""
    shape = (frames, *family.size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255).sub(PIXEL_MEAN[0])
    return pixels, values.mul(2).contiguous()


def compare(
    ways: dict[str, Callable[[], Tensor]], rounds: int
) -> tuple[list[tuple[float, ...]], float]:
    """CPU seconds of each, in turn, in every round after one that warms up; and the farthest that
    a number of the adapter's tokens lies from the bare tower's.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            apart = float((ways["bare"]() - ways["adapter"]()).abs().max())
            times = [tuple(_cpu_s(way) for way in ways.values()) for _ in range(rounds)]
    finally:
        torch.set_num_threads(threads)
    return times, apart


def peak_mb(folder: Path, kind: str, frames: int) -> float | None:
    """Most memory that a clip takes beside weights and pixels, in 10^6 bytes, in a fresh process
    (`rise_mb`), whose allocator gives large blocks back at once: what is measured is in use.
    """
    command = ["env", f"MALLOC_MMAP_THRESHOLD_={128 * 1024}", sys.executable, "-m"]
    command += ["bench.adapters", "--peak", str(folder), kind, str(frames)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _cpu_s(function: Callable[[], object]) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


def _measure_peak(folder: Path, kind: str, frames: int) -> float | None:
    """See `peak_mb`; runs in the fresh process."""
    torch.set_num_threads(1)
    family = next(family for family in RANDOM_FAMILIES if family.name == folder.name)
    pixels, values = make_clip(family, frames)
    if kind == "bare":
        model = family.open_bare(folder)
        _touch(model)
        return rise_mb(lambda: bare(family, model, values))
    encoder: Any = open_vision_encoder(folder)
    _touch(encoder._half)
    return rise_mb(lambda: encode(encoder, pixels))


def _touch(model: torch.nn.Module) -> None:
    """Read the weights, which lie in a mapped file until then: they are no memory of a clip."""
    for weight in model.parameters():
        weight.sum()


def main(arguments: list[str]) -> None:
    """The whole bench, or with `--peak` the fresh process of `peak_mb`."""
    if arguments[:1] == ["--peak"]:
        folder, kind, frames = arguments[1:]
        with torch.inference_mode():
            print(json.dumps(_measure_peak(Path(folder), kind, int(frames))))
        return
    given = dict(argument.split("=") for argument in arguments)
    numbers = {name: int(value) for name, value in given.items() if name != "families"}
    print(json.dumps(run(families=given.get("families", ""), **numbers, on_progress=print)))


if __name__ == "__main__":
    main(sys.argv[1:])
