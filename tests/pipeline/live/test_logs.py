"""What is logged of a stream: named, bounded, calm, read after the terminal has gone."""

import json
import logging
import pickle
import threading
from functools import partial

import pytest

from pipeline.ingest.fenced import FencedStream
from pipeline.settings import logs
from pipeline.settings.logs import CALM_LINES, about_stream, setup_logging
from pipeline.settings.stream_logs import StreamLogs, keep_logs
from pipeline.values.errors import InvalidRecord

logger = logging.getLogger("workers.live.test")


@pytest.fixture
def kept(tmp_path):
    """Files of this test's own; loggers are as they were afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("workers")
    handlers, level = list(root.handlers), ours.level
    kept = StreamLogs(tmp_path / "logs", 4_000)
    kept.keep()
    yield kept
    root.handlers[:] = handlers
    ours.setLevel(level)


def messages(kept, stream_id):
    return [line["message"] for line in kept.read(stream_id)]


def test_lines_from_within_are_about_the_stream_and_go_into_its_file(kept):
    with about_stream("front"):
        logger.info("it began")
        with about_stream("yard"):
            logger.warning("another")
        logger.warning("rtsp://admin:hunter2@camera/live went away")
    logger.warning("of none")
    assert messages(kept, "front") == ["it began", "rtsp://camera/live went away"]
    assert messages(kept, "yard") == ["another"]
    [line, _] = kept.read("front")
    assert (line["stream_id"], line["level"], line["logger"]) == (
        "front",
        "info",
        "workers.live.test",
    )


def test_a_process_for_one_stream_keeps_its_lines_wherever_it_runs(kept):
    around = pickle.loads(pickle.dumps(partial(keep_logs, kept, "yard")))

    with around():
        logger.warning("its decoder died")

    assert messages(kept, "yard") == ["its decoder died"]
    with keep_logs(None, "front"):
        logger.warning("kept by who set it up")
    assert messages(kept, "front") == ["kept by who set it up"]


def test_threads_name_their_own_streams(kept):
    def work(name):
        with about_stream(name):
            logger.info("in %s", name)

    threads = [threading.Thread(target=work, args=(f"cam{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(messages(kept, f"cam{i}") == [f"in cam{i}"] for i in range(4))


def test_a_thread_that_renews_a_lease_speaks_of_the_stream_it_was_begun_for(kept, monkeypatch):
    said = threading.Event()

    def renew(self):
        logger.warning("not renewed")
        said.set()

    monkeypatch.setattr(FencedStream, "_renew", renew)
    with about_stream("front"):
        FencedStream(None, None, None, writer="w")  # type: ignore[arg-type]
    assert said.wait(10)
    assert messages(kept, "front") == ["not renewed"]


def test_what_is_said_again_and_again_is_said_a_few_times_and_counted(kept, monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr(logs, "_now_s", lambda: now_s[0])
    with about_stream("front"):
        for number in range(50):
            logger.warning("no answer, try %d", number)
        logger.warning("something else")
        now_s[0] += 61
        logger.warning("no answer, try %d", 50)
    with about_stream("yard"):
        logger.warning("no answer, try %d", 0)
    told = messages(kept, "front")
    assert len(told) == CALM_LINES + 2
    assert told[-1] == "no answer, try 50 (and 45 more like it in the last minutes)"
    assert messages(kept, "yard") == ["no answer, try 0"]


def test_a_file_is_bounded_and_keeps_the_newest(kept, monkeypatch):
    monkeypatch.setattr(logs, "CALM_LINES", 10_000)
    with about_stream("front"):
        for number in range(200):
            logger.info("line %d", number)
    sizes = [path.stat().st_size for path in kept.folder.iterdir()]
    assert len(sizes) == 2
    assert sum(sizes) <= 8_000
    told = messages(kept, "front")
    assert told[-1] == "line 199"
    assert told == [f"line {number}" for number in range(200 - len(told), 200)]


def test_a_line_that_was_cut_is_left_out(kept):
    with about_stream("front"):
        logger.info("whole")
    with open(kept.folder / "front.jsonl", "a") as file:
        file.write('{"message": "half')
    assert messages(kept, "front") == ["whole"]


def test_no_name_leads_out_of_the_folder(kept):
    for name in ("../aot", "/etc/passwd", "a/b", ""):
        with pytest.raises(InvalidRecord):
            list(kept.read(name))


def test_stderr_hears_from_its_own_level_on(kept, capsys):
    setup_logging("warning", "json")
    with about_stream("front"):
        logger.info("for the file")
        logger.warning("for both")
    [line] = capsys.readouterr().err.splitlines()
    assert (json.loads(line)["message"], json.loads(line)["stream_id"]) == ("for both", "front")
    setup_logging()


def test_the_command_reads_what_was_kept_and_removes_it_with_the_stream(
    run, kept, monkeypatch, video
):
    monkeypatch.setenv("AOT_LOG__FOLDER", str(kept.folder))
    assert run("ingest", video, "--stream", "front").code == 0
    with about_stream("front"):
        logger.warning("it went away")
        logger.warning("it is back")
    ran = run("streams", "logs", "front", "--lines", "1")
    assert ran.code == 0
    assert ran.out.endswith("warning it is back\n")
    assert [line["message"] for line in run("streams", "logs", "front", "--json").json["lines"]][
        -2:
    ] == ["it went away", "it is back"]
    assert run("streams", "rm", "front", "--yes").code == 0
    assert not list(kept.folder.glob("front*"))
    assert run("streams", "logs", "front").code == 1
