"""Pairs that match become groups by average linkage, cut at the threshold.

Joining whatever matches (single linkage) chains strangers together: A is like B, B is like C, and so
A and C become one person. Here two groups merge while the *mean* similarity over all pairs across
them reaches the threshold, the most alike first. Hence the mean over all pairs inside a group reaches
it as well, and no two groups are left that could still merge.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekit.errors import SettingError

__all__ = ["group_pairs"]

_ROUNDING = 1e-9  # a mean of equal numbers may come out a little below them


def group_pairs(
    count: int,
    pairs: NDArray[np.integer[Any]],
    scores: NDArray[np.floating[Any]],
    threshold: float,
    *,
    vectors: NDArray[np.floating[Any]] | None = None,
    missing: float = 0.0,
    cannot_link: NDArray[np.integer[Any]] | None = None,
) -> list[tuple[int, ...]]:
    """Groups the items 0 ... count - 1 by average linkage, from their matching pairs alone.

    The result is that of hierarchical clustering of the full similarity matrix, cut at the threshold.
    The pairs at or above it suffice, because a mean reaches the threshold only where some pair does.
    Groups merge as soon as each is the other's nearest, which is found by walking from a group to its
    nearest, and on (nearest-neighbour chain, Murtagh 1983); for average linkage that equals merging
    the two nearest of all. No matrix is made: m items that hang together, with k neighbours each, take
    about m * k steps where the groups are small, m * m where all become one, and about 250 bytes a pair.

    Args:
        count: number of items.
        pairs: (p, 2), the items of each pair: all pairs at or above the threshold, and perhaps others.
            Of a pair that is given twice the lowest score counts.
        scores: (p,) similarities of the pairs.
        threshold: the mean similarity at which two groups merge (inclusive).
        vectors: (count, d) whose inner products are the similarities of the pairs that are not given.
        missing: without vectors, the similarity of every pair that is not given. With ``-math.inf``,
            groups are such that all their pairs are given (complete linkage).
        cannot_link: (c, 2) items that are never in one group, such as two faces of one picture.

    Returns:
        The groups of two or more, items ascending: the largest first, those of equal size by first
        item. The order of the pairs makes no difference, the numbering of the items only where
        similarities are exactly equal.

    Raises:
        SettingError: for pairs of one item with itself or of items that do not exist, scores that are
            not finite, arrays whose shapes do not fit, or ``missing`` not below the threshold.
    """
    pairs, apart = _checked_pairs("pairs", pairs, count), _checked_pairs("cannot_link", cannot_link, count)
    given = np.asarray(scores, np.float64)
    if given.shape != (len(pairs),) or not np.isfinite(given).all():
        raise SettingError(
            f"scores has shape {given.shape}: give a finite number for each of {len(pairs)} pairs"
        )
    if vectors is not None and (vectors.ndim != 2 or len(vectors) != count):
        raise SettingError(f"vectors has shape {vectors.shape}: give a row for each of {count} items")
    if vectors is None and not missing < threshold:
        raise SettingError(f"missing is {missing:g}: give less than the threshold, {threshold:g}")
    # minus infinity stays so in every sum, and thereby keeps two groups apart for good
    known = np.concatenate([given, np.full(len(apart), -np.inf)])
    items, ends = np.unique(np.concatenate([pairs, apart]), return_inverse=True)
    linkage = _AverageLinkage(len(items), missing, None if vectors is None else vectors[items])
    linkage.connect(ends.reshape(-1, 2), known)
    linkage.run(threshold - _ROUNDING)
    groups = (tuple(np.sort(items[members]).tolist()) for members in linkage.members if len(members) > 1)
    return sorted(groups, key=lambda group: (-len(group), group[0]))


class _AverageLinkage:
    """Groups that merge with their nearest.

    Attributes:
        members: the items of each group; none where a group has become part of another.
        near: for each group that may still grow, its neighbours: the groups that it shares a given
            pair with, and the mean similarity of all pairs across the two.
        sums: (count, d), the sum of each group's vectors: the inner product of two such sums is the
            sum of all inner products across.
    """

    def __init__(self, count: int, missing: float, vectors: NDArray[np.floating[Any]] | None) -> None:
        self.members = [[item] for item in range(count)]
        self.near: list[dict[int, float]] = [{} for _ in range(count)]
        self.missing = missing
        self.sums = None if vectors is None else np.array(vectors, np.float32)

    def connect(self, ends: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
        low, high = ends.min(axis=1), ends.max(axis=1)
        order = np.lexsort((-scores, high, low))  # the lowest score of a pair comes last, and stays
        for i, j, score in zip(*(part[order].tolist() for part in (low, high, scores)), strict=True):
            self.near[i][j] = self.near[j][i] = score

    def run(self, threshold: float) -> None:
        for first in range(len(self.near)):
            chain = [first]
            while chain:
                near = self.near[chain[-1]]
                nearest = max(near, key=near.__getitem__, default=-1)
                if nearest < 0 or near[nearest] < threshold:
                    self.retire(chain.pop())
                elif len(chain) > 1 and near[nearest] == near.get(chain[-2]):
                    merged = self.merge(chain.pop(), chain.pop())
                    chain = chain or [merged]
                else:  # along the chain the mean strictly rises, so that it ends
                    chain.append(nearest)

    def merge(self, into: int, gone: int) -> int:
        """Makes one group of two, and returns its number."""
        if len(self.near[into]) < len(self.near[gone]):
            into, gone = gone, into
        ours, theirs = self.near[into], self.near[gone]
        del ours[gone], theirs[into]
        ours.update(self.means(into, [other for other in theirs if other not in ours]))
        theirs.update(self.means(gone, [other for other in ours if other not in theirs]))
        a, b = len(self.members[into]), len(self.members[gone])
        for other, mean in theirs.items():
            neighbours = self.near[other]
            neighbours.pop(gone, None)
            ours[other] = neighbours[into] = (a * ours[other] + b * mean) / (a + b)
        self.near[gone] = {}
        self.members[into] += self.members[gone]
        self.members[gone] = []
        if self.sums is not None:
            self.sums[into] += self.sums[gone]
        return into

    def means(self, group: int, others: list[int]) -> Iterable[tuple[int, float]]:
        """The mean similarity to groups of which no pair is given."""
        if self.sums is None:
            return ((other, self.missing) for other in others)
        pairs = len(self.members[group]) * np.array([len(self.members[other]) for other in others])
        return zip(others, (self.sums[others] @ self.sums[group] / pairs).tolist(), strict=True)

    def retire(self, group: int) -> None:
        """Forgets a group that is complete: no merge of others brings them nearer to it."""
        for other in self.near[group]:
            del self.near[other][group]
        self.near[group] = {}


def _checked_pairs(name: str, pairs: NDArray[np.integer[Any]] | None, count: int) -> NDArray[np.int64]:
    found = np.empty((0, 2), np.int64) if pairs is None or len(pairs) == 0 else np.asarray(pairs)
    if found.ndim != 2 or found.shape[1] != 2 or found.dtype.kind not in "iu":
        raise SettingError(f"{name} is {found.dtype} of shape {found.shape}: give two item numbers a row")
    wrong = (found < 0).any(axis=1) | (found >= count).any(axis=1) | (found[:, 0] == found[:, 1])
    if wrong.any():
        at = int(wrong.argmax())
        raise SettingError(f"{name}[{at}] is {found[at].tolist()}: give two different items below {count}")
    return found.astype(np.int64)
