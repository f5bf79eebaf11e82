"""Losses against targets that are probabilities: labels that are believed in part, and mixed pictures."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["prior_divergence", "sharpen", "soft_cross_entropy", "soft_margin_logits", "soft_squared_error"]

_LEAST = 1e-12  # a share whose logarithm is still a number


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    r"""What each row loses: :math:`-\sum_k t_k\ln\mathrm{softmax}_k(z)`.

    Args:
        logits: (n, classes) float.
        targets: (n, classes) float, rows that sum to 1.

    Returns:
        (n,) float32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return -(targets.float() * logits.float().log_softmax(1)).sum(1)


def soft_margin_logits(cosines: Tensor, targets: Tensor, *, scale: float, margin: float) -> Tensor:
    r"""Scaled cosines, each made harder by its share in the target: :math:`s(\cos\theta_k-m\,t_k)`.

    For a label that is certain this is CosFace; where two are mixed, each has its part of the margin.

    Source: Wang et al. 2018, "CosFace: large margin cosine loss for deep face recognition", eq. 4, for
    targets that are probabilities.

    Args:
        cosines: (n, classes) float, in [-1, 1].
        targets: (n, classes) float, rows that sum to 1.
        scale: s > 0.
        margin: m >= 0.

    Returns:
        (n, classes) float32 logits.
    """
    with torch.autocast(cosines.device.type, enabled=False):
        return scale * (cosines.float() - margin * targets.float())


def soft_squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    r"""How far the probabilities of each row are from its target: the mean over k of :math:`(p_k-t_k)^2`.

    A guess that is wrong costs at most 2 / classes, and not without bound as in a cross-entropy.

    Args:
        logits: (n, classes) float.
        targets: (n, classes) float, rows that sum to 1.

    Returns:
        (n,) float32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return (logits.float().softmax(1) - targets.float()).square().mean(1)


def sharpen(probabilities: Tensor, *, temperature: float) -> Tensor:
    r"""Probabilities, surer of themselves: :math:`p_k^{1/T}/\sum_j p_j^{1/T}`.

    Source: Berthelot et al. 2019, "MixMatch: a holistic approach to semi-supervised learning", eq. 7.

    Args:
        probabilities: (n, classes) float, rows that sum to 1.
        temperature: T in (0, 1]; 1 changes nothing.

    Returns:
        (n, classes) float32, rows that sum to 1.
    """
    with torch.autocast(probabilities.device.type, enabled=False):
        return (probabilities.float().clamp_min(_LEAST).log() / temperature).softmax(1)


def prior_divergence(mean: Tensor, prior: Tensor) -> Tensor:
    r"""KL(prior || mean), :math:`\sum_k\pi_k\ln(\pi_k/\bar p_k)`: high where classes are forgotten.

    Source: Tanaka et al. 2018, "Joint optimization framework for learning with noisy labels", eq. 7.

    Args:
        mean: (classes,) float, sums to 1.
        prior: (classes,) float, sums to 1.

    Returns:
        Scalar float32 >= 0.
    """
    with torch.autocast(mean.device.type, enabled=False):
        prior = prior.float()
        parts: Tensor = torch.special.xlogy(prior, prior / mean.float().clamp_min(_LEAST))
        return parts.sum()
