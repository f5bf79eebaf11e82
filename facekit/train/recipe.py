"""What a recipe hands to the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

__all__ = ["Recipe", "Scores", "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """Where a step stands in its run.

    Attributes:
        number: steps done before this one.
        progress: share of all steps done, in [0, 1].
        epoch: epochs done, with their fraction.
    """

    number: int
    progress: float
    epoch: float


@dataclass(frozen=True, slots=True)
class Scores:
    """What a validation found.

    Attributes:
        values: what is shown and logged, by name.
        genuine: how many pairs of one person score in each of equal bins over [-1, 1]; may be empty.
        impostor: the same of two people.
    """

    values: Mapping[str, float]
    genuine: tuple[int, ...] = ()
    impostor: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """Modules, batches and a step; the loop owns time, memory, processes, logging and saving.

    Attributes:
        modules: everything that is trained and saved.
        groups: parameter groups of the optimiser, each with its ``name`` and highest ``lr``.
        steps_per_epoch: batches that one epoch yields.
        batches: (epoch number, batches to leave out) -> this process's part of the other batches of the
            epoch, in an order that the number alone fixes; what is left out costs nothing.
        lr_factor: step -> factor of every group's ``lr``.
        step: (batch or a part of it, step) -> metrics; ``"loss"``, a mean over the pictures, is what is
            minimised. The rest is logged; ``"chance"``, if there, is the loss of a network that knows
            nothing. Whatever is random is drawn from torch's own generator, which the loop seeds.
        evaluate: step -> what to show after an epoch that ends there.
        export: (folder, last scores) -> a checkpoint there that :mod:`facekit` opens.
        notes: lines to show before the first step.
        sharded: name of a parameter -> rows in all, where each process has only its own rows.
        divisible: whether the loss of a batch is the mean of those of its parts. Where pictures are compared
            with the others of their batch it is not, and a batch is never cut into parts.
    """

    modules: nn.ModuleDict
    groups: list[dict[str, Any]]
    steps_per_epoch: int
    batches: Callable[[int, int], Iterator[tuple[Tensor, ...]]]
    lr_factor: Callable[[Step], float]
    step: Callable[[tuple[Tensor, ...], Step], Mapping[str, Tensor | float]]
    evaluate: Callable[[Step], Scores]
    export: Callable[[Path, Scores], None]
    notes: tuple[str, ...] = ()
    sharded: Mapping[str, int] = field(default_factory=dict)
    divisible: bool = True
