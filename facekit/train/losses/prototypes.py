"""Clustering losses: a view must fall into the same clusters as other views of the same picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["sinkhorn", "swapped_prediction"]


def sinkhorn(scores: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    """Assign samples to prototypes, softly, and so that all prototypes get about as many.

    Source: Caron et al. 2020, "Unsupervised learning of visual features by contrasting cluster
    assignments", section 3.1 and appendix A.1, here in logarithms: exp(1 / 0.05) has no place in 16 bits.

    Args:
        scores: (n, K) float, cosines of the samples of all processes and the prototypes.
        epsilon: ε > 0; the smaller, the harder the assignment.
        iterations: how often prototypes, then samples, are made even.

    Returns:
        (n, K) float32, rows that sum to 1, without a gradient.
    """
    logs = scores.detach().float() / epsilon
    for _ in range(iterations):
        logs = logs.log_softmax(0)
        logs = logs.log_softmax(1)
    return logs.exp()


def swapped_prediction(
    scores: Sequence[Tensor], assignments: Sequence[Tensor], *, temperature: float
) -> Tensor:
    r"""Cross-entropy between the clusters of a view and those predicted from another: SwAV's loss.

    The mean, over assigned views i and all other views v, of
    :math:`-\sum_k q_{ik}\ln\mathrm{softmax}_k(s_v/\tau)`.

    Source: Caron et al. 2020, "Unsupervised learning of visual features by contrasting cluster
    assignments", eq. 2 and 6.

    Args:
        scores: (n, K) float for each view, at least two: cosines with the prototypes.
        assignments: (n, K) float for each of the first views, rows that sum to 1; no gradient flows into
            them.
        temperature: τ > 0 of the cosines.

    Returns:
        Scalar >= 0; ln K where nothing is known.
    """
    losses = []
    for turn, of_view in enumerate(scores):
        others = [q.detach().float() for i, q in enumerate(assignments) if i != turn]
        if others:
            logs = (of_view.float() / temperature).log_softmax(1)
            losses.append(-(torch.stack(others).sum(0) * logs).sum(1).mean())
    return torch.stack(losses).sum() / (len(assignments) * (len(scores) - 1))
