"""The roster on a server: sets between which a stream is moved, one command a move.

`SMOVE` is the claim: of two that move one member out of a set one is told that it did. So taking
and giving back need no script, no lock and no retry; what becomes of a dead host's streams, and of
the list (`wanted`), is a transaction. All keys share one slot.
"""

import json
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, fields
from functools import partial
from typing import Any

from pipeline.store.redis.wanted import WHAT, RedisWanted, grouped
from pipeline.store.roster import Asking, HostView, RosterView, Seat, Standing
from pipeline.values.errors import CorruptValue
from pipeline.values.labels import ANYWHERE, Labels, LabelSelector

CLOCK_S = 60.0
SILENT_AT_ONCE = 64
"""Hosts that one beat names as silent; the next one names others."""


class RedisRoster(RedisWanted):
    """`pipeline.store.roster.Roster`."""

    _clock: tuple[float, float] | None = None
    """The server's time, and ours by the monotonic clock, at the last beat."""
    _asking: tuple[int, dict[LabelSelector, int]] = -1, {}
    """How many streams ask for which labels, and at which revision."""
    _labels: Mapping[str, Labels] = {}
    """Of the hosts that took streams at the last beat; a host's never change."""

    def is_held(self, stream_id: str, *, silent_s: float) -> bool:
        key = self._keys.roster
        with self._translated(WHAT):
            hosts = self._command("zrangebyscore", key("alive"), self._now() - silent_s, "+inf")
            with self._client.pipeline(transaction=False) as pipe:
                for host in hosts:
                    pipe.sismember(key(f"held:{host.decode()}"), stream_id)
                answers: Any = pipe.execute()
        return any(answers)

    def beat(self, seat: Seat, *, takes: bool, silent_s: float) -> Standing:
        key, host = self._keys.roster, seat.host
        mine = [one for one in self._asking[1] if one.admits(seat.labels)]
        with self._translated(WHAT):
            now_s = self._now()
            with self._client.pipeline(transaction=False) as pipe:
                pipe.zadd(key("alive"), {host: now_s})
                pipe.zadd(key("takers"), {host: now_s}) if takes else pipe.zrem(key("takers"), host)
                pipe.hset(key("hosts"), host, _text_of(seat))
                pipe.smembers(key(f"held:{host}"))
                pipe.hlen(key("wanted"))
                pipe.zrange(key("takers"), 0, -1)
                pipe.hmget(key("facts"), "version", "revision")
                pipe.sismember(key("draining"), seat.node)
                pipe.zrangebyscore(
                    key("alive"), "-inf", now_s - silent_s, start=0, num=SILENT_AT_ONCE
                )
                for selector in (ANYWHERE, *mine):
                    pipe.scard(self._free(selector))
                if self._is_one_server:
                    pipe.time()
                answers: Any = pipe.execute()
            if self._is_one_server:
                self._set_clock(*answers.pop())
            held, num_wanted, takers, facts, is_draining, silent, *free = answers[3:]
            revision = int(facts[1] or 0)
            asking = self._look_up_asking(revision)
            names = [name.decode() for name in takers]
            labels = self._look_up_labels(names, seat, are_asked_for=bool(asking))
        return Standing(
            held=frozenset(name.decode() for name in held),
            wanted={ANYWHERE: max(0, num_wanted - sum(asking.values())), **asking},
            free=dict(zip((ANYWHERE, *mine), free, strict=True)),
            takers=labels,
            version=(facts[0] or b"").decode(),
            revision=revision,
            is_draining=bool(is_draining),
            silent=tuple(name.decode() for name in silent),
        )

    def _look_up_asking(self, revision: int) -> dict[LabelSelector, int]:
        if self._asking[0] != revision:
            texts = self._command("hgetall", self._keys.roster("asking"))
            self._asking = revision, _asking(texts)
        return self._asking[1]

    def _look_up_labels(
        self, takers: list[str], seat: Seat, *, are_asked_for: bool
    ) -> dict[str, Labels]:
        """Of hosts, without one that has just gone."""
        if not are_asked_for:
            return {name: {} for name in takers}
        known = {seat.host: seat.labels, **self._labels}
        if new := [name for name in takers if name not in known]:
            texts = self._command("hmget", self._keys.roster("hosts"), new)
            known |= {n: _seat_of(text).labels for n, text in zip(new, texts, strict=True) if text}
        self._labels = {name: known[name] for name in takers if name in known}
        return dict(self._labels)

    def claim(self, host: str, most: int, selector: LabelSelector = ANYWHERE) -> list[str]:
        free = self._free(selector)
        with self._translated(WHAT):
            seen = self._command("srandmember", free, most) if most > 0 else []
            return self._move(seen, free, self._keys.roster(f"held:{host}"))

    def give_back(self, host: str, stream_ids: Iterable[str]) -> None:
        key = self._keys.roster
        wanted = self.get_wanted(names := list(stream_ids))
        self.drop(host, [name for name in names if name not in wanted])
        with self._translated(WHAT):
            for selector, group in grouped(wanted).items():
                self._move(
                    [name.encode() for name in group], key(f"held:{host}"), self._free(selector)
                )

    def drop(self, host: str, stream_ids: Iterable[str]) -> None:
        names = list(stream_ids)
        if names:
            with self._translated(WHAT):
                self._command("srem", self._keys.roster(f"held:{host}"), *names)

    def bury(self, host: str) -> int:
        key = self._keys.roster
        held = key(f"held:{host}")

        def body(pipe: Any) -> int:
            names = [name.decode() for name in pipe.smembers(held)]
            wanted = self._texts(pipe, names)
            pipe.multi()
            for selector, group in grouped(wanted).items():
                pipe.sadd(self._free(selector), *group)
            pipe.delete(held)
            pipe.zrem(key("alive"), host)
            pipe.zrem(key("takers"), host)
            pipe.hdel(key("hosts"), host)
            pipe.execute()
            return len(names)

        return self._transact(WHAT, [held], body)

    def drain(self, node: str, *, wanted: bool = True) -> None:
        with self._translated(WHAT):
            self._command("sadd" if wanted else "srem", self._keys.roster("draining"), node)

    def view(self) -> RosterView:
        key = self._keys.roster
        with self._translated(WHAT):
            now_s, seats = self._now(), self._command("hgetall", key("hosts"))
            asking = _asking(self._command("hgetall", key("asking")))
            names = sorted(seats)
            with self._client.pipeline(transaction=False) as pipe:
                pipe.hget(key("facts"), "version")
                pipe.hlen(key("wanted"))
                pipe.hlen(key("paused"))
                pipe.smembers(key("draining"))
                pipe.zrange(key("takers"), 0, -1)
                for selector in (ANYWHERE, *asking):
                    pipe.scard(self._free(selector))
                for name in names:
                    pipe.scard(key(f"held:{name.decode()}"))
                    pipe.zscore(key("alive"), name)
                version, num_wanted, num_paused, draining, takers, *rest = pipe.execute()
        free, rest = rest[: 1 + len(asking)], rest[1 + len(asking) :]
        hosts = []
        for name, num_streams, heard_s in zip(names, rest[::2], rest[1::2], strict=True):
            seat = _seat_of(seats[name])
            is_draining = seat.node.encode() in draining
            quiet_s = max(0.0, now_s - (heard_s or 0.0))
            hosts.append(HostView(seat, num_streams, quiet_s, name in takers, is_draining))
        return RosterView(
            (version or b"").decode(),
            num_wanted,
            sum(free),
            tuple(hosts),
            num_paused,
            tuple(Asking(*one, free) for one, free in zip(asking.items(), free[1:], strict=True)),
        )

    def find_lost(self) -> set[str]:
        key = self._keys.roster
        with self._translated(WHAT):
            hosts = self._command("hkeys", key("hosts"))
            asking = self._command("hkeys", key("asking"))
            selectors = [LabelSelector.of_key(one.decode()) for one in asking]
            wanted, *taken = self._once_settled(partial(self._read_at_once, hosts, selectors))
        return {name.decode() for name in set(wanted).difference(*taken)}

    def _read_at_once(self, hosts: list[bytes], selectors: Iterable[LabelSelector]) -> list[Any]:
        """All names that are wanted, then those that are free or held, as of one moment."""
        key = self._keys.roster
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hkeys(key("wanted"))
            for selector in (ANYWHERE, *selectors):
                pipe.smembers(self._free(selector))
            for host in hosts:
                pipe.smembers(key(f"held:{host.decode()}"))
            return pipe.execute()

    def free(self, stream_ids: Iterable[str]) -> None:
        wanted = self.get_wanted(list(stream_ids))
        with self._translated(WHAT):
            for selector, group in grouped(wanted).items():
                self._command("sadd", self._free(selector), *group)

    def _move(self, names: Collection[bytes], source: str, target: str) -> list[str]:
        """Move members between two sets; those that were moved by this call."""
        if not names:
            return []
        with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.smove(source, target, name)
            moved: Any = pipe.execute()
        return [name.decode() for name, won in zip(names, moved, strict=True) if won]

    def _now(self) -> float:
        """Unix time by the clock of the server, told with every beat (of a cluster: a minute)."""
        if self._clock is None or time.monotonic() - self._clock[1] > CLOCK_S:
            options = {}
            if not self._is_one_server:
                options["target_nodes"] = self._client.get_node_from_key(self._keys.roster("free"))
            self._set_clock(*self._command("time", **options))
        assert self._clock is not None
        return self._clock[0] + time.monotonic() - self._clock[1]

    def _set_clock(self, seconds: int, micros: int) -> None:
        self._clock = seconds + micros / 1e6, time.monotonic()


_SEAT = {field.name for field in fields(Seat)}


def _seat_of(text: bytes) -> Seat:
    """What a host of any release wrote."""
    try:
        return Seat(**{name: one for name, one in json.loads(text).items() if name in _SEAT})
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptValue(f"a host of the roster does not read: {error!r:.200}") from error


def _text_of(seat: Seat) -> str:
    """As an earlier release reads it too, where it says nothing that such a one does not know."""
    told = asdict(seat)
    for name in ("labels", "started_for"):
        if not told[name]:
            del told[name]
    return json.dumps(told)


def _asking(texts: Mapping[bytes, bytes]) -> dict[LabelSelector, int]:
    """Without those that no stream asks for any more."""
    counts = {LabelSelector.of_key(key.decode()): int(number) for key, number in texts.items()}
    return {selector: number for selector, number in counts.items() if number > 0}
