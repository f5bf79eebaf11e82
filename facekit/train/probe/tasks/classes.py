"""Telling classes apart, such as expressions: a linear layer and cross-entropy."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.errors import TrainingError
from facekit.train.probe.examples import Examples
from facekit.train.probe.metrics import Metric, accuracy, macro_f1
from facekit.train.probe.tasks.known import mean_of_known, scored
from facekit.train.probe.tasks.mirror import mirrored_names

__all__ = ["Classes"]


class Classes:
    """One of several classes a picture; outputs are logits, or whatever else is highest for the class told.

    Args:
        examples: with the task ``classes``.

    Raises:
        TrainingError: fewer than two classes.
    """

    metrics = (Metric("accuracy", percent=True), Metric("macro_f1", percent=True))
    sees: Literal["vector", "map"] = "vector"
    notes: tuple[str, ...] = ()

    def __init__(self, examples: Examples) -> None:
        if len(examples.names) < 2:
            raise TrainingError(f"{examples.name}: {len(examples.names)} classes; to tell apart takes two")
        self._examples = examples

    def head(self, channels: int, side: int) -> nn.Module:
        """(n, channels) -> (n, classes)."""
        return nn.Linear(channels, len(self._examples.names))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the known ones."""
        errors = F.cross_entropy(outputs.float(), targets.clamp(min=0), reduction="none")
        return mean_of_known(errors, targets >= 0)

    def scores(self, outputs: Tensor, rows: Tensor) -> dict[str, float]:
        """Of the class with the highest output."""
        values, targets = scored(self._examples, outputs, rows)
        told = values.argmax(1)
        return {"accuracy": accuracy(told, targets), "macro_f1": macro_f1(told, targets)}

    def mirrored(self, targets: Tensor) -> Tensor:
        """The same, apart from classes that speak of a side; NaN where one of these has no other side."""
        opposite = mirrored_names(self._examples.names)
        if opposite is None:
            return torch.full(targets.shape, torch.nan, device=targets.device)
        known = torch.tensor(opposite, device=targets.device)[targets.clamp(min=0)]
        return torch.where(targets >= 0, known, targets)
