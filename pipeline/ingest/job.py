"""What all videos of one ingest share: the settings, the store, and the parts made from them.

The parts are handed to a runner: how a source is opened, where its clips go, what compresses
them. Knows of no cluster but its settings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.ingest.admission import admit
from pipeline.ingest.describe import first_fingerprint, stream_info, unread_stream_info
from pipeline.ingest.identity import Change, Comparison, find_change, known_info
from pipeline.ingest.request import IngestRequest
from pipeline.ingest.segments import Layout, lay_out
from pipeline.ingest.sink import StoreSinkFactory
from pipeline.settings import Settings
from pipeline.store import StoreConfig, open_store
from pipeline.values.errors import Conflict, InvalidSettings, StoreUnavailable
from pipeline.values.times import parse_zone
from pipeline.values.types import StreamInfo, StreamSegment
from workers.clips import check_source, open_clips
from workers.compress import CompressSettings
from workers.decode.joined import probe_segment
from workers.seams import WorkerInfo
from workers.session import CheckSource, OpenClips, Progress
from workers.types import VideoSource

if TYPE_CHECKING:  # where nothing runs on Ray it is not loaded
    from workers.cluster.cluster import Cluster, ClusterSettings, PoolSettings

AHEAD = 2
"""Sessions of several files that have a place at least: one starts while another works."""


@dataclass(frozen=True)
class IngestJob:
    """Settings, and the store as workers open it."""

    settings: Settings
    store: StoreConfig

    @classmethod
    def of(cls, settings: Settings) -> "IngestJob":
        """An embedded server is started here, once, and joined by the workers."""
        with open_store(settings.store_config()) as store:
            return cls(settings, store.config)

    @property
    def joins_cluster(self) -> bool:
        """Sessions may then run on another machine, with files of its own."""
        return self.settings.ray.enabled and self.settings.ray.address is not None

    @property
    def compress(self) -> CompressSettings:
        """What the workers load."""
        return self.settings.compress_settings()

    @property
    def pool(self) -> "PoolSettings":
        """How many workers there are, and what each takes."""
        return self.settings.pool_settings()

    def cluster(self, num_videos: int = 1) -> "ClusterSettings":
        """The cluster, which has room for several sessions where it is started for several."""
        ray = self.settings.ray
        settings = self.settings.cluster_settings()
        if num_videos < 2 or ray.address is not None:
            return settings
        sessions = min(num_videos, max(AHEAD, ray.workers))
        return settings.with_room_for(
            math.ceil(sessions * settings.session_cpus + ray.workers * ray.worker_cpus)
        )

    @property
    def open_clips(self) -> OpenClips:
        """How a source is read."""
        return partial(open_clips, roots=self._roots, backend=self.settings.decode.backend)

    def sink(self, request: IngestRequest, info: WorkerInfo) -> StoreSinkFactory:
        """Where a video's clips go."""
        source, ingest, dtype = request.source, self.settings.ingest, self.settings.store.dtype
        return StoreSinkFactory(
            self.store,
            stream_info(source, info, self.settings, zone=request.zone),
            lease_s=ingest.lease_s,
            moved=request.resume,
            path=None if source.segments else source.url,
            heal=self._heal,
            retention=self.settings.retention_rules(),
            first_fingerprint=first_fingerprint(info, dtype, source.fps, ingest.retention),
            segments=request.fresh,
            tracing=self.settings.trace_settings(),
        )

    def lay_out(self, request: IngestRequest, cluster: "Cluster | None" = None) -> IngestRequest:
        """A request for a joined stream with its files looked at and put in order.

        Raises what `segments.lay_out` raises, and `Conflict` where the stream is of one file.
        """
        source = request.source
        with open_store(self.store) as store:
            known = None if request.restart else known_info(store, source.stream_id)
            rows = [] if known is None else store.list_segments(source.stream_id)
            begun = known is not None and store.get_position(source.stream_id) is not None
        if not request.files:
            if rows:
                raise Conflict(
                    f"stream {source.stream_id} is made of {len(rows)} files; give them, or their "
                    "folder, with --join, or use another stream id"
                )
            return request
        if begun and not rows:
            raise Conflict(
                f"stream {source.stream_id} has clips and no list of files: it is of one file, or "
                "was imported; use another stream id, or --restart to read all anew"
            )
        look = partial(
            _lay_out, request.files, rows, self._roots, zone=request.zone, moved=request.resume
        )
        layout = None if cluster is None else cluster.check_source(look, source)
        if layout is None:  # no cluster, or one without a place to look from
            layout = look(source)
        wall_start_s = layout.wall_start_s if known is None or not rows else known.wall_start_s
        if source.wall_start_s is not None:
            wall_start_s = source.wall_start_s
        source = replace(source, segments=layout.parts(), wall_start_s=wall_start_s)
        return replace(request, source=source, fresh=layout.fresh, resume=bool(rows))

    def admit(self, request: IngestRequest, cluster: "Cluster | None" = None) -> Progress | None:
        """Raise what is wrong with a request as far as it shows without a model; see `admit`.

        The file is looked at from here, or from where the cluster would run its session. Returns
        the stream's end where it is complete, so that there is nothing to run.
        """
        source = request.source
        check: CheckSource = partial(check_source, roots=self._roots)
        compare = partial(_compare, source)
        if cluster is not None:
            check = partial(cluster.check_source, partial(_check_there, check, self.store))
            compare = partial(_compare_there, cluster, source)
        if source.segments:
            change: Change = "grown" if request.fresh else "same"
            compare = lambda known: (None, change)  # noqa: E731
        with open_store(self.store) as store:
            wanted = admit(
                store,
                unread_stream_info(source, self.settings, zone=request.zone),
                partial(check, source),
                compare=compare,
                moved=request.resume,
                restart=request.restart,
                lease_s=self.settings.ingest.lease_s,
            )
            position = None if wanted else store.get_position(source.stream_id)
        if wanted:
            return None
        end_s = 0.0 if position is None else position.end_s
        return Progress(source.stream_id, state="complete", resumed_s=end_s, position_s=end_s)

    @property
    def _heal(self) -> StoreConfig | None:
        """An embedded server is this machine's: sessions here may start it again."""
        given = self.settings.store_config()
        is_ours = given.url.startswith("embedded:") and not self.joins_cluster
        return given if is_ours else None

    @property
    def _roots(self) -> tuple[Path, ...]:
        return tuple(Path(root) for root in self.settings.ingest.roots)


def _lay_out(
    files: Sequence[str],
    known: Sequence[StreamSegment],
    roots: Sequence[Path],
    source: VideoSource,
    *,
    zone: str | None,
    moved: bool,
) -> Layout:
    """Where the files are."""
    return lay_out(
        files,
        known,
        partial(probe_segment, roots=roots),
        zone=None if zone is None else parse_zone(zone),
        moved=moved,
    )


def _check_there(check: CheckSource, store: StoreConfig, source: VideoSource) -> None:
    """Where a session would run: whether the store is to be had from there, and the source."""
    if store.url.startswith("unix:"):
        try:
            open_store(store).close()
        except StoreUnavailable:
            raise InvalidSettings(
                "the store is this machine's alone (a unix socket), and sessions of this cluster "
                "run on another; give one that all nodes reach: AOT_STORE__URL=rediss://..., or "
                "--ray auto"
            ) from None
    check(source)


def _compare(source: VideoSource, known: StreamInfo) -> Comparison:
    return find_change(known, source.url)


def _compare_there(cluster: "Cluster", source: VideoSource, known: StreamInfo) -> Comparison:
    """Where the file is; nothing is known where the cluster has no place to look from."""
    return cluster.check_source(partial(_find_change, known), source) or (None, None)


def _find_change(known: StreamInfo, source: VideoSource) -> Comparison:
    return find_change(known, source.url)
