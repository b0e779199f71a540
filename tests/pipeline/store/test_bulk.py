"""Many values in a row from a real server: cut, killed, slow, encrypted, shared by several."""

import dataclasses
import gc
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.store import StoreConfig, open_store
from pipeline.store.envelope import HEADER_BYTES, MAX_BODY_BYTES
from pipeline.store.keys import Keys
from pipeline.store.redis.store import READ_AHEAD
from pipeline.values.errors import CorruptValue, MissingValue, StoreUnavailable

NUM_CLIPS = 12


@pytest.fixture
def fill(info, make_clip) -> Callable[..., list]:
    """`fill(store)`: a stream of clips of different sizes; their spans."""

    def put_all(store, num_clips=NUM_CLIPS, **changes):
        store.put_info(info)
        lease = store.acquire_lease("lobby", "tests")
        clips = (make_clip(index, num_tokens=index, **changes) for index in range(num_clips))
        return [store.put_clip(clip, lease, fingerprint="f1") for clip in clips]

    return put_all


def key(index: int) -> str:
    return Keys().clip("lobby", 0, index)


def indices(clips) -> list[int]:
    return [clip.index for clip in clips]


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "aot-store"]


def num_normal_clients(server) -> int:
    """Connections of the server beside the one that asks."""
    return len(server.client().client_list()) - 1


# --- what comes ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_the_clips_are_those_that_single_reads_give(serve, fill, dtype):
    with open_store(StoreConfig(serve().url, dtype=dtype)) as store:
        spans = fill(store, width=300)
        for span, clip in zip(spans, store.iter_clips(spans), strict=True):
            single = store.get_clip(span)
            assert dataclasses.replace(clip, tokens=single.tokens) == single
            for name in ("tokens", "frame", "cell", "mass", "kind"):
                assert torch.equal(getattr(clip.tokens, name), getattr(single.tokens, name))


def test_values_larger_than_a_socket_buffer_come_whole(serve, fill):
    with open_store(StoreConfig(serve().url)) as store:
        spans = fill(store, 20, width=40_000)
        assert spans[-1].size_bytes > 1_500_000
        assert indices(store.iter_clips(spans)) == list(range(20))


def test_tokens_may_be_written_and_nothing_else_changes(serve, fill):
    with open_store(StoreConfig(serve().url)) as store:
        spans = fill(store)
        clips = list(store.iter_clips(spans))
        before = [clip.tokens.tokens.clone() for clip in clips]
        clips[5].tokens.tokens.fill_(7)
        others = [index for index in range(NUM_CLIPS) if index != 5]
        assert all(torch.equal(clips[i].tokens.tokens, before[i]) for i in others)
        again = list(store.iter_clips(spans))
        assert torch.equal(again[5].tokens.tokens, before[5])


def test_tokens_outlive_the_store(serve, fill):
    with open_store(StoreConfig(serve().url)) as store:
        spans = fill(store)
        expected = store.get_clip(spans[9]).tokens.tokens
        kept = list(store.iter_clips(spans))[9].tokens.tokens
    gc.collect()
    assert torch.equal(kept, expected)


def test_spans_are_pulled_by_the_caller_a_few_ahead(serve, fill):
    with open_store(StoreConfig(serve().url)) as store:
        spans = fill(store)
        pulled = []

        def lazily():
            for span in spans:
                pulled.append((span.index, threading.current_thread()))
                yield span

        clips: Any = store.iter_clips(lazily())
        for number in range(1, 4):
            next(clips)
            assert len(pulled) == number + READ_AHEAD
        clips.close()
        assert {thread for _, thread in pulled} == {threading.current_thread()}


# --- connections and threads -----------------------------------------------------------------


def test_the_connection_of_a_finished_iteration_is_used_again(serve, fill):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        spans = fill(store)
        list(store.iter_clips(spans))
        known = {client["id"] for client in server.client().client_list()}
        for _ in range(5):
            assert len(list(store.iter_clips(spans))) == NUM_CLIPS
            assert store.list_streams() == ["lobby"]
        now = {client["id"] for client in server.client().client_list()}
        assert len(now - known) == 1  # who asks


def test_an_iteration_left_early_leaves_nothing_behind(serve, fill):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        spans = fill(store, width=5000)
        for taken in range(NUM_CLIPS):
            clips: Any = store.iter_clips(spans)
            for _ in range(taken):
                next(clips)
            clips.close()
            assert not readers()
            assert store.get_clip(spans[3]).index == 3
            assert store.list_streams() == ["lobby"]
        assert num_normal_clients(server) <= 2


def test_an_iteration_that_is_forgotten_ends(serve, fill):
    with open_store(StoreConfig(serve().url)) as store:
        spans = fill(store)
        clips = store.iter_clips(spans)
        next(clips)
        assert len(readers()) == 1
        del clips
        gc.collect()
        assert not readers()


def test_two_iterations_at_the_same_time_and_writes_between(serve, fill, make_clip):
    with open_store(StoreConfig(serve().url)) as store:
        spans = fill(store, width=3000)
        pairs = zip(store.iter_clips(spans), store.iter_clips(reversed(spans)), strict=True)
        for number, (one, other) in enumerate(pairs):
            assert (one.index, other.index) == (number, NUM_CLIPS - 1 - number)
            assert store.get_clip(spans[number]).index == number
        assert not readers()


def test_threads_share_a_store(serve, fill):
    with open_store(StoreConfig(serve().url)) as store, ThreadPoolExecutor(6) as threads:
        spans = fill(store, width=2000)
        orders = [spans[i:] + spans[:i] for i in range(NUM_CLIPS)]
        read = list(threads.map(lambda order: indices(store.iter_clips(order)), orders))
        assert read == [[span.index for span in order] for order in orders]


def test_one_iteration_may_go_on_in_another_thread(serve, fill):
    with open_store(StoreConfig(serve().url)) as store:
        clips = store.iter_clips(fill(store))
        got = [next(clips).index]
        for _ in range(3):
            with ThreadPoolExecutor(1) as other:
                got.append(other.submit(next, clips).result().index)
        assert got + indices(clips) == list(range(NUM_CLIPS))


def test_a_store_closed_in_the_middle_is_opened_again(serve, fill):
    """As single reads do: redis-py connects anew where its connections were closed."""
    with open_store(StoreConfig(serve().url)) as store:
        clips = store.iter_clips(fill(store))
        assert next(clips).index == 0
        store.close()
        assert indices(clips) == list(range(1, NUM_CLIPS))


# --- what is not a value ---------------------------------------------------------------------


def test_a_missing_value_in_the_middle_is_named_and_the_rest_comes(serve, fill):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        spans = fill(store)
        server.client().delete(key(4), key(5), key(9))
        clips = store.iter_clips(spans)
        assert [next(clips).index for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(MissingValue, match="lobby/0/4"):
            next(clips)
        rest = [index for index in range(NUM_CLIPS) if index not in (4, 5, 9)]
        assert indices(store.iter_clips(spans, on_corrupt="skip")) == rest
        assert [span.index for span, _ in store.verify("lobby").corrupt] == [4, 5, 9]


def test_a_damaged_value_in_the_middle_is_left_out(serve, fill, caplog):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        spans = fill(store)
        server.client().setrange(key(6), spans[6].size_bytes - 300, "damage")
        rest = [index for index in range(NUM_CLIPS) if index != 6]
        assert indices(store.iter_clips(spans, on_corrupt="skip")) == rest
        assert "lobby clip 6 left out: lobby/0/6: the digest does not match" in caplog.text
        with pytest.raises(CorruptValue, match="lobby/0/6"):
            list(store.iter_clips(spans))


def test_every_byte_of_a_value_is_covered(serve, fill):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        span = fill(store, 2)[1]
        client, value = server.client(), store.get_record(span)
        for at in range(0, len(value), 7):
            client.set(key(1), value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :])
            assert list(store.iter_clips([span], on_corrupt="skip")) == [], at
        client.set(key(1), value)
        assert indices(store.iter_clips([span])) == [1]


def test_values_of_another_key_with_the_same_length_are_found(serve, fill, make_clip, info):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        store.put_info(info)
        lease = store.acquire_lease("lobby", "tests")
        spans = [store.put_clip(make_clip(i), lease, fingerprint="f1") for i in (3, 4, 5)]
        assert spans[0].size_bytes == spans[1].size_bytes
        server.client().copy(key(3), key(4), replace=True)
        assert indices(store.iter_clips(spans, on_corrupt="skip")) == [3, 5]


def test_a_key_of_another_type_in_the_middle_is_a_corrupt_value(serve, fill):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        spans = fill(store)
        server.client().delete(key(7))
        server.client().rpush(key(7), "a list")
        rest = [index for index in range(NUM_CLIPS) if index != 7]
        assert indices(store.iter_clips(spans, on_corrupt="skip")) == rest
        with pytest.raises(CorruptValue, match="another program uses this key"):
            list(store.iter_clips(spans))


@pytest.mark.parametrize(
    "size_bytes",
    [-1, 0, HEADER_BYTES - 1, 700, 9_999, HEADER_BYTES + MAX_BODY_BYTES, 1 << 40],
)
def test_a_length_that_the_index_gets_wrong_costs_a_second_read_and_no_more(
    serve, fill, size_bytes
):
    with open_store(StoreConfig(serve().url)) as store:
        spans = fill(store)
        spans[3] = dataclasses.replace(spans[3], size_bytes=size_bytes)
        assert indices(store.iter_clips(spans)) == list(range(NUM_CLIPS))


def test_a_user_who_may_not_read_is_told(serve, fill):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        spans = fill(store)
    rights = ("on", ">pw", "~*", "+@read", "-get", "+info", "+@connection")
    server.client().execute_command("ACL", "SETUSER", "lister", *rights)
    url = server.url.replace("unix://", "unix://lister:pw@")
    with (
        open_store(StoreConfig(url)) as store,
        pytest.raises(StoreUnavailable, match="grant the store's user this command"),
    ):
        list(store.iter_clips(spans, on_corrupt="skip"))


# --- servers that go away --------------------------------------------------------------------


def test_connections_cut_in_the_middle_are_opened_again(serve, fill):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        spans = fill(store, width=5000)
        got = []
        for clip in store.iter_clips(spans):
            got.append(clip.index)
            server.client().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert got == list(range(NUM_CLIPS))


def test_a_server_killed_in_the_middle_is_an_error_and_no_damage(serve, fill):
    server = serve("--appendonly", "yes", "--appendfsync", "always")
    with open_store(StoreConfig(server.url)) as store:
        spans = fill(store, width=5000)
        clips = store.iter_clips(spans, on_corrupt="skip")
        got = [next(clips).index]
        server.kill()
        with pytest.raises(StoreUnavailable, match="start the server"):
            got += indices(clips)
        assert got == list(range(len(got)))
        assert not readers()
        server.start()
        assert indices(store.iter_clips(spans)) == list(range(NUM_CLIPS))


def test_a_server_started_again_in_the_middle_is_not_noticed(serve, fill):
    server = serve("--appendonly", "yes", "--appendfsync", "always")
    with open_store(StoreConfig(server.url)) as store:
        clips = store.iter_clips(fill(store, width=5000))
        got = [next(clips).index]
        server.kill()
        server.start()
        assert got + indices(clips) == list(range(NUM_CLIPS))


def test_a_server_that_stops_answering_in_the_middle_is_an_error_in_time(serve, fill):
    server = serve()
    with open_store(StoreConfig(server.url, timeout_s=0.4)) as store:
        spans = fill(store, width=5000)
        clips = store.iter_clips(spans)
        next(clips)
        server.process.send_signal(19)  # SIGSTOP
        try:
            started_s = time.monotonic()
            with pytest.raises(StoreUnavailable, match="no answer in time"):
                list(clips)
            assert 0.3 < time.monotonic() - started_s < 20
        finally:
            server.process.send_signal(18)  # SIGCONT
        assert indices(store.iter_clips(spans)) == list(range(NUM_CLIPS))


def test_the_time_limit_of_a_connection_is_as_before_when_it_is_given_back(serve, fill):
    server = serve()
    with open_store(StoreConfig(server.url, timeout_s=0.4)) as store:
        spans = fill(store)
        list(store.iter_clips(spans))
        server.process.send_signal(19)
        try:
            with pytest.raises(StoreUnavailable, match="no answer in time"):
                store.list_streams()
        finally:
            server.process.send_signal(18)


# --- other ways to a server ------------------------------------------------------------------


@contextmanager
def relay(target: Path, wrap=lambda accepted: accepted, piece_bytes: int = 1 << 16):
    """A TCP port before a server's unix socket that passes replies on in pieces."""
    listener = socket.create_server(("127.0.0.1", 0))
    ends: list[socket.socket] = [listener]

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                for at in range(0, len(data), piece_bytes):
                    sink.sendall(data[at : at + piece_bytes])
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                near = wrap(listener.accept()[0])
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(target))
                ends.extend((near, far))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A certificate and its key in one file, for 127.0.0.1."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl command to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 "
        f"-addext subjectAltName=IP:127.0.0.1 -keyout {path} -out {path}.crt".split(),
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def test_over_tcp_with_a_password_another_database_and_the_third_protocol(serve, fill, port):
    rights = ("on", ">right", "~*", "&*", "+@all")
    serve("--port", str(port)).client().execute_command("ACL", "SETUSER", "reader", *rights)
    url = f"redis://reader:right@127.0.0.1:{port}/1?protocol=3"
    with open_store(StoreConfig(url)) as store:
        spans = fill(store, width=20_000)
        assert indices(store.iter_clips(spans)) == list(range(NUM_CLIPS))


def test_a_reply_that_comes_a_few_bytes_at_a_time(serve, fill):
    server = serve()
    with (
        relay(server.socket, piece_bytes=3) as port,
        open_store(StoreConfig(f"redis://127.0.0.1:{port}")) as store,
    ):
        spans = fill(store, 5)
        assert indices(store.iter_clips(spans)) == list(range(5))
        server.client().delete(key(2))
        assert indices(store.iter_clips(spans, on_corrupt="skip")) == [0, 1, 3, 4]


def test_over_tls(serve, fill, certificate):
    server = serve()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def wrap(accepted: socket.socket) -> socket.socket:
        return context.wrap_socket(accepted, server_side=True)

    with relay(server.socket, wrap) as port:
        url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}.crt"
        with open_store(StoreConfig(url, timeout_s=0.5)) as store:
            spans = fill(store, width=20_000)
            assert indices(store.iter_clips(spans)) == list(range(NUM_CLIPS))
            server.client().delete(key(2))
            rest = [index for index in range(NUM_CLIPS) if index != 2]
            assert indices(store.iter_clips(spans, on_corrupt="skip")) == rest
            server.process.send_signal(19)
            try:
                with pytest.raises(StoreUnavailable, match="no answer in time"):
                    list(store.iter_clips(spans))
            finally:
                server.process.send_signal(18)
