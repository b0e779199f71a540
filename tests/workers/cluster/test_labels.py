"""Streams that ask for a site are held on nodes of that site, on real Ray nodes."""

import json

import pytest
import ray
from ray.cluster_utils import Cluster as RayCluster

from pipeline.ingest.host import HostRules
from pipeline.ingest.hosted import open_roster
from pipeline.store import StoreConfig
from tests.pipeline.store.conftest import serve  # noqa: F401
from tests.waits import wait_until
from tests.workers.cluster import ticking
from tests.workers.cluster.ticking import TickingStreams
from workers.cluster.connect import NAMESPACE
from workers.cluster.controller import start_controller
from workers.cluster.host import HostSpec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NORTH, SOUTH = (("site", "north"),), (("site", "in(east, south)"),)


@pytest.fixture
def nodes():
    """A head without work and a node in the south; more are added."""
    small = {"object_store_memory": 80 * 2**20}
    cluster = RayCluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small}
    )
    cluster.add_node(num_cpus=2, labels={"site": "south"}, **small)
    ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(ticking)
    yield lambda site: cluster.add_node(num_cpus=2, labels={"site": site}, **small)
    ray.cloudpickle.unregister_pickle_by_value(ticking)
    ray.shutdown()
    cluster.shutdown()


def text(conditions) -> str:
    return json.dumps({"label_selector": dict(conditions)})


def sites(view) -> dict[str, int]:
    """Streams of each site's hosts."""
    held = dict.fromkeys((host.seat.labels["site"] for host in view.hosts), 0)
    for host in view.hosts:
        held[host.seat.labels["site"]] += host.num_streams
    return held


def test_a_site_holds_its_own_streams_and_waits_for_a_node_of_its_own(nodes, serve):  # noqa: F811
    config = StoreConfig(serve().url)
    counts = {(): 1, NORTH: 1, SOUTH: 1}
    start_controller(
        HostSpec(TickingStreams(config, HostRules(most=40), 0, 5.0, counts=counts), None)
    )
    wanted = {f"n{n}": text(NORTH) for n in range(10)} | {f"s{n}": text(SOUTH) for n in range(10)}
    with open_roster(config) as roster:
        roster.put_wanted({**wanted, "any": "{}"}, version="ticking")
        wait_until(lambda: sites(roster.view()) == {"south": 11})
        assert roster.view().num_free == 10, "no node is in the north"
        node = nodes("north")
        wait_until(lambda: roster.view().num_free == 0)
        held = sites(roster.view())
        [north] = [host for host in roster.view().hosts if host.seat.labels["site"] == "north"]
        assert (north.seat.node, held["north"] >= 10) == (node.node_id, True)
        assert north.seat.started_for == "site=north"
        for name in wanted:
            assert roster.is_held(name, silent_s=60.0)
