"""How good an embedding is on people it was not trained on: every pair of them, in blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from facekit.checkpoint import Calibration
from facekit.errors import TrainingError

__all__ = ["calibrate", "heldout_scores"]

_BINS = 200_001  # histogram of scores over [-1, 1]: a threshold is known to 1e-5
_FARS = (1e-1, 1e-2, 1e-3, 1e-4)


def heldout_scores(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """TAR@FAR over all pairs.

    Args:
        embeddings: (n, d) float32 of unit length.
        labels: (n,) int64.

    Returns:
        ``tar@far=...`` for each rate that the number of impostor pairs allows.
    """
    genuine, impostor = _histograms(embeddings, labels)
    if not genuine.sum() or not impostor.sum():
        return {}
    accepted = genuine.flip(0).cumsum(0).flip(0) / genuine.sum()
    return {
        f"tar@far={far:g}": float(accepted[_cut(impostor, far)])
        for far in _FARS
        if impostor.sum() * far >= 10
    }


def calibrate(embeddings: Tensor, labels: Tensor, data: str) -> Calibration:
    """The similarity that each false accept rate takes, over all pairs of different people.

    Args:
        embeddings: (n, d) float32 of unit length.
        labels: (n,) int64.
        data: what the pictures are, for the checkpoint's config.

    Raises:
        TrainingError: fewer than 100 impostor pairs.
    """
    genuine, impostor = _histograms(embeddings, labels)
    pairs = int(impostor.sum())
    rows = {
        far: round(2.0 * _cut(impostor, far) / (_BINS - 1) - 1.0, 5) for far in _FARS if pairs * far >= 10
    }
    if not rows:
        raise TrainingError(
            f"{data}: {pairs} impostor pairs are too few to calibrate on; at least 100 are needed"
        )
    return Calibration(data=data, impostor_pairs=pairs, genuine_pairs=int(genuine.sum()), thresholds=rows)


def _histograms(embeddings: Tensor, labels: Tensor, block: int = 1024) -> tuple[Tensor, Tensor]:
    """Counts of genuine and of impostor scores over the bins, each pair once."""
    genuine, impostor = torch.zeros(_BINS, dtype=torch.int64), torch.zeros(_BINS, dtype=torch.int64)
    for start in range(0, len(labels), block):
        rows = torch.arange(start, min(start + block, len(labels)))
        scores = embeddings[rows] @ embeddings[start:].T
        bins = ((scores.clamp(-1, 1) + 1) * ((_BINS - 1) / 2)).long()
        later = torch.arange(start, len(labels))[None] > rows[:, None]
        same = labels[rows][:, None] == labels[start:][None]
        genuine += torch.bincount(bins[later & same], minlength=_BINS)
        impostor += torch.bincount(bins[later & ~same], minlength=_BINS)
    return genuine, impostor


def _cut(impostor: Tensor, far: float) -> int:
    """The lowest bin at and above which at most ``far`` of the impostors lie."""
    above = impostor.flip(0).cumsum(0).flip(0)
    return int((above > far * impostor.sum()).sum())
