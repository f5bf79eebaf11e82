"""Who is on pictures that nobody has labelled, as far as a teacher can tell: people, found by clustering."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from facekit.errors import TrainingError
from facekit.grouping import group_pairs
from facekit.similarity import pair_blocks

__all__ = ["KnownPeople", "PseudoIdentities", "find_identities", "mean_vectors"]

Floats = NDArray[np.floating]

_MOST_PAIRS = 1 << 25  # that group_pairs takes; 8 GB
_BLOCK = 1024  # groups that are compared with all known people at a time


@dataclass(frozen=True, slots=True, eq=False)
class KnownPeople:
    """People of whom labelled pictures exist.

    Attributes:
        names: of each.
        means: (k, d), the mean of the unit vectors of each person's pictures; not of unit length.
        heldout: (k,) bool, on whom the student will be measured.
    """

    names: tuple[str, ...]
    means: Floats
    heldout: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class PseudoIdentities:
    """Whom a pile of pictures shows.

    Attributes:
        names: of the people, the one with the largest group first; those of known people are theirs.
        labels: (n,) int64, which name each picture has; -1 where it is left out.
        known: how many of the names are of known people.
        heldout: pictures that are left out because they resemble people who are held out.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int64]
    known: int
    heldout: int


def find_identities(
    vectors: Floats, threshold: float, *, least: int, people: KnownPeople
) -> PseudoIdentities:
    """Group pictures by average linkage, and give each group a name.

    A group that resembles a labelled person has that person's name, so that nobody has two. The rule is the
    one by which groups merge: the mean similarity of all pairs across reaches the threshold; of several
    people, the nearest counts. Whoever resembles a held-out person is left out, since learning them would
    flatter the figures.

    Memory grows with the pictures, the known people, and the pairs that reach the threshold.

    Args:
        vectors: (n, d) of unit length.
        threshold: mean similarity of one person's pictures.
        least: pictures of the smallest group that counts.
        people: who is known.

    Raises:
        TrainingError: too many pairs reach the threshold, or fewer than two people are found.
    """
    groups = [
        g
        for g in group_pairs(len(vectors), *_pairs(vectors, threshold), threshold, vectors=vectors)
        if len(g) >= least
    ]
    nearest = _nearest(vectors, groups, people, threshold)
    fresh = (f"pseudo-{number:06d}" for number in count(1))
    taken, places = set(people.names), dict[str, int]()
    labels = np.full(len(vectors), -1, np.int64)
    heldout = known = 0
    for group, person in zip(groups, nearest, strict=True):
        if person >= 0 and people.heldout[person]:
            heldout += len(group)
            continue
        name = people.names[person] if person >= 0 else next(name for name in fresh if name not in taken)
        known += int(person >= 0 and name not in places)
        labels[list(group)] = places.setdefault(name, len(places))
    if len(places) < 2:
        raise TrainingError(
            f"threshold={threshold:.4g}: {len(places)} people with {least} pictures or more are found in a"
            f" pile of {len(vectors)} pictures; give a lower --threshold, a lower --least, or another pile"
        )
    return PseudoIdentities(tuple(places), labels, known, heldout)


def mean_vectors(vectors: Floats, labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """(classes, d): the mean of each class's vectors; 0 where there are none."""
    sums = np.zeros((classes, vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    counts = np.bincount(labels, minlength=classes)
    return np.asarray(sums / np.maximum(counts, 1)[:, None], np.float32)


def _pairs(vectors: Floats, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """All pairs that reach the threshold, and their scores."""
    pairs, scores, found = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)], 0
    for block, score in pair_blocks(vectors, threshold):
        found += len(score)
        if found > _MOST_PAIRS:
            raise TrainingError(
                f"threshold={threshold:.4g}: more than {_MOST_PAIRS:,} pairs of the pile reach it; "
                "give a higher --threshold, or a smaller pile"
            )
        pairs.append(block)
        scores.append(score)
    return np.concatenate(pairs), np.concatenate(scores)


def _nearest(
    vectors: Floats, groups: list[tuple[int, ...]], people: KnownPeople, threshold: float
) -> NDArray[np.int64]:
    """(groups,) which known person each group resembles; -1 for nobody."""
    if not groups or not len(people.means):
        return np.full(len(groups), -1, np.int64)
    means = np.stack([vectors[list(group)].mean(axis=0) for group in groups]).astype(np.float32)
    found = []
    for start in range(0, len(means), _BLOCK):
        scores = means[start : start + _BLOCK] @ people.means.T
        best = scores.argmax(axis=1)
        found.append(np.where(scores[np.arange(len(best)), best] >= threshold, best, -1))
    return np.concatenate(found)
