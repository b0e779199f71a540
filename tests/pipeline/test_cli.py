"""The commands, in this process: what they print, and the code they end with."""

import dataclasses
import json
import os
import re

import pyarrow as pa
import pytest

import workers.clips
from pipeline.cli.arguments import arrange
from pipeline.cli.output import hms
from pipeline.ingest.lease import holder_text
from pipeline.store.keys import Keys
from pipeline.values.plain import escape, one_line
from tests.pipeline.conftest import CLIPS
from tests.pipeline.support import aot, digests


@pytest.fixture
def walk(run, video):
    """The video as stream `walk`."""
    ran = run("ingest", video)
    assert ran.code == 0, ran.err
    return "walk"


def test_ingest_says_what_came_of_it(run, video, opened):
    ran = run("ingest", video)
    assert ran.code == 0
    assert ran.out.startswith("walk: complete, 10 clips of 0:00:20, ")
    assert len(opened.list_spans("walk")) == CLIPS


def test_ingest_as_json(run, video):
    ran = run("ingest", video, "--stream", "lobby", "--json")
    value = ran.json
    assert (value["stream_id"], value["state"], value["clips"]) == ("lobby", "complete", CLIPS)
    assert value["error"] is None
    assert 0.05 < value["retention"] < 0.2
    assert value["x_realtime"] > 0


def test_ingesting_again_changes_nothing(run, walk, video, opened):
    before = digests(opened, "walk")
    ran = run("ingest", video)
    assert (ran.code, ran.out) == (0, "walk: already complete, 0:00:20 stored\n")
    assert digests(opened, "walk") == before


def test_options_of_ingest_reach_the_records(run, video, opened):
    options = ("--fps", "1", "--clip-frames", "5", "--reducer", "none", "--retention", "0.5")
    ran = run("ingest", video, *options, "--start-time", "2026-05-04T10:00:00+00:00")
    assert ran.code == 0, ran.err
    spans = opened.list_spans("walk")
    assert [(span.start_s, span.num_tokens) for span in spans] == [
        (5.0 * i, 5 * 49) for i in range(4)
    ]
    assert spans[1].wall_start_s == 1_777_888_805.0
    assert opened.get_info("walk").settings["reducer"] == "none"


def test_a_folder_is_ingested_file_by_file(run, video, opened, tmp_path):
    for name in ("b.mp4", "a.mp4"):
        (tmp_path / name).write_bytes(video.read_bytes())
    (tmp_path / "notes.txt").write_text("no video")
    ran = run("ingest", tmp_path)
    assert ran.code == 0, ran.err
    assert [line.split(":")[0] for line in ran.out.splitlines()] == ["a", "b"]
    assert opened.list_streams() == ["a", "b"]


def test_of_several_files_a_bad_one_stops_no_other(run, video, opened, tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    ran = run("ingest", tmp_path / "a.mp4", video)
    assert ran.code == 1
    assert ran.err.splitlines()[-1] == "1 of 2 videos stored; not: a"
    bad, good = ran.out.splitlines()
    assert bad.startswith("a: failed: NoVideoStream: ")
    assert good.startswith("walk: complete")
    assert opened.get_info("walk").status == "complete"


def test_of_several_files_json_gives_a_line_each(run, video, tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    ran = run("ingest", tmp_path / "a.mp4", video, "--json")
    bad, good = map(json.loads, ran.out.splitlines())
    assert bad["error"]["code"] == "NoVideoStream"
    assert (good["state"], good["error"]) == ("complete", None)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("ingest",), 2, "Usage"),
        (("ingest", "{folder}"), 2, "InvalidQuery: folder .* holds no video"),
        (
            ("ingest", "{video}", "a.mp4", "--start-time", "2026-05-04T14:00Z"),
            *(2, "InvalidQuery: got one start time for 2 videos"),
        ),
        (("ingest", "{video}", "a.mp4", "--stream", "x"), 2, "InvalidQuery: got one stream id"),
        (("ingest", "{video}", "--stream", "a/b"), 2, "InvalidSource: stream id 'a/b'"),
        (("ingest", "{video}", "--fps", "0"), 2, r"InvalidSettings: ingest\.fps \(from command"),
        (("ingest", "{video}", "--fps", "x"), 2, "Usage: .*--fps"),
        (("ingest", "{video}", "--start-time", "soon"), 2, "InvalidQuery: got time 'soon'"),
        (("ingest", "{video}", "--zone", "+99:99"), 2, r"InvalidQuery: got time zone '\+99:99'"),
        (
            ("ingest", "{video}", "--reducer", "magic"),
            2,
            r"InvalidSettings: ingest\.reducer: .*magic",
        ),
        (("ingest", "{video}", "--model", "{folder}"), 1, "ModelNotFound|InvalidCheckpoint"),
        (("ingest", "{video}", "--store", "ftp://x"), 2, "InvalidSettings: store URL"),
        (("ingest", "{video}", "--ray", "nowhere"), 2, "InvalidSettings: Ray address"),
        (("ingest", "{folder}/none.mp4"), 1, "SourceUnreachable: .*none.mp4"),
        (("ingest", "rtsp://user:secret@127.0.0.1/1"), 1, "SourceRefused: .*rtsp"),
        (("ingest", "v4l2:///dev/video0"), 1, "SourceRefused: .*--allow-device /dev/video0"),
        (
            ("ingest", "v4l2:///dev/video77", "--allow-device", "/dev/video77"),
            1,
            "SourceUnreachable: .*plugged in",
        ),
        (("ask", "what"), 2, "Usage: .*--stream"),
        (("ask", "what", "-s", "nobody"), 1, "UnknownStream: no stream 'nobody'"),
        (("ask", " ", "-s", "nobody"), 2, "InvalidQuery: got a question"),
        (("ask", "what", "-s", "nobody", "--model", "{folder}"), 1, "UnknownStream"),
        (("streams", "show", "nobody"), 1, "UnknownStream"),
        (("streams", "pause", "nobody"), 1, "UnknownStream"),
        (("streams", "resume", "nobody"), 1, "UnknownStream"),
        (("streams", "rm", "nobody", "--yes"), 1, "UnknownStream"),
        (("streams", "jump"), 2, "Usage: .*jump"),
        (("clips", "ls", "nobody"), 1, "UnknownStream"),
        (("clips", "verify", "nobody"), 1, "UnknownStream"),
        (("clips", "export", "nobody", "-o", "{folder}/x"), 1, "UnknownStream"),
        (("clips", "import", "nobody", "{folder}/none"), 1, "StoreUnavailable"),
        (("--config", "{folder}/none.yaml", "config"), 2, "InvalidSettings: no settings file"),
        (("fly",), 2, "Usage: .*fly"),
        (("config", "-c", "{folder}/none.yaml"), 2, "InvalidSettings: no settings file"),
        (("--store", "ftp://x", "streams"), 2, "InvalidSettings: store URL"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_wrong_command_ends_in_one_line_and_its_code(
    run, opened, video, tmp_path, arguments, code, said, as_json
):
    given = [part.format(folder=tmp_path, video=video) for part in arguments]
    ran = run(*given, *(["--json"] if as_json else []))
    assert ran.code == code
    last = ran.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(said, last), last
    assert "Traceback" not in ran.err + ran.out
    assert "secret" not in ran.err + ran.out
    if as_json:
        error = ran.json["error"]
        assert last == f"error: {error['code']}: {error['message']}"
    for stream_id in opened.list_streams():
        assert opened.get_info(stream_id).status == "failed"
        assert opened.list_spans(stream_id) == []


def test_debug_shows_the_traceback(run):
    ran = run("--debug", "streams", "show", "nobody")
    assert ran.code == 1
    assert "Traceback" in ran.err
    assert ran.err.splitlines()[-1].startswith("error: UnknownStream")


def test_ask_answers_and_cites_on_stderr(run, walk):
    ran = run("ask", "what is seen", "-s", "walk", "--from", "4", "--to", "8")
    assert ran.code == 0, ran.err
    assert ran.out.strip()
    assert "walk  0:00:04 to 0:00:06  clip 2" in ran.err
    assert "coverage 100%, 100% of the clips read; first word after" in ran.err


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("2026-05-04T14:00:00+02:00", "14:00:04 to 14:00:06"),
        ("2026-05-04T23:59:55+02:00", "2026-05-04 23:59:59 to 2026-05-05 00:00:01"),
    ],
)
def test_citations_are_told_by_the_time_of_day_of_their_stream(run, video, start, said):
    told = ("--stream", "gate", "--start-time", start, "--zone", "Europe/Berlin")
    assert run("ingest", video, *told).code == 0
    ran = run("ask", "what is seen", "-s", "gate", "--from", "4", "--to", "8")
    assert f"gate  {said}  clip 2" in ran.err
    [first, _] = run("ask", "what", "-s", "gate", "--from", "4", "--to", "8", "--json").json[
        "citations"
    ]
    assert (first["start_s"], first["end_s"]) == (4.0, 6.0)
    assert first["wall_start"].replace("T", " ").endswith("+02:00")


def test_ask_as_json(run, walk):
    plain = run("ask", "what is seen", "-s", "walk", "--last", "4s")
    value = run("ask", "what is seen", "-s", "walk", "--last", "4s", "--json").json
    assert value["text"] == plain.out.strip()
    assert [span["index"] for span in value["citations"]] == [8, 9]
    assert value["coverage"] == 1.0
    assert value["timings"]["first_token_s"] > 0


def test_ask_works_when_the_video_is_gone(run, video, tmp_path):
    copy = tmp_path / "gone.mp4"
    copy.write_bytes(video.read_bytes())
    assert run("ingest", copy).code == 0
    copy.unlink()
    assert run("ask", "what is seen", "-s", "gone").code == 0


@pytest.mark.parametrize("as_json", [False, True])
def test_an_empty_range_ends_in_3_and_names_the_nearest(run, walk, as_json):
    more = ["--json"] if as_json else []
    ran = run("ask", "what", "-s", "walk", "--from", "1:00", "--to", "2:00", *more)
    assert ran.code == 3
    assert "NoFootage: walk has no footage from 3600.0 to 7200.0 s; the nearest" in ran.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--from", "soon"), "InvalidQuery: got time 'soon'"),
        (("--from", "9", "--to", "3"), "InvalidQuery: got a range from 9 to 3"),
        (("--last", "soon"), "InvalidQuery: got duration"),
        (("--last", "1m", "--from", "3"), "InvalidQuery: got both"),
        (("--from", "2026-05-04T10:00"), "InvalidQuery: got date"),
    ],
)
def test_a_wrong_range_ends_in_2(run, walk, options, said):
    ran = run("ask", "what", "-s", "walk", *options)
    assert (ran.code, said in ran.err) == (2, True)


def test_ask_with_another_model_ends_in_1(run, walk, other_model_folder):
    ran = run("ask", "what", "-s", "walk", "--model", other_model_folder)
    assert ran.code == 1
    assert "error: FingerprintMismatch: walk holds tokens of tiny" in ran.err


def test_ingest_with_other_settings_ends_in_1_and_changes_nothing(run, walk, video, opened):
    before = digests(opened, "walk")
    ran = run("ingest", video, "--retention", "0.3")
    assert ran.code == 1
    assert "error: FingerprintMismatch: walk holds tokens made with other settings" in ran.err
    assert "(retention 0.1 -> 0.3)" in ran.err
    assert digests(opened, "walk") == before
    assert opened.get_info("walk").status == "complete"
    assert opened.get_lease("walk") is None


def test_another_file_under_the_same_name_needs_resume(run, walk, video, tmp_path, opened):
    moved = tmp_path / "walk.mp4"
    moved.write_bytes(video.read_bytes())
    ran = run("ingest", moved)
    assert ran.code == 1
    assert "error: Conflict: stream walk holds" in ran.err
    assert run("ingest", moved, "--resume").code == 0
    assert len(opened.list_spans("walk")) == CLIPS


def test_a_stream_that_is_written_is_refused_naming_the_writer(run, video, opened):
    lease = opened.acquire_lease("walk", holder_text("camera"))
    ran = run("ingest", video)
    assert ran.code == 1
    assert "error: LeaseHeld: walk is being written by camera@" in ran.err
    opened.release_lease(lease)


def test_streams_are_listed(run, walk):
    ran = run("streams")
    assert ran.out.splitlines()[1].split()[:4] == ["walk", "complete", "0:00:20", "10"]
    assert run("streams", "ls").out == ran.out


@pytest.mark.parametrize("command", [("streams", "ls"), ("streams",)])
def test_streams_as_json(run, walk, command):
    [row] = run(*command, "--json").json["streams"]
    assert (row["stream_id"], row["status"], row["clips"], row["coverage"]) == (
        "walk",
        "complete",
        CLIPS,
        1.0,
    )
    assert row["tokens"] > 0
    assert row["bytes"] > 0


def test_without_streams_there_is_an_empty_list(run):
    assert run("streams", "--json").json == {"streams": []}


def test_a_stream_is_shown(run, walk, video):
    value = run("streams", "show", "walk", "--json").json
    assert value["source"] == str(video)
    assert value["settings"]["reducer"] == "adaptive"
    assert (value["gap_list"], value["writer"], value["error"]) == ([], None, None)


def test_a_stream_is_shown_to_people_a_line_a_field(run, walk):
    lines = run("streams", "show", "walk").out.splitlines()
    shown = dict(line.split(maxsplit=1) for line in lines if line)
    assert shown["settings.reducer"] == "adaptive"
    assert (shown["gap_list"], shown["error"]) == ("-", "-")
    assert all(line == line.rstrip() and len(line) < 200 for line in lines)
    assert not any(name.startswith("made_with") for name in shown)


def test_a_stream_is_removed(run, walk, opened):
    value = run("streams", "rm", "walk", "--yes", "--json").json
    assert (value["clips"], value["gaps"]) == (CLIPS, 0)
    assert opened.list_streams() == []


def test_without_a_terminal_nothing_is_removed_unasked(run, walk, opened):
    ran = run("streams", "rm", "walk", "--json")
    assert ran.code == 2
    assert ran.json["error"]["code"] == "InvalidQuery"
    assert "--yes" in ran.json["error"]["message"]
    assert opened.list_streams() == ["walk"]


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, ["walk"]), ("y", 0, [])])
def test_removing_asks_first(walk, opened, answer, code, left):
    keyboard, terminal = os.openpty()
    os.write(keyboard, f"{answer}\n".encode())
    ran = aot("streams", "rm", "walk", "--json", stdin=terminal)
    assert ran.code == code, ran.err
    assert "delete stream walk" in ran.err
    assert len(ran.out.splitlines()) == 1
    assert ("error" in ran.json) == (answer == "n")
    if answer == "n":
        assert ran.json["error"]["code"] == "NotConfirmed"
    assert opened.list_streams() == left
    os.close(keyboard)
    os.close(terminal)


@pytest.mark.parametrize("command", [("ls",), ("show", "walk"), ("rm", "walk", "--yes")])
def test_json_may_stand_before_the_command(run, walk, command):
    assert isinstance(run("streams", "--json", *command).json, dict)


def test_names_are_not_cut_in_a_pipe(run, walk, opened):
    long = "x" * 63
    for end in "ab":
        opened.put_info(dataclasses.replace(opened.get_info("walk"), stream_id=long + end))
    listed = [line.split()[0] for line in run("streams").out.splitlines()[1:]]
    assert listed == ["walk", long + "a", long + "b"]


def test_a_stream_that_runs_without_a_writer_is_shown_as_interrupted(run, walk, opened):
    info = opened.get_info("walk")
    opened.put_info(dataclasses.replace(info, status="running", writer=None))
    assert run("streams", "--json").json["streams"][0]["status"] == "interrupted"
    assert run("streams", "show", "walk", "--json").json["status"] == "interrupted"
    lease = opened.acquire_lease("walk", holder_text("me"))
    assert run("streams", "--json").json["streams"][0]["status"] == "running"
    opened.release_lease(lease)


def test_a_writer_that_lives_and_has_no_lease_waits_for_the_store(run, walk, opened):
    info = opened.get_info("walk")
    for holder, status in ((holder_text("me"), "waiting: store"), ("x@there:1", "interrupted")):
        opened.put_info(dataclasses.replace(info, status="running", writer=holder))
        assert run("streams", "--json").json["streams"][0]["status"] == status


def test_a_stream_nobody_writes_cannot_be_paused(run, walk):
    ran = run("streams", "pause", "walk", "--json")
    assert (ran.code, ran.json) == (1, {"stream_id": "walk", "state": None})


def test_the_folders_below_are_ingested_by_choice(run, video, opened, tmp_path):
    for name in ("camA/14/00.mp4", "camB/14/00.mp4", "camB/14/._00.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video.read_bytes())
    assert run("ingest", tmp_path).code == 2
    assert run("ingest", tmp_path, "--recursive").code == 0
    assert opened.list_streams() == ["camA-14-00", "camB-14-00"]


def test_a_file_that_is_named_twice_is_ingested_once(run, video, opened):
    ran = run("ingest", video, video)
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 1


def test_an_unexpected_error_of_one_video_is_told_as_internal(run, video, tmp_path, monkeypatch):
    other = tmp_path / "other.mp4"
    other.write_bytes(video.read_bytes())
    real = workers.clips.check_source

    def check(source, **options):
        if source.stream_id == "other":
            raise ValueError("29 is not a valid Type")
        real(source, **options)

    monkeypatch.setattr("pipeline.ingest.job.check_source", check)
    bad, good = map(json.loads, run("ingest", other, video, "--json").out.splitlines())
    assert bad["error"] == {
        "code": "InternalError",
        "message": "ValueError: 29 is not a valid Type",
    }
    assert good["state"] == "complete"


def test_clips_are_listed(run, walk):
    lines = run("clips", "ls", "walk", "--from", "4", "--to", "8").out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["2", "3"]
    value = run("clips", "ls", "walk", "--json").json
    assert [clip["index"] for clip in value["clips"]] == list(range(CLIPS))


def test_clips_are_verified(run, walk):
    assert run("clips", "verify", "walk").out.startswith("walk: 10 clips, ")
    value = run("clips", "verify", "walk", "--json").json
    assert (value["ok"], value["num_clips"], value["corrupt"]) == (True, CLIPS, [])


def test_clips_come_and_go(run, walk, opened, tmp_path):
    path, before = tmp_path / "walk.arrow", digests(opened, "walk")
    assert run("clips", "export", "walk", "-o", path).out == f"walk: 10 clips to {path}\n"
    with pa.ipc.open_file(path) as reader:
        assert reader.read_all().num_rows == sum(s.num_tokens for s in opened.list_spans("walk"))
    run("streams", "rm", "walk", "--yes")
    assert run("clips", "import", "walk", path, "--json").json == {"clips": CLIPS}
    assert digests(opened, "walk") == before
    assert run("ask", "what is seen", "-s", "walk").code == 0


def test_an_export_of_an_empty_range_ends_in_3(run, walk, tmp_path):
    ran = run("clips", "export", "walk", "-o", tmp_path / "x.arrow", "--from", "90", "--to", "99")
    assert ran.code == 3
    assert list(tmp_path.iterdir()) == []


def test_config_says_where_settings_come_from(run, tmp_path):
    path = tmp_path / "aot.yaml"
    path.write_text("ask: {max_clips: 7}\n")
    value = run("--config", path, "config", "--json").json
    assert value["ask.max_clips"] == {"value": 7, "from": str(path)}
    assert value["ingest.fps"]["from"] == "environment"
    assert "ask.max_clips" in run("--config", path, "config").out


@pytest.mark.parametrize("place", ["before", "behind"])
def test_options_of_every_command_stand_before_it_and_behind(run, walk, tmp_path, place):
    path = tmp_path / "aot.yaml"
    path.write_text("ask: {max_clips: 7}\n")
    for command in (
        ("config",),
        ("streams",),
        ("streams", "show", "walk"),
        ("clips", "ls", "walk"),
    ):
        options = ("--config", path, "--json")
        given = (*options, *command) if place == "before" else (*command, *options)
        ran = run(*given)
        assert ran.code == 0, ran.err
        assert ran.json
    assert run("streams", "--json", "ls").json == run("--json", "streams").json
    rest = ("--", "--json") if place == "behind" else ()
    assert arrange(["ask", "-c", "x", "what", "--debug", *rest])[:3] == ["-c", "x", "--debug"]


def test_what_stands_behind_two_dashes_is_no_option():
    assert arrange(["ask", "--", "--json"]) == ["ask", "--", "--json"]


def test_a_misspelt_variable_stops_a_command_and_names_the_right_one(run, monkeypatch):
    monkeypatch.setenv("AOT_STORE_URL", "redis://h")
    for command in (("streams",), ("ingest", "x.mp4"), ("ask", "what", "-s", "walk")):
        ran = run(*command)
        assert ran.code == 2
        assert "error: InvalidSettings: AOT_STORE_URL sets nothing; did you mean" in ran.err
        assert "AOT_STORE__URL" in ran.err
    ran = run("config")
    assert ran.code == 0
    assert "warning: AOT_STORE_URL sets nothing; did you mean AOT_STORE__URL?" in ran.err


def test_a_variable_like_no_setting_is_warned_of(run, monkeypatch):
    monkeypatch.setenv("AOT_COFFEE", "black")
    ran = run("streams")
    assert ran.code == 0
    assert "warning: AOT_COFFEE sets nothing" in ran.err


@pytest.mark.parametrize(
    ("constants", "said"),
    [
        ({"anchors_per_frm": 20}, "anchors_per_frm.*anchors_per_frame"),
        ({"epsilon": "much"}, "epsilon"),
        ({"epsilon": -1}, "epsilon"),
    ],
)
@pytest.mark.parametrize("command", [("config",), ("ingest", "{video}")])
def test_a_constant_that_cannot_be_is_a_usage_error_before_a_model_is_loaded(
    run, video, monkeypatch, constants, said, command
):
    monkeypatch.setenv("AOT_INGEST__CONSTANTS", json.dumps(constants))
    monkeypatch.setenv("AOT_MODEL__ID", "/nowhere/model")
    ran = aot(*(part.format(video=video) for part in command))  # without the tests' own type checks
    assert ran.code == 2
    assert re.search(f"error: InvalidSettings: ingest.constants: .*{said}", ran.err)


def test_debug_shows_logs(run, walk, opened):
    span = opened.list_spans("walk")[0]
    opened._client.delete(Keys(opened.config.namespace).clip("walk", span.epoch, span.index))
    quiet = run("ask", "what", "-s", "walk", "--last", "20s")
    assert "left out" in quiet.err
    assert run("ask", "what", "-s", "walk", "--debug").err.count("DEBUG") > 0


def test_config_shows_no_password(run, monkeypatch):
    monkeypatch.setenv("AOT_STORE__URL", "redis://aot:hunter2@127.0.0.1:1/0")
    for more in ([], ["--json"]):
        ran = run("config", *more)
        assert ran.code == 0
        assert "hunter2" not in ran.out
        assert "redis://127.0.0.1:1/0" in ran.out


def test_doctor_finds_everything_in_order(run):
    ran = run("doctor", "--json")
    assert ran.code == 0, ran.out
    names = [check["name"] for check in ran.json["checks"]]
    assert names == ["decoder", "decoding", "device", "store", "model", "ray", "environment"]


def test_doctor_ends_in_1_and_says_what_to_mend(run, monkeypatch, tmp_path):
    monkeypatch.setenv("AOT_MODEL__ID", str(tmp_path))
    monkeypatch.setenv("AOT_INGESST__FPS", "2")
    ran = run("doctor", "--json")
    assert ran.code == 1
    failed = {check["name"]: check for check in ran.json["checks"] if not check["ok"]}
    assert list(failed) == ["model"]
    environment = next(check for check in ran.json["checks"] if check["name"] == "environment")
    assert "AOT_INGESST__FPS" in environment["found"]


def test_text_from_outside_cannot_move_the_cursor():
    assert escape("a\x1b[31m\nb\udcff é") == "a\\x1b[31m\\nb\\udcff é"
    assert one_line(ValueError("two\nlines")) == "two lines"
    assert one_line(ValueError()) == "ValueError"


def test_hours():
    assert hms(3661.9) == "1:01:01"


def test_doctor_says_why_no_card_decodes_and_fails_where_one_is_asked_for(run, monkeypatch):
    def found() -> dict:
        ran = run("doctor", "--json")
        return next(check for check in ran.json["checks"] if check["name"] == "decoding")

    monkeypatch.setattr("workers.decode.cuda.why_no_card", lambda: "torch finds no card")
    assert (found()["ok"], found()["found"]) == (True, "on the CPU: torch finds no card")
    monkeypatch.setenv("AOT_DECODE__BACKEND", "cuda")
    assert found()["ok"] is False
    assert "decode.backend: cpu" in found()["mend"]
    monkeypatch.setattr("workers.decode.cuda.why_no_card", lambda: None)
    assert (found()["ok"], found()["found"]) == (True, "on the card (NVDEC)")
