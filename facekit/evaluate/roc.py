"""From the scores of genuine and impostor pairs to ROC, AUC, EER, TAR at FAR, and thresholds.

A pair is accepted at a score *at or above* the threshold. FAR is the share of impostor pairs (of two
people) that is accepted, TAR the share of genuine pairs (of one person), and FRR = 1 - TAR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facekit.errors import EvaluationError
from facekit.evaluate.tiles import Tile, tiles

__all__ = ["FARS", "ROC", "roc", "roc_of_people"]

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""The false accept rates that reports and calibrations are made for."""

_BINS = 2**15  # of scores in [0, 1): a power of two, so that scaling rounds nothing

BINS = np.arange(-_BINS, _BINS + 1) / _BINS
"""The lowest score in each bin of those that all pairs of a set are counted in, from -1 to 1."""


@dataclass(frozen=True, slots=True, eq=False)
class ROC:
    """What each threshold lets in: the receiver operating characteristic, from (0, 0) to (1, 1).

    Attributes:
        thresholds: (t,) float64, descending: one above all scores, then every score that occurs.
        far: (t,) float64 in [0, 1], the share of impostor pairs at or above the threshold; ascending.
        tar: (t,) float64 in [0, 1], the share of genuine pairs; ascending.
        genuine: number of genuine pairs.
        impostor: number of impostor pairs.
    """

    thresholds: NDArray[np.float64]
    far: NDArray[np.float64]
    tar: NDArray[np.float64]
    genuine: int
    impostor: int

    @property
    def auc(self) -> float:
        """Area under the curve: the chance that a genuine pair outscores an impostor pair, ties half."""
        return float(np.sum(np.diff(self.far) * (self.tar[1:] + self.tar[:-1]) / 2))

    @property
    def eer(self) -> float:
        """Equal error rate: where FAR = FRR, on the straight line between the two points beside it."""
        gap = self.far - (1 - self.tar)  # from -1 to 1
        after = int(np.argmax(gap >= 0))
        share = gap[after] / (gap[after] - gap[after - 1])
        return float(self.far[after] - share * (self.far[after] - self.far[after - 1]))

    def threshold_at_far(self, far: float) -> float:
        """The lowest score that, as a threshold, accepts no more than ``far`` of the impostor pairs.

        Raises:
            EvaluationError: for a rate outside (0, 1], or below that of a single one of the impostor pairs.
        """
        return float(self.thresholds[self._at(far)])

    def tar_at_far(self, far: float) -> float:
        """TAR at :meth:`threshold_at_far`, with the same errors."""
        return float(self.tar[self._at(far)])

    def rates_at(self, threshold: float) -> tuple[float, float]:
        """FAR and TAR at a threshold, also where no score lies there."""
        at = int(np.searchsorted(-self.thresholds, -threshold, side="right")) - 1
        return (float(self.far[at]), float(self.tar[at])) if at >= 0 else (0.0, 0.0)

    def reaches(self, far: float) -> bool:
        """Whether there are enough impostor pairs for one of them to be as little as ``far`` of all."""
        return far * self.impostor >= 1 - 1e-9

    def calibration(self, fars: Sequence[float] = FARS, *, accepts: int = 10) -> dict[float, float]:
        """FAR -> threshold, for those rates that mean at least ``accepts`` accepted impostor pairs.

        A threshold that hangs on fewer pairs says more about these than about the rate.
        """
        return {far: self.threshold_at_far(far) for far in fars if self.reaches(far / accepts)}

    def _at(self, far: float) -> int:
        if not 0 < far <= 1:
            raise EvaluationError(f"far is {far:g}: give a rate above 0, up to 1")
        if not self.reaches(far):
            needed = math.ceil(1 / far - 1e-9)
            raise EvaluationError(
                f"far {far:g} needs at least {needed:,} impostor pairs, and there are {self.impostor:,}: "
                "give more pairs, or a higher rate"
            )
        return int(np.searchsorted(self.far, far, side="right")) - 1


def roc(genuine: ArrayLike, impostor: ArrayLike) -> ROC:
    """The ROC of two sets of scores.

    Args:
        genuine: (g,) scores of pairs of one person, g > 0.
        impostor: (i,) scores of pairs of two people, i > 0.

    Raises:
        EvaluationError: where either is empty, not one row of numbers, or not finite.
    """
    sides = [_scores(genuine, "genuine"), _scores(impostor, "impostor")]
    values, place = np.unique(np.concatenate(sides), return_inverse=True)
    counts = (np.bincount(part, minlength=len(values)) for part in np.split(place, [len(sides[0])]))
    return roc_of_counts(values, *counts)


def roc_of_people(vectors: NDArray[np.floating[Any]], labels: ArrayLike, *, block: int = 1024) -> ROC:
    """The ROC of all pairs of a labelled set, in one pass over blocks, whatever their number.

    Holds counts of scores, never the scores: thresholds are multiples of 2^-15, and FAR and TAR at each
    are exact to the rounding of float32.

    Args:
        vectors: (n, d), rows of unit length.
        labels: (n,) whose each is.
        block: side of the blocks; each of their scores takes about 20 bytes.

    Raises:
        EvaluationError: where there is no pair of one person, or none of two; for labels that do not fit
            the vectors, and vectors that are not of unit length.
    """
    people = np.unique(np.asarray(labels), return_inverse=True)[1].reshape(-1)
    genuine, every = np.zeros_like(BINS, np.int64), np.zeros_like(BINS, np.int64)
    for tile in tiles(vectors, people, block=block):
        counts, own = histograms(tile)
        every += counts
        genuine += own
    return roc_of_counts(BINS, genuine, every - genuine)


def histograms(tile: Tile) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many pairs of a tile, and how many genuine ones, fall into each of the :data:`BINS`."""
    bins = np.clip(np.floor(tile.scores * np.float32(_BINS)).astype(np.int64) + _BINS, 0, 2 * _BINS)
    every = np.bincount(bins, minlength=len(BINS))
    if not tile.same.any():
        return every, np.zeros_like(every)
    return every, np.bincount(bins[tile.same], minlength=len(BINS))


def _scores(given: ArrayLike, name: str) -> NDArray[np.float64]:
    scores = np.asarray(given, np.float64)
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise EvaluationError(f"{name} scores of shape {scores.shape}: give one row of finite numbers")
    return scores


def roc_of_counts(values: NDArray[np.float64], genuine: NDArray[Any], impostor: NDArray[Any]) -> ROC:
    """The ROC of scores that occur so many times; ``values`` ascend."""
    if not genuine.sum() or not impostor.sum():
        raise EvaluationError(
            f"{genuine.sum():g} genuine and {impostor.sum():g} impostor pairs: give at least one of each"
        )
    occurs = np.flatnonzero(genuine + impostor)[::-1]
    above = values[occurs[0] + 1] if occurs[0] + 1 < len(values) else np.nextafter(values[-1], np.inf)
    return ROC(
        thresholds=np.append(above, values[occurs]),
        far=np.append(0, np.cumsum(impostor[occurs])) / impostor.sum(),
        tar=np.append(0, np.cumsum(genuine[occurs])) / genuine.sum(),
        genuine=int(genuine.sum()),
        impostor=int(impostor.sum()),
    )
