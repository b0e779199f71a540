"""Answers from streams that hold many times what is read: `python -m demo.quality.streams`.

A stream is one clip that a question is about, at a random place among clips that cannot change its
answer; clips are as `adaptive` stores them. Read are as many tokens as one clip has, by every way
of making a stream fit. Questions are those about one moment: each names what it is about.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aot import ClipTokens, recompress
from demo.miniature.model import load_model
from demo.miniature.reading import NEWLINE, TEXT, Layout, gather, sort_clip
from demo.miniature.sequence import (
    FRAME_LENGTH,
    MARK_TOKENS,
    open_vocabulary,
    write_marks,
    write_slots,
)
from demo.quality.contestants import open_contestant
from demo.quality.evaluate import (
    FRAMES,
    Evaluation,
    WatchedScene,
    answer_batch,
    choose_seeds,
    report_seeds,
    watch_scenes,
)
from demo.quality.intervals import Bootstrap
from demo.world.questions import Question, format_mark
from workers.models.relevance import read_rules, write_relevance

MODEL = Path(__file__).parents[1] / "weights"
RETENTION = 0.25
KINDS = (
    "exist", "colour", "shape", "before", "after", "order", "direction", "when",
    "slide_exist", "slide_when", "slide_figure", "on_slide", "slide_before", "slide_after",
)  # fmt: skip
"""Kinds about one moment: no other clip can change their answers unless it shows what they name."""
TIMES = (1, 4, 16, 64)
"""Lengths of streams, in clips."""
DENSE_SHARE = 0.75
"""Of the budget, for the clip that was found, where the others are read too."""
COARSE = 4
"""Clips are scored with so many times fewer tokens than they are stored with."""
CLOSELY = 16
"""So many of the best are scored again with all tokens, as `ask.fit: find` does."""
BATCH = 32


@dataclass(frozen=True)
class Asked:
    """A question about one clip of a stream."""

    question: Question
    scene: int
    """Of the question, among the scenes that are asked about."""
    clips: tuple[int, ...]
    """The stream: indices of scenes in order."""
    at: int
    """Which of them the question is about."""
    start_s: float

    @property
    def has_moment(self) -> bool:
        """Whether some clip shows what is asked for: not where the answer is no."""
        return self.question.answer != "no" or self.question.kind == "order"


Read = list[tuple[int, ClipTokens]]
"""Clips of a stream that are read, by their place in it."""
Way = Callable[[list[ClipTokens], int, int], Read]
"""Clips, budget, and the one that was found: what is read."""


def cut(clips: list[ClipTokens], budget: int, found: int) -> Read:
    """The first clips that fit."""
    return _whole(range(len(clips)), clips, budget)


def newest(clips: list[ClipTokens], budget: int, found: int) -> Read:
    """The last clips that fit."""
    return sorted(_whole(reversed(range(len(clips))), clips, budget), key=lambda item: item[0])


def uniform(clips: list[ClipTokens], budget: int, found: int) -> Read:
    """Evenly spaced clips: of one that fits the middle one."""
    fits = max(1, budget * len(clips) // sum(map(len, clips)))
    chosen = [(2 * i + 1) * len(clips) // (2 * fits) for i in range(fits)]
    return sorted(_whole(chosen, clips, budget), key=lambda item: item[0])


def mean_pool(clips: list[ClipTokens], budget: int, found: int) -> Read:
    """Runs of neighbouring tokens averaged by mass, each at the place of its first."""
    sizes = [len(clip) for clip in clips]
    total = sum(sizes)
    if total <= budget:
        return list(enumerate(clips))
    run = torch.arange(total) * budget // total
    tokens = torch.cat([clip.tokens for clip in clips]).float()
    mass = torch.cat([clip.mass for clip in clips]).double().clamp(min=1e-9)
    whole = torch.zeros(budget, dtype=torch.float64).index_add_(0, run, mass)
    share = (mass / whole[run]).float()[:, None]
    mean = torch.zeros(budget, tokens.shape[1]).index_add_(0, run, tokens * share)
    is_first = torch.cat([torch.ones(1, dtype=torch.bool), run[1:] != run[:-1]])
    starts = np.cumsum([0, *sizes])
    read: Read = []
    for number, clip in enumerate(clips):
        rows = is_first[starts[number] : starts[number + 1]].nonzero()[:, 0]
        own = run[rows + int(starts[number])]
        read.append((number, _rows(clip, rows, mean[own], whole[own].float())))
    return read


def merged(clips: list[ClipTokens], budget: int, found: int) -> Read:
    """`aot.recompress` over all of them."""
    return list(enumerate(recompress(clips, budget)))


def find(clips: list[ClipTokens], budget: int, found: int) -> Read:
    """Three quarters of the budget for the clip that was found, the rest for all others."""
    if sum(map(len, clips)) <= budget:
        return list(enumerate(clips))
    dense = round(DENSE_SHARE * budget)
    others = [clip for number, clip in enumerate(clips) if number != found]
    coarse = recompress(others, budget - dense) if dense < budget else []
    numbers = [number for number in range(len(clips)) if number != found][: len(coarse)]
    read = [*zip(numbers, coarse, strict=True), (found, recompress([clips[found]], dense)[0])]
    return sorted(read, key=lambda item: item[0])


def alone(clips: list[ClipTokens], budget: int, found: int) -> Read:
    """The clip that was found and nothing else."""
    return [(found, recompress([clips[found]], budget)[0])]


WAYS: Mapping[str, Way] = {
    "cut": cut, "newest": newest, "uniform": uniform, "mean_pool": mean_pool,
    "recompress": merged, "find": alone, "find, coarse rest": find,
}  # fmt: skip


def _whole(order: Iterable[int], clips: list[ClipTokens], budget: int) -> Read:
    read: Read = []
    for number in order:
        if read and sum(len(clip) for _, clip in read) + len(clips[number]) > budget:
            break
        read.append((number, clips[number]))
    return read


def _rows(clip: ClipTokens, rows: Tensor, tokens: Tensor, mass: Tensor) -> ClipTokens:
    columns = {name: getattr(clip, name)[rows] for name in ("frame", "cell", "kind")}
    return replace(clip, tokens=tokens, mass=mass, **columns)


class Reader:
    """The miniature, asked about many streams at once."""

    def __init__(self, model: str | Path) -> None:
        self._llava = load_model(Path(model)).model
        self._words = self._llava.language_model.embed_tokens.weight
        self._vocabulary = open_vocabulary()
        config = json.loads((Path(model) / "config.json").read_text())
        self._rules = read_rules(config, str(model))

    @torch.inference_mode()
    def answer(self, reads: Sequence[Read], asked: Sequence[Asked]) -> np.ndarray:
        """Whether each question is answered rightly from what is read."""
        laid = [self._lay_out(read, a.start_s) for read, a in zip(reads, asked, strict=True)]
        right = np.zeros(len(asked), bool)
        by_length = sorted(range(len(asked)), key=lambda k: len(laid[k][0].ids))
        for first in range(0, len(asked), BATCH):
            batch = by_length[first : first + BATCH]
            with torch.autocast("cpu", torch.bfloat16):
                results = answer_batch(
                    self._llava.language_model,
                    [self._embed(*laid[k]) for k in batch],
                    [laid[k][0] for k in batch],
                    [write_slots([asked[k].question], self._vocabulary) for k in batch],
                )
            for k, result in zip(batch, results, strict=True):
                right[k] = result[0]
        return right

    @torch.inference_mode()
    def score(self, clips: Sequence[ClipTokens], question: str) -> np.ndarray:
        """How much each clip matters: as `LanguageModel.score_relevance`, all at once."""
        asked = write_relevance(question, self._rules)
        texts = [asked.text] * len(clips)
        if asked.first is not None:
            said = self._likely(clips, [asked.first] * len(clips)).argmax(dim=1).tolist()
            word_of = {number: word for word, number in self._vocabulary.words.items()}
            texts = [asked.about(word_of[number]) for number in said]
        likely = self._likely(clips, texts)
        if not asked.expects_yes:
            return likely.amax(dim=1).numpy()
        yes, no = (likely[:, self._vocabulary.words[word]] for word in ("yes", "no"))
        return (yes - no).numpy()

    def _likely(self, clips: Sequence[ClipTokens], texts: Sequence[str]) -> Tensor:
        """Log-probabilities of an answer's first word, to a question of each clip: `[c v]`."""
        asked = [
            [*self._vocabulary.encode(text), self._vocabulary.words["<|assistant|>"]]
            for text in texts
        ]
        laid = [self._lay_out([(0, clip)], 0.0) for clip in clips]
        prefixes = [self._embed(*one) for one in laid]
        length = max(len(p) + len(words) for p, words in zip(prefixes, asked, strict=True))
        embedded = torch.zeros(len(laid), length, self._words.shape[1])
        positions = torch.zeros(len(laid), length, dtype=torch.int64)
        mask = torch.zeros(len(laid), length, dtype=torch.int64)
        rows = zip(laid, prefixes, asked, strict=True)
        for row, ((layout, _), prefix, words) in enumerate(rows):
            begin = length - len(words) - len(prefix)
            embedded[row, begin:] = torch.cat([prefix, self._words[torch.tensor(words)]])
            place = torch.from_numpy(layout.positions)
            positions[row, begin:] = torch.cat([place, layout.end + torch.arange(len(words))])
            mask[row, begin:] = 1
        hidden = self._llava.language_model(
            inputs_embeds=embedded, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state[:, -1]
        return (hidden @ self._words.T).log_softmax(dim=1)

    def _embed(self, layout: Layout, tokens: Tensor) -> Tensor:
        return gather(layout, tokens, self._llava.image_newline, self._words)

    def _lay_out(self, read: Read, start_s: float) -> tuple[Layout, Tensor]:
        """Frames that have tokens, one after the other, as `skip_empty` reads them."""
        ids, visual, positions = [self._vocabulary.words["<|user|>"]], [TEXT], [0]
        tokens, begin, count = [], 1, 0
        for number, clip in read:
            for frame in sorted(set(clip.frame.tolist())):
                rows = (clip.frame == frame).nonzero()[:, 0]
                time_s = np.array([start_s + number * FRAMES + frame])
                cells, num = clip.cell[rows].tolist(), len(rows)
                ids += [*write_marks(time_s, self._vocabulary)[0].tolist(), *[0] * (num + 1)]
                visual += [*[TEXT] * MARK_TOKENS, *range(count, count + num), NEWLINE]
                positions += [begin + k for k in range(MARK_TOKENS)]
                positions += [begin + MARK_TOKENS + cell for cell in cells]
                positions.append(begin + FRAME_LENGTH - 1)
                tokens.append(clip.tokens[rows].float())
                begin, count = begin + FRAME_LENGTH, count + num
        width = self._words.shape[1]
        joined = torch.cat(tokens) if tokens else torch.zeros(0, width)
        return Layout(np.array(ids), np.array(visual), np.array(positions), begin), joined


def draw(scenes: Sequence[WatchedScene], asked_of: int, times: int) -> list[Asked]:
    """Every question about one moment of the first `asked_of` scenes, each with a stream."""
    asked = []
    for number, scene in enumerate(scenes[:asked_of]):
        for place, question in enumerate(scene.questions):
            if question.kind not in KINDS:
                continue
            rng = np.random.default_rng([number, place, times])
            silent = [
                other
                for other, shown in enumerate(scenes)
                if other != number
                and shown.scene.kind == scene.scene.kind
                and not may_answer(question, shown)
            ]
            if len(silent) < times - 1:
                continue
            at = int(rng.integers(times))
            clips = [int(k) for k in rng.permutation(silent)[: times - 1]]
            clips.insert(at, number)
            start_s = float(rng.integers(36_000))
            moved = _moved(question, scene, start_s + at * FRAMES)
            asked.append(Asked(moved, number, tuple(clips), at, start_s))
    return asked


def may_answer(question: Question, scene: WatchedScene) -> bool:
    """Whether a scene shows something that the question names."""
    words = question.text.split()
    for item in scene.scene.items:
        if item.letter is not None:
            named = bool(re.search(rf"\bslide {item.letter}\b", question.text))
        elif question.kind in ("colour", "shape"):
            named = item.shape in words if question.kind == "colour" else item.colour in words
        else:
            named = item.name in question.text
        if named:
            return True
    return False


def _moved(question: Question, scene: WatchedScene, start_s: float) -> Question:
    if not question.kind.endswith("when"):
        return question
    hours, minutes, seconds = map(int, question.answer.split(":"))
    since_s = hours * 3600 + minutes * 60 + seconds - float(scene.times_s[0])
    return replace(question, answer=format_mark(start_s + since_s))


@dataclass(frozen=True)
class Measured:
    """What came out at one length of streams."""

    times: int
    evaluations: dict[str, Evaluation]
    ranks: tuple[int, ...]
    """Of the right clip among those of its stream, 0 the first; of questions that have one."""

    def hit(self, most: int) -> float:
        """Share of questions whose clip is among the first so many."""
        return float(np.mean(np.array(self.ranks) < most))


def measure(
    model: str | Path,
    scenes: Sequence[WatchedScene],
    asked_of: int,
    times: int,
    say: Callable,
    *,
    finds: bool = True,
) -> Measured:
    """All ways on streams of `times` clips; those that find a clip only if it `finds`."""
    reader = Reader(model)
    features = [scene.features for scene in scenes]
    stored = [sort_clip(c) for c in open_contestant("adaptive", RETENTION, features)(features)]
    coarse = [recompress([clip], max(1, len(clip) // COARSE))[0] for clip in stored]
    asked = draw(scenes, asked_of, times)
    begun_s = time.monotonic()
    found, ranks = [], []
    for one in asked if finds else ():
        scores = reader.score([coarse[k] for k in one.clips], one.question.text)
        near = np.argsort(-scores, kind="stable")[:CLOSELY]
        scores[near] = reader.score([stored[one.clips[k]] for k in near], one.question.text)
        found.append(int(scores.argmax()))
        if one.has_moment:
            ranks.append(int((scores > scores[one.at]).sum()))
    say(f"{times}x: {len(asked)} questions, found in {time.monotonic() - begun_s:.0f} s")
    budget = max(map(len, stored))
    left_out = () if finds else (alone, find)
    found = found if finds else [0] * len(asked)
    given = {name: (way, found) for name, way in WAYS.items() if way not in left_out}
    given["right clip given"] = (alone, [one.at for one in asked])
    evaluations = {}
    for name, (way, chosen) in given.items():
        streams = [[stored[k] for k in one.clips] for one in asked]
        reads = [way(stream, budget, k) for stream, k in zip(streams, chosen, strict=True)]
        right = reader.answer(reads, asked)
        evaluations[name] = Evaluation(
            tuple(one.question.kind for one in asked),
            tuple(one.scene for one in asked),
            right,
            sum(map(len, stored)) * len(asked),
            sum(len(clip) for read in reads for _, clip in read),
        )
        say(f"{times}x {name}: {right.mean():.3f}")
    return Measured(times, evaluations, tuple(ranks))


def write_lines(results: Sequence[Measured], asked_of: int) -> list[str]:
    """Markdown: accuracy of every way at every length, and how well the clip is found."""
    bootstrap = Bootstrap(asked_of)
    lines = ["| way | " + " | ".join(f"{m.times}x" for m in results) + " |"]
    lines.append("|---" * (len(results) + 1) + "|")
    for name in results[0].evaluations:
        cells = []
        for one in results:
            value = bootstrap.estimate(one.evaluations[name])
            cells.append(f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for most in (1, 5) if any(one.ranks for one in results) else ():
        cells = " | ".join(f"{one.hit(most):.3f}" for one in results)
        lines.append(f"| right clip among the first {most} | {cells} |")
    lines += ["", "| recompress minus | " + " | ".join(f"{m.times}x" for m in results) + " |"]
    lines.append("|---" * (len(results) + 1) + "|")
    for name in results[0].evaluations:
        if name == "recompress":
            continue
        cells = []
        for one in results:
            value = bootstrap.compare(one.evaluations["recompress"], one.evaluations[name])
            cells.append(f"{value.mean:+.3f} [{value.low:+.3f}, {value.high:+.3f}]")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(prog="python -m demo.quality.streams", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--scenes", type=int, default=40, help="scenes that are asked about")
    parser.add_argument("--pool", type=int, default=320, help="scenes that streams are made of")
    parser.add_argument("--times", type=int, nargs="+", default=list(TIMES))
    parser.add_argument("--without-finding", action="store_true", help="the quick ways alone")
    parser.add_argument("--choose", action="store_true", help="on the seeds for choosing")
    options = parser.parse_args()
    seeds = (choose_seeds if options.choose else report_seeds)(options.pool)
    scenes = watch_scenes(options.model, seeds)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    results = [
        measure(
            options.model, scenes, options.scenes, times, say, finds=not options.without_finding
        )
        for times in options.times
    ]
    print("\n".join(write_lines(results, options.scenes)))


if __name__ == "__main__":
    main()
