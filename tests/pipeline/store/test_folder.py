"""A folder is the same on this machine, on S3 and on Google's storage; and clips in it are."""

import contextlib
import dataclasses
import time

import pytest

from pipeline.store import StoreConfig, open_store
from pipeline.store.arrow.folder import Folder
from pipeline.store.cold.moving import require_tier
from pipeline.store.cold.run import cool
from pipeline.store.fading import FadeRule
from pipeline.values.errors import MissingValue, StoreUnavailable
from tests.pipeline.store.objects import BUCKET, URLS, free_port, serve_objects
from tests.pipeline.store.test_contract import assert_same_clip, put


@pytest.fixture(scope="module")
def served():
    """`served(kind)`: the URL of a folder in a bucket of a server that runs for this module."""
    with contextlib.ExitStack() as stack:
        urls = {}

        def serve(kind):
            if kind not in urls:
                urls[kind] = stack.enter_context(serve_objects(kind))
            return urls[kind]

        yield serve


@pytest.fixture(params=["local", "s3", "gs"])
def url(request, tmp_path, served):
    """A folder of the test's own."""
    if request.param == "local":
        return str(tmp_path)
    folder, _, options = served(request.param).partition("?")
    return f"{folder}/{request.node.name.partition('[')[0]}?{options}"


def read(folder, offset, size_bytes):
    part = folder.read("ns/lobby/1.parquet", offset, size_bytes)
    assert part is not None
    return bytes(part)


def names(folder, under=""):
    return [one.name for one in folder.list(under)]


def test_a_file_is_read_in_parts_as_it_was_written(url):
    folder = Folder(url)
    folder.write("ns/lobby/1.parquet", bytes(range(256)) * 40)
    assert read(folder, 256, 4) == b"\0\1\2\3"
    assert len(read(folder, 10_000, 1000)) == 240
    with folder.open("ns/lobby/1.parquet") as whole:
        assert whole.size() == 10_240
    [found] = folder.list("ns")
    assert (found.name, found.size_bytes) == ("ns/lobby/1.parquet", 10_240)
    assert (found.changed_at_s or 0.0) > time.time() - 3600


def test_files_are_listed_below_a_folder_and_no_other(url):
    folder = Folder(url)
    for name in ("ns/a/1.parquet", "ns/a/2.parquet", "ns/ab/1.parquet", "other/a/1.parquet"):
        folder.write(name, b"x")
    assert names(folder, "ns/a") == ["ns/a/1.parquet", "ns/a/2.parquet"]
    assert names(folder, "ns") == ["ns/a/1.parquet", "ns/a/2.parquet", "ns/ab/1.parquet"]
    assert names(folder, "ns/a/2.parquet") == ["ns/a/2.parquet"]
    assert names(folder, "nowhere") == []


def test_what_is_gone_is_removed_again_without_a_word(url):
    folder = Folder(url)
    folder.write("ns/a/1.parquet", b"x")
    folder.write("ns/b/1.parquet", b"x")
    for _ in range(2):
        folder.remove("ns/a/1.parquet")
        folder.remove_folder("ns/b")
    assert names(folder) == []
    assert folder.read("ns/a/1.parquet", 0, 1) is None


def test_an_empty_place_is_there_and_a_missing_one_is_not(url):
    folder = Folder(url)
    if "://" in url:
        assert folder.is_there("ns")
        assert not Folder(url.replace(f"{BUCKET}/", "nowhere/")).is_there("ns")
    else:
        assert not folder.is_there("ns")
        folder.write("ns/a/1.parquet", b"x")
        assert folder.is_there("ns")


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_a_server_that_is_away_is_told_as_unavailable(kind):
    folder = Folder(URLS[kind].format(bucket=BUCKET, port=free_port()))
    with pytest.raises(StoreUnavailable, match=f"cold tier {kind}://"):
        folder.write("ns/a/1.parquet", b"x")
    with pytest.raises(StoreUnavailable, match=f"cold tier {kind}://"):
        folder.read("ns/a/1.parquet", 0, 1)


@pytest.fixture
def filled(url, info, make_clip):
    """A stream of six clips, the first seen an hour ago, in a store with a cold tier at `url`."""
    with open_store(StoreConfig("memory://", namespace="ns", cold=url)) as store:
        store.put_info(dataclasses.replace(info, wall_start_s=time.time() - 3600.0))
        lease = store.acquire_lease("lobby", "tests", ttl_s=600)
        for index in range(6):
            put(store, make_clip(index), lease)
        yield store


def test_clips_move_fade_and_go_as_on_this_machine(filled, make_clip):
    cold, seen_s = require_tier(filled), filled.get_info("lobby").wall_start_s
    assert [one.moved.clips for one in cool(filled, 10.0, now_s=seen_s + 26.5)] == [4]
    spans = filled.list_spans("lobby")
    assert [span.cold is not None for span in spans] == [True] * 4 + [False] * 2
    for index, clip in enumerate(filled.iter_clips(spans)):
        assert_same_clip(clip, make_clip(index))
    assert [one.faded.clips for one in cool(filled, None, fade=(FadeRule(10.0, 0.05),))] == [4]
    assert filled.verify("lobby").ok
    assert len(cold.list_files("lobby")) == 1
    filled.delete_stream("lobby")
    assert cold.list_files("lobby") == {}


def test_a_lost_object_costs_its_clips(filled):
    assert [one.moved.clips for one in cool(filled, 0.0)] == [6]
    cold = require_tier(filled)
    [file] = cold.list_files("lobby")
    cold.remove_file("lobby", file)
    with pytest.raises(MissingValue):
        filled.get_clip(filled.list_spans("lobby")[1])
