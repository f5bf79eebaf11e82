"""Which scaled copies of a picture to search, and where to put them in canvases of one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise, product
from typing import NamedTuple

__all__ = ["CELL", "FACTOR", "HEIGHT", "STRIDE", "WIDTH", "Copy", "Tile", "cells", "cut", "pack", "pyramid"]

CELL = 12
"""Side of the window that PNet scores, in pixels of a scaled copy."""

STRIDE = 2
"""Distance between two windows, in pixels of a scaled copy."""

FACTOR = 0.709
"""Scale of a copy relative to the next larger one: about half its area."""

HEIGHT, WIDTH = 256, 512
"""Size of a canvas, in pixels; even, so that PNet's pooling meets every tile in phase."""


class Copy(NamedTuple):
    """A scaled copy of a picture: which picture, its scale, its height and width in pixels."""

    image: int
    scale: float
    height: int
    width: int


class Tile(NamedTuple):
    """A part of a scaled copy, and where it lies: its top left corner in the copy, its size, and its canvas."""

    copy: int
    y: int
    x: int
    height: int
    width: int
    canvas: int = 0
    top: int = 0
    left: int = 0


def pyramid(image: int, height: int, width: int, min_face: float) -> Iterator[Copy]:
    """The copies in which a window spans ``min_face`` pixels of the picture, and ever more up to all of it."""
    scale = CELL / min_face
    side = min(height, width) * scale
    while side >= CELL:
        yield Copy(image, scale, int(height * scale + 1), int(width * scale + 1))
        scale *= FACTOR
        side *= FACTOR


def cells(length: int) -> int:
    """How many windows PNet scores along a side of ``length`` pixels; its pooling rounds up."""
    return -(-(length - 2) // STRIDE) - 4


def cut(index: int, copy: Copy) -> Iterator[Tile]:
    """Tiles that fit into a canvas and share out the windows of a copy; most copies are one tile."""
    for (y, height), (x, width) in product(_parts(copy.height, HEIGHT), _parts(copy.width, WIDTH)):
        yield Tile(index, y, x, height, width)


def pack(tiles: Iterable[Tile]) -> list[Tile]:
    """Lay tiles on shelves, the tallest first, each at even places; returned by canvas."""
    laid: list[Tile] = []
    canvas = top = left = shelf = 0
    for tile in sorted(tiles, key=lambda tile: -tile.height):
        if left + tile.width > WIDTH:
            top, left, shelf = top + shelf, 0, 0
        if top + tile.height > HEIGHT:
            canvas, top, left, shelf = canvas + 1, 0, 0, 0
        laid.append(tile._replace(canvas=canvas, top=top, left=left))
        left += tile.width + tile.width % 2
        shelf = max(shelf, tile.height + tile.height % 2)
    return laid


def _parts(length: int, limit: int) -> Iterator[tuple[int, int]]:
    """First pixel and length of overlapping parts of at most ``limit`` pixels that share out the windows."""
    windows = cells(length)
    count = -(-windows // cells(limit))
    for first, last in pairwise(windows * i // count for i in range(count + 1)):
        start = STRIDE * first
        yield start, min(STRIDE * (last - 1) + CELL, length) - start
