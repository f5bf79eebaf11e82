"""Facial points: the schemes in which sets number them, the square around a face, and points in its units."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from facekit.errors import TrainingError
from facekit.train.probe.examples import Examples, Picture
from facekit.train.probe.layouts.splits import complete_split

__all__ = ["SCHEMES", "Pointed", "Scheme", "Square", "in_square", "point_examples", "square_around"]

Square = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""

_LARGER = 1.25


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a set numbers the points of a face.

    Attributes:
        mirror: the number that each point has in the mirrored picture.
        interocular: the outer corners of the eyes, or the eyes, whose distance errors are measured in.
    """

    mirror: tuple[int, ...]
    interocular: tuple[int, int]


def _scheme(count: int, eyes: tuple[int, int], *pairs: tuple[int, int]) -> Scheme:
    """The scheme in which some points change places in pairs and the others stay."""
    mirror = list(range(count))
    for one, other in pairs:
        mirror[one], mirror[other] = other, one
    return Scheme(tuple(mirror), eyes)


def _opposite(first: int, last: int, total: int) -> list[tuple[int, int]]:
    """Pairs of numbers with one sum: contours that are numbered from one side to the other."""
    return [(number, total - number) for number in range(first, last + 1)]


SCHEMES = {
    5: _scheme(5, (0, 1), (0, 1), (3, 4)),
    29: _scheme(
        29,
        (8, 9),
        *[(0, 1), (2, 3), (4, 6), (5, 7), (8, 9), (10, 11), (12, 14), (13, 15), (16, 17), (18, 19), (22, 23)],
    ),
    68: _scheme(
        68,
        (36, 45),
        *[*_opposite(0, 7, 16), *_opposite(17, 21, 43), *_opposite(31, 32, 66)],  # jaw, brows, nostrils
        *[*_opposite(36, 39, 81), (40, 47), (41, 46)],  # eyes
        *[*_opposite(48, 50, 102), (59, 55), (58, 56)],  # lips, outside
        *[*_opposite(60, 61, 124), (67, 65)],  # and inside
    ),
    98: _scheme(
        98,
        (60, 72),
        *[*_opposite(0, 15, 32), *_opposite(33, 37, 79), *_opposite(38, 41, 88), (55, 59), (56, 58)],
        *[*_opposite(60, 64, 132), *_opposite(65, 67, 140), (96, 97)],
        *[*_opposite(76, 78, 158), (87, 83), (86, 84), *_opposite(88, 89, 180), (95, 93)],
    ),
}
"""By the number of points: eyes, nose and mouth corners; COFW's 29; Multi-PIE's 68 (300-W); WFLW's 98."""


def square_around(rectangle: ArrayLike, where: str, *, larger: float = _LARGER) -> Square:
    """The square with the centre of a rectangle and ``larger`` times its longer side, in whole pixels.

    Args:
        rectangle: left, top, right, bottom; or (n, 2) points, for the rectangle that they take up.
        where: which file or line says so, for messages.

    Raises:
        TrainingError: there is nothing in it.
    """
    ends = np.asarray(rectangle, dtype=np.float64).reshape(-1, 2)
    low, high = ends.min(axis=0), ends.max(axis=0)
    side = larger * float((high - low).max())
    if not 0 < side < 1 << 24:
        raise TrainingError(f"{where}: a face from {low} to {high} has no size in pixels; correct or drop it")
    left, top = np.round((low + high - side) / 2).astype(int).tolist()
    return left, top, left + max(1, round(side)), top + max(1, round(side))


def in_square(points: ArrayLike, square: Square) -> NDArray[np.float32]:
    """Points in pixels, where (0, 0) is the picture's corner, as parts of the square's side from its corner.

    Args:
        points: (p, 2) or (p, 3); depth has no corner and is only scaled.
    """
    place = np.array(points, dtype=np.float64)
    place[:, :2] -= square[:2]
    return (place / (square[2] - square[0])).astype(np.float32)


class Pointed(NamedTuple):
    """A picture and its points in the units of its square; its split; and what must not be divided."""

    picture: Picture
    points: NDArray[np.float32]
    split: int
    group: Hashable = None


def point_examples(
    name: str,
    rows: Sequence[Pointed],
    *,
    task: Literal["landmarks", "reconstruction"] = "landmarks",
    names: Sequence[str] = (),
    scheme: Scheme | None = None,
) -> Examples:
    """The rows as examples; missing splits are drawn.

    Args:
        names: of the points; their numbers, if not given.
        scheme: that of their count, if not given.
    """
    targets = torch.from_numpy(np.stack([row.points for row in rows]))
    scheme = scheme or SCHEMES[targets.shape[1]]
    known = all(row.group is not None for row in rows)
    return Examples(
        name,
        task,
        tuple(names) or tuple(map(str, range(targets.shape[1]))),
        tuple(row.picture for row in rows),
        targets,
        complete_split([row.split for row in rows], groups=[row.group for row in rows] if known else None),
        scheme.interocular,
        scheme.mirror,
    )
