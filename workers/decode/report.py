"""What a video file says of itself, and what became of it when it was read."""

from dataclasses import dataclass

import av

from workers.decode.packets import PacketReader
from workers.decode.plan import MAX_UNSEEN_TAIL, DecodeTally
from workers.decode.track import OpenTrack
from workers.types import SourceEnd

TRUNCATED_S = 1.0
"""A file that ends this much before the end it declares was cut short."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of itself."""

    track: int
    """Number of the video track among all tracks."""
    start_s: float
    """What the container's clock shows at stream second 0."""
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
    damaged_frames: int
    """Those of them that are marked as damaged."""
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
    """Stream time at which the last of the packets read ends."""
    fell_back: str | None
    """Why some of it was decoded in full; None when the plan held throughout."""
    gops_planned: int
    gops_whole: int
    gops_skipped: int

    @property
    def end(self) -> SourceEnd:
        """How reading ended."""
        if self.frames and self.damaged_frames == self.frames:
            return "damaged"
        return "truncated" if self.truncated else "complete"

    @property
    def is_sound(self) -> bool:
        """Nothing missing, nothing damaged."""
        return not (self.truncated or self.damaged_packets or self.read_errors)


def describe_video(track: OpenTrack) -> VideoInfo:
    """What an open file declares."""
    context = track.stream.codec_context
    return VideoInfo(
        track=track.stream.index,
        start_s=float(track.origin * track.time_base),
        container=track.container.format.name,
        codec=track.bitstream.codec,
        width=context.width,
        height=context.height,
        fps=float(track.rate),
        end_s=track.declared_end_s,
    )


def make_report(
    track: OpenTrack,
    packets: PacketReader,
    tally: DecodeTally,
    *,
    frames: int,
    damaged_frames: int,
    epochs: int,
    end_s: float | None,
    before_keyframe: int,
) -> DecodeReport:
    """Put together what the stages counted."""
    unseen_tail = max(tally.refused_in_a_row, tally.unseen_in_a_row)
    broke_off = packets.broke_off or unseen_tail >= MAX_UNSEEN_TAIL
    return DecodeReport(
        frames=frames,
        damaged_frames=damaged_frames,
        decoded=tally.decoded,
        packets=packets.count,
        epochs=epochs,
        damaged_packets=tally.refused_packets + tally.corrupt_packets,
        read_errors=packets.read_errors,
        before_keyframe=before_keyframe,
        truncated=broke_off or (epochs == 1 and _ends_early(track, packets, end_s)),
        declared_end_s=track.declared_end_s,
        end_s=end_s,
        fell_back=tally.fell_back,
        gops_planned=tally.gops_planned,
        gops_whole=tally.gops_whole,
        gops_skipped=tally.gops_skipped,
    )


def _ends_early(track: OpenTrack, packets: PacketReader, end_s: float | None) -> bool:
    """Whether a file that was read to its end holds less than it declares."""
    if not packets.exhausted:
        return False
    if track.cut_short:
        return True
    if track.counts_frames and not packets.seeked and packets.count < track.stream.frames:
        return True
    declared_s = track.declared_end_s
    if declared_s is None or end_s is None or len(track.container.streams) > 1:
        return False  # another track may be the longer one
    return end_s < declared_s - TRUNCATED_S


def decoder_versions() -> tuple[str, str]:
    """Version of PyAV, and of the FFmpeg it carries."""
    return av.__version__, str(av.ffmpeg_version_info)
