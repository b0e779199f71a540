"""What the reduction costs on a CUDA card: `aot bench reduce` adds this where there is one.

`python -m bench.accelerator` measures a whole worker first (`bench.worker`), then this where it
is not late.

Milliseconds are medians of events around each pass, after three passes that warm up.
"""

import json
import statistics
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from aot import AOTConfig, CausalReducer, ClipCompressor, make_reducer, stack_clips
from bench.facts import measured_commit
from bench.features import SIDE, make_features, split_clips
from bench.random_tower import KEPT_LAYERS, make_layer, make_query, run_layer
from bench.worker import measure_worker
from workers.models.attention import attention_received

DIMS = (896, 3584)
"""Widths of the 0.5B and 7B language models of LLaVA-OneVision."""
ADAPTIVE_CLIP_FRAMES = 8
STARTED_S = time.perf_counter()
ENOUGH_S = 50.0
"""When the second part of the bench is not begun any more."""
RETENTION = 0.1


def measure_accelerator(config: AOTConfig, frames: int = 32, rounds: int = 20) -> dict[str, Any]:
    """Milliseconds for `frames` frames: reductions, the plan of one in several forms, the encoder.

    `whole` is the exact method, `adaptive` the default one at `RETENTION`: as callers with single
    clips have them, which ends in a wait for the tokens' numbers, and as one CUDA graph of the
    batch (`..._graph`), which waits for nothing.
    """
    times: dict[str, Any] = {"cuda_device": torch.cuda.get_device_name(), "cuda_frames": frames}
    times |= encoder_times(frames, rounds)
    for dim in DIMS:
        torch.cuda.reset_peak_memory_stats()
        with torch.inference_mode():
            for name, function in _variants(dim, frames, config).items():
                times[f"cuda_{name}_ms_d{dim}"] = _cuda_ms(function, rounds)
        times[f"cuda_peak_mb_d{dim}"] = round(torch.cuda.max_memory_allocated() / 1e6)
    return times


def _variants(dim: int, frames: int, config: AOTConfig) -> dict[str, Callable[[], object]]:
    clip = make_features(frames, dim, "cuda")
    whole, adaptive = (
        ClipCompressor(config),
        make_reducer("adaptive", RETENTION, grid=(SIDE, SIDE), clip_frames=ADAPTIVE_CLIP_FRAMES),
    )
    assert isinstance(adaptive, CausalReducer)
    variants: dict[str, Callable[[], object]] = {}
    for name, reducer in (("whole", whole), ("adaptive", adaptive)):
        clips = split_clips(clip, reducer.config.clip_frames)
        variants[name] = partial(reducer.compress_clips, clips)
        variants[f"{name}_graph"] = _captured(partial(reducer.compress_batch, stack_clips(clips)))
    return variants


def encoder_times(frames: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a tower's kept layers, and of one layer's attention sums, in bfloat16: alone,
    and with the log-sums that flash attention gives beside its output.
    """
    layer = make_layer("cuda", torch.bfloat16)
    query, key = (make_query(frames, "cuda", torch.bfloat16) for _ in range(2))
    patches, heads, width = query.shape[2], query.shape[1], query.shape[3]
    hidden = torch.randn(frames, patches, heads * width, device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        layer_ms = _cuda_ms(lambda: run_layer(layer, hidden), rounds)
        sums_ms = _cuda_ms(lambda: attention_received(query, key, width**-0.5).mean(1), rounds)
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        log_sums = flash(query, key, key, scale=width**-0.5)[1]
        beside_ms = _cuda_ms(
            lambda: attention_received(query, key, width**-0.5, log_sums=log_sums).mean(1), rounds
        )
    return {
        "cuda_encoder_ms": KEPT_LAYERS * layer_ms,
        "cuda_sums_ms_per_layer": sums_ms,
        "cuda_sums_beside_flash_ms_per_layer": beside_ms,
    }


def _captured(function: Callable[[], object]) -> Callable[[], None]:
    """The function as one CUDA graph, after the warm-up that capturing asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        function()
    return graph.replay


def _cuda_ms(function: Callable[[], object], rounds: int) -> float:
    for _ in range(3):
        function()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return round(statistics.median(times), 3)


def main() -> None:
    """What a worker does on this machine's card; a last line of JSON."""
    result: dict[str, Any] = {"bench": "accelerator", "commit": measured_commit()}
    result |= {"torch": torch.__version__, "cuda_device": torch.cuda.get_device_name()}
    for part in (measure_worker, partial(measure_accelerator, AOTConfig(anchors_per_frame=126))):
        if part is not measure_worker and time.perf_counter() - STARTED_S > ENOUGH_S:
            result["left_out"] = "reductions alone: see aot bench reduce"
            break
        try:
            result |= part()
        except Exception as error:  # the other part's figures are not lost for it
            traceback.print_exc()
            result["error"] = f"{type(error).__name__}: {error}"
    for name, value in result.items():
        print(f"{name}: {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
