"""Which scaled copies of a picture to search, and where to put them in canvases of one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise, product
from typing import NamedTuple, TypeVar

from torch import Tensor

__all__ = [
    "CELL",
    "FACTOR",
    "HEIGHT",
    "STRIDE",
    "WIDTH",
    "Copy",
    "Shelf",
    "Tile",
    "cells",
    "cut",
    "pack",
    "pyramid",
]

CELL = 12
"""Side of the window that PNet scores, in pixels of a scaled copy."""

STRIDE = 2
"""Distance between two windows, in pixels of a scaled copy."""

FACTOR = 0.709
"""Scale of a copy relative to the next larger one: about half its area."""

HEIGHT, WIDTH = 128, 512
"""Size of a canvas, in pixels; even, so that PNet's pooling meets every tile in phase."""


class Copy(NamedTuple):
    """A scaled copy of a picture: which picture, its scale, its height and width in pixels."""

    image: int
    scale: float
    height: int
    width: int


class Tile(NamedTuple):
    """A part of a scaled copy: its top left corner there, its size, and where it lies."""

    copy: int
    y: int
    x: int
    height: int
    width: int
    shelf: int = 0
    left: int = 0


class Shelf(NamedTuple):
    """A strip of a canvas on which tiles stand, in the order of canvases; as high as its highest tile."""

    canvas: int
    top: int
    height: int


def pyramid(image: int, height: int, width: int, min_face: float) -> Iterator[Copy]:
    """The copies in which a window spans ``min_face`` pixels of the picture, and more, up to all of it."""
    scale = CELL / min_face
    side = min(height, width) * scale
    while side >= CELL:
        yield Copy(image, scale, int(height * scale + 1), int(width * scale + 1))
        scale *= FACTOR
        side *= FACTOR


Length = TypeVar("Length", int, Tensor)


def cells(length: Length) -> Length:
    """How many windows PNet scores along a side of ``length`` pixels; its pooling rounds up."""
    return -(-(length - 2) // STRIDE) - 4


def cut(index: int, copy: Copy) -> Iterator[Tile]:
    """Tiles that fit into a canvas and share out the windows of a copy; most copies are one tile."""
    for (y, height), (x, width) in product(_parts(copy.height, HEIGHT), _parts(copy.width, WIDTH)):
        yield Tile(index, y, x, height, width)


def pack(tiles: Iterable[Tile]) -> tuple[list[Tile], list[Shelf]]:
    """Put tiles at even places: the tallest first, each on the first shelf with room for it."""
    laid: list[Tile] = []
    heights: list[int] = []
    room: dict[int, int] = {}
    for tile in sorted(tiles, key=lambda tile: -tile.height):
        shelf = next((shelf for shelf, width in room.items() if tile.width <= width), len(heights))
        if shelf == len(heights):
            heights.append(tile.height + tile.height % 2)
            room[shelf] = WIDTH
        laid.append(tile._replace(shelf=shelf, left=WIDTH - room[shelf]))
        room[shelf] -= tile.width + tile.width % 2
        if room[shelf] <= CELL:
            del room[shelf]
    return laid, _stack(heights)


def _stack(heights: Iterable[int]) -> list[Shelf]:
    """Put shelves, the highest first, each in the first canvas with room for it."""
    shelves: list[Shelf] = []
    filled: list[int] = []
    for height in heights:
        canvas = next((i for i, top in enumerate(filled) if top + height <= HEIGHT), len(filled))
        if canvas == len(filled):
            filled.append(0)
        shelves.append(Shelf(canvas, filled[canvas], height))
        filled[canvas] += height
    return shelves


def _parts(length: int, limit: int) -> Iterator[tuple[int, int]]:
    """First pixel and length of overlapping parts of at most ``limit`` pixels that share out the windows."""
    windows = cells(length)
    count = -(-windows // cells(limit))
    for first, last in pairwise(windows * i // count for i in range(count + 1)):
        start = STRIDE * first
        yield start, min(STRIDE * (last - 1) + CELL, length) - start
