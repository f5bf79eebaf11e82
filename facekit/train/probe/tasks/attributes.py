"""Telling what a face has, of many things at once: a linear layer and binary cross-entropy."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.errors import EvaluationError
from facekit.train.probe.examples import TEST, Examples
from facekit.train.probe.metrics import Metric, attribute_accuracy, attribute_f1
from facekit.train.probe.tasks.known import filled, mean_of_known, scored
from facekit.train.probe.tasks.mirror import mirrored_names

__all__ = ["Attributes"]


class Attributes:
    """Attributes, each there or not; an output above 0 says that it is there.

    ``macro_f1`` is the mean over the attributes of the F1 of their positive class; attributes without a
    positive among the scored pictures are left out of it.

    Args:
        examples: with the task ``attributes``.
    """

    metrics = (Metric("macro_f1", percent=True), Metric("accuracy", percent=True))
    sees: Literal["vector", "map"] = "vector"

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        test = examples.targets[examples.rows(TEST)]
        rare = [name for name, some in zip(examples.names, (test == 1).any(0), strict=True) if not some]
        self.notes = (f"no test picture has {', '.join(rare)}: left out of macro_f1",) if rare else ()

    def head(self, channels: int, side: int) -> nn.Module:
        """(n, channels) -> (n, attributes) logits."""
        return nn.Linear(channels, len(self._examples.names))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy of the known ones."""
        values, known = filled(targets)
        return mean_of_known(
            F.binary_cross_entropy_with_logits(outputs.float(), values, reduction="none"), known
        )

    def scores(self, outputs: Tensor, rows: Tensor) -> dict[str, float]:
        """At the threshold 0."""
        values, targets = scored(self._examples, outputs, rows)
        f1 = attribute_f1(values > 0, targets)
        if np.isnan(f1).all():
            raise EvaluationError(f"{self._examples.name}: no picture has any attribute; there is no F1")
        return {"macro_f1": float(np.nanmean(f1)), "accuracy": attribute_accuracy(values > 0, targets)}

    def mirrored(self, targets: Tensor) -> Tensor:
        """The same, apart from attributes that speak of a side; NaN where one of these has no other side."""
        opposite = mirrored_names(self._examples.names)
        return torch.full_like(targets, torch.nan) if opposite is None else targets[:, opposite]
