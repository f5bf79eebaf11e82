"""What a similarity is worth: figures from scores and labels, and the protocols that give them."""

from __future__ import annotations

from facekit.evaluate.groups import (
    GroupRates,
    GroupTable,
    group_rates,
    group_rates_of_pairs,
    load_groups,
)
from facekit.evaluate.hardest import Hardest, HardPair
from facekit.evaluate.intervals import Interval, Intervals, bootstrap, confidence_intervals
from facekit.evaluate.jackknife import jackknife
from facekit.evaluate.pairs import Pair, identities, load_bin, load_pairs
from facekit.evaluate.people import PeopleReport, evaluate_people
from facekit.evaluate.roc import FARS, ROC, roc, roc_of_people
from facekit.evaluate.search import SearchReport, evaluate_search
from facekit.evaluate.verification import (
    VerificationReport,
    best_threshold,
    evaluate_pairs,
    kfold_accuracy,
)

__all__ = [
    "FARS",
    "ROC",
    "GroupRates",
    "GroupTable",
    "HardPair",
    "Hardest",
    "Interval",
    "Intervals",
    "Pair",
    "PeopleReport",
    "SearchReport",
    "VerificationReport",
    "best_threshold",
    "bootstrap",
    "confidence_intervals",
    "evaluate_pairs",
    "evaluate_people",
    "evaluate_search",
    "group_rates",
    "group_rates_of_pairs",
    "identities",
    "jackknife",
    "kfold_accuracy",
    "load_bin",
    "load_groups",
    "load_pairs",
    "roc",
    "roc_of_people",
]
