"""Services on real sockets, with a tiny model, two streams and keys."""

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline import Pipeline, Settings, load_settings
from pipeline.serve.http import listen, make_server
from pipeline.serve.service import Service

START_S = 30.0


@dataclass
class Served:
    """A running service."""

    service: Service
    url: str
    keys: dict[str, str] = field(default_factory=dict)

    def client(self, key: str | None = None) -> httpx.Client:
        """A client that sends the key of that name."""
        headers = {} if key is None else {"Authorization": f"Bearer {self.keys.get(key, key)}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)


@contextmanager
def serving(settings: Settings) -> Iterator[Served]:
    """A service in this process, on uvicorn and a port of its own."""
    with listen(settings) as at:
        service = Service(settings)
        server = make_server(service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [at]}, daemon=True)
        thread.start()
        until_s = time.monotonic() + START_S
        while not server.started:
            assert time.monotonic() < until_s
            time.sleep(0.01)
        try:
            yield Served(service, f"http://127.0.0.1:{at.getsockname()[1]}")
        finally:
            server.should_exit = True
            thread.join(START_S)
            service.close()
            assert not thread.is_alive()


def with_serve(settings: Settings, **changes: Any) -> Settings:
    """The settings with others of the service."""
    serve = settings.serve.model_copy(update=changes)
    return settings.model_copy(update={"serve": serve})


@pytest.fixture(scope="session")
def base(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, server_folder: Path, video: Path
) -> Settings:
    """Settings of a store with the streams `walk` and `other`."""
    folder = tmp_path_factory.mktemp("serve")
    settings = load_settings(
        None,
        {
            "model": {"id": str(model_folder)},
            "store": {
                "url": f"embedded://{server_folder}",
                "namespace": f"s-{uuid.uuid4().hex[:8]}",
            },
            "ingest": {"fps": 2.0, "clip_frames": 4},
            "ray": {"enabled": False},
            "ask": {"max_new_tokens": 8},
            "serve": {"port": 0, "keys_file": str(folder / "none.json"), "requests_per_s": 1e6},
        },
    )
    with Pipeline(settings) as pipeline:
        pipeline.ingest(str(video), stream="walk", wall_start_s=1_767_268_800.0)
        pipeline.ingest(str(video), stream="other")
    return settings


@pytest.fixture(scope="session")
def served(base: Settings) -> Iterator[Served]:
    """Open to this machine."""
    with serving(base) as one:
        yield one


@pytest.fixture(scope="session")
def keyed(base: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With keys: `read`, `ingest`, `admin`, and `walk`, which reads one stream."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    with serving(with_serve(base, keys_file=path)) as one:
        add = one.service.keys.add
        one.keys = {scope: add(scope)[0] for scope in ("read", "ingest", "admin")}
        one.keys["walk"] = add("admin", ["walk"])[0]
        yield one
