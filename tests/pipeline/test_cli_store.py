"""`aot store` and `aot clips repair`, on a server of their own."""

import pytest

from pipeline.store.embedded import stop_embedded
from pipeline.store.keys import Keys
from tests.pipeline.conftest import CLIPS
from tests.pipeline.support import digests


@pytest.fixture
def folder(environment, tmp_path, monkeypatch):
    path = tmp_path / "own"
    monkeypatch.setenv("AOT_STORE__URL", f"embedded://{path}")
    yield path
    if path.is_dir():
        stop_embedded(path)


def test_the_server_is_looked_at_and_stopped(folder, run):
    assert run("store", "status").code == 1
    assert run("streams").code == 0
    found = run("store", "status", "--json")
    assert (found.code, found.json["state"], found.json["appendfsync"]) == (0, "ready", "everysec")
    assert run("store", "stop", "--json").json["stopped"]
    assert run("store", "stop").out.endswith("no server was running\n")


def test_a_store_that_is_not_embedded_has_no_server_to_stop(environment, run, monkeypatch):
    monkeypatch.setenv("AOT_STORE__URL", "redis://u:hunter2@localhost:1/0")
    ran = run("store", "stop")
    assert ran.code == 2
    assert "expected embedded:///folder" in ran.err
    assert "hunter2" not in ran.err


def test_a_damaged_stream_is_repaired_and_filled_in_again(run, video, opened, environment):

    assert run("ingest", video, "--stream", "walk").code == 0
    whole = digests(opened, "walk")
    client, key = opened._client, Keys(environment.namespace).clip("walk", 0, 3)
    client.setrange(key, 90, "damage")
    assert run("clips", "verify", "walk").code == 1
    assert run("clips", "repair", "walk", "--json").json["damaged"] == 1
    assert run("ingest", video, "--stream", "walk").code == 0
    assert run("clips", "verify", "walk").code == 0
    assert digests(opened, "walk") == whole
    assert "nothing is missing" in run("clips", "repair", "walk").out


def test_an_export_does_not_replace_a_file_unasked(run, video, opened, tmp_path):
    assert run("ingest", video, "--stream", "walk").code == 0
    output = tmp_path / "walk.arrow"
    assert run("clips", "export", "walk", "-o", output).code == 0
    ran = run("clips", "export", "walk", "-o", output)
    assert ran.code == 1
    assert "--force" in ran.err
    assert run("clips", "export", "walk", "-o", output, "--force").code == 0


def test_a_store_is_backed_up_and_restored_whole(run, video, opened, tmp_path):
    for name in ("one", "two"):
        assert run("ingest", video, "-s", name).code == 0
    before = {name: digests(opened, name) for name in ("one", "two")}
    ran = run("store", "backup", tmp_path / "backup", "--json")
    assert ran.json["clips"] == {"one": CLIPS, "two": CLIPS}
    for name in before:
        opened.delete_stream(name)
    assert run("store", "restore", tmp_path / "backup").code == 0
    assert {name: digests(opened, name) for name in before} == before
    assert run("ingest", video, "-s", "one").out.startswith("one: already complete")
    assert run("store", "restore", tmp_path).code == 2


def test_old_clips_are_cooled_asked_about_and_taken_back(
    run, video, opened, environment, tmp_path, monkeypatch
):
    long_ago = ("--start-time", "2026-05-04T10:00:00+00:00")
    assert run("ingest", video, "--stream", "walk", *long_ago).code == 0
    whole, asked = digests(opened, "walk"), run("ask", "What is it?", "-s", "walk", "--json")
    assert run("store", "cool").code == 2  # it is not said where to
    monkeypatch.setenv("AOT_STORE__COLD", str(tmp_path / "cold"))
    assert "nothing to move" in run("store", "cool").out
    [cooled] = run("store", "cool", "--after", "1d", "--json").json["streams"]
    assert (cooled["stream_id"], cooled["moved"]["clips"]) == ("walk", CLIPS)
    clips = run("clips", "ls", "walk", "--json").json["clips"]
    assert all(clip["cold"] for clip in clips)
    again = run("ask", "What is it?", "-s", "walk", "--json")
    assert (again.code, again.json["text"]) == (0, asked.json["text"])
    assert run("clips", "verify", "walk").code == 0
    files = list((tmp_path / "cold").rglob("*.parquet"))
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in files:
        (copy / path.name).write_bytes(path.read_bytes())
    assert run("streams", "rm", "walk", "--yes").code == 0
    assert not list((tmp_path / "cold").rglob("*.parquet"))
    assert run("clips", "import", "walk", copy).code == 0
    assert digests(opened, "walk") == whole
