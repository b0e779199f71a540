"""What the second question on a window costs, by each door; figures of docs/vllm.md.

    python -m integrations.vllm.tests.measure

A generated camera of some minutes at a retention of 1, so that a window nearly fills the
miniature's context; every trial asks two questions about a window that nobody asked about before.
"""

import json
import os
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from aot_vllm.engine import VllmEngine, open_store_door, open_tensor_door

from demo.world.scenes import generate_scene
from demo.world.video import write_video
from integrations.vllm.tests.asking import MODEL, read_segments
from integrations.vllm.tests.serving import serve
from pipeline import Pipeline
from pipeline.ask.question import Question
from pipeline.store import ClipStore, StoreConfig, open_store
from pipeline.store.embedded import start_embedded, stop_embedded
from workers.answer import AnswerSettings

SECONDS, WINDOW_S, TRIALS = 200.0, 150.0, 6


def measure() -> None:
    """Print a line of JSON for each door."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_video(generate_scene("surveillance", 810_004, SECONDS), folder / "camera.mp4")
        url = f"embedded://{folder / 'store'}"
        settings = {
            "model": {"id": str(MODEL)},
            "ingest": {"reducer": "none", "retention": 1.0},
            "store": {"url": url},
            "ray": {"enabled": False},
        }
        with Pipeline.open(None, settings) as pipeline:
            pipeline.ingest(str(folder / "camera.mp4"), stream="camera")
        config = StoreConfig(f"unix://{start_embedded(folder / 'store').socket}")
        try:
            with open_store(config) as store, serve(config.url, folder / "vllm.log") as server:
                doors = {"vllm+http": open_tensor_door, "vllm-store+http": open_store_door}
                for door, opened in doors.items():
                    with closing(opened(AnswerSettings(str(MODEL)), server.url)) as engine:
                        print(json.dumps({"door": door, **ask_twice(store, engine)}), flush=True)
        finally:
            stop_embedded(folder / "store")


def ask_twice(store: ClipStore, engine: VllmEngine) -> dict[str, object]:
    """Seconds to the first word, clips read from the store here included."""
    first_s, second_s, cached = [], [], []
    for trial in range(-1, TRIALS):  # the first trial warms up
        start_s = 5.0 + trial * 7 + (3 if engine.door == "store" else 0)
        took = []
        for text in ("what colour was the square ?", "was there a red circle ?"):
            began_s = time.perf_counter()
            asked = Question(
                text,
                ("camera",),
                max(0.0, start_s),
                start_s + WINDOW_S,
                marks="clip",
                keep_positions=False,
            )
            segments = read_segments(store, engine, asked)
            parts = engine.stream_parts(text, segments, max_new_tokens=4)
            first = next(part for part in parts if part["text"])
            took.append(time.perf_counter() - began_s)
            usage = [part["raw"].get("usage") for part in [first, *parts]][-1] or {}
        if trial >= 0:
            first_s.append(took[0])
            second_s.append(took[1])
            cached.append((usage.get("prompt_tokens_details") or {}).get("cached_tokens"))
    ratios = [one / two for one, two in zip(first_s, second_s, strict=True)]
    return {
        "tokens": usage.get("prompt_tokens"),
        "cached": cached[-1],
        "first_s": round(statistics.median(first_s), 3),
        "second_s": round(statistics.median(second_s), 3),
        "ratio": round(statistics.median(ratios), 1),
        "ratios": [round(ratio, 1) for ratio in ratios],
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    measure()
