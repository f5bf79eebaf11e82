"""A small residual network for aligned faces, made to be trained and run on two CPU cores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["FaceResNet"]


class _Block(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016), the first with the stride."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + shortcut)


class FaceResNet(nn.Module):
    """Residual stages, one weight per channel and place instead of average pooling, one linear layer.

    A 3x3 stem halves the picture and every stage halves it again; the last map is brought to 3 x 3 and
    reduced by a depthwise convolution (MobileFaceNet, Chen et al. 2018), because in an aligned face the
    place of a feature says what it is. Any input size fits, so training may begin on small pictures.

    Args:
        widths: channels of each stage.
        depths: blocks of each stage.
        stem_width: channels of the stem.
        embedding_dim: length d of the embedding.

    Shapes: (n, 3, s, s) float, normalised -> (n, d) float, not of unit length.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 2, 2),
        *,
        stem_width: int = 64,
        embedding_dim: int = 512,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem_width, 3, 2, 1, bias=False), nn.BatchNorm2d(stem_width), nn.ReLU()
        )
        channels = stem_width
        stages: list[nn.Module] = []
        for width, depth in zip(widths, depths, strict=True):
            blocks = [_Block(channels, width, 2)] + [_Block(width, width, 1) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.grid = nn.AdaptiveAvgPool2d(3)
        self.pool = nn.Conv2d(channels, channels, 3, groups=channels, bias=False)
        self.pool_bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, embedding_dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.pool.weight, mean=1.0 / 9, std=0.1 / 9)

    def feature_map(self, x: Tensor) -> Tensor:
        """(n, c, h, w): the last stage, before it is brought to 3 x 3."""
        out: Tensor = self.stages(self.stem(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool_bn(self.pool(self.grid(self.feature_map(x))))
        out: Tensor = self.fc(x.flatten(1))
        return out
