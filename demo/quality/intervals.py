"""Accuracy as the mean over kinds, with bootstrap intervals that draw scenes, not questions.

Questions about one scene hang together, so whole scenes are drawn again; all reducers are judged
on the same draws, so that their differences are paired.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from demo.quality.evaluate import Evaluation

DRAWS = 2000
_TAIL = 2.5
"""Percent left out on each side."""


@dataclass(frozen=True)
class Interval:
    """A mean with the middle 95 % of its bootstrap draws."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True when all of it lies on one side of zero."""
        return self.low > 0 or self.high < 0


class Bootstrap:
    """The same draws of scenes for every evaluation of them."""

    def __init__(self, scenes: int, *, draws: int = DRAWS, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        weights = rng.multinomial(scenes, np.full(scenes, 1 / scenes), size=draws)
        #: How often each scene is drawn; the first row takes every scene once.
        self.weights = np.concatenate([np.ones((1, scenes)), weights]).astype(np.float64)

    def estimate(self, evaluation: Evaluation) -> Interval:
        """Accuracy."""
        return _interval(self._accuracy(evaluation))

    def compare(self, one: Evaluation, other: Evaluation) -> Interval:
        """Accuracy of `one` minus that of `other`, paired by scene."""
        return _interval(self._accuracy(one) - self._accuracy(other))

    def _accuracy(self, evaluation: Evaluation) -> Float[np.ndarray, " draws"]:
        """Mean over kinds per draw; a kind that a draw does not ask is left out of its mean."""
        kinds = sorted(set(evaluation.kinds))
        right, asked = (
            self.weights @ _count(evaluation, kinds, self.weights.shape[1], values)
            for values in (evaluation.correct.astype(float), np.ones(len(evaluation.kinds)))
        )
        share = np.divide(right, asked, out=np.full_like(right, np.nan), where=asked > 0)
        return np.nanmean(share, axis=1)


def _count(
    evaluation: Evaluation, kinds: Sequence[str], scenes: int, values: np.ndarray
) -> Float[np.ndarray, "scenes kinds"]:
    """Sum of `values` by scene and kind."""
    table = np.zeros((scenes, len(kinds)))
    column = {kind: k for k, kind in enumerate(kinds)}
    np.add.at(table, (list(evaluation.scene), [column[k] for k in evaluation.kinds]), values)
    return table


def _interval(draws: Float[np.ndarray, " draws"]) -> Interval:
    low, high = np.percentile(draws[1:], [_TAIL, 100 - _TAIL])
    return Interval(float(draws[0]), float(low), float(high))
