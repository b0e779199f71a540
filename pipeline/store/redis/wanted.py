"""The list of the roster on a server: which streams there are to be, and which are paused.

A stream that is new to it is put among the free ones, with those that ask for the same labels.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pipeline.store.redis.database import RedisDatabase
from pipeline.values.labels import ANYWHERE, LabelSelector, selector_of

WHAT = "roster"


class RedisWanted(RedisDatabase):
    """The part of `pipeline.store.roster.Roster` that tells what is wanted."""

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
            asleep = {name.decode() for name in pipe.hkeys(key("paused"))}
            if keep_others:
                before = self._texts(pipe, texts)
            else:
                before = _decoded(pipe.hgetall(key("wanted")))
            resting = set() if keep_others else asleep & set(texts)
            wanted = {name: text for name, text in texts.items() if name not in resting}
            gone = set() if keep_others else set(before) - set(texts)
            woken = asleep & set(wanted) if keep_others else asleep - resting
            pipe.multi()
            self._regroup(pipe, before, wanted, gone)
            if gone:
                pipe.hdel(key("wanted"), *gone)
            if woken:
                pipe.hdel(key("paused"), *woken)
            if resting:
                pipe.hset(key("paused"), mapping={name: texts[name] for name in resting})
            if wanted:
                pipe.hset(key("wanted"), mapping=wanted)
            if version is not None:
                pipe.hset(key("facts"), "version", version)
            pipe.hincrby(key("facts"), "revision", 1)
            pipe.execute()
            return gone

        return self._transact(WHAT, [key("wanted"), key("paused")], body)

    def _texts(self, pipe: Any, names: Iterable[str]) -> dict[str, str]:
        """Of those that are wanted."""
        names = list(names)
        texts = pipe.hmget(self._keys.roster("wanted"), names) if names else []
        return {name: text.decode() for name, text in zip(names, texts, strict=True) if text}

    def _regroup(
        self,
        pipe: Any,
        before: Mapping[str, str],
        wanted: Mapping[str, str],
        gone: Iterable[str],
    ) -> None:
        """Have new streams free among those that ask for the same, and nowhere what has gone.

        One that asks for something else now is moved where it is free; a host that has it gives it
        back when it hears of it.
        """
        more = Counter[str]()
        for selector, names in grouped({name: before[name] for name in gone}).items():
            more[selector.key] -= len(names)
            pipe.srem(self._free(selector), *names)
        new: dict[LabelSelector, list[str]] = defaultdict(list)
        for name, text in wanted.items():
            selector = selector_of(text)
            more[selector.key] += 1
            if name not in before:
                new[selector].append(name)
                continue
            last = selector_of(before[name])
            more[last.key] -= 1
            if last != selector:
                pipe.smove(self._free(last), self._free(selector), name)
        for selector, names in new.items():
            pipe.sadd(self._free(selector), *names)
        for one, number in more.items():
            if one != ANYWHERE.key and number:
                pipe.hincrby(self._keys.roster("asking"), one, number)

    def _free(self, selector: LabelSelector) -> str:
        return self._keys.roster(f"free:{selector.key}" if selector.key else "free")

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
            if text is not None:
                self._regroup(pipe, {stream_id: text.decode()}, {}, [stream_id])
            pipe.hdel(key("wanted"), stream_id)
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

    def get_wanted(self, stream_ids: Collection[str]) -> dict[str, str]:
        if not stream_ids:
            return {}
        names = list(stream_ids)
        with self._translated(WHAT):
            texts = self._command("hmget", self._keys.roster("wanted"), names)
        return {
            name: text.decode() for name, text in zip(names, texts, strict=True) if text is not None
        }

    def _command(self, name: str, *arguments: Any, **options: Any) -> Any:
        """redis-py types an answer as perhaps awaitable; here it never is."""
        return getattr(self._client, name)(*arguments, **options)


def _decoded(texts: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): text.decode() for name, text in texts.items()}


def grouped(texts: Mapping[str, str]) -> dict[LabelSelector, list[str]]:
    """Streams by what they ask for."""
    groups: dict[LabelSelector, list[str]] = defaultdict(list)
    for name, text in texts.items():
        groups[selector_of(text)].append(name)
    return groups
