"""Contrastive losses: a view of a picture must find the other view of it among the views of all pictures.

The pictures of all processes count. Each process's loss is the mean over its own views, so that losses and
gradients that are averaged over the processes are those of the whole batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from facekit.train import processes

__all__ = [
    "balance_loss",
    "beta_nt_xent",
    "bregman_divergence",
    "bregman_nt_xent",
    "chance_level",
    "nt_xent",
]

_LEAST_SQUARE = 1e-8  # of a distance: the slope of a root is infinite at 0
_LEAST_SPREAD = 1e-6


def chance_level(views: int) -> float:
    r"""The loss of a network that sees no difference between pictures: :math:`\ln(2N-1)`.

    Args:
        views: 2N >= 2, two of each picture, of all processes together.
    """
    return math.log(views - 1)


def nt_xent(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    r"""Cross-entropy of cosines: :math:`-\ln\frac{\exp(z_i z_j/\tau)}{\sum_{k\ne i}\exp(z_i z_k/\tau)}`.

    The default among the losses for pictures without labels.

    Source: Chen et al. 2020, "A simple framework for contrastive learning of visual representations", eq. 1,
    as the mean over the 2N views; the authors' code gives twice that.

    Args:
        first: (n, d) float, any length; n alike in all processes.
        second: (n, d) float, of other views of the same pictures.
        temperature: τ > 0 of the cosines.

    Returns:
        Scalar >= 0.
    """
    with torch.autocast(first.device.type, enabled=False):
        return _cross_entropy(_cosines(first, second) / temperature)


def beta_nt_xent(
    first: Tensor,
    second: Tensor,
    *,
    temperature: float,
    beta: float,
    sigma: float,
    squared: bool = False,
) -> Tensor:
    r"""NT-Xent of a kernel from the beta-divergence of Gaussians, which is robust against outliers.

    The logit of two unit vectors in D dimensions, :math:`\delta` apart, is
    :math:`\frac{1+\beta}{\beta\tau}(2\pi\sigma^2)^{-\beta D}(e^{-\beta\delta/2\sigma^2}-1)`. The published
    one differs by a constant, which the softmax takes out again, but which leaves few of its bits right.

    As published, the distance is not squared and the exponent of :math:`2\pi\sigma^2` is twice that of a
    Gaussian; the latter only scales the temperature. For small :math:`\beta` this is NT-Xent of
    :math:`-\delta/2\sigma^2\tau`.

    Source: the code of Yavuz & Yanikoglu, "VCL: variational contrastive learning for faces".

    Args:
        first: (n, d) float, any length; n alike in all processes.
        second: (n, d) float, of other views of the same pictures.
        temperature: τ > 0 of the logits.
        beta: β > 0 of the divergence.
        sigma: σ > 0 of the Gaussians.
        squared: whether the distance is squared, as in the divergence itself.

    Returns:
        Scalar >= 0.
    """
    with torch.autocast(first.device.type, enabled=False):
        distance = (2 - 2 * _cosines(first, second)).clamp_min(_LEAST_SQUARE)
        if not squared:
            distance = distance.sqrt()
        height = (2 * math.pi * sigma**2) ** (-beta * first.shape[1]) * (1 + beta) / (beta * temperature)
        return _cross_entropy(height * torch.expm1(distance * (-beta / (2 * sigma**2))))


def bregman_nt_xent(first: Tensor, second: Tensor, *, temperature: float, sigma: float) -> Tensor:
    r"""NT-Xent of the similarity :math:`\exp(-D/2\sigma^2)` under a learnt divergence.

    The similarity is in (0, 1], so that the loss of 2N views is at least
    :math:`\ln(1+(2N-2)e^{-1/\tau})`.

    Source: Rezaei et al. 2021, "Deep Bregman divergence for contrastive learning of visual representations",
    and the authors' code.

    Args:
        first: (n, K) float, outputs of the K sub-networks; n alike in all processes.
        second: (n, K) float, of other views of the same pictures.
        temperature: τ > 0 of the similarities.
        sigma: σ > 0 of the similarities.

    Returns:
        Scalar >= 0.
    """
    with torch.autocast(first.device.type, enabled=False):
        winners = processes.gathered(torch.stack([first.argmax(1), second.argmax(1)], 1))
        divergence = _divergence(torch.cat([first, second]).float(), winners.T.reshape(-1))
        return _cross_entropy(torch.exp(divergence / (-2 * sigma**2)) / temperature)


def bregman_divergence(first: Tensor, second: Tensor) -> Tensor:
    r"""How far samples i are from samples j: :math:`D(i,j)=\max_k u_{ik}-u_{i,k^*(j)}`.

    :math:`k^*(j)=\arg\max_k v_{jk}` is the sub-network that wins j. D is at least 0, is 0 where i has the
    same winner, and is not symmetric. The gradient reaches ``first`` alone.

    Source: Rezaei et al. 2021, with a convex function that is the maximum of the sub-networks.

    Args:
        first: (n, K) float, outputs u of the K sub-networks.
        second: (m, K) float, outputs v.

    Returns:
        (n, m) float32.
    """
    return _divergence(first.float(), second.argmax(1))


def balance_loss(outputs: Tensor) -> Tensor:
    r"""How unevenly sub-networks win: :math:`\ln K` less the entropy of the mean of their softmax.

    A divergence teaches winners alone. A small share of this, such as 0.1, beside it keeps the others in
    reach: with 100 sub-networks, half of them go on to win instead of one in five. The softmax is over the
    outputs in units of their spread over pictures, so that only their place to each other counts.

    Source: our own, after the importance loss of Shazeer et al. 2017, "Outrageously large neural networks:
    the sparsely-gated mixture-of-experts layer", eq. 7.

    Args:
        outputs: (n, K) float, of both views or of one; at least two rows, n alike in all processes.

    Returns:
        Scalar in [0, ln K], of the rows of all processes.
    """
    whole = processes.gathered(outputs.float())
    spread = whole.detach().std(0).mean().clamp_min(_LEAST_SPREAD)
    logs = (whole / spread).log_softmax(1).logsumexp(0) - math.log(len(whole))
    return (logs.exp() * (logs + math.log(whole.shape[1]))).sum()


def _divergence(outputs: Tensor, winners: Tensor) -> Tensor:
    return outputs.max(1, keepdim=True).values - outputs.index_select(1, winners)


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    """(2n, 2N) float32: views of this process by those of all, the first ones before the second ones."""
    own = F.normalize(torch.stack([first, second], 1).float(), dim=2)
    whole = processes.gathered(own)
    return own.transpose(0, 1).flatten(0, 1) @ whole.transpose(0, 1).flatten(0, 1).T


def _cross_entropy(logits: Tensor) -> Tensor:
    """The mean over this process's views of the loss of finding the other view, given (2n, 2N) logits."""
    pictures, everyone = len(logits) // 2, logits.shape[1] // 2
    own = torch.arange(pictures, device=logits.device) + processes.rank() * pictures
    other = torch.cat([own + everyone, own])
    itself = torch.cat([own, own + everyone])[:, None]
    return F.cross_entropy(logits.scatter(1, itself, -math.inf), other)
