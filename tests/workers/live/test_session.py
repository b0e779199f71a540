"""A live session: clips in order, open clips readable, every second of the line accounted for."""

import logging
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aot import InvalidFeatures
from tests.workers.live.stand_ins import Canned, MemorySink, Script
from tests.workers.session_support import INFO
from workers.errors import SinkFull, SinkWentBack, SourceRefused
from workers.live.overload import OverloadRule
from workers.live.session import run_live_session
from workers.live.settings import LiveSettings
from workers.live.stillness import StillnessRule
from workers.types import TokenLayout, VideoSource

BEGAN_S = 1_800_000_000.0
SOURCE = VideoSource("rtsp://camera/live", "cam", fps=1.0)
FRAMES = INFO.clip_frames


def picture(second, brightness=None, *, media_s=None):
    bright = 40 + second % 97 * 2 if brightness is None else brightness
    return (second if media_s is None else media_s, BEGAN_S + second, bright)


def play(steps):
    """Events of (seconds to the next picture, brightness) and of outages; most seconds are one."""
    second, media_s, events = 0, 0, []
    for step in steps:
        if isinstance(step, str):
            events.append(step)
            media_s = 0
        else:
            jump_s, brightness = step
            jump_s = 1 if jump_s < 30 else jump_s
            events.append(picture(second, brightness, media_s=media_s))
            second, media_s = second + jump_s, media_s + jump_s
    return events


def run(sink, *events, clock=None, info=INFO, **options):
    """The last progress of a session over these events."""
    script = Script(*events)
    arrivals = [BEGAN_S] + [event[1] if not isinstance(event, str) else None for event in events]
    seen, state = iter(arrivals[1:]), {"now_s": BEGAN_S}

    def arrival_clock():
        return state["now_s"]

    session = run_live_session(
        SOURCE,
        LiveSettings(**options),
        info,
        Canned(info.layout.frames),
        sink,
        script,
        clock=clock or arrival_clock,
    )
    progress = None
    for progress in session:  # noqa: B007
        state["now_s"] = next(seen, None) or state["now_s"]
    return progress, script


def test_clips_come_in_order_with_the_frames_they_should_have():
    sink = MemorySink()

    run(sink, *(picture(i) for i in range(2 * FRAMES + 1)))

    assert [len(clip.pts_s) for clip in sink.clips] == [FRAMES, FRAMES, 1]
    assert [clip.index for clip in sink.clips] == [0, 1, 2]
    assert [clip.wall_start_s for clip in sink.clips] == [
        BEGAN_S + clip.start_s for clip in sink.clips
    ]


def test_the_open_clip_can_be_read_before_it_closes():
    sink = MemorySink()

    run(sink, *(picture(i) for i in range(3)))

    assert [len(clip.pts_s) for clip in sink.opened] == [1, 2, 3]
    assert {clip.index for clip in sink.opened} == {0}


PAIRS = replace(INFO, layout=TokenLayout(frames=2))
"""Workers whose model takes two frames for a token."""


def test_frames_wait_until_they_fill_a_temporal_patch():
    sink = MemorySink()

    progress, _ = run(sink, *(picture(i) for i in range(FRAMES + 3)), info=PAIRS)

    whole, rest = sink.clips
    assert (len(whole.pts_s), whole.tokens.frame.tolist()) == (FRAMES, [*range(0, FRAMES, 2)])
    assert (len(rest.pts_s), rest.tokens.frame.tolist()) == (3, [0, 2])  # its last frame, twice
    assert (whole.layout, rest.layout) == (PAIRS.layout, PAIRS.layout)
    assert [len(clip.pts_s) for clip in sink.opened] == [*range(2, FRAMES, 2), 2]
    assert progress.encoded == FRAMES + 3


def test_a_frame_that_waits_speaks_for_the_stream_like_any_other():
    sink = MemorySink()

    run(sink, picture(0), picture(1), picture(2), picture(60), info=PAIRS)

    first, second = sink.clips
    assert (first.pts_s, first.end_s) == ((0.0, 1.0, 2.0), 3.0)
    assert (second.pts_s, [(gap.start_s, gap.end_s) for gap in sink.gaps]) == ((60.0,), [(3, 60)])


def test_a_patch_that_cannot_be_used_is_dropped_whole():
    sink = MemorySink()

    progress, _ = run(sink, picture(0, 0), picture(1, 0), picture(2), picture(3), info=PAIRS)

    assert (progress.failed, progress.encoded) == (2, 2)
    assert [clip.pts_s for clip in sink.clips] == [(2.0, 3.0)]


def test_an_outage_is_a_gap_with_its_reason_and_a_new_epoch():
    sink = MemorySink()

    run(sink, picture(0), picture(1), "stalled", picture(60, media_s=0), picture(61, media_s=1))

    [gap] = sink.gaps
    assert (gap.reason, gap.start_s, gap.end_s) == ("stalled", 2.0, 60.0)
    assert [clip.epoch for clip in sink.clips] == [0, 1]


def test_the_first_reason_of_a_longer_outage_is_kept():
    sink = MemorySink()

    run(sink, picture(0), "crashed", picture(90, media_s=0))

    assert [gap.reason for gap in sink.gaps] == ["crashed"]


def test_another_run_goes_on_behind_the_first_and_tells_of_the_time_between():
    sink = MemorySink()
    run(sink, picture(0), picture(1))

    run(sink, picture(100, media_s=0))

    assert [(gap.reason, gap.start_s, gap.end_s) for gap in sink.gaps] == [("restart", 2.0, 100.0)]
    assert [clip.index for clip in sink.clips] == [0, 1]
    assert sink.clips[1].wall_start_s == BEGAN_S + 100


def test_still_frames_are_held_and_count_as_footage():
    sink = MemorySink()

    progress, _ = run(sink, *(picture(i, 50) for i in range(200)), stillness=StillnessRule())

    assert (progress.encoded, progress.held) == (1, 199)
    assert [clip.pts_s for clip in sink.clips] == [(0.0, 1.0, 2.0, 3.0)]
    assert [(gap.reason, gap.start_s, gap.end_s) for gap in sink.gaps] == [("held", 4.0, 200.0)]


def test_a_place_that_has_come_to_rest_is_a_clip_of_its_own_once():
    sink = MemorySink()
    events = [*(picture(i, 50 + 40 * (i % 2)) for i in range(3)), *still(3, 40)]

    progress, _ = run(sink, *events, stillness=StillnessRule())

    assert [clip.pts_s for clip in sink.clips] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert sink.clips[1].tokens.tokens.flatten().tolist() == [50.0] * 4
    assert [gap.start_s for gap in sink.gaps] == [8.0]
    assert (progress.encoded, progress.held) == (3, 37)


def still(first, end):
    return [picture(i, 50) for i in range(first, end)]


def test_a_clip_in_which_something_comes_begins_with_the_still_frames_before_it():
    sink = MemorySink()

    run(sink, *still(0, 14), picture(14, 90), picture(15, 90), stillness=StillnessRule())

    assert [clip.pts_s for clip in sink.clips] == [(0, 1, 2, 3), (12, 13, 14, 15)]
    assert sink.clips[1].tokens.tokens.flatten().tolist() == [50.0, 50.0, 90.0, 90.0]
    assert sink.stretches() == [(0, 4), (4, 12), (12, 16)]


def test_a_frame_that_cannot_be_used_leaves_the_still_ones_before_it():
    sink = MemorySink()

    run(sink, *still(0, 14), picture(14, 0), picture(15, 90), stillness=StillnessRule())

    assert [clip.pts_s for clip in sink.clips] == [(0, 1, 2, 3), (12, 13, 15)]


def test_seconds_before_a_clip_whose_first_frame_cannot_be_used_are_told():
    sink = MemorySink()
    run(sink, *map(picture, range(FRAMES)), picture(FRAMES + 1, 0), picture(FRAMES + 2))
    assert sink.stretches() == [(0, FRAMES), (FRAMES, FRAMES + 2), (FRAMES + 2, FRAMES + 3)]


def test_still_frames_that_cannot_be_pushed_again_are_a_gap():
    class Fails(Canned):
        """At the still pictures that a clip would begin with."""

        def push(self, push, *, timeout_s):
            if len(push.pixels) == 2:
                raise InvalidFeatures("not finite")
            return super().push(push, timeout_s=timeout_s)

    sink, events = MemorySink(), [*still(0, 14), picture(14, 90), picture(15, 90)]
    settings_ = LiveSettings(stillness=StillnessRule())

    list(run_live_session(SOURCE, settings_, INFO, Fails(), sink, Script(*events)))

    assert [clip.pts_s for clip in sink.clips] == [(0, 1, 2, 3), (14, 15)]
    assert sink.clips[1].wall_start_s == BEGAN_S + 14
    assert [(gap.reason, gap.start_s, gap.end_s) for gap in sink.gaps] == [
        ("held", 4, 12),
        ("gap", 12, 14),
    ]


def test_a_frame_that_cannot_be_used_is_not_what_later_ones_are_taken_to_show():
    sink = MemorySink()
    run(sink, picture(0, 0), picture(1, 0), picture(2, 50), stillness=StillnessRule())
    assert [clip.pts_s for clip in sink.clips] == [(2,)]


def test_a_still_patch_of_several_frames_is_encoded_once():
    sink = MemorySink()

    progress, _ = run(sink, *still(0, 20), info=PAIRS, stillness=StillnessRule())

    assert [(clip.pts_s, len(clip.tokens)) for clip in sink.clips] == [((0, 1, 2, 3), 2)]
    assert (progress.encoded, progress.held) == (2, 19)


SCENES = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 40), st.sampled_from([50, 50, 50, 90, 130])),
        st.sampled_from(["disconnected", "stalled"]),
    ),
    max_size=40,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SCENES)
def test_holding_changes_no_clip_and_what_is_held_shows_one_picture(steps):
    gated, whole = MemorySink(), MemorySink()

    run(gated, *play(steps), stillness=StillnessRule())
    run(whole, *play(steps))

    shown = {
        (clip.epoch, clip.pts_s): clip.tokens.tokens.flatten().tolist() for clip in whole.clips
    }
    for clip in gated.clips:
        assert clip.tokens.tokens.flatten().tolist() == shown.pop((clip.epoch, clip.pts_s))
    for (epoch, pts_s), pictures in shown.items():
        before = max((c for c in gated.clips if c.start_s < pts_s[0]), key=lambda c: c.start_s)
        assert (before.epoch, {*pictures}) == (epoch, {*before.tokens.tokens.flatten().tolist()})
        assert any(gap.start_s <= pts_s[0] and pts_s[-1] < gap.end_s for gap in gated.gaps)


def test_a_second_between_two_connections_is_a_gap_however_short():
    sink = MemorySink()

    run(sink, picture(0), picture(1), "crashed", picture(2.4, 50, media_s=0))

    gaps = [(gap.reason, gap.start_s, round(gap.end_s, 3)) for gap in sink.gaps]
    assert gaps == [("crashed", 2.0, 2.4)]


def test_a_held_stretch_is_one_row_that_grows():
    class Telling(MemorySink):
        def put_gap(self, gap):
            ends_s.append(gap.end_s)
            super().put_gap(gap)

    sink, ends_s = Telling(), []

    progress, _ = run(sink, *still(0, 50), stillness=StillnessRule())

    assert ends_s == [12.0, 24.0, 36.0, 48.0, 50.0]
    assert [(gap.reason, gap.start_s, gap.end_s) for gap in sink.gaps] == [("held", 4.0, 50.0)]
    assert progress.gaps == {"held": 1}


def test_another_run_goes_on_behind_what_was_held():
    sink = MemorySink()
    run(sink, *still(0, 100), stillness=StillnessRule())

    run(sink, picture(130, media_s=0))

    assert sink.stretches() == [(0.0, 4.0), (4.0, 100.0), (100.0, 130.0), (130.0, 131.0)]


def test_a_frame_without_usable_features_costs_itself_alone():
    sink = MemorySink()

    progress, _ = run(sink, picture(0), picture(1, 0), picture(2))

    assert (progress.encoded, progress.failed) == (2, 1)


def test_what_a_store_lost_is_a_gap_and_the_stream_goes_on():
    class Forgetful(MemorySink):
        def put(self, clip):
            if clip.index == 2 and len(self.clips) == 2:
                self.clips.pop()
                raise SinkWentBack("it ends at 0/0, was told 0/1")
            return super().put(clip)

    sink = Forgetful()

    run(sink, *(picture(i) for i in range(3 * FRAMES)))

    assert [clip.index for clip in sink.clips] == [0, 2]
    assert [(gap.reason, gap.start_s, gap.end_s) for gap in sink.gaps] == [
        ("store", float(FRAMES), 2.0 * FRAMES)
    ]


def test_the_sink_is_told_whose_clock_an_epoch_lies_by():
    sink = MemorySink()

    run(sink, picture(0), "disconnected", picture(30, media_s=0))

    assert sink.clocks == [(0, "arrival"), (1, "arrival")]


def test_what_a_store_lost_is_told_where_the_next_thing_to_store_is_a_gap():
    class Forgetful(MemorySink):
        def put_gap(self, gap):
            if gap.reason == "disconnected" and len(self.clips) == 2:
                self.clips.pop()
                raise SinkWentBack("it ends at 0/0, was told 0/1")
            super().put_gap(gap)

    sink, away = Forgetful(), 2 * FRAMES
    later = [picture(away + 10 + i, media_s=i) for i in range(FRAMES)]

    run(sink, *(picture(i) for i in range(away)), "disconnected", *later)

    assert [clip.index for clip in sink.clips] == [0, 2]
    assert sorted((gap.start_s, gap.end_s, gap.reason) for gap in sink.gaps) == [
        (float(FRAMES), float(away), "store"),
        (float(away), away + 10.0, "disconnected"),
    ]


def test_a_store_that_lost_a_clip_and_is_full_behind_it_costs_no_more_than_both():
    class Forgetful(MemorySink):
        errors = (SinkWentBack("it ends at 0/0, was told 0/1"), SinkFull("away, and full"))

        def put(self, clip):
            if clip.index == 2 and self.errors:
                error, *self.errors = self.errors
                self.clips = self.clips[:1]
                raise error
            return super().put(clip)

    sink = Forgetful()

    progress, _ = run(sink, *(picture(i) for i in range(4 * FRAMES)))

    assert progress.state == "stopped"
    assert [(clip.index, clip.start_s) for clip in sink.clips] == [(0, 0.0), (2, 3.0 * FRAMES)]
    assert [(gap.reason, gap.start_s, gap.end_s) for gap in sink.gaps] == [
        ("store", float(FRAMES), 2.0 * FRAMES),
        ("store", 2.0 * FRAMES, 3.0 * FRAMES),
    ]


def test_what_trying_again_cannot_mend_ends_the_session_and_is_recorded():
    sink = MemorySink()

    class Refused(Script):
        def events(self):
            yield from super().events()
            raise SourceRefused("no")

    with pytest.raises(SourceRefused):
        list(run_live_session(SOURCE, LiveSettings(), INFO, Canned(), sink, Refused(picture(0))))

    assert (sink.report.state, sink.report.error_code) == ("failed", "SourceRefused")


def test_overload_gives_up_step_by_step_and_is_recorded():
    sink = MemorySink()
    rule = OverloadRule(down_wait_s=2.0, down_after_s=3.0, up_after_s=1e9)

    progress, script = run(
        sink, *(picture(i) for i in range(120)), clock=_Late(BEGAN_S), overload=rule
    )

    assert progress.rung == "dropping"
    assert "keyframes" in script.paces


class _Away(Canned):
    """Its worker is away for six seconds at the fifth frame; any takes it 0.85 s, and its clock."""

    def __init__(self, tells):
        super().__init__()
        self._tells, self._pushes, self.now_s = tells, 0, BEGAN_S

    def push(self, push, *, timeout_s):
        self._pushes += 1
        away_s = 6.0 if self._pushes == 5 else 0.0
        self.now_s += away_s + 0.85
        pushed = super().push(push, timeout_s=timeout_s)
        return replace(pushed, away_s=away_s) if self._tells else pushed


@pytest.mark.parametrize("tells", [True, False])
def test_a_worker_that_was_away_costs_no_picture(tells):
    """Were it not told, catching up so slowly would be overload."""
    sink, pusher, rungs = MemorySink(), _Away(tells), []
    script = Script(*(picture(second) for second in range(80)))
    session = run_live_session(
        SOURCE, LiveSettings(), INFO, pusher, sink, script, clock=lambda: pusher.now_s
    )
    for number, progress in enumerate(session):
        pusher.now_s = max(pusher.now_s, BEGAN_S + number)
        rungs.append(progress.rung)

    assert (set(rungs) == {"full"}) == tells
    assert (sum(len(clip.pts_s) for clip in sink.clips) == 80) == tells


def test_what_is_not_read_under_overload_is_its_gap():
    sink = MemorySink()
    rule = OverloadRule(down_wait_s=2.0, down_after_s=3.0, up_after_s=1e9)
    dense, sparse = range(6), range(10, 100, 12)  # as a camera with a keyframe in 12 s

    run(sink, *map(picture, [*dense, *sparse]), clock=_Late(BEGAN_S), overload=rule)

    assert {gap.reason for gap in sink.gaps} == {"overload"}


def test_keyframes_that_come_seldom_are_all_read_under_overload():
    """Late until that is the rung, which reads a picture in 4 s."""
    sink, dense, sparse = MemorySink(), range(10), range(15, 80, 5)
    seconds, now_s = iter([0, *dense, *sparse]), BEGAN_S
    session = run_live_session(
        SOURCE,
        LiveSettings(overload=OverloadRule(up_after_s=1e9)),
        INFO,
        Canned(),
        sink,
        Script(*map(picture, [*dense, *sparse])),
        clock=lambda: now_s,
    )

    for progress in session:
        late_s = 0.0 if progress.rung == "keyframes" else 5.0
        now_s = BEGAN_S + next(seconds, 80) + late_s

    assert progress.rung == "keyframes"
    assert set(sparse) <= {pts_s for clip in sink.clips for pts_s in clip.pts_s}


class _Late:
    """A clock by which every frame has waited for a minute."""

    def __init__(self, began_s):
        self._now_s = began_s + 60

    def __call__(self):
        self._now_s += 1.0
        return self._now_s


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 40), st.sampled_from([50, 50, 50, 90, 0])),
        st.sampled_from(["disconnected", "stalled", "crashed"]),
    ),
    max_size=25,
)


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR, logger="workers.live")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EVENTS, st.booleans())
def test_every_second_is_accounted_for_once(steps, gated):
    sink = MemorySink()

    progress, _ = run(sink, *play(steps), stillness=StillnessRule() if gated else None)

    stretches = sink.stretches()
    for (_, end_s), (start_s, _) in pairwise(stretches):
        assert 0 <= start_s - end_s <= 1.5
    if stretches:
        assert stretches[-1][1] == progress.position_s


def test_held_frames_that_are_late_are_overload_and_their_calm_ends_it():
    arrivals = [BEGAN_S] + [BEGAN_S + i for i in range(60)]
    now_s = [at + (5.0 if i < 5 else 0.0) for i, at in enumerate(arrivals)]
    moment = iter(now_s)
    state = {"now_s": BEGAN_S}
    session = run_live_session(
        SOURCE,
        LiveSettings(stillness=StillnessRule()),
        INFO,
        Canned(),
        MemorySink(),
        Script(*(picture(i, 50) for i in range(60))),
        clock=lambda: state["now_s"],
    )

    rungs = []
    for progress in session:
        rungs.append(progress.rung)
        state["now_s"] = next(moment, state["now_s"])

    assert "half-rate" in rungs
    assert rungs[-1] == "full"
    assert progress.encoded == 1


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("late", range(4, 10))
def test_no_second_is_told_twice_where_a_stream_is_read_in_full_again(late, gated):
    """Down and up again, wherever in a clip that is."""
    moments = iter([BEGAN_S] + [BEGAN_S + i + (5.0 if i < late else 0.0) for i in range(90)])
    state, sink = {"now_s": BEGAN_S}, MemorySink()
    session = run_live_session(
        SOURCE,
        LiveSettings(stillness=StillnessRule() if gated else None, overload=OverloadRule()),
        INFO,
        Canned(),
        sink,
        Script(*(picture(i, 50 if gated and i % 7 else None) for i in range(90))),
        clock=lambda: state["now_s"],
    )

    rungs = []
    for progress in session:
        rungs.append(progress.rung)
        state["now_s"] = next(moments, state["now_s"])

    assert ("half-rate" in rungs, rungs[-1]) == (True, "full")
    for (_, end_s), (start_s, _) in pairwise(sink.stretches()):
        assert start_s >= end_s - 1e-9


class FullSink(MemorySink):
    """Keeps nothing between two of its calls."""

    def __init__(self, first, last):
        super().__init__()
        self._full, self._calls = range(first, last), 0

    def _take(self):
        self._calls += 1
        if self._calls - 1 in self._full:
            raise SinkFull("away, and full")

    def put(self, clip):
        self._take()
        return super().put(clip)

    def put_gap(self, gap):
        self._take()
        super().put_gap(gap)


@pytest.mark.parametrize(("first", "last"), [(0, 2), (1, 2), (1, 4), (2, 5)])
def test_what_a_full_sink_could_not_keep_is_one_gap_of_the_store(first, last):
    sink = FullSink(first, last)
    pictures = [picture(i) for i in range(6 * FRAMES)]
    outage = [picture(i) for i in range(6 * FRAMES + 20, 12 * FRAMES + 20)]

    progress, _ = run(sink, *pictures, "disconnected", *outage)

    stretches = sink.stretches()
    assert stretches[0][0] == 0.0
    assert all(one[1] == pytest.approx(two[0]) for one, two in pairwise(stretches))
    assert [gap.reason for gap in sink.gaps].count("store") == 1
    assert [clip.index for clip in sink.clips] == list(range(len(sink.clips)))
    assert progress.gaps["store"] == 1


def test_a_sink_that_is_full_to_the_end_ends_the_session_all_the_same():
    sink = FullSink(1, 1000)
    progress, _ = run(sink, *(picture(i) for i in range(4 * FRAMES)))
    assert (progress.state, len(sink.clips), progress.position_s) == (
        "stopped",
        1,
        4.0 * FRAMES,
    )
