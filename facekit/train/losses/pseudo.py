"""Pseudo-labels: what a network is sure of, taken for the truth, and how much that counts.

Lee 2013, "Pseudo-Label: the simple and efficient semi-supervised learning method for deep neural networks".
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["NOT_SURE", "ramp_up", "sure_attributes", "sure_classes"]

NOT_SURE = -1
"""In the place of a label that the network is not sure of."""


def sure_attributes(logits: Tensor, threshold: float) -> Tensor:
    """Hard labels of attributes, each by itself, where its probability or that of its absence is high enough.

    Args:
        logits: (n, a), any precision.
        threshold: the lowest probability that counts, in [0.5, 1).

    Returns:
        (n, a) int32: 1, 0 or :data:`NOT_SURE`.
    """
    there = logits.float().sigmoid()
    sure = torch.maximum(there, 1 - there) >= threshold
    return torch.where(sure, (there >= 0.5).int(), NOT_SURE)


def sure_classes(logits: Tensor, threshold: float) -> Tensor:
    """The most likely class of each picture, where its probability is high enough.

    Args:
        logits: (n, classes), any precision.
        threshold: the lowest probability that counts, in (0, 1).

    Returns:
        (n,) int32: the class or :data:`NOT_SURE`.
    """
    highest, label = logits.float().softmax(1).max(1)
    return torch.where(highest >= threshold, label.int(), NOT_SURE)


def ramp_up(progress: float, begin: float, end: float) -> float:
    """Share of its weight that the loss of pseudo-labels has: 0, then rising linearly, then 1.

    Source: Lee 2013, eq. 16.

    Args:
        progress: share of the run that is done, in [0, 1].
        begin: where it begins to rise.
        end: from where on it is 1; not before ``begin``.
    """
    if progress >= end:
        return 1.0
    return max(0.0, progress - begin) / (end - begin) if end > begin else 0.0
