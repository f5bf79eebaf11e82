"""The scaled copies of many pictures, drawn edge to edge into canvases of one size.

PNet is fully convolutional, so a window that lies inside one copy sees nothing of its neighbours: all the
copies of all the pictures cost a few convolutions of one shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from facekit.detect.integral import IntegralImages, bins, runs
from facekit.detect.pyramid import HEIGHT, STRIDE, WIDTH, Tile, cells, cut, pack, pyramid

__all__ = ["MARGIN", "Mosaic", "Windows"]

MARGIN = 2
"""Empty windows that ``Windows.place`` counts around each copy, for looking at neighbours."""


class Windows(NamedTuple):
    """Windows of PNet by the scaled copy that they lie in; (n,) int64 each.

    Attributes:
        copy: index of the copy among all of the mosaic's.
        y: row of the window.
        x: column of the window.
        place: unique, rising by picture, copy, row, column; the next window to the right is at
            ``place + 1``, the one below at ``place + stride``.
        stride: see ``place``.
    """

    copy: Tensor
    y: Tensor
    x: Tensor
    place: Tensor
    stride: Tensor


class _Axis(NamedTuple):
    """Which pixels of the pictures each row, or each column, of the tiles averages.

    Attributes:
        origin: (t + 1,) int32; a tile's row at height y of its canvas has entry ``origin[tile + 1] + y`` of
            the other three. The first origin is the empty ground's, whose entries average nothing.
        first: (k,) int32, the first pixel.
        last: (k,) int32, the pixel after the last.
        share: (k,) float32, one over how many.
    """

    origin: Tensor
    first: Tensor
    last: Tensor
    share: Tensor

    def at(self, tile: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First, last and share for each pixel of a map of tiles."""
        entry = (self.origin.index_select(0, tile.flatten()).view(tile.shape) + place).flatten()
        first, last, share = (column.index_select(0, entry).view(tile.shape) for column in self[1:])
        return first, last, share


class Mosaic:
    """Where each scaled copy of each picture lies in the canvases, and what to draw there.

    Args:
        table: the summed-area tables of the pictures.
        min_face: side of the smallest face, in pixels.

    Attributes:
        canvases: number of canvases; none where every picture is smaller than a face.
        image: (c,) int64, the picture of each copy.
        scale: (c,) float32, the scale of each copy.
        places: how many places ``Windows.place`` counts.
    """

    def __init__(self, table: IntegralImages, min_face: float) -> None:
        device = table.sums.device
        copies = [c for i, (h, w) in enumerate(table.sizes.tolist()) for c in pyramid(i, h, w, min_face)]
        laid = pack(tile for i, copy in enumerate(copies) for tile in cut(i, copy))
        tiles = torch.tensor(laid, dtype=torch.int64).view(-1, len(Tile._fields))
        image = torch.tensor([copy.image for copy in copies], dtype=torch.int64)
        shape = torch.tensor([copy[2:] for copy in copies], dtype=torch.int64).view(-1, 2)
        grid = cells(shape) + 2 * MARGIN

        self.canvases = laid[-1].canvas + 1 if laid else 0
        self.places = int(grid.prod(1).sum())
        self.image = image.to(device)
        self.scale = torch.tensor([copy.scale for copy in copies], dtype=torch.float32, device=device)
        self._first = (grid.prod(1).cumsum(0) - grid.prod(1)).to(device)
        self._stride = grid[:, 1].to(device)
        self._table = table
        self._tiles = tiles.to(device)
        self._map = _tile_map(self._tiles, self.canvases)
        self._border = _border(tiles)
        self._down, self._across = (
            _Axis(*(column.to(device) for column in axis)) for axis in _axes(tiles, image, shape, table)
        )

    def draw(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The canvases, ready for PNet.

        Args:
            count: how many at a time.

        Yields:
            (k, 3, HEIGHT, WIDTH) float32, channels last, and PNet's ``ignore`` for them.
        """
        device = self._map.device
        row = torch.arange(HEIGHT, dtype=torch.int32, device=device).unsqueeze(1)
        column = torch.arange(WIDTH, dtype=torch.int32, device=device)
        area = (HEIGHT - 2) * (WIDTH - 2)
        for start in range(0, self.canvases, count):
            tile = self._map[start : start + count]
            top, bottom, tall = self._down.at(tile, row)
            left, right, wide = self._across.at(tile, column)
            canvas = self._table.means(top, bottom, left, right, tall.mul_(wide))
            ends = torch.tensor([start * area, (start + count) * area])
            first, last = torch.searchsorted(self._border, ends).tolist()
            yield canvas.permute(0, 3, 1, 2), (self._border[first:last] - start * area).to(device)

    def windows(self, canvas: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Windows]:
        """What PNet's windows are windows of.

        Args:
            canvas: (n,) int64.
            row: (n,) int64, in PNet's output for that canvas.
            column: (n,) int64.

        Returns:
            (n,) bool, which of them lie inside one copy; and those.
        """
        tile = self._map[canvas, STRIDE * row, STRIDE * column].long() - 1
        copy, y, x, height, width, _, top, left = self._tiles[tile].T
        down, across = row - top // STRIDE, column - left // STRIDE
        inside = (tile >= 0) & (down < cells(height)) & (across < cells(width))
        y, x = y // STRIDE + down, x // STRIDE + across
        stride = self._stride[copy]
        place = self._first[copy] + (y + MARGIN) * stride + x + MARGIN
        return inside, Windows(*(part[inside] for part in (copy, y, x, place, stride)))


def _axes(tiles: Tensor, image: Tensor, shape: Tensor, table: IntegralImages) -> tuple[_Axis, _Axis]:
    """The rows of all tiles, as places in the table; and their columns."""
    copy, y, x, height, width, _, top, left = tiles.T
    of = image[copy]
    tall, wide = table.sizes[of].T
    one, zero = torch.ones_like(of), torch.zeros_like(of)
    down = _axis(HEIGHT, top, y, height, tall, shape[copy, 0], table.stride[of], table.first[of])
    return down, _axis(WIDTH, left, x, width, wide, shape[copy, 1], one, zero)


def _axis(
    ground: int,
    place: Tensor,
    start: Tensor,
    length: Tensor,
    picture: Tensor,
    copy: Tensor,
    pitch: Tensor,
    base: Tensor,
) -> _Axis:
    """One side of the tiles; (t,) int64 each.

    Args:
        ground: length of the canvas.
        place: where the tile starts in the canvas.
        start: where it starts in its copy.
        length: its length.
        picture: length of the picture.
        copy: length of the copy.
        pitch: entries of the table from one pixel to the next.
        base: entry of the picture's first pixel.
    """
    tile, step = runs(length)
    first, last = bins(start[tile] + step, picture[tile], copy[tile])
    none = torch.zeros(ground, dtype=torch.int64)
    origin = torch.cat([none[:1], ground + length.cumsum(0) - length - place])
    share = torch.cat([none, last - first]).clamp_(min=1).float().reciprocal_()
    first, last = (torch.cat([none, pixel * pitch[tile] + base[tile]]).int() for pixel in (first, last))
    return _Axis(origin.int(), first, last, share)


def _tile_map(tiles: Tensor, canvases: int) -> Tensor:
    """(canvases, HEIGHT, WIDTH) int32: one more than the tile that covers each pixel, 0 where none does.

    A tile's number at its first corner, taken back at the corners beyond, fills it when summed both ways.
    """
    _, _, _, height, width, canvas, top, left = tiles.T
    number = torch.arange(1, len(tiles) + 1, dtype=torch.int32, device=tiles.device)
    pitch = WIDTH + 1
    corner = (canvas * (HEIGHT + 1) + top) * pitch + left
    marks = torch.zeros(canvases * (HEIGHT + 1) * pitch, dtype=torch.int32, device=tiles.device)
    for move, sign in ((0, 1), (width, -1), (height * pitch, -1), (height * pitch + width, 1)):
        marks.index_add_(0, corner + move, number, alpha=sign)
    marks = marks.view(canvases, HEIGHT + 1, pitch)[:, :HEIGHT, :WIDTH]
    return marks.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)


def _border(tiles: Tensor) -> Tensor:
    """PNet's ``ignore``: beside tiles of odd size its 2 x 2 pooling would meet the neighbour.

    After the first convolution a tile covers ``length - 2`` places; the one after them shares a pool with the
    last one if that number is odd.
    """
    _, _, _, height, width, canvas, top, left = tiles.T
    corner = (canvas * (HEIGHT - 2) + top) * (WIDTH - 2) + left
    below, right = height % 2 == 1, width % 2 == 1
    tile, step = runs((width - 2 + width % 2) * below)
    under = corner[tile] + (height[tile] - 2) * (WIDTH - 2) + step
    tile, step = runs((height - 2 + height % 2) * right)
    beside = corner[tile] + width[tile] - 2 + step * (WIDTH - 2)
    return torch.cat([under, beside]).sort().values
