"""Heads that tell a few thousand classes apart, for targets that may be probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.train.losses import soft_margin_logits

__all__ = ["CosineClasses", "LinearClasses"]


class LinearClasses(nn.Module):
    """A weight and an offset a class, as in any classifier.

    Args:
        dim: length of the embeddings.
        classes: how many.

    Attributes:
        weight: (classes, dim).
        bias: (classes,).
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        fresh = nn.Linear(dim, classes)
        self.weight, self.bias = fresh.weight, fresh.bias

    def forward(self, embeddings: Tensor) -> Tensor:
        """(n, dim) float -> (n, classes) float32 logits."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.linear(embeddings.float(), self.weight, self.bias)

    def harder(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The logits as they are: there is no margin."""
        return logits


class CosineClasses(nn.Module):
    """A centre a class, compared by cosine, whose embeddings can be compared with each other.

    All processes hold all centres, unlike :class:`~facekit.train.heads.MarginHead`: soft targets name all of
    them.

    Args:
        dim: length of the embeddings.
        classes: how many.
        scale: s of the logits.
        margin: subtracted from the cosines of the target, in proportion to its probability.

    Attributes:
        weight: (classes, dim), of any length.
    """

    def __init__(self, dim: int, classes: int, *, scale: float, margin: float) -> None:
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(classes, dim), std=0.01))

    def forward(self, embeddings: Tensor) -> Tensor:
        """(n, dim) float, of any length -> (n, classes) float32 logits, without a margin."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.scale * F.linear(F.normalize(embeddings.float()), F.normalize(self.weight))

    def harder(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The logits with the margin of their targets, (n, classes) both."""
        return soft_margin_logits(logits / self.scale, targets, scale=self.scale, margin=self.margin)
