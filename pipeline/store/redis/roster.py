"""The roster on a server: sets between which a stream is moved, one command a move.

`SMOVE` is the claim: of two that move one member out of a set one is told that it did. So nothing
here needs a script, a lock or a retry. All keys share one slot.
"""

import json
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from pipeline.store.redis.database import RedisDatabase
from pipeline.store.roster import HostView, RosterView, Seat, Standing
from pipeline.values.errors import CorruptValue

WHAT = "roster"
CLOCK_S = 60.0
SILENT_AT_ONCE = 64
"""Hosts that one beat names as silent; the next one names others."""


class RedisRoster(RedisDatabase):
    """`pipeline.store.roster.Roster`."""

    _clock: tuple[float, float] | None = None
    """The server's time, and ours by the monotonic clock, at the last beat."""

    def put_wanted(self, wanted: Mapping[str, str], *, version: str) -> set[str]:
        return self._change(wanted, version, keep_others=False)

    def add_wanted(self, wanted: Mapping[str, str], *, version: str | None = None) -> None:
        self._change(wanted, version, keep_others=True)

    def _change(
        self, texts: Mapping[str, str], version: str | None, *, keep_others: bool
    ) -> set[str]:
        """Have these, and others only if they are to be kept; the names of those that go."""
        key = self._keys.roster

        def body(pipe: Any) -> set[str]:
            known, asleep = (
                {name.decode() for name in pipe.hkeys(key(what))} for what in ("wanted", "paused")
            )
            resting = set() if keep_others else asleep & set(texts)
            wanted = {name: text for name, text in texts.items() if name not in resting}
            gone = set() if keep_others else known - set(texts)
            woken = asleep & set(wanted) if keep_others else asleep - resting
            pipe.multi()
            if gone:
                pipe.hdel(key("wanted"), *gone)
                pipe.srem(key("free"), *gone)
            if woken:
                pipe.hdel(key("paused"), *woken)
            if resting:
                pipe.hset(key("paused"), mapping={name: texts[name] for name in resting})
            if wanted:
                pipe.hset(key("wanted"), mapping=wanted)
            if new := set(wanted) - known:
                pipe.sadd(key("free"), *new)
            if version is not None:
                pipe.hset(key("facts"), "version", version)
            pipe.hincrby(key("facts"), "revision", 1)
            pipe.execute()
            return gone

        return self._transact(WHAT, [key("wanted"), key("paused")], body)

    def pause(self, stream_id: str) -> bool:
        return self._take_off(stream_id, keep=True)

    def forget(self, stream_id: str) -> bool:
        return self._take_off(stream_id, keep=False)

    def _take_off(self, stream_id: str, *, keep: bool) -> bool:
        """Off the list of those that are wanted, to those that are paused or to nowhere."""
        key = self._keys.roster

        def body(pipe: Any) -> bool:
            text, rested = pipe.hget(key("wanted"), stream_id), pipe.hget(key("paused"), stream_id)
            if text is None and (keep or rested is None):
                return False
            pipe.multi()
            pipe.hdel(key("wanted"), stream_id)
            pipe.srem(key("free"), stream_id)
            if keep:
                pipe.hset(key("paused"), stream_id, text)
            else:
                pipe.hdel(key("paused"), stream_id)
            pipe.hincrby(key("facts"), "revision", 1)
            pipe.execute()
            return True

        return self._transact(WHAT, [key("wanted"), key("paused")], body)

    def get_paused(self, stream_id: str) -> str | None:
        with self._translated(WHAT):
            text = self._command("hget", self._keys.roster("paused"), stream_id)
        return None if text is None else text.decode()

    def is_held(self, stream_id: str, *, silent_s: float) -> bool:
        key = self._keys.roster
        with self._translated(WHAT):
            hosts = self._command("zrangebyscore", key("alive"), self._now() - silent_s, "+inf")
            with self._client.pipeline(transaction=False) as pipe:
                for host in hosts:
                    pipe.sismember(key(f"held:{host.decode()}"), stream_id)
                answers: Any = pipe.execute()
        return any(answers)

    def get_wanted(self, stream_ids: Collection[str]) -> dict[str, str]:
        if not stream_ids:
            return {}
        names = list(stream_ids)
        with self._translated(WHAT):
            texts = self._command("hmget", self._keys.roster("wanted"), names)
        return {
            name: text.decode() for name, text in zip(names, texts, strict=True) if text is not None
        }

    def beat(self, seat: Seat, *, takes: bool, silent_s: float) -> Standing:
        key, host = self._keys.roster, seat.host
        with self._translated(WHAT):
            now_s = self._now()
            with self._client.pipeline(transaction=False) as pipe:
                pipe.zadd(key("alive"), {host: now_s})
                pipe.zadd(key("takers"), {host: now_s}) if takes else pipe.zrem(key("takers"), host)
                pipe.hset(key("hosts"), host, json.dumps(asdict(seat)))
                pipe.smembers(key(f"held:{host}"))
                pipe.scard(key("free"))
                pipe.hlen(key("wanted"))
                pipe.zcard(key("takers"))
                pipe.hmget(key("facts"), "version", "revision")
                pipe.sismember(key("draining"), seat.node)
                pipe.zrangebyscore(
                    key("alive"), "-inf", now_s - silent_s, start=0, num=SILENT_AT_ONCE
                )
                if self._is_one_server:
                    pipe.time()
                answers: Any = pipe.execute()
        if self._is_one_server:
            self._set_clock(*answers.pop())
        held, num_free, num_wanted, num_takers, facts, is_draining, silent = answers[3:]
        return Standing(
            held=frozenset(name.decode() for name in held),
            num_free=num_free,
            num_wanted=num_wanted,
            num_takers=num_takers,
            version=(facts[0] or b"").decode(),
            revision=int(facts[1] or 0),
            is_draining=bool(is_draining),
            silent=tuple(name.decode() for name in silent),
        )

    def claim(self, host: str, most: int) -> list[str]:
        key = self._keys.roster
        with self._translated(WHAT):
            seen = self._command("srandmember", key("free"), most) if most > 0 else []
            return self._move(seen, key("free"), key(f"held:{host}"))

    def give_back(self, host: str, stream_ids: Iterable[str]) -> None:
        key = self._keys.roster
        wanted = self.get_wanted(names := list(stream_ids))
        self.drop(host, [name for name in names if name not in wanted])
        with self._translated(WHAT):
            self._move([name.encode() for name in wanted], key(f"held:{host}"), key("free"))

    def drop(self, host: str, stream_ids: Iterable[str]) -> None:
        names = list(stream_ids)
        if names:
            with self._translated(WHAT):
                self._command("srem", self._keys.roster(f"held:{host}"), *names)

    def bury(self, host: str) -> int:
        key = self._keys.roster
        held, free = key(f"held:{host}"), key("free")
        with self._translated(WHAT), self._client.pipeline(transaction=True) as pipe:
            pipe.scard(held)
            pipe.sunionstore(free, free, held)  # what is not wanted any more, claimers drop
            pipe.delete(held)
            pipe.zrem(key("alive"), host)
            pipe.zrem(key("takers"), host)
            pipe.hdel(key("hosts"), host)
            answers: Any = pipe.execute()
        return answers[0]

    def drain(self, node: str, *, wanted: bool = True) -> None:
        with self._translated(WHAT):
            self._command("sadd" if wanted else "srem", self._keys.roster("draining"), node)

    def view(self) -> RosterView:
        key = self._keys.roster
        with self._translated(WHAT):
            now_s, seats = self._now(), self._command("hgetall", key("hosts"))
            names = sorted(seats)
            with self._client.pipeline(transaction=False) as pipe:
                pipe.hget(key("facts"), "version")
                pipe.hlen(key("wanted"))
                pipe.scard(key("free"))
                pipe.hlen(key("paused"))
                pipe.smembers(key("draining"))
                pipe.zrange(key("takers"), 0, -1)
                for name in names:
                    pipe.scard(key(f"held:{name.decode()}"))
                    pipe.zscore(key("alive"), name)
                version, num_wanted, num_free, num_paused, draining, takers, *rest = pipe.execute()
        hosts = []
        for name, num_streams, heard_s in zip(names, rest[::2], rest[1::2], strict=True):
            seat = _seat_of(seats[name])
            is_draining = seat.node.encode() in draining
            quiet_s = max(0.0, now_s - (heard_s or 0.0))
            hosts.append(HostView(seat, num_streams, quiet_s, name in takers, is_draining))
        return RosterView((version or b"").decode(), num_wanted, num_free, tuple(hosts), num_paused)

    def find_lost(self) -> set[str]:
        key = self._keys.roster
        with self._translated(WHAT):
            hosts = self._command("hkeys", key("hosts"))
            with self._client.pipeline(transaction=True) as pipe:
                pipe.hkeys(key("wanted"))
                pipe.smembers(key("free"))
                for host in hosts:
                    pipe.smembers(key(f"held:{host.decode()}"))
                wanted, *taken = pipe.execute()
        return {name.decode() for name in set(wanted).difference(*taken)}

    def free(self, stream_ids: Iterable[str]) -> None:
        wanted = self.get_wanted(list(stream_ids))
        if wanted:
            with self._translated(WHAT):
                self._command("sadd", self._keys.roster("free"), *wanted)

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

    def _command(self, name: str, *arguments: Any, **options: Any) -> Any:
        """redis-py types an answer as perhaps awaitable; here it never is."""
        return getattr(self._client, name)(*arguments, **options)


def _seat_of(text: bytes) -> Seat:
    try:
        return Seat(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise CorruptValue(f"a host of the roster does not read: {error!r:.200}") from error
