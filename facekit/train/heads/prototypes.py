"""The head of clustering losses: cosines with prototypes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Prototypes"]


class Prototypes(nn.Module):
    """Directions that samples are assigned to, learnt with them.

    Source: Caron et al. 2020, "Unsupervised learning of visual features by contrasting cluster
    assignments", section 3 and appendix A.

    Args:
        dim: length of the samples.
        count: how many prototypes.

    Attributes:
        weight: (count, dim) float32. Training makes its rows unit vectors again before it uses them.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, dim)))

    def forward(self, samples: Tensor, *, frozen: bool = False) -> Tensor:
        """Cosines, (n, count) float32 also under autocast, of (n, dim) float unit vectors.

        Args:
            samples: of all views; those of one step best together.
            frozen: no gradient for the prototypes, as in the first steps.
        """
        with torch.autocast(samples.device.type, enabled=False):
            if self.training:  # by data: of two calls in a step, the second changes nothing of the first
                self.weight.data.copy_(F.normalize(self.weight.data))
            weight = self.weight if self.training else F.normalize(self.weight)
            return samples.float() @ (weight.detach() if frozen else weight).T
