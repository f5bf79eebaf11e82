"""300-W: faces of LFPW, HELEN, AFW and IBUG with 68 points in ``.pts`` files beside the pictures.

Sagonas, Tzimiropoulos, Zafeiriou, Pantic, "300 Faces in-the-Wild Challenge", ICCVW 2013. As usual since Ren
et al., CVPR 2014, AFW and the training sets of LFPW and HELEN are trained on (3,148 pictures); the common
test set is the test sets of these two (554), the challenging one is IBUG (135), the full one both.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from facekit.errors import TrainingError
from facekit.image import IMAGE_SUFFIXES
from facekit.train.probe.examples import TEST, TRAIN, Examples, Picture, TaskName
from facekit.train.probe.layouts.files import numbers, read_lines
from facekit.train.probe.layouts.layout import Layout, choose_task
from facekit.train.probe.layouts.points import Pointed, in_square, point_examples, square_around

__all__ = ["LAYOUTS", "read_pts"]

_TRAINED = ("lfpw/trainset", "helen/trainset", "afw")
_COMMON = ("lfpw/testset", "helen/testset")
_CHALLENGING = ("ibug",)
_POINTS = 68


def read_pts(path: Path) -> list[list[float]]:
    """The points of a ``.pts`` file, in pixels, of which the middle of the first is (1, 1).

    Raises:
        TrainingError: not such a file, or not 68 points.
    """
    lines = list(read_lines(path))
    marks = [words[0] for _, words in lines]
    if "{" not in marks or "}" not in marks:
        raise TrainingError(f"{path}: holds no points in braces; copy the file anew")
    inner = lines[marks.index("{") + 1 : marks.index("}")]
    if len(inner) != _POINTS or any(len(words) != 2 for _, words in inner):
        raise TrainingError(f"{path}: expected x and y of {_POINTS} points; copy the file anew")
    return [numbers(words, where) for where, words in inner]


def _fits(path: Path) -> bool:
    return all((path / folder).is_dir() for folder in ("lfpw/trainset", "helen/trainset", "ibug"))


def _read(tested: tuple[str, ...], name: str, path: Path, task: TaskName | None) -> Examples:
    choose_task(path, task, "landmarks")
    return point_examples(
        name,
        [
            _pointed(points, split)
            for split, folders in ((TRAIN, _TRAINED), (TEST, tested))
            for folder in folders
            for points in _pts(path / folder)
        ],
    )


def _pts(folder: Path) -> list[Path]:
    """The files of points in a folder, without those of mirrored copies that some archives add."""
    found = sorted(file for file in folder.rglob("*.pts") if not file.stem.endswith("_mirror"))
    if not found or not folder.is_dir():
        raise TrainingError(f"{folder}: holds no .pts files; unpack this part of 300-W there")
    return found


def _pointed(file: Path, split: int) -> Pointed:
    picture = next(
        (place for suffix in IMAGE_SUFFIXES if (place := file.with_suffix(suffix)).is_file()), None
    )
    if picture is None:
        raise TrainingError(f"{file}: there is no picture of this name beside it; unpack the part anew")
    points = np.array(read_pts(file)) - 0.5
    square = square_around(points, str(file))
    return Pointed(Picture(picture, square), in_square(points, square), split)


_LOOKS = "lfpw/trainset/, helen/trainset/, afw/ and ibug/ with .pts beside the pictures"

LAYOUTS = (
    Layout("300w", _LOOKS, _fits, partial(_read, _COMMON + _CHALLENGING, "300-W")),
    Layout("300w-common", "the same, without ibug/", _fits, partial(_read, _COMMON, "300-W common")),
    Layout(
        "300w-challenging",
        "the same, tested on ibug/",
        _fits,
        partial(_read, _CHALLENGING, "300-W challenging"),
    ),
)
