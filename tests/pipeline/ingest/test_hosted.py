"""A host's counts, handed on to who shows them."""

from pipeline.ingest import hosted
from pipeline.ingest.metrics import Metrics
from tests.waits import wait_until
from workers.cluster.gauges import Shown
from workers.live.session import LiveProgress


class Gauges:
    """Keeps what it is shown, as the last of it stands."""

    def __init__(self) -> None:
        self.last: dict[tuple[str, str], float] = {}
        self.times = 0

    def show(self, numbers) -> None:
        shown = [Shown(*number) for number in numbers]
        self.last = {(one.name, one.labels.get("stream", "")): one.value for one in shown}
        self.times += 1


def test_what_a_host_counts_is_shown_again_and_again_and_not_afterwards(monkeypatch):
    monkeypatch.setattr(hosted, "SHOW_EVERY_S", 0.01)
    metrics, gauges = Metrics(), Gauges()
    with hosted._shown(metrics, gauges):  # type: ignore[arg-type]
        metrics.see(LiveProgress("front", state="running", clips=3))
        wait_until(lambda: gauges.last.get(("aot_stream_clips_total", "front")) == 3)
        assert gauges.last["aot_stream_up", "front"] == 1
        metrics.forget("front")
        wait_until(lambda: ("aot_stream_up", "front") not in gauges.last)
        assert gauges.times > 1
    assert gauges.last == {}
