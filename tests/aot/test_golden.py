"""Parity with outputs recorded from the reference (a small part of them is kept in the tests)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aot import (
    AOTConfig,
    ClipCompressor,
    FrameFeatures,
    FrameTokens,
    concatenate,
    merge_across_frames,
    merge_within_frame,
    pool_grid,
    pool_mask,
    select_anchors,
    sinkhorn,
)

HERE = Path(__file__).parent / "golden"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "golden"
FOLDER = SHARED if SHARED.is_dir() else HERE
INDEX = json.loads((FOLDER / "index.json").read_text())["files"]
GRID = (27, 27)


def cases(kind: str) -> list[str]:
    """Names of one kind of recording that are there; the rest comes with the shared folder."""
    return sorted(
        name for name, entry in INDEX.items() if entry["kind"] == kind and (FOLDER / name).exists()
    )


def load(name: str) -> tuple[dict[str, torch.Tensor], dict]:
    """Arrays as tensors (half precision widened, masks as bool), and the parameters."""
    arrays = {}
    for key, values in np.load(FOLDER / name).items():
        tensor = torch.from_numpy(values)
        arrays[key] = tensor.float() if tensor.dtype == torch.float16 else tensor
        if "mask" in key or key == "keep":
            arrays[key] = tensor.bool()
    return arrays, INDEX[name]["params"]


def config_of(params: dict, **extra) -> AOTConfig:
    return AOTConfig(
        anchors_per_frame=params["VISUAL_TOKEN_NUM"],
        global_fraction=params.get("GLOBAL_RATIO", 0.5),
        **extra,
    )


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", cases("select"))
def test_selection(name):
    arrays, params = load(name)
    shallow, deep = arrays["attn_layer5"].mean(dim=1), arrays["attn_layer_m2"].mean(dim=1)
    mask = select_anchors(shallow, deep, GRID, config_of(params))
    assert torch.equal(mask, arrays["index_mask"])
    assert int(mask[0].sum()) == params["selected_per_frame"]


@pytest.mark.parametrize("name", cases("select_ties"))
def test_selection_with_ties_takes_the_same_values(name):
    arrays, params = load(name)
    shallow, deep = arrays["attn_layer5"][:, 0], arrays["attn_layer_m2"][:, 0]
    config = config_of(params)
    local = select_anchors(shallow, torch.zeros_like(deep), GRID, config)
    assert torch.equal(
        select_anchors(shallow, deep, GRID, config).sum(dim=1), arrays["index_mask"].sum(dim=1)
    )
    for frame in range(2):
        chosen = shallow[frame][arrays["local_indices"][frame].long()]
        for window in range(9):
            row, column = divmod(window, 3)
            block = torch.zeros(GRID, dtype=torch.bool)
            block[row * 9 : row * 9 + 9, column * 9 : column * 9 + 9] = True
            ours = shallow[frame][only_local(local[frame], shallow[frame], block.flatten(), 7)]
            assert torch.equal(
                ours.sort().values, chosen[window * 7 : window * 7 + 7].sort().values
            )


def only_local(mask, attention, block, count):
    """The `count` best marked cells of a block (global anchors may lie in it too)."""
    inside = (mask & block).nonzero()[:, 0]
    return inside[attention[inside].argsort(descending=True)[:count]]


@pytest.mark.parametrize("name", cases("intra") + cases("intra_f64"))
def test_within_frame(name):
    arrays, params = load(name)
    expected = arrays.get("merged_frame_by_frame", arrays["merged"])
    tokens = arrays["features"].to(expected.dtype)
    anchors = arrays["index_mask"]
    merged = merge_within_frame(tokens, anchors, GRID, config_of(params))
    assert_close(merged[anchors].view_as(expected), expected)
    assert torch.equal(merged[~anchors], tokens[~anchors])


@pytest.mark.parametrize("name", cases("pool"))
def test_pooling(name):
    arrays, params = load(name)
    assert_close(pool_grid(arrays["features"], GRID, params["mode"]), arrays["pooled"])
    mask = pool_mask(arrays["index_mask"], GRID, params["mode"])
    assert torch.equal(mask, arrays["pooled_mask"])


@pytest.mark.parametrize("name", cases("poolmask"))
def test_mask_pooling(name):
    arrays, params = load(name)
    mask = pool_mask(arrays["index_mask"], GRID, params["mode"])
    assert torch.equal(mask, arrays["pooled_mask"])


@pytest.mark.parametrize("name", cases("sinkhorn"))
def test_sinkhorn_after_a_number_of_iterations(name):
    arrays, params = load(name)
    plans = {key: value for key, value in arrays.items() if key.startswith("plan_max_iter_")}
    assert plans
    for key, expected in plans.items():
        # The reference stops a whole batch at once: replay the iterations it really did.
        done = params["iters_done"][key.removeprefix("plan_max_iter_")]
        result = sinkhorn(arrays["cost"], max_iterations=done, tolerance=0.0)
        assert result.iterations.tolist() == [done] * len(expected)
        assert_close(result.plan, expected)


def test_sinkhorn_stops_by_itself_as_the_reference_does_for_one_element():
    arrays, params = load("sinkhorn_1x40x12_off0.npz")
    result = sinkhorn(arrays["cost"])
    assert result.iterations.tolist() == [params["iters_done"]["100"]]
    assert_close(result.plan, arrays["plan_max_iter_100"])


@pytest.mark.parametrize("name", cases("inter") + cases("inter_f64"))
def test_across_frames(name):
    arrays, params = load(name)
    exact = name.endswith("f64.npz")
    tokens = arrays["tokens"].double() if exact else arrays["tokens"]
    frames = [
        FrameTokens(rows, torch.arange(len(rows)), torch.ones(len(rows), dtype=rows.dtype))
        for rows in tokens.split(params["counts"])
    ]
    config = AOTConfig(distinct_fraction=params["keep_ratio"], temporal_scale=params["scaling"])
    clip = merge_across_frames(frames, config)
    expected = emitted_of(arrays, tokens, params["counts"]) if exact else arrays["emitted"]
    assert_close(clip.tokens, expected)


def emitted_of(arrays, tokens, counts):
    first = tokens[: counts[0]]
    return torch.cat([first, tokens[counts[0] :][arrays["keep"]], arrays["anchors_after"][-1]])


@pytest.mark.parametrize("name", cases("full"))
def test_whole_reduction(name):
    arrays, params = load(name)
    config = config_of(
        params,
        pooling=params["pool"],
        distinct_fraction=params["KEEP_RATIO"],
        temporal_scale=params["scale"],
        merge_frames=params["inter_compress"],
    )
    tokens = project(arrays)
    shallow, deep = arrays["attn_layer5"].mean(dim=1), arrays["attn_layer_m2"].mean(dim=1)
    anchors = select_anchors(shallow, deep, GRID, config)
    assert torch.equal(anchors, arrays["index_mask"])
    assert torch.equal(pool_mask(anchors, GRID, config.pooling), arrays["pooled_mask"])
    if "newline" in arrays:
        sequence = with_newlines(tokens, anchors, arrays, params, config)
    else:
        clips = [
            FrameFeatures(rows, a, b, GRID)
            for rows, a, b in zip(
                *(x.split(params["segments"]) for x in (tokens, shallow, deep)), strict=True
            )
        ]
        sequence = concatenate(ClipCompressor(config).compress_clips(clips)).tokens
    assert len(sequence) == params["final_tokens"]
    assert_close(sequence, arrays["sequence"])


def project(arrays):
    if "proj_w1" not in arrays:
        return arrays["features"]
    hidden = torch.nn.functional.linear(arrays["features"], arrays["proj_w1"], arrays["proj_b1"])
    hidden = torch.nn.functional.gelu(hidden)
    return torch.nn.functional.linear(hidden, arrays["proj_w2"], arrays["proj_b2"])


def with_newlines(tokens, anchors, arrays, params, config):
    """LLaVA-Video's grid mode: every pooled row ends in a newline, which is always kept."""
    merged = merge_within_frame(tokens, anchors, GRID, config)
    pooled = pool_grid(merged, GRID, config.pooling).unflatten(1, (13, 13))
    kept = pool_mask(anchors, GRID, config.pooling).unflatten(1, (13, 13))
    newline = arrays["newline"].expand(*pooled.shape[:2], 1, -1)
    slots = torch.cat([pooled, newline], dim=2).flatten(1, 2)
    kept = torch.nn.functional.pad(kept, (0, 1), value=True).flatten(1)
    frames = [
        FrameTokens(rows[mask], mask.nonzero()[:, 0], torch.ones(int(mask.sum())))
        for rows, mask in zip(slots, kept, strict=True)
    ]
    clips, start = [], 0
    for length in params["segments"]:
        clips.append(merge_across_frames(frames[start : start + length], config))
        start += length
    return torch.cat([clip.tokens for clip in clips])
