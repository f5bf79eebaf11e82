"""How good an embedding is on people it was not trained on: every pair of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from facekit.checkpoint import Calibration
from facekit.evaluate import ROC, roc_of_people
from facekit.train.recipe import Scores

__all__ = [
    "ACCEPTS",
    "ENOUGH_PAIRS",
    "calibrate",
    "heldout_curve",
    "heldout_scores",
    "impostor_pairs",
    "measured_rates",
]

ENOUGH_PAIRS = 100
"""Pairs of two people; with fewer not even a false accept rate of 10 % can be measured."""

ACCEPTS = 10
"""Pairs of two people that a rate must mean."""
_FARS = (1e-1, 1e-2, 1e-3, 1e-4)
_BINS = 200  # of the histograms that people look at


def impostor_pairs(labels: Tensor) -> int:
    """How many pairs of two people there are.

    Args:
        labels: (n,) int64.
    """
    counts = torch.bincount(labels) if len(labels) else labels
    return int((counts.sum() ** 2 - (counts**2).sum()) // 2)


def measured_rates(labels: Tensor) -> tuple[float, ...]:
    """The false accept rates that all pairs of such pictures tell: those that mean ten pairs or more.

    Args:
        labels: (n,) int64.
    """
    pairs = impostor_pairs(labels)
    if pairs < ENOUGH_PAIRS or int(torch.bincount(labels).max()) < 2:
        return ()
    return tuple(far for far in _FARS if far * pairs >= ACCEPTS)


def heldout_curve(embeddings: Tensor, labels: Tensor) -> ROC | None:
    """The ROC of all pairs; None where there are too few to say anything.

    Args:
        embeddings: (n, d) float32 of unit length.
        labels: (n,) int64.
    """
    if not measured_rates(labels):
        return None
    return roc_of_people(embeddings.numpy(), labels.numpy())


def heldout_scores(curve: ROC) -> Scores:
    """TAR at those FAR that mean at least ten impostor pairs, and histograms of the scores."""
    rates = {f"tar@far={far:g}": curve.tar_at_far(far) for far in curve.calibration(_FARS)}
    edges = np.linspace(-1, 1, _BINS + 1)
    counts = (
        np.histogram(curve.thresholds[1:], edges, weights=np.diff(share) * number)[0].round().astype(int)
        for share, number in ((curve.tar, curve.genuine), (curve.far, curve.impostor))
    )
    return Scores({**rates, "auc": curve.auc, "eer": curve.eer}, *(tuple(part.tolist()) for part in counts))


def calibrate(curve: ROC, data: str) -> Calibration:
    """The similarity that each false accept rate takes.

    Args:
        curve: of all pairs.
        data: what the pictures are, for the checkpoint's config.
    """
    return Calibration(data, curve.impostor, curve.genuine, curve.calibration(_FARS))
