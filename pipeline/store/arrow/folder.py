"""A folder on any of Arrow's filesystems, by URL: whole files in, parts of files out.

    /folder   file:///folder   s3://bucket/prefix?region=...   gs://bucket/prefix

Credentials are those the filesystem finds by itself (environment, instance role). Knows of no clip.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from pipeline.store.arrow.export import replacing
from pipeline.values.errors import InvalidSettings, StoreFull, StoreUnavailable
from workers.redact import redact_text, redact_url

RETRY_S = 60
"""Longest that a request to Google's storage is tried again."""


@dataclass(frozen=True)
class FoundFile:
    """A file below a folder."""

    name: str
    """Its path from the folder on, with `/`."""
    size_bytes: int
    changed_at_s: float | None
    """Unix time; None where the filesystem does not tell."""


class Folder:
    """Files below a URL. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        self._shown = redact_url(url)
        path = _limited(url) if "://" in url else str(Path(url).expanduser().absolute())
        try:
            self._fs, root = fs.FileSystem.from_uri(path)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InvalidSettings(
                f"cold tier {self._shown!r}: {redact_text(str(error))[:200]}; expected a folder, "
                "file:///folder, s3://bucket/prefix or gs://bucket/prefix"
            ) from None
        self._root = root.rstrip("/")

    def write(self, name: str, data: bytes) -> None:
        """A new file, whole and on disk when this returns. On this machine it appears whole."""
        with self._translated(name):
            if isinstance(self._fs, fs.LocalFileSystem):
                path = Path(self._at(name))
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as sink:
                    sink.write(data)
                return
            with self._fs.open_output_stream(self._at(name)) as sink:
                sink.write(data)

    def read(self, name: str, offset: int, size_bytes: int) -> memoryview | None:
        """That part of a file; None where there is no such file, and less where it is shorter."""
        with self._translated(name):
            try:
                with self._fs.open_input_file(self._at(name)) as source:
                    return memoryview(source.read_at(size_bytes, offset))
            except FileNotFoundError:
                return None

    def open(self, name: str) -> pa.NativeFile:
        """The whole file, to be closed by the caller. `StoreUnavailable` where there is none."""
        with self._translated(name):
            return self._fs.open_input_file(self._at(name))

    def list(self, under: str = "") -> list[FoundFile]:
        """Every file below the folder `under`, by name; none where there is no such folder.

        `under` may be a file.
        """
        with self._translated(under or "."):
            where = self._at(under)
            info = self._fs.get_file_info(where)
            if info.type == fs.FileType.File:
                found = [info]
            else:
                select = fs.FileSelector(where, allow_not_found=True, recursive=True)
                found = [one for one in self._fs.get_file_info(select) if one.is_file]
        start = len(self._root) + 1
        files = (
            FoundFile(
                one.path[start:],
                one.size or 0,
                None if one.mtime_ns is None else one.mtime_ns / 1e9,
            )
            for one in found
        )
        return sorted(files, key=lambda one: one.name)

    def is_there(self, under: str = "") -> bool:
        """Whether the folder can be seen at all: a disk that is not mounted is no lost file.

        Of an object store its bucket: there are no folders in it but those that have a file.
        """
        is_local = isinstance(self._fs, fs.LocalFileSystem)
        where = self._at(under) if is_local else self._root.partition("/")[0]
        with self._translated(under or "."):
            return self._fs.get_file_info(where).type != fs.FileType.NotFound

    def remove(self, name: str) -> None:
        """Nothing where it is gone already."""
        with self._translated(name):
            try:
                self._fs.delete_file(self._at(name))
            except FileNotFoundError:
                return

    def remove_folder(self, under: str) -> None:
        """With all files in it; nothing where it is gone already."""
        with self._translated(under):
            try:
                self._fs.delete_dir(self._at(under))
            except OSError:  # GCS has no own error for what is not there
                if self._fs.get_file_info(self._at(under)).type != fs.FileType.NotFound:
                    raise

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = StoreFull if error.errno == 28 else StoreUnavailable
            text = redact_text(os.strerror(error.errno) if error.errno else str(error))[:200]
            raise kind(
                f"cold tier {self._shown}, {what}: {text}; check the folder and who may write there"
            ) from error


def _limited(url: str) -> str:
    """With an end to the tries of Google's client, which has a quarter of an hour by itself."""
    if not url.startswith(("gs://", "gcs://")) or "retry_limit_seconds=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}retry_limit_seconds={RETRY_S}"
