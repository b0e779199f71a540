"""The sink: who may write, what becomes of a stream's status, where it goes on."""

import time
from dataclasses import replace

import pytest
import torch

from aot import ClipTokens
from pipeline.ingest.identity import describe_source
from pipeline.ingest.lease import holder_text
from pipeline.ingest.sink import StoreSinkFactory
from pipeline.values.errors import Conflict, FingerprintMismatch, LeaseHeld, LeaseLost
from pipeline.values.made_with import MadeWith, ModelAsked, SourceAsked, TokensAsked
from pipeline.values.types import StreamInfo
from workers.seams import SessionReport
from workers.types import ClipStats, CompressedClip, StreamGap

INFO = StreamInfo("lobby", "/videos/a.mp4", "tiny", "f1", settings={"fps": 1.0})


def clip(index: int, epoch: int = 0) -> CompressedClip:
    tokens = ClipTokens(
        tokens=torch.full((3, 4), float(index)),
        frame=torch.tensor([0, 0, 1]),
        cell=torch.tensor([0, 2, 1]),
        mass=torch.ones(3),
        kind=torch.zeros(3, dtype=torch.uint8),
        grid=(2, 2),
    )
    start_s = 2.0 * index
    stats = ClipStats(frames_in=2, tokens_in=8, tokens_out=3)
    return CompressedClip(
        "lobby", epoch, index, start_s, start_s + 2, (start_s, start_s + 1), tokens, stats=stats
    )


@pytest.fixture
def factory(environment):
    """`factory(...)`: how to write the stream, with changes."""

    def make(info: StreamInfo = INFO, **fields) -> StoreSinkFactory:
        return StoreSinkFactory(environment, info, **fields)

    return make


def hold(store, holder: str, ttl_s: float = 30.0):
    return store.acquire_lease("lobby", holder, ttl_s=ttl_s)


def test_a_new_stream_becomes_known_as_running(factory, opened):
    sink = factory().open()
    try:
        assert sink.position() is None
        known = opened.get_info("lobby")
        assert (known.status, known.source, known.settings) == (
            "running",
            "/videos/a.mp4",
            {"fps": 1.0},
        )
        assert known.created_at_s == pytest.approx(time.time(), abs=60)
    finally:
        sink.close()


def test_clips_and_gaps_are_stored_and_the_position_moves(factory, opened):
    sink = factory().open()
    stored_bytes = sink.put(clip(0))
    sink.put_gap(StreamGap("lobby", 0, 2.0, 9.0, "gap"))
    position = sink.position()
    sink.close()
    [span] = opened.list_spans("lobby")
    assert span.size_bytes == stored_bytes > 0
    assert (position.index, position.end_s, position.last_pts_s, position.complete) == (
        0,
        2.0,
        1.0,
        False,
    )
    assert [(gap.start_s, gap.reason) for gap in opened.list_gaps("lobby")] == [(2.0, "gap")]


def test_storing_a_clip_twice_is_storing_it_once(factory, opened):
    sink = factory().open()
    assert sink.put(clip(0)) == sink.put(clip(0))
    sink.close()
    assert len(opened.list_spans("lobby")) == 1


def test_a_closed_sink_gives_the_stream_back(factory, opened):
    factory().open().close()
    assert opened.get_lease("lobby") is None


def test_a_living_writer_is_not_taken_over_from(factory, opened):
    hold(opened, holder_text("other"))
    with pytest.raises(LeaseHeld, match="other@"):
        factory().open()


def test_a_writer_that_starts_again_takes_over_from_itself(factory, opened):
    hold(opened, "me@elsewhere:1")
    sink = factory(writer="me").open()
    assert opened.get_lease("lobby").token == 2
    sink.close()


def test_an_ended_lease_is_free(factory, opened):
    hold(opened, "other@elsewhere:1", ttl_s=0.05)
    time.sleep(0.1)
    sink = factory().open()
    assert sink.position() is None
    sink.close()


def test_the_lease_is_renewed_while_the_sink_is_open(factory, opened):
    sink = factory(lease_s=2.0).open()
    time.sleep(2.6)
    sink.put(clip(0))
    sink.close()
    assert len(opened.list_spans("lobby")) == 1


def test_a_writer_that_was_taken_over_writes_nothing_more(factory, opened):
    sink = factory(writer="me").open()
    sink.put(clip(0))
    opened.acquire_lease("lobby", "other@elsewhere:1", takeover=True)
    with pytest.raises(LeaseLost, match="other@elsewhere"):
        sink.put(clip(1))
    with pytest.raises(LeaseLost):
        sink.finish(SessionReport("complete"))
    sink.close()
    assert len(opened.list_spans("lobby")) == 1
    assert opened.get_info("lobby").status == "running"
    assert opened.get_lease("lobby").holder == "other@elsewhere:1"


def test_a_refused_writer_leaves_no_lease(factory, opened):
    begin(factory)
    with pytest.raises(Conflict):
        factory(replace(INFO, source="/videos/b.mp4")).open()
    assert opened.get_lease("lobby") is None


def begin(factory, report: SessionReport | None = None, clips: int = 1) -> None:
    sink = factory().open()
    for index in range(clips):
        sink.put(clip(index))
    if report is not None:
        sink.finish(report)
    sink.close()


def test_another_source_is_a_conflict_that_names_both(factory):
    begin(factory)
    with pytest.raises(Conflict, match=r"holds /videos/a\.mp4, got /videos/b\.mp4.*--resume"):
        factory(replace(INFO, source="/videos/b.mp4")).open()


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_stream_of_the_first_release_with_epochs_stays_known_as_one(factory, opened, epoch):
    sink = factory().open()
    sink.put(clip(0, epoch))
    sink.close()
    now = replace(
        INFO,
        made_with=MadeWith(
            SourceAsked("/videos/a.mp4"),
            ModelAsked("tiny"),
            TokensAsked("aot", 0.1, 4, "float32"),
        ),
    )
    factory(now).open().close()
    known = opened.get_info("lobby")
    assert (known.made_with is None) == (epoch > 0)
    assert epoch == 0 or known.settings == INFO.settings


def test_a_moved_source_is_taken_with_resume(factory, opened):
    begin(factory)
    sink = factory(replace(INFO, source="/videos/b.mp4"), moved=True).open()
    assert sink.position().index == 0
    sink.close()
    assert opened.get_info("lobby").source == "/videos/b.mp4"


def test_a_stream_without_a_clip_may_become_another(factory, opened):
    begin(factory, SessionReport("failed", error_code="NoFrames", error="none"), clips=0)
    other = replace(INFO, source="/videos/b.mp4", fingerprint="f2", settings={"weights": "w2"})
    factory(other).open().close()
    known = opened.get_info("lobby")
    assert (known.source, known.fingerprint, known.settings, known.error) == (
        "/videos/b.mp4",
        "f2",
        {"weights": "w2"},
        None,
    )


def test_another_fingerprint_is_refused(factory, opened):
    begin(factory)
    with pytest.raises(FingerprintMismatch, match="f1, got f2"):
        factory(replace(INFO, fingerprint="f2")).open()
    assert opened.get_info("lobby").fingerprint == "f1"


def test_another_wall_start_is_refused_while_the_stream_is_not_complete(factory):
    begin(factory)
    with pytest.raises(Conflict, match="--start-time"):
        factory(replace(INFO, wall_start_s=1e9)).open()


def test_a_complete_stream_stays_complete(factory, opened):
    begin(factory, SessionReport("complete"))
    sink = factory().open()
    assert sink.position().complete
    sink.close()
    assert opened.get_info("lobby").status == "complete"


@pytest.mark.parametrize(
    ("report", "status", "error"),
    [
        (SessionReport("complete"), "complete", None),
        (SessionReport("stopped"), "paused", None),
        (SessionReport("failed", error_code="NoFrames", error="none"), "failed", "NoFrames: none"),
        (SessionReport("complete", truncated=True), "complete", "Truncated: the source ended"),
        (SessionReport("complete", damaged=3), "complete", "DamagedPackets: 3 frames"),
        (
            SessionReport("failed", damaged=3, error_code="ClipsFailed", error="no memory"),
            "failed",
            "ClipsFailed: no memory",
        ),
    ],
)
def test_how_a_session_ended_is_kept(factory, opened, report, status, error):
    begin(factory, report)
    known = opened.get_info("lobby")
    assert known.status == status
    assert known.error == error if error is None else known.error.startswith(error)


def test_a_source_is_described_without_credentials_and_by_its_full_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert describe_source("rtsp://u:p@cam/1") == "rtsp://cam/1"
    assert describe_source("a.mp4") == str(tmp_path / "a.mp4")
    assert describe_source("/v/\udcff\udce9.mp4") == "/v/\\xff\\xe9.mp4"


def test_a_live_stream_goes_on_behind_what_was_left_open_and_what_was_held(factory, opened):
    sink = factory().open()
    assert sink.recover_open() is None
    sink.put(clip(0))
    sink.put_open(clip(1))
    sink.put_gap(StreamGap("lobby", 1, 4.0, 9.0, "held"))
    sink.close()
    again = factory().open()
    try:
        stands = again.recover_open()
    finally:
        again.close()
    assert [span.index for span in opened.list_spans("lobby")] == [0, 1]
    assert stands is not None
    assert (stands.epoch, stands.index, stands.end_s) == (1, 1, 9.0)


def test_an_endless_stream_goes_on_from_where_only_its_first_run_could_see_it_begin(
    factory, opened
):
    begun = factory(endless=True)
    for _ in range(2):  # a session that is started again has what it was first started with
        sink = begun.open()
        assert sink.fix_wall_start(100.0 if sink.position() is None else 200.0) == 100.0
        sink.put(clip(0 if sink.position() is None else 1))
        sink.close()
    assert opened.get_info("lobby").wall_start_s == 100.0


def test_whose_clock_an_epoch_lies_by_is_kept_where_it_changes(factory, opened):
    told = [(0, "arrival"), (1, "arrival"), (3, "source")]
    for epochs in (told, [(4, "source"), (6, "arrival")]):  # two runs
        sink = factory(endless=True).open()
        for epoch, clock in epochs:
            sink.tell_clock(epoch, clock)
        sink.close()
    info = opened.get_info("lobby")
    assert info.clocks == ((0, "arrival"), (3, "source"), (6, "arrival"))
    assert info.clock == "arrival"
    assert [info.clock_of(epoch) for epoch in (0, 2, 5, 9)] == [
        "arrival",
        "arrival",
        "source",
        "arrival",
    ]


def test_a_stream_of_a_release_that_did_not_say_has_no_clock(factory, opened):
    sink = factory(endless=True).open()
    sink.close()
    assert (opened.get_info("lobby").clock, opened.get_info("lobby").clock_of(3)) == (None, None)
