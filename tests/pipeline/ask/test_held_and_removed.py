"""Held stretches are footage, removed ones are not; clips that go while they are asked about."""

import dataclasses

import pytest

from pipeline.api.views import gaps_by_reason, view_stream
from pipeline.ask.question import Question, look_up, look_up_stream
from pipeline.ask.run import answer_prepared, prepare
from pipeline.serve.asking import Asked, Window, prepare_asked
from pipeline.serve.keys import LOCAL
from pipeline.settings import load_settings
from pipeline.store.memory import MemoryStore
from pipeline.values.errors import NoFootage
from pipeline.values.types import Gap
from tests.pipeline.store.conftest import info, make_clip  # noqa: F401
from workers.models import open_language_model


@pytest.fixture
def camera(info, make_clip):  # noqa: F811
    """A clip, a minute in which nothing changed, a minute away, a clip."""
    store = MemoryStore()
    store.put_info(info)
    lease = store.acquire_lease("lobby", "tests", ttl_s=600)
    for index, start_s in enumerate((0.0, 124.0)):
        store.put_clip(make_clip(index, start_s=start_s), lease, fingerprint="f1")
    for start_s, reason in ((4.0, "held"), (64.0, "disconnected")):
        store.put_gap(Gap("lobby", 0, start_s, start_s + 60.0, reason), lease)
    return store


def test_a_held_stretch_is_footage_to_a_question(camera):
    part = look_up_stream(camera, "lobby", Question("-", ("lobby",), 0.0, 128.0))
    assert (part.footage_s, part.held_s) == (68.0, 60.0)


def test_a_held_stretch_is_no_gap_of_a_stream(camera):
    view = view_stream(camera, "lobby")
    assert (view.gaps, view.held_s, view.coverage) == (1, 60.0, 68.0 / 128.0)
    sums = gaps_by_reason(camera.list_gaps("lobby"))
    assert {reason: (s.count, s.seconds) for reason, s in sums.items()} == {
        "disconnected": (1, 60.0),
        "held": (1, 60.0),
    }


def test_a_range_in_which_nothing_changed_is_read_from_the_clip_before(camera):
    [part] = look_up(camera, Question("-", ("lobby",), 10.0, 20.0))
    assert (part.clips, [clip.span.index for clip in part.to_read]) == ((), [0])
    assert (part.footage_s, part.held_s) == (10.0, 10.0)
    assert part.within(camera.get_clip(part.to_read[0].span)) is None


def test_a_range_that_begins_held_and_has_clips_is_read_from_the_clip_before_too(camera):
    [part] = look_up(camera, Question("-", ("lobby",), 10.0, 126.0))
    assert [clip.span.index for clip in part.to_read] == [0, 1]
    before, after = (camera.get_clip(clip.span) for clip in part.to_read)
    assert part.within(before) is None  # a place at rest, of which all is still there
    assert part.within(after) == (10.0, 126.0)


@pytest.mark.parametrize("start_s", [0.0, 3.0, 100.0])
def test_nothing_is_read_twice_and_a_gap_shows_nothing_of_before(camera, start_s):
    [part] = look_up(camera, Question("-", ("lobby",), start_s, 126.0))
    assert part.before is None


def test_a_clip_that_was_held_on_is_read_whole(info, make_clip):  # noqa: F811
    store = MemoryStore()
    store.put_info(info)
    lease = store.acquire_lease("lobby", "tests", ttl_s=600)
    clip = dataclasses.replace(make_clip(0), end_s=60.0)  # frames at 0 to 3 s
    store.put_clip(clip, lease, fingerprint="f1")
    [late] = look_up(store, Question("-", ("lobby",), 30.0, 40.0))
    [early] = look_up(store, Question("-", ("lobby",), 2.0, 40.0))
    assert late.within(clip) is None
    assert early.within(clip) == (2.0, 40.0)


def test_a_held_range_whose_clip_was_removed_says_so(camera):
    camera.delete_range("lobby", None, 4.0)
    with pytest.raises(NoFootage, match=r"lobby was still from 10\.0 to 20\.0 s"):
        look_up(camera, Question("-", ("lobby",), 10.0, 20.0))


def test_what_was_removed_is_told_as_such(camera):
    camera.delete_range("lobby", None, 64.0)
    part = look_up_stream(camera, "lobby", Question("-", ("lobby",), 0.0, 128.0))
    assert [gap.reason for gap in part.gaps] == ["expired", "disconnected"]
    assert part.footage_s == 4.0


def test_clips_of_several_epochs_are_removed_in_each_ones_own_time(info, make_clip):  # noqa: F811
    store = MemoryStore()
    store.put_info(info)
    lease = store.acquire_lease("lobby", "tests", ttl_s=600)
    for index in range(6):  # the second epoch counts from nought again: 12 to 24 s of the stream
        clip = make_clip(index, epoch=index // 3, start_s=4.0 * (index % 3))
        store.put_clip(clip, lease, fingerprint="f1")
    part = look_up_stream(store, "lobby", Question("-", ("lobby",), 8.0, 16.0))
    assert part.delete_from(store).clips == 2
    assert [span.index for span in store.list_spans("lobby")] == [0, 1, 4, 5]
    store.delete_range("lobby", epoch=0)
    again = look_up_stream(store, "lobby", Question("-", ("lobby",), 16.0, 24.0))
    assert [clip.span.index for clip in again.clips] == [4, 5]  # still where it was


def test_an_answer_goes_on_without_clips_that_were_removed_and_says_so(
    run, video, opened, model_folder
):
    assert run("ingest", video, "--stream", "walk").code == 0
    model = open_language_model(str(model_folder))
    asked = prepare(opened, Question("what is seen", ("walk",), max_new_tokens=2))
    opened.delete_range("walk", None, 8.0)
    *_, answer = answer_prepared(opened, model, asked)
    assert (answer.removed, answer.partial) == (4, True)
    assert [span.index for span in answer.citations] == [4, 5, 6, 7, 8, 9]
    opened.delete_range("walk")
    with pytest.raises(NoFootage, match="removed while they were read"):
        list(answer_prepared(opened, model, asked))


def test_the_service_reads_a_range_in_which_nothing_changed_as_the_pipeline_does(camera):
    window = Window("lobby", 10.0, 20.0)
    prepared = prepare_asked(camera, load_settings(None, {}), LOCAL, Asked("what", [window]))
    [part], [same] = prepared.parts, look_up(camera, Question("-", ("lobby",), 10.0, 20.0))
    assert part.to_read == same.to_read
    assert part.before is not None
