"""Points in three dimensions: a linear layer that tells the parameters of a model of shape and pose."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facekit.errors import EvaluationError
from facekit.train.probe.examples import TEST, Examples
from facekit.train.probe.metrics import Metric, absolute_yaw, box_error
from facekit.train.probe.tasks.known import filled, mean_of_known, scored
from facekit.train.probe.tasks.mirror import mirrored_points
from facekit.train.probe.tasks.shape import POSE, ShapeModel, fit_shape, levelled, place

__all__ = ["Reconstruction"]

_BINS = ((0, 30), (30, 60), (60, 90))  # degrees of yaw; the last one holds 90


class Reconstruction:
    """Points (x, y, z) of a face, of which z counts from their mean.

    ``nme`` is the error in sizes of the face's box, the mean over those bins of yaw (0-30, 30-60, 60-90
    degrees) that have pictures; ``nme_2d`` is the same of x and y alone, which is what most tables of
    AFLW2000-3D have.

    Args:
        examples: with the task ``reconstruction``.
        rows: (k,) int64, of the training split, whose labels may be looked at.

    Raises:
        TrainingError: fewer than two of the rows have all points.
    """

    sees: Literal["vector", "map"] = "vector"

    def __init__(self, examples: Examples, rows: Tensor) -> None:
        self._examples = examples
        self._model = fit_shape(examples.targets[rows])
        test = examples.targets[examples.rows(TEST)].numpy()
        yaw = _yaw(test, examples.interocular)
        present = [span for span in _BINS if _inside(yaw, span).any()]
        names = ("nme", *map(_name, present), "nme_2d")
        self.metrics = tuple(Metric(name, higher_is_better=False, percent=True) for name in names)
        absent = [f"{low}-{high}" for low, high in _BINS if (low, high) not in present]
        self.notes = (f"no test picture at {', '.join(absent)} degrees of yaw",) if absent else ()

    def head(self, channels: int, side: int) -> nn.Module:
        """(n, channels) -> (n, points, 3), at first the mean face."""
        return _Shape(channels, self._model)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean distance of the known points."""
        values, known = filled(targets)
        whole = known.all(-1)
        difference = levelled(outputs.float(), whole) - levelled(values, whole)
        difference = torch.where(whole[..., None], difference, 1.0)  # any but 0, where a root has no slope
        return mean_of_known((difference.square().sum(-1) + 1e-12).sqrt(), whole)

    def scores(self, outputs: Tensor, rows: Tensor) -> dict[str, float]:
        """Mean errors by yaw, and their mean."""
        values, targets = scored(self._examples, outputs, rows)
        told, truth = _level(values, targets), _level(targets, targets)
        yaw = _yaw(targets, self._examples.interocular)
        errors, flat = box_error(told, truth), box_error(told[..., :2], truth[..., :2])
        known = ~np.isnan(errors)
        found: dict[str, float] = {}
        planar = []
        for span in _BINS:
            inside = _inside(yaw, span) & known
            if inside.any():
                found[_name(span)] = float(errors[inside].mean())
                planar.append(float(flat[inside].mean()))
        if not found:
            raise EvaluationError(f"{self._examples.name}: no picture with known points; there is no error")
        return {"nme": float(np.mean([*found.values()])), **found, "nme_2d": float(np.mean(planar))}

    def mirrored(self, targets: Tensor) -> Tensor:
        """x from the other side, with the points' numbers exchanged."""
        return mirrored_points(targets, self._examples.mirror)


class _Shape(nn.Module):
    def __init__(self, channels: int, model: ShapeModel) -> None:
        super().__init__()
        self.parameters_of = nn.Linear(channels, len(model.basis) + POSE)
        nn.init.zeros_(self.parameters_of.weight)
        nn.init.zeros_(self.parameters_of.bias)
        for name in ShapeModel.__slots__:
            self.register_buffer(name, getattr(model, name))

    def forward(self, features: Tensor) -> Tensor:
        model = ShapeModel(**{name: self.get_buffer(name) for name in ShapeModel.__slots__})
        with torch.autocast(features.device.type, enabled=False):
            return place(self.parameters_of(features.float()), model)


def _yaw(points: NDArray[np.floating[Any]], pair: tuple[int, int]) -> NDArray[np.float64]:
    """0 where it cannot be told: a picture counts all the same."""
    return np.nan_to_num(absolute_yaw(points, pair))


def _inside(yaw: NDArray[np.float64], span: tuple[int, int]) -> NDArray[np.bool_]:
    return (yaw >= span[0]) & ((yaw < span[1]) | (span[1] == _BINS[-1][1]))


def _name(span: tuple[int, int]) -> str:
    return f"nme_{span[0]}_{span[1]}"


def _level(points: NDArray[np.float64], targets: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    known = torch.from_numpy(~np.isnan(targets).any(-1))
    finite = torch.from_numpy(np.nan_to_num(points))
    leveled: NDArray[np.float64] = levelled(finite, known).numpy()
    return np.where(known.numpy()[..., None], leveled, np.nan)
