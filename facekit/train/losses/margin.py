"""Margin losses: softmax over cosines to centres, made harder for the own one."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = [
    "centre_softmax",
    "cosine_distillation",
    "expected_initial_loss",
    "margin_logits",
    "margin_softmax",
    "with_margins",
]

_COS_LIMIT = 1.0 - 1e-6  # arccos has an infinite slope at 1, and clamping to 1 itself gives no gradient
_MIN_NORM = 1e-12


def with_margins(cosines: Tensor, *, margin: float, cosine_margin: float = 0.0) -> Tensor:
    r"""The cosines to their own centres, made harder: :math:`\cos(\theta + m_2) - m_3`.

    Where :math:`\theta + m_2 > \pi` the cosine would rise again; there it is
    :math:`\cos\theta - m_2\sin m_2 - m_3`, which keeps the loss monotone and its gradient alive.
    Without an angular margin the result is :math:`\cos\theta - m_3` to the last bit.

    Source: Deng et al. 2019, "ArcFace", eq. 3 (m2) and 4; Wang et al. 2018, "CosFace", eq. 4 (m3); the
    fallback is that of ArcFace's first implementation. SphereFace's factor m1 of the angle is left out:
    the sets of margins that are published together have m1 = 1.

    Args:
        cosines: float32 or float64 of any shape, in [-1, 1].
        margin: m2 in [0, pi/2], in radians, added to the angle (ArcFace).
        cosine_margin: m3 >= 0, subtracted from the cosine (CosFace).

    Returns:
        As many numbers, in [-1 - m2 sin m2 - m3, 1 - m3].
    """
    if margin == 0:
        return cosines - cosine_margin
    shifted = torch.acos(cosines.clamp(-_COS_LIMIT, _COS_LIMIT)) + margin
    linear = cosines - margin * math.sin(margin)
    return torch.where(shifted > math.pi, linear, torch.cos(shifted)) - cosine_margin


def margin_logits(
    cosines: Tensor, labels: Tensor, *, scale: float, margin: float, cosine_margin: float = 0.0
) -> Tensor:
    r"""Scaled cosines: :func:`with_margins` at the target class, plain elsewhere.

    Args:
        cosines: (n, classes) float32 or float64, in [-1, 1].
        labels: (n,) int64.
        scale: s > 0.
        margin: m2 >= 0, in radians.
        cosine_margin: m3 >= 0.

    Returns:
        (n, classes) logits.
    """
    target = with_margins(cosines.gather(1, labels[:, None]), margin=margin, cosine_margin=cosine_margin)
    return scale * cosines.scatter(1, labels[:, None], target)


def margin_softmax(
    cosines: Tensor, labels: Tensor, *, scale: float, margin: float, cosine_margin: float = 0.0
) -> Tensor:
    """Cross-entropy of :func:`margin_logits` in float32, the mean over the batch.

    With both margins 0 this is the normalised softmax (NormFace).
    """
    logits = margin_logits(cosines.float(), labels, scale=scale, margin=margin, cosine_margin=cosine_margin)
    return F.cross_entropy(logits, labels)


def centre_softmax(
    embeddings: Tensor,
    centres: Tensor,
    targets: tuple[Tensor, Tensor],
    *,
    scale: float,
    margin: float,
    cosine_margin: float = 0.0,
    group: dist.ProcessGroup | None = None,
    sharded: bool = False,
) -> tuple[Tensor, Tensor]:
    """:func:`margin_softmax` of embeddings and centres, in one (n, classes) array and not six.

    The centres may be spread over processes: each calls this with the same embeddings and its own part of
    the centres. All get the same loss. The gradient of the centres is that of the loss; the gradient of
    the embeddings is the part that this process's centres have in it, and those parts add up to the whole.
    Compute outside autocast; nothing can be differentiated twice.

    Args:
        embeddings: (n, d) float32 unit vectors.
        centres: (c, d) float32, any length; c may be 0 where the centres are spread.
        targets: rows and columns (k,) int64 of the cosines between embeddings and their own centres, of
            those that are here. k is n where the centres are not spread.
        scale: s > 0.
        margin: m2 >= 0, in radians.
        cosine_margin: m3 >= 0.
        group: the processes that share the centres; None for all.
        sharded: whether the centres are spread over ``group``.

    Returns:
        The mean cross-entropy, and the mean cosine between embeddings and their own centres (without a
        gradient); scalars.
    """
    loss, cosine = _CentreSoftmax.apply(
        embeddings, centres, *targets, (scale, margin, cosine_margin), group, sharded
    )
    return loss, cosine


class _CentreSoftmax(torch.autograd.Function):
    """The forward pass turns the cosines, in place, into the gradient of the loss by the products."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        centres: Tensor,
        rows: Tensor,
        columns: Tensor,
        numbers: tuple[float, float, float],
        group: dist.ProcessGroup | None,
        sharded: bool,
    ) -> tuple[Tensor, Tensor]:
        scale, margin, cosine_margin = numbers
        n = len(embeddings)
        inverse = 1 / torch.linalg.vector_norm(centres, dim=1).clamp_min(_MIN_NORM)
        block = embeddings @ centres.T
        block *= inverse
        target = block[rows, columns]
        with torch.enable_grad():
            leaf = target.detach().requires_grad_()
            harder = with_margins(leaf, margin=margin, cosine_margin=cosine_margin)
            (slope,) = torch.autograd.grad(harder.sum(), leaf)
        harder = scale * harder.detach()
        block *= scale
        block[rows, columns] = harder
        highest = block.amax(1) if len(centres) else block.new_full((n,), -math.inf)
        if sharded:
            dist.all_reduce(highest, dist.ReduceOp.MAX, group)
        block -= highest[:, None]
        block.exp_()
        sums = block.new_zeros(3, n)  # of exponentials, of target logits, of target cosines
        sums[0] = block.sum(1)
        sums[1, rows] = harder
        sums[2, rows] = target
        if sharded:
            dist.all_reduce(sums, dist.ReduceOp.SUM, group)
        block *= (scale / n / sums[0])[:, None]
        block[rows, columns] = (block[rows, columns] - scale / n) * slope
        block *= inverse
        ctx.save_for_backward(embeddings, centres, block, inverse)
        loss, cosine = (highest + sums[0].log() - sums[1]).mean(), sums[2].mean()
        ctx.mark_non_differentiable(cosine)
        return loss, cosine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        embeddings, centres, block, inverse = ctx.saved_tensors
        by_embeddings = by_centres = None
        with torch.autocast(block.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                by_embeddings = (block @ centres).mul_(by_loss)
            if ctx.needs_input_grad[1]:
                by_centres = (block.T @ embeddings).mul_(by_loss)
                along = torch.einsum("cd,cd->c", by_centres, centres) * inverse.square()
                by_centres.addcmul_(centres, along[:, None], value=-1)
        return by_embeddings, by_centres, None, None, None, None, None


def expected_initial_loss(
    classes: int, dim: int, *, scale: float, margin: float, cosine_margin: float = 0.0
) -> float:
    r"""The loss of random unit vectors: :math:`\ln(C-1) + s\sin m_2 + s\,m_3 + s^2/2d`.

    The published "loss explosion" of margin losses (36 instead of ln 100 = 4.6) is this value, not an
    error. It holds within 3 % for d >= 128 and s up to 64.
    """
    return math.log(max(1, classes - 1)) + scale * (math.sin(margin) + cosine_margin) + scale**2 / (2 * dim)


def cosine_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    r"""How far the student's directions are from the teacher's: mean of :math:`1 - \cos(x_i, t_i)`.

    Args:
        student: (n, d) float, any length.
        teacher: (n, d) float, any length; no gradient flows into it.

    Returns:
        Scalar in [0, 2].
    """
    return 1.0 - F.cosine_similarity(student.float(), teacher.detach().float(), dim=1).mean()
