"""What the programs share: two generated videos, the bundled model, a store for the time being."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demo.run import MODEL, SCENES
from demo.world.scenes import generate_scene
from demo.world.video import write_video
from pipeline import Pipeline
from pipeline.store import embedded_folder
from pipeline.store.embedded import stop_embedded

SECONDS = 16.0


@contextmanager
def open_stage(**settings: Any) -> Iterator[tuple[Pipeline, dict[str, Path]]]:
    """A pipeline, and the videos by the name of their stream; all gone when it is left."""
    with tempfile.TemporaryDirectory(prefix="aot-example-") as name:
        folder = Path(name)
        videos = {stream: folder / f"{stream}.mp4" for stream, _, _ in SCENES}
        for stream, kind, seed in SCENES:
            write_video(generate_scene(kind, seed, SECONDS), videos[stream])
        url = f"embedded://{folder}/store"
        given = {"model": {"id": str(MODEL)}, "store": {"url": url}, **settings}
        try:
            with Pipeline.open(None, given) as pipeline:
                yield pipeline, videos
        finally:
            stop_embedded(embedded_folder(url))
