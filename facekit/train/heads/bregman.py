"""The head of Bregman losses: sub-networks whose maximum is a learnt convex function."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["BregmanSubnetworks"]

_BITS = 1 << 16
_AT_ONCE = 1 << 27  # hidden numbers that are kept for backward; where there are more, they are computed again


class BregmanSubnetworks(nn.Module):
    """K small networks, Linear - ReLU - Dropout - Linear each, from a vector to a number, in one product.

    They start as linear layers do, but without biases, and with output weights that sum to 0 in each
    network. Else what a network gives to all vectors alike outweighs how it tells them apart, few networks
    win everywhere (as few as 9 of 100), and those that never win never learn.

    Source: Rezaei et al. 2021, "Deep Bregman divergence for contrastive learning of visual representations",
    and the authors' code; the start is our own.

    Args:
        dim: length of the vectors.
        count: K.
        hidden: width of each network.
        dropout: share of the hidden numbers that training leaves out.
    """

    def __init__(self, dim: int = 128, count: int = 50, hidden: int = 512, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout = dropout
        self.hidden_weight = nn.Parameter(torch.empty(count, dim, hidden))
        self.hidden_bias = nn.Parameter(torch.zeros(count * hidden))  # flat: optimisers know biases by that
        self.out_weight = nn.Parameter(torch.empty(count, hidden, 1))
        self.out_bias = nn.Parameter(torch.zeros(count))
        for weight, inputs in ((self.hidden_weight, dim), (self.out_weight, hidden)):
            nn.init.uniform_(weight, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))
        with torch.no_grad():
            self.out_weight.sub_(self.out_weight.mean(1, keepdim=True))

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, dim) float -> (n, K) float32, also under autocast: differences of the numbers count."""
        count, _, hidden = self.hidden_weight.shape
        parts = min(count, max(1, math.ceil(len(vectors) * count * hidden / _AT_ONCE)))
        layers = self.hidden_weight, self.hidden_bias.view(count, 1, hidden), self.out_weight
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float()
            if parts == 1:
                return self._outputs(vectors, *layers) + self.out_bias
            blocks = zip(*(layer.tensor_split(parts) for layer in layers), strict=True)
            outputs = [checkpoint(self._outputs, vectors, *block, use_reentrant=False) for block in blocks]
            return torch.cat(outputs, 1) + self.out_bias

    def _outputs(self, vectors: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
        hidden = torch.baddbmm(bias, vectors.expand(len(weight), -1, -1), weight)
        if self.training and self.dropout:
            # What is left out is 0 before relu, which passes no gradient there either: no mask is kept.
            with torch.no_grad():
                hidden.mul_(_kept(hidden, self.dropout))
            out = out / (1.0 - self.dropout)
        return torch.bmm(hidden.relu_(), out).squeeze(2).T


def _kept(x: Tensor, share: float) -> Tensor:
    """Which numbers dropout leaves, as 0 and 1; a CPU takes 16 random bits each, a quarter of the time."""
    if x.device.type != "cpu":
        return torch.rand_like(x) >= share
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    return bits >= round(share * _BITS) - _BITS // 2
