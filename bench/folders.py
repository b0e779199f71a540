"""Where a bench keeps what it makes: a folder of its own, with a store of its own in it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.store.embedded import stop_embedded


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for the time of a bench; a server that was started at `store_url` is ended."""
    with tempfile.TemporaryDirectory(prefix="aot-bench-") as name:
        try:
            yield Path(name)
        finally:
            stop_embedded(_store_of(Path(name)))


def store_url(folder: Path) -> str:
    """URL of the embedded store in the folder."""
    return f"embedded://{_store_of(folder)}"


def _store_of(folder: Path) -> Path:
    return folder / "store"
