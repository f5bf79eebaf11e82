"""LARS: SGD with momentum, each layer at a rate of its own, for large batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

__all__ = ["LARS"]


class LARS(torch.optim.Optimizer):
    r"""Layer-wise adaptive rate scaling: a step changes each layer by about the same share of its norm.

    For a weight w with the gradient g, which includes the decay: :math:`v\leftarrow mv+\eta\lambda g`,
    :math:`w\leftarrow w-v`, with the trust ratio :math:`\lambda=t\|w\|/\|g\|`, or 1 where a norm is 0. The
    learning rate is in the momentum, so that a schedule does not change what is under way. Biases and norms,
    parameters of at most one dimension, have no decay and a trust ratio of 1.

    Source: You et al. 2017, "Large batch training of convolutional networks", algorithm 1, with the
    exceptions that SimCLR's code makes.

    Args:
        params: parameters, or groups of them with their own ``lr``, ``momentum`` ...
        lr: η; SimCLR's is 0.3 for every 256 pictures of a batch.
        momentum: m.
        weight_decay: added to the gradient, times the weight.
        trust: t, the share.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.3,
        *,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust: float = 1e-3,
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(params, settings)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; ``closure``, if given, computes the loss again before it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for part in ([p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]):
                if part:
                    self._update(part, group, adapt=part[0].ndim > 1)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any], *, adapt: bool) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        momenta = [self._momentum(p) for p in parameters]
        if adapt:
            gradients = _adapted(parameters, gradients, decay=group["weight_decay"], trust=group["trust"])
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients, alpha=group["lr"])
        torch._foreach_sub_(parameters, momenta)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum


def _adapted(
    parameters: list[Tensor], gradients: list[Tensor], *, decay: float, trust: float
) -> list[Tensor]:
    """Gradients with their decay, times their trust ratios, which stay on the device."""
    gradients = list(torch._foreach_add(gradients, parameters, alpha=decay))
    weights = torch.stack(torch._foreach_norm(parameters))
    slopes = torch.stack(torch._foreach_norm(gradients))
    ratios = torch.where((weights > 0) & (slopes > 0), trust * weights / slopes, 1.0)
    torch._foreach_mul_(gradients, list(ratios.unbind()))
    return gradients
