"""What is wrong with a labelled set of faces: pictures under a wrong name, and people under two names.

The set is its own yardstick. A picture is compared with the centre of each person's pictures, itself left
out; what it scores with other people than its own says how alike strangers are to this network on these
pictures. A label is doubted

* if the picture looks like somebody else: less like its own person than 1 of 100 strangers, and more like the
  suggested one than 9 of 10 pictures are like a second other person, or
* if it looks like nobody: less like its person than 1 of 10 strangers, though at least three other pictures
  say who that is.

Then the centres are made anew without what is doubted, and all is judged once more. A person's only picture
can contradict nobody, so it is never called mislabelled, and where all pictures of a person are doubted, one
is spared; if it looks like somebody else, that is a person under two names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekit.errors import EvaluationError
from facekit.similarity import pairs_above, top_k

__all__ = ["Audit", "Doubt", "Limits", "Resemblance", "audit_labels", "find_resemblances"]

_BLOCK = 2048  # pictures whose scores with all people are held at a time
_BINS = 4096  # of similarities from -1 to 1, to read rates of false accepts from
_SAMPLED = 256  # people with whom each picture is scored for that
_ENOUGH = 1000  # such scores: ten of them are 1 of 100
_ROUNDS = 2  # the first cleans the centres, the second judges
_CERTAIN = 3  # other pictures that outweigh one

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Similarities from which a face may be, or must be, that of a person.

    Attributes:
        lone: what 1 of 10 strangers reaches: less is nobody's own face.
        own: what 1 of 100 strangers reaches: less may be a stranger's face.
        other: what 1 of 10 pictures reaches with the second most alike of all other people.
        names: what 1 of 1000 people reaches with the second most alike of all other people, and 9 of 10
            pictures with their own.
    """

    lone: float
    own: float
    other: float
    names: float


@dataclass(frozen=True, slots=True)
class Doubt:
    """A picture that does not look like its person.

    Attributes:
        row: which.
        person: its label.
        suggestion: the label that it looks like; None if it looks like nobody in the set.
        own: similarity to the other pictures of its person.
        other: similarity to the most alike other person.
    """

    row: int
    person: int
    suggestion: int | None
    own: float
    other: float


@dataclass(frozen=True, slots=True)
class Resemblance:
    """Two people who look like one.

    Attributes:
        person: label of the one with fewer pictures; in :func:`find_resemblances`, of the first set.
        other: label of the other.
        similarity: of their centres.
    """

    person: int
    other: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found, the most certain first.

    Attributes:
        doubts: pictures that seem to be mislabelled.
        two_names: people who seem to be one.
        limits: by which that was judged.
    """

    doubts: tuple[Doubt, ...]
    two_names: tuple[Resemblance, ...]
    limits: Limits


def audit_labels(vectors: Floats, labels: NDArray[np.integer[Any]], *, limits: Limits | None = None) -> Audit:
    """Finds pictures under a wrong name and people under two.

    Time grows with pictures x people; memory with the pictures, the people, and 2,048 x people.

    Args:
        vectors: (n, d) of unit length.
        labels: (n,) whose each is, 0 ... c - 1.
        limits: for sets that are too small to measure them on.

    Raises:
        EvaluationError: fewer than two people, labels that do not fit, or too few to measure limits on.
    """
    if vectors.ndim != 2 or labels.shape != vectors.shape[:1]:
        raise EvaluationError(f"vectors {vectors.shape} and labels {labels.shape}: give one label a row")
    if len(np.unique(labels)) < 2:
        raise EvaluationError("one person: labels can be judged where there are two or more")
    return _audit(vectors, np.asarray(labels, np.int64), limits)


def find_resemblances(
    vectors: Floats,
    labels: NDArray[np.integer[Any]],
    others: Floats,
    other_labels: NDArray[np.integer[Any]],
    *,
    threshold: float,
) -> tuple[Resemblance, ...]:
    """People of one set who look like somebody in another, each with the most alike there; best first.

    Args:
        vectors: (n, d) of unit length.
        labels: (n,) whose each is.
        others: (m, d) of unit length: the other set.
        other_labels: (m,).
        threshold: similarity of centres, such as ``Limits.names``.
    """
    centres, people = _centres(vectors, np.asarray(labels, np.int64))
    there, names = _centres(others, np.asarray(other_labels, np.int64))
    scores, nearest = top_k(centres, there, 1)
    found = [
        Resemblance(int(person), int(names[index]), round(float(score), 4))
        for person, score, index in zip(people, scores[:, 0], nearest[:, 0], strict=True)
        if score >= threshold
    ]
    return tuple(sorted(found, key=lambda item: -item.similarity))


def _audit(vectors: Floats, labels: NDArray[np.int64], limits: Limits | None) -> Audit:
    kept = np.ones(len(labels), bool)
    doubted = np.zeros(len(labels), bool)
    for _ in range(_ROUNDS):
        seen = _look(vectors, labels, kept)
        measured = _measured(seen, _centres(vectors, labels, kept)[0], limits)
        # where nobody is left to compare with, what was thought before stands
        doubted = np.where(seen.companions > 0, _doubted(seen, measured), doubted)
        doubted[_spared(labels, doubted, seen)] = False
        kept = ~doubted
    told = doubted & (seen.other >= measured.other)
    order = np.flatnonzero(doubted)[np.argsort((seen.own - seen.other)[doubted], kind="stable")]
    doubts = tuple(
        Doubt(
            int(row),
            int(labels[row]),
            int(seen.nearest[row]) if told[row] else None,
            round(float(seen.own[row]), 4),
            round(float(seen.other[row]), 4),
        )
        for row in order
    )
    sizes = np.bincount(labels[kept], minlength=int(labels.max()) + 1)
    return Audit(doubts, tuple(_two_names(*_centres(vectors, labels, kept), sizes, measured.names)), measured)


@dataclass(frozen=True, slots=True)
class _Seen:
    """How alike each picture is to its own person and to others, (n,) each.

    Attributes:
        companions: other pictures of its person that count.
        own: similarity to their centre; 0 without.
        other: similarity to the most alike other person.
        nearest: who that is.
        second: similarity to the next.
        strangers: (bins,) how often similarities to other people occur.
    """

    companions: NDArray[np.int64]
    own: NDArray[np.float32]
    other: NDArray[np.float32]
    nearest: NDArray[np.int64]
    second: NDArray[np.float32]
    strangers: NDArray[np.int64]


def _sums(vectors: Floats, labels: NDArray[np.int64], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(c, d) sums of each person's vectors."""
    sums = np.zeros((int(labels.max()) + 1, vectors.shape[1]))
    for part in _blocks(len(labels)):
        np.add.at(sums, labels[part][kept[part]], vectors[part][kept[part]])
    return sums


def _centres(
    vectors: Floats, labels: NDArray[np.int64], kept: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(p, d) float32 of unit length, and the labels (p,) of those who have pictures."""
    sums = _sums(vectors, labels, np.ones(len(labels), bool) if kept is None else kept)
    lengths = np.linalg.norm(sums, axis=1)
    people = np.flatnonzero(lengths > 1e-6)
    return np.asarray(sums[people] / lengths[people, None], np.float32), people


def _look(vectors: Floats, labels: NDArray[np.int64], kept: NDArray[np.bool_]) -> _Seen:
    sums = _sums(vectors, labels, kept)
    counts = np.bincount(labels, weights=kept, minlength=len(sums)).astype(np.int64)
    centres = np.asarray(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6), np.float32)
    companions = counts[labels] - kept
    parts: list[tuple[NDArray[Any], ...]] = []
    strangers = np.zeros(_BINS + 1, np.int64)
    step = max(1, len(sums) // _SAMPLED)
    for part in _blocks(len(labels)):
        block, mine = np.asarray(vectors[part], np.float64), labels[part]
        rest = sums[mine] - block * kept[part, None]
        own = (rest * block).sum(1) / np.maximum(np.linalg.norm(rest, axis=1), 1e-6)
        scores = block.astype(np.float32) @ centres.T
        scores[:, counts == 0] = -1
        scores[np.arange(len(mine)), mine] = -1
        sample = scores[:, ::step]
        strangers += np.bincount(
            ((sample[sample > -1] + 1) * (_BINS / 2)).astype(np.int64).ravel(), minlength=_BINS + 1
        )[: _BINS + 1]
        nearest = scores.argmax(1)
        other = scores[np.arange(len(mine)), nearest]
        scores[np.arange(len(mine)), nearest] = -1
        parts.append((np.where(companions[part] > 0, own, 0), other, nearest, scores.max(1)))
    own, other, nearest, second = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _Seen(companions, own.astype(np.float32), other, nearest, second, strangers)


def _measured(seen: _Seen, centres: NDArray[np.float32], given: Limits | None) -> Limits:
    """The limits of this set; those that were given where it is too small."""
    if seen.strangers.sum() < _ENOUGH or len(centres) < 3:
        if given is None:
            raise EvaluationError(
                f"{len(centres)} people with {len(seen.own)} pictures: too few to measure how alike strangers"
                " are; use a checkpoint with a calibration"
            )
        return given
    beyond = np.cumsum(seen.strangers[::-1])[::-1] / seen.strangers.sum()
    lone, own = (float(np.argmax(beyond <= rate)) / (_BINS / 2) - 1 for rate in (0.1, 0.01))
    other = max(own, float(np.quantile(seen.second, 0.9)))
    seconds = top_k(centres, centres, 3)[0][:, 2]  # the first is the person again
    usual = seen.own[seen.companions > 0]
    least = float(np.quantile(usual, 0.1)) if len(usual) else other
    return Limits(lone, own, other, max(other, least, float(np.quantile(seconds, 0.999))))


def _doubted(seen: _Seen, limits: Limits) -> NDArray[np.bool_]:
    elsewhere = (
        (seen.own < limits.own)
        & (seen.other >= limits.other)
        & (seen.other - seen.own >= limits.other - limits.lone)
    )
    nobody = (seen.companions >= _CERTAIN) & (seen.own < limits.lone)
    return (seen.companions > 0) & (elsewhere | nobody)


def _spared(labels: NDArray[np.int64], doubted: NDArray[np.bool_], seen: _Seen) -> NDArray[np.int64]:
    """Of each person whose pictures are all doubted, the least doubtful: the name is somebody's."""
    left = np.bincount(labels, weights=~doubted)
    rows = np.flatnonzero(left[labels] == 0)
    order = rows[np.argsort((seen.other - seen.own)[rows], kind="stable")]
    return order[np.unique(labels[order], return_index=True)[1]]


def _two_names(
    centres: NDArray[np.float32], people: NDArray[np.int64], sizes: NDArray[np.int64], threshold: float
) -> Iterator[Resemblance]:
    """Pairs of people, the one with fewer pictures first; the most alike pair first."""
    for (a, b), score in zip(*pairs_above(centres, threshold), strict=True):
        first, second = sorted((int(people[a]), int(people[b])), key=lambda who: (sizes[who], -who))
        yield Resemblance(first, second, round(float(score), 4))


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, count, _BLOCK))
