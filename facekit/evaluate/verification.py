"""Verification as LFW defines it: thresholds from all folds but one, accuracy on that one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facekit.errors import EvaluationError
from facekit.evaluate.intervals import Intervals, confidence_intervals
from facekit.evaluate.roc import FARS, roc

__all__ = ["VerificationReport", "best_threshold", "evaluate_pairs", "kfold_accuracy"]


def best_threshold(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """The threshold at which most pairs are told right.

    Between two neighbouring scores it lies half way; of several that are equally good, it is the middle one.

    Args:
        scores: (n,), n > 0.
        same: (n,) whether a pair is of one person.
    """
    values, place = np.unique(scores, return_inverse=True)
    # thresholds below all values, between neighbours, above all
    genuine, impostor = (np.bincount(place[kind], minlength=len(values)) for kind in (same, ~same))
    right = same.sum() + np.append(0, np.cumsum(impostor - genuine))
    best = np.flatnonzero(right == right.max())
    edges = np.concatenate([values[:1], (values[1:] + values[:-1]) / 2, [np.nextafter(values[-1], np.inf)]])
    return float(edges[best[len(best) // 2]])


def kfold_accuracy(
    scores: NDArray[np.float64], same: NDArray[np.bool_], folds: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The accuracy of each fold, at the threshold that is best on all the others (LFW, "View 2").

    Args:
        scores: (n,).
        same: (n,) whether a pair is of one person.
        folds: (n,) the number of each pair's fold; at least two different ones.

    Returns:
        Accuracies (k,) in [0, 1] and thresholds (k,), by ascending number of the fold.

    Raises:
        EvaluationError: where there are fewer than two folds.
    """
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise EvaluationError(f"pairs in {len(numbers)} fold: give at least 2, or none to have them made")
    thresholds = np.array([best_threshold(scores[folds != k], same[folds != k]) for k in numbers])
    told = [(scores[folds == k] >= t) == same[folds == k] for k, t in zip(numbers, thresholds, strict=True)]
    return np.array([right.mean() for right in told]), thresholds


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """How well pairs of pictures are told to show one person or two.

    Attributes:
        accuracy: mean over the folds, in [0, 1].
        standard_error: of that mean: the folds' standard deviation (k - 1) by the square root of k.
        folds: the accuracy of each fold.
        threshold: mean of the folds' thresholds.
        auc: area under the ROC.
        eer: equal error rate.
        tar_at_far: FAR -> TAR; None where there are too few impostor pairs for the rate.
        genuine: number of pairs of one person.
        impostor: number of pairs of two people.
        missing: number of pairs of which a picture had no face; these count as told to be two people.
        intervals: how far to trust the figures; None where nobody said whom the pictures show, or they are
            fewer than three people.
    """

    accuracy: float
    standard_error: float
    folds: tuple[float, ...]
    threshold: float
    auc: float
    eer: float
    tar_at_far: Mapping[float, float | None]
    genuine: int
    impostor: int
    missing: int
    intervals: Intervals | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON; rates become text, as in ``"0.001"``."""
        return {
            "accuracy": {
                "mean": self.accuracy,
                "standard_error": self.standard_error,
                "folds": list(self.folds),
            },
            "threshold": self.threshold,
            "auc": self.auc,
            "eer": self.eer,
            "tar_at_far": {f"{far:g}": tar for far, tar in self.tar_at_far.items()},
            "pairs": {"genuine": self.genuine, "impostor": self.impostor, "missing": self.missing},
            "intervals": None if self.intervals is None else self.intervals.to_dict(),
        }


def evaluate_pairs(
    scores: ArrayLike,
    same: ArrayLike,
    folds: ArrayLike | None = None,
    *,
    people: ArrayLike | None = None,
    fars: Sequence[float] = FARS,
) -> VerificationReport:
    """All figures of a verification protocol.

    A pair without a score, because no face was found in one of its pictures, is not left out, which
    would reward a detector for giving up: it scores -1, and so is an error where it is of one person.

    Args:
        scores: (n,) similarities in [-1, 1]; NaN where there is none.
        same: (n,) whether a pair is of one person.
        folds: (n,) the number of each pair's fold; by default ten are made, of neighbouring pairs.
        people: (n, 2) whom the two pictures of each pair show, for confidence intervals.
        fars: the rates for TAR at FAR.

    Raises:
        EvaluationError: for arrays that do not fit each other, pairs of one kind only, or one fold.
    """
    known, truth = np.asarray(scores, np.float64), np.asarray(same, np.bool_)
    if known.ndim != 1 or truth.shape != known.shape:
        raise EvaluationError(f"scores {known.shape} and same {truth.shape}: give one of each a pair")
    missing = np.isnan(known)
    known = np.where(missing, -1.0, known)
    curve = roc(known[truth], known[~truth])
    numbers = _ten_folds(truth) if folds is None else np.asarray(folds)
    if numbers.shape != known.shape:
        raise EvaluationError(f"scores {known.shape} and folds {numbers.shape}: give one of each a pair")
    accuracies, thresholds = kfold_accuracy(known, truth, numbers)
    at = thresholds[np.unique(numbers, return_inverse=True)[1].reshape(-1)]
    intervals = None
    if people is not None and len(np.unique(np.asarray(people))) > 2:
        intervals = confidence_intervals(known, truth, people, right=(known >= at) == truth, fars=fars)
    return VerificationReport(
        accuracy=float(accuracies.mean()),
        standard_error=float(accuracies.std(ddof=1) / math.sqrt(len(accuracies))),
        folds=tuple(accuracies.tolist()),
        threshold=float(thresholds.mean()),
        auc=curve.auc,
        eer=curve.eer,
        tar_at_far={far: curve.tar_at_far(far) if curve.reaches(far) else None for far in fars},
        genuine=curve.genuine,
        impostor=curve.impostor,
        missing=int(missing.sum()),
        intervals=intervals,
    )


def _ten_folds(same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Ten folds, fewer of few pairs, with as many pairs of each kind in every one."""
    folds = np.zeros(len(same), np.int64)
    count = min(10, same.sum(), (~same).sum())
    for kind in (same, ~same):
        folds[kind] = np.arange(kind.sum()) * count // kind.sum()
    return folds
