"""The whole method by loops over frames, tokens and anchors: slow, plain, and written to be read.

Nothing of `aot`'s maths is used, so that this is an oracle for it (method sections 2 to 6). All
values are float64 or Python numbers; a clip comes out as a list of tokens in reading order.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from aot import AOTConfig, FrameFeatures, Grid


@dataclass
class Token:
    values: Tensor
    frame: int
    cell: int
    kind: str


def compress_clip(features: FrameFeatures, config: AOTConfig) -> list[Token]:
    frames = []
    for step in range(features.tokens.shape[0]):
        tokens = features.tokens[step].double()
        chosen = select_anchors(
            features.local_attention[step], features.global_attention[step], features.grid, config
        )
        merged = merge_within_frame(tokens, chosen, features.grid, config)
        frames.append(pool(merged, chosen, features.grid, config))
    return merge_across_frames(frames, config)


def select_anchors(local: Tensor, deep: Tensor, grid: Grid, config: AOTConfig) -> list[int]:
    rows, columns = grid
    if config.anchors_per_frame in (None, rows * columns):
        return list(range(rows * columns))
    num_local = int(config.anchors_per_frame * (1 - config.global_fraction))
    windows = [
        [r * columns + c for r in range(top, min(top + config.window, rows))
         for c in range(left, min(left + config.window, columns))]
        for top in range(0, rows, config.window)
        for left in range(0, columns, config.window)
    ]  # fmt: skip
    chosen = set()
    for window in windows:
        chosen |= set(highest(local, window, num_local // len(windows)))
    rest = [index for index in range(rows * columns) if index not in chosen]
    chosen |= set(highest(deep, rest, config.anchors_per_frame - num_local))
    return sorted(chosen)


def highest(values: Tensor, among: list[int], count: int) -> list[int]:
    return sorted(among, key=lambda index: (-float(values[index]), index))[:count]


def cosine(a: Tensor, b: Tensor, floor: float) -> float:
    return float(a @ b) / (max(float(a.norm()), floor) * max(float(b.norm()), floor))


def transport(cost: list[list[float]], config: AOTConfig) -> list[list[float]]:
    sources, anchors = len(cost), len(cost[0])
    kernel = [[math.exp(-value / config.epsilon) for value in row] for row in cost]
    r, c = [1.0] * sources, [1.0] * anchors
    for _ in range(config.max_iterations):
        before = r
        r = [1 / sources / sum(k * x for k, x in zip(row, c, strict=True)) for row in kernel]
        c = [1 / anchors / sum(kernel[i][j] * r[i] for i in range(sources)) for j in range(anchors)]
        change = sum(abs(new - old) for new, old in zip(r, before, strict=True)) / sources
        if change < config.tolerance:
            break
    return [[r[i] * kernel[i][j] * c[j] for j in range(anchors)] for i in range(sources)]


def merge_within_frame(
    tokens: Tensor, chosen: list[int], grid: Grid, config: AOTConfig
) -> list[Tensor]:
    merged = list(tokens)
    others = [index for index in range(len(tokens)) if index not in set(chosen)]
    if not others:
        return merged

    def distance(a: int, b: int) -> float:
        (r1, c1), (r2, c2) = divmod(a, grid[1]), divmod(b, grid[1])
        return math.hypot((r1 - r2) / max(grid[0] - 1, 1), (c1 - c2) / max(grid[1] - 1, 1))

    alike = [[cosine(tokens[i], tokens[j], 1e-8) for j in chosen] for i in others]
    cost = [
        [1 - s + config.position_weight * distance(i, j) for s, j in zip(row, chosen, strict=True)]
        for row, i in zip(alike, others, strict=True)
    ]
    plan = transport(cost, config)
    nearest = [row.index(max(row)) for row in alike]
    for position, j in enumerate(chosen):
        moved, load = tokens[j].clone(), 0.0
        summed, count = tokens[j].clone(), 0
        for row, i in enumerate(others):
            moved += config.spatial_scale * plan[row][position] * tokens[i]
            load += plan[row][position]
            if nearest[row] == position:
                summed, count = summed + tokens[i], count + 1
        transported = moved / (1 + config.spatial_scale * load)
        averaged = summed / (1 + count)
        merged[j] = config.nearest_blend * averaged + (1 - config.nearest_blend) * transported
    return merged


def pool(
    merged: list[Tensor], chosen: list[int], grid: Grid, config: AOTConfig
) -> list[tuple[int, Tensor]]:
    """Kept cells of a frame, by the rule of each pooling, written out tap by tap."""
    kept = []
    for cell, taps in enumerate(taps_of(grid, config)):
        marked = sum(weight for index, weight in taps if index in set(chosen))
        if marked >= config.pool_threshold - 1e-12:
            kept.append((cell, sum((weight * merged[index] for index, weight in taps), 0.0)))
    return kept


def taps_of(grid: Grid, config: AOTConfig) -> list[list[tuple[int, float]]]:
    axes = [axis_taps(size, config) for size in grid]
    return [
        [(r * grid[1] + c, a * b) for r, a in down for c, b in across]
        for down in axes[0]
        for across in axes[1]
    ]


def axis_taps(size: int, config: AOTConfig) -> list[list[tuple[int, float]]]:
    stride = config.pool_stride
    if config.pooling == "none":
        return [[(index, 1.0)] for index in range(size)]
    if config.pooling == "average":
        return [
            [(start * stride + step, 1 / stride) for step in range(stride)]
            for start in range(size // stride)
        ]
    samples = math.ceil(size / stride)
    taps = []
    for sample in range(samples):
        centre = max((sample + 0.5) * size / samples - 0.5, 0.0)
        low = int(centre)
        high, fraction = min(low + 1, size - 1), centre - low
        taps.append([(low, 1 - fraction), (high, fraction)])
    return taps


def merge_across_frames(frames: list[list[tuple[int, Tensor]]], config: AOTConfig) -> list[Token]:
    first = next((step for step, frame in enumerate(frames) if frame), None)
    if first is None:
        return []
    out = [Token(values, first, cell, "KEYFRAME") for cell, values in frames[first]]
    anchors = [values for _, values in frames[first]]
    for step in range(first + 1, len(frames)):
        if not frames[step]:
            continue
        share = shares([values for _, values in frames[step]], anchors, step - first, config)
        best = [max(row) for row in share]
        quantile = float(torch.tensor(best, dtype=torch.float64).quantile(config.distinct_fraction))
        keep = [value < quantile * (1 - 1e-9) for value in best]
        out += [
            Token(values, step, cell, "DISTINCT")
            for (cell, values), kept in zip(frames[step], keep, strict=True)
            if kept
        ]
        for j in range(len(anchors)):
            total, load = anchors[j].clone(), 0.0
            for i, (_, values) in enumerate(frames[step]):
                if not keep[i]:
                    total += config.temporal_scale * share[i][j] * values
                    load += share[i][j]
            anchors[j] = total / (1 + config.temporal_scale * load)
    if first + 1 < len(frames):
        cells = [cell for cell, _ in frames[first]]
        out += [Token(values, first, cell, "MERGED")
                for cell, values in zip(cells, anchors, strict=True)]  # fmt: skip
    return out


def shares(
    tokens: list[Tensor], anchors: list[Tensor], distance: int, config: AOTConfig
) -> list[list[float]]:
    limit = 1 - 1e-6
    cost = [[1 - min(max(cosine(x, y, 1e-12), -limit), limit) for y in anchors] for x in tokens]
    least = min(min(row) for row in cost)
    time_cost = 1 - math.exp(-(distance**2) / (2 * config.time_sigma**2 + 1e-9))
    plan = transport([[(value - least) * time_cost for value in row] for row in cost], config)
    return [[value / max(sum(row), 1e-9) for value in row] for row in plan]
