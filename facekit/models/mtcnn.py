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
        self.pool1 = MaxPool(2)
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
        x = self.prelu3(self.conv3(x)).permute(0, 2, 3, 1)
        # Both 1 x 1 convolutions as one product; the softmax of two is the sigmoid of their difference.
        face = self.conv4_1.weight[1:] - self.conv4_1.weight[:1]
        weight = torch.cat([face, self.conv4_2.weight]).flatten(1)
        bias = torch.cat([self.conv4_1.bias.diff(), self.conv4_2.bias])  # type: ignore[union-attr,list-item]  # each has a bias
        heads = torch.addmm(bias.unsqueeze(1), weight, x.flatten(0, 2).T).view(5, *x.shape[:3])
        return heads[1:].transpose(0, 1), heads[0].sigmoid()


class RNet(nn.Module):
    """Scores 24 x 24 crops and refines their boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 28, 3)
        self.prelu1 = PReLU(28)
        self.pool1 = MaxPool(3)
        self.conv2 = nn.Conv2d(28, 48, 3)
        self.prelu2 = PReLU(48)
        self.pool2 = MaxPool(3)
        self.conv3 = nn.Conv2d(48, 64, 2)
        self.prelu3 = PReLU(64)
        self.dense4 = nn.Linear(576, 128)
        self.prelu4 = nn.PReLU(128)
        self.dense5_1 = nn.Linear(128, 2)
        self.dense5_2 = nn.Linear(128, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 3, 24, 24) crops -> (n, 4) offsets of the edges in units of the side, (n,) probabilities."""
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
        self.pool1 = MaxPool(3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.prelu2 = PReLU(64)
        self.pool2 = MaxPool(3)
        self.conv3 = nn.Conv2d(64, 64, 3)
        self.prelu3 = PReLU(64)
        self.pool3 = MaxPool(2)
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


class MaxPool(nn.Module):
    """``MaxPool2d(size, 2, ceil_mode=True)`` for sizes 2 and 3: rows before columns, 2 to 8x faster."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h', w'), channels last."""
        n, c, h, w = x.shape
        rows = self._pool(x.permute(0, 2, 3, 1).reshape(n, h, w * c))
        columns = self._pool(rows.view(-1, w, c))
        return columns.view(n, rows.shape[1], columns.shape[1], c).permute(0, 3, 1, 2)

    def _pool(self, x: Tensor) -> Tensor:
        """(m, length, k) -> (m, length', k)."""
        if self.size == 2 and x.shape[1] % 2:
            x = F.pad(x, (0, 0, 0, 1), value=-torch.inf)
        even, odd = x[:, 0::2], x[:, 1::2]
        best = torch.maximum(even[:, : odd.shape[1]], odd)
        if self.size == 3:
            known = best[:, : even.shape[1] - 1]
            torch.maximum(known, even[:, 1:], out=known)
        return best


def _flat(x: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, w * h * c), the order of the Caffe model from which the weights come."""
    return x.permute(0, 3, 2, 1).reshape(len(x), -1)
