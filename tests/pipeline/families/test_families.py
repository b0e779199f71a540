"""Every family end to end: a file is ingested, its tokens are stored, a question is answered.

And the bytes of a record depend neither on where it was made nor on a run that was broken off.
"""

import pytest

from pipeline import Pipeline
from pipeline.ingest.job import IngestJob
from pipeline.ingest.on_ray import RayRunner
from pipeline.ingest.request import IngestRequest
from pipeline.settings import load_settings
from tests.pipeline.conftest import FPS
from tests.pipeline.support import digests
from tests.videos import write_video
from tests.workers.models.families.cases import CASES
from workers.cluster.cluster import ClusterSettings, open_cluster
from workers.types import VideoSource

QUESTION = "what is the first shape ?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {case.name: case.write(tmp_path_factory.mktemp("models") / case.name) for case in CASES}


@pytest.fixture(params=[case.name for case in CASES])
def family(request, folders, environment, monkeypatch):
    monkeypatch.setenv("AOT_MODEL__ID", str(folders[request.param]))
    return request.param


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Seven seconds: three clips of four frames at two a second, and one of two."""
    path = tmp_path_factory.mktemp("short") / "short.mp4"
    return write_video(path, frames=28, fps=4, gop=8)


def test_a_file_is_answered_from_a_tenth_of_its_tokens(family, opened, short):
    with Pipeline.open() as pipeline:
        done = pipeline.ingest(str(short), stream="hall")
        answer = pipeline.ask(QUESTION, streams=["hall"], start_s=1.5, end_s=6.0)

    assert (done.state, done.clips) == ("complete", 4)
    assert 0 < done.retention < 0.35
    assert answer.text
    assert [span.index for span in answer.citations] == [0, 1, 2]
    assert answer.prompt_tokens > answer.visual_tokens > 0


def test_a_prompt_that_was_planned_fits(family, opened, short):
    """What is reckoned for a clip is never less than what it takes."""
    with Pipeline.open(overrides={"ingest": {"retention": 1.0}}) as pipeline:
        pipeline.ingest(str(short), stream="hall")
        model = pipeline.model
        used = pipeline.ask(QUESTION, streams=["hall"]).prompt_tokens
        for room in (used + 8, used // 2):
            model.context_length = room
            answer = pipeline.ask(QUESTION, streams=["hall"])
            assert answer.prompt_tokens + 8 <= room


def test_a_resumed_run_leaves_the_same_bytes(family, opened, short):
    with Pipeline.open() as pipeline:
        pipeline.ingest(str(short), stream="whole")
        for progress in pipeline.iter_ingest(str(short), stream="broken"):
            if progress.clips == 2:
                break
        pipeline.ingest(str(short), stream="broken")
        tokens = [
            [clip.tokens.tokens for clip in pipeline.clips(name)] for name in ("whole", "broken")
        ]

    assert len(tokens[0]) == len(tokens[1]) == 4
    assert all(a.equal(b) for a, b in zip(*tokens, strict=True))


@pytest.fixture(scope="module")
def cluster():
    # Room for a pool of every family, as one that is idle is kept for a while.
    with open_cluster(ClusterSettings(num_cpus=8, session_cpus=0.5)) as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_of_a_cluster_give_the_bytes_of_one_process(cluster, family, opened, short):
    with Pipeline.open() as pipeline:
        pipeline.ingest(str(short), stream="hall")
    inline = digests(opened, "hall")
    opened.delete_stream("hall")
    settings = load_settings(None, {"ray": {"enabled": True, "workers": 1, "worker_cpus": 0.5}})
    request = IngestRequest(VideoSource(str(short), "hall", FPS))

    session = RayRunner(IngestJob.of(settings), cluster).start(request)
    state = list(session.watch())[-1].state
    session.stop()

    assert state == "complete"
    assert digests(opened, "hall") == inline
