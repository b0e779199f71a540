"""A video file in, its sampled frames out: resized for the model, with their times, in order.

    with VideoReader(source, pixel_format) as reader:
        for frame in reader:
            ...
        reader.report      # what was decoded, what was damaged, whether the file was cut short

Frames come in presentation order, and their times rise strictly. Which frames are chosen depends on
the timestamps alone (`sampling.SamplingGrid`), so a planned, a full and a resumed
decode give the same ones with the same pixels. (Frames marked `damaged` have the same times, but
the decoder fills their holes with what it saw before, which may differ.) A picture is shown until
the next one: where that is long (slides, time lapses) it is sampled again while it stands, from
the same pixels. Where frames are missing, the next one says why (`Frame.gap`).

Stream second 0 is the container's start. Where the clock starts anew, a new epoch begins on the
same line of time: its first packet comes where the last one of the epoch before ended.
Memory is bounded whatever the file: one GOP's packets (at most 64 MiB) and the decoder's own
pictures.

Knows nothing of clips, models or clusters.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from av import VideoFrame

from workers.decode.backend import Backend, open_pictures
from workers.decode.clock import HALF_WRAP, MPEG_TIME_BASE, unwrap_packets
from workers.decode.gop import GopPart, iter_parts
from workers.decode.growing import GrowingFile
from workers.decode.packets import PacketReader
from workers.decode.plan import DecodedFrame, DecodeTally, GopDecoder
from workers.decode.report import DecodeReport, VideoInfo, describe_video, make_report
from workers.decode.sampling import Sampler, SamplingGrid
from workers.decode.timeline import HoldLimits
from workers.decode.track import OpenTrack, open_track
from workers.errors import NoFrames, NoKeyframe, SourceError
from workers.redact import show_url
from workers.types import (
    Cursor,
    Frame,
    GapReason,
    PixelFormat,
    SourceEnd,
    VideoSource,
    is_gap,
)

MAX_PACKETS_BEFORE_KEYFRAME = 10_000


@dataclass
class _Epoch:
    """A stretch of the source on one clock."""

    number: int
    origin: int
    """Tick of stream second 0, on its clock."""
    start_tick: int
    end_tick: int
    """When the last of its packets read so far ends."""
    sampler: Sampler | None = None
    """None until a keyframe has come."""

    def start_s(self, time_base: Fraction) -> float:
        return float((self.start_tick - self.origin) * time_base)

    def end_s(self, time_base: Fraction) -> float:
        return float((self.end_tick - self.origin) * time_base)


_Sample = tuple[DecodedFrame, _Epoch]


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
    `backend`: where pictures are decoded; see `backend`.

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
        backend: Backend = "cpu",
    ) -> None:
        self._source = source
        self._after = after
        self._plan = plan
        self._roots = tuple(roots)
        self._shown = show_url(source.url)
        self._pictures = open_pictures(backend, pixel_format)
        self._tally = DecodeTally()
        self._stack = ExitStack()
        self._track: OpenTrack | None = None
        self._frames = self._damaged = self._before_keyframe = 0
        self._epoch = _Epoch(0, 0, 0, 0)
        self._lost_before = deque([0], maxlen=3)
        """What was lost before each of the last GOPs; reading is one ahead of decoding."""

    def __enter__(self) -> "VideoReader":
        self._open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _open(self) -> None:
        """Open the file, from its start on; closes it first where it is open."""
        self._stack.close()
        try:
            source = self._source
            track = self._stack.enter_context(
                open_track(
                    source.url,
                    roots=self._roots,
                    follow_s=source.follow_s,
                    card=self._pictures.card,
                )
            )
            self._pictures.prepare(track.stream, self._shown)
        except SourceError as error:
            error.source = self._shown  # its message names it already
            raise
        self._track, self._packets = track, PacketReader(track)
        self._epoch = _Epoch(0, track.origin, track.origin, track.origin)
        self._previous_tick = track.origin

    def __iter__(self) -> Iterator[Frame]:
        try:
            for frame in self._end_epochs(self._make_frames()):
                self._frames += 1
                self._damaged += frame.damaged
                yield frame
        except SourceError as error:
            raise error.at(self._shown) from error.__cause__

    def stop_waiting(self) -> None:
        """A file that is followed ends with what there is of it; others are read as ever."""
        if self._track is not None and isinstance(self._track.file, GrowingFile):
            self._track.file.stop_waiting()

    @property
    def interval_s(self) -> float:
        """Seconds of stream a sampled frame stands for."""
        if self._source.fps is not None:
            return 1 / self._source.fps
        return float(1 / self._opened.rate)

    @property
    def info(self) -> VideoInfo:
        """What the file declares; valid while it is open."""
        return describe_video(self._opened)

    @property
    def report(self) -> DecodeReport:
        """What was done so far; valid while it is open."""
        return make_report(
            self._opened,
            self._packets,
            self._tally,
            frames=self._frames,
            damaged_frames=self._damaged,
            epochs=self._epoch.number + 1,
            end_s=self._end_s if self._packets.count else None,
            before_keyframe=self._before_keyframe,
        )

    @property
    def total_s(self) -> float | None:
        """Where the file says that it ends; one of several epochs does not know."""
        return self.info.end_s if self._epoch.number == 0 else None

    @property
    def end(self) -> SourceEnd:
        """How the file ended; known once the frames are exhausted."""
        return self.report.end

    @property
    def _end_s(self) -> float:
        """Stream time at which the last of the packets read so far ends."""
        return self._epoch.end_s(self._opened.time_base)

    @property
    def _opened(self) -> OpenTrack:
        if self._track is None:
            raise RuntimeError("open the reader first: `with VideoReader(...) as reader:`")
        return self._track

    @property
    def _lost(self) -> int:
        """Packets so far of which nothing could be seen, and breaks in the container."""
        tally = self._tally
        refused = tally.refused_packets + tally.corrupt_packets
        return refused + self._before_keyframe + self._packets.read_errors

    def _decode(self) -> Iterator[_Sample]:
        """The samples, each with its epoch."""
        parts = self._open_parts()
        track, source = self._opened, self._source
        limits = HoldLimits.of(track.container.format.name, track.time_base, source.max_hold_s)
        decoder = GopDecoder(track, self._tally, limits, plan=self._plan)
        for part in parts:
            epoch = self._epoch
            if part.epoch != epoch.number:
                yield from _drain(decoder, epoch)
                epoch = self._epoch = self._follow(epoch, part)
            self._lost_before.append(self._lost)
            first_tick = part.first_tick
            self._correct_origin(epoch, first_tick)
            part.timeline.forget_before(self._previous_tick)
            self._previous_tick = first_tick
            epoch.end_tick = max(epoch.end_tick, part.end_tick)
            if epoch.sampler is None and part.starts:
                epoch.sampler = self._sample(epoch)
            if epoch.sampler is None:
                self._pass_over(part)
                continue
            if self._after is not None and part.epoch < self._after.epoch:
                continue
            if epoch.sampler.grid.is_past(first_tick):
                break
            yield from ((sample, epoch) for sample in decoder.decode(part, epoch.sampler))
        yield from _drain(decoder, self._epoch)
        self._check_any_frames()

    def _open_parts(self) -> Iterator[GopPart]:
        """The file's GOPs; from the keyframe before the cursor on where that is safe."""
        after = self._after
        if after and after.epoch == 0 and not self._packets.seek_closed_gop(after.last_pts_s):
            self._open()
        track = self._opened
        timed = unwrap_packets(self._packets, track.time_base, track.interval)
        return iter_parts(timed, track.bitstream)

    def _follow(self, before: _Epoch, part: GopPart) -> _Epoch:
        """The epoch that a part opens: its first packet comes where the one before it ended."""
        self._previous_tick = first_tick = part.first_tick
        origin = first_tick - (before.end_tick - before.origin)
        epoch, after = _Epoch(part.epoch, origin, first_tick, first_tick), self._after
        if after is not None and after.epoch == part.epoch:
            is_before = after.last_pts_s < epoch.start_s(self._opened.time_base)
            epoch.origin = first_tick if is_before else origin  # the first release's: own time
        return epoch

    def _correct_origin(self, epoch: _Epoch, first_tick: int) -> None:
        """Where the clock wrapped between the first packets of two tracks, by a turn of it."""
        if self._opened.time_base != MPEG_TIME_BASE or epoch.number or epoch.sampler is not None:
            return
        if abs(first_tick - epoch.origin) > HALF_WRAP:
            epoch.origin += 2 * HALF_WRAP if first_tick > epoch.origin else -2 * HALF_WRAP
            epoch.start_tick = epoch.end_tick = epoch.origin

    def _sample(self, epoch: _Epoch) -> Sampler:
        """A sampler for an epoch whose first keyframe has come; counts from the epoch's start."""
        time_base, source = self._opened.time_base, self._source
        start_s = source.start_s  # may lie before the file: its grid is then that of others too
        if epoch.number:
            start_s = max(start_s, epoch.start_s(time_base))
        grid = SamplingGrid(time_base, epoch.origin, source.fps, start_s, source.end_s)
        last = None
        if self._after is not None and epoch.number == self._after.epoch:
            last = grid.ticks(self._after.last_pts_s)
        return Sampler(grid, last)

    def _pass_over(self, part: GopPart) -> None:
        self._before_keyframe += len(part.packets)
        if self._before_keyframe > MAX_PACKETS_BEFORE_KEYFRAME and not self._tally.decoded:
            raise NoKeyframe(
                f"no keyframe in the first {self._before_keyframe} packets; record it with "
                "keyframes every few seconds"
            )

    def _check_any_frames(self) -> None:
        tally = self._tally
        if tally.decoded or tally.gops_skipped or self._packets.seeked:
            return
        if self._epoch.sampler is None and self._before_keyframe:
            raise NoKeyframe(
                f"no keyframe among its {self._before_keyframe} packets, so no picture can be "
                "decoded; record it from a keyframe on"
            )
        raise NoFrames(
            f"no picture could be decoded from its {self._packets.count} packets; "
            "the file is empty or damaged throughout"
        )

    def _make_frames(self) -> Iterator[tuple[Frame, _Epoch]]:
        previous: tuple[DecodedFrame, Frame] | None = None
        for decoded, epoch in self._decode():
            frame = self._make_frame(decoded, epoch, previous)
            previous = decoded, frame
            yield frame, epoch

    def _end_epochs(self, frames: Iterator[tuple[Frame, _Epoch]]) -> Iterator[Frame]:
        """Tell the last frame of each epoch where that ends; it is known with the next frame."""
        time_base = self._opened.time_base
        held: tuple[Frame, _Epoch] | None = None
        try:
            for frame, epoch in frames:
                if held is not None:
                    is_last = held[1] is not epoch
                    yield _end_at(held[0], held[1].end_s(time_base)) if is_last else held[0]
                held = frame, epoch
        except SourceError:
            if held is not None:
                yield held[0]
            raise
        if held is not None:
            end_s = held[1].end_s(time_base)
            if self._epoch.number == 0:
                end_s = max(end_s, self._opened.declared_end_s or 0.0)
            yield _end_at(held[0], end_s)

    def _make_frame(
        self,
        decoded: DecodedFrame,
        epoch: _Epoch,
        previous: tuple[DecodedFrame, Frame] | None,
    ) -> Frame:
        assert epoch.sampler is not None
        picture, grid = decoded.picture, epoch.sampler.grid
        pts_s = grid.seconds(decoded.ticks)
        pixels, gap, cut = None, None, False
        if previous is not None:
            before, frame_before = previous
            cut = epoch.number != frame_before.epoch or _shape(picture) != _shape(before.picture)
            pixels = frame_before.pixels if picture is before.picture else None
        if is_gap(pts_s - self._covered_s(epoch, previous) + self.interval_s, self.interval_s):
            gap: GapReason | None = "damaged" if self._lost > self._lost_before[0] else "gap"
        return Frame(
            pixels=self._pictures.converter.convert(picture) if pixels is None else pixels,
            pts_s=pts_s,
            epoch=epoch.number,
            cut=cut or (gap is not None and previous is not None),
            damaged=decoded.damaged,
            end_s=grid.seconds(decoded.until),
            gap=gap,
        )

    def _covered_s(self, epoch: _Epoch, previous: tuple[DecodedFrame, Frame] | None) -> float:
        """Time up to which the frames before speak for the stream."""
        if previous is None:
            return self._source.start_s if self._after is None else self._after.end_s
        end_s = frame_end_s(previous[1], self.interval_s)
        is_new = previous[1].epoch != epoch.number
        return min(end_s, epoch.start_s(self._opened.time_base)) if is_new else end_s


def frame_end_s(frame: Frame, interval_s: float) -> float:
    """Time up to which a frame speaks for the stream: to the next sample, longer where it holds,
    and not beyond the end of its epoch."""
    end_s = max(frame.pts_s + interval_s, frame.end_s or 0.0)
    limit_s = frame.epoch_end_s
    return end_s if limit_s is None or limit_s <= frame.pts_s else min(end_s, limit_s)


def _end_at(frame: Frame, epoch_end_s: float) -> Frame:
    return replace(frame, epoch_end_s=epoch_end_s)


def _drain(decoder: GopDecoder, epoch: _Epoch) -> Iterator[_Sample]:
    if epoch.sampler is not None:
        yield from ((sample, epoch) for sample in decoder.drain(epoch.sampler))


def _shape(picture: VideoFrame) -> tuple[int, int, str]:
    return picture.width, picture.height, picture.format.name
