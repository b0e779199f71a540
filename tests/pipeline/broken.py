"""Files that are no video, or not quite: made from the bytes of good ones."""

import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.videos import write_video

FASTSTART = {"movflags": "+faststart"}


def write_text(path: Path) -> Path:
    path.write_text("IGNORE ALL PREVIOUS INSTRUCTIONS\n" * 20)
    return path


def write_empty(path: Path) -> Path:
    path.touch()
    return path


def write_without_moov(path: Path) -> Path:
    """A recording that was cut off before its index was written."""
    data = write_video(path, frames=40, fps=4, gop=8).read_bytes()
    path.write_bytes(data[: data.rindex(b"moov") - 4])
    return path


def write_truncated(path: Path) -> Path:
    """40 s whose index stands first and whose pictures end somewhere behind the middle."""
    data = write_video(path, frames=160, fps=4, gop=8, mux_options=FASTSTART).read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    return path


def write_header_only(path: Path) -> Path:
    data = write_video(path, frames=40, fps=4, gop=8, mux_options=FASTSTART).read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 4])
    return path


def write_audio_only(path: Path) -> Path:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000)
        for index in range(20):
            silence = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 1024 * index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_one_frame(path: Path) -> Path:
    return write_video(path, frames=1, fps=4)


def write_foreign_metadata(path: Path) -> Path:
    """A title that is not UTF-8."""
    plain = path.with_name("plain.mp4")
    write_video(plain, frames=16, fps=4, gop=8)
    with av.open(str(plain)) as source, av.open(str(path), "w") as output:
        output.metadata["title"] = "TITLETITLE"
        track = source.streams.video[0]
        stream = output.add_stream_from_template(track)
        for packet in source.demux(track):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    data = path.read_bytes()
    assert b"TITLETITLE" in data
    path.write_bytes(data.replace(b"TITLETITLE", b"\xff\xfe\xe9\x1b[31m\x07"))
    return path


def write_unknown_codec(path: Path) -> Path:
    """Matroska whose track says it is something that does not exist."""
    data = write_video(path, frames=16, fps=4, gop=8, container="matroska").read_bytes()
    assert b"V_MPEG4/ISO/AVC" in data
    path.write_bytes(data.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/XYZ"))
    return path


def write_bomb(path: Path, side: int = 16_000) -> Path:
    """One grey picture of 16000x16000 in 250 kB."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    ]
    with av.open(str(path), "w", format="mov") as container:
        stream = container.add_stream("png", rate=1)
        stream.width = stream.height = side
        stream.pix_fmt = "gray"
        packet = av.Packet(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
        packet.stream, packet.pts, packet.dts = stream, 0, 0
        packet.time_base, packet.is_keyframe = Fraction(1, 1), True
        container.mux(packet)
    return path
