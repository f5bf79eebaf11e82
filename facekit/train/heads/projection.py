"""Projection heads: small networks whose output the self-supervised losses compare."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

__all__ = ["ProjectionHead"]


class ProjectionHead(nn.Module):
    """What maps features to the vectors that are compared, so that the features may keep more than those.

    - ``v1``: Linear - ReLU - Linear. Chen et al. 2020, "A simple framework for contrastive learning of
      visual representations", section 3.
    - ``v2``: two times Linear - BN - ReLU, then Linear - BN, no Linear with a bias. Chen et al. 2020, "Big
      self-supervised models are strong semi-supervised learners", section 2; its last BN has no shift,
      this one has.
    - ``bregman``: Linear (no bias) - BN - ReLU - Linear. Rezaei et al. 2021, "Deep Bregman divergence for
      contrastive learning of visual representations", the authors' code.
    - ``swav``: Linear - BN - ReLU - Linear. Caron et al. 2020, "Unsupervised learning of visual features by
      contrasting cluster assignments", appendix A; with ``dim`` 2048, the layers and names (``net.0`` ...)
      of Bulat et al. 2022.

    Hidden layers are as wide as the features.

    Args:
        dim: length of the features.
        version: which of them.
        out: length of the vectors.
    """

    def __init__(self, dim: int, *, version: Literal["v1", "v2", "bregman", "swav"], out: int = 128) -> None:
        super().__init__()
        if version == "v1":
            layers = [nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, out)]
        elif version == "v2":
            layers = [*_hidden(dim, bias=False), *_hidden(dim, bias=False)]
            layers += [nn.Linear(dim, out, bias=False), nn.BatchNorm1d(out)]
        else:
            layers = [*_hidden(dim, bias=version == "swav"), nn.Linear(dim, out)]
        self.net = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """(n, dim) float -> (n, out) float, not normalised."""
        vectors: Tensor = self.net(features)
        return vectors


def _hidden(dim: int, *, bias: bool) -> list[nn.Module]:
    return [nn.Linear(dim, dim, bias=bias), nn.BatchNorm1d(dim), nn.ReLU()]
