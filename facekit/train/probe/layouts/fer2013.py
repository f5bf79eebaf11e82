"""FER2013: 35,887 grey pictures of 48 x 48 in seven classes, as text in one CSV.

Goodfellow et al., "Challenges in Representation Learning: A report on three machine learning contests",
ICONIP 2013. The public test set of the contest is the validation split, the private one the test split.
As a folder with train/ and test/ it is read like any other folder.
"""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekit.errors import TrainingError
from facekit.train.probe.examples import TEST, TRAIN, VALIDATION, Examples, Picture, TaskName
from facekit.train.probe.layouts.classes import Labelled, class_examples
from facekit.train.probe.layouts.files import first_existing, whole_number
from facekit.train.probe.layouts.layout import Layout, choose_task

__all__ = ["LAYOUT"]

_NAMES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
_SPLITS = {"Training": TRAIN, "PublicTest": VALIDATION, "PrivateTest": TEST}
_SIDE = 48


def _table(path: Path) -> Path | None:
    table = path if path.suffix == ".csv" else first_existing(path, "fer2013.csv", "icml_face_data.csv")
    return table if table is not None and table.is_file() else None


def _fits(path: Path) -> bool:
    table = _table(path)
    if table is None:
        return False
    with table.open("rb") as file:
        words = {word.strip() for word in file.readline(1 << 10).split(b",")}
    return {b"emotion", b"pixels"} <= words


def _read(path: Path, task: TaskName | None) -> Examples:
    choose_task(path, task, "classes")
    table = _table(path)
    if table is None:
        raise TrainingError(f"{path}: holds no fer2013.csv; give the folder in which it lies")
    rows = []
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            for row in reader:
                rows.append(_row(table, row, f"{table}, line {reader.line_num}"))
    except (OSError, ValueError, csv.Error) as error:
        raise TrainingError(f"{table}: not a readable CSV file ({error}); unpack it anew") from error
    return class_examples("FER2013", _NAMES, rows)


def _row(table: Path, row: dict[str, str], where: str) -> Labelled:
    split = _SPLITS.get(row.get("Usage") or "")
    if split is None:
        raise TrainingError(
            f"{where}: Usage {row.get('Usage')!r} is none of {', '.join(_SPLITS)}; unpack it anew"
        )
    label = whole_number(row.get("emotion") or "", range(len(_NAMES)), where)
    pixels = _pixels(row.get("pixels") or "", where)
    return Labelled(Picture(table, read=partial(_grey, pixels)), label, split)


def _pixels(text: str, where: str) -> NDArray[np.uint8]:
    try:
        return np.array(text.split(), dtype=np.uint8).reshape(_SIDE, _SIDE)
    except (ValueError, OverflowError) as error:
        raise TrainingError(
            f"{where}: not {_SIDE} x {_SIDE} pixels of 0 ... 255 ({error}); unpack it anew"
        ) from error


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels


LAYOUT = Layout("fer2013", "fer2013.csv with the columns emotion, pixels and Usage", _fits, _read)
