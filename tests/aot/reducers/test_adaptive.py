"""The own reducer: anchors stay anchors, nothing comes out twice, the budget follows the scene."""

import math

import pytest
import torch

from aot import (
    AOTConfig,
    FrameFeatures,
    InvalidConfig,
    InvalidFeatures,
    TokenKind,
    stack_clips,
    unpack,
)
from aot.reducers.adaptive import AdaptiveReducer, AdaptiveRule
from aot.reducers.cell_memory import (
    AdaptiveState,
    Frame,
    compare,
    learn,
    learn_first,
    open_memory,
)
from aot.reducers.cells import CellBatch, choose_unlike, leave_over, normalise
from aot.reducers.saliency import find_contrast, measure_distances, weigh_frames, weigh_novelty
from tests.aot.support import features

GRID = (6, 6)
CONFIG = AOTConfig(pooling="none", clip_frames=8)


def draw_still(frames=8, dim=16, seed=0, noise=0.01):
    generator = torch.Generator().manual_seed(seed)
    background = torch.randn(1, 1, dim, generator=generator)
    own = 0.2 * torch.randn(1, 36, dim, generator=generator)
    return background + own + noise * torch.randn(frames, 36, dim, generator=generator)


def make_features(tokens, attention=None):
    flat = torch.ones(tokens.shape[:2]) if attention is None else attention
    return FrameFeatures(tokens, flat, flat, GRID)


def make(retention=0.1, **constants):
    given = {"powers": {"novelty": 1.0}, "threshold": 0.5, "novelty_floor": 0.0, **constants}
    return AdaptiveReducer(CONFIG, retention, AdaptiveRule(**given))


def places(tokens):
    return list(zip(tokens.frame.tolist(), tokens.cell.tolist(), strict=True))


def with_visitor(frame=5, cell=14, stays=1):
    tokens = draw_still()
    tokens[frame : frame + stays, cell] = -3 * tokens[0, cell]
    return tokens


def test_a_visitor_comes_out_when_it_comes():
    [kept] = make().compress_clips([make_features(with_visitor())])
    assert (5, 14) in places(kept)
    row = places(kept).index((5, 14))
    assert torch.equal(kept.tokens[row], with_visitor()[5, 14])
    assert kept.kind[row] == TokenKind.DISTINCT


def test_a_visitor_that_stays_comes_out_once():
    tokens = with_visitor(stays=3)
    [kept] = make(keep_mode="absolute").compress_clips([make_features(tokens)])
    assert [place for place in places(kept) if place[1] == 14 and place[0] > 0] == [(5, 14)]


def test_background_that_returns_is_explained_by_its_neighbours():
    tokens = with_visitor()
    [kept] = make(keep_mode="absolute", threshold=0.6).compress_clips([make_features(tokens)])
    assert (6, 14) not in places(kept)


def test_a_still_clip_keeps_few_tokens_under_the_absolute_rule():
    reducer = make(0.5, keep_mode="absolute")
    [still] = reducer.compress_clips([make_features(draw_still())])
    [busy] = reducer.compress_clips([make_features(torch.randn(8, 36, 16))])
    assert len(still) < 10 < len(busy)
    assert len(busy) <= round(0.5 * 8 * 36)


def test_unused_budget_waits_for_a_busy_frame():
    tokens = draw_still()
    tokens[6, 6:24] = torch.randn(18, 16)
    reducer = make(0.1, arrears=0.6, advance=0.0)
    [kept] = reducer.compress_clips([make_features(tokens)])
    counts = torch.bincount(kept.frame[kept.kind == TokenKind.DISTINCT], minlength=8)
    assert int(counts[6]) == int(counts.max()) > 10
    assert len(kept) == round(0.1 * 8 * 36)


def test_nothing_comes_out_twice():
    reducer = make(0.1, powers={"attention": 1.0, "novelty": 0.5}, merged_tokens=4)
    features = make_features(draw_still(), torch.rand(8, 36))
    [(emitted, state)] = reducer.push_many([features], [None])
    last = reducer.finish(state)
    assert len(set(places(emitted))) == len(emitted)
    assert len(last) >= 4
    assert not set(last.cell.tolist()) & set(emitted.cell.tolist())


def test_an_anchor_takes_small_steps_towards_tokens_like_it():
    tokens = draw_still(noise=0.0)
    tokens[1:, 20] += 0.1
    reducer = make(keep_mode="absolute", merge_similarity=0.5)
    [(_, state)] = reducer.push_many([make_features(tokens[:2])], [None])
    first, second = tokens[0, 20], tokens[1, 20]
    assert torch.allclose(state.anchors[0, 0, 20], (first + second) / 2, atol=1e-6)


def test_an_anchor_is_not_blurred_by_what_is_unlike_it():
    tokens = with_visitor(frame=1)
    [(_, state)] = make(0.01).push_many([make_features(tokens[:2])], [None])
    assert torch.equal(state.anchors[0, :2, 14], tokens[:2, 14])
    assert state.filled[0].nonzero()[:, 0].tolist() == list(range(36))
    assert (state.filled[0] == 2).nonzero()[:, 0].tolist() == [14]


def with_slide(frame=2, stays=6):
    tokens = draw_still()
    cells = slice(6, 15)
    tokens[frame : frame + stays, cells] = 20 * torch.eye(16)[:9]  # unlike each other
    return tokens, set(range(6, 15))


def test_what_the_budget_could_not_pay_is_told_in_the_frames_to_come():
    tokens, cells = with_slide()
    reducer = make(0.06, advance=0.0, arrears=0.0, keep_mode="absolute")
    [kept] = reducer.compress_clips([make_features(tokens)])
    told = [place for place in places(kept)[:-1] if place[0] >= 2 and place[1] in cells]
    assert sorted(cell for _, cell in told) == sorted(cells)  # all of them, and each once
    assert len({frame for frame, _ in told}) > 1


def test_what_went_before_it_could_be_paid_is_not_told():
    tokens, cells = with_slide(stays=1)
    reducer = make(0.06, advance=0.0, arrears=0.0, keep_mode="absolute")
    [kept] = reducer.compress_clips([make_features(tokens)])
    assert {frame for frame, cell in places(kept)[:-1] if cell in cells} == {2}


def remember(tokens, kept, *, slots=8):
    """The memory of one clip after a frame of which the cells `kept` came out, all being worthy."""
    marked = torch.zeros(1, 36, dtype=torch.bool)
    marked[0, kept] = True
    everything = torch.ones_like(marked)
    frame = Frame(tokens[None], torch.zeros(1, dtype=torch.long), marked, everything, None)
    memory = open_memory(1, slots, GRID, tokens.shape[1], tokens.dtype, tokens.device)
    return learn_first(memory, frame, torch.linalg.vector_norm(frame.tokens, dim=2)), frame


def test_where_everything_is_owed_all_of_it_is_known():
    tokens = draw_still()[0]
    unit, offset = normalise(tokens)[None], torch.ones(36, 36)
    everything, frame = remember(tokens, [])
    assert everything.owed[0, 0].all()
    novelty, own = compare(everything, unit, offset)
    assert torch.allclose(novelty, torch.zeros(36), atol=1e-6)
    paid = Frame(frame.tokens, frame.position, frame.kept.clone(), frame.worthy, None)
    paid.kept[0, [4, 5]] = True
    paid = learn(everything, paid, own, merge_similarity=0.8, patience=8.0, drops=False)
    novelty, _ = compare(paid, unit, offset)
    known = normalise(tokens[[4, 5]])
    expected = (1 - normalise(tokens) @ known.mT).amin(dim=1)
    assert torch.allclose(novelty[0], expected.clamp(min=0), atol=1e-6)


def test_what_a_cell_has_shown_before_is_not_new_when_it_comes_back():
    tokens = with_visitor(frame=3)
    other = 14 + 3 * 6 + 2
    tokens[5, other] = tokens[3, 14]  # elsewhere it is
    tokens[6, 14] = tokens[3, 14]
    given = {"keep_mode": "absolute", "position_weight": 2.0, "threshold": 0.6}
    [kept] = make(0.5, **given).compress_clips([make_features(tokens)])
    assert (3, 14) in places(kept)
    assert (5, other) in places(kept)
    assert not {(4, 14), (6, 14), (7, 14)} & set(places(kept))


def test_a_cell_forgets_its_oldest_state_and_keeps_its_mass():
    tokens = draw_still()
    for frame in range(1, 8):
        tokens[frame, 14] = torch.randn(16, generator=torch.Generator().manual_seed(frame)) * 3
    [(emitted, state)] = make(0.02, memory=3).push_many([make_features(tokens)], [None])
    assert state.filled[0].tolist() == [3 if cell == 14 else 1 for cell in range(36)]
    newest = state.anchors[0, state.born[0, :, 14].argmax(), 14]
    assert torch.equal(newest, tokens[7, 14])
    held = state.mass[0, :, 14].sum()
    assert float(held) == 8 - sum(cell == 14 for _, cell in places(emitted))
    assert float(state.mass.sum()) + len(emitted) == 8 * 36


def test_steps_do_not_get_smaller_than_patience_allows():
    tokens = draw_still(frames=30, noise=0.0)
    tokens[29, 3] += 0.2
    reducer = make(keep_mode="absolute", patience=5.0, merge_similarity=0.5)
    [(_, state)] = reducer.push_many([make_features(tokens)], [None])
    moved = (state.anchors[0, 0, 3] - tokens[0, 3]) / (tokens[29, 3] - tokens[0, 3])
    assert torch.allclose(moved, torch.full_like(moved, 0.2), atol=1e-3)


def test_attention_decides_between_equally_new_tokens():
    tokens = draw_still()
    tokens[4, [2, 30]] = -3 * tokens[0, [2, 30]]
    attention = torch.ones(8, 36)
    attention[4, 30] = 5
    reducer = make(0.02, powers={"attention": 1.0, "novelty": 1.0}, arrears=0.9, threshold=5.0)
    [kept] = reducer.compress_clips([make_features(tokens, attention)])
    assert (4, 30) in places(kept)
    assert (4, 2) not in places(kept)


@pytest.mark.parametrize("retention", [0.05, 0.2, 0.7])
def test_mass_in_the_state_tells_what_was_spent(retention):
    reducer = make(retention)
    [(emitted, state)] = reducer.push_many([make_features(draw_still(5))], [None])
    assert float(state.mass.sum()) + len(emitted) == 5 * 36
    assert state.spent.tolist() == [len(emitted)]


def test_a_state_of_another_model_is_refused():
    reducer = make()
    [(_, state)] = reducer.push_many([make_features(draw_still())], [None])
    with pytest.raises(InvalidFeatures, match="a clip stays with one model"):
        reducer.push_many([make_features(draw_still(dim=8))], [state])


@pytest.mark.parametrize(
    "constants",
    [
        {"powers": {"colour": 1.0}},
        {"powers": {"novelty": -1.0}},
        {"powers": {"novelty": 0.0}},
        {"powers": {"novelty": math.inf}},
        {"advance": 1.5},
        {"patience": 0.5},
    ],
)
def test_rules_are_checked(constants):
    with pytest.raises(InvalidConfig):
        AdaptiveRule(**constants)


def find_novelty(tokens, anchors, position_weight=0.0):
    """Of the cells of one frame, to anchors of which each cell has one."""
    memory, _ = remember(anchors, list(range(36)))
    offset = 1 + position_weight * measure_distances(GRID, torch.device("cpu"))
    return compare(memory.first(1), normalise(tokens)[None], offset)[0][0]


def test_novelty_is_the_cost_of_the_cheapest_transport():
    tokens, anchors = torch.randn(36, 16), torch.randn(36, 16)
    unit, known = normalise(tokens), normalise(anchors)
    distance = measure_distances(GRID, torch.device("cpu"))
    expected = [
        min(1 - float(unit[i] @ known[j]) + 0.5 * float(distance[i, j]) for j in range(36))
        for i in range(36)
    ]
    assert torch.allclose(find_novelty(tokens, anchors, 0.5), torch.tensor(expected), atol=1e-5)


def test_the_floor_is_added_to_novelty():
    novelty = torch.tensor([[0.0, 0.5]])
    weighed = weigh_novelty(novelty, 0.25, {"novelty": 2.0})
    assert torch.allclose(weighed, torch.tensor([[0.0625, 0.5625]]))
    assert weigh_novelty(novelty, 0.25, {"attention": 1.0}) == 1.0


def test_a_shift_by_one_cell_costs_the_distance():
    tokens = draw_still(1)[0]
    cost = find_novelty(tokens.roll(1, dims=0), tokens, 0.1)
    assert float(cost[1:].max()) <= 0.1 * math.sqrt(1 + 1 / 25) + 1e-5


def test_contrast_is_highest_where_a_frame_differs_from_itself():
    tokens = draw_still(1)[0]
    tokens[17] = -tokens[17]
    assert int(find_contrast(normalise(tokens)).argmax()) == 17


def test_signals_are_mixed_by_their_powers_and_a_power_of_zero_leaves_one_out():
    maps = torch.rand(2, 1, 3, 36) + 0.1
    cells = CellBatch(torch.randn(1, 3, 36, 16), maps[0], maps[1], GRID)
    contrast = find_contrast(normalise(cells.tokens))
    relative = maps / maps.mean(dim=3, keepdim=True)
    mixed = weigh_frames(cells, contrast, {"attention": 0.5, "local": 2.0, "contrast": 0.0})
    torch.testing.assert_close(mixed, relative[0] ** 0.5 * relative[1] ** 2)
    alone = weigh_frames(cells, contrast, {"contrast": 1.0})
    torch.testing.assert_close(alone, contrast.clamp(min=1e-6))
    assert torch.equal(weigh_frames(cells, contrast, {"novelty": 1.0}), torch.ones(1, 3, 36))


def highest_unlike(scores, tokens, count, spread):
    """Places chosen in each of two clips, the same one twice, which must agree."""
    left_over = leave_over(normalise(tokens), spread)
    both = (values.expand(2, *values.shape) for values in (scores, left_over))
    first, second = choose_unlike(*both, torch.tensor([count, count]), spread)
    assert torch.equal(first, second)
    return first.nonzero()[:, 0]


def _things(*counts: int) -> torch.Tensor:
    """Tokens of things at right angles, as many of each as told."""
    return torch.cat([torch.eye(8)[k].expand(n, -1) for k, n in enumerate(counts)])


def test_every_thing_is_chosen_before_one_is_chosen_whole():
    scores = torch.tensor([1.0, 0.9, 0.8, 0.5, 0.4])
    tokens = _things(3, 2)
    assert highest_unlike(scores, tokens, 2, 0.0).tolist() == [0, 1]
    assert highest_unlike(scores, tokens, 2, 0.6).tolist() == [0, 3]
    assert highest_unlike(scores, tokens, 3, 0.6).tolist() == [0, 1, 3]


def test_tokens_with_little_in_common_take_nothing_from_each_other():
    half = torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5], [0.0, 1.0]])
    assert highest_unlike(torch.tensor([1.0, 0.9, 0.8]), half, 2, 1.0).tolist() == [0, 1]


def test_scores_of_nothing_are_chosen_only_where_they_are_asked_for():
    scores = torch.tensor([0.0, 1.0, 0.0])
    assert highest_unlike(scores, torch.eye(3), 1, 0.5).tolist() == [1]
    assert highest_unlike(scores, torch.eye(3), 2, 0.5).tolist() == [0, 1]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 39, 40])
def test_as_many_as_asked_are_chosen_each_once(count):
    generator = torch.Generator().manual_seed(count)
    scores, tokens = torch.rand(40, generator=generator), torch.randn(40, 6, generator=generator)
    chosen = highest_unlike(scores, tokens, count, 1.0).tolist()
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, 40)


def test_tokens_that_are_all_alike_are_chosen_once_each():
    chosen = highest_unlike(torch.rand(400), torch.ones(400, 6), 390, 1.0).tolist()
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 390


def test_a_tight_budget_tells_every_thing_of_a_frame():
    tokens = draw_still()
    large, small = 5 * torch.eye(16)[3], 5 * torch.eye(16)[4]
    tokens[4, :8] = large
    tokens[4, 30] = small + 0.3 * tokens[4, 30]
    clips = [make_features(tokens)]
    frame = {
        spread: [
            cell
            for at, cell in places(make(0.05, spread=spread).compress_clips(clips)[0])
            if at == 4
        ]
        for spread in (0.0, 0.5)
    }
    assert len(frame[0.0]) == len(frame[0.5]) < 8
    assert 30 not in frame[0.0]
    assert 30 in frame[0.5]


def test_clips_that_remember_more_and_less_stack_and_travel():
    reducer = AdaptiveReducer(AOTConfig(clip_frames=8), 0.2)
    quiet, busy = (features(6, (12, 12), 16, seed=3, change=change) for change in (0.1, 2.0))
    more = features(2, (12, 12), 16, seed=4, change=2.0)
    states = [reducer.push(clip)[1] for clip in (quiet, busy)]
    assert states[0].anchors.shape[1] < states[1].anchors.shape[1]
    assert states[0].to("cpu") is states[0]  # and no larger than before

    expected = [reducer.push(more, state) for state in states]
    stacked = AdaptiveState.from_tensors(AdaptiveState.stack(states).tensors())
    packed, after = reducer.push_batch(stack_clips([more, more]), stacked)

    for (tokens, state), ours, end in zip(expected, unpack(packed), after.split(), strict=True):
        assert torch.equal(ours.cell, tokens.cell)
        torch.testing.assert_close(ours.tokens, tokens.tokens)
        assert torch.equal(reducer.finish(end).mass, reducer.finish(state).mass)
        assert end.columns["anchors"].shape == state.columns["anchors"].shape
