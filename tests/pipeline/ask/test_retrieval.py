"""Which clips are read, and how much of a range they cover."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ask.question import nearest_clip
from pipeline.ask.retrieval import Budget, fit_to_budget, share_budget
from pipeline.ask.timeline import Placed, build_timeline, covered_s
from pipeline.values.errors import QueryTooLarge
from pipeline.values.types import ClipSpan, StreamInfo


def span(index: int, start_s: float, end_s: float, tokens: int = 10, **fields) -> ClipSpan:
    defaults = {"stream_id": "lobby", "epoch": 0}
    fields = {**defaults, **fields}
    return ClipSpan(
        index=index, start_s=start_s, end_s=end_s, num_tokens=tokens, size_bytes=100, **fields
    )


def row(count: int, tokens: int = 10) -> list[ClipSpan]:
    return [span(i, 4.0 * i, 4.0 * i + 4, tokens) for i in range(count)]


def test_all_clips_are_read_where_they_fit():
    spans = row(5)
    assert fit_to_budget(spans, 50) == tuple(spans)


def test_one_token_less_leaves_a_clip_out():
    assert len(fit_to_budget(row(5), 49)) == 4


def test_what_a_clip_costs_beside_its_tokens_counts():
    assert len(fit_to_budget(row(5), 60, tokens_per_clip=10)) == 3


def test_those_left_are_spread_over_the_range():
    chosen = [span.index for span in fit_to_budget(row(100), 50)]
    assert chosen == [0, 25, 50, 74, 99]


def test_the_number_of_clips_is_limited_too():
    assert len(fit_to_budget(row(100), 10**9, max_clips=7)) == 7


def test_where_only_the_smallest_fits_it_is_read():
    spans = [span(0, 0, 4, 50), span(1, 4, 8, 90), span(2, 8, 12, 20)]
    assert fit_to_budget(spans, 25) == (spans[2],)


def test_a_budget_below_every_clip_names_what_one_takes():
    with pytest.raises(QueryTooLarge, match="at least 14; raise the budget"):
        fit_to_budget(row(3), 13, tokens_per_clip=4)


@given(
    tokens=st.lists(st.integers(1, 500), min_size=1, max_size=60),
    budget=st.integers(1, 5000),
    each=st.integers(0, 20),
)
def test_the_budget_always_holds_and_the_order_is_kept(tokens, budget, each):
    spans = [span(i, 4.0 * i, 4.0 * i + 4, n) for i, n in enumerate(tokens)]
    if min(tokens) + each > budget:
        with pytest.raises(QueryTooLarge):
            fit_to_budget(spans, budget, tokens_per_clip=each)
        return
    chosen = fit_to_budget(spans, budget, tokens_per_clip=each)
    assert sum(s.num_tokens + each for s in chosen) <= budget
    indices = [s.index for s in chosen]
    assert indices == sorted(set(indices))
    if sum(tokens) + each * len(tokens) <= budget:
        assert len(chosen) == len(spans)


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    budget=st.integers(60, 600),
    clips=st.integers(5, 80),
)
def test_every_stream_has_a_share_and_its_first_and_last_clip(lengths, budget, clips):
    groups = [
        [span(i, i, i + 1, 10, stream_id=str(n)) for i in range(k)] for n, k in enumerate(lengths)
    ]
    chosen = share_budget(groups, Budget(budget, None, clips), lambda span: span.num_tokens + 2)
    assert sum(map(len, chosen)) <= min(clips, budget // 12)
    for group, of_group in zip(groups, chosen, strict=True):
        assert of_group
        assert of_group[-1] == group[-1]
        if len(of_group) > 1:
            assert of_group[0] == group[0]
    full = [len(of_group) for of_group, group in zip(chosen, groups, strict=True)]
    cut = [n for n, group in zip(full, groups, strict=True) if n < len(group)]
    assert not cut or max(full) <= max(cut) + 1  # nobody has more than one that lacks some


def test_a_small_stream_is_read_whole_beside_large_ones():
    groups = [row(400), [span(i, i, i + 1, stream_id="gate") for i in range(3)], row(4000)]
    chosen = share_budget(groups, Budget(1000), lambda span: span.num_tokens)
    assert [len(of_group) for of_group in chosen] == [48, 3, 48]


@given(st.lists(st.sampled_from([5, 400]), min_size=2, max_size=60), st.integers(400, 8000))
def test_as_many_clips_are_read_as_the_rule_allows(tokens, budget):
    """The cost of n evenly spaced clips does not rise with n."""
    spans = [span(i, i, i + 1, n) for i, n in enumerate(tokens)]
    read = len(fit_to_budget(spans, budget))
    for count in range(read + 1, len(spans) + 1):
        steps, last = count - 1, len(spans) - 1
        even = [spans[(2 * i * last + steps) // (2 * steps)] for i in range(count)]
        assert sum(s.num_tokens for s in even) > budget


def test_more_streams_than_clips_is_too_large():
    with pytest.raises(QueryTooLarge, match="got 2 streams and at most 1 clips"):
        share_budget([row(2), row(2)], Budget(1000, None, 1), lambda span: span.num_tokens)


@pytest.mark.parametrize(
    ("parts", "start_s", "end_s", "seconds"),
    [
        ([(0, 4), (4, 8), (8, 12)], 0, 12, 12.0),
        ([(0, 4), (4, 8), (8, 12)], 2, 9, 7.0),
        ([(0, 6), (4, 10), (5, 7)], 0, 10, 10.0),
        ([(0, 4), (10, 14)], 0, 20, 8.0),
        ([], 0, 9, 0.0),
    ],
)
def test_coverage_is_the_union_of_what_lies_in_the_range(parts, start_s, end_s, seconds):
    assert covered_s(parts, start_s, end_s) == seconds


def epochs(*stretches: tuple[float, float, float | None]) -> list[ClipSpan]:
    """Clips of 10 s through each epoch's (start, end, Unix time of its start)."""
    found = []
    for epoch, (start_s, end_s, wall_s) in enumerate(stretches):
        for at in range(int(start_s), int(end_s), 10):
            wall = None if wall_s is None else wall_s + at - start_s
            found.append(span(len(found), at, at + 10, epoch=epoch, wall_start_s=wall))
    return found


INFO = StreamInfo("lobby", "x", "m", "f", wall_start_s=1_000_000.0)


def test_an_epoch_that_counts_from_zero_again_comes_behind_the_one_before():
    spans = epochs((0, 3600, 1_000_000.0), (0, 100, 1_000_000.0))
    timeline = build_timeline(INFO, spans)
    assert timeline.clock.end_s == 3700.0
    assert timeline.place(spans[-1]).start_s == 3690.0
    assert timeline.clock.to_wall(3690.0) == 1_003_690.0  # never an hour back
    places = [timeline.place(s) for s in spans]
    assert covered_s(((p.start_s, p.end_s) for p in places), 3100, 3700) == 600.0


def test_an_epoch_that_goes_on_in_time_stays_where_it_is():
    spans = epochs((0, 60, 1_000_000.0), (100, 160, 1_000_500.0))
    timeline = build_timeline(INFO, spans)
    assert [timeline.place(s).start_s for s in spans][-1] == 150.0
    assert timeline.clock.to_wall(110.0) == 1_000_510.0
    assert timeline.clock.to_stream(1_000_510.0) == 110.0
    assert timeline.clock.to_stream(1_000_300.0) == 100.0


@pytest.mark.parametrize(("start_s", "end_s", "nearest"), [(20, 30, 1), (8.5, 9.5, 0), (5, 6, 0)])
def test_the_nearest_clip_is_that_closest_to_the_range(start_s, end_s, nearest):
    clips = [Placed(span(0, 4, 8), 4, 8), Placed(span(1, 12, 16), 12, 16)]
    assert nearest_clip(clips, start_s, end_s) == clips[nearest]


def test_of_no_clips_none_is_nearest():
    assert nearest_clip([], 0.0, 1.0) is None
