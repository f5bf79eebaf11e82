"""The face field's own ResNet, with the state-dict names of insightface's arcface_torch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["IResNet"]


class _Block(nn.Module):
    """BN, 3x3, BN, PReLU, 3x3, BN; nothing after the sum (ArcFace, Deng et al. 2019, 3.1)."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        out: Tensor = self.bn3(self.conv2(x)) + shortcut
        return out


class IResNet(nn.Module):
    """ArcFace's residual network: full-size stem, PReLU, and a linear layer over all of the last map.

    Args:
        depths: blocks in each of the four stages; (3, 4, 14, 3) is "R50".
        embedding_dim: length d of the embedding.
        input_size: side s of the square picture in pixels.

    Shapes: (n, 3, s, s) float, normalised -> (n, d) float, not of unit length.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self, depths: Sequence[int], *, embedding_dim: int = 512, input_size: int = 112) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        channels, side = 64, input_size
        for stage, (width, depth) in enumerate(zip((64, 128, 256, 512), depths, strict=True), start=1):
            blocks = [_Block(channels, width, 2)] + [_Block(width, width, 1) for _ in range(depth - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            channels, side = width, (side + 1) // 2
        self.bn2 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels * side * side, embedding_dim)
        self.features = nn.BatchNorm1d(embedding_dim)
        self.features.weight.requires_grad = False  # the embedding's scale belongs to the margin head
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.1)

    def feature_map(self, x: Tensor) -> Tensor:
        """(n, 512, h, w): the last stage and the norm that follows it."""
        x = self.prelu(self.bn1(self.conv1(x)))
        out: Tensor = self.bn2(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.features(self.fc(self.feature_map(x).flatten(1)))
        return out
