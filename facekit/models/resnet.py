"""Residual networks without their classifier, with torchvision's and timm's state-dict names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from facekit.errors import SettingError

__all__ = ["ResNet", "resnet10t", "resnet18", "resnet34", "resnet50"]


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions; the first has the stride."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class _Bottleneck(nn.Module):
    """1x1, 3x3, 1x1; the stride is on the 3x3, as in torchvision (and not in He et al. 2016)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


# stem -> (kernel, stride, whether a 3x3/2 max-pool follows). "imagenet" divides the side of the picture
# by four, "half" by two; "full" keeps it, which is what 32 px pictures need (SimCLR, appendix B.9).
_STEMS = {"imagenet": (7, 2, True), "half": (3, 2, False), "full": (3, 1, False)}


class ResNet(nn.Module):
    """Residual network up to the pooled features (He et al. 2016).

    State-dict names are torchvision's without ``fc``; with ``stem="deep"`` timm's resnet10t's.

    Args:
        block: the residual block.
        depths: blocks in each of the four stages.
        stem: ``"imagenet"``, ``"half"`` or ``"full"`` by what is left of the side of the picture (a
            quarter, half, all), or ``"deep"`` for timm's three 3x3 convolutions with pooling shortcuts.

    Shapes: (n, 3, s, s) float, normalised -> (n, ``out_dim``) float.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(
        self, block: type[_BasicBlock] | type[_Bottleneck], depths: Sequence[int], *, stem: str = "imagenet"
    ) -> None:
        super().__init__()
        deep = stem == "deep"
        if deep:
            self.conv1: nn.Module = _deep_stem((24, 32, 64))
        elif stem in _STEMS:
            kernel, stride, _ = _STEMS[stem]
            self.conv1 = nn.Conv2d(3, 64, kernel, stride, kernel // 2, bias=False)
        else:
            raise SettingError(f"stem: {stem!r} is not one of {', '.join([*_STEMS, 'deep'])}")
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if deep or _STEMS[stem][2] else nn.Identity()
        channels = 64
        for stage, (width, depth) in enumerate(zip((64, 128, 256, 512), depths, strict=True), start=1):
            blocks: list[nn.Module] = []
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                out = width * block.expansion
                shortcut = _shortcut(channels, out, stride, pool=deep)
                blocks.append(block(channels, width, stride, shortcut))
                channels = out
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.out_dim = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def feature_map(self, x: Tensor) -> Tensor:
        """(n, ``out_dim``, h, w): the last stage, before it is pooled."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        out: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.feature_map(x), 1).flatten(1)


def _deep_stem(widths: tuple[int, int, int]) -> nn.Sequential:
    first, second, third = widths
    return nn.Sequential(
        nn.Conv2d(3, first, 3, 2, 1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, 1, 1, bias=False),
        nn.BatchNorm2d(second),
        nn.ReLU(),
        nn.Conv2d(second, third, 3, 1, 1, bias=False),
    )


def _shortcut(in_channels: int, channels: int, stride: int, *, pool: bool) -> nn.Sequential | None:
    """Brings the shortcut to the block's shape; ``pool`` averages instead of skipping pixels."""
    if stride == 1 and in_channels == channels:
        return None
    if not pool:
        return nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
        )
    return nn.Sequential(
        # timm: without padding counted in, so that odd sides keep their mean
        nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity(),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


resnet18 = partial(ResNet, _BasicBlock, (2, 2, 2, 2))
resnet34 = partial(ResNet, _BasicBlock, (3, 4, 6, 3))
resnet50 = partial(ResNet, _Bottleneck, (3, 4, 6, 3))


def resnet10t() -> ResNet:
    """timm's ``resnet10t``: one block a stage, deep stem, pooling shortcuts; 512 features."""
    return ResNet(_BasicBlock, (1, 1, 1, 1), stem="deep")
