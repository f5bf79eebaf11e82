"""The pairs that are told most wrong: of each two people, or of each person, the worst one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["HardPair", "Hardest"]


@dataclass(frozen=True, slots=True)
class HardPair:
    """A pair that looks as it should not.

    Attributes:
        a: the number of one picture.
        b: of the other.
        score: their similarity.
    """

    a: int
    b: int
    score: float


class Scored(Protocol):
    """Pairs with their scores, such as a :class:`~facekit.evaluate.tiles.Tile`."""

    @property
    def scores(self) -> NDArray[np.floating[Any]]:
        """(p,); NaN is none."""

    def rows(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers (k, 2) of the pictures of the pairs at these places (k,)."""


class Hardest:
    """Keeps, of pairs that come in blocks, the highest scores: one of each two people.

    Pictures of two people come in many pairs, and if somebody's lie in two folders, all the worst ones would
    be his.

    Args:
        people: (n,) the number of the person on each picture.
        count: how many pairs to keep.
        sign: 1 for the highest scores, -1 for the lowest.
    """

    def __init__(self, people: NDArray[np.int64], count: int, *, sign: int = 1) -> None:
        self._people, self._count, self._sign = people, count, sign
        self._scores = np.empty(0)
        self._rows = np.empty((0, 2), np.int64)

    def offer(self, pairs: Scored, among: NDArray[np.bool_]) -> None:
        """Looks through more pairs: those of ``pairs`` that are ``among`` (p,) the ones to look at."""
        full = len(self._scores) == self._count
        floor = np.min(self._scores, initial=np.inf) if full else -np.inf
        at = np.flatnonzero((self._sign * pairs.scores > floor) & among)
        if not len(at):
            return
        values = np.append(self._scores, self._sign * pairs.scores[at].astype(np.float64))
        pictures = np.concatenate([self._rows, pairs.rows(at)])
        order = np.argsort(-values, kind="stable")
        whose = np.sort(self._people[pictures[order]], axis=1)
        first = np.unique(whose[:, 0] * (int(self._people.max()) + 1) + whose[:, 1], return_index=True)[1]
        best = order[np.sort(first)[: self._count]]
        self._scores, self._rows = values[best], pictures[best]

    def pairs(self) -> tuple[HardPair, ...]:
        """Those kept, the worst first."""
        return tuple(
            HardPair(a, b, self._sign * score)
            for (a, b), score in zip(self._rows.tolist(), self._scores.tolist(), strict=True)
        )
