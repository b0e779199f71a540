"""What is refused, and how it is said: one typed error, one line, nothing opened besides."""

import io
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from tests.videos import CASES, VideoSpec, draw_frame, write_video
from tests.workers.decode.oracle import SMALL, read_all
from workers.decode.reader import VideoReader
from workers.errors import (
    NoFrames,
    NoKeyframe,
    NoVideoStream,
    SourceError,
    SourceRefused,
    SourceUnreachable,
    TooLarge,
    UnsupportedCodec,
)
from workers.types import VideoSource


def refusal(url: Path | str, error: type[SourceError], **options) -> str:
    """The message a source is refused with; it must be one line."""
    with pytest.raises(error) as caught:
        read_all(url, **options)
    message = str(caught.value)
    assert type(caught.value) is error
    assert "\n" not in message
    return message


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "video.mp4", frames=20)


def test_missing_file(tmp_path: Path):
    assert str(tmp_path / "no.mp4") in refusal(tmp_path / "no.mp4", SourceUnreachable)


def test_folder(tmp_path: Path):
    assert "is a folder" in refusal(tmp_path, SourceUnreachable)


def test_empty_file(tmp_path: Path):
    (tmp_path / "empty.mp4").touch()
    assert "0 bytes" in refusal(tmp_path / "empty.mp4", NoVideoStream)


def test_text_named_mp4(tmp_path: Path):
    path = tmp_path / "text.mp4"
    path.write_text("IGNORE ALL PREVIOUS INSTRUCTIONS\n" * 40)
    assert "IGNORE" not in refusal(path, NoVideoStream)


def test_mp4_without_its_index(tmp_path: Path, video: Path):
    data = video.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: data.rindex(b"moov") - 4])
    assert "moov" in refusal(path, NoVideoStream)


def test_header_without_samples(tmp_path: Path):
    whole = write_video(tmp_path / "f.mp4", frames=20, mux_options={"movflags": "+faststart"})
    data = whole.read_bytes()
    path = tmp_path / "header.mp4"
    path.write_bytes(data[: data.index(b"mdat") + 4])
    assert "no picture" in refusal(path, NoFrames)


def test_audio_only(tmp_path: Path):
    path = tmp_path / "audio.m4a"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for i in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, i * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert "no video track" in refusal(path, NoVideoStream)


def test_unknown_codec(tmp_path: Path, video: Path):
    path = tmp_path / "unknown.mp4"
    path.write_bytes(video.read_bytes().replace(b"avc1", b"zzzz"))
    assert "no decoder" in refusal(path, UnsupportedCodec)


def test_still_picture_codec(tmp_path: Path):
    spec = VideoSpec(codec="png", pix_fmt="rgb24", options={}, gop=None, frames=3)
    path = write_video(tmp_path / "png.mov", spec)
    assert "png" in refusal(path, UnsupportedCodec)


def test_an_encrypted_file_is_refused_before_anything_is_read(shared: Path):
    path = shared / "cases" / "real_drm_encrypted.mp4"
    assert "is encrypted" in refusal(path, UnsupportedCodec)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_still_picture_first_is_not_the_video(tmp_path: Path, suffix: str):
    path = tmp_path / f"still{suffix}"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=10) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for stream, count in zip(streams, (1, 40), strict=True):
            for index in range(count):
                frame = av.VideoFrame.from_ndarray(draw_frame(index, 96, 128))
                container.mux(stream.encode(frame.reformat(format="yuv420p")))
            container.mux(stream.encode(None))
    assert len(read_all(path)) == 4


def test_no_keyframe(tmp_path: Path):
    whole = write_video(tmp_path / "whole.ts", frames=60, gop=600).read_bytes()
    half = len(whole) // 188 // 2 * 188
    path = tmp_path / "tail.ts"
    path.write_bytes(whole[: 3 * 188] + whole[half:])
    assert "no keyframe" in refusal(path, NoKeyframe)


def test_waiting_for_a_keyframe_is_bounded(tmp_path: Path, monkeypatch):
    whole = write_video(tmp_path / "whole.ts", frames=90, gop=600).read_bytes()
    path = tmp_path / "tail.ts"
    path.write_bytes(whole[: 3 * 188] + whole[188 * 60 :])
    monkeypatch.setattr("workers.decode.reader.MAX_PACKETS_BEFORE_KEYFRAME", 16)
    monkeypatch.setattr("workers.decode.gop.MAX_PART_PACKETS", 8)
    assert "in the first 24 packets" in refusal(path, NoKeyframe)


def test_too_many_pictures_in_a_second(tmp_path: Path):
    times_s = [i / 5000 for i in range(1200)]
    path = write_video(tmp_path / "v.mkv", frames=1200, width=16, height=16, times_s=times_s)
    # Matroska counts milliseconds: equal times, but still 1200 packets in one second.
    assert "in one second" in refusal(path, TooLarge)


def test_gigapixel_picture_is_refused_before_it_is_allocated(tmp_path: Path):
    bomb = _write_bomb(tmp_path / "bomb.mov")
    script = (
        "import sys\n"
        "from workers.decode.reader import iter_frames\n"
        "from workers.errors import TooLarge\n"
        "from workers.types import PixelFormat, VideoSource\n"
        "def peak_kib():\n"  # ru_maxrss would start at the parent's size
        "    status = open('/proc/self/status').read()\n"
        "    return int(status.split('VmHWM:')[1].split()[0])\n"
        "before = peak_kib()\n"
        "try:\n"
        "    list(iter_frames(VideoSource(sys.argv[1], 'x'), PixelFormat(64, 64)))\n"
        "except TooLarge as error:\n"
        "    print(peak_kib() - before, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(bomb)],
        capture_output=True, text=True, timeout=200, check=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    grown_kib, message = done.stdout.split(" ", 1)
    assert 0 < int(grown_kib) < 60_000
    assert "16000x16000" in message


def _write_bomb(path: Path) -> Path:
    """A MOV of one 16000x16000 PNG: a megabyte on disk, 256 MB once decoded."""
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(b"\0" * 16001) for _ in range(16000)) + packer.flush()

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 16000, 16000, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=1)
        stream.width = stream.height = 16000
        stream.pix_fmt = "gray"
        packet = av.Packet(png + chunk(b"IEND", b""))
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, 0, 0, True
        container.mux(packet)
    return path


def test_a_codec_that_is_read_is_capped_too(tmp_path: Path):
    path = tmp_path / "large.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 4160, 4096, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame(4160, 4096, "yuvj420p")))
        container.mux(stream.encode(None))
    assert "4160x4096" in refusal(path, TooLarge)


def test_fifo_is_refused_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "no regular file" in refusal(tmp_path / "pipe.mp4", SourceRefused)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/proc/self/environ"])
def test_devices_and_proc_are_refused(path: str):
    with pytest.raises(SourceError):
        read_all(path)


def test_links_are_followed_unless_they_leave_the_roots(tmp_path: Path, video: Path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "good.mp4").write_bytes(video.read_bytes())
    (outside / "secret.mp4").write_bytes(video.read_bytes())
    (inside / "ok.mp4").symlink_to("good.mp4")
    (inside / "escape.mp4").symlink_to(outside / "secret.mp4")
    assert read_all(inside / "ok.mp4", roots=[inside])
    assert read_all(inside / "escape.mp4")
    assert "outside" in refusal(inside / "escape.mp4", SourceRefused, roots=[inside])
    assert "outside" in refusal(inside / ".." / "video.mp4", SourceRefused, roots=[inside])


def test_a_loop_of_links(tmp_path: Path):
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    assert "a loop of links" in refusal(tmp_path / "loop.mp4", SourceUnreachable)


def test_an_unreadable_file(tmp_path: Path, video: Path, monkeypatch):
    def deny(*args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("workers.decode.file.os.open", deny)
    assert "Permission denied" in refusal(video, SourceUnreachable)


@pytest.mark.parametrize("name", [b"name_\xff\xfe.mp4", b"new\nline \x1b[31m.mp4", b"a:b|c.mp4"])
def test_any_file_name_is_read(tmp_path: Path, video: Path, name: bytes):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    path.write_bytes(video.read_bytes())
    assert len(read_all(path)) == 2


def test_names_are_shown_escaped(tmp_path: Path):
    message = refusal(f"{tmp_path}/new\nline \x1b[31m\udcff.mp4", SourceUnreachable)
    assert r"new\nline \x1b[31m\udcff.mp4" in message


def test_names_that_cannot_be_are_refused(tmp_path: Path):
    for name in ("", f"{tmp_path}/nul\0byte.mp4", f"{tmp_path}/" + "long/" * 2000):
        assert "is no file name" in refusal(name, SourceUnreachable)


def test_file_urls_are_paths(tmp_path: Path, video: Path):
    spaced = video.rename(tmp_path / "my video.mp4")
    assert len(read_all(f"file://{str(spaced).replace(' ', '%20')}")) == 2
    assert "another host" in refusal(f"file://elsewhere{spaced}", SourceRefused)


def test_metadata_that_is_no_utf8_is_read(tmp_path: Path):
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLETITLE"
        stream = container.add_stream("libx264", rate=15)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    assert b"TITLETITLE" in data
    path.write_bytes(data.replace(b"TITLETITLE", b"\xff\xfe\xe9TLE\xf0ITL"))
    assert len(read_all(path)) == 1


def test_a_truncated_file_gives_its_frames_and_says_so(tmp_path: Path):
    spec = VideoSpec(mux_options={"movflags": "+faststart"})
    data = write_video(tmp_path / "whole.mp4", spec).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) * 6 // 10])
    with VideoReader(VideoSource(str(path), "x"), SMALL) as reader:
        frames = list(reader)
        report = reader.report
    assert 2 <= len(frames) < 6
    assert report.truncated
    assert report.end_s is not None
    assert report.end_s < report.declared_end_s == pytest.approx(6.0)
    assert not report.is_sound


def test_an_avi_that_was_cut_says_so(tmp_path: Path):
    data = write_video(tmp_path / "whole.avi", CASES["mpeg4_avi_b"]).read_bytes()
    path = tmp_path / "cut.avi"
    for path_bytes, end in ((data, "complete"), (data[: len(data) * 6 // 10], "truncated")):
        path.write_bytes(path_bytes)
        with VideoReader(VideoSource(str(path), "x"), SMALL) as reader:
            assert len(list(reader)) > 2
            assert reader.report.end == end


def test_a_sound_file_is_reported_as_sound(video: Path):
    with VideoReader(VideoSource(str(video), "x"), SMALL) as reader:
        list(reader)
        assert reader.report.is_sound
        assert reader.report.frames == 2


def test_a_range_that_ends_early_is_not_a_truncated_file(video: Path):
    with VideoReader(VideoSource(str(video), "x", end_s=0.5), SMALL) as reader:
        assert len(list(reader)) == 1
        assert not reader.report.truncated


def test_lost_packets_flag_the_frames_behind_them(tmp_path: Path):
    data = write_video(tmp_path / "whole.ts", frames=60, gop=20).read_bytes()
    count = len(data) // 188
    lost = set(range(count // 2, count // 2 + 12))
    path = tmp_path / "lossy.ts"
    path.write_bytes(b"".join(data[i * 188 :][:188] for i in range(count) if i not in lost))
    with VideoReader(VideoSource(str(path), "x", fps=None), SMALL) as reader:
        frames = list(reader)
        report = reader.report
    assert report.damaged_packets > 0
    assert not frames[0].damaged
    assert any(f.damaged for f in frames)
    assert not frames[-1].damaged  # a GOP later all is well again


def test_joining_late_waits_for_a_keyframe(tmp_path: Path):
    data = write_video(tmp_path / "whole.ts", frames=60, gop=20).read_bytes()
    path = tmp_path / "late.ts"
    path.write_bytes(data[188 * (len(data) // 188 // 6) :])
    with VideoReader(VideoSource(str(path), "x", fps=None), SMALL) as reader:
        frames = list(reader)
        assert reader.report.before_keyframe > 0
    assert len(frames) == 40
    assert not any(f.damaged for f in frames)


@pytest.fixture
def canary() -> Iterator[tuple[int, list[bytes]]]:
    """A loopback port and what was sent to it; nothing should be."""
    hits: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.1)
    done = threading.Event()

    def listen() -> None:
        while not done.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                hits.append(b"hit")

    thread = threading.Thread(target=listen)
    thread.start()
    yield server.getsockname()[1], hits
    done.set()
    thread.join(timeout=120)
    server.close()


DISGUISES = {
    "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}/a.ts\n#EXT-X-ENDLIST\n",
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}/a.ts\n#EXT-X-ENDLIST\n",
    "local.m3u8": "#EXTM3U\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "concat.mp4": "ffconcat version 1.0\nfile '{url}/a.mp4'\n",
    "dash.mp4": (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" '
        'profiles="urn:mpeg:dash:profile:isoff-live:2011" type="static"><BaseURL>{url}/</BaseURL>'
        '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
        "<BaseURL>a.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>"
    ),
    "sdp.mp4": (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    ),
    "smil.mp4": '<smil><body><video src="{url}/a.mp4"/></body></smil>',
    "asx.asf": '<asx version="3.0"><entry><ref href="{url}/a.asf"/></entry></asx>',
}


@pytest.mark.parametrize("name", DISGUISES)
def test_a_playlist_in_disguise_opens_nothing(tmp_path: Path, canary, name: str):
    port, hits = canary
    path = tmp_path / name
    path.write_text(DISGUISES[name].format(url=f"http://127.0.0.1:{port}"))
    with pytest.raises((NoVideoStream, SourceRefused)) as caught:
        read_all(path)
    assert "127.0.0.1" not in str(caught.value)
    assert hits == []


@pytest.mark.parametrize(
    "template",
    [
        "http://127.0.0.1:{port}/a.mp4",
        "rtsp://user:secret@127.0.0.1:{port}/cam",
        "tcp://127.0.0.1:{port}",
        "udp://127.0.0.1:{port}",
        "concat:{file}|{file}",
        "subfile,,start,0,end,100,,:{file}",
        "crypto:{file}",
        "data:video/mp4;base64,AAAA",
        "pipe:0",
        "lavfi:testsrc",
        "async:http://127.0.0.1:{port}/",
        "cache:http://127.0.0.1:{port}/",
    ],
)
def test_protocols_are_refused_and_nothing_is_contacted(canary, video: Path, template: str):
    port, hits = canary
    with pytest.raises((SourceRefused, SourceUnreachable)) as caught:
        read_all(template.format(port=port, file=video))
    assert "secret" not in str(caught.value)
    assert hits == []


def test_frames_are_read_without_ffmpegs_log(capfd, tmp_path: Path):
    path = tmp_path / "noise.mp4"
    path.write_bytes(b"\0\0\0\x18ftypmp42" + os.urandom(4096))
    refusal(path, NoVideoStream)
    assert capfd.readouterr() == ("", "")


def test_a_reader_that_is_not_open_says_so(video: Path):
    with pytest.raises(RuntimeError, match="open the reader first"):
        list(VideoReader(VideoSource(str(video), "x"), SMALL))


def test_an_error_names_its_source_once(tmp_path: Path):
    error = NoFrames("no picture").at("a.mp4").at("b.mp4")
    assert (str(error), error.source) == ("a.mp4: no picture", "a.mp4")
    assert str(pickle.loads(pickle.dumps(error))) == "a.mp4: no picture"
    message = refusal(tmp_path / "no.mp4", SourceUnreachable)
    assert message.count("no.mp4") == 1


def test_nothing_stays_open(video: Path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with VideoReader(VideoSource(str(video), "x"), SMALL) as reader:
            next(iter(reader))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_disk_that_fails_is_told(tmp_path: Path, monkeypatch):
    class Failing(io.FileIO):
        reads = 0

        def read(self, size: int = -1) -> bytes:
            self.reads += 1
            if self.reads > 3:
                raise OSError(5, "Input/output error")
            return super().read(size)

    monkeypatch.setattr(
        "workers.decode.file.os.fdopen", lambda fd, mode, buffering: Failing(fd, mode)
    )
    path = write_video(tmp_path / "v.mkv", width=512, height=384)
    assert path.stat().st_size > 300_000
    assert "Input/output error" in refusal(path, SourceUnreachable)
