"""FaceNet's Inception-ResNet-v1 without its classifier, with facenet-pytorch's state-dict names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["InceptionResnetV1"]

_Size = int | tuple[int, int]


class _Conv(nn.Module):
    """Convolution, batch norm (TensorFlow's epsilon), ReLU."""

    def __init__(
        self, in_channels: int, channels: int, kernel: _Size, stride: int = 1, padding: _Size = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Branches(nn.Module):
    """Branches side by side, their maps concatenated; named ``branch0``, ``branch1``, ..."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.count = len(branches)
        for index, branch in enumerate(branches):
            self.add_module(f"branch{index}", branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.get_submodule(f"branch{index}")(x) for index in range(self.count)], dim=1)


class _Residual(_Branches):
    """Branches, a 1x1 convolution back to the input's width, and a scaled sum with the input."""

    def __init__(
        self, channels: int, scale: float, *branches: nn.Module, width: int, relu: bool = True
    ) -> None:
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(width, channels, 1)
        self.scale = scale
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.conv2d(super().forward(x)) * self.scale + x)
        return out


def _block35() -> _Residual:
    return _Residual(
        256,
        0.17,
        _Conv(256, 32, 1),
        nn.Sequential(_Conv(256, 32, 1), _Conv(32, 32, 3, padding=1)),
        nn.Sequential(_Conv(256, 32, 1), _Conv(32, 32, 3, padding=1), _Conv(32, 32, 3, padding=1)),
        width=96,
    )


def _block17() -> _Residual:
    rows = _Conv(128, 128, (1, 7), padding=(0, 3))
    columns = _Conv(128, 128, (7, 1), padding=(3, 0))
    return _Residual(
        896, 0.10, _Conv(896, 128, 1), nn.Sequential(_Conv(896, 128, 1), rows, columns), width=256
    )


def _block8(*, last: bool = False) -> _Residual:
    rows = _Conv(192, 192, (1, 3), padding=(0, 1))
    columns = _Conv(192, 192, (3, 1), padding=(1, 0))
    branch = nn.Sequential(_Conv(1792, 192, 1), rows, columns)
    return _Residual(1792, 1.0 if last else 0.20, _Conv(1792, 192, 1), branch, width=384, relu=not last)


class InceptionResnetV1(nn.Module):
    """Inception-ResNet-v1 (Szegedy et al. 2017) as FaceNet's reimplementation uses it.

    Shapes: (n, 3, s, s) float, normalised, s = 160 in the published weights -> (n, 512) float, not of
    unit length.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv2d_1a = _Conv(3, 32, 3, 2)
        self.conv2d_2a = _Conv(32, 32, 3)
        self.conv2d_2b = _Conv(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = _Conv(64, 80, 1)
        self.conv2d_4a = _Conv(80, 192, 3)
        self.conv2d_4b = _Conv(192, 256, 3, 2)
        self.repeat_1 = nn.Sequential(*[_block35() for _ in range(5)])
        self.mixed_6a = _Branches(
            _Conv(256, 384, 3, 2),
            nn.Sequential(_Conv(256, 192, 1), _Conv(192, 192, 3, padding=1), _Conv(192, 256, 3, 2)),
            nn.MaxPool2d(3, 2),
        )
        self.repeat_2 = nn.Sequential(*[_block17() for _ in range(10)])
        self.mixed_7a = _Branches(
            nn.Sequential(_Conv(896, 256, 1), _Conv(256, 384, 3, 2)),
            nn.Sequential(_Conv(896, 256, 1), _Conv(256, 256, 3, 2)),
            nn.Sequential(_Conv(896, 256, 1), _Conv(256, 256, 3, padding=1), _Conv(256, 256, 3, 2)),
            nn.MaxPool2d(3, 2),
        )
        self.repeat_3 = nn.Sequential(*[_block8() for _ in range(5)])
        self.block8 = _block8(last=True)
        self.last_linear = nn.Linear(1792, 512, bias=False)
        self.last_bn = nn.BatchNorm1d(512, eps=0.001)

    def feature_map(self, x: Tensor) -> Tensor:
        """(n, 1792, h, w): the last block, before it is pooled."""
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x))))
        x = self.repeat_2(self.mixed_6a(self.repeat_1(x)))
        out: Tensor = self.block8(self.repeat_3(self.mixed_7a(x)))
        return out

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.feature_map(x), 1).flatten(1)
        out: Tensor = self.last_bn(self.last_linear(x))
        return out
