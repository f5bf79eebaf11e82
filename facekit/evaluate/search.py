"""Open-set search: how often the right person is found among the enrolled, and a stranger taken for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facekit.errors import EvaluationError
from facekit.evaluate.roc import roc

__all__ = ["SearchReport", "evaluate_search"]

_AT_ONCE = 2**24  # scores in memory
_NOBODY = -2.0  # below every similarity: the score of a search that finds the wrong person first


@dataclass(frozen=True, slots=True)
class SearchReport:
    """How well people are found in a gallery that also strangers search.

    Attributes:
        rank1: share of searches whose most similar person is the right one, at any similarity.
        tpir_at_fpir: false positive identification rate, the share of strangers' searches that find
            somebody -> true positive identification rate, the share of searches that find the right
            person first, at the threshold of that rate; None where there are too few searches for it.
        gallery: number of people enrolled, with a picture each.
        probes: number of searches.
    """

    rank1: float
    tpir_at_fpir: Mapping[float, float | None]
    gallery: int
    probes: int

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON; rates become text, as in ``"0.01"``."""
        rates = {f"{fpir:g}": tpir for fpir, tpir in self.tpir_at_fpir.items()}
        return {"rank1": self.rank1, "tpir_at_fpir": rates, "gallery": self.gallery, "probes": self.probes}


def evaluate_search(
    vectors: NDArray[np.floating[Any]], labels: ArrayLike, *, fpirs: Sequence[float] = (1e-1, 1e-2, 1e-3)
) -> SearchReport:
    """Enrols everybody's first picture, and searches with all others.

    Each search is made twice: as it is, and with the prober taken out of the gallery, which makes a
    stranger of him. So all pictures serve both rates, and the gallery is as large as the set allows.

    Args:
        vectors: (n, d), rows of unit length.
        labels: (n,) whose each is.
        fpirs: the rates for TPIR at FPIR, each in (0, 1).

    Raises:
        EvaluationError: where nobody has two pictures, or there is one person; for labels that do not fit.
    """
    rows = np.asarray(vectors)
    names, first, people = np.unique(np.asarray(labels), return_index=True, return_inverse=True)
    probes = np.setdiff1d(np.arange(len(people)), first)
    if rows.ndim != 2 or len(rows) != len(people):
        raise EvaluationError(f"vectors {rows.shape} and {len(people)} labels: give one label a row")
    if len(names) < 2 or not len(probes):
        raise EvaluationError(
            f"{len(names)} people and {len(probes)} further pictures: a search needs at least 2 and 1"
        )
    gallery = np.asarray(rows[first], np.float32)
    own, other = np.empty(len(probes)), np.empty(len(probes))
    step = max(1, _AT_ONCE // len(names))
    for start in range(0, len(probes), step):
        part = probes[start : start + step]
        scores = np.asarray(rows[part], np.float32) @ gallery.T
        mine = np.arange(len(part)), people[part]
        own[start : start + step] = scores[mine]
        scores[mine] = -np.inf
        other[start : start + step] = scores.max(1)
    found = own > other
    curve = roc(np.where(found, own, _NOBODY), other)
    return SearchReport(
        rank1=float(found.mean()),
        tpir_at_fpir={fpir: curve.tar_at_far(fpir) if curve.reaches(fpir) else None for fpir in fpirs},
        gallery=len(names),
        probes=len(probes),
    )
