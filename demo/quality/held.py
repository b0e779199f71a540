"""Whether holding still frames changes answers: `python -m demo.quality.held`.

Generated cameras in which something happens half of the time (`quiet`), or on which things come to
stay and others pass now and then (`staying`), as H.264 with a keyframe a second, come in by the
live session, into a store: every frame encoded, and still ones held (`live.hold_still`). The same
questions are then asked of both, by the product's own way of asking, about stretches of eight
seconds. What is counted is which answers differ.

Holding moves no clip's boundaries: a stretch in which nothing was held is read from the same
tokens, and how many those are is told. Every frame comes in a third time, with clips that begin
three seconds later: what differs there differs by where clips begin, and by nothing else.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from aot.types import TOKEN_COLUMNS
from bench.camera import encode_units, iter_units
from bench.folders import own_folder, store_url
from demo.quality.held_footage import FOOTAGE, Footage
from demo.world.questions import SEEN, UNSEEN, Question, ask, open_window
from demo.world.render import render
from demo.world.scenes import BLOCK_S, Scene
from demo.world.video import iter_frames
from pipeline import Pipeline
from pipeline.ingest.job import IngestJob
from pipeline.ingest.live_session import live_sink
from pipeline.ingest.request import IngestRequest
from workers.decode.frame import resize
from workers.decode.live import Pace, Picture
from workers.live.push import InlinePusher
from workers.live.session import LiveProgress, run_live_session
from workers.live.settings import LiveSettings
from workers.live.source import SourceTally
from workers.live.stillness import StillnessGate, StillnessRule
from workers.types import PixelFormat, VideoSource

MODEL = Path(__file__).parents[1] / "weights"
FPS, SIZE = 5, 448
MIDNIGHT_S = 1_700_006_400.0
"""Unix time at which every stream begins, so that time marks count from 0."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Way:
    """How frames come in."""

    rule: StillnessRule | None = None
    cut_s: int = 0
    """Where a first clip ends early."""


WAYS = {"encoded": Way(), "moved": Way(cut_s=3), "held": Way(StillnessRule())}


@dataclass(frozen=True)
class Difference:
    """A question whose answers differ."""

    seed: int
    start_s: float
    kind: str
    text: str
    truth: str
    encoded: str
    moved: str
    held: str
    """Answers, by the way the frames came in."""


@dataclass
class Tally:
    """What came of all scenes."""

    frames: int = 0
    encoded: int = 0
    """Of the streams that hold."""
    wrongly_held: int = 0
    """Frames that show other things than the last one that was encoded."""
    stretches: int = 0
    same: int = 0
    """Of them, those of which the streams that hold and that do not have the same tokens."""
    questions: int = 0
    right: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WAYS, 0))
    """Answers that are true, by way."""
    differences: list[Difference] = field(default_factory=list)

    def count(self, way: str, *, lost: bool = False) -> int:
        """Answers that differ from those where every frame was encoded, or true ones among them."""
        changed = [d for d in self.differences if getattr(d, way) != d.encoded]
        return sum(d.encoded == d.truth for d in changed) if lost else len(changed)


class Script:
    """Pictures that are there, as a source that ends."""

    tally = SourceTally(connections=1)

    def __init__(self, pictures: list[np.ndarray], cut_s: int) -> None:
        self._pictures, self._cut_s = pictures, cut_s

    def set_pace(self, pace: Pace) -> None:
        """Nothing is decoded here."""

    def events(self) -> Iterator[tuple[int, Picture]]:
        """A picture a second."""
        for second, rgb in enumerate(self._pictures):
            connection, media_s = (0, second) if second < self._cut_s else (1, second - self._cut_s)
            yield connection, Picture(rgb, float(media_s), 0, MIDNIGHT_S + second)


def run(
    *,
    model: str | Path = MODEL,
    footage: str = "quiet",
    scenes: int = 30,
    on_progress: Say = lambda _: None,
) -> dict[str, object]:
    """Ask, and return the part's figures."""
    first = FOOTAGE[footage].first_seed
    seeds = [first + 2 * number for number in range(scenes)]
    tally = measure(model, seeds, on_progress, FOOTAGE[footage])
    return {
        "held_footage": footage,
        "held_scenes": scenes,
        "held_frames": tally.frames,
        "held_encoded": tally.encoded,
        "held_wrongly": tally.wrongly_held,
        "held_stretches": tally.stretches,
        "held_same": tally.same,
        "held_questions": tally.questions,
        "held_changed": tally.count("held"),
        "held_lost": tally.count("held", lost=True),
        "moved_changed": tally.count("moved"),
        "moved_lost": tally.count("moved", lost=True),
        "held_right": tally.right,
    }


def measure(model: str | Path, seeds: list[int], say: Say, footage: Footage | None = None) -> Tally:
    """All scenes of these seeds, one after the other."""
    tally, footage = Tally(), footage or FOOTAGE["quiet"]
    with own_folder() as folder:
        settings = {
            "model": {"id": str(model)},
            "store": {"url": store_url(folder)},
            "ingest": {"zone": "UTC"},
            "ask": {"max_new_tokens": 12},
            "ray": {"enabled": False},
        }
        with (
            Pipeline.open(None, settings) as pipeline,
            InlinePusher(IngestJob.of(pipeline.settings).compress) as pusher,
        ):
            for seed in seeds:
                _measure_scene(pipeline, pusher, footage, seed, tally, say)
    return tally


def _measure_scene(
    pipeline: Pipeline, pusher: InlinePusher, footage: Footage, seed: int, tally: Tally, say: Say
) -> None:
    scene = footage.make(seed)
    pictures = list(watch(scene))
    last = {
        name: _ingest(pipeline, pusher, f"{name}-{seed}", pictures, way)
        for name, way in WAYS.items()
    }
    tally.frames += len(pictures)
    tally.encoded += last["held"].encoded
    tally.wrongly_held += _count_wrong(scene, pictures, pusher.info.pixel_format)
    for start_s in footage.starts_s:
        encoded, held = (_tokens_of(pipeline, f"{n}-{seed}", start_s) for n in ("encoded", "held"))
        tally.stretches += 1
        tally.same += encoded == held
        for question in _questions(scene, start_s):
            given = {name: _ask(pipeline, f"{name}-{seed}", question, start_s) for name in WAYS}
            tally.questions += 1
            for name, answer in given.items():
                tally.right[name] += answer == question.answer
            if len(set(given.values())) > 1:
                difference = Difference(
                    seed, start_s, question.kind, question.text, question.answer, **given
                )
                tally.differences.append(difference)
                say(json.dumps(difference.__dict__))
    changed, moved = tally.count("held"), tally.count("moved")
    say(
        f"{seed}: {tally.encoded} of {tally.frames} encoded, {tally.wrongly_held} held wrongly; of "
        f"{tally.questions} answers {changed} differ, {moved} where clips begin elsewhere"
    )


def _tokens_of(pipeline: Pipeline, stream: str, start_s: float) -> list[object]:
    """All that is read of a stretch."""
    clips = pipeline.clips(stream, start_s=start_s, end_s=start_s + BLOCK_S)
    return [
        (clip.pts_s, clip.end_s, [getattr(clip.tokens, name).tolist() for name in TOKEN_COLUMNS])
        for clip in clips
    ]


def _count_wrong(scene: Scene, pictures: list[np.ndarray], size: PixelFormat) -> int:
    visible = render(scene, np.arange(len(pictures), dtype=np.float64)).visible
    gate, encoded, wrong = StillnessGate(), 0, 0
    for second, rgb in enumerate(pictures):
        if not gate.is_still(resize(rgb, size)):
            encoded = second
        came = (visible[second] >= SEEN) & (visible[encoded] <= UNSEEN)
        went = (visible[encoded] >= SEEN) & (visible[second] <= UNSEEN)
        wrong += bool((came | went).any())
    return wrong


def watch(scene: Scene) -> Iterator[np.ndarray]:
    """A picture a second of the scene, as a decoder gives them."""
    units = encode_units(iter_frames(scene, size=SIZE, fps=FPS), FPS)
    for number, picture in enumerate(iter_units(units)):
        if number % FPS == 0:
            yield picture


def _ingest(
    pipeline: Pipeline,
    pusher: InlinePusher,
    name: str,
    pictures: list[np.ndarray],
    way: Way,
) -> LiveProgress:
    source = VideoSource("rtsp://camera/generated", name, 1.0, wall_start_s=MIDNIGHT_S)
    job = IngestJob.of(pipeline.settings)
    sink = replace(live_sink(job, IngestRequest(source), pusher.info), spool=None)
    rules = LiveSettings(stillness=way.rule)
    with closing(sink.open()) as opened:
        live = Script(pictures, way.cut_s)
        *_, last = run_live_session(
            source, rules, pusher.info, pusher, opened, live, clock=lambda: MIDNIGHT_S
        )
    return last


def _questions(scene: Scene, start_s: float) -> list[Question]:
    times_s = start_s + np.arange(BLOCK_S)
    window = open_window(scene, render(scene, times_s).visible, times_s, start_s)
    return ask(window, np.random.default_rng([scene.seed, int(start_s)]))


def _ask(pipeline: Pipeline, stream: str, question: Question, start_s: float) -> str:
    answer = pipeline.ask(question.text, streams=[stream], start_s=start_s, end_s=start_s + BLOCK_S)
    return " ".join(answer.text.lower().split())


def main() -> None:
    """Measure, print what changed and one last line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m demo.quality.held", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--footage", choices=FOOTAGE, default="quiet")
    parser.add_argument("--scenes", type=int, default=30)
    options = parser.parse_args()
    print(json.dumps(run(**vars(options), on_progress=lambda line: print(line, file=sys.stderr))))


if __name__ == "__main__":
    main()
