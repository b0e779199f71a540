"""An endless track in, sampled pictures out as they arrive, with the epoch each one belongs to.

Nothing can be sought, so all is decoded but the ends of GOPs in which no sample lies
(`workers.decode.spare`). A camera's clock is not trusted: a step back, a step ahead that the
arrival does not show, or a new codec starts a new epoch, whose media time counts from its own first
picture; within an epoch media time rises. What time it is in the world and where an epoch lies on
the stream's own line is decided by who reads this. No picture is kept: memory is the decoder's.
"""

import importlib
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from av import VideoFrame
from av.error import ExitError, FFmpegError
from av.packet import Packet
from av.video.reformatter import VideoReformatter

from workers.decode.frame import read_orientation, turn
from workers.decode.sampling import Sampler, SamplingGrid
from workers.decode.spare import SparedPackets
from workers.decode.track import OpenTrack
from workers.errors import NoKeyframe, SourceBroken, SourceError, SourceStalled, TooLarge

JUMP_BACK_S = 1.0
"""A step back in decode time beyond this starts a new epoch; a smaller one is disorder."""
JUMP_AHEAD_S = 10.0
"""A step ahead beyond this starts one, unless as much time went by while waiting for it."""
KEYFRAME_WAIT_S = 30.0
"""How long the first keyframe may take."""
MAX_UNTIMED = 16
"""Packets without a time that are kept until one has it."""

Pace = Literal["all", "keyframes"]
"""What is decoded: everything, or (under overload) GOP starts alone."""


def load_decoder() -> None:
    """Load all of PyAV, some of which it else loads when a source is opened."""
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name not in ("av.__main__", "av.datasets"):  # a command, and downloads
            importlib.import_module(module.name)


@dataclass(frozen=True)
class Picture:
    """One sampled picture in its own size, upright, RGB."""

    rgb: np.ndarray
    """u8[rows cols 3]."""
    media_s: float
    """Seconds since the epoch's first picture."""
    epoch: int
    arrived_s: float
    """Unix time at which its packet was read."""
    damaged: bool = False
    sent_s: float | None = None
    """Unix time the sender gives for it (RTCP sender reports, `EXT-X-PROGRAM-DATE-TIME`)."""


@dataclass
class LiveTally:
    """What was done so far; counted as it happens."""

    packets: int = 0
    decoded: int = 0
    spared: int = 0
    """Packets that no sample needed."""
    refused_packets: int = 0
    before_keyframe: int = 0
    """Packets that came before the first keyframe and were passed over."""


class LiveDecoder:
    """Decodes one connection; `pictures` is iterated once and ends when the source does."""

    def __init__(
        self,
        track: OpenTrack,
        *,
        fps: float | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.track, self._fps, self._clock = track, fps, clock
        self._reformatter = VideoReformatter()
        self._epochs = _Epochs(track.time_base)
        self._sampler: Sampler | None = None
        self._spared = SparedPackets(track.bitstream, track.interval, round(1 / track.time_base))
        self._sent: tuple[int, float] | None = None
        """A tick of this epoch, and the Unix time that the sender gives for it."""
        self._opens_epoch = True
        self._untimed: list[Packet] = []
        self._began = False
        self._damaged = False
        self._failure: SourceError | None = None
        """Why the connection ended, where it did not just end."""
        self.pace: Pace = "all"
        self.tally = LiveTally()

    def pictures(self) -> Iterator[Picture]:
        """Sampled pictures in presentation order, to the end of the connection.

        Raises:
            NoKeyframe: none within `KEYFRAME_WAIT_S`.
            TooLarge: a picture that memory does not hold.
            SourceStalled, SourceBroken: the connection ended with an error; behind the pictures
                that came before it.
        """
        waiting_since_s = self._clock()
        for packet in self._packets():
            self.tally.packets += 1
            if self._begin(packet, waiting_since_s):
                for timed in self._time(packet):
                    yield from self._decode(timed)
        self._spared.restart()
        self.tally.spared = self._spared.count
        for frame in self._send(None):
            yield from self._choose(frame, self._clock())
        if self._failure is not None:
            raise self._failure

    def _packets(self) -> Iterator[Packet]:
        """The packets that have a content, to the end or to an error, which is kept."""
        packets = self.track.container.demux(self.track.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (FFmpegError, OSError, IndexError) as error:
                self._failure = _explain(error)
                return
            if packet.size:
                yield packet

    def _begin(self, packet: Packet, waiting_since_s: float) -> bool:
        """Whether decoding has begun: from a keyframe on."""
        self._began = self._began or packet.is_keyframe
        if not self._began:
            self.tally.before_keyframe += 1
            waited_s = self._clock() - waiting_since_s
            if waited_s > KEYFRAME_WAIT_S:
                raise NoKeyframe(
                    f"no keyframe in {waited_s:.0f} s ({self.tally.before_keyframe} packets); set "
                    "the camera to one every few seconds"
                )
        return self._began

    def _time(self, packet: Packet) -> list[Packet]:
        """Packets with times: the first ones of a connection may have none, the next tells."""
        self._untimed.append(packet)
        if packet.pts is None and packet.dts is None and len(self._untimed) < MAX_UNTIMED:
            return []
        timed, self._untimed = self._untimed, []
        clock = packet.dts if packet.dts is not None else packet.pts
        for back, earlier in enumerate(reversed(timed[:-1]), 1):
            if clock is not None:
                earlier.pts = earlier.dts = clock - back * self.track.interval
        return timed

    def _decode(self, packet: Packet) -> Iterator[Picture]:
        arrived_s = self._clock()
        if self._epochs.starts_with(packet, arrived_s):
            for frame in self._send(None):
                yield from self._choose(frame, arrived_s)
            self.track.stream.codec_context.flush_buffers()
            self._epochs.open()
            self._sampler, self._sent, self._opens_epoch = None, None, True
            self._spared.restart()
        self._read_senders_clock(packet)
        if self.pace == "keyframes":
            self._spared.restart()
            if not packet.is_keyframe:
                return
        for due in self._spared.take(packet, self._is_wanted):
            self._damaged = self._damaged or due.is_corrupt
            for frame in self._send(due):
                yield from self._choose(frame, arrived_s)
        self.tally.spared = self._spared.count

    def _is_wanted(self, ticks: int) -> bool:
        return self._sampler is None or self._sampler.is_wanted(ticks)

    def _send(self, packet: Packet | None) -> list[VideoFrame]:
        try:
            frames = self.track.stream.codec_context.decode(packet)
        except MemoryError as error:
            raise TooLarge("the decoder needs more memory than there is for a picture") from error
        except FFmpegError:
            self.tally.refused_packets += 1
            self._damaged = True
            return []
        self.tally.decoded += len(frames)
        return frames

    def _choose(self, frame: VideoFrame, arrived_s: float) -> Iterator[Picture]:
        ticks = frame.pts if frame.pts is not None else frame.dts
        if ticks is None:
            return
        if frame.key_frame:
            self._damaged = False
        self._damaged = self._damaged or frame.is_corrupt
        if self._sampler is None:
            self._sampler = Sampler(SamplingGrid(self.track.time_base, ticks, self._fps))
        if self._sampler.take(ticks):
            yield Picture(
                rgb=self._to_rgb(frame),
                media_s=self._sampler.grid.seconds(ticks),
                epoch=self._epochs.number,
                arrived_s=arrived_s,
                damaged=self._damaged,
                sent_s=self._sent_s(ticks),
            )

    def _to_rgb(self, frame: VideoFrame) -> np.ndarray:
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return np.ascontiguousarray(turn(rgb, read_orientation(frame)))

    def _read_senders_clock(self, packet: Packet) -> None:
        """RTP's as its last report says, for each packet; a playlist's where an epoch begins: later
        on another of its renditions may be a segment ahead."""
        ticks = packet.pts if packet.pts is not None else packet.dts
        if ticks is None:
            return
        if packet.has_sidedata("prft"):
            time = bytes(packet.get_sidedata("prft"))[:8]  # AVProducerReferenceTime, in us
            self._sent = ticks, int.from_bytes(time, sys.byteorder, signed=True) / 1e6
        elif self._opens_epoch and (program := self.track.program) is not None:
            wall_s = program.wall_s if self._epochs.number else program.first_wall_s
            self._sent = None if wall_s is None else (ticks, wall_s)
        self._opens_epoch = False

    def _sent_s(self, ticks: int) -> float | None:
        if self._sent is None:
            return None
        at, wall_s = self._sent
        return wall_s + float((ticks - at) * self.track.time_base)


def _explain(error: Exception) -> SourceError:
    """What a demuxer's error means to who reads the source."""
    if isinstance(error, (ExitError, TimeoutError)):  # by PyAV's limit, by the protocol's own
        return SourceStalled("nothing came within the time that a read may take")
    if isinstance(error, IndexError):  # PyAV, where a track appeared on the way
        return SourceBroken("its tracks changed while it was read; it is opened again")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return SourceBroken(f"reading broke off: {reason}")


class _Epochs:
    """Sees a clock start anew, packet by packet in decode order, and unwraps 33-bit times.

    The demuxer is told not to repair wraps, so that each one is seen here, the hundredth as the
    first.
    """

    def __init__(self, time_base: Fraction) -> None:
        self.number = 0
        self._base = time_base
        self._wrap = 1 << 33 if time_base == Fraction(1, 90_000) else None
        self._offset = 0
        self._last: int | None = None
        self._last_arrived_s = 0.0

    def starts_with(self, packet: Packet, arrived_s: float) -> bool:
        """Whether this packet's clock is another one than its predecessor's; unwraps its times."""
        clock = packet.dts if packet.dts is not None else packet.pts
        if clock is None:
            return False
        last, waited_s = self._last, arrived_s - self._last_arrived_s
        self._last_arrived_s = arrived_s
        if last is None:
            self._last = clock
            return False
        if self._wrap and last - (clock + self._offset) > self._wrap // 2:
            self._offset += self._wrap
        step_s = float((clock + self._offset - last) * self._base)
        jumped = step_s < -JUMP_BACK_S or step_s > max(JUMP_AHEAD_S, waited_s + JUMP_AHEAD_S)
        self._last = clock if jumped else max(last, clock + self._offset)
        if not jumped and self._offset:
            packet.pts = None if packet.pts is None else packet.pts + self._offset
            packet.dts = None if packet.dts is None else packet.dts + self._offset
        return jumped

    def open(self) -> None:
        """A new epoch has begun."""
        self.number += 1
        self._offset = 0
