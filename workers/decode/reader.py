"""A video file in, its sampled frames out: resized for the model, with their times, in order.

    with VideoReader(source, pixel_format) as reader:
        for frame in reader:
            ...
        reader.report      # what was decoded, what was damaged, whether the file was cut short

Frames come in presentation order; within an epoch their times rise strictly. Which frames are
chosen depends on the timestamps alone (`decode_clock.SamplingGrid`), so a planned, a full and a
resumed decode give the same ones with the same pixels. (Frames marked `damaged` have the same
times, but the decoder fills their holes with what it saw before, which may differ.) Stream second 0
is the container's start; every later epoch counts from its own first picture. Memory is bounded
whatever the file: one GOP's packets (at most 64 MiB) and the decoder's own pictures.

Knows nothing of clips, models or clusters.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from av import VideoFrame

from workers.decode.clock import Sampler, SamplingGrid, unwrap_packets
from workers.decode.file import redact_url
from workers.decode.frame import FrameConverter
from workers.decode.gop import GopPart, iter_parts
from workers.decode.packets import PacketReader
from workers.decode.plan import DecodedFrame, DecodeTally, GopDecoder
from workers.decode.report import DecodeReport, VideoInfo, describe_video, make_report
from workers.decode.track import OpenTrack, open_track
from workers.errors import NoFrames, NoKeyframe, SourceError
from workers.types import Cursor, Frame, PixelFormat, VideoSource

MIN_GAP_S = 2.0
"""A step between sampled frames beyond this, and beyond three sampling intervals, is a gap."""

MAX_PACKETS_BEFORE_KEYFRAME = 10_000


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
        self._frames = self._before_keyframe = self._epoch = 0

    def __enter__(self) -> "VideoReader":
        track = self._stack.enter_context(open_track(self._source.url, roots=self._roots))
        self._track, self._packets = track, PacketReader(track)
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
        return describe_video(self._opened)

    @property
    def report(self) -> DecodeReport:
        """What was done so far; valid while it is open."""
        return make_report(
            self._opened,
            self._packets,
            self._tally,
            frames=self._frames,
            epochs=self._epoch + 1,
            before_keyframe=self._before_keyframe,
        )

    @property
    def _opened(self) -> OpenTrack:
        if self._track is None:
            raise RuntimeError("open the reader first: `with VideoReader(...) as reader:`")
        return self._track

    def _decode(self) -> Iterator[tuple[DecodedFrame, Sampler, int]]:
        """Wanted pictures, each with the sampler of its epoch."""
        parts = self._open_parts()
        decoder = GopDecoder(self._opened, self._tally, plan=self._plan)
        sampler: Sampler | None = None
        for part in parts:
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
        self._check_any_frames(sampler)

    def _open_parts(self) -> Iterator[GopPart]:
        """The file's GOPs; from the keyframe before the cursor on where that is safe."""
        after = self._after
        if after and after.epoch == 0 and not self._packets.seek_closed_gop(after.last_pts_s):
            self._stack.close()
            self.__enter__()
        track = self._opened
        timed = unwrap_packets(self._packets, track.time_base, track.interval)
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

    def _pass_over(self, part: GopPart) -> None:
        self._before_keyframe += len(part.packets)
        if self._before_keyframe > MAX_PACKETS_BEFORE_KEYFRAME and not self._tally.decoded:
            raise NoKeyframe(
                f"no keyframe in the first {self._before_keyframe} packets; record it with "
                "keyframes every few seconds"
            )

    def _check_any_frames(self, sampler: Sampler | None) -> None:
        tally = self._tally
        if tally.decoded or tally.gops_skipped or self._packets.seeked:
            return
        if sampler is None and self._before_keyframe:
            raise NoKeyframe(
                f"no keyframe among its {self._before_keyframe} packets, so no picture can be "
                "decoded; record it from a keyframe on"
            )
        raise NoFrames(
            f"no picture could be decoded from its {self._packets.count} packets; "
            "the file is empty or damaged throughout"
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


def _shape(picture: VideoFrame) -> tuple[int, int, str]:
    return picture.width, picture.height, picture.format.name


def _first_tick(part: GopPart) -> int:
    """The earliest presentation time in a part."""
    return min(
        clock for p in part.packets if (clock := p.pts if p.pts is not None else p.dts) is not None
    )
