"""Two losses of different size, joined by the running ratio of their means."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["LossRatio"]

_DECAY = 0.99  # of the running means, a step or a part of one
_LEAST = 1e-12


class LossRatio(nn.Module):
    r"""A loss and a second one that is brought to its size: nobody has to guess how the two compare.

    .. math:: L = \frac{1}{1+\alpha}\left(L_h + \alpha\,\frac{\bar L_h}{\bar L_p}\,L_p\right)

    with running means :math:`\bar L`, through which no gradient flows. Both means start at 0, so that what is
    missing at first cancels in their ratio. They are saved with the run; where both losses are the same in
    all processes, so are they. In evaluation mode they stay, and where a loss is no finite number: of a step
    that overflowed, which is left out, nothing remains.

    Source: Zoph et al. 2020, "Rethinking pre-training and self-training".

    Args:
        alpha: weight of the second loss, 0 or more.

    Attributes:
        means: (2,) float32, the running means.
    """

    means: Tensor

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.register_buffer("means", torch.zeros(2))

    def forward(self, known: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """The joint loss, and the ratio of the running means.

        Args:
            known: scalar loss of what people have labelled, L_h.
            told: scalar loss of pseudo-labels, L_p.
        """
        if self.training:
            losses = torch.stack([known, told]).detach().float()
            moved = self.means.lerp(losses, 1 - _DECAY)
            self.means.copy_(torch.where(losses.isfinite().all(), moved, self.means))
        ratio = self.means[0] / self.means[1].clamp_min(_LEAST)
        return (known + self.alpha * ratio * told) / (1 + self.alpha), ratio
