"""A head that says of each point where it may be, and the loss of such maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.train.probe.tasks.known import filled, mean_of_known

__all__ = ["Heatmaps", "expected_points", "heatmap_loss"]

_WIDTHS = (128, 64, 64)  # 128 in all is 2.4 times the work, and finds points no better
_SIGMA = 1.0  # of the maps that are asked for, in their pixels
_DISTANCE = 5.0  # weight of the distance, whose unit is the picture's side


class Heatmaps(nn.Module):
    """Three transposed convolutions that enlarge a map eightfold, and a map for each point.

    The layers are those of Xiao et al. 2018, "Simple baselines for human pose estimation and tracking",
    narrower.

    Shapes: (n, channels, h, w) -> logits (n, points, 8h, 8w) in training, else points (n, points, 2) in
    units of the picture's side.
    """

    def __init__(self, channels: int, points: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in _WIDTHS:
            layers += [
                nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        self.enlarge = nn.Sequential(*layers)
        self.locate = nn.Conv2d(channels, points, 1)

    def forward(self, maps: Tensor) -> Tensor:
        logits: Tensor = self.locate(self.enlarge(maps))
        return logits if self.training else expected_points(logits)


def expected_points(logits: Tensor) -> Tensor:
    """The mean place of each map's distribution (soft-argmax).

    Args:
        logits: (n, p, h, w), any precision.

    Returns:
        (n, p, 2) float32, x and y of the map's pixels' centres, in [0, 1].
    """
    x, y = _centres(logits)
    chance = logits.float().flatten(2).softmax(-1).view(logits.shape)
    return torch.stack([(chance.sum(2) * x).sum(-1), (chance.sum(3) * y).sum(-1)], dim=-1)


def heatmap_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """How far the expected points are off, and how unlike Gaussians around the true ones the maps are.

    The distance makes up for the coarse map; the Kullback-Leibler divergence from the Gaussian keeps the map
    in one place.

    Source: Nibali et al. 2018, "Numerical coordinate regression with convolutional neural networks", eq. 8
    and 10, whose divergence is Jensen-Shannon's. On 120 faces with five points either left half the error of
    least squares on the maps, and this one the less.

    Args:
        logits: (n, p, h, w), any precision.
        targets: (n, p, 2); points with a NaN count for nothing.
    """
    values, known = filled(targets)
    off = (expected_points(logits) - values).abs().sum(-1)
    given = logits.float().flatten(2).log_softmax(-1)
    unlike = F.kl_div(given, _gaussians(values, logits), reduction="none", log_target=True).sum(-1)
    return mean_of_known(_DISTANCE * off + unlike, known.all(-1))


def _gaussians(points: Tensor, logits: Tensor) -> Tensor:
    """(n, p, h * w) logarithms of distributions around the points."""
    height, width = logits.shape[2:]
    x, y = _centres(logits)
    across = ((x - points[..., :1]) * width).square()
    down = ((y - points[..., 1:]) * height).square()
    squares = down[..., :, None] + across[..., None, :]
    return (-squares / (2 * _SIGMA**2)).flatten(2).log_softmax(-1)


def _centres(logits: Tensor) -> tuple[Tensor, Tensor]:
    """x (w,) and y (h,) of the pixels of a map, in its sides."""
    height, width = logits.shape[2:]
    x, y = (torch.arange(n, device=logits.device) for n in (width, height))
    return (x + 0.5) / width, (y + 0.5) / height
