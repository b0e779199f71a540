"""Shares of hosts, by what holds of every sharing out."""

import random
from collections import Counter

import pytest

from pipeline.ingest.placement import share_out
from pipeline.values.labels import ANYWHERE, LabelSelector

NORTH = LabelSelector.of({"site": "north"})
SOUTH = LabelSelector.of({"site": "south"})
RACK = LabelSelector.of({"site": "north", "rack": "1"})
SITES = LabelSelector.of({"site": "in(north, south)"})
NEAR_EAST = LabelSelector.of({"site": "east"}, is_required=False)
ALL = [ANYWHERE, NORTH, SOUTH, RACK, SITES, NEAR_EAST]


def given_to(shares) -> Counter[LabelSelector]:
    total = Counter[LabelSelector]()
    for share in shares.values():
        total.update(share)
    return total


def draw(seed: int):
    """Hosts with labels of all kinds, and streams of some groups."""
    rng = random.Random(seed)
    labels = [{}, {"site": "north"}, {"site": "north", "rack": "1"}, {"site": "south"}]
    hosts = {f"host-{n}": rng.choice(labels) for n in range(rng.randint(0, 12))}
    wanted = {one: rng.randint(0, 60) for one in rng.sample(ALL, rng.randint(1, len(ALL)))}
    return {ANYWHERE: 0, **wanted}, hosts, rng.choice([1, 4, 16])


@pytest.mark.parametrize("seed", range(200))
def test_what_holds_of_every_sharing_out(seed):
    wanted, hosts, most = draw(seed)
    shares = share_out(wanted, hosts, most=most)
    assert shares.keys() == hosts.keys()
    for host, share in shares.items():
        assert all(one.admits(hosts[host]) for one in share), "on a host that does not match"
        assert sum(share.values()) <= most
        assert all(number > 0 for number in share.values())
    given = given_to(shares)
    full = {host for host, share in shares.items() if sum(share.values()) == most}
    for selector, number in wanted.items():
        assert selector == ANYWHERE or given[selector] <= number
        if given[selector] < number:
            near = {host for host, labels in hosts.items() if selector.admits(labels)}
            assert near <= full, "a stream waits and a host that will do has room"


@pytest.mark.parametrize("seed", range(50))
def test_the_order_in_which_hosts_and_streams_are_told_decides_nothing(seed):
    wanted, hosts, most = draw(seed)
    rng = random.Random(seed)
    mixed = [dict(rng.sample(list(one.items()), len(one))) for one in (wanted, hosts)]
    assert share_out(wanted, hosts, most=most) == share_out(mixed[0], mixed[1], most=most)


@pytest.mark.parametrize("num_hosts", [1, 2, 3, 7])
def test_streams_that_ask_for_nothing_are_shared_out_evenly(num_hosts):
    hosts = {f"host-{n}": {} for n in range(num_hosts)}
    for number in range(40):
        shares = share_out({ANYWHERE: number}, hosts, most=16)
        due = min(16, -(-number // num_hosts))
        assert all(share.get(ANYWHERE, 0) == due for share in shares.values())


def test_streams_of_a_site_are_even_on_its_hosts_and_the_others_fill_up_the_rest():
    hosts = {f"n{n}": {"site": "north"} for n in range(2)} | {f"s{n}": {} for n in range(2)}
    shares = share_out({NORTH: 9, ANYWHERE: 11}, hosts, most=16)
    assert sorted(shares[host].get(NORTH, 0) for host in ("n0", "n1")) == [4, 5]
    assert {sum(share.values()) for share in shares.values()} == {5}
    assert given_to(shares) == {NORTH: 9, ANYWHERE: 11}


def test_those_that_few_hosts_will_do_for_come_first():
    hosts = {"rack": {"site": "north", "rack": "1"}, "north": {"site": "north"}, "south": {}}
    shares = share_out({RACK: 4, NORTH: 4, ANYWHERE: 4}, hosts, most=4)
    assert shares == {"rack": {RACK: 4}, "north": {NORTH: 4}, "south": {ANYWHERE: 4}}


def test_a_site_without_hosts_is_read_nowhere_or_where_it_may_be():
    hosts = {"a": {}, "b": {"site": "south"}}
    assert given_to(share_out({NORTH: 5}, hosts, most=16)) == {}
    shares = share_out({NEAR_EAST: 5}, hosts, most=16)
    assert given_to(shares) == {NEAR_EAST: 5}
    home = share_out({NEAR_EAST: 5}, {**hosts, "c": {"site": "east"}}, most=16)
    assert home["c"] == {NEAR_EAST: 5}
    assert given_to(home) == {NEAR_EAST: 5}


def test_one_stream_each_of_many_sites_falls_to_no_host_always():
    hosts = {f"host-{n}": {"site": "x"} for n in range(4)}
    asks = {LabelSelector.of({"site": "x", f"not{n}": "!y"}): 1 for n in range(40)}
    loads = [sum(share.values()) for share in share_out(asks, hosts, most=16).values()]
    assert loads == [10, 10, 10, 10]
