"""Which labels a probe may use: few of many, chosen by a seed and the same for every network."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from facekit.errors import SettingError
from facekit.train.config import require
from facekit.train.probe.examples import TRAIN, Examples

__all__ = ["Labels", "choose_labels", "digest"]


@dataclass(frozen=True, slots=True)
class Labels:
    """How many of a set's training labels are used.

    Attributes:
        fraction: a share of them in (0, 1], chosen by the seed.
        first: that many in the order of the set instead, as CelebA's "1 %", which is its first 1,627 rows.

    Raises:
        SettingError: a share or number that cannot be.
    """

    fraction: float = 1.0
    first: int | None = None

    def __post_init__(self) -> None:
        require(0 < self.fraction <= 1, "fraction", self.fraction, "give a share of the labels in (0, 1]")
        require(self.first is None or self.first > 0, "first", self.first, "give a number of labels above 0")

    @property
    def drawn(self) -> bool:
        """Whether another seed may choose others."""
        return self.first is None and self.fraction < 1

    def __str__(self) -> str:
        """As tables say it: ``1 %`` or ``first 1627``."""
        return f"{100 * self.fraction:g} %" if self.first is None else f"first {self.first}"


def choose_labels(examples: Examples, labels: Labels, *, seed: int) -> Tensor:
    """Rows of the training split whose labels are used.

    A share is one of each class, and at least one picture of each; of identities, whole people are
    chosen, at least two; elsewhere every row is as likely. A smaller share of the same seed is a part of a
    larger one.

    Returns:
        (k,) int64, rising.

    Raises:
        SettingError: the split has fewer rows than are asked for, or none.
    """
    rows = examples.rows(TRAIN)
    if not len(rows) or (labels.first or 0) > len(rows):
        raise SettingError(
            f"first={labels.first}: {examples.name} has {len(rows)} pictures to train on; ask for fewer"
            if len(rows)
            else f"{examples.name}: no pictures to train on; mark some as train, or give another set"
        )
    if labels.first is not None:
        return rows[: labels.first]
    if labels.fraction == 1:
        return rows
    generator = torch.Generator().manual_seed(seed)
    if examples.task == "classes":
        return _of_each(rows, examples.targets[rows], labels.fraction, generator)
    if examples.task == "identities":
        people = torch.unique(examples.targets[rows])
        chosen = people[_draw(len(people), labels.fraction, 2, generator)]
        return rows[torch.isin(examples.targets[rows], chosen)]
    return rows[_draw(len(rows), labels.fraction, 1, generator)]


def digest(rows: Tensor) -> str:
    """12 hex digits that stand for exactly these rows.

    Args:
        rows: (k,) int64.
    """
    return hashlib.sha256(rows.contiguous().numpy().data).hexdigest()[:12]


def _draw(count: int, fraction: float, least: int, generator: torch.Generator) -> Tensor:
    """Rising numbers below ``count``: that share of them."""
    number = min(count, max(least, round(fraction * count)))
    return torch.randperm(count, generator=generator)[:number].sort().values


def _of_each(rows: Tensor, classes: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """That share of each class; what rounding leaves over goes to those that it took most from."""
    members = [rows[classes == label] for label in torch.unique(classes).tolist()]
    exact = torch.tensor([fraction * len(part) for part in members], dtype=torch.float64)
    counts = exact.floor().clamp_min(1).long()
    left = round(fraction * len(rows)) - int(counts.sum())
    for place in (exact - counts).argsort(descending=True, stable=True).tolist()[: max(0, left)]:
        counts[place] += 1
    chosen = [
        part[torch.randperm(len(part), generator=generator)[:number]]
        for part, number in zip(members, counts.tolist(), strict=True)
    ]
    return torch.cat(chosen).sort().values
