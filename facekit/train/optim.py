"""The optimiser, and what changes over a run: learning rate, margin and scale, functions of its progress."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from facekit.train.config import OptimSettings
from facekit.train.lars import LARS
from facekit.train.recipe import Step

__all__ = ["build_optimizer", "cosine", "decay_groups", "progressive_margin", "rate_factor", "warm_restarts"]


def cosine(progress: float, *, warmup: float = 0.0, turn: float = 0.0) -> float:
    """Factor of the learning rate: a linear rise over ``warmup``, then half a cosine down to 0.

    Args:
        progress: share of all steps already done, in [0, 1].
        warmup: share of the run spent rising.
        turn: share of the run after which half of the rate is left, where that is later than in the middle
            of the cosine: so a short last part of another kind still learns.
    """
    if progress < warmup:
        return progress / warmup
    turn = max(turn, (1.0 + warmup) / 2)
    if progress < turn:
        done = 0.5 * (progress - warmup) / (turn - warmup)
    else:
        done = 1.0 - 0.5 * (1.0 - progress) / (1.0 - turn)
    return 0.5 * (1.0 + math.cos(math.pi * done))


def warm_restarts(epoch: float, *, first: float = 10.0, multiplier: float = 2.0) -> float:
    """Factor of the learning rate under SGDR (Loshchilov & Hutter 2017): cosines, each longer than the last.

    Args:
        epoch: epochs done, with their fraction.
        first: epochs of the first cycle (T_0).
        multiplier: how much longer each next cycle is (T_mult).
    """
    length = first
    while epoch >= length:
        epoch, length = epoch - length, length * multiplier
    return 0.5 * (1.0 + math.cos(math.pi * epoch / length))


def rate_factor(optim: OptimSettings, at: Step, small_share: float) -> float:
    """Factor of every learning rate at a step, by the schedule that the settings name.

    Args:
        optim: says which.
        at: the step.
        small_share: share of the run that sees smaller pictures.
    """
    if optim.schedule == "warm-restarts":
        return warm_restarts(at.epoch)
    return cosine(at.progress, warmup=optim.warmup, turn=small_share)


def progressive_margin(progress: float, *, scale: float = 64.0, margin: float = 0.5) -> tuple[float, float]:
    """Scale and margin of the progressive schedule; the final values are its arguments.

    Until 16 % of the run no margin while the scale rises from 10 to 30; until 40 % the margin rises to
    0.35 and the scale to 45; then both rise linearly to 0.5 and 64. Other final values stretch the
    schedule in proportion.

    Returns:
        (scale, margin), the margin in radians.
    """
    knots = ((0.0, 10.0, 0.0), (0.16, 30.0, 0.0), (0.40, 45.0, 0.35), (1.0, 64.0, 0.5))
    progress = min(max(progress, 0.0), 1.0)
    for (p0, s0, m0), (p1, s1, m1) in pairwise(knots):
        if progress <= p1:
            share = (progress - p0) / (p1 - p0)
            return (s0 + share * (s1 - s0)) * scale / 64.0, (m0 + share * (m1 - m0)) * margin / 0.5
    raise AssertionError("progress is clamped to [0, 1]")


def build_optimizer(name: str, groups: list[dict[str, Any]], device: torch.device) -> torch.optim.Optimizer:
    """The optimiser of a run.

    Args:
        name: ``adamw`` or ``lars``.
        groups: of parameters on ``device``, each with its ``lr``.
        device: fused where it can be.
    """
    if name == "lars":
        return LARS(groups)
    return torch.optim.AdamW(groups, fused=device.type in ("cpu", "cuda"))


def decay_groups(
    name: str, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Optimiser groups of one learning rate: matrices and kernels decay; biases and norms do not."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in parameters:
        (decayed if parameter.ndim > 1 else plain).append(parameter)
    groups = (decayed, weight_decay), (plain, 0.0)
    return [
        {"name": name, "params": params, "lr": lr, "weight_decay": decay}
        for params, decay in groups
        if params
    ]
