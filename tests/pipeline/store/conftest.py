"""Clips to store, stores to put them in, and real servers to break."""

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import torch

from aot import ClipTokens
from pipeline.store import ClipStore, StoreConfig, open_store
from pipeline.store.embedded import find_server, start_embedded, stop_embedded
from pipeline.values.types import StreamInfo
from tests.waits import wait_until
from workers.types import ClipStats, CompressedClip

MakeClip = Callable[..., CompressedClip]


@pytest.fixture
def make_clip() -> MakeClip:
    """`make_clip(index, ...)`: a clip of 4 s with seeded tokens."""

    def make(
        index: int = 0,
        *,
        stream_id: str = "lobby",
        epoch: int = 0,
        start_s: float | None = None,
        length_s: float = 4.0,
        num_tokens: int = 5,
        width: int = 8,
        dtype: torch.dtype = torch.bfloat16,
        seed: int = 0,
        wall_start_s: float | None = None,
    ) -> CompressedClip:
        seeded = torch.Generator().manual_seed(1000 * seed + index)
        start_s = 4.0 * index if start_s is None else start_s
        tokens = ClipTokens(
            tokens=torch.randn(num_tokens, width, generator=seeded).to(dtype),
            frame=torch.randint(0, 4, (num_tokens,), generator=seeded),
            cell=torch.randint(0, 6, (num_tokens,), generator=seeded),
            mass=torch.rand(num_tokens, generator=seeded) * 9,
            kind=torch.randint(0, 3, (num_tokens,), generator=seeded).to(torch.uint8),
            grid=(2, 3),
        )
        return CompressedClip(
            stream_id=stream_id,
            epoch=epoch,
            index=index,
            start_s=start_s,
            end_s=start_s + length_s,
            pts_s=tuple(start_s + i * length_s / 4 for i in range(4)),
            tokens=tokens,
            wall_start_s=wall_start_s,
            stats=ClipStats(frames_in=4, tokens_in=24, tokens_out=num_tokens),
        )

    return make


@pytest.fixture
def info() -> StreamInfo:
    return StreamInfo(
        "lobby", "rtsp://camera/1", "tiny", "f1", created_at_s=1.5, settings={"fps": 1}
    )


@pytest.fixture(scope="session")
def embedded_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose embedded server runs for the whole session."""
    folder = tmp_path_factory.mktemp("embedded")
    start_embedded(folder)
    yield folder
    stop_embedded(folder)


def backends() -> list[str]:
    """The twin, the embedded server, and a server of one's own where REDIS_URL names it."""
    return ["memory", "embedded", *(["redis"] if os.environ.get("REDIS_URL") else [])]


@pytest.fixture(params=backends())
def store(request: pytest.FixtureRequest) -> Iterator[ClipStore]:
    """Every backend in turn, in a namespace of the test's own."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    urls = {"memory": lambda: "memory://", "redis": lambda: os.environ["REDIS_URL"]}
    folder = lambda: f"embedded://{request.getfixturevalue('embedded_folder')}"  # noqa: E731
    url = urls.get(request.param, folder)()
    with open_store(StoreConfig(url, namespace=namespace)) as opened:
        yield opened
        for stream_id in opened.list_streams():
            opened.delete_stream(stream_id)


class Server:
    """A redis-server of the test's own, to be filled, cut off and killed."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options = folder, options
        self.socket = folder / "s"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> "Server":
        settings = ("--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder))
        self.process = subprocess.Popen(
            [str(find_server().path), *settings, "--save", "", *self.options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(500):
            try:
                self.client().ping()
                return self
            except redis.AuthenticationError:
                return self
            except redis.ConnectionError:
                time.sleep(0.02)
        raise AssertionError("the server did not start within 10 s")

    def client(self, **options: object) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), **options)  # type: ignore[arg-type]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=120)


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """`serve("--option", "value")` starts a server that ends with the test."""
    running: list[Server] = []

    def start(*options: str) -> Server:
        folder = Path(f"/tmp/aot-test-{uuid.uuid4().hex[:12]}")  # short: a socket path is 107 bytes
        folder.mkdir(mode=0o700)
        running.append(Server(folder, *options).start())
        return running[-1]

    yield start
    for server in running:
        server.kill()
        for path in sorted(server.folder.rglob("*"), reverse=True):
            path.unlink() if not path.is_dir() else path.rmdir()
        server.folder.rmdir()


@pytest.fixture
def run_process() -> Iterator[Callable[[list[str]], None]]:
    """`run_process(command)`: started in silence, and killed with the test."""
    running: list[subprocess.Popen[bytes]] = []
    yield lambda command: running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    for process in running:
        process.kill()
        process.wait(timeout=120)


@pytest.fixture
def start(tmp_path: Path, run_process: Callable[[list[str]], None]) -> Callable[..., redis.Redis]:
    """`start(port, *options)`: a server on loopback that ends with the test."""

    def run(port: int, *options: str) -> redis.Redis:
        folder = tmp_path / str(port)
        folder.mkdir()
        command = [str(find_server().path), *options, "--port", str(port), "--dir", str(folder)]
        run_process([*command, "--bind", "127.0.0.1", "--save", ""])
        client = redis.Redis(port=port)
        wait_until(client.ping)
        return client

    return run


@pytest.fixture
def watch_primary(
    tmp_path: Path, run_process: Callable[[list[str]], None]
) -> Callable[[int, int, str], redis.Redis]:
    """`watch_primary(port, primary_port, lines)`: a Sentinel of "main" that ends with the test."""

    def run(port: int, primary_port: int, lines: str) -> redis.Redis:
        settings = tmp_path / "sentinel.conf"
        settings.write_text(f"sentinel monitor main 127.0.0.1 {primary_port} 1\n{lines}\n")
        run_process([str(find_server().path), str(settings), "--sentinel", "--port", str(port)])
        client = redis.Redis(port=port)
        wait_until(client.ping)
        return client

    return run
