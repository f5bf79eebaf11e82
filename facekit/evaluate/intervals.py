"""How far figures would move with other people in the test: intervals from a bootstrap by identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facekit.errors import EvaluationError
from facekit.evaluate.roc import FARS, ROC, roc_of_counts

__all__ = ["Interval", "Intervals", "bootstrap", "confidence_intervals"]

Interval: TypeAlias = "tuple[float, float] | None"
"""Lower and upper end; None where nothing varied, as where no pair is told wrong: that says nothing."""

ACCEPTS = 10  # false accepts that a rate must mean; a threshold that hangs on fewer has no honest interval


@dataclass(frozen=True, slots=True)
class Intervals:
    """Where the figures of a :class:`VerificationReport` lie, had other people been photographed.

    Attributes:
        confidence: the share of such tests whose interval holds the true figure, such as 0.95.
        people: number of identities that were resampled.
        accuracy: of the accuracy, the folds' thresholds held; None where there are no folds.
        auc: of the area under the ROC.
        eer: of the equal error rate.
        tar_at_far: FAR -> interval of TAR; None also for rates that mean fewer than ten false accepts.
    """

    confidence: float
    people: int
    accuracy: Interval
    auc: Interval
    eer: Interval
    tar_at_far: Mapping[float, Interval]

    def to_dict(self) -> dict[str, Any]:
        """The intervals as plain values for JSON; rates become text, as in ``"0.001"``."""
        return {
            "confidence": self.confidence,
            "people": self.people,
            "accuracy": self.accuracy,
            "auc": self.auc,
            "eer": self.eer,
            "tar_at_far": {f"{far:g}": ends for far, ends in self.tar_at_far.items()},
        }


def confidence_intervals(
    scores: ArrayLike,
    same: ArrayLike,
    people: ArrayLike,
    *,
    right: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    fars: Sequence[float] = FARS,
    confidence: float = 0.95,
    replicates: int = 300,
    seed: int = 0,
) -> Intervals:
    """Intervals of the figures of scored pairs, by :func:`bootstrap` on the scale of log(p / (1 - p)).

    There the error of a share near 0 or 1 is less lopsided. Of 40 people who differ very much, intervals
    for 95 % held the true figure in 89 to 96 % of simulated tests.

    Args:
        scores: (n,) similarities.
        same: (n,) whether a pair is of one person.
        people: (n, 2) whom the two pictures of each pair show.
        right: (n,) whether a pair was told right, for the accuracy.
        weights: (n,) how many pairs each stands for, where these are a sample; by default 1.
        fars: the rates for TAR at FAR.
        confidence: in (0, 1).
        replicates: how often the people are drawn; more makes the ends steadier.
        seed: of the draws; the same gives the same intervals.

    Raises:
        EvaluationError: as for :func:`bootstrap`; where there are no pairs of one of the kinds.
    """
    known, truth = np.asarray(scores, np.float64), np.asarray(same, np.bool_)
    stand_for = np.ones(len(known)) if weights is None else np.asarray(weights, np.float64)
    told = None if right is None else np.asarray(right, np.bool_)
    values, place = np.unique(known, return_inverse=True)
    counts = tuple(round(stand_for[kind].sum()) for kind in (truth, ~truth))
    share = counts[0] / max(1, sum(counts))

    def curve_of(drawn: NDArray[np.float64]) -> ROC:
        sides = (np.bincount(place[kind], drawn[kind], len(values)) for kind in (truth, ~truth))
        return replace(roc_of_counts(values, *sides), genuine=counts[0], impostor=counts[1])

    rates = [far for far in fars if curve_of(stand_for).reaches(far / ACCEPTS)]
    whose = _two_a_pair(people, truth)
    least = np.full(3 + len(rates), 0.5 / _meetings(whose[truth]))
    least[0] /= _meetings(whose[~truth])  # AUC is a share of pairs of pairs

    def shares(drawn: NDArray[np.float64]) -> list[float]:
        curve = curve_of(drawn)
        accuracy = np.nan
        if told is not None:  # the protocol fixes how many pairs are of each kind
            kinds = (np.average(told[kind], weights=drawn[kind]) for kind in (truth, ~truth))
            accuracy = float(np.dot((share, 1 - share), list(kinds)))
        return [curve.auc, accuracy, curve.eer, *(curve.tar_at_far(far) for far in rates)]

    def figures(times: NDArray[np.float64]) -> list[float]:
        found = np.array(shares(stand_for * times))
        odds: list[float] = log_odds(np.clip(found, least, 1 - least)).tolist()
        return odds

    ends = bootstrap(figures, truth, people, confidence=confidence, replicates=replicates, seed=seed)
    auc, accuracy, eer, *tars = map(_back, ends, shares(stand_for))
    tar_at_far = dict.fromkeys(fars) | dict(zip(rates, tars, strict=True))
    number = len(np.unique(whose))
    return Intervals(confidence, number, accuracy, auc, eer, tar_at_far)


def bootstrap(
    figures: Callable[[NDArray[np.float64]], Sequence[float]],
    same: ArrayLike,
    people: ArrayLike,
    *,
    confidence: float = 0.95,
    replicates: int = 300,
    seed: int = 0,
) -> list[Interval]:
    """Intervals from the spread of figures when people, not pairs, are drawn with replacement.

    Pairs that share a person err together, so that drawing pairs one by one would promise too much. A
    person drawn w times counts w times in his own pairs; a pair of two people counts as often as the
    product of their numbers. Such products carry the chance of a single pair of people three times over
    (A. Owen, "The pigeonhole bootstrap", 2007). How much chance that is, is measured by drawing the pairs of
    people on their own; the two surplus shares of its variance are then taken out of the interval, as
    multiway clustering does (Cameron, Gelbach, Miller, 2011). The interval lies evenly about the figure,
    as far as Student's quantile says of that many people.

    Args:
        figures: (n,) how often each pair counts -> the figures.
        same: (n,) whether a pair is of one person.
        people: (n, 2) whom the two pictures of each pair show.
        confidence: in (0, 1).
        replicates: how often the people are drawn.
        seed: of the draws.

    Returns:
        An interval for each of the figures.

    Raises:
        EvaluationError: ``people`` do not fit ``same``, or are fewer than three; a confidence outside (0, 1).
    """
    truth = np.asarray(same, np.bool_)
    whose = _two_a_pair(people, truth)
    if not 0 < confidence < 1:
        raise EvaluationError(f"confidence is {confidence:g}: give a share above 0 and below 1, such as 0.95")
    names, place = np.unique(whose, return_inverse=True)
    a, b = place.reshape(whose.shape).T
    if not np.array_equal(a == b, truth):
        raise EvaluationError("people and same contradict each other: a pair is of one person or of two")
    if len(names) < 3:
        raise EvaluationError(f"{len(names)} people are too few to draw from: give at least 3")
    met, meeting = np.unique(np.minimum(a, b) * len(names) + np.maximum(a, b), return_inverse=True)
    rng = np.random.default_rng(seed)

    def by_person() -> NDArray[np.int64]:
        times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        product: NDArray[np.int64] = times[a] * np.where(truth, 1, times[b])
        return product

    def by_meeting() -> NDArray[np.int64]:
        return np.where(truth, 1, rng.poisson(1, len(met))[meeting])

    def drawn(draw: Callable[[], NDArray[np.int64]]) -> NDArray[np.float64]:
        draws = (draw() for _ in range(replicates))
        full = [times for times in draws if times[truth].any() and times[~truth].any()]
        return np.array([figures(times.astype(np.float64)) for times in full])

    found, meetings = drawn(by_person), drawn(by_meeting)
    centre = np.array(figures(np.ones(len(truth))))
    reach = student(len(names) - 1, confidence)
    parts = zip(centre.tolist(), found.T, meetings.T, strict=True)
    return [_interval(*part, reach) for part in parts]


def _interval(
    centre: float, found: NDArray[np.float64], meetings: NDArray[np.float64], reach: float
) -> Interval:
    """The interval of one figure; see :func:`bootstrap`."""
    if not np.ptp(found) > 0:  # nor where one is NaN
        return None
    spread = found.var()
    error = reach * np.sqrt(max(spread - 2 * meetings.var(), spread / 3))
    return float(centre - error), float(centre + error)


def _two_a_pair(people: ArrayLike, same: NDArray[np.bool_]) -> NDArray[Any]:
    whose = np.asarray(people)
    if whose.shape != (*same.shape, 2):
        raise EvaluationError(f"people {whose.shape} and same {same.shape}: give two people a pair")
    return whose


def _meetings(people: NDArray[Any]) -> int:
    """How many different pairs of people there are, at least 1."""
    return max(1, len(np.unique(np.sort(people, axis=1), axis=0)))


def log_odds(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(p / (1 - p)): a scale on which the error of a share near 0 or 1 is less lopsided."""
    return np.asarray(np.log(share) - np.log1p(-share), np.float64)


def _back(ends: Interval, share: float) -> Interval:
    """An interval of log odds as one of the share, which it holds even where that is 0 or 1."""
    if ends is None:
        return None
    low, high = (float(1 / (1 + np.exp(-end))) for end in ends)
    return min(low, share), max(high, share)


def student(freedom: int, confidence: float) -> float:
    """Student's two-sided quantile, to second order in 1 / freedom (Abramowitz and Stegun, 26.7.5)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2
