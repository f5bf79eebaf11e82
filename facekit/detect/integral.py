"""Summed-area tables of many pictures at once: the mean of any rectangle costs four look-ups."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["IntegralImages", "bins", "runs"]


class IntegralImages:
    """The summed-area tables of pictures of different sizes, end to end in one tensor (Crow 1984).

    Sums are int32 and wrap round; differences of them are exact as long as no rectangle that is asked for
    holds more than 2^31 / 255 pixels. Means are those of ``interpolate(mode="area")``.

    Args:
        images: (h, w, 3) uint8 each, at least one.
        device: where the tables are to lie.

    Attributes:
        sums: (k, 3) int32 on the device, all tables, row by row.
        sizes: (n, 2) int64 on the CPU, height and width of each picture.
        stride: (n,) int64 on the CPU, how many entries of ``sums`` a row of its table takes.
        first: (n,) int64 on the CPU, where its table starts in ``sums``.
    """

    def __init__(self, images: Sequence[Tensor], device: torch.device) -> None:
        self.sizes = torch.tensor([image.shape[:2] for image in images])
        self.stride = self.sizes[:, 1] + 1
        lengths = (self.sizes + 1).prod(1)
        self.first = lengths.cumsum(0) - lengths
        self.sums = torch.empty(int(lengths.sum()), 3, dtype=torch.int32, device=device)
        for image, table in zip(images, torch.split(self.sums, lengths.tolist()), strict=True):
            _integrate(image.to(device), table.view(image.shape[0] + 1, image.shape[1] + 1, 3))

    def means(self, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor, share: Tensor) -> Tensor:
        """Mean colour of rectangles, as the networks take it: ``(mean - 127.5) / 128``.

        Args:
            top: int, place in ``sums`` where the row of the first pixels starts.
            bottom: int, place where the row after the last pixels starts.
            left: int, first column.
            right: int, column after the last.
            share: float32, one over the number of pixels. All five broadcast to one shape.

        Returns:
            (*shape, 3) float32.
        """
        total = self._at(bottom, right)
        total -= self._at(bottom, left)
        total -= self._at(top, right)
        total += self._at(top, left)
        return total.mul(share.unsqueeze(-1)).sub_(127.5).mul_(0.0078125)

    def crops(self, image: Tensor, boxes: Tensor, size: int) -> Tensor:
        """Rectangles of the pictures, averaged down (or repeated up) to ``size`` x ``size``.

        Args:
            image: (n,) int64, which picture.
            boxes: (n, 4) int64, x1, y1, x2, y2: first column and row, and those after the last.

        Returns:
            (n, 3, size, size) float32, channels last, scaled for the networks.
        """
        step = torch.arange(size, device=boxes.device)
        left, right = bins(step, boxes[:, 2:3] - boxes[:, 0:1], size)
        top, bottom = bins(step, boxes[:, 3:4] - boxes[:, 1:2], size)
        share = ((bottom - top)[:, :, None] * (right - left)[:, None, :]).float().reciprocal_()
        stride = self.stride.to(boxes.device)[image, None]
        corner = self.first.to(boxes.device)[image, None] + boxes[:, 1:2] * stride + boxes[:, 0:1]
        top, bottom = ((corner + y * stride).unsqueeze(2) for y in (top, bottom))
        left, right = left.unsqueeze(1), right.unsqueeze(1)
        return self.means(top, bottom, left, right, share).permute(0, 3, 1, 2)

    def _at(self, row: Tensor, column: Tensor) -> Tensor:
        place = row + column
        return self.sums.index_select(0, place.flatten()).view(*place.shape, 3)


def bins(part: Tensor, length: Tensor, count: Tensor | int) -> tuple[Tensor, Tensor]:
    """First pixel, and pixel after the last, of a part of ``length`` pixels cut in ``count``.

    They are cut as adaptive pooling does: parts overlap by a pixel where the length does not divide. All are
    int64 and broadcast.
    """
    return part * length // count, -(-(part + 1) * length // count)


def runs(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """For lengths (2, 3): which run 0 0 1 1 1, and the step within it 0 1 0 1 2."""
    owner = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    step = torch.arange(len(owner), device=lengths.device) - (lengths.cumsum(0) - lengths)[owner]
    return owner, step


def _integrate(image: Tensor, table: Tensor) -> None:
    """Fill ``table`` (h + 1, w + 1, 3) so that [y, x] is the sum of the pixels above y and left of x."""
    table[0] = 0
    table[:, 0] = 0
    torch.cumsum(image, 1, dtype=torch.int32, out=table[1:, 1:])
    _accumulate(table[1:].flatten(1))


def _accumulate(rows: Tensor) -> None:
    """Add to every row all rows above it, in blocks of 16: 3x faster on a CPU than ``cumsum``."""
    whole = len(rows) // 16 * 16
    blocks = rows[:whole].view(-1, 16, rows.shape[1])
    for i in range(1, 16):
        blocks[:, i] += blocks[:, i - 1]
    if whole:
        blocks[:, -1] = blocks[:, -1].cumsum(0, dtype=torch.int32)
        blocks[1:, :-1] += blocks[:-1, -1:]
    for i in range(max(whole, 1), len(rows)):
        rows[i] += rows[i - 1]
