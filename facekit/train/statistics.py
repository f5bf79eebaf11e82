"""What embeddings look like as a whole: whether views meet, and whether everything else spreads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["alignment", "assignment_entropy", "effective_rank", "uniformity"]

_ROWS = 1024  # whose cosines with all are in memory at once


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """The mean squared distance between two views of a picture, as unit vectors.

    Source: Wang & Isola 2020, "Understanding contrastive representation learning through alignment and
    uniformity on the hypersphere", section 4.1 with α = 2.

    Args:
        first: (n, d) float, any length.
        second: (n, d) float.

    Returns:
        Scalar float32 in [0, 4]; 0 where views meet, 2 where they have nothing in common.
    """
    return (_unit(first) - _unit(second)).square().sum(1).mean()


def uniformity(embeddings: Tensor) -> Tensor:
    r"""How evenly unit vectors spread: the logarithm of the mean of :math:`e^{-2\delta^2}` over all pairs.

    Source: Wang & Isola 2020, "Understanding contrastive representation learning through alignment and
    uniformity on the hypersphere", section 4.1 with t = 2.

    Args:
        embeddings: (n, d) float, any length; at least two.

    Returns:
        Scalar float32 in [-8, 0]; 0 where all are the same, about -4 where they spread evenly in many
        dimensions.
    """
    unit = _unit(embeddings)
    total = unit.new_zeros(())
    with torch.autocast(unit.device.type, enabled=False):
        for start in range(0, len(unit), _ROWS):
            kernel = torch.exp(4 * (unit[start : start + _ROWS] @ unit.T) - 4)
            kernel.diagonal(start).zero_()
            total += kernel.sum()
    return torch.log(total / (len(unit) * (len(unit) - 1)))


def effective_rank(embeddings: Tensor) -> Tensor:
    """How many directions embeddings vary in: exp of the entropy of their singular values.

    The singular values are those of the centred embeddings, divided by their sum. What is no more than
    the rounding of the embeddings counts as nothing, or a collapse to one point would have full rank.

    Source: Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality", definition 1.

    Args:
        embeddings: (n, d) float.

    Returns:
        Scalar float32 in [1, min(n - 1, d)].
    """
    x = embeddings.detach().float()
    values = torch.linalg.svdvals(x - x.mean(0))
    values = values * (values > torch.finfo(x.dtype).eps * max(x.shape) * torch.linalg.vector_norm(x))
    shares = values / values.sum().clamp_min(torch.finfo(x.dtype).tiny)
    return _entropy(shares).exp()


def assignment_entropy(assignments: Tensor) -> Tensor:
    """How evenly clusters are used: the entropy of the mean assignment.

    Args:
        assignments: (n, K) float, rows that sum to 1.

    Returns:
        Scalar float32 in [0, ln K]; ln K where all are used alike, 0 where one is.
    """
    return _entropy(assignments.detach().float().mean(0))


def _unit(embeddings: Tensor) -> Tensor:
    return F.normalize(embeddings.detach().float())


def _entropy(shares: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(shares).sum()
    return entropy
