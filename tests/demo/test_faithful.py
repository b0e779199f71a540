"""From an H.264 file through the product's decoder: the accuracy of the in-memory path."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from demo.evaluate import choose_seeds, evaluate, watch_scenes
from demo.video import write_video
from workers.decode import iter_frames
from workers.models import open_vision_encoder
from workers.types import VideoSource

MODEL = Path(__file__).resolve().parents[2] / "demo" / "model"
SCENES = 24


@pytest.mark.slow
@pytest.mark.skipif(not (MODEL / "model.safetensors").is_file(), reason=f"no weights in {MODEL}")
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
