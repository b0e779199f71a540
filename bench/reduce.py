"""What the reduction costs: against the reference's order of operations, and against the encoder.

`run` measures in one process on one thread, all contestants in turn in every round, by the CPU
time of the thread (the machine may be shared), and takes medians; `python -m bench.reduce`
prints a table and a last line of JSON. Peak memory is that of a fresh process, see `peak_mb`.

Where there is a CUDA card, its times follow (`bench.accelerator`).
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from aot import AOTConfig, ClipCompressor
from bench.accelerator import DIMS, measure_accelerator
from bench.baseline import reduce_in_reference_order
from bench.facts import measured_commit, processor, rise_mb
from bench.features import SIDE, make_features, split_clips
from bench.random_tower import KEPT_LAYERS, make_layer, make_query, run_layer
from workers.models.attention import attention_received

PROBED_LAYERS = 2


@dataclass(frozen=True)
class Timing:
    """Median CPU seconds of one pass over all frames."""

    dim: int
    ours_s: float
    baseline_s: float


def run(
    *,
    frames: int = 32,
    anchors: int = 126,
    clip_frames: int = 4,
    rounds: int = 15,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """All figures of the bench, keyed as in its line of JSON; `on_progress` is told the table.

    `speedup_d896` and `speedup_d3584` are medians of the rounds' own ratios: what runs beside the
    bench then weighs on both contestants alike. `encoder_share` is the reduction at the larger
    width, which is the dearer one, plus two layers' attention sums, over 26 layers of encoder.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            config = AOTConfig(anchors_per_frame=anchors, clip_frames=clip_frames)
            timings = [_compare(dim, frames, config, rounds) for dim in DIMS]
            layer_s, sums_s = _encoder_times(rounds=max(3, rounds // 3))
    finally:
        torch.set_num_threads(threads)
    encoder_s = KEPT_LAYERS * layer_s
    result: dict[str, Any] = {"bench": "reduce", "frames": frames, "anchors": anchors}
    for timing, ratio in timings:
        share = (timing.ours_s / frames + PROBED_LAYERS * sums_s) / encoder_s
        result |= {
            f"speedup_d{timing.dim}": round(ratio, 2),
            f"ours_ms_d{timing.dim}": round(1000 * timing.ours_s, 1),
            f"baseline_ms_d{timing.dim}": round(1000 * timing.baseline_s, 1),
            f"encoder_share_d{timing.dim}": round(share, 5),
            f"peak_mb_d{timing.dim}": peak_mb(timing.dim, frames, anchors, clip_frames),
        }
    result |= {
        "encoder_share": result[f"encoder_share_d{DIMS[-1]}"],
        "peak_mb": result[f"peak_mb_d{DIMS[-1]}"],
        "sums_ms_per_layer_frame": round(1000 * sums_s, 2),
        "layer_ms_per_frame": round(1000 * layer_s, 2),
        "rounds": rounds,
        "commit": measured_commit(),
        "device": processor(),
        "dtype": "float32",
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        result |= measure_accelerator(config=AOTConfig(anchors_per_frame=anchors))
    for line in format_figures(result).splitlines():
        on_progress(line)
    return result


def format_figures(result: dict[str, Any]) -> str:
    """The figures for people."""
    rows = [f"{'width':>6} {'baseline':>10} {'ours':>10} {'speedup':>8} {'peak':>9} {'encoder':>8}"]
    rows += [
        f"{dim:>6} {result[f'baseline_ms_d{dim}']:>7.0f} ms {result[f'ours_ms_d{dim}']:>7.0f} ms "
        f"{result[f'speedup_d{dim}']:>7.2f}x {result[f'peak_mb_d{dim}'] or float('nan'):>6.0f} MB "
        f"{100 * result[f'encoder_share_d{dim}']:>6.2f} %"
        for dim in DIMS
    ]
    rows.append(
        f"{result['frames']} frames of {SIDE}x{SIDE} tokens, one thread of {result['device']}; the "
        "last column is reduction and attention sums over the encoder's time"
    )
    rows += [f"{name}: {value}" for name, value in result.items() if name.startswith("cuda_")]
    return "\n".join(rows)


def peak_mb(dim: int, frames: int, anchors: int, clip_frames: int) -> float | None:
    """Most memory one reduction takes beside its inputs, in 10^6 bytes.

    In a fresh process, see `rise_mb`; None where the system keeps no such mark.
    """
    arguments = [str(value) for value in (dim, frames, anchors, clip_frames)]
    command = [sys.executable, "-m", "bench.reduce", "--peak", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _compare(dim: int, frames: int, config: AOTConfig, rounds: int) -> tuple[Timing, float]:
    features = make_features(frames, dim)
    clips, compressor = split_clips(features, config.clip_frames), ClipCompressor(config)

    def ours() -> None:
        compressor.compress_clips(clips)

    def baseline() -> None:
        maps = features.local_attention, features.global_attention
        reduce_in_reference_order(scratch, *maps, SIDE, config)

    times: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        scratch = features.tokens.clone()  # the baseline overwrites its input
        times.append((_cpu_s(ours), _cpu_s(baseline)))
    warm = times[1:]
    medians = (statistics.median(column) for column in zip(*warm, strict=True))
    return Timing(dim, *medians), statistics.median(theirs / own for own, theirs in warm)


def _encoder_times(rounds: int) -> tuple[float, float]:
    """CPU seconds of one encoder layer, and of one layer's attention sums, on one frame."""
    layer, query, key = make_layer(), make_query(1), make_query(1)
    patches, heads, width = query.shape[2], query.shape[1], query.shape[3]
    hidden = torch.randn(1, patches, heads * width)

    def sums() -> None:
        attention_received(query, key, width**-0.5).mean(1)

    times = [(_cpu_s(lambda: run_layer(layer, hidden)), _cpu_s(sums)) for _ in range(rounds + 1)]
    layer_s, sums_s = (statistics.median(column) for column in zip(*times[1:], strict=True))
    return layer_s, sums_s


def _cpu_s(function: Callable[[], object]) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


def _measure_peak(dim: int, frames: int, anchors: int, clip_frames: int) -> float | None:
    """See `peak_mb`; runs in the fresh process."""
    torch.set_num_threads(1)
    config = AOTConfig(anchors_per_frame=anchors, clip_frames=clip_frames)
    clips = split_clips(make_features(frames, dim), clip_frames)
    with torch.inference_mode():
        return rise_mb(lambda: ClipCompressor(config).compress_clips(clips))


def main(arguments: list[str]) -> None:
    """The whole bench, or with `--peak` the fresh process of `peak_mb`."""
    if arguments[:1] == ["--peak"]:
        print(json.dumps(_measure_peak(*(int(value) for value in arguments[1:]))))
        return
    print(json.dumps(run(on_progress=print)))


if __name__ == "__main__":
    main(sys.argv[1:])
