"""Draws a scene at given times: pixels, and which item each pixel shows.

In: a `Scene` and times in seconds. Out: `Rendered`, uint8 RGB frames with an item map of the same
size. Everything that makes a scene hard is drawn here from the scene's seed: textured background
with coloured decoys, leaves, passers-by, poles in front, camera shake, light change, flicker,
sensor noise; for slides themes, small text, charts, a presenter and a cursor. None of it enters
the item map. Any size works: 112 pixels for the model, more for people.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int16, UInt8
from PIL import Image, ImageDraw, ImageFont

from demo.world.scenes import COLOURS, Item, Scene

_PAD = 0.04
"""Margin drawn around the frame, so that a shaken camera still sees background."""
_WORDS = [
    "data",
    "model",
    "video",
    "token",
    "frame",
    "scene",
    "light",
    "store",
    "query",
    "index",
    "graph",
    "layer",
    "index",
    "time",
]


@dataclass(frozen=True)
class Rendered:
    """Frames of a scene with their ground truth."""

    pixels: UInt8[np.ndarray, "t h w 3"]
    items: Int16[np.ndarray, "t h w"]
    """Index into `scene.items` of what a pixel shows, -1 for background and distractors."""
    visible: Float[np.ndarray, "t items"]
    """Share of an item's own area that shows; 0 where it is absent."""


def render(scene: Scene, times_s: Float[np.ndarray, " t"], size: int = 112) -> Rendered:
    """Draw the scene at `times_s`, `size` by `size` pixels."""
    stage = _stage(scene.kind, scene.seed, size)
    frames = [_draw_frame(scene, stage, float(t), size) for t in times_s]
    pixels, items, visible = (np.stack(column) for column in zip(*frames, strict=True))
    return Rendered(pixels, items, visible)


@dataclass(frozen=True)
class _Stage:
    """What stays the same through a scene; colours are 0 to 255, lengths fractions."""

    background: Float[np.ndarray, "padded padded 3"]
    shake: tuple[float, float, float]
    """Amplitude, and two phases."""
    gain: tuple[float, float, float, float]
    """Slow amplitude, its phase, flicker amplitude, and the second a lamp switches."""
    step: float
    noise: float
    leaves: Float[np.ndarray, "leaves 6"]
    """x, y, radius, sway, phase, grey level."""
    passers: Float[np.ndarray, "passers 5"]
    """y, height, speed in frames per second, phase, grey level."""
    poles: Float[np.ndarray, "poles 3"]
    """x, width, grey level."""
    screen: tuple[float, float, float] | None
    """A flickering monitor: x, y, size."""
    presenter: tuple[float, float] | None
    """A lecture's inset: x, y of its centre."""
    ink: float
    seed: int


@lru_cache(maxsize=4)
def _stage(kind: str, seed: int, size: int) -> _Stage:
    rng = np.random.default_rng([seed, 7, kind == "lecture"])
    lecture = kind == "lecture"
    padded = size + 2 * round(_PAD * size)
    dark = rng.random() < 0.3
    background = (_draw_theme if lecture else _draw_place)(rng, padded, dark)
    calm = 0.25 if lecture else 1.0
    shaky = rng.random() < 0.5
    leaves = 0 if lecture or rng.random() < 0.3 else int(rng.integers(5, 16))
    bush = rng.uniform(0.1, 0.9, 2)
    return _Stage(
        background=background,
        shake=(calm * (rng.uniform(0.008, 0.025) if shaky else 0.002), *rng.uniform(0, 6.28, 2)),
        gain=(
            calm * rng.uniform(0.02, 0.2), rng.uniform(0, 6.28),
            calm * rng.uniform(0.0, 0.06), rng.uniform(0.5, 30.0),
        ),
        step=calm * rng.uniform(-0.25, 0.2) if rng.random() < 0.4 else 0.0,
        noise=rng.uniform(2, 7),
        leaves=np.stack(
            [
                np.clip(bush[0] + rng.normal(0, 0.12, leaves), 0, 1),
                np.clip(bush[1] + rng.normal(0, 0.12, leaves), 0, 1),
                rng.uniform(0.015, 0.04, leaves), rng.uniform(0.01, 0.035, leaves),
                rng.uniform(0, 6.28, leaves), rng.uniform(40, 110, leaves),
            ],
            axis=1,
        ),
        passers=np.stack([
            rng.uniform(0.3, 0.9, 2), rng.uniform(0.1, 0.22, 2),
            rng.choice([-1, 1], 2) * rng.uniform(0.05, 0.3, 2), rng.uniform(0, 1.4, 2),
            rng.uniform(30, 130, 2),
        ], axis=1)[: 0 if lecture else int(rng.integers(0, 3))],
        poles=np.stack([rng.uniform(0.1, 0.9, 2), rng.uniform(0.03, 0.07, 2),
                        rng.uniform(30, 150, 2)], axis=1)[: 0 if lecture else rng.integers(0, 3)],
        screen=None if lecture or rng.random() < 0.6
        else (rng.uniform(0.05, 0.8), rng.uniform(0.05, 0.8), rng.uniform(0.08, 0.16)),
        presenter=(0.9, 0.88) if lecture and rng.random() < 0.6 else None,
        ink=(rng.uniform(190, 250) if dark else rng.uniform(10, 60)),
        seed=seed,
    )  # fmt: skip


def _draw_place(rng: np.random.Generator, size: int, dark: bool) -> np.ndarray:
    """Dull ground and wall with texture, blocks, and a poster of coloured stripes."""
    level = rng.uniform(45, 80) if dark else rng.uniform(85, 150)
    tint = rng.uniform(-14, 14, 3)
    image = np.full((size, size, 3), level, np.float32) + tint.astype(np.float32)
    image[: int(rng.uniform(0.1, 0.5) * size)] += rng.uniform(-30, 30)
    for cells, amount in ((5, 14), (28, 12)):
        image += amount * _smooth_noise(rng, cells, size)[..., None]
    for _ in range(rng.integers(1, 5)):
        x, y, w, h = (rng.uniform(0, 1, 4) * (0.9, 0.9, 0.35, 0.3) * size).astype(int)
        image[y : y + h + 2, x : x + w + 2] += rng.uniform(-35, 35) + rng.uniform(-8, 8, 3)
    if rng.random() < 0.6:
        _add_poster(rng, image)
    return image


def _add_poster(rng: np.random.Generator, image: np.ndarray) -> None:
    """A still, vivid decoy without a shape of its own: colour alone must not give the answer."""
    size = image.shape[0]
    x, y = (rng.uniform(0.05, 0.8, 2) * size).astype(int)
    w, h = (rng.uniform(0.07, 0.16, 2) * size).astype(int)
    first, second = rng.choice(list(COLOURS), 2, replace=False)
    stripes = (np.arange(h)[:, None, None] // max(size // 50, 1)) % 2
    paint = np.where(stripes, np.array(COLOURS[first]), np.array(COLOURS[second]))
    patch = image[y : y + h, x : x + w]
    patch += 0.6 * (paint[: patch.shape[0]] - patch)


def _draw_theme(rng: np.random.Generator, size: int, dark: bool) -> np.ndarray:
    """The plain slide: paper, a stripe in a palette colour, a hint of vignette."""
    level = rng.uniform(25, 70) if dark else rng.uniform(175, 240)
    image = np.full((size, size, 3), level, np.float32) + rng.uniform(-12, 12, 3).astype("f4")
    image += 5 * _smooth_noise(rng, 3, size)[..., None]
    accent = np.array(COLOURS[str(rng.choice(list(COLOURS)))])
    edge = int((_PAD + rng.uniform(0.02, 0.05)) * size)
    stripe = image[:edge] if rng.random() < 0.5 else image[:, :edge]
    stripe += 0.5 * (accent - stripe)
    return image


def _smooth_noise(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    small = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))


def _draw_frame(
    scene: Scene, stage: _Stage, time_s: float, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    dx, dy = _shake(stage, time_s)
    pad = round(_PAD * size)
    ox, oy = round(dx * size), round(dy * size)
    image = stage.background[pad - oy : pad - oy + size, pad - ox : pad - ox + size].copy()
    items = np.full((size, size), -1, np.int16)
    area = np.zeros(len(scene.items))
    if scene.kind == "surveillance":
        _add_distractors(stage, image, time_s, (dx, dy))
    present = [k for k, i in enumerate(scene.items) if i.start_s <= time_s < i.end_s]
    if scene.kind == "lecture" and present:
        _add_small_print(scene, stage, image, scene.items[present[0]].slide)
    for k in present:
        area[k] = _add_item(image, items, scene.items[k], k, time_s, (dx, dy), stage.ink)
    for x, width, grey in stage.poles:
        left, right = int((x + dx) * size), int((x + dx + width) * size) + 1
        image[:, max(left, 0) : right] = grey
        items[:, max(left, 0) : right] = -1
    if scene.kind == "lecture":
        _add_presenter(stage, image, items, time_s)
    visible = np.zeros(len(scene.items))
    for k in present:
        visible[k] = min((items == k).sum() / max(area[k], 1.0), 1.0)
    return _expose(stage, image, time_s), items, visible


def _shake(stage: _Stage, time_s: float) -> tuple[float, float]:
    amount, a, b = stage.shake
    x = amount * (0.6 * np.sin(5.1 * time_s + a) + 0.4 * np.sin(13.7 * time_s + b))
    y = amount * (0.6 * np.sin(6.3 * time_s + b) + 0.4 * np.sin(11.9 * time_s + a))
    return float(x), float(y)


def _expose(stage: _Stage, image: np.ndarray, time_s: float) -> np.ndarray:
    """Light change, flicker and sensor noise, then 8 bits."""
    slow, phase, flicker, switch_s = stage.gain
    gain = 1 + slow * np.sin(0.6 * time_s + phase) + flicker * np.sin(23.3 * time_s + phase)
    gain += stage.step * (time_s % 60.0 > switch_s)
    rng = np.random.default_rng([stage.seed, round(time_s * 1000) + 1_000_000])
    grain = rng.integers(-127, 128, image.shape[:2], dtype=np.int8).astype(np.float32)
    image = image * np.float32(gain) + (grain * np.float32(stage.noise / 73.0))[..., None]
    return np.clip(image, 0, 255).astype(np.uint8)


def _box(size: int, x: float, y: float, rx: float, ry: float) -> tuple[slice, slice]:
    top, left = int((y - ry) * size) - 1, int((x - rx) * size) - 1
    bottom, right = int((y + ry) * size) + 3, int((x + rx) * size) + 3
    return slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))


def _local(size: int, box: tuple[slice, slice], x: float, y: float, rx: float, ry: float):
    """Coordinates within a box where the shape's own extent is -1 to 1."""
    rows = np.arange(size)[box[0], None]
    columns = np.arange(size)[None, box[1]]
    return (columns + 0.5 - x * size) / (rx * size), (rows + 0.5 - y * size) / (ry * size)


def _blend(image: np.ndarray, box: tuple[slice, slice], alpha: np.ndarray, paint) -> None:
    patch = image[box]
    patch += alpha[..., None].astype(np.float32) * (np.asarray(paint, np.float32) - patch)


def _add_ellipse(image: np.ndarray, x: float, y: float, rx: float, ry: float, paint) -> None:
    size = image.shape[0]
    box = _box(size, x, y, rx, ry)
    u, v = _local(size, box, x, y, rx, ry)
    alpha = np.clip(0.5 - (np.sqrt(u * u + v * v) - 1) * min(rx, ry) * size, 0, 1)
    _blend(image, box, alpha, paint)


def _add_distractors(
    stage: _Stage, image: np.ndarray, time_s: float, offset: tuple[float, float]
) -> None:
    dx, dy = offset
    for x, y, radius, sway, phase, grey in stage.leaves:
        sx = x + dx + sway * np.sin(4.4 * time_s + phase)
        sy = y + dy + sway * np.cos(3.1 * time_s + 2 * phase)
        _add_ellipse(image, sx, sy, radius, 0.6 * radius, (0.7 * grey, grey, 0.5 * grey))
    for y, height, speed, phase, grey in stage.passers:
        x = (phase + speed * time_s) % 1.6 - 0.3
        _add_ellipse(image, x, y + dy, 0.35 * height, height, (grey, 0.95 * grey, 0.9 * grey))
    if stage.screen is not None:
        x, y, side = stage.screen
        size = image.shape[0]
        level = 90 + 60 * np.sin(17.0 * time_s + 3 * x) * np.sin(7.1 * time_s)
        top, left, edge = int((y + dy) * size), int((x + dx) * size), int(side * size)
        rows = level * (0.75 + 0.25 * (np.arange(size) // max(size // 56, 1) % 2))
        area = slice(max(top, 0), max(top + edge, 0))
        image[area, max(left, 0) : max(left + edge, 0)] = rows[area, None, None]


def _add_item(
    image: np.ndarray, items: np.ndarray, item: Item, index: int, time_s: float,
    offset: tuple[float, float], ink: float,
) -> float:  # fmt: skip
    """Draw the item and return its whole area in pixels."""
    size = image.shape[0]
    x, y = item.position(time_s)
    x, y, radius = x + offset[0], y + offset[1], item.radius
    box = _box(size, x, y, radius, radius)
    if item.letter is not None:
        alpha, paint = _letter_alpha(item.letter, size, box, x, y), (ink, ink, ink)
    else:
        u, v = _local(size, box, x, y, radius, radius)
        distance = _signed_distance(item.shape, u, v)
        alpha = np.clip(0.5 - distance * radius * size, 0, 1)
        # A darker rim keeps white on paper and low contrast readable, as real edges do.
        rim = np.clip(1 + (distance + 0.1) / 0.12, 0.0, 1.0)[..., None]
        paint = np.array(COLOURS[item.colour or "white"]) * (1 - 0.45 * rim)
    _blend(image, box, item.contrast * alpha, paint)
    shown: Bool[np.ndarray, "h w"] = alpha > 0.5
    items[box][shown] = index
    return float(shown.sum())


def _signed_distance(shape: str | None, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """About the distance to the outline in radii, negative inside."""
    if shape == "circle":
        return np.sqrt(u * u + v * v) - 0.95
    if shape == "square":
        return np.maximum(abs(u), abs(v)) - 0.85
    if shape == "triangle":
        return np.maximum(v - 0.8, (1.8 * abs(u) - 0.95 * (v + 1)) / 2.04)
    wide, tall = np.maximum(abs(u) - 1, abs(v) - 0.34), np.maximum(abs(u) - 0.34, abs(v) - 1)
    return np.minimum(wide, tall)


@lru_cache(maxsize=256)
def _glyph(letter: str, height: int) -> np.ndarray:
    """Alpha of a letter centred in a square of `height` pixels."""
    canvas = Image.new("L", (height, height))
    font = ImageFont.load_default(size=1.1 * height)
    ImageDraw.Draw(canvas).text(
        (height / 2, height / 2), letter, font=font, fill=255, anchor="mm",
        stroke_width=round(0.04 * height),
    )  # fmt: skip
    return np.asarray(canvas, np.float32) / 255


def _letter_alpha(
    letter: str, size: int, box: tuple[slice, slice], x: float, y: float
) -> np.ndarray:
    height = round(0.2 * size)
    glyph = _glyph(letter, height)
    whole = np.zeros((size, size), np.float32)
    top, left = round(y * size - height / 2), round(x * size - height / 2)
    top, left = max(top, 0), max(left, 0)
    target = whole[top : top + height, left : left + height]
    target[:] = glyph[: target.shape[0], : target.shape[1]]
    return whole[box]


def _add_small_print(scene: Scene, stage: _Stage, image: np.ndarray, slide: int) -> None:
    alpha = _small_print(scene.seed, slide, image.shape[0])
    _blend(image, (slice(None), slice(None)), 0.55 * alpha, (stage.ink,) * 3)


@lru_cache(maxsize=16)
def _small_print(seed: int, slide: int, size: int) -> np.ndarray:
    """Alpha of a slide's text lines and chart: content nobody asks about."""
    rng = np.random.default_rng([seed, slide, 11])
    canvas = Image.new("L", (size, size))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=max(0.052 * size, 4))
    x = rng.uniform(0.08, 0.5)
    for row in range(rng.integers(2, 6)):
        words = " ".join(rng.choice(_WORDS, rng.integers(1, 4)))
        draw.text((x * size, (0.36 + 0.09 * row) * size), words, font=font, fill=190)
    if rng.random() < 0.5:
        left, base = rng.uniform(0.5, 0.75), rng.uniform(0.5, 0.92)
        for bar in range(4):
            height = rng.uniform(0.04, 0.2)
            start = left + 0.05 * bar
            corners = [c * size for c in (start, base - height, start + 0.03, base)]
            draw.rectangle(corners, fill=130)
    return np.asarray(canvas, np.float32) / 255


def _add_presenter(stage: _Stage, image: np.ndarray, items: np.ndarray, time_s: float) -> None:
    if stage.presenter is not None:
        x, y = stage.presenter
        size = image.shape[0]
        box = (slice(int((y - 0.13) * size), size), slice(int((x - 0.1) * size), size))
        image[box] = (70, 72, 80)
        items[box] = -1
        sway = 0.015 * np.sin(2.3 * time_s + stage.seed)
        _add_ellipse(image, x + sway, y + 0.1, 0.07, 0.08, (60, 50, 90))
        _add_ellipse(image, x + sway, y - 0.03 + 0.4 * sway, 0.04, 0.055, (190, 150, 125))
    cursor = 0.5 + 0.35 * np.sin(0.9 * time_s + stage.seed % 7), 0.6 + 0.25 * np.sin(1.3 * time_s)
    _add_ellipse(image, *cursor, 0.014, 0.014, (150, 60, 60))
