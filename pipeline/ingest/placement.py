"""Which host takes how many of which streams: a pure function, which every host computes alike.

Streams that ask for the same labels are one group. Those that fewest hosts will do for are given
out first, each stream to the host that has least; those that ask for nothing fill up what is left,
so that all hosts have as many as one another as far as the others allow.
"""

import hashlib
from collections.abc import Iterable, Mapping

from pipeline.values.labels import ANYWHERE, Labels, LabelSelector

Shares = dict[str, dict[LabelSelector, int]]
"""How many streams of each group are a host's."""


def share_out(
    wanted: Mapping[LabelSelector, int], hosts: Mapping[str, Labels], *, most: int
) -> Shares:
    """Share groups of so many streams out to hosts of at most so many each.

    A group has no more shares than streams, but for the one that asks for nothing: there all that
    may have an equal number have it, so that a stream less moves none. What finds no share waits.
    """
    shares: Shares = {host: {} for host in hosts}
    asking = [selector for selector in wanted if selector != ANYWHERE]
    near = {
        selector: [host for host, labels in hosts.items() if selector.matches(labels)]
        for selector in asking
    }
    left: dict[LabelSelector, int] = {}
    for selector in sorted(asking, key=lambda one: (len(near[one]), one)):
        left[selector] = _fill(shares, near[selector], selector, wanted[selector], most)
    for selector in sorted(left):
        if left[selector] and not selector.is_required:
            _fill(shares, list(hosts), selector, left[selector], most)
    _level(shares, wanted.get(ANYWHERE, 0), most)
    return shares


def _fill(
    shares: Shares, hosts: Iterable[str], selector: LabelSelector, count: int, most: int
) -> int:
    """Give each of so many streams to the host that has least; how many found none."""
    loads = {host: sum(shares[host].values()) for host in hosts}
    order = sorted(loads, key=lambda host: _rank(selector, host))
    level = _level_for(loads.values(), count, most)
    given = {host: max(0, level - loads[host]) for host in order}
    surplus = sum(given.values()) - count
    for host in reversed(order):  # those that the last round would give one stream too many
        if surplus > 0 and given[host]:
            given[host] -= 1
            surplus -= 1
    for host, number in given.items():
        if number:
            shares[host][selector] = shares[host].get(selector, 0) + number
    return count - sum(given.values())


def _level(shares: Shares, count: int, most: int) -> None:
    loads = {host: sum(share.values()) for host, share in shares.items()}
    level = _level_for(loads.values(), count, most)
    for host, load in loads.items():
        if level > load:
            shares[host][ANYWHERE] = level - load


def _level_for(loads: Iterable[int], count: int, most: int) -> int:
    """The lowest that all can be filled up to so that so many streams find room; `most` at most."""
    loads = sorted(min(load, most) for load in loads)
    filled = 0
    for number, load in enumerate(loads):
        filled += load
        ceiling = loads[number + 1] if number + 1 < len(loads) else most
        level = -(-(count + filled) // (number + 1))
        if level <= ceiling:
            return level
    return most


def _rank(selector: LabelSelector, host: str) -> bytes:
    """An order of hosts of its own for each group: what is left over falls to no host always."""
    return hashlib.blake2b(f"{selector.key} {host}".encode(), digest_size=8).digest()
