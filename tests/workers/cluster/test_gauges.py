"""What an actor counts, as Ray shows it: over a real node's address."""

import importlib.util
import subprocess
import sys
import textwrap
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.waits import wait_until

NODE = textwrap.dedent(
    """
    import sys, ray
    from workers.cluster.gauges import RayGauges, Shown

    class Counting:
        def __init__(self):
            self.gauges = RayGauges()
        def show(self, numbers):
            self.gauges.show(Shown(*number) for number in numbers)

    address = ("127.0.0.1", 0)
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
             object_store_memory=80 * 2**20)
    actor = ray.remote(Counting).remote()
    full, half = ({"stream": "front", "rung": rung} for rung in ("full", "half-rate"))
    ray.get(actor.show.remote([("aot_stream_rung", "the rung", full, 1.0)]))
    ray.get(actor.show.remote([("aot_stream_rung", "the rung", half, 1.0)]))
    [node] = ray.nodes()
    print(node["MetricsExportPort"], flush=True)
    sys.stdin.read()
    """
)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ray_shows_what_there_is_and_zero_for_what_is_gone():
    for name in ("aiohttp", "opencensus", "grpc"):
        if importlib.util.find_spec(name) is None:
            pytest.skip("without ray[default] (the extra `cluster`) a node shows nothing")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", NODE], stdin=pipe, stdout=pipe, text=True) as node:
        try:
            assert node.stdout is not None
            port = int(node.stdout.readline())
            shown: dict[str, float] = {}

            def look() -> bool:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
                    text = page.read().decode()
                for family in text_string_to_metric_families(text):
                    for sample in family.samples:
                        if sample.name == "ray_aot_stream_rung":
                            assert sample.labels["stream"] == "front"
                            shown[sample.labels["rung"]] = sample.value
                return shown == {"full": 0.0, "half-rate": 1.0}

            wait_until(look, 120)
        finally:
            assert node.stdin is not None
            node.stdin.close()
            node.wait(60)
