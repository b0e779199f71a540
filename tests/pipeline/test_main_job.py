"""The main job on real footage: videos in, videos gone, questions answered from the store."""

import json
import shutil

import pandas
import pyarrow as pa
import pytest

from tests.pipeline.support import aot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NAMES = ("surveillance_one_by_one", "carpark_topdown", "screencast_notebook")


@pytest.fixture
def footage(shared, tmp_path):
    """Copies of three real videos, to be deleted."""
    folder = tmp_path / "footage"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(shared / "videos" / f"{name}.mp4", folder)
    return folder


def test_three_real_videos_are_ingested_on_ray_and_asked_when_they_are_gone(
    footage, opened, environment, monkeypatch, tmp_path
):
    monkeypatch.setenv("AOT_RAY__ENABLED", "true")
    monkeypatch.setenv("AOT_INGEST__FPS", "1")
    monkeypatch.setenv("AOT_INGEST__CLIP_FRAMES", "8")
    ran = aot("ingest", footage, "--json")
    assert ran.code == 0, ran.out + ran.err
    done = {value["stream_id"]: value for value in map(json.loads, ran.out.splitlines())}
    assert sorted(done) == sorted(NAMES)
    assert {value["state"] for value in done.values()} == {"complete"}
    assert all(0.02 < value["retention"] < 0.2 for value in done.values())
    shutil.rmtree(footage)

    for name in NAMES:
        spans = opened.list_spans(name)
        assert [span.index for span in spans] == list(range(done[name]["clips"]))
        answer = aot("ask", "what is seen", "-s", name, "--from", "0", "--to", "8", "--json")
        assert answer.code == 0, answer.err
        assert [span["index"] for span in answer.json["citations"]] == [0]
        assert answer.json["coverage"] == 1.0

    path = tmp_path / "out.arrow"
    assert aot("clips", "export", NAMES[0], "-o", path).code == 0
    table = pandas.read_feather(path)
    with pa.ipc.open_file(path) as reader:
        assert reader.read_all().num_rows == len(table)
    assert len(table) == sum(span.num_tokens for span in opened.list_spans(NAMES[0]))
    assert table["index"].nunique() == done[NAMES[0]]["clips"]
