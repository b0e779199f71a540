"""Coarser records: one in the place of a clip that fades, and those of several clips together."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from redis.client import Pipeline

from pipeline.store import arrow, rows
from pipeline.store.checks import unknown_stream_error
from pipeline.store.levels import Node
from pipeline.store.redis.expiry import ATTEMPTS, RedisExpiry
from pipeline.store.writes import Exchange, span_of
from pipeline.values.errors import CorruptValue
from pipeline.values.types import ClipSpan, FadedCounts

AT_ONCE = 8
"""Records that are asked for in one message: a few megabytes."""
_DIGEST = (32, 63)
"""Bytes of a record, both ends in."""


class RedisLevels(RedisExpiry):
    """`exchange` of `base.ClipWriter`, and `base.Levels`."""

    def exchange(self, stream_id: str, exchanges: Sequence[Exchange]) -> FadedCounts:
        keys, info = self._keys, self._keys.info(stream_id)
        clips, made = keys.clips(stream_id), [(one, one.blob) for one in exchanges]

        def change(pipe: Pipeline) -> FadedCounts:
            facts = self._read_facts(pipe, stream_id)
            there = self._members_of(pipe, stream_id, [one.span for one in exchanges])
            digests = self._digests(keys.clip(stream_id, s.epoch, s.index) for s in there)
            counts, totals, places = FadedCounts(0, 0, 0), facts.totals, []
            pipe.multi()
            for one, blob in made:
                span, new = one.span, span_of(one.clip, len(blob))
                key = keys.clip(stream_id, span.epoch, span.index)
                if digests.get(key) != one.digest:
                    continue
                pipe.set(key, blob)
                pipe.zrem(clips, there[span])
                pipe.zadd(clips, {rows.span_to_text(new): new.start_s})
                totals = totals and totals.exchanged(span, new)
                counts += _gain(span, new)
                places.append((span.epoch, span.index))
            if places:
                pipe.unlink(*self._levels_over(stream_id, places))
            if totals is not None and totals != facts.totals:
                pipe.hset(info, rows.TOTALS, rows.totals_to_text(totals))
            pipe.execute()
            return counts

        return self._transact(stream_id, [info, clips], change, attempts=ATTEMPTS)

    def measure_levels(self, nodes: Iterable[Node]) -> dict[Node, int]:
        """As `VerifiedReads.measure_levels`."""
        sizes: dict[Node, int] = {}
        for some in _parts(nodes, 1000):
            with self._translated(some[0].stream_id):
                asked = zip(some, self._ask("strlen", some), strict=True)
                sizes |= {node: size for node, size in asked if size}
        return sizes

    def list_digests(self, nodes: Iterable[Node]) -> dict[Node, str]:
        """As `VerifiedReads.list_digests`."""
        found: dict[Node, str] = {}
        for some in _parts(nodes, 1000):
            with self._translated(some[0].stream_id):
                of = self._digests(map(self._level_key, some))
            found |= {node: of[key] for node in some if (key := self._level_key(node)) in of}
        return found

    def iter_level_records(self, nodes: Iterable[Node]) -> Iterator[tuple[Node, bytes | None]]:
        """As `VerifiedReads.iter_level_records`."""
        for some in _parts(nodes, AT_ONCE):
            with self._translated(some[0].stream_id):
                values = self._ask("get", some)
            yield from zip(some, values, strict=True)

    def put_level(
        self, node: Node, blob: bytes, of: dict[Node, str | None], cold: Sequence[ClipSpan] = ()
    ) -> bool:
        arrow.decode_clip(blob, key=node.record_id)
        keys = {child: self._level_key(child) for child in of}

        def put(pipe: Pipeline) -> bool:
            digests = self._digests(keys.values())
            if any(digests.get(keys[child]) != digest for child, digest in of.items()):
                return False
            if cold and len(self._members_of(pipe, node.stream_id, cold)) < len(cold):
                return False
            pipe.multi()
            pipe.set(self._level_key(node), blob)
            pipe.execute()
            return True

        watched = [*keys.values(), *([self._keys.clips(node.stream_id)] if cold else [])]
        return self._transact(node.stream_id, watched, put, attempts=ATTEMPTS)

    def remove_levels(self, nodes: Iterable[Node]) -> None:
        for some in _parts(nodes, 1000):
            with self._translated(some[0].stream_id):
                self._ask("unlink", some)

    def _ask(self, command: str, nodes: Sequence[Node]) -> list[Any]:
        """One command for each of the nodes' keys, which may lie on several servers."""
        with self._client.pipeline(transaction=False) as pipe:
            for node in nodes:
                getattr(pipe, command)(self._level_key(node))
            return pipe.execute()

    def _digests(self, keys: Iterable[str]) -> dict[str, str]:
        """Digests as the records' headers say; of keys that hold one."""
        asked = list(keys)
        if not asked:
            return {}
        with self._client.pipeline(transaction=False) as pipe:
            for key in asked:
                pipe.getrange(key, *_DIGEST)
            return {
                key: part.hex() for key, part in zip(asked, pipe.execute(), strict=True) if part
            }

    def _members_of(
        self, pipe: Pipeline, stream_id: str, spans: Sequence[ClipSpan]
    ) -> dict[ClipSpan, bytes]:
        """Rows as the index has them, of those clips of which it has the same."""
        if not spans:
            raise unknown_stream_error(stream_id)
        asked, starts = set(spans), [span.start_s for span in spans]
        found: Any = pipe.zrangebyscore(self._keys.clips(stream_id), min(starts), max(starts))
        members: dict[ClipSpan, bytes] = {}
        for member in found:
            try:
                span = rows.span_from_text(stream_id, member)
            except CorruptValue:
                continue
            if span in asked:
                members[span] = member
        return members


def _parts(nodes: Iterable[Node], size: int) -> Iterator[list[Node]]:
    left = iter(nodes)
    while some := list(islice(left, size)):
        yield some


def _gain(span: ClipSpan, new: ClipSpan) -> FadedCounts:
    return FadedCounts(1, span.num_tokens - new.num_tokens, span.size_bytes - new.size_bytes)
