"""What a stream was made with: the fingerprint covers it, and the stream is resumed from it."""

import dataclasses
import json

import pytest

from aot import make_reducer
from pipeline.ingest.describe import (
    _FIRST_RULES,
    fingerprint,
    first_fingerprint,
    stream_info,
    unread_stream_info,
)
from pipeline.settings import load_settings
from pipeline.values.made_with import MadeWith
from pipeline.values.types import StreamInfo
from tests.workers.session_support import INFO as WORKERS
from workers.types import VideoSource

SOURCE = VideoSource("/v/a.mp4", "lobby", 2.0, start_s=4.0, end_s=9.0, wall_start_s=7.0)


def workers(reducer: str = "adaptive", retention: float = 0.1, **rule):
    made = make_reducer(reducer, retention, grid=WORKERS.grid)
    described = {**made.describe(), **rule}
    return dataclasses.replace(WORKERS, reducer=reducer, config=made.config, rule=described)


def made(info=None, retention: float = 0.1) -> str:
    return fingerprint(info or workers(), "bf16", 1.0, retention)


@pytest.mark.parametrize("reducer", ["adaptive", "none", "uniform", "tome"])
def test_a_stream_of_the_first_release_keeps_its_fingerprint(reducer):
    info = workers(reducer)
    assert made(info) == first_fingerprint(info, "bf16", 1.0, 0.1)


def test_a_reducer_whose_rule_has_changed_since_has_another_fingerprint():
    info = workers("aot")
    assert info.rule["version"] > 1
    assert made(info) != first_fingerprint(info, "bf16", 1.0, 0.1)


def test_the_first_rule_is_the_rule_of_today():
    """Where it is not, streams of the first release have other tokens now: raise the version."""
    described = workers().rule
    assert _FIRST_RULES["adaptive"].items() <= described.items()


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"novelty_floor": 0.2}, {"memory": 9}, {"position_weight": 0.5},
               {"powers": {"attention": 0.5, "novelty": 1.0}}, {"new_constant": 0}],
)  # fmt: skip
def test_every_constant_of_the_reducer_counts(change):
    info = workers(**change)
    assert made(info) != made()
    assert first_fingerprint(info, "bf16", 1.0, 0.1) is None


def test_the_retention_counts_also_where_the_derived_constants_are_equal():
    info = workers()
    assert made(info, 0.1) != made(info, 0.1001)
    assert first_fingerprint(info, "bf16", 1.0, 0.1001) == made(info, 0.1)


def test_everything_that_was_asked_for_is_there_once_and_whole():
    given = {
        "model": {"id": "some/model", "revision": "abc", "dtype": "bfloat16", "device": "cuda"},
        "ingest": {"constants": {"window": 3}, "retention": 0.2, "clip_frames": 4},
        "store": {"dtype": "int8"},
    }
    info = stream_info(SOURCE, workers(), load_settings(None, given), zone="Europe/Berlin")
    value = info.made_with
    assert value is not None
    assert dataclasses.asdict(value.source) == {
        "url": "/v/a.mp4",
        "needs_credentials": False,
        "fps": 2.0,
        "start_s": 4.0,
        "end_s": 9.0,
        "max_hold_s": None,
        "follow": False,
        "wall_start_s": 7.0,
        "zone": "Europe/Berlin",
    }
    assert dataclasses.asdict(value.model) == {
        "id": "some/model",
        "revision": "abc",
        "device": "cuda",
        "dtype": "bfloat16",
    }
    assert value.tokens.constants == {"window": 3}
    assert value.loaded is not None
    assert value.loaded.rule["memory"] == 8
    assert info.settings["retention"] == 0.2
    assert info.settings["weights"] == WORKERS.identity.weights


def test_no_credentials_are_kept_and_it_is_known_that_they_are_missing():
    source = VideoSource("rtsp://admin:secret@cam/1", "cam")
    info = unread_stream_info(source, load_settings())
    assert "secret" not in json.dumps(dataclasses.asdict(info))
    assert info.made_with is not None
    assert info.made_with.source.needs_credentials


def test_it_comes_back_from_json_and_passes_over_what_it_does_not_know():
    value = stream_info(SOURCE, workers(), load_settings()).made_with
    assert value is not None
    plain = json.loads(json.dumps(dataclasses.asdict(value)))
    assert MadeWith.from_plain(plain) == value
    plain["source"]["later"], plain["more"] = 1, {}
    assert MadeWith.from_plain(plain) == value


def test_it_survives_the_store(opened):
    info = stream_info(SOURCE, workers(), load_settings())
    opened.put_info(info)
    assert opened.get_info("lobby") == info


def test_a_stream_of_an_earlier_release_reads_as_it_did(opened):
    info = StreamInfo("lobby", "/v/a.mp4", "m", "f", settings={"fps": 1.0})
    opened.put_info(info)
    known = opened.get_info("lobby")
    assert (known.made_with, known.file, known.settings) == (None, None, {"fps": 1.0})
