"""Pictures of a source to choose from, and why each that does not stay is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekit.cli.console import say
from facekit.cli.embedded import EmbeddedRows
from facekit.train.exclude import EXCLUDED
from facekit.train.sources import Source
from facekit.trash import shown

__all__ = ["COLUMNS", "SELECTED_COLUMNS", "Choice", "Pictures", "free_rows", "groups_of"]

COLUMNS = ("path", "reason")
"""Of the list of pictures that are left out."""

SELECTED_COLUMNS = tuple(
    ("path", *identity, *split, "score") for identity in (("identity",), ()) for split in ((), ("split",))
)
"""Of the list of those that stay: with people, and with a split, where the source has them."""

_SKIPS = 10  # lines about pictures that are no use
_REPEATS = "near-duplicate"


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Embedded pictures: (n,) rows of a source in the order of their vectors."""

    source: Source
    rows: NDArray[np.int64]
    vectors: EmbeddedRows

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, place: int) -> str:
        """What lists call the picture."""
        return self.source.name(int(self.rows[place]))

    def usable(self) -> NDArray[np.int64]:
        """The places of those that gave a face."""
        return np.flatnonzero(~np.isnan(self.vectors.quality))

    def skipped(self) -> dict[str, str]:
        """Which gave none, and why."""
        return {self.name(place): text for place, (_, text) in self.vectors.problems.items()}

    def tell_skipped(self) -> None:
        """The same in a few lines."""
        problems = self.vectors.problems
        for _, text in islice(problems.values(), _SKIPS):
            say(f"skipped: {shown(text)}")
        if len(problems) > _SKIPS:
            say(f"skipped: {len(problems) - _SKIPS:,} more pictures")

    def document(self) -> dict[str, Any]:
        """The same as plain values for JSON."""
        return {"pictures": len(self), "usable": len(self.usable()), "skipped": self.skipped()}


def free_rows(source: Source) -> NDArray[np.int64]:
    """The rows that are not held out, in their order; of a picture that is listed again, the first."""
    free = np.ones(len(source.person), bool) if source.heldout is None else ~source.heldout.numpy()
    first: dict[str, int] = {}
    for row in np.flatnonzero(free).tolist():
        first.setdefault(source.name(row), row)
    return np.array(list(first.values()), np.int64)


def groups_of(source: Source) -> NDArray[np.int64]:
    """(n,) whose each row is; -1 is nobody known."""
    return np.where(source.known.numpy(), source.person.numpy(), -1)


class Choice:
    """Which pictures stay, and why the others do not.

    Args:
        pictures: those to choose from.
        groups: (n,) whose each is; -1 is nobody known.
        scores: (n,) the higher the better.
        reasons: for each row of the source, why it is left out beforehand; empty where it is not.
        excluded: how many of those that are not held out are left out beforehand.

    Attributes:
        left: (n,) bool, which have not been left out.
    """

    def __init__(
        self,
        pictures: Pictures,
        groups: NDArray[np.int64],
        scores: NDArray[np.float32],
        reasons: Sequence[str],
        excluded: int,
    ) -> None:
        self.pictures, self.groups, self.scores = pictures, groups, scores
        self._excluded = excluded
        self.reasons = list(reasons)
        self.left = ~np.isnan(pictures.vectors.quality)
        for place, (kind, _) in pictures.vectors.problems.items():
            self.reasons[int(pictures.rows[place])] = kind

    def people(self) -> NDArray[np.int64]:
        """(n,) whose each is, where those of nobody known are each of another person."""
        return self.pictures.source.person.numpy()[self.pictures.rows]

    def leave_out(self, gone: NDArray[np.bool_], reason: str) -> None:
        """Drops pictures that are not yet dropped."""
        for place in np.flatnonzero(self.left & gone).tolist():
            self.reasons[int(self.pictures.rows[place])] = reason
        self.left &= ~gone

    def leave_out_repeats(self, repeats: NDArray[np.int64]) -> None:
        """Drops pictures that repeat another; (n,) the place of that, -1 where there is none."""
        for place in np.flatnonzero(self.left & (repeats >= 0)).tolist():
            better = self.pictures.name(int(repeats[place]))
            self.reasons[int(self.pictures.rows[place])] = f"{_REPEATS} of {better}"
        self.left &= repeats < 0

    def left_out(self) -> Counter[str]:
        """How many are left out, by a reason in a few words."""
        reasons = (self.reasons[row] for row in self.pictures.rows.tolist())
        why = Counter(_REPEATS if text.startswith(_REPEATS) else text for text in reasons if text)
        return why + Counter({EXCLUDED: self._excluded})

    def selected(self) -> Iterator[tuple[str, ...]]:
        """A header, then a row a picture in the order of the source; what is held out stays as it is."""
        source = self.pictures.source
        place = np.full(len(source.person), -1)
        place[self.pictures.rows] = np.arange(len(self.pictures))
        known, split = source.known.tolist(), source.heldout is not None
        labelled = any(known)
        held = [False] * len(known) if source.heldout is None else source.heldout.tolist()
        yield "path", *(["identity"] if labelled else []), *(["split"] if split else []), "score"
        for row, at in enumerate(place.tolist()):
            if self.reasons[row] or (at < 0 and not held[row]):
                continue
            line = [source.name(row)]
            if labelled:
                line.append(source.people[int(source.person[row])] if known[row] else "")
            if split:
                line.append("heldout" if held[row] else "train")
            yield *line, "" if at < 0 else f"{self.scores[at]:.6g}"

    def excluded(self) -> Iterator[tuple[str, ...]]:
        """A header, then a row for each picture that is left out, in the order of the source."""
        yield COLUMNS
        for row, reason in enumerate(self.reasons):
            if reason:
                yield self.pictures.source.name(row), reason
