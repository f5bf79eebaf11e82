"""Labelled pictures of one task, whatever layout they came in, before anything is decoded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from facekit.errors import ImageError, SettingError, TrainingError
from facekit.image import ImageSource, load_image
from facekit.prefetch import map_ahead

__all__ = [
    "TASKS",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "Examples",
    "Picture",
    "TaskName",
    "decode",
    "examples_digest",
    "tasked",
]

TaskName = Literal[
    "identities", "classes", "attributes", "landmarks", "affect", "action_units", "reconstruction"
]
TASKS: tuple[TaskName, ...] = (
    "identities",
    "classes",
    "attributes",
    "landmarks",
    "affect",
    "action_units",
    "reconstruction",
)
TRAIN, VALIDATION, TEST = 0, 1, 2
_MAX_PIXELS = 1 << 26


@dataclass(frozen=True, slots=True)
class Picture:
    """Where a face is.

    Attributes:
        path: the file.
        box: left, top, right, bottom of the square to look at, in pixels of the upright picture; it may
            reach beyond the edge, where the picture is continued with black. None for the largest square
            in the middle.
        read: for a file that holds many pictures: gives this one.
    """

    path: Path
    box: tuple[float, float, float, float] | None = None
    read: Callable[[], ImageSource] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Pictures, and what is known of them.

    ======================= ================================ ==============================================
    task                    targets                          names
    ======================= ================================ ==============================================
    ``identities``          (n,) int64                       the people
    ``classes``             (n,) int64                       the classes, such as expressions
    ``attributes``          (n, a) float32, 0 or 1           the attributes
    ``landmarks``           (n, p, 2) float32                the points, or ``0 ... p-1``
    ``affect``              (n, 2) float32 in [-1, 1]        valence, arousal
    ``action_units``        (n, u) float32 in [0, 5]         ``AU1`` ...
    ``reconstruction``      (n, p, 3) float32                the points
    ======================= ================================ ==============================================

    Points are (x, y[, z]) in units of the side of the picture's square: (0, 0) is its upper left corner and
    (1, 1) its lower right one; z has the same unit. Float targets that are not known are NaN; a class that is
    not known is -1.

    Attributes:
        name: of the set, for tables.
        task: see above.
        names: of the columns or classes.
        pictures: one a row.
        targets: one a row.
        split: (n,) uint8, ``TRAIN``, ``VALIDATION`` or ``TEST``. Identities in the test split are not in
            the others.
        interocular: the two points whose distance the error of landmarks is measured in.
        mirror: for points, the number that each point has in the mirrored picture; empty if not known.

    Raises:
        TrainingError: parts that do not belong together.
    """

    name: str
    task: TaskName
    names: tuple[str, ...]
    pictures: Sequence[Picture]
    targets: Tensor
    split: Tensor
    interocular: tuple[int, int] = (0, 1)
    mirror: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        counts = {len(self.pictures), len(self.targets), len(self.split)}
        if len(counts) != 1:
            raise TrainingError(f"{self.name}: {sorted(counts)} pictures, targets and splits; one a picture")

    def __len__(self) -> int:
        return len(self.pictures)

    def rows(self, split: int) -> Tensor:
        """(k,) int64: the rows of a split, in their order."""
        return (self.split == split).nonzero()[:, 0]


def examples_digest(examples: Examples) -> str:
    """Stands for the pictures, what is known of them and their splits; files count by place and size."""
    digest = hashlib.sha256(repr((examples.task, examples.names)).encode(errors="surrogateescape"))
    last: Path | None = None
    for picture in examples.pictures:
        digest.update(f"{picture.path.absolute()}\0{picture.box}\0".encode(errors="surrogateescape"))
        if picture.path != last:  # one that holds many is looked at once
            last = picture.path
            with suppress(OSError):  # of one that is missing, whoever reads it tells
                digest.update(b"%d" % last.stat().st_size)
    for known in (examples.targets, examples.split):
        digest.update(known.contiguous().numpy().tobytes())
    return digest.hexdigest()


def tasked(text: str) -> tuple[TaskName | None, Path]:
    """Task and path of ``[TASK=]PATH``.

    Raises:
        SettingError: something else than a task in front.
    """
    name, sign, path = text.partition("=")
    for task in TASKS:
        if sign and task == name:
            return task, Path(path)
    if sign and not Path(text).exists() and "/" not in name:
        raise SettingError(f"data={text}: {name!r} is no task; there are {', '.join(TASKS)}")
    return None, Path(text)


def decode(examples: Examples, rows: Tensor, size: int) -> Tensor:
    """The squares of some rows as (n, 3, size, size) uint8, RGB.

    Raises:
        ImageError: one of them cannot be read: a probe that leaves some out is another probe.
    """
    pictures = torch.empty(len(rows), 3, size, size, dtype=torch.uint8)
    chosen = [examples.pictures[row] for row in rows.tolist()]
    decoded = map_ahead(lambda p: _square(p, size), chosen, workers=os.cpu_count() or 1, window=1024)
    for number, picture in enumerate(decoded):
        pictures[number] = picture
    return pictures


def _square(picture: Picture, size: int) -> Tensor:
    source = picture.path if picture.read is None else picture.read()
    pixels = torch.from_numpy(load_image(source, max_pixels=_MAX_PIXELS)).permute(2, 0, 1)
    height, width = pixels.shape[1:]
    if picture.box is None:
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        right, bottom = left + side, top + side
    else:
        left, top, right, bottom = (round(value) for value in picture.box)
        inside = left < width and top < height and right > 0 and bottom > 0
        if not inside or not 0 < (right - left) * (bottom - top) <= _MAX_PIXELS:
            raise ImageError(
                f"{picture.path}: the box {picture.box} is outside its {width} x {height} pixels, "
                f"or far larger; correct the box",
                path=str(picture.path),
            )
    inner = pixels[:, max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    beyond = (max(0, -left), max(0, right - width), max(0, -top), max(0, bottom - height))
    if any(beyond):
        inner = F.pad(inner, beyond)
    if inner.shape[1:] == (size, size):
        return inner
    resized = F.interpolate(
        inner[None].float(), (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0].round().clamp(0, 255).to(torch.uint8)
