"""Valence and arousal: a linear layer, and a loss that asks for agreement and for closeness."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from facekit.train.probe.examples import Examples
from facekit.train.probe.metrics import Metric, ccc, pcc, rmse, sagr
from facekit.train.probe.tasks.known import filled, mean_of_known, scored
from facekit.train.processes import gathered

__all__ = ["Affect"]

_FIGURES = {"ccc": ccc, "pcc": pcc, "sagr": sagr, "rmse": rmse}
_SMALL = 1e-8  # variance, far below what annotators can tell


class Affect:
    """Numbers in [-1, 1], such as valence and arousal.

    Args:
        examples: with the task ``affect``.
    """

    sees: Literal["vector", "map"] = "vector"
    notes: tuple[str, ...] = ()

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self.metrics = (
            Metric("ccc"),
            *(
                Metric(f"{figure}_{name}", higher_is_better=figure != "rmse")
                for name in examples.names
                for figure in _FIGURES
            ),
        )

    def head(self, channels: int, side: int) -> nn.Module:
        """(n, channels) -> (n, 2)."""
        return nn.Linear(channels, len(self._examples.names))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """1 - CCC of each over the known rows of the batch, their mean, and the mean squared error.

        The first is no mean over the pictures, so the batch is that of all processes, and is never cut into
        parts.
        """
        outputs = gathered(outputs.float())
        values, known = filled(gathered(targets))
        squares = mean_of_known((outputs - values) ** 2, known)
        return _discordance(outputs, values, known).mean() + squares

    def scores(self, outputs: Tensor, rows: Tensor) -> dict[str, float]:
        """All figures of either, and the mean CCC."""
        values, targets = scored(self._examples, outputs, rows)
        found: dict[str, float] = {}
        for column, name in enumerate(self._examples.names):
            known = ~np.isnan(targets[:, column])
            for figure, compute in _FIGURES.items():
                found[f"{figure}_{name}"] = compute(values[known, column], targets[known, column])
        mean = float(np.mean([found[f"ccc_{name}"] for name in self._examples.names]))
        return {"ccc": mean, **found}

    def mirrored(self, targets: Tensor) -> Tensor:
        """The same."""
        return targets


def _discordance(outputs: Tensor, values: Tensor, known: Tensor) -> Tensor:
    """1 - CCC of each column; 0 for one with fewer than two known rows, which have no variance."""
    count = known.sum(0)
    share = torch.where(known, 1.0 / count.clamp(min=1), 0.0)
    mean_x, mean_y = (share * outputs).sum(0), (share * values).sum(0)
    x, y = outputs - mean_x, values - mean_y
    covariance = (share * x * y).sum(0)
    spread = (share * (x**2 + y**2)).sum(0) + (mean_x - mean_y) ** 2
    return torch.where(count > 1, 1 - 2 * covariance / (spread + _SMALL), 0.0)
