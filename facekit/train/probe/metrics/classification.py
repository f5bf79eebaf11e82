"""How often classes and attributes are told right."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekit.errors import EvaluationError

__all__ = ["accuracy", "attribute_accuracy", "attribute_f1", "macro_f1"]


def accuracy(predicted: NDArray[np.integer[Any]], targets: NDArray[np.integer[Any]]) -> float:
    """Share of the pictures that get their class, in [0, 1].

    Args:
        predicted: (n,), n > 0.
        targets: (n,).
    """
    return float((predicted == targets).mean())


def macro_f1(predicted: NDArray[np.integer[Any]], targets: NDArray[np.integer[Any]]) -> float:
    """Mean over the classes of F1 = 2 TP / (2 TP + FP + FN), each counting alike however rare it is.

    Classes that are neither there nor told are left out.

    Args:
        predicted: (n,), n > 0.
        targets: (n,).
    """
    classes = np.union1d(predicted, targets)
    return float(_f1(predicted[:, None] == classes, targets[:, None] == classes).mean())


def attribute_f1(told: NDArray[np.bool_], targets: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """F1 of the positive class of each attribute; NaN for those of which no picture is a positive.

    Args:
        told: (n, a) whether it is said to be there.
        targets: (n, a) 0 or 1, NaN where unknown; such entries count for nothing.

    Returns:
        (a,) in [0, 1] or NaN.
    """
    positive = targets == 1
    scores: NDArray[np.float64] = np.where(positive.any(0), _f1(told & ~np.isnan(targets), positive), np.nan)
    return scores


def attribute_accuracy(told: NDArray[np.bool_], targets: NDArray[np.floating[Any]]) -> float:
    """Share of the known entries of all attributes that are told right, in [0, 1].

    Args:
        told: (n, a) whether it is said to be there.
        targets: (n, a) 0 or 1, NaN where unknown.

    Raises:
        EvaluationError: nothing is known.
    """
    known = ~np.isnan(targets)
    if not known.any():
        raise EvaluationError(f"{targets.size} targets and none of them known: give rows with attributes")
    return float((told == (targets == 1))[known].mean())


def _f1(told: NDArray[np.bool_], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """F1 of each column; 0 for one of which neither is there."""
    found = 2.0 * (told & positive).sum(0)
    score: NDArray[np.float64] = found / np.maximum(told.sum(0) + positive.sum(0), 1)
    return score
