"""What a recipe hands to the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

__all__ = ["Recipe", "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """Where a step stands in its run.

    Attributes:
        number: steps done before this one.
        progress: share of all steps done, in [0, 1).
        epoch: epochs done, with their fraction.
    """

    number: int
    progress: float
    epoch: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """Modules, batches and a step; the loop owns time, logging and saving.

    Attributes:
        modules: everything that is trained and saved.
        groups: parameter groups of the optimiser, each with its highest ``lr``.
        steps_per_epoch: batches that one epoch yields.
        batches: (epoch number, batches to leave out) -> the other batches of the epoch, in an order that the
            number alone fixes; what is left out costs nothing.
        lr_factor: step -> factor of every group's ``lr``.
        step: (batch, step) -> metrics; ``"loss"`` is what is minimised, the rest is logged.
        evaluate: step -> what to show after an epoch that ends there.
        export: (folder, last scores) -> a checkpoint there that :mod:`facekit` opens.
        notes: lines to show before the first step.
    """

    modules: nn.ModuleDict
    groups: list[dict[str, Any]]
    steps_per_epoch: int
    batches: Callable[[int, int], Iterator[tuple[Tensor, ...]]]
    lr_factor: Callable[[Step], float]
    step: Callable[[tuple[Tensor, ...], Step], Mapping[str, Tensor]]
    evaluate: Callable[[Step], Mapping[str, float]]
    export: Callable[[Path, Mapping[str, float]], None]
    notes: tuple[str, ...] = ()
