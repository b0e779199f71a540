"""The simulation keeps its own laws: what goes in comes out, more of a thing takes more of it."""

from dataclasses import replace

import pytest

from bench.simulation.__main__ import run
from bench.simulation.check import Check, check_cores, check_recovery
from bench.simulation.queueing import simulate_worker
from bench.simulation.recovery import simulate_loss
from bench.simulation.services import Fleet, Prices, Services
from bench.simulation.sizing import clip_bytes, record_bytes, size

SERVICES, PRICES = Services(), Prices()


def test_the_same_seed_gives_the_same_figures():
    assert run([100], seed=3) == run([100], seed=3)
    assert run([100], seed=3)["worker"] != run([100], seed=4)["worker"]


def test_ten_times_the_streams_take_ten_times_the_machines():
    few, many = (size(Fleet(streams=count), SERVICES, PRICES) for count in (10_000, 100_000))
    for name in ("accelerators", "decode_cores", "redis_gb", "cost_per_hour"):
        assert getattr(many, name) == pytest.approx(10 * getattr(few, name), rel=0.05)


@pytest.mark.parametrize(
    ("change", "less"),
    [
        ({"fps": 0.5}, ("accelerators", "redis_gb", "pixels_gb_s")),
        ({"retention": 0.05}, ("redis_gb", "records_gb_s", "cold_tb")),
        ({"encoded": 0.5}, ("accelerators", "redis_gb", "cold_tb")),
        ({"hot_s": 1800.0}, ("redis_gb", "shards")),
    ],
)
def test_what_is_asked_less_takes_less_and_nothing_more(change, less):
    base = size(Fleet(), SERVICES, PRICES)
    changed = size(replace(Fleet(), **change), SERVICES, PRICES)
    for name in less:
        assert getattr(changed, name) < getattr(base, name), name
    assert changed.cost_per_hour < base.cost_per_hour
    assert changed.decode_cores == base.decode_cores  # every picture is decoded, whatever is kept


def test_a_worker_below_its_load_keeps_up_and_one_above_does_not():
    fits = simulate_worker(Fleet(), SERVICES, streams=300, seconds=20)
    assert fits.p99_s < 0.2
    alone = simulate_worker(Fleet(), SERVICES, streams=1, seconds=20)
    assert alone.busy == pytest.approx(SERVICES.batch_floor_s, rel=0.2)
    over = simulate_worker(Fleet(), SERVICES, streams=600, seconds=20)
    assert over.busy > 0.99
    assert over.p99_s > 10 * fits.p99_s


def test_every_lost_stream_is_owned_once_and_read_after_that():
    loss = simulate_loss(Fleet(streams=1000), SERVICES, nodes=50)
    assert (loss.nodes_lost, loss.streams_lost) == (1, 20)
    assert SERVICES.silent_s - SERVICES.beat_s <= loss.owned_p50_s <= loss.owned_max_s
    assert loss.owned_max_s < loss.read_max_s < loss.clip_max_s
    fewer = simulate_loss(Fleet(streams=1000), SERVICES, nodes=50, share=0.1)
    assert fewer.streams_lost == 100


def test_the_list_is_what_bounds_a_large_loss():
    slow = replace(SERVICES, claim_s=0.1)
    loss = simulate_loss(Fleet(streams=10_000), slow, nodes=100)
    assert loss.owned_max_s >= 100 * 0.1


def test_predictions_are_within_their_bound_of_what_was_measured():
    checks = [*check_cores({4: 0.1, 16: 0.37, 48: 1.15}, (4, 16)), *check_recovery(SERVICES)]
    assert len(checks) == 3
    assert all(one.holds for one in checks)
    assert not Check("x", 1.2, 1.0).holds


def test_a_records_bytes_are_those_of_the_store():
    from bench.query import make_clip
    from pipeline.store.arrow import encode_clip

    blob = encode_clip(make_clip(0, 157), fingerprint="bench")
    assert record_bytes(157, SERVICES) == pytest.approx(len(blob), rel=0.01)
    assert clip_bytes(Fleet(), SERVICES) == record_bytes(157, SERVICES)
