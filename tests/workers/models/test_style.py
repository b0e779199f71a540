"""How a checkpoint says its tokens are to be read, and what is said of one that says it wrongly."""

import json
from pathlib import Path

import pytest

from tests.checkpoints import write_tiny_checkpoint
from workers.errors import InvalidCheckpoint
from workers.models import ReadingStyle, open_language_model
from workers.models.checkpoint import Checkpoint
from workers.models.style import read_style


def saying(**config) -> Checkpoint:
    return Checkpoint(Path("tiny"), "tiny", "local", config, ())


@pytest.mark.parametrize("config", [{}, {"time_marks": None}, {"time_marks": {}}])
def test_a_checkpoint_that_says_nothing_is_read_clip_by_clip(config):
    assert read_style(saying(**config)) == ReadingStyle("clip", keep_positions=False)


@pytest.mark.parametrize(
    ("said", "style"),
    [
        ({"per": "frame"}, ReadingStyle("frame", False)),
        ({"per": "clip", "keep_positions": True}, ReadingStyle("clip", True)),
        (
            {"per": "frame", "format": "HH:MM:SS", "keep_positions": True},
            ReadingStyle("frame", True, name_streams=False),
        ),
        ({"format": "HH:MM:SS"}, ReadingStyle("clip", False, name_streams=False)),
    ],
)
def test_a_checkpoint_is_read_as_it_says(said, style):
    assert read_style(saying(time_marks=said)) == style


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("frame", r"got time_marks 'frame', expected an object with any of per, format, keep_pos"),
        ({"per": "second"}, r"got time_marks\.per 'second', expected 'clip' or 'frame'; mend"),
        ({"format": "SS"}, r"got time_marks\.format 'SS', expected 'HH:MM:SS'; mend"),
        ({"keep_positions": 1}, r"got time_marks\.keep_positions 1, expected False or True; mend"),
        ({"per": ["frame"]}, r"got time_marks\.per \['frame'\], expected"),
        ({"pre": "frame"}, r"got time_marks\.pre, expected any of per, format, keep_positions"),
    ],
)
def test_what_cannot_be_is_refused(said, message):
    with pytest.raises(InvalidCheckpoint, match=rf"^tiny: {message}") as caught:
        read_style(saying(time_marks=said))
    assert "\n" not in str(caught.value)


def test_an_opened_model_reads_as_its_config_says(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "m")
    assert open_language_model(folder).reading == ReadingStyle()
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"time_marks": {"per": "frame", "keep_positions": True}}))
    assert open_language_model(folder).reading == ReadingStyle("frame", True)
    path.write_text(json.dumps(config | {"time_marks": {"per": "word"}}))
    with pytest.raises(InvalidCheckpoint, match=r"mend config\.json"):
        open_language_model(folder)
