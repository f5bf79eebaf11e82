"""The three networks of MTCNN, each a plain module with the tensor names of facenet-pytorch.

Zhang, Zhang, Li, Qiao, "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional
Networks", 2016. All three take RGB scaled as ``(pixel - 127.5) / 128``, fastest in channels-last memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ONet", "PNet", "RNet"]


class PNet(nn.Module):
    """Scores every 12 x 12 window of a picture, at a stride of 2 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 10, 3)
        self.prelu1 = PReLU(10)
        self.pool1 = MaxPool2x2()
        self.conv2 = nn.Conv2d(10, 16, 3)
        self.prelu2 = PReLU(16)
        self.conv3 = nn.Conv2d(16, 32, 3)
        self.prelu3 = PReLU(32)
        self.conv4_1 = nn.Conv2d(32, 2, 1)
        self.conv4_2 = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor, ignore: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Box offsets and face probability of each window.

        Args:
            x: (n, 3, h, w) float pictures.
            ignore: (k,) int64, places of the first layer's output that its pooling must not see, counted
                through (n, h - 2, w - 2). It lets pictures of odd size lie beside others in one canvas.

        Returns:
            (n, 4, h', w') offsets of the window's edges in units of its side, and (n, h', w')
            probabilities, where h' = ceil((h - 2) / 2) - 4.
        """
        x = self.prelu1(self.conv1(x))
        if ignore is not None:
            x.permute(0, 2, 3, 1).view(-1, 10).index_fill_(0, ignore, -torch.inf)
        x = self.pool1(x)
        x = self.prelu2(self.conv2(x))
        x = self.prelu3(self.conv3(x))
        return self.conv4_2(x), self.conv4_1(x).softmax(1)[:, 1]


class RNet(nn.Module):
    """Scores 24 x 24 crops and refines their boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 28, 3)
        self.prelu1 = PReLU(28)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = nn.Conv2d(28, 48, 3)
        self.prelu2 = PReLU(48)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3 = nn.Conv2d(48, 64, 2)
        self.prelu3 = PReLU(64)
        self.dense4 = nn.Linear(576, 128)
        self.prelu4 = nn.PReLU(128)
        self.dense5_1 = nn.Linear(128, 2)
        self.dense5_2 = nn.Linear(128, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 3, 24, 24) crops -> (n, 4) offsets of the box's edges in units of its side, (n,) probabilities."""
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.prelu3(self.conv3(x))
        x = self.prelu4(self.dense4(_flat(x)))
        return self.dense5_2(x), self.dense5_1(x).softmax(1)[:, 1]


class ONet(nn.Module):
    """Scores 48 x 48 crops, refines their boxes and finds five landmarks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3)
        self.prelu1 = PReLU(32)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.prelu2 = PReLU(64)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3 = nn.Conv2d(64, 64, 3)
        self.prelu3 = PReLU(64)
        self.pool3 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv4 = nn.Conv2d(64, 128, 2)
        self.prelu4 = PReLU(128)
        self.dense5 = nn.Linear(1152, 256)
        self.prelu5 = nn.PReLU(256)
        self.dense6_1 = nn.Linear(256, 2)
        self.dense6_2 = nn.Linear(256, 4)
        self.dense6_3 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, 3, 48, 48) crops -> offsets, landmarks and probabilities.

        Returns:
            (n, 4) offsets of the box's edges in units of its side; (n, 5, 2) landmarks x, y in units of
            the box, from its corner; (n,) probabilities.
        """
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.pool3(self.prelu3(self.conv3(x)))
        x = self.prelu4(self.conv4(x))
        x = self.prelu5(self.dense5(_flat(x)))
        landmarks = self.dense6_3(x).view(-1, 2, 5).transpose(1, 2)
        return self.dense6_2(x), landmarks, self.dense6_1(x).softmax(1)[:, 1]


class PReLU(nn.PReLU):
    """Parametric ReLU of pictures: a row of pixels at a time, where torch takes one pixel (9x slower)."""

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h, w), channels last."""
        n, c, h, w = input.shape
        rows = input.permute(0, 2, 3, 1).reshape(n * h, w * c)
        return F.prelu(rows, self.weight.repeat(w)).view(n, h, w, c).permute(0, 3, 1, 2)


class MaxPool2x2(nn.Module):
    """``MaxPool2d(2, 2, ceil_mode=True)``, rows before columns: 8x faster for the few channels of PNet."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, ceil(h / 2), ceil(w / 2)), channels last."""
        if x.shape[2] % 2 or x.shape[3] % 2:
            x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), value=-torch.inf)
        n, c, h, w = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(n * h // 2, 2, w * c)
        columns = torch.maximum(rows[:, 0], rows[:, 1]).view(-1, 2, c)
        return torch.maximum(columns[:, 0], columns[:, 1]).view(n, h // 2, w // 2, c).permute(0, 3, 1, 2)


def _flat(x: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, w * h * c): the order in which the Caffe model, the source of the weights, counts."""
    return x.permute(0, 3, 2, 1).reshape(len(x), -1)
