"""What there is: stream facts, totals, index rows and gaps, read without a record."""

import logging
from collections.abc import Collection, Iterator
from typing import Any

from pipeline.store import rows
from pipeline.store.checks import require_range, unknown_stream_error
from pipeline.store.redis.database import RedisDatabase
from pipeline.values.errors import CorruptValue
from pipeline.values.types import ClipSpan, Gap, Position, StreamInfo, StreamOverview, StreamTotals

logger = logging.getLogger(__name__)


class RedisIndex(RedisDatabase):
    """`base.StreamIndex`."""

    def list_streams(self) -> list[str]:
        with self._translated("streams"):
            members: Any = self._client.smembers(self._keys.streams)
        return sorted(member.decode(errors="replace") for member in members)

    def get_info(self, stream_id: str) -> StreamInfo:
        with self._translated(stream_id):
            values: Any = self._client.hgetall(self._keys.info(stream_id))
        if not values:
            raise unknown_stream_error(stream_id)
        return rows.info_from_hash(stream_id, values)

    def get_overview(self, stream_id: str) -> StreamOverview:
        keys = self._keys
        with self._translated(stream_id), self._client.pipeline(transaction=False) as pipe:
            pipe.hgetall(keys.info(stream_id))
            pipe.zcard(keys.gaps(stream_id))
            pipe.get(keys.lease(stream_id))
            facts, num_gaps, lease = pipe.execute()
        if not facts:
            raise unknown_stream_error(stream_id)
        return StreamOverview(
            info=rows.info_from_hash(stream_id, facts),
            totals=self._totals_in(stream_id, facts.get(rows.TOTALS.encode())),
            num_gaps=num_gaps,
            position=self._position_in(stream_id, facts.get(rows.POSITION.encode())),
            writer=self._lease_in(stream_id, lease),
        )

    def get_position(self, stream_id: str) -> Position | None:
        with self._translated(stream_id):
            text: Any = self._client.hget(self._keys.info(stream_id), rows.POSITION)
        return self._position_in(stream_id, text)

    def iter_rows(
        self, stream_id: str, start_s: float | None = None, end_s: float | None = None
    ) -> Iterator[ClipSpan | CorruptValue]:
        """As `VerifiedReads.iter_rows`."""
        start_s, end_s = require_range(start_s, end_s)
        info = self._keys.info(stream_id)
        with self._translated(stream_id):
            known: Any = self._client.hmget(info, "fingerprint", rows.LAYOUT_FIELD, rows.LONGEST)
            if known[0] is None:
                raise unknown_stream_error(stream_id)
            rows.require_readable(stream_id, known[1])
            # A clip that reaches into the range starts at most the longest clip before it.
            lowest = "-inf" if start_s is None else start_s - float(known[2] or 0)
            highest = "+inf" if end_s is None else f"({end_s!r}"
            for member in self._iter_members(self._keys.clips(stream_id), lowest, highest):
                try:
                    span = rows.span_from_text(stream_id, member)
                except CorruptValue as error:
                    yield error
                    continue
                if start_s is None or span.overlaps(start_s, end_s):
                    yield span

    def list_gaps(self, stream_id: str) -> list[Gap]:
        keys = self._keys
        with self._translated(stream_id), self._client.pipeline(transaction=False) as pipe:
            pipe.hget(keys.info(stream_id), rows.LAYOUT_FIELD)
            pipe.zrange(keys.gaps(stream_id), 0, -1)
            layout, members = pipe.execute()
        rows.require_readable(stream_id, layout)
        return sorted(
            (gap for member in members if (gap := read_gap(stream_id, member)) is not None),
            key=lambda gap: (gap.start_s, gap.end_s),
        )

    def _count(self, stream_id: str, without: Collection[bytes] = ()) -> StreamTotals:
        """The totals anew, from every row but some."""
        totals = self._count_held(stream_id)
        for member in self._iter_members(self._keys.clips(stream_id), "-inf", "+inf"):
            if member in without:
                continue
            try:
                totals = totals.plus(rows.span_from_text(stream_id, member))
            except CorruptValue as error:
                logger.warning("not counted: %s", error)
        return totals

    def _count_held(self, stream_id: str) -> StreamTotals:
        """The totals of a stream's gaps alone."""
        return StreamTotals().with_gaps(self.list_gaps(stream_id))

    def _totals_in(self, stream_id: str, text: bytes | None) -> StreamTotals:
        if text is not None:
            return rows.totals_from_text(stream_id, text)
        with self._translated(stream_id):  # a stream from before there were totals
            return self._count(stream_id)

    @staticmethod
    def _position_in(stream_id: str, text: bytes | None) -> Position | None:
        return None if text is None else rows.position_from_text(stream_id, text)


def read_gap(stream_id: str, member: bytes) -> Gap | None:
    """The gap; one that does not read is logged."""
    try:
        return rows.gap_from_text(stream_id, member)
    except CorruptValue as error:
        logger.warning("left out of the gaps: %s", error)
        return None
