"""AffectNet: faces of the web with valence, arousal and one of eight expressions.

Mollahosseini, Hasani, Mahoor, "AffectNet: A Database for Facial Expression, Valence, and Arousal Computing in
the Wild", IEEE T-AC 2019. Two forms are handed on: ``training.csv`` and ``validation.csv`` beside
``Manually_Annotated_Images/``, and, since 2021, ``train_set/`` and ``val_set/`` with a file ``.npy`` for each
value of each picture. The test set was never released: as everywhere, the validation set is the test split.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from facekit.errors import TrainingError
from facekit.image import find_images
from facekit.train.probe.examples import TEST, TRAIN, Examples, Picture, TaskName
from facekit.train.probe.layouts.classes import Labelled, class_examples
from facekit.train.probe.layouts.files import Folder, first_existing, numbers, whole_number
from facekit.train.probe.layouts.layout import Layout, choose_task
from facekit.train.probe.layouts.points import square_around
from facekit.train.probe.layouts.splits import complete_split

__all__ = ["LAYOUT"]

_NAMES = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
_KINDS = range(11)  # behind the expressions: none, uncertain, no face
_UNKNOWN = -2  # valence and arousal of uncertain and no face
_TASKS: dict[TaskName, tuple[str, ...]] = {
    "classes": ("expression",),
    "affect": ("valence", "arousal"),
}
_ENDINGS = {"expression": "exp", "valence": "val", "arousal": "aro"}
_TABLES = {TRAIN: "training.csv", TEST: "validation.csv"}
_SETS = {TRAIN: "train_set", TEST: "val_set"}
_SMALL = 1 << 12  # bytes of a file with one value


class _Row(NamedTuple):
    picture: Picture
    words: list[str]
    where: str
    split: int


def _table(path: Path, split: int) -> Path | None:
    name = _TABLES[split]
    return first_existing(path, name, f"Manually_Annotated_file_lists/{name}")


def _fits(path: Path) -> bool:
    tables = _pictures(path) is not None and all(_table(path, split) for split in _TABLES)
    return tables or all((path / folder / "annotations").is_dir() for folder in _SETS.values())


def _pictures(path: Path) -> Path | None:
    images = "Manually_Annotated_Images"
    return first_existing(path, images, f"Manually_Annotated/{images}", "Manually_Annotated")


def _read(path: Path, task: TaskName | None) -> Examples:
    chosen = choose_task(path, task, *_TASKS)
    listed = (path / _SETS[TRAIN]).is_dir()
    rows = (_of_arrays if listed else _of_tables)(path, _TASKS[chosen])
    if chosen == "classes":
        labels = [(row, whole_number(row.words[0], _KINDS, row.where)) for row in rows]
        kept = [Labelled(row.picture, label, row.split) for row, label in labels if label < len(_NAMES)]
        return class_examples("AffectNet", _NAMES, kept)
    known = [(row, values) for row in rows if _UNKNOWN not in (values := numbers(row.words, row.where))]
    for row, values in known:
        if max(map(abs, values)) > 1:
            raise TrainingError(f"{row.where}: {values} is not in -1 ... 1; unpack the labels anew")
    return Examples(
        "AffectNet",
        "affect",
        _TASKS["affect"],
        tuple(row.picture for row, _ in known),
        torch.tensor([values for _, values in known]).reshape(-1, 2),
        complete_split([row.split for row, _ in known]),
    )


def _of_tables(path: Path, columns: tuple[str, ...]) -> Iterator[_Row]:
    """The form with two CSV files, whose faces lie somewhere in larger pictures."""
    pictures = _pictures(path)
    for split in _TABLES:
        table = _table(path, split)
        if table is None or pictures is None:
            raise TrainingError(f"{path}: needs training.csv, validation.csv and Manually_Annotated_Images/")
        folder = Folder(pictures)
        try:
            with table.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                for row in reader:
                    where = f"{table}, line {reader.line_num}"
                    yield _Row(
                        _face(folder, row, where), [row.get(name) or "" for name in columns], where, split
                    )
        except (OSError, ValueError, csv.Error) as error:
            raise TrainingError(f"{table}: not a readable CSV file ({error}); unpack it anew") from error


def _face(folder: Folder, row: dict[str, str], where: str) -> Picture:
    file = folder.file(row.get("subDirectory_filePath") or "", where)
    words = [row.get(f"face_{side}") or "" for side in ("x", "y", "width", "height")]
    if "NULL" in words:  # where no face was found, which is labelled so
        return Picture(file)
    left, top, width, height = numbers(words, where)
    return Picture(file, square_around((left, top, left + width, top + height), where, larger=1))


def _of_arrays(path: Path, columns: tuple[str, ...]) -> Iterator[_Row]:
    """The form with a file for each value, whose pictures are faces."""
    for split, name in _SETS.items():
        for picture in find_images(path / name / "images"):
            files = [
                path / name / "annotations" / f"{picture.stem}_{_ENDINGS[column]}.npy" for column in columns
            ]
            yield _Row(Picture(picture), [_value(file) for file in files], str(files[0]), split)


def _value(file: Path) -> str:
    """The one value in a ``.npy`` file, a number or its text, without NumPy's own reader: that trusts the
    file with the size of what it reads.

    The format is numpy.lib.format's, version 1 or 2.
    """
    try:
        with file.open("rb") as opened:
            content = io.BytesIO(opened.read(_SMALL))
        version = np.lib.format.read_magic(content)
        header = (
            np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        )
        shape, _, kind = header(content)
        if shape not in ((), (1,)) or kind.kind not in "fiuU":
            raise ValueError(f"{shape} of {kind}, not one number")
        return str(np.frombuffer(content.read(), kind, 1)[0])
    except (OSError, ValueError) as error:
        raise TrainingError(f"{file}: holds no label ({error}); unpack the annotations anew") from error


LAYOUT = Layout(
    "affectnet",
    "training.csv and validation.csv beside Manually_Annotated_Images/; or train_set/annotations/0_exp.npy",
    _fits,
    _read,
)
