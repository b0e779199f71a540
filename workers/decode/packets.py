"""An open track in, its packets out, with what reading them ran into."""

from collections.abc import Iterator
from typing import cast

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from workers.decode.choose import select_track
from workers.decode.container import open_container, unreadable_error
from workers.decode.fragments import SplicedFile, find_first_fragment, find_fragment
from workers.decode.growing import GrowingFile
from workers.decode.track import OpenTrack
from workers.errors import SourceError, TooLarge

MAX_PACKETS_PER_SECOND = 1000
"""More pictures within one second of stream time are a trap, not a video."""

MAX_READ_ERRORS = 16


class PacketReader:
    """Iterates a track's packets once, in decode order; goes on behind errors of the container."""

    def __init__(self, track: OpenTrack) -> None:
        self._track = track
        self.count = 0
        self.read_errors = 0
        self.last_position = 0
        """Where in the file the packets read so far end."""
        self.exhausted = False
        """The end of the file was reached."""
        self.seeked = False
        """Reading did not begin at the start."""
        self._header_end: int | None = None
        self._gone = 0
        """Bytes of the file that are left out before what is read now."""
        self._second: int | None = None
        self._in_second = 0

    @property
    def broke_off(self) -> bool:
        """Reading was given up after too many errors."""
        return self.read_errors > MAX_READ_ERRORS

    def __iter__(self) -> Iterator[Packet]:
        track = self._track
        for packet in track.head if not self.seeked else ():
            yield self._count(packet)
        yield from self._read_container(track.container, track.stream)
        while not self.broke_off and (resume := self._find_rest()) is not None:
            self.read_errors += 1
            yield from self._read_rest(resume)
        self.exhausted = True

    def _read_container(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
        """Its packets; goes on behind errors until there are too many."""
        ended = False
        while not (ended or self.broke_off):
            demuxed = container.demux(stream)
            while (packet := self._read(demuxed)) is not None:
                if packet.size:  # the end marker has none; as input it drains the decoder
                    yield self._count(packet)
            ended = self.exhausted

    def _find_rest(self) -> int | None:
        """Where a fragmented MP4 goes on behind what FFmpeg took for its end."""
        track = self._track
        if track.file is None or not _can_seek(track):
            return None
        try:
            self._header_end = find_first_fragment(track.file)
            if self._header_end is None:
                return None
            return find_fragment(track.file, self.last_position, track.stream.id)
        except OSError as error:
            raise unreadable_error(error) from error

    def _read_rest(self, resume: int) -> Iterator[Packet]:
        """The packets from a fragment on, read with the header of the file."""
        track, cut = self._track, self._header_end
        assert track.file is not None
        assert cut is not None
        self.last_position = resume + 8
        self._gone = resume - cut
        self.exhausted = False
        try:
            with open_container(SplicedFile(track.file, cut, resume), "") as rest:
                select_track(rest, track.stream.index)
                stream = rest.streams[track.stream.index]
                yield from self._read_container(rest, cast(VideoStream, stream))
        except (SourceError, LookupError):
            return  # nor can this be read; the next fragment may

    def _read(self, demuxed: Iterator[Packet]) -> Packet | None:
        """The next packet; None at the end of the file, or of what can be read in one go."""
        try:
            return next(demuxed)
        except (StopIteration, IndexError):
            # IndexError: PyAV stumbles behind the last packet when tracks appeared on the way.
            self.exhausted = True
        except FFmpegError:
            self.read_errors += 1
        except OSError as error:
            raise unreadable_error(error) from error
        self._check_growing()
        return None

    def _check_growing(self) -> None:
        """Raise what ended a file that is followed, other than its end."""
        if isinstance(self._track.file, GrowingFile):
            try:
                self._track.file.check()
            except OSError as error:
                raise unreadable_error(error) from error

    def seek_closed_gop(self, pts_s: float) -> bool:
        """Jump to the keyframe at or before a stream time; True if nothing is lost by that.

        That is proved only for MP4 (one clock, one index) and a keyframe that closes off what
        lies before it. After False the read position is undefined: open the file anew.
        """
        track = self._track
        if not _can_seek(track):
            return False
        ticks = (track.origin + round(pts_s / float(track.time_base))) // track.scale
        try:
            track.container.seek(ticks, stream=track.stream)
            packet = next(p for p in track.container.demux(track.stream))
            closed = packet.size > 0 and track.bitstream.starts_closed_gop(packet)
            if not (closed and packet.is_keyframe and packet.pts is not None):
                return False
            track.container.seek(ticks, stream=track.stream)
        except (FFmpegError, StopIteration):
            return False
        self.seeked = packet.pts <= ticks
        return self.seeked

    def _count(self, packet: Packet) -> Packet:
        self.count += 1
        if (scale := self._track.scale) > 1:
            packet.pts = None if packet.pts is None else packet.pts * scale
            packet.dts = None if packet.dts is None else packet.dts * scale
            packet.duration = (packet.duration or 0) * scale
        if packet.pos is not None:
            end = packet.pos + packet.size + self._gone
            self.last_position = max(self.last_position, end)
        clock = packet.dts if packet.dts is not None else packet.pts
        if clock is None:
            return packet
        second = int(clock * self._track.time_base // 1)
        self._in_second = self._in_second + 1 if second == self._second else 1
        self._second = second
        if self._in_second > MAX_PACKETS_PER_SECOND:
            raise TooLarge(
                f"more than {MAX_PACKETS_PER_SECOND} pictures in one second; "
                "re-encode it at its true frame rate"
            )
        return packet


def _can_seek(track: OpenTrack) -> bool:
    """Whether it is an MP4, whose parts can be found, and not one that is still written."""
    is_mov = track.container.format.name.startswith("mov")
    return is_mov and (track.file is None or track.file.seekable())
