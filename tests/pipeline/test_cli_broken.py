"""Files that are no video, and stores that are not there: one typed line, nothing half-written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.store import StoreConfig, open_store
from pipeline.store.embedded import stop_embedded
from pipeline.store.redis.connection import connect
from tests.pipeline import broken
from tests.pipeline.conftest import CLIPS
from tests.pipeline.support import digests, mounted
from tests.waits import wait_until


def error_of(ran) -> str:
    """The one line of an error; no traceback beside it."""
    assert "Traceback" not in ran.err + ran.out
    lines = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ran.err
    return lines[0]


@pytest.mark.parametrize(
    ("write", "code"),
    [
        (broken.write_empty, "NoVideoStream"),
        (broken.write_text, "NoVideoStream"),
        (broken.write_without_moov, "NoVideoStream"),
        (broken.write_header_only, "NoFrames|NoVideoStream"),
        (broken.write_audio_only, "NoVideoStream"),
        (broken.write_unknown_codec, "UnsupportedCodec"),
        (broken.write_bomb, "TooLarge|UnsupportedCodec"),
    ],
)
def test_a_file_without_a_readable_video_is_refused(run, opened, tmp_path, write, code):
    ran = run("ingest", write(tmp_path / "x.mp4"))
    assert ran.code == 1
    said = error_of(ran)
    assert said.split(": ")[1] in code.split("|"), said
    assert str(tmp_path / "x.mp4") in said
    known = opened.get_info("x")
    assert known.status == "failed"
    assert known.error.split(":")[0] == said.split(": ")[1]
    assert opened.list_spans("x") == []
    assert opened.get_lease("x") is None
    assert run("clips", "verify", "x").code == 0


def test_a_good_file_may_take_the_place_of_a_failed_one(run, video, opened, tmp_path):
    path = broken.write_text(tmp_path / "x.mp4")
    assert run("ingest", path).code == 1
    path.write_bytes(video.read_bytes())
    assert run("ingest", path).code == 0
    known = opened.get_info("x")
    assert (known.status, known.error) == ("complete", None)
    assert len(opened.list_spans("x")) == CLIPS


@pytest.mark.parametrize("kind", ["fifo", "device", "folder named .mp4", "loop", "secret"])
def test_what_is_no_regular_file_is_refused(run, opened, tmp_path, kind):
    path = tmp_path / "x.mp4"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder named .mp4":
        path.mkdir()
        path = path / "y" / ".."
    else:
        targets = {"device": "/dev/zero", "loop": str(path), "secret": "/etc/passwd"}
        path.symlink_to(targets[kind])
    ran = run("ingest", path, "--stream", "x")
    assert ran.code in (1, 2)
    error_of(ran)
    assert "root:" not in ran.err


def test_a_truncated_file_keeps_its_frames_and_says_so(run, opened, tmp_path):
    ran = run("ingest", broken.write_truncated(tmp_path / "cut.mp4"))
    assert ran.code == 0, ran.err
    assert "truncated: the source ends before its end" in ran.out
    value = run("streams", "show", "cut", "--json").json
    assert value["status"] == "complete"
    assert value["error"].startswith("Truncated: ")
    assert 3 <= value["clips"] < 2 * CLIPS
    assert [gap["reason"] for gap in value["gap_list"]][-1] == "truncated"
    assert value["gap_list"][-1]["end_s"] == pytest.approx(40.0, abs=0.5)
    assert run("clips", "verify", "cut").code == 0


def test_one_frame_is_one_clip(run, opened, tmp_path):
    ran = run("ingest", broken.write_one_frame(tmp_path / "one.mp4"))
    assert ran.code == 0, ran.err
    [span] = opened.list_spans("one")
    assert opened.get_clip(span).stats.frames_in == 1
    assert run("ask", "what is seen", "-s", "one").code == 0


def test_metadata_that_is_not_utf8_hinders_nothing(run, opened, tmp_path):
    ran = run("ingest", broken.write_foreign_metadata(tmp_path / "title.mp4"))
    assert ran.code == 0, ran.err
    assert len(opened.list_spans("title")) == 2


def test_a_name_that_is_not_utf8_is_stored_and_shown_escaped(run, video, opened, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff\xe9\x1b[31m\n.mp4"))
    path.write_bytes(video.read_bytes())
    ran = run("ingest", path, "--json")
    assert ran.code == 0, ran.err
    [stream_id] = opened.list_streams()
    shown = run("streams", "show", stream_id, "--json").json["source"]
    assert shown.startswith(f"{tmp_path}/a\\xff\\xe9")
    for more in ([], ["--json"]):
        assert "\x1b" not in run("streams", "show", stream_id, *more).out


def test_a_wrong_name_that_is_not_utf8_is_shown_escaped(run, tmp_path):
    ran = run("ingest", os.fsdecode(os.fsencode(tmp_path) + b"/a\xff\x1b[31m.mp4"))
    assert ran.code == 1
    assert "\x1b" not in error_of(ran)
    assert "\\xff" in ran.err or "\\udcff" in ran.err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_tricky_file_is_taken_or_refused_in_one_line(run, opened, shared, tmp_path):
    """The recorded kinds of broken and tricky files, where they lie beside the repository."""
    source = shared / "videos" / "surveillance_one_by_one.mp4"
    tool = [sys.executable, str(shared / "tools" / "make_broken.py"), str(source), str(tmp_path)]
    subprocess.run([*tool, "--seconds", "2"], check=True, capture_output=True, timeout=120)
    expected = json.loads((tmp_path / "manifest.json").read_text())["files"]
    files = sorted(path for path in tmp_path.iterdir() if path.name in expected)
    assert len(files) > 30
    wrong = []
    for number, path in enumerate(files):
        ran = run("ingest", path, "--stream", f"s{number}", "--clip-frames", "2")
        assert "Traceback" not in ran.err
        expect = {"decode": (0,), "error": (1,), "partial": (0, 1)}[expected[path.name]["expect"]]
        if ran.code not in expect or run("clips", "verify", f"s{number}").code != 0:
            wrong.append((path.name, ran.code, ran.err))
    allowed = {"link_escape.mp4"}
    assert [name for name, *_ in wrong if name not in allowed] == [], wrong


# --- the store -------------------------------------------------------------------------------


@pytest.fixture
def own_server(tmp_path_factory, monkeypatch):
    """A server of the test's own, to be broken, and its config."""
    folder = tmp_path_factory.mktemp("own")
    config = StoreConfig(f"embedded://{folder}")
    monkeypatch.setenv("AOT_STORE__URL", config.url)
    monkeypatch.setenv("AOT_STORE__NAMESPACE", "aot")
    with open_store(config) as store, connect(store.config) as client:
        yield store, client
        client.config_set("maxmemory", 0)
    stop_embedded(folder)


def test_a_full_store_keeps_what_it_has_and_goes_on_later(run, video, own_server):
    store, client = own_server
    used = lambda: client.info("memory")["used_memory"]  # noqa: E731
    assert run("ingest", video, "--stream", "all", "--reducer", "none").code == 0
    whole = digests(store, "all")
    half_bytes = sum(span.size_bytes for span in store.list_spans("all")) // 2
    store.delete_stream("all")
    wait_until(lambda: not client.info("memory")["lazyfree_pending_objects"])
    client.config_set("maxmemory", used() + half_bytes + 100_000)
    ran = run("ingest", video, "--stream", "all", "--reducer", "none")
    assert ran.code == 1
    assert error_of(ran).startswith("error: StoreFull: ")
    stored = digests(store, "all")
    assert 0 < len(stored) < CLIPS
    assert stored.items() <= whole.items()
    assert store.verify("all").ok
    client.config_set("maxmemory", 0)
    assert run("ingest", video, "--stream", "all", "--reducer", "none").code == 0
    assert digests(store, "all") == whole


def test_a_store_that_is_away_is_named_in_time(run, video, monkeypatch):
    monkeypatch.setenv("AOT_STORE__URL", "redis://aot:hunter2@127.0.0.1:1/0")
    for command in (("ingest", video), ("streams",), ("ask", "x", "-s", "a"), ("clips", "ls", "a")):
        ran = run(*command)
        assert ran.code == 1
        said = error_of(ran)
        assert said.startswith("error: StoreUnavailable: store redis://127.0.0.1:1/0")
        assert "hunter2" not in said


def test_a_wrong_password_is_named(run, video, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("locked")
    with (
        open_store(StoreConfig(f"embedded://{folder}")) as store,
        connect(store.config) as client,
    ):
        client.config_set("requirepass", "right")
        url = store.config.url.replace("unix://", "unix://:wr0ng@")
        monkeypatch.setenv("AOT_STORE__URL", url)
        ran = run("ingest", video)
        client.config_set("requirepass", "")
    stop_embedded(folder)
    assert ran.code == 1
    assert error_of(ran).startswith("error: StoreRefused: ")
    assert "set user and password" in ran.err
    assert "wr0ng" not in ran.err


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MB."""
    with mounted(tmp_path / "disk", size="2m") as folder:
        yield folder
        stop_embedded(folder / "store")


def test_a_full_disk_is_named_and_what_was_stored_is_whole(
    run, video, small_disk, monkeypatch, opened
):
    monkeypatch.setenv("AOT_STORE__URL", f"embedded://{small_disk}/store")
    options = ("--reducer", "none", "--fps", "4")
    for number in range(12):  # 0.25 MB a time
        ran = run("ingest", video, "--stream", f"s{number}", *options)
        if ran.code:
            break
    assert ran.code == 1
    assert error_of(ran).startswith("error: StoreFull: ")
    ballast = small_disk / "store" / "redis.log"
    ballast.write_bytes(b"")
    with open_store(StoreConfig(f"embedded://{small_disk}/store", namespace="x")):
        pass
    for stored in range(number):
        assert run("clips", "verify", f"s{stored}").code == 0


def test_an_export_to_a_full_disk_leaves_no_file(run, video, small_disk):
    assert run("ingest", video, "--stream", "all", "--reducer", "none").code == 0
    (small_disk / "ballast").write_bytes(bytes(2_000_000))
    ran = run("clips", "export", "all", "-o", small_disk / "all.arrow")
    assert ran.code == 1
    assert error_of(ran).startswith("error: StoreFull: ")
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]
