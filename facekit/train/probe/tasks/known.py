"""What is known of the targets: the rest counts neither in a loss nor in a figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facekit.errors import EvaluationError
from facekit.train.probe.examples import Examples

__all__ = ["filled", "mean_of_known", "scored"]


def filled(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 targets with 0 for what is not known, and which are known (bool): a NaN spoils gradients."""
    known = ~targets.isnan()
    return torch.where(known, targets, 0.0).float(), known


def mean_of_known(errors: Tensor, known: Tensor) -> Tensor:
    """The sum of the known errors, by the number of all.

    By the number of the known ones it would be another loss for each part of a batch.

    Args:
        errors: float32, finite also where nothing is known.
        known: bool, of their shape.
    """
    return torch.where(known, errors, 0.0).sum() / max(errors.numel(), 1)


def scored(examples: Examples, outputs: Tensor, rows: Tensor) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Outputs and targets of some rows as arrays.

    Raises:
        EvaluationError: there are no rows, or the outputs are not finite.
    """
    if len(rows) != len(outputs) or not len(rows):
        raise EvaluationError(f"{examples.name}: {len(outputs)} outputs for {len(rows)} rows; one a row")
    if not outputs.isfinite().all():
        raise EvaluationError(f"{examples.name}: outputs that are not finite; lower the learning rate")
    targets = examples.targets[rows.to(examples.targets.device)]
    return outputs.detach().double().cpu().numpy(), targets.cpu().numpy()
