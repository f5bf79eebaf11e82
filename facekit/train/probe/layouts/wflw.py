"""WFLW: 10,000 faces of WIDER FACE with 98 points, 2,500 of them for the test.

Wu, Qian, Yang, Wang, Cai, Zhou, "Look at Boundary: A Boundary-Aware Face Alignment Algorithm", CVPR 2018. A
line holds 98 times x and y, the rectangle of the face (left, top, right, bottom), six attributes and the name
of the picture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facekit.errors import TrainingError
from facekit.train.probe.examples import TEST, TRAIN, Examples, Picture, TaskName
from facekit.train.probe.layouts.files import Folder, first_existing, numbers, read_lines
from facekit.train.probe.layouts.layout import Layout, choose_task
from facekit.train.probe.layouts.points import Pointed, in_square, point_examples, square_around

__all__ = ["LAYOUT"]

_POINTS = 98
_COLUMNS = 2 * _POINTS + 4 + 6 + 1
_LISTS = {TRAIN: "list_98pt_rect_attr_train.txt", TEST: "list_98pt_rect_attr_test.txt"}
_FOLDER = "list_98pt_rect_attr_train_test"


def _list(path: Path, split: int) -> Path | None:
    name = _LISTS[split]
    return first_existing(path, f"WFLW_annotations/{_FOLDER}/{name}", f"{_FOLDER}/{name}", name)


def _read(path: Path, task: TaskName | None) -> Examples:
    choose_task(path, task, "landmarks")
    rows = []
    for split in _LISTS:
        table, pictures = _list(path, split), first_existing(path, "WFLW_images", "images")
        if table is None or pictures is None:
            raise TrainingError(f"{path}: needs WFLW_annotations/ and WFLW_images/; unpack both there")
        folder = Folder(pictures)
        rows += [_pointed(folder, words, where, split) for where, words in read_lines(table)]
    return point_examples("WFLW", rows)


def _pointed(folder: Folder, words: list[str], where: str, split: int) -> Pointed:
    """Points count pixels from 0 at the middle of the first."""
    if len(words) != _COLUMNS:
        raise TrainingError(f"{where}: {len(words)} columns, not {_COLUMNS}; unpack the list anew")
    points = np.reshape(numbers(words[: 2 * _POINTS], where), (-1, 2)) + 0.5
    square = square_around(numbers(words[2 * _POINTS : 2 * _POINTS + 4], where), where)
    return Pointed(Picture(folder.file(words[-1], where), square), in_square(points, square), split)


LAYOUT = Layout(
    "wflw",
    f"WFLW_images/ beside WFLW_annotations/{_FOLDER}/{_LISTS[TRAIN]}",
    lambda path: _list(path, TRAIN) is not None,
    _read,
)
