"""The scaled copies of many pictures, drawn edge to edge into canvases of one size.

PNet is fully convolutional, so a window that lies inside one copy sees nothing of its neighbours: all the
copies of all the pictures cost a few convolutions of one shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from facekit.detect.integral import IntegralImages, bins, runs
from facekit.detect.pyramid import HEIGHT, STRIDE, WIDTH, cells, cut, pack, pyramid

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


class _Tiles(NamedTuple):
    """The columns of a table of :class:`facekit.detect.pyramid.Tile`; (t,) int64 each."""

    copy: Tensor
    y: Tensor
    x: Tensor
    height: Tensor
    width: Tensor
    shelf: Tensor
    left: Tensor


class _Shelves(NamedTuple):
    """The columns of a table of :class:`facekit.detect.pyramid.Shelf`; (s,) int64 each."""

    canvas: Tensor
    top: Tensor
    height: Tensor


class Mosaic:
    """Where each scaled copy of each picture lies in the canvases, and what to draw there.

    All of it follows from the sizes of the pictures, and is worked out on the CPU.

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
        tiles, shelves = pack(tile for i, copy in enumerate(copies) for tile in cut(i, copy))
        image, tall, wide = _columns([(copy.image, copy.height, copy.width) for copy in copies], 3)
        tile, shelf = _Tiles(*_columns(tiles, 7)), _Shelves(*_columns(shelves, 3))
        columns = cells(wide) + 2 * MARGIN
        places = (cells(tall) + 2 * MARGIN) * columns

        self.canvases = 1 + max((shelf.canvas for shelf in shelves), default=-1)
        self.places = int(places.sum())
        self.image = image.to(device)
        self.scale = torch.tensor([copy.scale for copy in copies], dtype=torch.float32, device=device)
        self._first = (places.cumsum(0) - places).to(device)
        self._stride = columns.to(device)
        self._table = table
        self._tile = _Tiles(*(column.to(device) for column in tile))
        self._border = _border(tile, shelf)
        self._shelf_of, self._step_of = (part.to(device) for part in _canvas_rows(shelf, self.canvases))
        self._rows = [part.to(device) for part in _tile_rows(tile, image[tile.copy], tall[tile.copy], table)]
        maps = _shelf_maps(tile, len(shelves), table.sizes[image[tile.copy], 1], wide[tile.copy])
        self._maps = maps.to(device)

    def draw(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The canvases, ready for PNet.

        Args:
            count: how many at a time.

        Yields:
            (k, 3, HEIGHT, WIDTH) float32, channels last, and PNet's ``ignore`` for them.
        """
        area = (HEIGHT - 2) * (WIDTH - 2)
        for start in range(0, self.canvases, count):
            part = slice(start * HEIGHT, (start + count) * HEIGHT)
            _, entry, height, left, right = self._maps.index_select(0, self._shelf_of[part]).unbind(1)
            row = (entry + torch.minimum(self._step_of[part, None], height)).flatten()
            top, bottom, count_y = (column.index_select(0, row).view(entry.shape) for column in self._rows)
            canvas = self._table.means(top, bottom, left, right, 1 / (count_y * (right - left)))
            ends = torch.tensor([start * area, (start + count) * area])
            first, last = torch.searchsorted(self._border, ends).tolist()
            ignore = (self._border[first:last] - start * area).to(canvas.device)
            yield canvas.view(-1, HEIGHT, WIDTH, 3).permute(0, 3, 1, 2), ignore

    def windows(self, canvas: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Windows]:
        """What PNet's windows are windows of.

        Args:
            canvas: (n,) int64.
            row: (n,) int64, in PNet's output for that canvas.
            column: (n,) int64.

        Returns:
            (n,) bool, which of them lie inside one copy; and those.
        """
        line = canvas * HEIGHT + STRIDE * row
        index = self._maps[self._shelf_of[line], 0, STRIDE * column].long() - 1
        tile = _Tiles(*(part[index] for part in self._tile))
        y, x = self._step_of[line] // STRIDE, column - tile.left // STRIDE
        inside = (index >= 0) & (y < cells(tile.height)) & (x < cells(tile.width))
        y, x = y + tile.y // STRIDE, x + tile.x // STRIDE
        stride = self._stride[tile.copy]
        place = self._first[tile.copy] + (y + MARGIN) * stride + x + MARGIN
        return inside, Windows(*(part[inside] for part in (tile.copy, y, x, place, stride)))


def _columns(rows: Sequence[tuple[int, ...]], width: int) -> tuple[Tensor, ...]:
    return torch.tensor(rows, dtype=torch.int64).view(-1, width).unbind(1)


def _canvas_rows(shelf: _Shelves, canvases: int) -> tuple[Tensor, Tensor]:
    """For each row of each canvas: one more than the shelf that it is on, 0 for none; and its step there."""
    owner, step = runs(shelf.height)
    line = shelf.canvas[owner] * HEIGHT + shelf.top[owner] + step
    shelves = torch.zeros(canvases * HEIGHT, dtype=torch.int64)
    steps = torch.zeros(canvases * HEIGHT, dtype=torch.int32)
    shelves[line], steps[line] = owner + 1, step.int()
    return shelves, steps


def _shelf_maps(tile: _Tiles, shelves: int, picture: Tensor, copy: Tensor) -> Tensor:
    """What stands on each shelf at each column; both arguments (t,) int64 are the widths that a tile is of.

    Returns:
        (shelves + 1, 5, WIDTH) int32, the first for rows without a shelf: one more than the tile, 0 for none;
        the entry of its first row among :func:`_tile_rows`; its last row; the first pixel of the picture that
        the column averages, and the pixel after the last.
    """
    owner, step = runs(tile.width)
    left, right = bins(tile.x[owner] + step, picture[owner], copy[owner])
    entry = 1 + tile.height.cumsum(0) - tile.height
    values = torch.stack([owner + 1, entry[owner], tile.height[owner] - 1, left, right], 1)
    maps = torch.zeros(shelves + 1, WIDTH, 5, dtype=torch.int32)
    maps[..., 4] = 1
    maps[tile.shelf[owner] + 1, tile.left[owner] + step] = values.int()
    return maps.transpose(1, 2).contiguous()


def _tile_rows(
    tile: _Tiles, image: Tensor, copy: Tensor, table: IntegralImages
) -> tuple[Tensor, Tensor, Tensor]:
    """What each row of each tile averages, after one entry for where there is no tile.

    Args:
        image: (t,) int64, the picture that a tile is of.
        copy: (t,) int64, the height of the copy that it is of.

    Returns:
        (r + 1,) int32 each: where in the table the first row of pixels starts, where the row after the last,
        and how many there are.
    """
    owner, step = runs(tile.height)
    top, bottom = bins(tile.y[owner] + step, table.sizes[image, 0][owner], copy[owner])
    first, stride = table.first[image][owner], table.stride[image][owner]
    columns = (first + top * stride, first + bottom * stride, bottom - top)
    top, bottom, count = (F.pad(column, (1, 0), value=1).int() for column in columns)
    return top, bottom, count


def _border(tile: _Tiles, shelf: _Shelves) -> Tensor:
    """PNet's ``ignore``: beside tiles of odd size its 2 x 2 pooling would meet the neighbour.

    After the first convolution a tile covers ``length - 2`` places; the one after them shares a pool with the
    last one if that number is odd.
    """
    pitch = WIDTH - 2
    corner = (shelf.canvas * (HEIGHT - 2) + shelf.top)[tile.shelf] * pitch + tile.left
    odd_height, odd_width = tile.height % 2, tile.width % 2
    owner, step = runs((tile.width - 2 + odd_width) * odd_height)
    under = corner[owner] + (tile.height[owner] - 2) * pitch + step
    owner, step = runs((tile.height - 2 + odd_height) * odd_width)
    beside = corner[owner] + tile.width[owner] - 2 + step * pitch
    return torch.cat([under, beside]).sort().values
