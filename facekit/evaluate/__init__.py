"""What a similarity is worth: figures from scores and labels, and the protocols that give them."""

from __future__ import annotations

from facekit.evaluate.pairs import Pair, load_pairs
from facekit.evaluate.roc import FARS, ROC, roc, roc_of_people
from facekit.evaluate.verification import (
    VerificationReport,
    best_threshold,
    evaluate_pairs,
    kfold_accuracy,
)

__all__ = [
    "FARS",
    "ROC",
    "Pair",
    "VerificationReport",
    "best_threshold",
    "evaluate_pairs",
    "kfold_accuracy",
    "load_pairs",
    "roc",
    "roc_of_people",
]
