"""An audit by losses: pictures on which a network that learnt from their labels still loses much."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekit.cli.audit_outcome import COLUMNS, Outcome
from facekit.cli.audit_page import Finding, Section
from facekit.cli.console import count
from facekit.errors import TrainingError
from facekit.label_noise import LossMixture, fit_losses
from facekit.train.listed import Listed, read_list
from facekit.train.sources import Source

__all__ = ["audit_losses"]

_OVERLAP = 2.0  # deviations between the means, below which there is one heap rather than two


def audit_losses(source: Source, table: Path, *, limit: float, top: int) -> Outcome:
    """Judges labels by the losses of a training run, without a look at the pictures.

    Args:
        source: the pictures.
        table: CSV with the columns path and loss, and perhaps suggestion; of a picture on several lines, as
            data that name it twice have, the one with the highest loss counts.
        limit: labels that are right with a lower probability are doubted.
        top: how many findings the page shows.

    Raises:
        TrainingError: not such a file, a loss that is no number, or not one picture of the source.
    """
    judged, unknown = _read(source, table)
    mixture = fit_losses(judged.losses)
    clean = mixture.clean_probability(judged.losses)
    order = np.argsort(-judged.losses, kind="stable")
    doubts = order[clean[order] < limit]
    without = len(source.person) - len(judged.rows)
    notes = []
    if without:
        notes.append(f"{count(without, 'picture')} without a loss in {table}: not judged")
    if unknown:
        notes.append(f"{count(unknown, 'line')} of {table} of no picture in {source.root}")
    if 0 < mixture.separation < _OVERLAP:
        notes.append("the losses are one heap rather than two: trust their order, not the number of doubts")
    report = _Report(source, judged, clean, doubts)
    people = count(len(np.unique(source.person.numpy()[judged.rows])), "person", "people")
    return Outcome(
        about=f"{count(len(judged.rows), 'picture')} of {people}",
        judge=str(table),
        how="; ".join([_in_words(mixture, limit), *notes]),
        columns=(*COLUMNS, "loss", "clean"),
        rows=[report.row(index) for index in doubts.tolist()],
        sections=[report.section(top)],
        told=[f"{count(len(doubts), 'picture')} of high loss, whose label is probably wrong"],
        notes=notes,
        document={
            "high_loss": len(doubts),
            "without_loss": without,
            "unknown": unknown,
            "mixture": asdict(mixture),
            "separation": mixture.separation,
        },
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """The pictures that have a loss: rows of the source (m,), losses (m,), labels that fit better, or ''."""

    rows: NDArray[np.int64]
    losses: NDArray[np.float64]
    suggestions: list[str]


def _read(source: Source, table: Path) -> tuple[_Judged, int]:
    """The losses of pictures, and how many lines name no picture."""
    given: dict[str, tuple[float, str]] = {}
    for listed in read_list(table, source.root.resolve(), ("path", "loss")):
        told = _loss(table, listed), listed.cells.get("suggestion", "")
        given[listed.name] = max(given.get(listed.name, told), told, key=lambda each: each[0])
    rows, losses, suggestions, met = [], [], [], set()
    for row in range(len(source.person)):
        name = source.name(row)
        if name in given:
            loss, better = given[name]
            rows.append(row)
            losses.append(loss)
            suggestions.append(better)
            met.add(name)
    if not rows:
        raise TrainingError(
            f"{table}: none of {count(len(given), 'line')} names a picture in {source.root};"
            " the paths must start there"
        )
    judged = _Judged(np.array(rows, np.int64), np.array(losses, np.float64), suggestions)
    return judged, len(given) - len(met)


def _loss(table: Path, listed: Listed) -> float:
    text = listed.cells["loss"]
    try:
        loss = float(text)
    except ValueError:
        loss = math.nan
    if not math.isfinite(loss):
        raise TrainingError(f"{table}, line {listed.line}: loss {text!r} is no finite number; drop the line")
    return loss


@dataclass(frozen=True, slots=True, eq=False)
class _Report:
    """The findings, in the words of the source.

    Attributes:
        source: the pictures.
        judged: those with a loss.
        clean: (m,) how likely their labels are right.
        doubts: indices of ``judged``, the highest loss first.
    """

    source: Source
    judged: _Judged
    clean: NDArray[np.float64]
    doubts: NDArray[np.int64]

    def row(self, index: int) -> tuple[str, ...]:
        """A line of the list."""
        name = self.source.name(int(self.judged.rows[index]))
        loss, clean = f"{self.judged.losses[index]}", f"{self.clean[index]:.4f}"
        return name, "high loss", self._person(index), "", self._better(index), "", loss, clean

    def section(self, top: int) -> Section:
        """What the page shows."""
        findings = []
        for index in self.doubts[:top].tolist():
            row, person, better = int(self.judged.rows[index]), self._person(index), self._better(index)
            text = f"{person}? loss {self.judged.losses[index]:.3g}, right with {self.clean[index]:.2f}"
            pictures = [(row, self.source.name(row)), *self._example(person, index)]
            if better:
                text += f"; rather {better}"
                pictures += self._example(better, index)
            findings.append(Finding(text, pictures))
        remedy = "Wrong labels, and pictures that are hard to learn: move or leave out the former."
        return Section("High loss", remedy, findings, len(self.doubts))

    def _person(self, index: int) -> str:
        return self.source.people[int(self.source.person[int(self.judged.rows[index])])]

    def _better(self, index: int) -> str:
        """The label that fits better, if another than the picture has."""
        better = self.judged.suggestions[index]
        return "" if better == self._person(index) else better

    def _example(self, person: str, but: int) -> list[tuple[int, str]]:
        """The picture of a person with the least loss, other than ``but``; none if there is no other."""
        if person not in self.source.people:
            return []
        labels = self.source.person.numpy()[self.judged.rows]
        there = np.flatnonzero(labels == self.source.people.index(person))
        there = there[there != but]
        if not len(there):
            return []
        best = int(there[int(self.judged.losses[there].argmin())])
        return [(int(self.judged.rows[best]), person)]


def _in_words(mixture: LossMixture, limit: float) -> str:
    if mixture.separation == 0:
        return "all losses are alike, so that they tell nothing about labels"
    (right, wrong), (low, high) = mixture.shares, mixture.means
    return (
        f"losses of two kinds: {right:.0%} about {low:.3g}, {wrong:.0%} about {high:.3g};"
        f" doubted is what belongs to the first with a probability below {limit:g}"
    )
