"""Which of many pictures stay: the best of near-duplicates, so many of a person, the best of all.

Vectors pass by in blocks and none is kept; what is known of a picture for choosing takes some 50 bytes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from facekit.errors import SettingError
from facekit.similarity import top_k

__all__ = ["VectorRows", "best", "find_repeats", "within_quota"]

_WINDOW = 1 << 15  # pictures of a group that are compared with each other: 64 MiB of 512 dimensions
_EQUAL = 1 - 1e-6  # as alike as float32 can tell
_BLOCK = 1024  # pictures that are compared with those that stay at a time

Floats = NDArray[np.floating[Any]]


class VectorRows(Protocol):
    """An array (n, d), or what is read from a disk as if it were one."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> NDArray[np.float32]: ...


def find_repeats(
    vectors: VectorRows, groups: NDArray[np.integer[Any]], quality: Floats, limit: float
) -> NDArray[np.int64]:
    """Near-duplicates: which better picture of its group each picture repeats.

    From the best picture on, one stays if it is less alike than ``limit`` to all that stay. So no two that
    stay are as alike as that, and each that goes is as alike to one that stays and is at least as good.
    A group of more than 32,768 pictures, such as a pile of unknown people, is gone through in windows of so
    many: the pictures of each are also compared with those that stayed in the window before, which then stay
    whatever their quality. No n x n array is made.

    Args:
        vectors: (n, d) of unit length.
        groups: (n,) such as the person: only pictures of one group are compared. Equal ones follow each
            other.
        quality: (n,) the higher the better, of equals the first; a picture of which it is NaN takes no part.
        limit: similarity from which pictures repeat each other; 1 asks for equal vectors, and counts as
            1 - 1e-6, because the product of a float32 vector with itself may be less than 1.

    Returns:
        (n,) index of the picture that each repeats; -1 for those that stay or take no part.

    Raises:
        SettingError: shapes that do not fit, or groups that come back.
    """
    if not len(vectors) == len(groups) == len(quality):
        shapes = f"{len(vectors)} vectors, {len(groups)} groups and {len(quality)} qualities"
        raise SettingError(f"{shapes}: give one of each a picture")
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1)) if len(groups) else np.empty(0, np.int64)
    if len(np.unique(groups)) < len(starts):
        raise SettingError("groups: one comes back after another; sort the pictures by group")
    repeats = np.full(len(groups), -1, np.int64)
    limit = min(limit, _EQUAL)
    for start, end in pairwise([*starts, len(groups)]):
        if end - start > 1:
            _go_through(vectors, quality, limit, range(int(start), int(end)), repeats)
    return repeats


def within_quota(
    scores: Floats, people: NDArray[np.integer[Any]], most: int, among: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """(n,) whether a picture is one of the best of its person, of equals the first.

    Args:
        scores: (n,) the higher the better.
        people: (n,) whose each is.
        most: pictures of a person.
        among: (n,) those that count.
    """
    rows = np.flatnonzero(among)
    order = rows[np.lexsort((-scores[rows], people[rows]))]
    person = people[order]
    place = np.arange(len(order)) - np.searchsorted(person, person)
    chosen = np.zeros(len(scores), bool)
    chosen[order[place < most]] = True
    return chosen


def best(scores: Floats, most: int, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,) whether a picture is one of the ``most`` best of those that count, of equals the first."""
    rows = np.flatnonzero(among)
    chosen = np.zeros(len(scores), bool)
    if most >= len(rows):
        chosen[rows] = True
    elif most > 0:
        last = np.partition(scores[rows], -most)[-most]
        better = rows[scores[rows] > last]
        chosen[better] = True
        chosen[rows[scores[rows] == last][: most - len(better)]] = True
    return chosen


def _go_through(
    vectors: VectorRows, quality: Floats, limit: float, rows: range, repeats: NDArray[np.int64]
) -> None:
    """One group, window by window; fills in ``repeats``."""
    before = np.empty(0, np.int64)
    kept: NDArray[np.float32] | None = None
    for start in range(rows.start, rows.stop, _WINDOW):
        window = slice(start, min(start + _WINDOW, rows.stop))
        order = np.argsort(-quality[window], kind="stable")
        order = order[~np.isnan(quality[window][order])]
        part = vectors[window]
        stays = _Stays(part.shape[1], limit, before, kept)
        for first in range(0, len(order), _BLOCK):
            chosen = order[first : first + _BLOCK]
            stays.look(part[chosen], chosen + start, repeats)
        new = stays.rows[len(before) :]
        before, kept = new, part[new - start]


class _Stays:
    """The pictures of a window that stay, after those of the window before."""

    def __init__(
        self, dim: int, limit: float, rows: NDArray[np.int64], vectors: NDArray[np.float32] | None
    ) -> None:
        self.limit = limit
        self.rows = rows
        self.vectors = np.empty((0, dim), np.float32) if vectors is None else vectors

    def look(self, vectors: NDArray[np.float32], rows: NDArray[np.int64], repeats: NDArray[np.int64]) -> None:
        """Takes in those of a block, the best first, that repeat none."""
        left = np.arange(len(rows))
        if len(self.rows):
            scores, nearest = top_k(vectors, self.vectors, 1)
            hit = scores[:, 0] >= self.limit
            repeats[rows[hit]] = self.rows[nearest[hit, 0]]
            left = left[~hit]
        exact = vectors[left].astype(np.float64)  # and rounded once, as by top_k
        scores = (exact @ exact.T).astype(np.float32)
        free = np.ones(len(left), bool)
        for place, row in enumerate(rows[left]):
            if free[place]:
                alike = free & (scores[place] >= self.limit)
                alike[: place + 1] = False
                repeats[rows[left[alike]]] = row
                free &= ~alike
        self.rows = np.concatenate([self.rows, rows[left[free]]])
        self.vectors = np.concatenate([self.vectors, vectors[left[free]]])
