"""Who a face resembles: the people whose best sample is most alike, or nobody that is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facekit.errors import SettingError
from facekit.similarity import Index, Vectors

__all__ = ["Identification", "Match", "PersonIndex"]


@dataclass(frozen=True, slots=True)
class Match:
    """A person of the gallery, by the one sample that is most alike; unpacks as (person, similarity).

    Attributes:
        person: who.
        similarity: cosine in [-1, 1] of the probe and the sample.
        source: where the sample came from.
        rank: 1 for the best.
    """

    person: str
    similarity: float
    source: str
    rank: int

    def __iter__(self) -> Iterator[Any]:
        yield self.person
        yield self.similarity

    def to_dict(self) -> dict[str, Any]:
        """The match as plain values for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Identification:
    """Who it is, or that it is nobody in the gallery; true where it is somebody, formatted as the name.

    Attributes:
        person: None for a stranger.
        best: the candidate, known or not; None where the gallery is empty.
        threshold: the similarity from which on it is the candidate.
        far: the rate at which a stranger reaches the threshold with *one* face of the gallery; with n of
            them he has up to n chances. None where that was not measured.
    """

    person: str | None
    best: Match | None
    threshold: float
    far: float | None = None

    @property
    def similarity(self) -> float:
        """Of the candidate; -1 where there is none."""
        return -1.0 if self.best is None else self.best.similarity

    def __bool__(self) -> bool:
        return self.person is not None

    def __str__(self) -> str:
        return "unknown" if self.person is None else self.person

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def to_dict(self) -> dict[str, Any]:
        """The answer as plain values for JSON; the person of a stranger is null."""
        best = None if self.best is None else self.best.to_dict()
        return {"person": self.person, "best": best, "threshold": self.threshold, "far": self.far}


class PersonIndex:
    """Embedded faces of people, made ready to be searched; never changes, safe to share between threads.

    Args:
        vectors: (n, d) of unit length.
        people: n names, whose face each is.
        sources: n texts, where each came from.
        device: where to search; by default where the vectors are.
    """

    def __init__(
        self,
        vectors: Vectors,
        people: Sequence[str],
        sources: Sequence[str],
        *,
        device: str | torch.device | None = None,
    ) -> None:
        self._index = Index(vectors, device=device)
        self._people, self._sources = people, sources
        self._sizes = sorted(Counter(people).values(), reverse=True)

    def search(self, probes: NDArray[np.float32], top_k: int) -> list[list[Match]]:
        """For each probe (q, d) the ``top_k`` people, or all, best first; equal ones by their first row.

        Asks for more and more samples until each probe has its people among them.

        Raises:
            SettingError: ``top_k`` below 1, or probes of another dimension or length.
        """
        asked: Any = top_k
        if isinstance(asked, bool) or not isinstance(asked, Integral) or top_k < 1:
            raise SettingError(f"top_k is {top_k!r}: ask for a whole number, at least 1")
        top_k = min(top_k, len(self._sizes))
        found: list[list[Match]] = [[] for _ in probes]
        left = np.arange(len(probes) if top_k else 0)
        enough = 1 + sum(self._sizes[: top_k - 1])  # one more than the top_k - 1 largest people can fill
        depth = min(enough, 4 * top_k)
        while len(left):
            scores, rows = self._index.top_k(probes[left], depth)
            for probe, *ranking in zip(left.tolist(), scores.tolist(), rows.tolist(), strict=True):
                found[probe] = self._best_of_each(*ranking)[:top_k]
            left = np.array([probe for probe in left.tolist() if len(found[probe]) < top_k], np.int64)
            depth = min(enough, 8 * depth)
        return found

    def _best_of_each(self, similarities: list[float], rows: list[int]) -> list[Match]:
        best: dict[str, Match] = {}
        for similarity, row in zip(similarities, rows, strict=True):
            person = self._people[row]
            if person not in best:
                best[person] = Match(person, similarity, self._sources[row], len(best) + 1)
        return list(best.values())
