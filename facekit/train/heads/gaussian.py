"""The head of variational losses: a Gaussian for each picture, and samples of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["GaussianHead"]


class GaussianHead(nn.Module):
    """What maps features to means and log-variances: two times Linear - BN - ReLU, then a Linear for each.

    Source: Yavuz & Yanikoglu 2023, "Variational self-supervised contrastive learning using beta
    divergence", the authors' code; parameters have the names that they have there.

    Args:
        dim: length of the features.
        out: dimensions of the Gaussians.
    """

    def __init__(self, dim: int, out: int = 128) -> None:
        super().__init__()
        self.interpreter = nn.Sequential(
            nn.Linear(dim, dim),
            nn.BatchNorm1d(dim),
            nn.ReLU(),
            nn.Linear(dim, dim),
            nn.BatchNorm1d(dim),
            nn.ReLU(),
        )
        self.fc_mu = nn.Linear(dim, out)
        self.fc_var = nn.Linear(dim, out)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-variances, (n, out) float each, of (n, dim) float."""
        hidden = self.interpreter(features)
        return self.fc_mu(hidden), self.fc_var(hidden)

    @staticmethod
    def sample(mu: Tensor, log_variance: Tensor) -> Tensor:
        """One draw of each Gaussian, (n, out) float32, through which both get a gradient.

        The draw is that of torch's CPU generator, whatever the device.
        """
        noise = torch.randn(mu.shape).to(mu.device, non_blocking=True)
        return mu.float() + torch.exp(0.5 * log_variance.float()) * noise
