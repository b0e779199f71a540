"""Hosts share a roster of streams: each takes its share, and what one loses others have soon."""

import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from pipeline.ingest.fleet import Members
from pipeline.ingest.host import Host, HostRules
from pipeline.ingest.lease import take_leases
from pipeline.store import StoreConfig, open_store
from pipeline.store.roster import Roster, Seat
from pipeline.values.types import Lease
from tests.pipeline.store.conftest import serve  # noqa: F401
from tests.waits import wait_until

RULES = HostRules(most=16, beat_s=0.05, silent_s=0.6, grace_s=0.5)


def no_leases(names):
    """Of hosts whose streams write nothing."""
    return {}


class Site:
    """Hosts in threads of this process, and who reads what just now."""

    def __init__(self, url: str, rules: HostRules) -> None:
        self.url, self.rules = url, rules
        self.stores, self.threads = [], []
        self.stops: dict[str, threading.Event] = {}
        self.readers: dict[str, list[str]] = {}
        self.switches: Counter[str] = Counter()
        self.roster = self.open()

    def open(self) -> Roster:
        store = open_store(StoreConfig(self.url))
        self.stores.append(store)
        assert isinstance(store, Roster)
        return store

    def want(self, names, version="v1", text="{}"):
        self.roster.put_wanted(dict.fromkeys(names, text), version=version)

    def add(self, name, *, node="n1", version="v1", roster=None, retire=None, **labels) -> str:
        host, stop = f"host-{name}", threading.Event()
        seat = Seat(host, node, "127.0.0.1", version, labels)

        def run(stream_id, text, lease, own: threading.Event) -> None:
            readers = self.readers.setdefault(stream_id, [])
            readers.append(host)
            self.switches[stream_id] += 1
            own.wait(100)
            readers.remove(host)

        made = Host(
            roster or self.open(), seat, self.rules, run, take=no_leases, stop=stop, retire=retire
        )
        self.stops[host] = stop
        self.threads.append(threading.Thread(target=made.work, name=host, daemon=True))
        self.threads[-1].start()
        return host

    def is_running(self, host: str) -> bool:
        return any(thread.name == host and thread.is_alive() for thread in self.threads)

    def reader(self, stream_id: str) -> str:
        """Who reads a stream; empty where nobody does."""
        return next(iter(self.readers.get(stream_id, [])), "")

    def read_by(self) -> Counter[str]:
        """How many streams each host reads, where each stream has one reader."""
        names = [names for names in map(list, self.readers.values()) if names]
        assert all(len(each) == 1 for each in names), names
        return Counter(each[0] for each in names)

    def close(self) -> None:
        for stop in self.stops.values():
            stop.set()
        for thread in self.threads:
            thread.join(20)
        for store in self.stores:
            store.close()


@pytest.fixture
def site(serve):  # noqa: F811
    site = Site(serve().url, RULES)
    yield site
    site.close()


NAMES = [f"cam{number}" for number in range(20)]


class Deaf:
    """A roster whose host is cut off from it: every call of it is lost while `cut` is set."""

    def __init__(self, roster: Roster) -> None:
        self._roster, self.cut = roster, threading.Event()

    def __getattr__(self, name):
        from pipeline.values.errors import StoreUnavailable

        if self.cut.is_set():
            raise StoreUnavailable("cut off")
        return getattr(self._roster, name)


def shares(site) -> list[int]:
    return sorted(site.read_by().values())


def test_every_stream_has_one_reader_and_every_host_its_share(site):
    site.want(NAMES)
    for name in ("a", "b", "c"):
        site.add(name)
    wait_until(lambda: shares(site) == [6, 7, 7])


def test_a_host_takes_no_more_than_it_may(site):
    site.want(NAMES)
    site.add("a")
    wait_until(lambda: shares(site) == [16])
    time.sleep(0.3)
    assert shares(site) == [16]
    assert site.roster.view().num_free == 4


def test_a_host_that_joins_gets_its_share_one_by_one(site):
    site.want(NAMES[:12])
    site.add("a")
    wait_until(lambda: shares(site) == [12])
    site.add("b")
    wait_until(lambda: shares(site) == [6, 6])
    assert sum(site.switches.values()) == 12 + 6, "no stream moved that had not to"


def test_streams_of_a_host_that_is_cut_off_are_read_by_others_and_it_ends_its_own(site):
    site.want(NAMES[:12])
    deaf = Deaf(site.open())
    lost = site.add("a", roster=deaf)
    wait_until(lambda: shares(site) == [12])
    site.add("b", node="n2")
    wait_until(lambda: shares(site) == [6, 6])
    deaf.cut.set()
    began_s = time.monotonic()
    wait_until(
        lambda: (
            sum(view.num_streams for view in site.roster.view().hosts) == 12
            and [view.seat.host for view in site.roster.view().hosts] == ["host-b"]
        )
    )
    assert time.monotonic() - began_s < 30
    # Both read until it hears.
    wait_until(lambda: Counter(map(len, site.readers.values())) == {1: 6, 2: 6})
    deaf.cut.clear()
    wait_until(lambda: all(len(readers) == 1 for readers in site.readers.values()))
    wait_until(lambda: shares(site) == [6, 6])
    assert site.is_running(lost)


def test_a_store_that_was_away_moves_nothing(serve):  # noqa: F811
    site = Site(serve().url, RULES)
    try:
        site.want(NAMES)
        cuts = []
        for name in "abc":
            cuts.append(Deaf(site.open()))
            site.add(name, roster=cuts[-1])
        wait_until(lambda: shares(site) == [6, 7, 7])
        moved = sum(site.switches.values())
        for deaf in cuts:
            deaf.cut.set()
        time.sleep(3 * RULES.silent_s)
        for deaf in cuts:
            deaf.cut.clear()
            time.sleep(0.05)
        time.sleep(2 * RULES.silent_s)
        assert shares(site) == [6, 7, 7]
        assert sum(site.switches.values()) == moved
    finally:
        site.close()


def test_a_machine_that_is_drained_is_left_one_stream_at_a_time(site):
    site.want(NAMES[:8])
    site.add("a", node="old")
    wait_until(lambda: shares(site) == [8])
    site.roster.drain("old")
    time.sleep(0.3)
    assert shares(site) == [8], "nobody else is there"
    site.add("b", node="new")
    most_unread = 0
    while site.read_by() != {"host-b": 8}:
        most_unread = max(most_unread, 8 - sum(site.read_by().values()))
        time.sleep(0.005)
    assert most_unread <= 1
    [left] = [view for view in site.roster.view().hosts if view.seat.node == "old"]
    assert (left.is_draining, left.takes, left.num_streams) == (True, False, 0)


def test_a_new_version_takes_over_and_the_old_hosts_end(site):
    site.want(NAMES[:8])
    old = [site.add("a"), site.add("b")]
    wait_until(lambda: shares(site) == [4, 4])
    site.want(NAMES[:8], version="v2")
    time.sleep(0.3)
    assert shares(site) == [4, 4], "nobody of the new version is there"
    site.add("c", version="v2")
    wait_until(lambda: site.read_by() == {"host-c": 8})
    wait_until(lambda: not any(map(site.is_running, old)))
    assert [view.seat.host for view in site.roster.view().hosts] == ["host-c"]


def test_a_host_that_is_stopped_gives_all_back(site):
    site.want(NAMES[:8])
    host = site.add("a")
    wait_until(lambda: shares(site) == [8])
    site.stops[host].set()
    wait_until(lambda: not site.is_running(host))
    assert (site.roster.view().num_free, site.roster.view().hosts) == (8, ())


def test_streams_that_are_added_removed_or_changed_are_followed(site):
    site.want(NAMES[:4])
    site.add("a")
    wait_until(lambda: shares(site) == [4])
    site.want(NAMES[2:6])
    wait_until(lambda: {n for n, r in site.readers.items() if r} == set(NAMES[2:6]))
    assert sum(site.switches.values()) == 6
    site.want(NAMES[2:6], text='{"fps": 2}')
    wait_until(lambda: sum(site.switches.values()) == 10)
    wait_until(lambda: shares(site) == [4])


def readings(site) -> set[str]:
    return {name for name, readers in site.readers.items() if readers}


def test_a_paused_stream_is_read_by_nobody_until_it_is_added_again(site):
    site.want(NAMES[:4])
    site.add("a")
    wait_until(lambda: shares(site) == [4])
    assert site.roster.pause(NAMES[0])
    wait_until(lambda: readings(site) == set(NAMES[1:4]))
    wait_until(lambda: not site.roster.is_held(NAMES[0], silent_s=5.0))
    assert site.roster.is_held(NAMES[1], silent_s=5.0)
    assert not site.roster.pause(NAMES[0]), "it is paused already"
    view = site.roster.view()
    assert (view.num_wanted, view.num_paused) == (3, 1)
    site.want(NAMES[:4], text='{"fps": 2}')
    wait_until(lambda: sum(site.switches.values()) == 7)
    assert site.roster.get_paused(NAMES[0]) == '{"fps": 2}', "a list that names it wakes it not"
    assert readings(site) == set(NAMES[1:4])
    site.roster.add_wanted({NAMES[0]: "{}"})
    wait_until(lambda: readings(site) == set(NAMES[:4]))
    assert site.roster.get_paused(NAMES[0]) is None
    assert site.roster.view().version == "v1"


def test_streams_that_are_added_end_no_others_and_those_of_a_list_do(site):
    site.want(NAMES[:2])
    site.roster.add_wanted(dict.fromkeys(NAMES[2:4], "{}"), version="v2")
    assert (site.roster.view().num_wanted, site.roster.view().version) == (4, "v2")
    assert site.roster.pause(NAMES[0])
    assert site.roster.pause(NAMES[3])
    gone = site.roster.put_wanted(dict.fromkeys(NAMES[2:4], "{}"), version="v2")
    assert gone == {NAMES[1]}
    assert site.roster.get_paused(NAMES[0]) is None, "off the list, it is not paused either"
    assert site.roster.get_paused(NAMES[3]) == "{}"


@pytest.mark.parametrize("paused", [False, True])
def test_a_stream_that_is_forgotten_is_neither_wanted_nor_paused(site, paused):
    site.want(NAMES[:2])
    site.add("a")
    wait_until(lambda: shares(site) == [2])
    if paused:
        assert site.roster.pause(NAMES[0])
    assert site.roster.forget(NAMES[0])
    wait_until(lambda: readings(site) == {NAMES[1]})
    assert not site.roster.forget(NAMES[0])
    assert (site.roster.view().num_wanted, site.roster.view().num_paused) == (1, 0)


def test_of_pauses_and_additions_that_meet_none_leaves_a_stream_twice(site):
    site.want(NAMES[:1])
    rosters = [site.open() for _ in range(6)]

    def toggle(number: int, roster: Roster) -> None:
        for _ in range(20):
            roster.add_wanted({NAMES[0]: "{}"}) if number % 2 else roster.pause(NAMES[0])

    threads = [threading.Thread(target=toggle, args=pair) for pair in enumerate(rosters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    view = site.roster.view()
    assert (view.num_wanted, view.num_paused) in ((1, 0), (0, 1))
    assert view.num_free == view.num_wanted


def test_a_stream_that_a_server_forgot_is_found(site):
    site.want(NAMES[:4])
    host = site.add("a")
    wait_until(lambda: shares(site) == [4])
    site.roster.drop(host, [NAMES[0]])
    assert site.roster.find_lost() == {NAMES[0]}
    site.roster.free(site.roster.find_lost())
    wait_until(lambda: site.switches[NAMES[0]] == 2 and shares(site) == [4])


def test_of_many_that_claim_one_gets_each(site):
    site.want(NAMES)
    got: list[list[str]] = []
    rosters = [site.open() for _ in range(8)]
    threads = [
        threading.Thread(target=lambda r=roster, n=n: got.append(r.claim(f"host-{n}", 20)))
        for n, roster in enumerate(rosters)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(name for names in got for name in names) == sorted(NAMES)


def test_a_host_that_breaks_gives_all_back_and_may_begin_anew(site):
    site.want(NAMES[:4])

    class Broken(Deaf):
        def __getattr__(self, name):
            if self.cut.is_set() and name == "beat":
                raise RuntimeError("not foreseen")
            return getattr(self._roster, name)

    broken, stop = Broken(site.open()), threading.Event()
    seat = Seat("host-a", "n1", "127.0.0.1", "v1")
    reading = threading.Event()

    def run(stream_id, text, lease, own: threading.Event) -> None:
        reading.set()
        own.wait(100)

    def break_it() -> None:
        reading.wait(100)
        broken.cut.set()

    threading.Thread(target=break_it, daemon=True).start()
    with pytest.raises(RuntimeError, match="not foreseen"):
        Host(broken, seat, RULES, run, take=no_leases, stop=stop).work()
    assert site.roster.view().num_free == 4
    assert not stop.is_set(), "nobody asked it to end"


def test_leases_are_taken_with_the_claim_and_given_to_whoever_reads(site):
    site.want(NAMES[:6])
    store, seat, stop = site.open(), Seat("host-a", "n1", "127.0.0.1", "v1"), threading.Event()
    given: dict[str, Lease | None] = {}

    def run(stream_id, text, lease, own: threading.Event) -> None:
        given[stream_id] = lease
        own.wait(100)

    other = store.acquire_lease(NAMES[0], "somebody", ttl_s=60)
    dead = store.acquire_lease(NAMES[1], "host-dead", ttl_s=60)
    take = partial(take_leases, store, writer="host-a", lease_s=60, kin="host-")
    host = Host(store, seat, RULES, run, take=take, stop=stop)
    thread = threading.Thread(target=host.work, daemon=True)
    thread.start()
    wait_until(lambda: len(given) == 6)
    assert given.pop(NAMES[0]) is None
    assert store.get_lease(NAMES[0]) == other, "of somebody who is no host"
    for name, lease in given.items():
        assert lease is not None
        assert store.get_lease(name) == lease
        assert lease.holder.startswith("host-a@")
    assert given[NAMES[1]].token == dead.token + 1
    stop.set()
    thread.join(30)


def test_a_host_with_much_to_begin_is_not_taken_for_gone(site):
    # A silence that a busy machine does not make by itself.
    site.rules = replace(RULES, most=1000, silent_s=4.0)
    names = [f"cam{number}" for number in range(60)]
    slow = partial(time.sleep, site.rules.silent_s / 20)  # 60 of them are three silences
    begin = Members.begin
    seen: set[int] = set()

    def begin_slowly(members, name, wanted) -> None:
        slow()
        begin(members, name, wanted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Members, "begin", begin_slowly)
        site.want(names)
        site.add("a")
        site.add("b")
        while sum(site.read_by().values()) < len(names):
            seen.add(len(site.roster.view().hosts))
            time.sleep(0.01)
    assert seen <= {0, 1, 2}
    assert sum(site.switches.values()) <= 60 + 30, "nobody's streams were taken from them"


NORTH = '{"label_selector": {"site": "north"}}'
NEAR = '{"label_selector": {"site": "north"}, "label_fallback": true}'


def want_near(site, text, number=4, *, others=4):
    """Some streams that ask for the north, some for nothing."""
    asking = dict.fromkeys(NAMES[:number], text)
    rest = dict.fromkeys(NAMES[number : number + others], "{}")
    site.roster.put_wanted(asking | rest, version="v1")


def readers_of(site, names) -> set[str]:
    return {site.reader(name) for name in names}


def asking(site) -> list[tuple[int, int]]:
    return [(one.num_wanted, one.num_free) for one in site.roster.view().asking]


def test_streams_are_read_only_where_they_may_be_and_hosts_have_as_many_as_one_another(site):
    want_near(site, NORTH, 6, others=6)
    site.add("south", site="south")
    wait_until(lambda: shares(site) == [6])
    time.sleep(0.5)
    assert readers_of(site, NAMES[:6]) == {""}, "no host is in the north"
    assert asking(site) == [(6, 6)]
    assert site.roster.view().num_free == 6
    site.add("north", site="north")
    wait_until(lambda: shares(site) == [6, 6])
    assert readers_of(site, NAMES[:6]) == {"host-north"}
    assert readers_of(site, NAMES[6:12]) == {"host-south"}


def test_streams_of_a_site_that_is_lost_wait_for_it_and_the_others_go_on(site):
    want_near(site, NORTH)
    deaf = Deaf(site.open())
    site.add("north", roster=deaf, site="north")
    site.add("south", site="south")
    wait_until(lambda: shares(site) == [4, 4])
    deaf.cut.set()
    wait_until(lambda: site.roster.view().num_free == 4)
    moved = site.switches["cam7"]
    time.sleep(2 * RULES.silent_s)
    assert [view.seat.host for view in site.roster.view().hosts] == ["host-south"]
    assert readers_of(site, NAMES[4:8]) == {"host-south"}
    assert site.switches["cam7"] == moved
    assert site.roster.find_lost() == set()
    site.add("north2", site="north")
    wait_until(lambda: not site.roster.view().num_free)
    deaf.cut.clear()
    wait_until(lambda: all(len(readers) == 1 for readers in list(site.readers.values())))
    wait_until(lambda: shares(site) == [2, 3, 3])
    assert readers_of(site, NAMES[:4]) == {"host-north", "host-north2"}


def test_a_full_host_makes_room_for_a_stream_that_nobody_else_may_have(site):
    site.want(NAMES[:16])
    site.add("north", site="north")
    wait_until(lambda: shares(site) == [16])
    site.roster.add_wanted({"gate": NORTH})
    wait_until(lambda: site.reader("gate") == "host-north")
    assert shares(site) == [16]
    assert site.roster.view().num_free == 1


def test_a_stream_that_would_rather_be_elsewhere_is_read_here_until_then(site):
    want_near(site, NEAR, others=0)
    site.add("south", site="south")
    wait_until(lambda: readers_of(site, NAMES[:4]) == {"host-south"})
    site.add("north", site="north")
    wait_until(lambda: readers_of(site, NAMES[:4]) == {"host-north"})
    site.stops["host-north"].set()
    wait_until(lambda: readers_of(site, NAMES[:4]) == {"host-south"})


def test_a_stream_that_asks_for_another_site_moves_there(site):
    want_near(site, NORTH, 2, others=2)
    site.add("north", site="north")
    site.add("south", site="south")
    wait_until(lambda: shares(site) == [2, 2])
    site.roster.add_wanted({NAMES[0]: NORTH.replace("north", "south")})
    wait_until(lambda: site.reader(NAMES[0]) == "host-south")
    site.roster.add_wanted({NAMES[1]: "{}"})
    wait_until(lambda: shares(site) == [2, 2] and len(site.roster.view().asking) == 1)
    assert site.roster.find_lost() == set()


def test_a_machine_of_a_site_is_drained_to_the_other_one_there(site):
    want_near(site, NORTH)
    site.add("old", node="old", site="north")
    site.add("south", site="south")
    wait_until(lambda: shares(site) == [4, 4])
    site.roster.drain("old")
    time.sleep(1)
    assert readers_of(site, NAMES[:4]) == {"host-old"}, "nobody else may have them"
    site.add("new", site="north")
    wait_until(lambda: readers_of(site, NAMES[:4]) == {"host-new"})
    assert readers_of(site, NAMES[4:8]) == {"host-south"}


def test_pauses_keep_count_of_who_asks_for_what(site):
    want_near(site, NORTH)
    assert site.roster.pause(NAMES[0])
    assert asking(site) == [(3, 3)]
    text = site.roster.get_paused(NAMES[0])
    assert text == NORTH
    site.roster.add_wanted({NAMES[0]: text})
    site.roster.add_wanted({NAMES[0]: text})
    assert site.roster.forget(NAMES[1])
    assert asking(site) == [(3, 3)]
    site.roster.put_wanted(dict.fromkeys(NAMES[2:6], "{}"), version="v1")
    assert asking(site) == []
    assert site.roster.view().num_free == site.roster.view().num_wanted == 4
