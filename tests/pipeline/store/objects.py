"""Object stores on loopback: what speaks S3's and Google's protocols as their servers do.

moto and gcp-storage-emulator want another python-dateutil than the product: they have an
environment of their own, whose Python AOT_OBJECT_SERVERS names (`make test-objects`).
"""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pyarrow import fs

from tests.waits import wait_until

BUCKET = "archive"
SERVERS = {
    "s3": ("-m", "moto.server", "-H", "127.0.0.1", "-p"),
    "gs": (
        *("-m", "gcp_storage_emulator", "start", "--host=127.0.0.1", "--in-memory"),
        *(f"--default-bucket={BUCKET}", "--port"),
    ),
}
URLS = {
    "s3": "s3://key:secret@{bucket}/aot?endpoint_override=127.0.0.1:{port}&scheme=http"
    "&region=eu-central-1&allow_bucket_creation=true",
    "gs": "gs://anonymous@{bucket}/aot?endpoint_override=127.0.0.1:{port}&scheme=http"
    "&retry_limit_seconds=5",
}


@contextmanager
def serve_objects(kind: str) -> Iterator[str]:
    """A server that holds an empty bucket; the URL of a folder in it. Skips where it is missing."""
    python = os.environ.get("AOT_OBJECT_SERVERS")
    if python is None:
        pytest.skip("no servers of object stores here; `make test-objects` has them")
    port = free_port()
    server = subprocess.Popen(
        [python, *SERVERS[kind], str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _answers(port) or server.poll() is not None)
        assert server.poll() is None, f"the {kind} server did not start"
        url = URLS[kind].format(bucket=BUCKET, port=port)
        if kind == "s3":
            fs.FileSystem.from_uri(url)[0].create_dir(BUCKET)
        yield url
    finally:
        server.kill()
        server.wait()


def free_port() -> int:
    """On which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
