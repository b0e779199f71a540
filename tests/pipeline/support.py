"""What the pipeline's tests share: digests of what is stored, the command line as a process."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.ingest.request import IngestRequest
from pipeline.ingest.run import ingest
from pipeline.settings import load_settings
from pipeline.store import ClipStore, StoreConfig
from pipeline.values.errors import UnknownStream
from pipeline.values.types import ClipSpan
from tests.waits import HANG_S
from workers.session import Progress
from workers.types import VideoSource

_WATCH = """
cat >/dev/null                      # until the test's process ends, however it does
for pid in "$0"/redis.pid "$0"/*/redis.pid; do [ -f "$pid" ] && kill "$(cat "$pid")"; done
umount "$0" 2>/dev/null || umount -l "$0"
"""


@contextmanager
def mounted(folder: Path, *, size: str) -> Iterator[Path]:
    """A small disk of its own at a folder; goes also where the tests are killed.

    What is left in it for a moment (an indexer, a process that ends) does not hold it.
    """
    folder.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root and CAP_SYS_ADMIN")
    command = ["sh", "-c", _WATCH, str(folder)]
    watch = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert watch.stdin is not None
    try:
        yield folder
    finally:
        watch.stdin.close()
        assert watch.wait(60) == 0
    assert not os.path.ismount(folder)


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line of stdout."""
        return json.loads(self.out.splitlines()[-1])


def store_video(
    config: StoreConfig, model_folder: Path, source: VideoSource, **options: Any
) -> Progress:
    """Ingest a video with the tiny model, four frames a clip; `options` are of `ingest`."""
    given = {
        "model": {"id": str(model_folder)},
        "ingest": {"clip_frames": 4, **options},
        "store": {"url": config.url, "namespace": config.namespace},
        "ray": {"enabled": False},
    }
    *_, last = ingest(load_settings(None, given), [IngestRequest(source)])
    assert last.state == "complete"
    return last


def digests(store: ClipStore, stream_id: str) -> dict[tuple[int, int], str]:
    """SHA-256 of every record by (epoch, index); empty for an unknown stream."""
    try:
        spans = store.list_spans(stream_id)
    except UnknownStream:
        return {}
    return {
        (span.epoch, span.index): hashlib.sha256(store.get_record(span)).hexdigest()
        for span in spans
    }


def rows(store: ClipStore, stream_id: str) -> list[ClipSpan]:
    """The time index, to be compared with another run's."""
    return store.list_spans(stream_id)


@contextmanager
def running(*arguments: str | Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """`aot ...`, started; it does not outlive a test that fails."""
    process = start_aot(*arguments, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=HANG_S)


def aot(*arguments: str | Path, **options: Any) -> Ran:
    """`aot ...` in a process of its own."""
    process = start_aot(*arguments, **options)
    out, err = process.communicate(timeout=HANG_S)
    return Ran(process.returncode, out, err)


def start_aot(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[str]:
    """`aot ...`, started.

    It hears SIGINT and SIGHUP whatever the tests were started by: a shell's background job ignores
    the one, what runs under nohup the other.
    """
    hear = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)"
    )
    run = "from pipeline.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", f"{hear}; {run}"]
    return subprocess.Popen(
        [*command, *map(os.fspath, arguments)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
        cwd=Path(__file__).parents[2],
        env={**os.environ, **(environment or {})},
    )
