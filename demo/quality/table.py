"""The quality bench's figures, as tables for people and in the pages that hold them.

Evaluations in; estimates, Markdown lines, and a page or a record with them out. Measures nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.quality.evaluate import Evaluation
from demo.quality.intervals import Bootstrap, Interval
from demo.world.questions import KINDS

FOCUS = 0.10
"""The retention at which reducers are compared in pairs and by kind."""
BEGIN, END = "<!-- begin: measured -->", "<!-- end: measured -->"
"""What stands between them in a page is written by the bench."""

TOLERANCE = 0.02
"""Accuracy that arithmetic of another machine may cost: single answers flip, not kinds."""

Results = dict[str, dict[float, Evaluation]]


@dataclass(frozen=True)
class Figures:
    """All evaluations on one set of scenes, and the draws that judge them."""

    results: Results
    bootstrap: Bootstrap
    scenes: int

    def estimate(self, name: str, retention: float) -> Interval:
        """Accuracy of a reducer."""
        return self.bootstrap.estimate(self.results[name][retention])

    def compare(self, one: str, other: str, retention: float = FOCUS) -> Interval:
        """Accuracy of one reducer minus another's, paired by scene."""
        return self.bootstrap.compare(self.results[one][retention], self.results[other][retention])

    def count_tokens(self, name: str, retention: float) -> float:
        """Mean tokens kept of a clip, measured."""
        return self.results[name][retention].tokens_out / self.scenes


def write_table(figures: Figures, default: str) -> list[str]:
    """Markdown: accuracy with its interval, the default against each, and each kind."""
    return [
        *_accuracy_lines(figures), "",
        *_difference_lines(figures, default), "",
        *_kind_lines(figures),
    ]  # fmt: skip


def _accuracy_lines(figures: Figures) -> list[str]:
    retentions = sorted({r for by in figures.results.values() for r in by}, reverse=True)
    lines = [
        "| reducer | " + " | ".join(f"{r:.0%}" for r in retentions) + " |",
        "|---" * (len(retentions) + 1) + "|",
    ]
    for name, by in figures.results.items():
        cells = []
        for r in retentions:
            if r not in by:
                cells.append("")
                continue
            value = figures.estimate(name, r)
            tokens = figures.count_tokens(name, r)
            cells.append(f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}] ({tokens:.1f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _difference_lines(figures: Figures, default: str) -> list[str]:
    lines = [f"| {default} at {FOCUS:.0%} minus | difference | |", "|---|---|---|"]
    for name, (mean, low, high) in compare_all(figures, default).items():
        verdict = "wins" if low > 0 else "loses" if high < 0 else "undecided"
        lines.append(f"| {name} | {mean:+.3f} [{low:+.3f}, {high:+.3f}] | {verdict} |")
    return lines


def _kind_lines(figures: Figures) -> list[str]:
    names = [name for name, by in figures.results.items() if FOCUS in by]
    full = next(iter(figures.results.values()))[1.0].by_kind()
    lines = [
        f"| kind at {FOCUS:.0%} | full | " + " | ".join(names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    by_name = {name: figures.results[name][FOCUS].by_kind() for name in names}
    for kind in (k for k in KINDS if k in full):
        row = " | ".join(f"{by_name[name][kind]:.2f}" for name in names)
        lines.append(f"| {kind} | {full[kind]:.2f} | {row} |")
    return lines


def read_row(figures: Figures, name: str, retention: float) -> dict[str, float]:
    """One entry of the contract's table."""
    value = figures.estimate(name, retention)
    return {
        "accuracy": round(value.mean, 4),
        "low": round(value.low, 4),
        "high": round(value.high, 4),
        "tokens": round(figures.count_tokens(name, retention), 2),
    }


def compare_all(figures: Figures, default: str) -> dict[str, tuple[float, float, float]]:
    """The default minus every other at the focus; empty when the default took no part."""
    if FOCUS not in figures.results.get(default, {}):
        return {}
    others = [n for n, by in figures.results.items() if FOCUS in by and n != default]
    compared = {name: figures.compare(default, name) for name in others}
    return {n: (round(v.mean, 4), round(v.low, 4), round(v.high, 4)) for n, v in compared.items()}


def update_page(page: Path, lines: Sequence[str]) -> None:
    """Put the lines between the page's marks.

    Raises:
        ValueError: the page has no marks.
    """
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the lines {BEGIN} and {END}; add them where tables go")
    body = "\n".join(lines)
    page.write_text(f"{before}{begin}\n\n{body}\n\n{end}{after}")


def write_record(path: Path, reducer: str, evaluation: Evaluation, scenes: int) -> None:
    """What the gate in the tests holds the shipped reducer to."""
    record = {
        "reducer": reducer,
        "retention": FOCUS,
        "scenes": scenes,
        "accuracy": round(evaluation.accuracy, 4),
        "tolerance": TOLERANCE,
    }
    path.write_text(json.dumps(record, indent=2) + "\n")
