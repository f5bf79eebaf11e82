"""Intensities of facial action units: a linear layer and least squares."""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor, nn

from facekit.errors import EvaluationError
from facekit.train.probe.examples import TEST, Examples
from facekit.train.probe.metrics import Metric, icc, mse
from facekit.train.probe.tasks.known import filled, mean_of_known, scored

__all__ = ["ActionUnits"]

_HIGHEST = 5.0  # FACS' letter E


class ActionUnits:
    """Intensities in [0, 5], into which outputs are clamped before they are scored.

    ``icc`` and ``mse`` are means over the units; those whose intensity is the same in all of the scored
    pictures are left out of ``icc``.

    Args:
        examples: with the task ``action_units``.
    """

    metrics = (Metric("icc"), Metric("mse", higher_is_better=False))
    sees: Literal["vector", "map"] = "vector"

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self.notes = _left_out(examples)

    def head(self, channels: int, side: int) -> nn.Module:
        """(n, channels) -> (n, units)."""
        return nn.Linear(channels, len(self._examples.names))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error of the known ones."""
        values, known = filled(targets)
        return mean_of_known((outputs.float() - values) ** 2, known)

    def scores(self, outputs: Tensor, rows: Tensor) -> dict[str, float]:
        """ICC(3,1) and mean squared error."""
        values, targets = scored(self._examples, outputs, rows)
        agreement, errors = [], []
        for told, truth in zip(values.clip(0, _HIGHEST).T, targets.T, strict=True):
            known = ~np.isnan(truth)
            if known.any():
                errors.append(mse(told[known], truth[known]))
            if len(np.unique(truth[known])) > 1:
                agreement.append(icc(np.stack([told[known], truth[known]], axis=1)))
        if not agreement:
            raise EvaluationError(f"{self._examples.name}: no action unit ever changes; there is no ICC")
        return {"icc": float(np.mean(agreement)), "mse": float(np.mean(errors))}

    def mirrored(self, targets: Tensor) -> Tensor:
        """The same."""
        return targets


def _left_out(examples: Examples) -> tuple[str, ...]:
    test = examples.targets[examples.rows(TEST)].numpy()
    still = [
        name
        for name, unit in zip(examples.names, test.T, strict=True)
        if len(np.unique(unit[~np.isnan(unit)])) < 2
    ]
    return (f"{', '.join(still)} never changes in the test pictures: left out of icc",) if still else ()
