"""All pairs of a folder of people: the figures, and how far to trust them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facekit.errors import EvaluationError
from facekit.evaluate.hardest import Hardest, HardPair
from facekit.evaluate.intervals import ACCEPTS, Intervals
from facekit.evaluate.jackknife import FEWEST_PEOPLE, divide, jackknife
from facekit.evaluate.roc import BINS, FARS, ROC, histograms, roc_of_counts
from facekit.evaluate.search import SearchReport, evaluate_search
from facekit.evaluate.tiles import count_pairs, tiles

__all__ = ["PeopleReport", "evaluate_people"]


@dataclass(frozen=True, slots=True, eq=False)
class PeopleReport:
    """How well all pairs of a set of people's pictures are told to show one person or two.

    There is no accuracy: of all pairs nearly all are of two people, and to say so of every pair would be
    right nearly always.

    Attributes:
        auc: area under the ROC.
        eer: equal error rate.
        tar_at_far: FAR -> TAR; None where there are too few impostor pairs for the rate.
        genuine: number of pairs of one person.
        impostor: number of pairs of two people.
        missing: number of pairs of which a picture had no face; these count as told to be two people.
        people: number of people.
        curve: the ROC.
        intervals: how far to trust the figures; None where there are fewer than ten people. A figure that
            hangs on fewer than ten wrong pairs has none.
        search: how well people are found; None where nobody has a second picture.
        false_accepts: the most alike pairs of two people; one of each two.
        false_rejects: the least alike pairs of one person; one of each.
    """

    auc: float
    eer: float
    tar_at_far: Mapping[float, float | None]
    genuine: int
    impostor: int
    missing: int
    people: int
    curve: ROC
    intervals: Intervals | None
    search: SearchReport | None
    false_accepts: tuple[HardPair, ...]
    false_rejects: tuple[HardPair, ...]

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values for JSON; rates become text, as in ``"0.001"``."""
        return {
            "auc": self.auc,
            "eer": self.eer,
            "tar_at_far": {f"{far:g}": tar for far, tar in self.tar_at_far.items()},
            "pairs": {"genuine": self.genuine, "impostor": self.impostor, "missing": self.missing},
            "people": self.people,
            "intervals": None if self.intervals is None else self.intervals.to_dict(),
            "search": None if self.search is None else self.search.to_dict(),
        }


def evaluate_people(
    vectors: NDArray[np.floating[Any]],
    labels: ArrayLike,
    *,
    lost: ArrayLike = (),
    fars: Sequence[float] = FARS,
    hardest: int = 12,
    confidence: float = 0.95,
) -> PeopleReport:
    """Compares all pictures with all, in one pass and in bounded memory, whatever their number.

    Scores are counted in steps of 2^-15. A pair without a score, because no face was found in one of its
    pictures, is not left out: it scores -1. Searches are made with the pictures that have a face.

    Args:
        vectors: (n, d), rows of unit length.
        labels: (n,) whose each is.
        lost: whose the pictures were that gave no vector.
        fars: the rates for TAR at FAR.
        hardest: how many of the pairs that are told most wrong to keep, of either kind.
        confidence: of the intervals, in (0, 1); see :func:`~facekit.evaluate.jackknife.jackknife`.

    Raises:
        EvaluationError: where there is no pair of one person, or none of two; for labels that do not fit
            the vectors, vectors that are not of unit length, and a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise EvaluationError(f"confidence is {confidence:g}: give a share above 0 and below 1, such as 0.95")
    tally = _Tally(np.asarray(labels), np.asarray(lost), hardest)
    tally.count(vectors)
    curve = tally.curve(None)
    return PeopleReport(
        auc=curve.auc,
        eer=curve.eer,
        tar_at_far={far: curve.tar_at_far(far) if curve.reaches(far) else None for far in fars},
        genuine=curve.genuine,
        impostor=curve.impostor,
        missing=tally.missing,
        people=tally.people,
        curve=curve,
        intervals=_intervals(tally, curve, fars, confidence),
        search=_search(vectors, tally.labels),
        false_accepts=tally.accepts.pairs(),
        false_rejects=tally.rejects.pairs(),
    )


class _Tally:
    """Counts of scores: of all pairs, and of those that each part of the people has a share in.

    With them the curve without a part is a subtraction.
    """

    def __init__(self, labels: NDArray[Any], lost: NDArray[Any], hardest: int) -> None:
        given = np.concatenate([labels.reshape(-1), lost.reshape(-1).astype(labels.dtype, copy=False)])
        names, numbers = np.unique(given, return_inverse=True)
        self.people, self._whose = len(names), numbers.reshape(-1)
        self.labels = self._whose[: labels.size]
        self._part = divide(len(names))[self._whose]
        self.parts = int(self._part.max(initial=-1)) + 1
        self.genuine = np.zeros((self.parts, len(BINS)), np.int64)
        self.touching = np.zeros((self.parts, len(BINS)), np.int64)
        self.impostor = np.zeros(len(BINS), np.int64)
        self.accepts = Hardest(self.labels, hardest)
        self.rejects = Hardest(self.labels, hardest, sign=-1)

    def count(self, vectors: NDArray[np.floating[Any]]) -> None:
        n = len(self.labels)
        for tile in tiles(vectors, self.labels, self._part[:n]):
            every, own = histograms(tile)
            other = every - own
            p, q = tile.parts
            self.genuine[p] += own
            self.impostor += other
            self.touching[p] += other
            if p != q:
                self.touching[q] += other
            self.accepts.offer(tile, ~tile.same)
            if own.any():
                self.rejects.offer(tile, tile.same)
        everybody = count_pairs(self._whose, self._part, self.parts)
        seen = count_pairs(self.labels, self._part[:n], self.parts)
        self.genuine[:, 0] += everybody.genuine - seen.genuine
        self.touching[:, 0] += everybody.touching - seen.touching
        self.impostor[0] += everybody.impostor - seen.impostor
        self.missing = everybody.total - seen.total

    def curve(self, without: int | None) -> ROC:
        """The ROC, of all people or without a part of them.

        Raises:
            EvaluationError: pairs of one of the kinds do not remain.
        """
        genuine, impostor = self.genuine.sum(0), self.impostor
        if without is not None:
            genuine, impostor = genuine - self.genuine[without], impostor - self.touching[without]
        return roc_of_counts(BINS, genuine, impostor)


def _intervals(tally: _Tally, curve: ROC, fars: Sequence[float], confidence: float) -> Intervals | None:
    """Of the figures that hang on ten wrong pairs of either kind or more; of fewer nobody can tell."""
    if tally.people < FEWEST_PEOPLE:
        return None
    rates = [
        far
        for far in fars
        if curve.reaches(far / ACCEPTS) and (1 - curve.tar_at_far(far)) * curve.genuine >= ACCEPTS
    ]
    enough = curve.eer * min(curve.genuine, curve.impostor) >= ACCEPTS

    def figures(without: int | None) -> list[float]:
        try:
            some = tally.curve(without)
            return [some.auc, some.eer, *(some.tar_at_far(far) for far in rates)]
        except EvaluationError:  # without these people there is nothing to measure
            return [math.nan] * (2 + len(rates))

    auc, eer, *tars = jackknife(figures, tally.parts, confidence=confidence)
    tar_at_far = dict.fromkeys(fars) | dict(zip(rates, tars, strict=True))
    if not enough:
        auc = eer = None
    return Intervals(confidence, tally.people, None, auc, eer, tar_at_far)


def _search(vectors: NDArray[np.floating[Any]], people: NDArray[np.int64]) -> SearchReport | None:
    number = len(np.unique(people))
    return evaluate_search(vectors, people) if 1 < number < len(people) else None
