"""A language model that a server runs is found by what is installed, and let go."""

import sys

import pytest

from pipeline.ask.fitting import load_clips, plan_reading
from pipeline.ask.model import answers_on_ray, open_answer_pool
from pipeline.ask.prompt import Reading
from pipeline.ask.question import Question
from pipeline.ask.run import prepare
from pipeline.settings import load_settings
from pipeline.store import StoreConfig, open_store
from tests.pipeline.conftest import FPS
from tests.pipeline.support import store_video
from workers.cluster.scaling import Scaling
from workers.errors import InvalidSettings
from workers.models import open_language_model
from workers.types import VideoSource

SOURCE = """
class Engine:
    identity = reading = context_length = None
    count_tokens = score_relevance = stream_answer = print

    def __init__(self, settings, url):
        self.settings, self.url, self.open = settings, url, True

    def close(self):
        self.open = False
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution that announces an engine `toy`."""
    facts = tmp_path / "toy_engine-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-engine\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[aot.engines]\ntoy = toy_engine:Engine\n")
    (tmp_path / "toy_engine.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("toy_engine", None)


def settings(engine: str):
    return load_settings(None, {"model": {"id": "m", "engine": engine}, "ray": {"enabled": True}})


def test_the_engine_of_the_settings_is_opened_once_and_closed(installed):
    with open_answer_pool(settings("toy+http://host:8000/x"), Scaling(3, 3)) as engines:
        with engines.use() as first, engines.use() as engine:
            assert first is engine
        assert isinstance(engine, sys.modules["toy_engine"].Engine)
        assert (engine.url, engine.settings.model) == ("http://host:8000/x", "m")
        assert engine.open
    assert not engine.open


def test_an_engine_is_asked_from_here_also_where_workers_are_on_ray():
    asked = {"model": {"engine": "toy+x"}, "ray": {"enabled": True, "answers": True}}
    assert not answers_on_ray(load_settings(None, asked))


@pytest.mark.parametrize("engine", ["nothere+http://host", "toy+", "http://host:8000"])
def test_an_engine_that_nobody_announces_is_an_error(installed, engine):
    with (
        pytest.raises(InvalidSettings, match=r"(?s)NAME\+URL with a name of .*toy"),
        open_answer_pool(settings(engine), Scaling()),
    ):
        pass


@pytest.fixture(scope="module")
def store(model_folder, video, server_folder):
    config = StoreConfig(f"embedded://{server_folder}", namespace="engine")
    store_video(config, model_folder, VideoSource(str(video), "walk", FPS))
    with open_store(config) as opened:
        yield opened


@pytest.mark.parametrize(("budget", "fit"), [(None, "choose"), (5, "recompress")])
def test_what_is_read_as_it_is_stored_says_where(store, model_folder, budget, fit):
    model = open_language_model(str(model_folder))
    asked = Question("what ?", ("walk",), start=3, end=9, max_visual_tokens=budget, fit=fit)
    reading = Reading(asked, tuple(prepare(store, asked).parts), model)
    segments = load_clips(store, reading, plan_reading(reading)).segments
    assert segments
    if fit == "recompress":
        assert {segment.stored for segment in segments} == {None}
        return
    fingerprint = store.get_info("walk").fingerprint
    for span, segment in zip(store.list_spans("walk", 3, 9), segments, strict=True):
        assert segment.stored is not None
        assert segment.stored.record == f"{fingerprint}/walk/{span.epoch}/{span.index}@1.0"
        whole = store.get_clip(span).tokens.tokens
        assert whole[segment.stored.rows].equal(segment.tokens)
