"""Losses: tensors in, scalar out; float32 inside, also under autocast."""

from __future__ import annotations

from facekit.train.losses.contrast import (
    balance_loss,
    beta_nt_xent,
    bregman_divergence,
    bregman_nt_xent,
    chance_level,
    nt_xent,
)
from facekit.train.losses.margin import (
    centre_softmax,
    cosine_distillation,
    expected_initial_loss,
    margin_logits,
    margin_softmax,
    with_margins,
)
from facekit.train.losses.prototypes import sinkhorn, swapped_prediction
from facekit.train.losses.ratio import LossRatio
from facekit.train.losses.soft import (
    prior_divergence,
    sharpen,
    soft_cross_entropy,
    soft_margin_logits,
    soft_squared_error,
)
from facekit.train.losses.variational import gaussian_distance, gaussian_norm

__all__ = [
    "LossRatio",
    "balance_loss",
    "beta_nt_xent",
    "bregman_divergence",
    "bregman_nt_xent",
    "centre_softmax",
    "chance_level",
    "cosine_distillation",
    "expected_initial_loss",
    "gaussian_distance",
    "gaussian_norm",
    "margin_logits",
    "margin_softmax",
    "nt_xent",
    "prior_divergence",
    "sharpen",
    "sinkhorn",
    "soft_cross_entropy",
    "soft_margin_logits",
    "soft_squared_error",
    "swapped_prediction",
    "with_margins",
]
