"""The quality bench as a picture: accuracy against tokens kept, one line a reducer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FAMILIES = {
    "adaptive": ("tab:red", "-", 2.4),
    "aot": ("tab:blue", "-", 1.8),
    "aot_cost": ("tab:cyan", "-", 1.4),
    "random": ("0.6", ":", 1.2),
    "uniform": ("0.6", "--", 1.2),
    "frame_skip": ("0.6", "-.", 1.2),
    "mean_pool": ("0.45", "-", 1.2),
}
"""Colour, line and width of the reducers that should be told apart at a glance."""


def plot(summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `quality.png` and `quality.svg` from a bench's summary; returns the paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, by_retention in summary["table"].items():
        rows = sorted(by_retention.values(), key=lambda row: row["tokens"])
        if len(rows) < 2:
            continue
        colour, line, width = FAMILIES.get(name, (None, "-", 1.2))
        tokens = [row["tokens"] for row in rows]
        (drawn,) = axes.plot(
            tokens, [row["accuracy"] for row in rows],
            line, color=colour, lw=width, marker=".", label=name,
        )  # fmt: skip
        axes.fill_between(
            tokens, [row["low"] for row in rows], [row["high"] for row in rows],
            color=drawn.get_color(), alpha=0.08, lw=0,
        )  # fmt: skip
    axes.axhline(summary["full_accuracy"], color="k", lw=0.8, ls=":")
    axes.set_xscale("log")
    axes.set_xlabel(f"visual tokens of a clip (of {summary['tokens_full']})")
    axes.set_ylabel("accuracy, mean over kinds of question")
    axes.set_title("The miniature's answers against tokens kept (a toy: read it as relative)")
    axes.legend(ncols=2, fontsize=8)
    axes.grid(alpha=0.3)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"quality.{suffix}" for suffix in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return paths
