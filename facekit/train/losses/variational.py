"""Losses of Gaussian embeddings: how far they are from the standard one, and those of two views apart."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["gaussian_distance", "gaussian_norm"]


def gaussian_norm(mu: Tensor, log_variance: Tensor) -> Tensor:
    r"""How far Gaussians are from the standard one: mean of :math:`-\frac12(1+\ln v-\mu^2-v)`.

    The mean over samples and dimensions; the divergence KL(N(μ, v) ‖ N(0, 1)) of a sample is d times as much.

    Source: Yavuz & Yanikoglu 2023, "Variational self-supervised contrastive learning using beta
    divergence", the authors' code.

    Args:
        mu: (n, d) float, means.
        log_variance: (n, d) float, ln v.

    Returns:
        Scalar >= 0.
    """
    mu, log_variance = mu.float(), log_variance.float()
    return 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance).mean()


def gaussian_distance(
    mu_first: Tensor,
    log_variance_first: Tensor,
    mu_second: Tensor,
    log_variance_second: Tensor,
    *,
    variant: Literal["faces", "imagenet"],
) -> Tensor:
    r"""How far the Gaussians of two views are apart, by their distances from a Gaussian between them.

    The mean, over samples and dimensions, of :math:`\ln v_m-\frac12(\ln v_0+\ln v_1)+(\mu_0-\mu_1)^2/8v_m`.
    For ``faces`` :math:`v_m` is the arithmetic mean of the two variances; the logarithms have twice the
    weight that they have in the mean of the two divergences. For ``imagenet`` it is the geometric mean, and
    the logarithms cancel: different variances cost nothing.

    Source: Yavuz & Yanikoglu 2023, "Variational self-supervised contrastive learning using beta
    divergence", the authors' code for faces and for ImageNet, which differ.

    Args:
        mu_first: (n, d) float, means of the first view.
        log_variance_first: (n, d) float, logarithms of its variances.
        mu_second: (n, d) float, of the second view.
        log_variance_second: (n, d) float.
        variant: which of the two.

    Returns:
        Scalar >= 0, and 0 for equal Gaussians.
    """
    first, second = log_variance_first.float(), log_variance_second.float()
    between = (first + second) / 2
    middle = torch.logaddexp(first, second) - math.log(2) if variant == "faces" else between
    apart = (mu_first.float() - mu_second.float()).square()
    return (middle - between + apart * torch.exp(-middle) / 8).mean()
