"""A host: one process that reads as many of the roster's streams as fall to it.

It has no plan and needs nobody who has one. With every beat it sees how many streams there are and
which hosts take some, from which all compute the same shares (`placement`). It takes what is free
up to its own, and hands over what is beyond, one by one and only while nothing waits to be taken
and others have room. A host whose version is no longer the one that is to be, or whose machine is
to be left, has a share of none: rebalancing, draining and a rolling update are that one rule. What
asks for labels that its machine has not it never reads. Knows of no source and no cluster.
"""

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from pipeline.ingest.fleet import Members
from pipeline.ingest.placement import Shares, share_out
from pipeline.store.roster import Roster, Seat, Standing
from pipeline.values.errors import StoreError
from pipeline.values.labels import ANYWHERE, LabelSelector, selector_of
from pipeline.values.types import Lease

logger = logging.getLogger(__name__)

HOST_PREFIX = "host-"
"""Of the name of every host, and of no other writer of streams."""
BURIED_AT_ONCE = 4
"""Silent hosts that one host attends to at one beat; others attend to others."""
JITTER = 0.8, 1.2
"""Of the time between two beats, so that hosts that were started together do not stay so."""
SETTLED_BEATS = 4
"""Of a host that takes no more, before it hands over: who leaves with it has said so by then."""
LOOK_FOR_LOST_S = 30.0
"""How often one of all hosts looks for streams that a server forgot."""


@dataclass(frozen=True)
class HostRules:
    """How many streams a host takes, and when it is taken for gone."""

    most: int = 16
    """Streams of one host at most."""
    beat_s: float = 0.5
    silent_s: float = 3.0
    """A host that was not heard for so long is gone: others take its streams."""
    grace_s: float = 10.0
    """Who was itself cut off from the store takes nobody for gone for so long: all were."""


RunStream = Callable[[str, str, Lease | None, threading.Event], None]
"""Reads a stream (its id, how it is read, its lease where it was got) until it is to end, or
somebody else has it."""
TakeLeases = Callable[[Collection[str]], Mapping[str, Lease]]
"""Takes the leases of many streams at once; those that were got."""


class Host:
    """Beats, takes, hands over; `work` is its life."""

    def __init__(
        self,
        roster: Roster,
        seat: Seat,
        rules: HostRules,
        run: RunStream,
        *,
        take: TakeLeases,
        stop: threading.Event,
        retire: threading.Event | None = None,
    ) -> None:
        """`stop` ends all streams at once and gives them back; `retire` hands them over first."""
        self._roster, self._seat, self._rules = roster, seat, rules
        self._run, self._take = run, take
        self._stop, self._retire = stop, retire or threading.Event()
        self._halt = threading.Event()
        self._members = Members[tuple[str, str]](self._run_member, stop=self._halt)
        self._taken: dict[str, Lease] = {}
        """Leases of streams that are not begun yet."""
        self._asked: dict[str, LabelSelector] = {}
        """What each stream that it took asks for."""
        self._shares: tuple[object, Shares] = None, {}
        """And what they were computed from."""
        self._takes, self._settled = False, 0
        self._revision = -1
        self._lost: set[str] = set()
        self._heard_s, self._cut_off_until_s = time.monotonic(), 0.0

    def work(self) -> None:
        """Until it is stopped, or has handed over all that it had and is not needed any more."""
        try:
            while not self._stop.wait(self._rules.beat_s * random.uniform(*JITTER)):
                try:
                    if self._beat():
                        break
                except StoreError as error:
                    logger.warning("%s: the roster is away: %s", self._seat.host, error)
        finally:
            self._leave()

    def _beat(self) -> bool:
        """One turn; whether it is done for good."""
        rules, host = self._rules, self._seat.host
        told = self._takes
        standing = self._roster.beat(self._seat, takes=told, silent_s=rules.silent_s)
        self._note_contact()
        leaves = self._retire.is_set() or standing.version != self._seat.version
        self._takes = not leaves and not standing.is_draining
        gone = self._follow(standing)
        idle = [name for name in standing.held - gone if name not in self._members]
        shares = self._share_out(standing)
        if self._takes:
            self._bury(standing)
            self._begin([*self._claim(standing, shares[host]), *idle])
        else:
            self._give_back(idle)
        self._settled = 0 if told and not self._takes else self._settled + 1
        # Of what was given back just now `standing` does not know, nor of others that leave too.
        if not gone and self._settled >= SETTLED_BEATS:
            self._hand_over(standing, shares)
        return leaves and not standing.held and not len(self._members)

    def _share_out(self, standing: Standing) -> Shares:
        """Of all hosts that take streams, this one among them if it does."""
        takers = {host: one for host, one in standing.takers.items() if host != self._seat.host}
        if self._takes:
            takers[self._seat.host] = self._seat.labels
        if self._shares[0] != (standing.wanted, takers):
            shares = share_out(standing.wanted, takers, most=self._rules.most)
            self._shares = (standing.wanted, takers), shares
        return self._shares[1]

    def _claim(self, standing: Standing, due: Mapping[LabelSelector, int]) -> list[str]:
        """Take what is free, up to what is due; those that were got."""
        held, claimed = self._count(standing.held), list[str]()
        for selector, number in due.items():
            room = self._rules.most - len(standing.held) - len(claimed)
            free = min(number - held[selector], room, standing.free.get(selector, 0))
            if free > 0:
                names = self._roster.claim(self._seat.host, free, selector)
                self._asked |= dict.fromkeys(names, selector)
                claimed += names
        self._taken |= self._take(claimed)
        return claimed

    def _count(self, names: Iterable[str]) -> Counter[LabelSelector]:
        """How many of them ask for what."""
        return Counter(self._asked.get(name, ANYWHERE) for name in names)

    def _give_back(self, names: Collection[str]) -> None:
        for name in names:
            self._taken.pop(name, None)
            self._asked.pop(name, None)
        self._roster.give_back(self._seat.host, names)

    def _note_contact(self) -> None:
        """A store that was away was away for all: their beats come in a moment."""
        now_s = time.monotonic()
        if now_s - self._heard_s > self._rules.silent_s:
            self._cut_off_until_s = now_s + self._rules.grace_s
        self._heard_s = now_s

    def _follow(self, standing: Standing) -> set[str]:
        """End what is not held, or wanted otherwise; what has ended is let go, and named."""
        members, host = self._members, self._seat.host
        ended = members.collect()
        for name, asked in ended.items():
            self._asked.pop(name, None)
            if name in standing.held:
                # By itself it ends when somebody else has its lease: then it is not ours to give.
                (self._roster.give_back if asked else self._roster.drop)(host, [name])
        for name in members.wanted(ending=False):
            if name not in standing.held:
                logger.warning("%s: stream %s is somebody else's now", host, name)
                members.end(name)
        if standing.revision != self._revision:
            self._revision = standing.revision
            texts = self._roster.get_wanted(standing.held)
            for name, (_, text) in members.wanted(ending=False).items():
                if texts.get(name) != text:
                    members.end(name)
        return set(ended)

    def _begin(self, names: list[str]) -> None:
        """Those that there is time for until the next beat; what is left is idle then."""
        until_s = time.monotonic() + self._rules.beat_s
        texts = self._roster.get_wanted(names)
        gone = [name for name in names if name not in texts]
        self._roster.drop(self._seat.host, gone)
        for name in gone:
            self._taken.pop(name, None)
            self._asked.pop(name, None)
        self._asked |= {name: selector_of(text) for name, text in texts.items()}
        strange = [name for name in texts if not self._asked[name].admits(self._seat.labels)]
        self._give_back(strange)  # it asks for other labels since just now
        for name in texts:
            if name in strange:
                continue
            if name not in self._members:  # else its last session ends just now
                self._members.begin(name, (name, texts[name]))
            if time.monotonic() > until_s:
                return

    def _run_member(self, one: tuple[str, str], own: threading.Event) -> None:
        name, text = one
        self._run(name, text, self._taken.pop(name, None), own)

    def _hand_over(self, standing: Standing, shares: Shares) -> None:
        """Let one stream more than is due go, where another can take it.

        Or where one that nobody else may have waits for its place.
        """
        running = self._members.wanted(ending=False)
        if len(running) < len(self._members):
            return  # one is under way
        due, held = shares.get(self._seat.host, {}), self._count(standing.held)
        others = Counter[LabelSelector]()
        for host, share in shares.items():
            if host != self._seat.host:
                others.update(share)
        lacks = any(n > held[one] and standing.free.get(one) for one, n in due.items())
        is_full = lacks and len(standing.held) >= self._rules.most
        if not is_full and self._is_one_awaited(standing, Counter(due) + others):
            return
        for name in running:
            selector = self._asked.get(name, ANYWHERE)
            has_room = others[selector] > standing.wanted.get(selector, 0) - held[selector]
            if held[selector] > due.get(selector, 0) and (has_room or is_full):
                self._members.end(name)
                return

    def _is_one_awaited(self, standing: Standing, due: Mapping[LabelSelector, int]) -> bool:
        """Whether a stream is free that somebody is to take."""
        return any(
            free and due.get(selector, 0) > standing.wanted.get(selector, 0) - free
            for selector, free in standing.free.items()
        )

    def _bury(self, standing: Standing) -> None:
        """Free what silent hosts had, and now and then what got lost."""
        now_s = time.monotonic()
        if now_s < self._cut_off_until_s:
            return
        for name in random.sample(standing.silent, min(BURIED_AT_ONCE, len(standing.silent))):
            freed = self._roster.bury(name)
            logger.warning("%s: %s is gone; %d streams are free", self._seat.host, name, freed)
        if self._lost or random.random() < self._rules.beat_s / LOOK_FOR_LOST_S / (
            1 + len(standing.takers)
        ):
            lost = self._roster.find_lost()  # twice in a row, as one may just be on its way
            self._roster.free(lost & self._lost)
            self._lost = lost - self._lost

    def _leave(self) -> None:
        """Give all back, so that nobody has to find out."""
        self._halt.set()
        self._members.join()
        try:
            self._roster.bury(self._seat.host)
        except StoreError as error:
            logger.warning("%s: its streams are not given back: %s", self._seat.host, error)
