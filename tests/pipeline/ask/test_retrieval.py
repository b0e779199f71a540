"""Which clips are read, and how much of a range they cover."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ask.retrieval import covered_s, fit_to_budget, nearest_span, no_footage
from pipeline.errors import QueryTooLarge
from pipeline.types import ClipSpan


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
    assert chosen == [10, 30, 50, 70, 90]


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


def test_coverage_of_neighbours_is_their_length():
    assert covered_s(row(5), None, None) == 20.0


def test_coverage_is_cut_to_the_range():
    assert covered_s(row(5), 2.0, 9.0) == 7.0


def test_overlapping_clips_count_once():
    assert covered_s([span(0, 0, 6), span(1, 4, 10), span(2, 5, 7)], None, None) == 10.0


def test_gaps_do_not_count():
    assert covered_s([span(0, 0, 4), span(1, 10, 14)], 0.0, 20.0) == 8.0


def test_epochs_and_streams_count_apart():
    spans = [span(0, 0, 4), span(1, 0, 4, epoch=1), span(0, 0, 4, stream_id="door")]
    assert covered_s(spans, None, None) == 12.0


def test_no_clip_covers_nothing():
    assert covered_s([], 0.0, 9.0) == 0.0


@pytest.mark.parametrize(("start_s", "end_s", "nearest"), [(20, 30, 1), (8.5, 9.5, 0), (5, 6, 0)])
def test_the_nearest_clip_is_that_closest_to_the_range(start_s, end_s, nearest):
    spans = [span(0, 4, 8), span(1, 12, 16)]
    assert nearest_span(spans, start_s, end_s) == spans[nearest]


def test_of_no_clips_none_is_nearest():
    assert nearest_span([], 0.0, 1.0) is None


def test_an_empty_range_names_the_nearest_clip_or_that_there_is_none():
    assert "nearest clip is 4.0 to 8.0 s" in str(no_footage("a", 90, 99, span(0, 4, 8)))
    assert "no clips yet" in str(no_footage("a", 90, 99, None))
