"""What the tests of layouts write: pictures with a dot at each point, to be looked for where it is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image

from facekit.train.probe.examples import Examples, decode

GREY = 90


def write_picture(path: Path, size: tuple[int, int] = (16, 16), dots: ArrayLike = ()) -> Path:
    """A grey picture (width, height), with white dots of 3 x 3 around (x, y), counted from its corner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    best = {"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}
    Image.fromarray(dotted(size, dots)).save(path, **best)
    return path


def dotted(size: tuple[int, int], dots: ArrayLike) -> np.ndarray:
    pixels = np.full((size[1], size[0], 3), GREY, np.uint8)
    for x, y in np.floor(np.reshape(dots, (-1, 2))).astype(int):
        pixels[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = 255
    return pixels


def brightness_at_points(examples: Examples, size: int = 128) -> torch.Tensor:
    """(n, p): how bright the decoded squares are where the targets say that the points are."""
    pictures = decode(examples, torch.arange(len(examples)), size).float().mean(dim=1)
    place = (examples.targets[..., :2] * size).floor().long().clamp(0, size - 1)
    rows = torch.arange(len(examples))[:, None].expand(place.shape[:2])
    return pictures[rows, place[..., 1], place[..., 0]]


def in_pixels(examples: Examples, row: int) -> torch.Tensor:
    """(p, 2): the points of a row in pixels of the whole picture, counted from its corner."""
    left, top, right, _ = examples.pictures[row].box
    return examples.targets[row, :, :2] * (right - left) + torch.tensor([left, top])


def counts(examples: Examples) -> list[int]:
    """How many rows train, validate and test."""
    return [len(examples.rows(split)) for split in range(3)]


def names(examples: Examples) -> list[str]:
    return [picture.path.name for picture in examples.pictures]
