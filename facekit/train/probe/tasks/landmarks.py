"""Finding the points of a face: heatmaps on the last map of the backbone."""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor, nn

from facekit.errors import EvaluationError
from facekit.train.probe.examples import Examples
from facekit.train.probe.metrics import Metric, ced_auc, failure_rate, interocular_error
from facekit.train.probe.tasks.heatmaps import Heatmaps, heatmap_loss
from facekit.train.probe.tasks.known import scored
from facekit.train.probe.tasks.mirror import mirrored_points

__all__ = ["Landmarks"]

_LIMITS = (0.08, 0.10)  # 300-W's and WFLW's


class Landmarks:
    """Points (x, y); errors are in distances of the eyes (interocular NME).

    ``auc@l`` is the area under the cumulative distribution of the pictures' errors up to l, and ``fr@l``
    the share of them above it.

    Args:
        examples: with the task ``landmarks``.
    """

    metrics = (
        Metric("nme", higher_is_better=False, percent=True),
        *(Metric(f"auc@{limit:.2f}", percent=True) for limit in _LIMITS),
        *(Metric(f"fr@{limit:.2f}", higher_is_better=False, percent=True) for limit in _LIMITS),
    )
    sees: Literal["vector", "map"] = "map"
    notes: tuple[str, ...] = ()

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def head(self, channels: int, side: int) -> nn.Module:
        """(n, channels, h, w) -> heatmaps in training, else points (n, p, 2)."""
        return Heatmaps(channels, self._examples.targets.shape[1])

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See :func:`~facekit.train.probe.tasks.heatmaps.heatmap_loss`."""
        return heatmap_loss(outputs, targets)

    def scores(self, outputs: Tensor, rows: Tensor) -> dict[str, float]:
        """Over the pictures of which both eyes and any point are known."""
        values, targets = scored(self._examples, outputs, rows)
        errors = interocular_error(values, targets, self._examples.interocular)
        errors = errors[~np.isnan(errors)]
        if not len(errors):
            raise EvaluationError(f"{self._examples.name}: no picture with known eyes; there is no error")
        return {
            "nme": float(errors.mean()),
            **{f"auc@{limit:.2f}": ced_auc(errors, limit) for limit in _LIMITS},
            **{f"fr@{limit:.2f}": failure_rate(errors, limit) for limit in _LIMITS},
        }

    def mirrored(self, targets: Tensor) -> Tensor:
        """x from the other side, with the points' numbers exchanged."""
        return mirrored_points(targets, self._examples.mirror)
