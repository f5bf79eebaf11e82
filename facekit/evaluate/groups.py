"""Whom a threshold fails: the error rates of groups of people, at one threshold that they share.

FMR, the false match rate, is the share of impostor pairs that reach the threshold, FNMR, the false non-match
rate, that of genuine pairs that do not. A pair counts in a group where both of its pictures are in it: people
are mistaken most for people like them, and pairs across groups would hide that.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facekit.errors import EvaluationError
from facekit.evaluate.intervals import ACCEPTS, Interval
from facekit.evaluate.jackknife import FEWEST_PEOPLE, divide, jackknife
from facekit.evaluate.tiles import count_pairs, tiles

__all__ = [
    "FEWEST_PAIRS",
    "GroupRates",
    "GroupTable",
    "group_rates",
    "group_rates_of_pairs",
    "load_groups",
]

FEWEST_PAIRS = 100
"""Of fewer pairs of a kind no rate is given."""


@dataclass(frozen=True, slots=True)
class GroupRates:
    """The errors among the people of one group.

    Attributes:
        group: its name.
        people: how many people it has.
        impostor: number of pairs of two of them.
        genuine: number of pairs of one of them.
        fmr: false match rate; None where there are fewer than 100 impostor pairs.
        fnmr: false non-match rate; None where there are fewer than 100 genuine pairs.
        fmr_interval: a 95 % interval by identity; None where there are fewer than ten people or ten wrong
            pairs, or where all errors are of few people.
        fnmr_interval: the same of ``fnmr``.
    """

    group: str
    people: int
    impostor: int
    genuine: int
    fmr: float | None
    fnmr: float | None
    fmr_interval: Interval
    fnmr_interval: Interval

    def to_dict(self) -> dict[str, Any]:
        """The rates as plain values for JSON."""
        return {
            "group": self.group,
            "people": self.people,
            "pairs": {"genuine": self.genuine, "impostor": self.impostor},
            "fmr": self.fmr,
            "fnmr": self.fnmr,
            "intervals": {"fmr": self.fmr_interval, "fnmr": self.fnmr_interval},
        }


@dataclass(frozen=True, slots=True)
class GroupTable:
    """What a CSV says about groups.

    Attributes:
        file: where it was read from.
        by: what its rows name, ``"path"`` or ``"person"``.
        groups: that -> the name of the group.
    """

    file: str
    by: str
    groups: Mapping[str, str]

    def of(self, pictures: Iterable[tuple[str, str | None]]) -> list[str | None]:
        """The group of each picture; None where the file names none.

        Args:
            pictures: path inside the folder, with forward slashes, and person.

        Raises:
            EvaluationError: the file names people and the pictures have none, or it names none of them.
        """
        keys = [path if self.by == "path" else person for path, person in pictures]
        if None in keys:
            remedy = "give a CSV of path,group, or pairs with names of people"
            raise EvaluationError(
                f"{self.file}: groups people, and the pairs do not name any; {remedy}", path=self.file
            )
        found = [self.groups.get(key or "") for key in keys]
        if not any(found):
            examples = f"such as {keys[0]!r}, and the file {next(iter(self.groups))!r}" if keys else "none"
            raise EvaluationError(
                f"{self.file}: has no group for any {self.by} that is evaluated, {examples}", path=self.file
            )
        return found


def load_groups(file: str | Path) -> GroupTable:
    """Reads a CSV with the columns ``path,group`` or ``person,group``; other columns do not matter.

    Raises:
        EvaluationError: with the line, where the file is not so, or puts something into two groups.
    """
    path = Path(file)

    def error(what: str) -> EvaluationError:
        return EvaluationError(f"{path}: {what}", path=str(path))

    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, skipinitialspace=True)
            headings = set(rows.fieldnames or [])
            by = next((name for name in ("path", "person") if name in headings), None)
            if by is None or "group" not in headings:
                raise error("line 1 does not name the columns path,group or person,group")
            groups: dict[str, str] = {}
            for row in rows:
                key, group = ((row[name] or "").strip() for name in (by, "group"))
                if not key or not group:
                    raise error(f"line {rows.line_num} is not {by},group; complete it")
                if groups.setdefault(key, group) != group:
                    raise error(f"line {rows.line_num} puts {key!r} into {group!r}; it is in {groups[key]!r}")
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise error(f"cannot be read as CSV ({problem})") from problem
    if not groups:
        raise error(f"lists nothing; give a row of {by},group for each {by}")
    return GroupTable(str(path), by, groups)


def group_rates(
    vectors: NDArray[np.floating[Any]],
    labels: ArrayLike,
    groups: Sequence[str | None],
    threshold: float,
    *,
    lost: Iterable[tuple[Any, str | None]] = (),
) -> list[GroupRates]:
    """The rates of all pairs of a labelled set, by ascending name of the group.

    Args:
        vectors: (n, d), rows of unit length.
        labels: (n,) whose each is.
        groups: (n,) the name of the group of each; None for none.
        threshold: a pair at or above it is taken for one person.
        lost: person and group of each picture that gave no vector; it matches nothing.

    Raises:
        EvaluationError: labels that do not fit the vectors, or vectors that are not of unit length.
    """
    vectors, whose, which = np.asarray(vectors), np.asarray(labels), np.asarray(groups, object)
    missing = list(lost)
    found = []
    for name in sorted({group for group in [*which.tolist(), *(group for _, group in missing)] if group}):
        mine = which == name
        people = [*whose[mine].tolist(), *(person for person, group in missing if group == name)]
        names, numbers = np.unique(np.asarray(people), return_inverse=True)
        parts, seen = divide(len(names))[numbers], int(mine.sum())
        counts = _Counts(int(parts.max()) + 1)
        pairs = count_pairs(numbers, parts, len(counts.genuine))
        counts.genuine, counts.touching, counts.impostor = pairs
        for tile in tiles(vectors[mine], numbers[:seen], parts[:seen]):
            accepted = tile.scores >= threshold
            p, q = tile.parts
            counts.matched[p] += np.count_nonzero(accepted & tile.same)
            false = int(np.count_nonzero(accepted & ~tile.same))
            counts.false += false
            counts.false_touching[p] += false
            counts.false_touching[q] += false * (p != q)
        found.append(counts.rates(name, len(names)))
    return found


def group_rates_of_pairs(
    scores: ArrayLike, same: ArrayLike, people: ArrayLike, groups: ArrayLike, threshold: float
) -> list[GroupRates]:
    """The rates of a list of pairs, by ascending name of the group.

    Args:
        scores: (n,) similarities; NaN, where a picture has no face, reaches no threshold.
        same: (n,) whether a pair is of one person.
        people: (n, 2) whom the two pictures of each pair show.
        groups: (n, 2) the names of the groups of the two pictures; None for none.
        threshold: a pair at or above it is taken for one person.
    """
    truth, whose, which = np.asarray(same, np.bool_), np.asarray(people), np.asarray(groups, object)
    accepted = np.asarray(scores, np.float64) >= threshold
    found = []
    for name in sorted({group for group in which.reshape(-1).tolist() if group}):
        mine = (which == name).all(1)
        names, numbers = np.unique(whose[mine], return_inverse=True)
        sides = divide(len(names))[numbers.reshape(-1, 2)] if len(names) else np.empty((0, 2), np.int64)
        counts = _Counts(int(sides.max(initial=0)) + 1)
        kind, told = truth[mine], accepted[mine]
        counts.genuine[:] = counts.by_part(sides[kind])
        counts.matched[:] = counts.by_part(sides[kind & told])
        counts.touching[:] = counts.by_part(sides[~kind])
        counts.false_touching[:] = counts.by_part(sides[~kind & told])
        counts.impostor, counts.false = int((~kind).sum()), int((~kind & told).sum())
        found.append(counts.rates(name, len(names)))
    return found


class _Counts:
    """Pairs and errors, in all and by the parts of the people that have a share in them."""

    def __init__(self, parts: int) -> None:
        self.genuine, self.matched, self.touching, self.false_touching = np.zeros((4, parts), np.int64)
        self.impostor = self.false = 0

    def by_part(self, sides: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pairs (k,) with a side in each part; ``sides`` (n, 2)."""
        two = sides[:, 0] != sides[:, 1]
        number = len(self.genuine)
        return np.bincount(sides[:, 0], minlength=number) + np.bincount(sides[two, 1], minlength=number)

    def rates(self, name: str, people: int) -> GroupRates:
        rates = self._rates(None)
        pairs = self.impostor, int(self.genuine.sum())
        wrong = self.false, pairs[1] - int(self.matched.sum())
        intervals: list[Interval] = [None, None]
        if people >= FEWEST_PEOPLE:
            intervals = jackknife(self._rates, len(self.genuine))
        fmr, fnmr = (
            rate if number >= FEWEST_PAIRS else None for rate, number in zip(rates, pairs, strict=True)
        )
        sure = [
            number >= FEWEST_PAIRS and errors >= ACCEPTS for number, errors in zip(pairs, wrong, strict=True)
        ]
        ends = [known if enough else None for known, enough in zip(intervals, sure, strict=True)]
        return GroupRates(name, people, *pairs, fmr, fnmr, *ends)

    def _rates(self, without: int | None) -> tuple[float, float]:
        genuine, matched = self.genuine.sum(), self.matched.sum()
        impostor, false = self.impostor, self.false
        if without is not None:
            genuine, matched = genuine - self.genuine[without], matched - self.matched[without]
            impostor, false = impostor - self.touching[without], false - self.false_touching[without]
        return (
            float(false / impostor) if impostor else math.nan,
            float(1 - matched / genuine) if genuine else math.nan,
        )
