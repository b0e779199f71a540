"""Every reducer on an accelerator against the CPU."""

import pytest
import torch

from aot import (
    REDUCERS,
    AOTConfig,
    CausalReducer,
    FeatureBatch,
    FrameFeatures,
    Grid,
    concatenate,
    make_reducer,
    stack_clips,
    unpack,
)
from aot.anchors import anchors_in_frame, choose_anchors
from aot.packing import front_rows
from aot.reducers import adaptive, cells
from aot.reducers.cells import normalise
from aot.reducers.fused_scan import multiply
from aot.spatial import merge_and_pool
from aot.transport import exponentiate, scale_kernel
from tests.aot.support import CAUSAL, features, no_waits, part

GRID, FRAMES = (12, 12), 8
pytestmark = pytest.mark.gpu


def move(clip: FrameFeatures) -> FrameFeatures:
    parts = (clip.tokens, clip.local_attention, clip.global_attention)
    return FrameFeatures(*(part.cuda() for part in parts), clip.grid)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(3, 729, 126), (2, 196, 196), (2, 50, 700), (1, 5, 1)], ids=str)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-5])
def test_the_sinkhorn_kernel_is_its_twin(shape, dtype, tolerance):
    """Points of a plane: two iterations by the one tolerance, 2 to 13 by the other."""
    generator = torch.Generator().manual_seed(0)
    batch, sources, anchors = shape
    points = torch.rand(batch, sources + anchors, 2, generator=generator, dtype=dtype)
    distance = torch.cdist(points[:, sources:], points[:, :sources])
    kernel, shift = exponentiate(-distance.mT, 0.1)
    present = torch.rand(batch, sources, generator=generator) < 0.8
    present[:, 0] = True
    source = present / present.sum(dim=1, keepdim=True).to(dtype)
    anchor = torch.full((batch, anchors), 1 / anchors, dtype=dtype)
    given = kernel, shift, source, anchor
    expected = scale_kernel(*given, max_iterations=100, tolerance=tolerance)

    result = scale_kernel(*(v.cuda() for v in given), max_iterations=100, tolerance=tolerance)

    assert result.iterations.tolist() == expected.iterations.tolist()
    torch.testing.assert_close(result.source.cpu(), expected.source, rtol=1e-5, atol=0)
    torch.testing.assert_close(result.anchor.cpu(), expected.anchor, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", sorted(REDUCERS))
@pytest.mark.parametrize("retention", [0.1, 0.5])
def test_it_keeps_what_it_keeps_on_the_cpu(name, retention):
    clip = features(FRAMES, GRID, dim=32)
    make = [make_reducer(name, retention, grid=GRID, clip_frames=FRAMES) for _ in range(2)]

    [expected] = make[0].compress_clips([clip])
    [kept] = make[1].compress_clips([move(clip)])

    assert kept.tokens.is_cuda
    assert torch.equal(kept.frame.cpu(), expected.frame)
    assert torch.equal(kept.cell.cpu(), expected.cell)
    torch.testing.assert_close(kept.tokens.cpu(), expected.tokens, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(kept.mass.cpu(), expected.mass, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [896, 1000])
def test_pooling_in_one_pass_is_the_cpus(dtype, dim):
    grid = (27, 27)
    clip = features(2, grid, dim=dim, dtype=dtype)
    expected = cells.pool_batch(stack_clips([clip]), AOTConfig())
    ours = cells.pool_batch(stack_clips([move(clip)]), AOTConfig())
    torch.testing.assert_close(ours.tokens.cpu(), expected.tokens, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("width", [64, 896, 1000])
@pytest.mark.parametrize("steps", [1, 8])
def test_products_in_halves_are_as_exact_as_in_float32(width, steps):
    shared = torch.randn(width, device="cuda")
    basis = normalise(shared + torch.randn(2, 8, 196, width, device="cuda"))
    gram = multiply(basis, steps)
    exact = basis.double().flatten(1, 2) @ basis[:, -steps:].double().flatten(1, 2).mT
    for step in range(steps):
        known = slice(0, (8 - steps + step + 1) * 196)
        tokens = slice(step * 196, (step + 1) * 196)
        torch.testing.assert_close(
            gram[:, known, tokens].double(), exact[:, known, tokens], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("retention", [0.1, 0.5])
def test_the_stages_within_frames_are_the_cpus(retention):
    """Tells which stage it is, where the method keeps other tokens than on a CPU."""
    clip = features(FRAMES, GRID, dim=32)
    config = make_reducer("aot", retention, grid=GRID, clip_frames=FRAMES).config
    stages = []
    for given in (clip, move(clip)):
        anchors = choose_anchors(given.local_attention, given.global_attention, GRID, config)
        index = front_rows(anchors, anchors_in_frame(GRID, config))
        stages.append((anchors, index, merge_and_pool(given.tokens, anchors, GRID, config)))
    (anchors, index, pooled), (*found, on_card) = stages
    assert torch.equal(found[0].cpu(), anchors), "anchors"
    assert torch.equal(found[1].cpu(), index), "order of anchors"
    assert torch.equal(on_card.count.cpu(), pooled.count), "cells a frame keeps"
    rows = pooled.cell.shape[1]
    present = pooled.present
    assert torch.equal(on_card.cell.cpu()[:, :rows][present], pooled.cell[present]), "cells"
    ours = on_card.tokens.cpu()[:, :rows]
    torch.testing.assert_close(ours, pooled.tokens, rtol=1e-4, atol=1e-5)


def causal(name: str, grid: Grid) -> CausalReducer:
    made = make_reducer(name, 0.1, grid=grid, clip_frames=FRAMES)
    assert isinstance(made, CausalReducer)
    return made


def moved_batch(grid: Grid, clips: int = 2) -> FeatureBatch:
    return stack_clips([move(features(FRAMES, grid, dim=32, seed=seed)) for seed in range(clips)])


def test_a_wait_of_the_host_is_seen():
    ones = torch.ones(3, device="cuda")
    with no_waits(), pytest.raises(RuntimeError, match="synchronizing"):
        ones.tolist()


@pytest.mark.parametrize("name", CAUSAL)
def test_the_host_waits_for_nothing_in_a_push(name):
    reducer, batch = causal(name, GRID), moved_batch(GRID)
    with torch.inference_mode():
        _, state = reducer.push_batch(batch)  # kernels are compiled and tables made
        reducer.push_batch(batch, state)
        reducer.compress_batch(batch)
        with no_waits():
            opened, _ = reducer.push_batch(batch)
            further, _ = reducer.push_batch(batch, state)
            whole = reducer.compress_batch(batch)
    for packed in (opened, further, whole):
        assert packed.tokens.is_cuda
        assert packed.finite.tolist() == [True, True]


@pytest.mark.parametrize("name", CAUSAL)
def test_a_graph_of_a_push_gives_what_the_push_gives(name):
    reducer, batch, other = causal(name, GRID), moved_batch(GRID), moved_batch(GRID)
    with torch.inference_mode():
        other.tokens.copy_(moved_batch(GRID, 4).tokens[2:])
        expected = unpack(reducer.compress_batch(other))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                reducer.compress_batch(batch)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            packed = reducer.compress_batch(batch)
        batch.tokens.copy_(other.tokens)
        graph.replay()
        for ours, theirs in zip(unpack(packed), expected, strict=True):
            assert torch.equal(ours.cell, theirs.cell)
            assert torch.equal(ours.frame, theirs.frame)
            torch.testing.assert_close(ours.tokens, theirs.tokens)


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "plain"])
@pytest.mark.parametrize("cuts", [(8,), (1, 3, 8)], ids=str)
@pytest.mark.parametrize("memory", [8, 2])
def test_the_adaptive_scan_keeps_what_it_keeps_on_the_cpu(monkeypatch, kernels, cuts, memory):
    grid = (27, 27)
    reducer = make_reducer("adaptive", 0.1, grid=grid, clip_frames=FRAMES, memory=memory)
    assert isinstance(reducer, CausalReducer)
    clips = [features(FRAMES, grid, dim=64, seed=seed, change=1.0) for seed in range(3)]
    expected = reducer.compress_clips(clips)
    if not kernels:
        monkeypatch.setattr(adaptive, "fits_kernels", lambda frames: False)

    state, parts, start = None, [], 0
    for end in cuts:
        batch = stack_clips([move(part(clip, start, end)) for clip in clips])
        packed, state = reducer.push_batch(batch, state)
        parts, start = [*parts, unpack(packed)], end
    ends = unpack(reducer.finish_batch(state))

    for wanted, *pieces in zip(expected, *parts, ends, strict=True):
        kept = concatenate(pieces)
        assert torch.equal(kept.frame.cpu(), wanted.frame)
        assert torch.equal(kept.cell.cpu(), wanted.cell)
        assert torch.equal(kept.mass.cpu(), wanted.mass)
        torch.testing.assert_close(kept.tokens.cpu(), wanted.tokens, rtol=1e-4, atol=1e-4)
