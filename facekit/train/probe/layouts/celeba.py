"""CelebA: 202,599 aligned pictures of 178 x 218 with 40 attributes, five points and 10,177 identities.

Liu, Luo, Wang, Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015; its README says what the files
hold. ``list_eval_partition.txt`` numbers training, validation and test as 0, 1 and 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from facekit.errors import TrainingError
from facekit.train.probe.examples import TEST, TRAIN, Examples, Picture, TaskName
from facekit.train.probe.layouts.files import Folder, first_existing, numbers, read_lines, whole_number
from facekit.train.probe.layouts.layout import Layout, choose_task
from facekit.train.probe.layouts.people import people_examples
from facekit.train.probe.layouts.points import Pointed, in_square, point_examples
from facekit.train.probe.layouts.splits import complete_split

__all__ = ["LAYOUT"]

_LISTS: dict[TaskName, str] = {
    "attributes": "list_attr_celeba.txt",
    "identities": "identity_CelebA.txt",
    "landmarks": "list_landmarks_align_celeba.txt",
}
_SQUARE = (0, 20, 178, 198)  # the largest in the middle, to which the whole set is aligned
_POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")


class _Line(NamedTuple):
    file: Path
    words: list[str]
    where: str
    split: int


def _fits(path: Path) -> bool:
    return _pictures(path) is not None and bool(_lists(path))


def _pictures(path: Path) -> Path | None:
    return first_existing(path, "img_align_celeba", "Img/img_align_celeba")


def _lists(path: Path) -> dict[TaskName, Path]:
    found = {task: first_existing(path, name, f"Anno/{name}") for task, name in _LISTS.items()}
    return {task: place for task, place in found.items() if place}


def _read(path: Path, task: TaskName | None) -> Examples:
    lists = _lists(path)
    chosen = choose_task(path, task, *lists)
    columns, lines = _table(path, lists[chosen], headed=chosen != "identities")
    if chosen == "identities":
        return people_examples("CelebA", [(Picture(row.file), row.words[0], row.split) for row in lines])
    if chosen == "landmarks":
        return point_examples("CelebA", [_pointed(row) for row in lines], names=_POINTS)
    return Examples(
        "CelebA",
        "attributes",
        tuple(columns),
        tuple(Picture(row.file) for row in lines),
        (torch.tensor([numbers(row.words, row.where) for row in lines]) > 0).float(),
        complete_split([row.split for row in lines]),
    )


def _table(path: Path, table: Path, *, headed: bool) -> tuple[list[str], list[_Line]]:
    """The columns and lines of a list, which may start with its length and the names of its columns."""
    pictures = _pictures(path)
    if pictures is None:
        raise TrainingError(f"{path}: holds no img_align_celeba/; unpack the aligned pictures there")
    lines = list(read_lines(table))
    columns = lines[1][1] if headed and len(lines) > 1 else ["identity"]
    splits = _splits(path)
    folder, rows = Folder(pictures), []
    for where, (name, *words) in lines[2 * headed :]:
        if len(words) != len(columns):
            raise TrainingError(
                f"{where}: {len(words)} values for {len(columns)} columns; unpack the list anew"
            )
        if splits and name not in splits:
            raise TrainingError(f"{where}: {name} is not in list_eval_partition.txt; unpack both lists anew")
        rows.append(_Line(folder.file(name, where), words, where, splits.get(name, TRAIN)))
    return columns, rows


def _splits(path: Path) -> dict[str, int]:
    """By the name of the picture; empty without the list."""
    table = first_existing(path, "list_eval_partition.txt", "Eval/list_eval_partition.txt")
    if table is None:
        return {}
    return {words[0]: whole_number(words[-1], range(TEST + 1), where) for where, words in read_lines(table)}


def _pointed(row: _Line) -> Pointed:
    """Points count pixels from 0 at the middle of the first."""
    if len(row.words) != 2 * len(_POINTS):
        raise TrainingError(
            f"{row.where}: {len(row.words)} numbers for {len(_POINTS)} points; unpack it anew"
        )
    points = np.reshape(numbers(row.words, row.where), (-1, 2)) + 0.5
    return Pointed(Picture(row.file, _SQUARE), in_square(points, _SQUARE), row.split)


LAYOUT = Layout("celeba", "img_align_celeba/ beside list_attr_celeba.txt", _fits, _read)
