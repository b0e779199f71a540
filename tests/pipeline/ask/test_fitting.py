"""What is read where a range holds more than the budget: all of it, with fewer tokens."""

import pytest

from aot import recompress
from pipeline.ask import finding, merging, prompt
from pipeline.ask.answer import LevelReading
from pipeline.ask.cover import cover, read_parts, split_level
from pipeline.ask.prompt import ASIDE, Reading
from pipeline.ask.run import Question, ask, prepare
from pipeline.ask.search import search_prepared
from pipeline.store import StoreConfig, open_store
from pipeline.store.fading import fade_clips
from pipeline.store.levels import nodes_of
from pipeline.store.pyramid import Pyramid
from pipeline.values.errors import InvalidQuery, QueryTooLarge
from tests.pipeline.conftest import CLIPS, FPS
from tests.pipeline.support import store_video
from workers.models import open_language_model
from workers.reading import placeholder
from workers.types import VideoSource


@pytest.fixture(scope="module")
def store(model_folder, video, server_folder):
    """The video as `one`, `two` and `three`."""
    config = StoreConfig(f"embedded://{server_folder}", namespace="fit")
    for stream_id in ("one", "two", "three"):
        last = store_video(config, model_folder, VideoSource(str(video), stream_id, FPS))
        assert last.clips == CLIPS
    with open_store(config) as opened:
        yield opened


@pytest.fixture(scope="module")
def model(model_folder):
    return open_language_model(str(model_folder))


def question(**fields) -> Question:
    given = {"text": "what is seen", "streams": ("one",), "max_new_tokens": 4, "fit": "recompress"}
    return Question(**{**given, **fields})


def total(store, stream_id: str = "one") -> int:
    return store.get_overview(stream_id).totals.tokens


def test_what_fits_is_read_as_it_was_stored(store, model):
    answer = ask(store, model, question())

    before = total(store)
    assert answer.streams[0].levels == (LevelReading("stored", CLIPS, before, before),)
    assert answer.text == ask(store, model, question(fit="choose")).text


@pytest.mark.parametrize("marks", ["clip", "frame"])
@pytest.mark.parametrize("keep_positions", [False, True])
def test_every_clip_of_the_range_is_read_within_the_budget(store, model, marks, keep_positions):
    budget = total(store) // 3

    asked = question(max_visual_tokens=budget, marks=marks, keep_positions=keep_positions)
    answer = ask(store, model, asked)

    assert answer.visual_tokens == budget
    assert (len(answer.citations), answer.read_fraction) == (CLIPS, 1.0)
    [stream] = answer.streams
    assert stream.levels == (LevelReading("merged", CLIPS, total(store), budget),)


def test_the_same_budget_without_it_leaves_clips_out(store, model):
    answer = ask(store, model, question(max_visual_tokens=total(store) // 3, fit="choose"))

    assert answer.read_fraction < 0.5
    assert [level.detail for level in answer.streams[0].levels] == ["stored"]


def test_a_budget_of_less_than_a_clip_is_met(store, model):
    answer = ask(store, model, question(max_visual_tokens=2))

    assert answer.visual_tokens == 2
    with pytest.raises(QueryTooLarge):
        ask(store, model, question(max_visual_tokens=2, fit="choose"))


def test_the_context_is_kept_to_by_marks_too(store, model, monkeypatch):
    monkeypatch.setattr(model, "context_length", 110)

    answer = ask(store, model, question(marks="frame"))

    assert 0 < answer.visual_tokens < total(store)
    longest_mark = model.count_tokens("", [placeholder("[00:00:00]", 1)]) - model.count_tokens(
        "", []
    )
    assert 110 - longest_mark <= answer.prompt_tokens + 4 <= 110


def test_clips_are_merged_once_however_much_is_over(store, model, monkeypatch):
    calls = []
    monkeypatch.setattr(model, "context_length", 110)
    monkeypatch.setattr(
        merging, "recompress", lambda *a, **k: calls.append(1) or recompress(*a, **k)
    )

    ask(store, model, question(marks="frame"))

    assert len(calls) == 1


@pytest.mark.parametrize(("step", "hits"), [(64, 1), (1, 0)])
def test_two_questions_on_one_range_share_the_prompt_that_was_read(
    store, model_folder, monkeypatch, step, hits
):
    """Of other lengths: what is merged does not hang on how much room a question leaves."""
    monkeypatch.setattr(prompt, "ASIDE", step)
    monkeypatch.setattr(prompt, "MOST_ASIDE", 1)
    model = open_language_model(str(model_folder), kept_bytes=1 << 28)
    model.context_length = 192
    for text in ("what is seen", "is there anything at all that moves"):
        answer = ask(store, model, question(text=text, marks="frame", max_new_tokens=2))
        assert [level.detail for level in answer.streams[0].levels] == ["merged"]

    assert model.kept.hits == hits


def test_room_is_the_same_for_questions_of_other_lengths(store, model, monkeypatch):
    def room_of(text: str, context: int) -> int:
        monkeypatch.setattr(model, "context_length", context)
        asked = question(text=text)
        return Reading(asked, tuple(prepare(store, asked).parts), model).room()

    short, long = "what is seen", "what is seen from the left to the right " * 2
    assert room_of(short, 20 * ASIDE) == room_of(long, 20 * ASIDE)
    assert room_of(short, 4 * ASIDE) > room_of(long, 4 * ASIDE)  # there is none to be given up


def test_streams_share_the_budget(store, model):
    answer = ask(store, model, question(streams=("one", "two"), max_visual_tokens=20))

    assert [stream.levels[0].tokens_read for stream in answer.streams] == [10, 10]


def test_nothing_outside_the_range_is_read(store, model):
    part = ask(store, model, question(start=5, end=9, max_visual_tokens=6))

    assert [span.index for span in part.citations] == [2, 3, 4]
    assert part.streams[0].levels[0].tokens_read == 6


def test_more_clips_than_may_be_loaded_are_thinned_first(store, model):
    answer = ask(store, model, question(max_visual_tokens=6, max_clips=3))

    assert [span.index for span in answer.citations] == [0, 5, 9]


@pytest.fixture
def levels(store):
    """The levels of `one`, which go again."""
    Pyramid(store, "one").turn()
    yield
    store.remove_levels(nodes_of(store.list_spans("one")))


def test_levels_are_read_for_many_clips_and_a_small_budget(store, model, levels):
    answer = ask(store, model, question(max_visual_tokens=6, max_clips=4))

    [stream] = answer.streams
    assert (stream.clips_read, answer.read_fraction, answer.visual_tokens) == (CLIPS, 1.0, 6)
    assert [(level.detail, level.clips) for level in stream.levels] == [("merged", CLIPS)]
    assert answer.bytes_read < sum(span.size_bytes for span in store.list_spans("one"))
    assert {8, 9} <= {span.index for span in answer.citations}  # read by themselves
    assert not answer.partial


def test_marks_and_times_of_clips_in_a_level_are_their_own(store, model, levels):
    spans = store.list_spans("one")
    parts = cover([spans[:4]], [], 1, 1)
    assert parts is not None
    [part] = parts
    [(_, told, _)] = read_parts(store, [part])

    clips = split_level(told, part)

    assert len(clips) > 1
    for clip in clips:
        span = spans[clip.index]
        assert (clip.start_s, clip.end_s) == (span.start_s, span.end_s)
        assert all(span.start_s <= pts_s < span.end_s for pts_s in clip.pts_s)
        assert set(clip.tokens.frame.tolist()) == set(range(len(clip.pts_s)))
    assert sum(len(clip.tokens) for clip in clips) == len(told.tokens)


def test_levels_that_are_not_there_are_made_by_the_question(store, model):
    asked = question(streams=("two",), max_visual_tokens=6)
    first = ask(store, model, asked)
    made = store.find_levels(nodes_of(store.list_spans("two")))
    second = ask(store, model, asked)

    assert {node.level for node in made} == {1}
    assert (second.text, second.visual_tokens) == (first.text, first.visual_tokens)
    assert second.bytes_read == first.bytes_read


def test_an_answer_from_faded_clips_says_so(store, model):
    spans = store.list_spans("three")
    fade_clips(store, spans[:3], 0.2)

    answer = ask(store, model, question(streams=("three",)))

    [stream] = answer.streams
    assert [(level.detail, level.clips) for level in stream.levels] == [
        ("stored", CLIPS - 3),
        ("faded", 3),
    ]
    assert (stream.clips_faded, stream.coverage, answer.read_fraction) == (3, 1.0, 1.0)
    assert [span.keep for span in answer.citations] == [0.2] * 3 + [1.0] * (CLIPS - 3)


def test_the_clips_that_matter_are_found_and_read(store, model, monkeypatch):
    """The model's own scores decide; here they are told by the mark of what it is shown."""

    def score(question, parts):
        return [1.0 if "00:00:06" in part[0].mark else 0.0 for part in parts]

    monkeypatch.setattr(model, "score_relevance", score)
    budget = max(span.num_tokens for span in store.list_spans("one"))

    answer = ask(store, model, question(fit="find", max_visual_tokens=budget))

    assert [span.index for span in answer.citations] == [3]
    assert [level.detail for level in answer.streams[0].levels] == ["stored"]
    assert not answer.partial


@pytest.mark.parametrize(("closely", "found"), [(3, 6), (2, 1)])
def test_the_likeliest_are_looked_at_again_with_all_their_tokens(
    store, model, monkeypatch, closely, found
):
    """By a quarter of its tokens clip 6 is the third; by all of them it is the first."""
    monkeypatch.setattr(finding, "CLOSELY", closely)
    whole, seen = [span.num_tokens for span in store.list_spans("one")], []

    def score(question, parts):
        seen.append(len(parts))
        return [look(part) for part in parts]

    def look(part):
        at = int(part[0].mark[-3:-1]) // 2
        is_whole = sum(len(segment.tokens) for segment in part) == whole[at]
        return {1: 0.9, 2: 0.8, 6: 5.0 if is_whole else 0.7}.get(at, 0.0)

    monkeypatch.setattr(model, "score_relevance", score)
    answer = ask(store, model, question(fit="find", max_visual_tokens=max(whole)))

    assert [span.index for span in answer.citations] == [found]
    assert seen == [CLIPS, closely]


def test_a_clip_that_is_found_and_does_not_fit_is_merged(store, model):
    answer = ask(store, model, question(fit="find", max_visual_tokens=3))

    assert (len(answer.citations), answer.visual_tokens) == (1, 3)
    assert answer.streams[0].levels[0].detail == "merged"


def test_a_search_ranks_the_clips_of_the_range(store, model):
    prepared = prepare(store, question(streams=("one", "two"), start=4, end=12))

    result = search_prepared(store, model, prepared, most=5)

    scores = [hit.score for hit in result.hits]
    assert (len(result.hits), result.searched) == (5, 8)
    assert scores == sorted(scores, reverse=True)
    assert {hit.span.index for hit in result.hits} <= {2, 3, 4, 5}
    assert search_prepared(store, model, prepared, most=5) == result
    with pytest.raises(InvalidQuery, match="0 results"):
        search_prepared(store, model, prepared, most=0)
