"""All pairs of a labelled set, block by block: the scores, and which are of one person."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facekit.errors import EvaluationError

__all__ = ["PairCounts", "Tile", "count_pairs", "tiles"]


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """The pairs of two blocks of pictures, each once.

    Attributes:
        parts: the part of the people that either block is of.
        scores: (p,) float32.
        same: (p,) whether a pair is of one person.
        left: (l,) int64, the rows of the vectors in one block.
        right: (r,) int64, those in the other.
        kept: (p,) int64, which of the l * r products are pairs; None for all, in order.
    """

    parts: tuple[int, int]
    scores: NDArray[np.float32]
    same: NDArray[np.bool_]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    kept: NDArray[np.int64] | None

    def rows(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows (k, 2) of the vectors that the pairs at these places (k,) are of."""
        flat = at if self.kept is None else self.kept[at]
        return np.stack([self.left[flat // len(self.right)], self.right[flat % len(self.right)]], axis=1)


def tiles(
    vectors: NDArray[np.floating[Any]],
    people: NDArray[np.int64],
    parts: NDArray[np.int64] | None = None,
    *,
    block: int = 1024,
) -> Iterator[Tile]:
    """All pairs i < j of the vectors, in blocks of at most ``block`` x ``block``.

    Args:
        vectors: (n, d), rows of unit length.
        people: (n,) the number of the person whom each is of.
        parts: (n,) the number of the part that it belongs to; a tile is of one part, or of two. By default
            all are one.
        block: side of the blocks; each of their scores takes about 20 bytes.

    Raises:
        EvaluationError: labels do not fit the vectors, or these are not of unit length.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or len(vectors) != len(people):
        raise EvaluationError(f"vectors {vectors.shape} and {len(people)} labels: give one label a row")
    part = np.zeros(len(people), np.int64) if parts is None else parts
    order = np.argsort(part, kind="stable")
    blocks = [
        rows[start : start + block]
        for rows in np.split(order, np.flatnonzero(np.diff(part[order])) + 1)
        for start in range(0, len(rows), block)
    ]
    for i, rows in enumerate(blocks):
        left = np.asarray(vectors[rows], np.float32)
        if not np.all(np.abs(np.linalg.norm(left, axis=1) - 1) <= 1e-3):
            raise EvaluationError("the vectors are not all of unit length: divide each by its own")
        for other in blocks[i:]:
            scores = (left @ np.asarray(vectors[other], np.float32).T).reshape(-1)
            same = (people[rows, None] == people[other]).reshape(-1)
            kept = None
            if other is rows:
                kept = np.flatnonzero(np.triu(np.ones((len(rows), len(rows)), np.bool_), 1))
                scores, same = scores[kept], same[kept]
            yield Tile((int(part[rows[0]]), int(part[other[0]])), scores, same, rows, other, kept)


class PairCounts(NamedTuple):
    """How many pairs a set has.

    Attributes:
        genuine: (k,) in each part of the people.
        touching: (k,) of two people, one of them at least in each part.
        impostor: of two people, in all.
    """

    genuine: NDArray[np.int64]
    touching: NDArray[np.int64]
    impostor: int

    @property
    def total(self) -> int:
        """Of both kinds."""
        return self.impostor + int(self.genuine.sum())


def count_pairs(people: NDArray[np.int64], parts: NDArray[np.int64], number: int) -> PairCounts:
    """Counts pairs without looking at one.

    Args:
        people: (n,) the number of the person whom each picture is of.
        parts: (n,) the number of the part of the people that he belongs to.
        number: of the parts, k.
    """
    each = np.bincount(people)
    home = np.zeros(len(each), np.int64)
    home[people] = parts
    genuine = np.zeros(number, np.int64)
    np.add.at(genuine, home, each * (each - 1) // 2)
    size, n = np.bincount(parts, minlength=number), len(people)
    touching = size * (n - size) + size * (size - 1) // 2 - genuine
    return PairCounts(genuine, touching, int(n * (n - 1) // 2 - genuine.sum()))
