"""timm's vgg11_bn without its classifier, with timm's state-dict names."""

from __future__ import annotations

import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["VGG11BN"]

_WIDTHS = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)  # 0 stands for a 2x2 max-pool


class _Hidden(nn.Module):
    """The two hidden layers of VGG as convolutions, so that larger pictures give a map of features."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(512, 4096, 7)
        self.fc2 = nn.Conv2d(4096, 4096, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc2(F.relu(self.fc1(_at_least(x, 7)))))


@torch.fx.wrap
def _at_least(x: Tensor, side: int) -> Tensor:
    """Maps smaller than ``side`` are stretched to it, as timm does for pictures below 224 px."""
    height, width = x.shape[-2:]
    if min(height, width) >= side:
        return x
    return F.adaptive_avg_pool2d(x, (max(side, height), max(side, width)))


class VGG11BN(nn.Module):
    """VGG-11 with batch norm (Simonyan & Zisserman 2015) up to its second hidden layer.

    Shapes: (n, 3, s, s) float, normalised, s >= 32 -> (n, 4096) float.
    """

    out_dim = 4096

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in _WIDTHS:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.pre_logits = _Hidden()

    def feature_map(self, x: Tensor) -> Tensor:
        """(n, 512, h, w): the last convolutions, before the hidden layers."""
        out: Tensor = self.features(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre_logits(self.feature_map(x))
        return F.adaptive_avg_pool2d(x, 1).flatten(1)
