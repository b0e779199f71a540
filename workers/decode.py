"""A video file in, its sampled frames out: resized for the model, with their times, in order.

    with VideoReader(source, pixel_format) as reader:
        for frame in reader:
            ...
        reader.report      # what was decoded, what was damaged, whether the file was cut short

Frames come in presentation order; within an epoch their times rise strictly. Which frames are
chosen depends on the timestamps alone (`decode_clock.SamplingGrid`), so a planned, a full and a
resumed decode give the same ones with the same pixels. Stream second 0 is the container's start;
every later epoch counts from its own first picture. Memory is bounded whatever the file: one GOP's
packets (at most 64 MiB) and the decoder's own pictures.

Knows nothing of clips, models or clusters.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import av
from av.error import FFmpegError
from av.packet import Packet

from workers.decode_clock import Sampler, SamplingGrid, unwrap_packets
from workers.decode_frame import FrameConverter
from workers.decode_gop import GopPart, iter_parts
from workers.decode_open import OpenTrack, open_track, redact_url
from workers.decode_plan import DecodedFrame, DecodeTally, GopDecoder
from workers.errors import NoFrames, NoKeyframe, SourceError, SourceUnreachable, TooLarge
from workers.group import Cursor
from workers.types import Frame, PixelFormat, VideoSource

MIN_GAP_S = 2.0
"""A step between sampled frames beyond this, and beyond three sampling intervals, is a gap."""

MAX_PACKETS_PER_SECOND = 1000
"""More pictures within one second of stream time are a trap, not a video."""

MAX_PACKETS_BEFORE_KEYFRAME = 10_000

MAX_READ_ERRORS = 16

TRUNCATED_S = 1.0
"""A file that ends this much before the end it declares was cut short."""

MAX_REFUSED_TAIL = 16
"""Packets refused in a row at the end that count as a part that cannot be decoded."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of itself."""

    container: str
    codec: str
    width: int
    height: int
    fps: float
    """Declared frames per second; 25 where nothing plausible is declared."""
    end_s: float | None
    """Stream time at which the file says it ends."""


@dataclass(frozen=True)
class DecodeReport:
    """What became of a file, for the record; final once the frames are exhausted."""

    frames: int
    """Frames given."""
    decoded: int
    """Pictures decoded for them."""
    packets: int
    epochs: int
    damaged_packets: int
    """Refused by the decoder, or marked as damaged by the demuxer."""
    read_errors: int
    before_keyframe: int
    """Packets passed over because no keyframe had come yet."""
    truncated: bool
    """The file ends before the end it declares, reading it broke off, or its last part (16 packets
    and more) could not be decoded, as when a transport stream changes its codec."""
    declared_end_s: float | None
    """Stream time at which the file says it ends."""
    end_s: float | None
    """Stream time at which the last packet read ends."""
    fell_back: str | None
    """Why some of it was decoded in full; None when the plan held throughout."""
    gops_planned: int
    gops_whole: int
    gops_skipped: int

    @property
    def is_sound(self) -> bool:
        """Nothing missing, nothing damaged."""
        return not (self.truncated or self.damaged_packets or self.read_errors)


def iter_frames(
    source: VideoSource,
    pixel_format: PixelFormat,
    *,
    after: Cursor | None = None,
    plan: bool = True,
    roots: Sequence[Path] = (),
) -> Iterator[Frame]:
    """The sampled frames of a file; see `VideoReader`, which also reports."""
    with VideoReader(source, pixel_format, after=after, plan=plan, roots=roots) as reader:
        yield from reader


class VideoReader:
    """Reads one video file; a context manager to be iterated once.

    `after`: continue behind a stored clip. The frames that follow are those of an undisturbed run;
    what lies before is passed over undecoded where GOPs are closed, and in an MP4 not even read.
    `plan=False` decodes everything (the plan's oracle).
    `roots`: folders the file must lie in once links are followed; none means anywhere.

    Raises a `SourceError` on opening (see `open_track`); while iterating NoKeyframe and NoFrames
    when the file turns out to hold no picture, TooLarge and SourceUnreachable when reading cannot
    go on. Damage raises nothing: frames carry `damaged`, and `report` counts.
    """

    def __init__(
        self,
        source: VideoSource,
        pixel_format: PixelFormat,
        *,
        after: Cursor | None = None,
        plan: bool = True,
        roots: Sequence[Path] = (),
    ) -> None:
        self._source = source
        self._after = after
        self._plan = plan
        self._roots = tuple(roots)
        self._shown = redact_url(source.url)
        self._converter = FrameConverter(pixel_format)
        self._tally = DecodeTally()
        self._stack = ExitStack()
        self._track: OpenTrack | None = None
        self._frames = self._packets = self._read_errors = self._before_keyframe = 0
        self._epoch = 0
        self._last_end: int | None = None
        self._reached_end = False
        self._seeked = False

    def __enter__(self) -> "VideoReader":
        self._track = self._stack.enter_context(open_track(self._source.url, roots=self._roots))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[Frame]:
        try:
            previous: tuple[DecodedFrame, int] | None = None
            for decoded, sampler, epoch in self._decode():
                frame = self._make_frame(decoded, sampler.grid, epoch, previous)
                previous = (decoded, epoch)
                self._frames += 1
                yield frame
        except SourceError as error:
            if self._shown in str(error):
                raise
            raise type(error)(f"{self._shown}: {error}") from error

    @property
    def interval_s(self) -> float:
        """Seconds of stream a sampled frame stands for."""
        if self._source.fps is not None:
            return 1 / self._source.fps
        return float(1 / self._opened.rate)

    @property
    def info(self) -> VideoInfo:
        """What the file declares; valid while it is open."""
        track, context = self._opened, self._opened.stream.codec_context
        return VideoInfo(
            container=track.container.format.name,
            codec=track.bitstream.codec,
            width=context.width,
            height=context.height,
            fps=float(track.rate),
            end_s=_declared_end_s(track),
        )

    @property
    def report(self) -> DecodeReport:
        """What was done so far; valid while it is open."""
        track, tally = self._opened, self._tally
        last = self._last_end
        return DecodeReport(
            frames=self._frames,
            decoded=tally.decoded,
            packets=self._packets,
            epochs=self._epoch + 1,
            damaged_packets=tally.refused_packets + tally.corrupt_packets,
            read_errors=self._read_errors,
            before_keyframe=self._before_keyframe,
            truncated=self._is_truncated(),
            declared_end_s=_declared_end_s(track),
            end_s=None if last is None else float((last - track.origin) * track.time_base),
            fell_back=tally.fell_back,
            gops_planned=tally.gops_planned,
            gops_whole=tally.gops_whole,
            gops_skipped=tally.gops_skipped,
        )

    @property
    def _opened(self) -> OpenTrack:
        if self._track is None:
            raise RuntimeError("open the reader first: `with VideoReader(...) as reader:`")
        return self._track

    def _decode(self) -> Iterator[tuple[DecodedFrame, Sampler, int]]:
        """Wanted pictures, each with the sampler of its epoch."""
        track = self._opened
        decoder = GopDecoder(track, self._tally, plan=self._plan)
        sampler: Sampler | None = None
        for part in self._iter_parts():
            if sampler is None or part.epoch != self._epoch:
                if sampler is not None:
                    yield from ((d, sampler, self._epoch) for d in decoder.drain(sampler))
                self._epoch, sampler = part.epoch, None
                if not part.starts:
                    self._pass_over(part)
                    continue
                sampler = self._sample_epoch(part)
            if self._after is not None and part.epoch < self._after.epoch:
                continue
            if sampler.grid.is_past(_first_tick(part)):
                yield from ((d, sampler, part.epoch) for d in decoder.drain(sampler))
                return
            yield from ((d, sampler, part.epoch) for d in decoder.decode(part, sampler))
        if sampler is not None:
            yield from ((d, sampler, self._epoch) for d in decoder.drain(sampler))
        self._reached_end = True
        self._check_any_frames(sampler)

    def _iter_parts(self) -> Iterator[GopPart]:
        track = self._opened
        if self._after is not None and self._seek_behind(self._after):
            track = self._opened
        timed = unwrap_packets(self._demux(), track.time_base, track.interval)
        return iter_parts(timed, track.bitstream)

    def _sample_epoch(self, part: GopPart) -> Sampler:
        """A sampler for the epoch that a part opens."""
        track, source = self._opened, self._source
        origin = track.origin if part.epoch == 0 else _first_tick(part)
        grid = SamplingGrid(track.time_base, origin, source.fps, source.start_s, source.end_s)
        last = None
        if self._after is not None and part.epoch == self._after.epoch:
            last = grid.ticks(self._after.last_pts_s)
        return Sampler(grid, last)

    def _demux(self) -> Iterator[Packet]:
        """The track's packets; goes on behind errors of the container, up to a number."""
        track = self._opened
        second, in_second = None, 0
        while self._read_errors <= MAX_READ_ERRORS:
            try:
                for packet in track.container.demux(track.stream):
                    if packet.size == 0:  # the end marker; as input it would drain the decoder
                        continue
                    self._packets += 1
                    clock = packet.dts if packet.dts is not None else packet.pts
                    if clock is not None:
                        now = clock * track.time_base // 1
                        in_second = in_second + 1 if now == second else 1
                        second = now
                        self._last_end = max(
                            clock + (packet.duration or 0),
                            (packet.pts or clock) + (packet.duration or 0),
                        )
                    if in_second > MAX_PACKETS_PER_SECOND:
                        raise TooLarge(
                            f"more than {MAX_PACKETS_PER_SECOND} pictures in one second; "
                            "re-encode it at its true frame rate"
                        )
                    yield packet
                return
            except IndexError:
                return  # PyAV stumbles behind the last packet when tracks appeared on the way
            except FFmpegError:
                self._read_errors += 1
            except OSError as error:
                reason = error.strerror or "read error"
                raise SourceUnreachable(f"reading stopped: {reason}; check the disk") from error

    def _seek_behind(self, after: Cursor) -> bool:
        """Jump to the keyframe before a cursor where that is provably the same; else stay.

        Only in MP4 (one clock, one index), and only if the keyframe there closes off what is
        before it.
        """
        track = self._opened
        if after.epoch or not track.container.format.name.startswith("mov"):
            return False
        ticks = track.origin + round(after.last_pts_s / float(track.time_base))
        try:
            track.container.seek(ticks, stream=track.stream)
            packet = next(p for p in track.container.demux(track.stream))
        except (FFmpegError, StopIteration):
            packet = None
        self._seeked = (
            packet is not None
            and packet.size > 0
            and packet.pts is not None
            and packet.pts <= ticks
            and packet.is_keyframe
            and track.bitstream.starts_closed_gop(packet)
        )
        if self._seeked:
            track.container.seek(ticks, stream=track.stream)
        else:
            self._stack.close()
            self.__enter__()
        return True

    def _pass_over(self, part: GopPart) -> None:
        self._before_keyframe += len(part.packets)
        if self._before_keyframe > MAX_PACKETS_BEFORE_KEYFRAME and not self._tally.decoded:
            raise NoKeyframe(
                f"no keyframe in the first {self._before_keyframe} packets; record it with "
                "keyframes every few seconds"
            )

    def _check_any_frames(self, sampler: Sampler | None) -> None:
        tally = self._tally
        if tally.decoded or tally.gops_skipped or self._seeked:
            return
        if sampler is None and self._before_keyframe:
            raise NoKeyframe(
                f"no keyframe among its {self._before_keyframe} packets, so no picture can be "
                "decoded; record it from a keyframe on"
            )
        raise NoFrames(
            f"no picture could be decoded from its {self._packets} packets; the file is empty "
            "or damaged throughout"
        )

    def _make_frame(
        self,
        decoded: DecodedFrame,
        grid: SamplingGrid,
        epoch: int,
        previous: tuple[DecodedFrame, int] | None,
    ) -> Frame:
        picture = decoded.picture
        cut = False
        if previous is not None:
            before, epoch_before = previous
            step_s = grid.seconds(decoded.ticks) - grid.seconds(before.ticks)
            cut = (
                epoch != epoch_before
                or step_s > max(MIN_GAP_S, 3 * self.interval_s)
                or _shape(picture) != _shape(before.picture)
            )
        return Frame(
            pixels=self._converter.convert(picture),
            pts_s=grid.seconds(decoded.ticks),
            epoch=epoch,
            cut=cut,
            damaged=decoded.damaged,
        )

    def _is_truncated(self) -> bool:
        if self._read_errors > MAX_READ_ERRORS:
            return True
        if self._tally.refused_in_a_row >= MAX_REFUSED_TAIL:
            return True
        track, last = self._opened, self._last_end
        if not self._reached_end or self._epoch > 0:
            return False
        if track.counts_frames and not self._seeked and self._packets < track.stream.frames:
            return True
        declared_s = _declared_end_s(track)
        if declared_s is None or last is None or len(track.container.streams) > 1:
            return False  # another track may be the longer one
        return float((last - track.origin) * track.time_base) < declared_s - TRUNCATED_S


def _shape(picture: av.VideoFrame) -> tuple[int, int, str]:
    return picture.width, picture.height, picture.format.name


def _first_tick(part: GopPart) -> int:
    """The earliest presentation time in a part."""
    return min(
        clock for p in part.packets if (clock := p.pts if p.pts is not None else p.dts) is not None
    )


def _declared_end_s(track: OpenTrack) -> float | None:
    """Stream time of the end as the container states it, of the track or else of the whole."""
    stream = track.stream
    if stream.duration is not None:
        start = stream.start_time if stream.start_time is not None else track.origin
        return float((start + stream.duration - track.origin) * track.time_base)
    if track.container.duration is not None:
        return track.container.duration / av.time_base
    return None
