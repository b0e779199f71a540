"""From an H.264 file through the decoder, and through the whole product: accuracy as in memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aot import make_reducer
from demo.miniature.model import PATCHES
from demo.quality.evaluate import WatchedScene, choose_seeds, evaluate, watch_scenes
from demo.world.questions import ask, open_window
from demo.world.render import render
from demo.world.video import write_video
from pipeline import Pipeline
from pipeline.ingest.request import IngestRequest
from pipeline.ingest.run import ingest
from pipeline.store.embedded import stop_embedded
from workers.decode.reader import iter_frames
from workers.models import open_vision_encoder
from workers.types import VideoSource

MODEL = Path(__file__).resolve().parents[2] / "demo" / "weights"
SCENES = 24


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (MODEL / "model.safetensors").is_file(), reason=f"no weights in {MODEL}"
    ),
]


def test_a_decoded_file_is_answered_about_as_well_as_its_frames(tmp_path):
    encoder = open_vision_encoder(MODEL)
    watched = watch_scenes(MODEL, choose_seeds(SCENES))
    decoded = []
    for scene in watched:
        path = tmp_path / "scene.mp4"
        write_video(scene.scene, path, size=336, fps=5)
        source = VideoSource(str(path), "scene", fps=1.0)
        frames = list(iter_frames(source, encoder.pixel_format, roots=(tmp_path,)))
        assert [round(frame.pts_s, 3) for frame in frames] == [float(t) for t in range(8)]
        pixels = np.stack([frame.pixels for frame in frames])
        decoded.append(replace(scene, features=encoder.encode(pixels)))
    memory, file = evaluate(MODEL, watched), evaluate(MODEL, decoded)
    # Compression flips single answers both ways; a tenth of all would be a broken path.
    assert (memory.correct != file.correct).mean() < 0.1
    assert abs(memory.accuracy - file.accuracy) < 0.08


def ask_from_nought(scene: WatchedScene) -> WatchedScene:
    """The same scene with questions whose times count from the start of its stream."""
    times_s = np.arange(8.0)
    window = open_window(scene.scene, render(scene.scene, times_s).visible, times_s)
    questions = tuple(ask(window, np.random.default_rng([scene.scene.seed, 6])))
    return replace(scene, times_s=times_s, questions=questions)


@pytest.mark.timeout(600)
def test_the_whole_product_answers_as_the_in_memory_path_does(tmp_path, capsys):
    watched = [ask_from_nought(scene) for scene in watch_scenes(MODEL, choose_seeds(SCENES))]
    settings = {
        "model": {"id": str(MODEL)},
        "ingest": {"retention": 0.25},
        "ray": {"enabled": False},
        "store": {"url": f"embedded://{tmp_path / 'store'}"},
        "ask": {"max_new_tokens": 12},
    }
    said = []
    with Pipeline.open(None, settings) as pipeline:
        requests = []
        for number, scene in enumerate(watched):
            path = tmp_path / f"{number}.mp4"
            write_video(scene.scene, path, size=336, fps=5)
            requests.append(IngestRequest(VideoSource(str(path), f"scene-{number}", fps=1.0)))
        assert [p.state for p in ingest(pipeline.settings, requests)].count("complete") == SCENES
        for path in tmp_path.glob("*.mp4"):
            path.unlink()
        for number, scene in enumerate(watched):
            said += [
                pipeline.ask(q.text, streams=[f"scene-{number}"]).text == q.answer
                for q in scene.questions
            ]
    stop_embedded(tmp_path / "store")
    reduce = make_reducer("adaptive", 0.25, grid=(PATCHES, PATCHES), clip_frames=8).compress_clips
    memory = evaluate(MODEL, watched, reduce)
    product = replace(memory, correct=np.array(said))
    with capsys.disabled():
        print(f"product {product.accuracy:.3f}, in memory {memory.accuracy:.3f}")
    assert (memory.correct != product.correct).mean() < 0.15
    assert abs(memory.accuracy - product.accuracy) < 0.08
