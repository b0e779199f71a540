"""Questions answered from a real store by a real, tiny language half."""

import dataclasses
import itertools
from collections import Counter
from datetime import datetime

import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from pipeline.ask.run import Answer, Question, ask, ask_stream, reading_style, resolve_range
from pipeline.store import StoreConfig, open_store
from pipeline.store.keys import Keys
from pipeline.store.redis.connection import connect
from pipeline.values.errors import (
    FingerprintMismatch,
    InvalidQuery,
    NoFootage,
    QueryTooLarge,
    UnknownStream,
)
from pipeline.values.types import StreamInfo
from tests.checkpoints import normalised_pixels
from tests.pipeline.conftest import CLIPS, FPS
from tests.pipeline.support import store_video
from tests.scores import scores
from workers.clips import open_clips
from workers.compress import CompressSettings
from workers.compress.inline import InlineWorkers
from workers.errors import PromptTooLong
from workers.models import ReadingStyle, VisualSegment, open_language_model
from workers.reading import format_mark
from workers.types import VideoSource

WALL_START_S = 1_777_888_800.0  # 2026-05-04T10:00:00Z


@pytest.fixture(scope="module")
def store(model_folder, video, server_folder):
    """The video as `walk` (AOT), `all` (nothing dropped) and `clock` (with a wall clock)."""
    config = StoreConfig(f"embedded://{server_folder}", namespace="ask")
    for stream_id, reducer, wall_start_s in (
        ("walk", "aot", None),
        ("all", "none", None),
        ("clock", "aot", WALL_START_S),
    ):
        source = VideoSource(str(video), stream_id, FPS, wall_start_s=wall_start_s)
        assert store_video(config, model_folder, source, reducer=reducer).clips == CLIPS
    with open_store(config) as opened:
        yield opened


@pytest.fixture(scope="module")
def model(model_folder):
    return open_language_model(str(model_folder))


def question(**fields) -> Question:
    """Of clips as they are stored; `test_fitting` has the rest."""
    given = {"text": "what is seen", "streams": ("walk",), "max_new_tokens": 4, "fit": "choose"}
    return Question(**{**given, **fields})


def test_the_answer_comes_in_pieces_and_then_as_a_whole(store, model):
    *pieces, answer = ask_stream(store, model, question())
    assert isinstance(answer, Answer)
    assert answer.text == "".join(piece.text for piece in pieces).strip() != ""
    assert ask(store, model, question()).text == answer.text


def test_the_clips_of_the_range_are_read_and_cited(store, model):
    answer = ask(store, model, question(start=5, end=9.0))
    assert [(span.index, span.start_s, span.end_s) for span in answer.citations] == [
        (2, 4.0, 6.0),
        (3, 6.0, 8.0),
        (4, 8.0, 10.0),
    ]
    assert 0 < answer.visual_tokens < sum(span.num_tokens for span in answer.citations)
    assert answer.prompt_tokens > answer.visual_tokens
    assert (answer.coverage, answer.read_fraction, answer.partial) == (1.0, 1.0, False)


def test_the_whole_stream_is_read_without_a_range(store, model):
    assert len(ask(store, model, question()).citations) == CLIPS


@pytest.mark.parametrize("last", ["4s", 4, "-4"])
def test_the_last_stretch_is_that_before_the_end(store, model, last):
    answer = ask(store, model, question(last=last))
    assert [span.index for span in answer.citations] == [8, 9]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-05-04T10:00:04+00:00", "2026-05-04T10:00:08+00:00"),
        ("4", "00:08x"),
    ],
)
def test_the_wall_clock_names_a_range(store, start, end):
    asked = question(streams=("clock",), start=start, end=end)
    if end.endswith("x"):
        with pytest.raises(InvalidQuery):
            resolve_range(store, "clock", asked)
        return
    assert resolve_range(store, "clock", asked) == (4.0, 8.0)


def test_the_wall_clock_is_stored_with_every_clip(store):
    spans = store.list_spans("clock")
    assert [span.wall_start_s for span in spans] == [WALL_START_S + 2 * i for i in range(CLIPS)]


def test_several_streams_are_read_one_after_the_other(store, model):
    answer = ask(store, model, question(streams=("walk", "clock"), start=0, end=2))
    assert [span.stream_id for span in answer.citations] == ["walk", "clock"]


def marks_of(store, model, **fields) -> list[str]:
    return [segment.mark for segment in read_to(store, model, question(**fields))]


def test_of_several_streams_the_first_mark_of_each_names_it(store, model):
    assert marks_of(store, model, streams=("walk", "all"), start=2, end=6) == [
        "[walk 00:00:02]",
        "[00:00:04]",
        "[all 00:00:02]",
        "[00:00:04]",
    ]


def test_of_one_stream_no_mark_names_it(store, model):
    assert marks_of(store, model, start=2, end=6) == ["[00:00:02]", "[00:00:04]"]


def test_frame_by_frame_the_first_mark_names_the_stream_too(store, model):
    marks = marks_of(store, model, streams=("walk", "all"), start=2, end=4, marks="frame")
    assert [mark for mark in marks if " " in mark] == ["[walk 00:00:02]", "[all 00:00:02]"]
    assert len(marks) == 8


def test_a_model_with_marks_of_its_own_gets_no_names(store, model):
    taught = changed(model, reading=ReadingStyle("clip", name_streams=False))
    marks = marks_of(store, taught, streams=("walk", "all"), start=2, end=4)
    assert marks == ["[00:00:02]", "[00:00:02]"]


def test_the_context_is_used_to_the_last_clip_and_never_exceeded(store, model):
    """Marks and names cost what the tokenizer says; with one place less a clip less is read."""
    asked = question(streams=("walk", "all"), start=0, end=8)
    whole = ask(store, model, asked)
    need = whole.prompt_tokens + asked.max_new_tokens
    assert len(ask(store, with_context(model, need), asked).citations) == len(whole.citations)
    assert len(ask(store, with_context(model, need - 1), asked).citations) < len(whole.citations)


def test_a_budget_below_a_clip_of_each_stream_is_refused(store, model):
    with pytest.raises(
        QueryTooLarge, match=r"the budget is 5 visual tokens, .* one of each stream"
    ):
        ask(store, model, question(streams=("walk", "clock"), max_visual_tokens=5))


def test_marks_are_of_the_wall_clock_where_there_is_one(store, model):
    first, last = marks_of(store, model, streams=("clock",), start=2, end=6)
    local = [datetime.fromtimestamp(WALL_START_S + s).strftime("[%H:%M:%S]") for s in (2, 4)]
    assert [first, last] == local


def test_frames_outside_the_range_are_not_read(store, model):
    [segment] = read_to(store, model, question(streams=("all",), start=2.5, end=3.0))
    assert segment.mark == "[00:00:02]"
    assert len(segment.tokens) == 49  # one frame of four
    inside = read_to(store, model, question(streams=("all",), start=3, end=5))
    assert [len(s.tokens) for s in inside] == [2 * 49, 2 * 49]


def test_each_streams_facts_are_loaded_once(store, model):
    calls = Counter()

    class Spy:
        def __getattr__(self, name):
            calls[name] += 1
            return getattr(store, name)

    ask(Spy(), model, question(streams=("walk", "clock"), start=0, end=4))
    assert calls == {
        "read_open": 2,
        "get_info": 2,
        "get_position": 2,
        "list_spans": 2,
        "list_gaps": 2,
        "iter_clips": 1,
    }


def test_a_stream_without_footage_does_not_fail_the_others(store, model):
    store.put_info(dataclasses.replace(store.get_info("walk"), stream_id="empty"))
    answer = ask(store, model, question(streams=("walk", "empty"), start=0, end=4))
    assert answer.without_footage == ("empty",)
    walk, empty = answer.streams
    assert (walk.clips_read, walk.coverage, walk.read_fraction) == (2, 1.0, 1.0)
    assert (empty.clips_read, empty.coverage) == (0, 0.0)
    assert answer.coverage == 0.5
    store.delete_stream("empty")


def test_the_answer_says_which_range_was_meant(store, model):
    [reading] = ask(store, model, question(streams=("clock",), last=4)).streams
    assert (reading.start_s, reading.end_s) == (16.0, 20.0)
    assert datetime.fromisoformat(reading.wall_start).timestamp() == WALL_START_S + 16


def test_citations_are_told_on_the_wall_clock_where_their_stream_has_one(store, model):
    asked = question(streams=("clock", "walk"), start=5, end=7.0)
    cited = ask(store, model, asked).citations
    assert [(span.stream_id, span.start_s, span.end_s) for span in cited] == [
        (name, *place) for name in ("clock", "walk") for place in ((4.0, 6.0), (6.0, 8.0))
    ]
    clock, walk = cited[:2], cited[2:]
    for span in clock:
        begin, stop = map(datetime.fromisoformat, (span.wall_start, span.wall_end))
        assert begin.timestamp() == WALL_START_S + span.start_s == span.wall_start_s
        assert stop.timestamp() == WALL_START_S + span.end_s
    assert {(span.wall_start, span.wall_end) for span in walk} == {(None, None)}


def test_a_citation_of_an_epoch_that_counts_anew_is_in_the_streams_seconds(store, model):
    info = dataclasses.replace(store.get_info("walk"), stream_id="anew", made_with=None)
    store.put_info(info)
    lease = store.acquire_lease("anew", "test")
    for epoch, index in ((0, 0), (1, 1)):
        clip = store.get_clip(store.list_spans("walk")[0])
        clip = dataclasses.replace(clip, stream_id="anew", epoch=epoch, index=index)
        store.put_clip(clip, lease, fingerprint=info.fingerprint)
    cited = ask(store, model, question(streams=("anew",))).citations
    assert [(span.start_s, span.end_s) for span in cited] == [(0.0, 2.0), (2.0, 4.0)]
    store.delete_stream("anew")


def test_coverage_is_the_share_of_the_range_with_footage(store, model):
    answer = ask(store, model, question(start=10, end=30))
    assert answer.coverage == 0.5


def test_a_budget_thins_the_clips_and_says_so(store, model):
    spans = store.list_spans("walk")
    budget = sum(span.num_tokens for span in spans) // 2
    answer = ask(store, model, question(max_visual_tokens=budget))
    assert 1 < len(answer.citations) < CLIPS
    assert answer.read_fraction == len(answer.citations) / CLIPS
    assert answer.visual_tokens <= budget
    assert not answer.partial


def test_at_most_so_many_clips_are_loaded(store, model):
    assert len(ask(store, model, question(max_clips=3)).citations) == 3


def test_a_budget_no_clip_fits_is_refused(store, model):
    with pytest.raises(QueryTooLarge, match="raise the budget"):
        ask(store, model, question(max_visual_tokens=5))


def test_time_flows_from_index_to_last_token(store, model):
    timings = ask(store, model, question()).timings
    assert 0 < timings.index_s < timings.first_token_s <= timings.total_s
    assert timings.load_s > 0


def test_the_language_half_fed_by_hand_gives_the_same_answer(store, model, model_folder, video):
    """Decode, encode, drop nothing, ask: no store in between. Clips lie there as bfloat16."""
    settings = CompressSettings(model=str(model_folder), reducer="none", clip_frames=4)
    segments = []
    source = VideoSource(str(video), "x", FPS)
    with InlineWorkers(settings) as workers, open_clips(source, workers.info, None) as reader:
        for clip in workers.compress_stream(itertools.islice(reader, 3)):
            assert len(clip.tokens) == 4 * 49
            tokens = clip.tokens.tokens.to(torch.bfloat16).float()
            segments.append(VisualSegment(format_mark(clip.start_s), tokens))
    direct = "".join(model.stream_answer("what is seen", segments, max_new_tokens=12)).strip()
    cached = ask(store, model, question(streams=("all",), start=0, end=6, max_new_tokens=12))
    assert cached.text == direct != ""


def test_the_cache_gives_the_scores_of_the_pixel_path(store, model, model_folder, video):
    """Against transformers itself: pixels through the whole model, tokens through the cache."""
    settings = CompressSettings(model=str(model_folder), reducer="none", clip_frames=4)
    source = VideoSource(str(video), "x", FPS)
    with InlineWorkers(settings) as workers, open_clips(source, workers.info, None) as reader:
        pixels = normalised_pixels(next(iter(reader)).pixels)
    clip = store.get_clip(store.list_spans("all")[0])
    cached = scores(model, "what is seen", [VisualSegment("", clip.tokens.tokens.float())])
    whole = LlavaOnevisionForConditionalGeneration.from_pretrained(model_folder).eval()
    ids = model._writer.write("what is seen", [VisualSegment("", clip.tokens.tokens.float())])
    with torch.no_grad():
        direct = whole(input_ids=ids.input_ids, pixel_values_videos=pixels).logits[0]
    scale = direct.abs().max()
    assert (cached - direct).abs().max() < 0.02 * scale  # the stored tokens have 8 bits of mantissa
    assert (cached.argmax(1) == direct.argmax(1)).float().mean() > 0.95


def test_frame_marks_cost_more_and_show_the_same_tokens(store, model):
    by_clip, by_frame = (
        ask(store, model, question(start=0, end=6, marks=m)) for m in ("clip", "frame")
    )
    assert by_frame.visual_tokens == by_clip.visual_tokens
    assert by_frame.prompt_tokens > by_clip.prompt_tokens


def test_kept_positions_take_the_context_of_all_tokens(store, model):
    """A clip takes 4 * 49 positions then, so that a small context holds few of them."""
    small = with_context(model, 1000)
    thin = ask(store, small, question())
    kept = ask(store, small, question(keep_positions=True))
    assert len(thin.citations) == CLIPS
    assert len(kept.citations) == 4


def with_context(model, context_length: int):
    """The same model with less context."""
    return changed(model, context_length=context_length)


def changed(model, **attributes):
    """The same model with some attributes of its own."""

    class Changed:
        def __getattr__(self, name):
            return getattr(model, name)

    result = Changed()
    vars(result).update(attributes)
    return result


class Heard(Exception):
    """Carries the segments a model was asked with."""


def read_to(store, model, asked: Question) -> list[VisualSegment]:
    """What the model gets to read."""

    def stream_answer(text, segments, **_):
        raise Heard(segments)

    with pytest.raises(Heard) as heard:
        ask(store, changed(model, stream_answer=stream_answer), asked)
    return heard.value.args[0]


def same_reading(one: list[VisualSegment], other: list[VisualSegment]) -> bool:
    marks = [s.mark for s in one] == [s.mark for s in other]
    return marks and all(
        torch.equal(a.tokens, b.tokens)
        and (a.positions is None) == (b.positions is None)
        and (a.positions is None or torch.equal(a.positions, b.positions))
        for a, b in zip(one, other, strict=True)
    )


@pytest.fixture
def taught(model):
    """The same model, taught frame by frame with positions."""
    return changed(model, reading=ReadingStyle("frame", keep_positions=True))


def test_clips_are_read_as_the_model_wants(store, model, taught):
    asked = question(start=0, end=6)
    by_hand = question(start=0, end=6, marks="frame", keep_positions=True)
    assert same_reading(read_to(store, taught, asked), read_to(store, model, by_hand))
    assert not same_reading(read_to(store, taught, asked), read_to(store, model, asked))


@pytest.mark.parametrize(
    ("given", "style"),
    [
        ({}, ReadingStyle("frame", True)),
        ({"marks": "clip"}, ReadingStyle("clip", True)),
        ({"keep_positions": False}, ReadingStyle("frame", False)),
        ({"marks": "clip", "keep_positions": False}, ReadingStyle("clip", False)),
    ],
)
def test_what_the_question_says_wins_over_the_model(taught, given, style):
    assert reading_style(question(**given), taught) == style


def test_the_budget_knows_how_the_model_reads(store, taught):
    assert len(ask(store, with_context(taught, 800), question()).citations) < 4


def test_a_context_without_room_for_video_is_refused(store, model):
    with pytest.raises(InvalidQuery, match="leave no room for video"):
        ask(store, model, question(max_new_tokens=model.context_length))


def test_another_models_tokens_are_refused(store, other_model_folder):
    other = open_language_model(str(other_model_folder))
    with pytest.raises(FingerprintMismatch, match=r"holds tokens of tiny .* got model other"):
        ask(store, other, question())


def test_an_unknown_stream_is_named(store, model):
    with pytest.raises(UnknownStream, match="'nobody'"):
        ask(store, model, question(streams=("nobody",)))


def test_an_empty_range_names_the_nearest_clip(store, model):
    with pytest.raises(NoFootage, match=r"from 100\.0 to 200\.0 s; the nearest .* 18\.0 to 20\.0"):
        ask(store, model, question(start=100, end=200))


def test_a_stream_without_clips_says_so(store, model):
    known = store.get_info("walk")
    store.put_info(dataclasses.replace(known, stream_id="empty"))
    with pytest.raises(NoFootage, match="no clips yet"):
        ask(store, model, question(streams=("empty",)))
    store.delete_stream("empty")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text": "x" * 4097}, "expected 1 to 4096"),
        ({"text": "  "}, "expected 1 to 4096"),
        ({"streams": ()}, "expected at least one"),
        ({"streams": ("a", "a")}, "twice"),
        ({"last": "1m", "start": 3}, "one of them"),
    ],
)
def test_a_question_that_cannot_be_is_refused(fields, said):
    with pytest.raises(InvalidQuery, match=said):
        question(**fields)


@pytest.mark.parametrize(
    ("start", "end"), [(9, 3), (3, 3), ("soon", None), (float("nan"), 3), (None, float("nan"))]
)
def test_a_range_that_cannot_be_is_refused(store, model, start, end):
    with pytest.raises(InvalidQuery):
        ask(store, model, question(start=start, end=end))


@pytest.fixture
def damaged(model_folder, video, server_folder):
    """A stream of one's own and the raw client to break it with."""
    config = StoreConfig(f"embedded://{server_folder}", namespace="damaged")
    with open_store(config) as store:
        store_video(config, model_folder, VideoSource(str(video), "d", FPS))
        with connect(store.config) as client:
            yield store, lambda index: Keys(config.namespace).clip("d", 0, index), client
        store.delete_stream("d")


def test_a_lost_and_a_corrupt_clip_make_the_answer_partial(damaged, model):
    store, key, client = damaged
    client.delete(key(1))
    blob = bytearray(client.get(key(2)))
    blob[len(blob) // 2] ^= 1
    client.set(key(2), bytes(blob))
    answer = ask(store, model, question(streams=("d",), start=0, end=8))
    assert answer.partial
    assert [span.index for span in answer.citations] == [0, 3]
    assert answer.read_fraction == 0.5


def test_where_the_first_clip_is_lost_the_next_names_the_stream(damaged, model):
    store, key, client = damaged
    store.put_info(dataclasses.replace(store.get_info("d"), stream_id="other"))
    lease = store.acquire_lease("other", "test")
    clip = dataclasses.replace(store.get_clip(store.list_spans("d")[0]), stream_id="other")
    store.put_clip(clip, lease, fingerprint=store.get_info("d").fingerprint)
    client.delete(key(0))
    assert marks_of(store, model, streams=("d", "other"), start=0, end=4) == [
        "[d 00:00:02]",
        "[other 00:00:00]",
    ]
    store.delete_stream("other")


def test_where_no_clip_can_be_read_the_error_says_how_to_see_more(damaged, model):
    store, key, client = damaged
    client.delete(key(0))
    with pytest.raises(NoFootage, match="aot clips verify d"):
        ask(store, model, question(streams=("d",), start=0, end=2))


def test_a_model_that_says_too_long_is_heard(store, model):
    with pytest.raises((PromptTooLong, InvalidQuery)):
        ask(store, model, question(text="what " * 800, max_new_tokens=model.context_length - 700))


def test_a_later_epoch_that_ends_earlier_hides_nothing(store):
    info = StreamInfo("epochs", "x", "m", "f")
    clip = store.get_clip(store.list_spans("walk")[0])
    store.put_info(info)
    lease = store.acquire_lease("epochs", "test")
    for epoch, index, start_s in ((0, 0, 0.0), (0, 1, 50.0), (1, 2, 10.0)):
        moved = dataclasses.replace(
            clip, stream_id="epochs", epoch=epoch, index=index, start_s=start_s, end_s=start_s + 2
        )
        store.put_clip(moved, lease, fingerprint="f")
    assert resolve_range(store, "epochs", question(streams=("epochs",))) == (0.0, 54.0)
    store.delete_stream("epochs")


def test_the_range_is_taken_from_what_the_question_says_of_time(store, model):
    asked = question(text="what is seen in the last four seconds", read_times=True)

    answer = ask(store, model, asked)

    assert [span.index for span in answer.citations] == [8, 9]
    [stream] = answer.streams
    assert (stream.start_s, stream.end_s) == (16.0, 20.0)
    assert stream.phrase == "in the last four seconds"


def test_a_range_that_is_given_wins_over_words(store, model):
    asked = question(text="what is seen at the end", read_times=True, start=0, end=2)

    [stream] = ask(store, model, asked).streams

    assert (stream.start_s, stream.end_s, stream.phrase) == (0.0, 2.0, None)


def test_words_about_a_time_without_footage_are_not_answered(store, model):
    """What they mean is empty: the rest of the stream does not stand in for it."""
    spoken = "what is seen at 11:30 on 2026-05-04"
    asked = question(text=spoken, streams=("clock",), read_times=True)
    with pytest.raises(NoFootage, match=r"clock has no footage from 2026-05-04T11:30:00"):
        ask(store, model, asked)
