"""Questions answered by a worker of a cluster: the same answers as in the asking process."""

import pytest
from ray.cluster_utils import Cluster as RayCluster

from pipeline import Pipeline
from workers.cluster.answer import ClusterAnswer
from workers.errors import ClusterUnreachable

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def address():
    """A cluster of one node."""
    node = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    nodes = RayCluster(initialize_head=True, head_node_args=node)
    yield nodes.address
    nodes.shutdown()


def test_the_command_answers_on_a_cluster_as_it_does_here(run, video, address):
    assert run("ingest", video).code == 0
    asked = ("ask", "what is seen", "-s", "walk", "--from", "4", "--to", "8", "--json")
    here, there = run(*asked).json, run(*asked, "--ray", address).json
    for answer in (here, there):
        answer.pop("timings")
    assert here == there
    assert here["text"]


def test_the_tokens_of_another_model_are_refused_there_too(run, video, address, other_model_folder):
    assert run("ingest", video, "--stream", "walk").code == 0
    ran = run("ask", "what", "-s", "walk", "--ray", address, "--model", other_model_folder)
    assert ran.code != 0
    assert "error: FingerprintMismatch: walk holds tokens of tiny" in ran.err


def test_an_address_where_no_cluster_is(run, video):
    assert run("ingest", video).code == 0
    ran = run("ask", "what is seen", "-s", "walk", "--ray", "127.0.0.1:1")
    assert f"error: {ClusterUnreachable.__name__}: nothing answers" in ran.err
    assert run("ask", "what is seen", "-s", "walk", "--ray", "off").code == 0


@pytest.mark.slow
def test_settings_put_answers_on_ray_and_an_ingest_between_questions_is_fine(
    environment, opened, video
):
    with Pipeline.open() as pipeline:
        pipeline.ingest(str(video), stream="walk")
        expected = pipeline.ask("what is seen", streams="walk").text
    on_ray = {"ray": {"enabled": True, "answers": True, "worker_cpus": 0.25}}
    with Pipeline.open(overrides=on_ray) as pipeline:
        assert pipeline.ask("what is seen", streams="walk").text == expected
        assert isinstance(pipeline.model, ClusterAnswer)
        pipeline.ingest(str(video), stream="again", end_s=4.0)
        assert pipeline.ask("what is seen", streams="walk").text == expected
