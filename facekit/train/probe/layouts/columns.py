"""The tasks that the columns of a CSV file allow, and its rows as examples of one of them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from math import nan
from pathlib import Path

import numpy as np
import torch

from facekit.errors import TrainingError
from facekit.image import load_image
from facekit.prefetch import map_ahead
from facekit.train.probe.examples import Examples, Picture, TaskName
from facekit.train.probe.layouts.classes import Labelled, class_examples
from facekit.train.probe.layouts.files import numbers, read_lines
from facekit.train.probe.layouts.layout import Layout, choose_task
from facekit.train.probe.layouts.people import people_examples
from facekit.train.probe.layouts.points import SCHEMES, Pointed, Scheme, Square, in_square, point_examples
from facekit.train.probe.layouts.splits import complete_split
from facekit.train.probe.layouts.table import BOX, PATHS, Row, Table, find_table, read_table

__all__ = ["LAYOUT"]

_log = logging.getLogger(__name__)

_RESERVED = {*PATHS, *BOX, "split", "label", "identity", "valence", "arousal", "attributes"}
_NAMED = 8  # columns in a message
_UNIT = re.compile(r"AU\d+")


def _offered(table: Table) -> dict[TaskName, list[str]]:
    """The tasks that the columns allow, and the columns of each."""
    columns = list(table.columns)
    points = [name[2:] for name in columns if name.startswith("x_") and f"y_{name[2:]}" in columns]
    placed = [f"{axis}_{point}" for point in points for axis in "xy"]
    units = [name for name in columns if _UNIT.fullmatch(name)]
    attributes = ["attributes"] if "attributes" in columns else []
    others = set(columns) - _RESERVED - set(placed) - set(units)
    found: dict[TaskName, list[str]] = {
        "classes": ["label"] * ("label" in columns),
        "identities": ["identity"] * ("identity" in columns),
        "attributes": attributes
        or [name for name in columns if name in others and _first_other(table, name) is None],
        "landmarks": placed,
        "affect": ["valence", "arousal"] * ({"valence", "arousal"} <= set(columns)),
        "action_units": units,
    }
    return {task: used for task, used in found.items() if used}


def _first_other(table: Table, column: str) -> str | None:
    """What keeps a column from being an attribute, in words: its first cell that is not 0, 1 or blank."""
    cells = set(table.cells(column))
    others = {cell for cell in cells if cell and not _is_bit(cell)}
    if others:
        where = zip(table.cells(column), table.numbers, strict=True)
        return next(f"{cell!r} in line {number}" for cell, number in where if cell in others)
    return "blank" if cells <= {""} else None


def _is_bit(cell: str) -> bool:
    """Whether it is 0 or 1, perhaps written as 1.0, as programs do where others of the column are blank."""
    try:
        return float(cell) in (0, 1)
    except ValueError:
        return False


def _ignored(table: Table, attributes: Sequence[str]) -> str:
    """The columns that are no attributes, and why: one cell that is miswritten makes one of them."""
    others = [name for name in table.columns if name not in {*_RESERVED, *attributes}]
    found = {name: _first_other(table, name) for name in others}
    ignored = [f"{name} ({why})" for name, why in found.items() if why]
    more = f" and {len(ignored) - _NAMED} more" if len(ignored) > _NAMED else ""
    return ", ".join(ignored[:_NAMED]) + more


def _read(path: Path, task: TaskName | None) -> Examples:
    found = find_table(path)
    if found is None:
        raise TrainingError(f"{path}: is no CSV file with a column path or image, nor a folder with one such")
    table = read_table(found)
    offered = _offered(table)
    if "attributes" not in offered and (task == "attributes" or not offered) and (why := _ignored(table, [])):
        nothing = f"{found}: holds no labels for {task or 'any task'}"
        raise TrainingError(f"{nothing}, and no column is of 0, 1 and blanks alone: {why}; write 0 and 1")
    chosen = choose_task(found, task, *offered)
    columns = offered[chosen]
    if chosen == "attributes" and columns != ["attributes"] and (why := _ignored(table, columns)):
        _log.warning("%s: not learnt, since not all cells are 0, 1 or blank: %s", found, why)
    rows = table.rows(columns)
    if len(rows) < len(table.lines):
        _log.info(
            "%s: %d of %d pictures have no %s", found, len(table.lines) - len(rows), len(table.lines), chosen
        )
    name = found.stem if path.is_file() else path.name
    if not rows:
        raise TrainingError(f"{found}: no line is filled in {', '.join(columns[:8])}; fill some")
    return _READERS[chosen](name, found, columns, rows)


# ---------------------------------------------------------------- tasks


def _classes(name: str, table: Path, columns: Sequence[str], rows: Sequence[Row]) -> Examples:
    names = sorted({row.words[0] for row in rows})
    number = {label: index for index, label in enumerate(names)}
    return class_examples(
        name, names, [Labelled(row.picture, number[row.words[0]], row.split, row.person) for row in rows]
    )


def _identities(name: str, table: Path, columns: Sequence[str], rows: Sequence[Row]) -> Examples:
    return people_examples(name, [(row.picture, row.words[0], row.split) for row in rows])


def _attributes(name: str, table: Path, columns: Sequence[str], rows: Sequence[Row]) -> Examples:
    """Columns of 0, 1 and blank, or one column with all of a picture's in a text such as ``0110``."""
    if list(columns) != ["attributes"]:
        return _floats("attributes", name, columns, rows, 0, 1)
    beside = table.with_name("attribute_names.txt")
    if not beside.is_file():
        raise TrainingError(f"{beside}: no such file; write the names of the attributes there, one a line")
    names = [" ".join(words) for _, words in read_lines(beside)]
    for row in rows:
        if len(row.words[0]) != len(names) or set(row.words[0]) - {"0", "1"}:
            raise TrainingError(
                f"{row.where}: attributes are {len(names)} times 0 or 1; correct {row.words[0]!r}"
            )
    spread = [row._replace(words=list(row.words[0])) for row in rows]
    return _floats("attributes", name, names, spread, 0, 1)


def _affect(name: str, table: Path, columns: Sequence[str], rows: Sequence[Row]) -> Examples:
    return _floats("affect", name, columns, rows, -1, 1)


def _action_units(name: str, table: Path, columns: Sequence[str], rows: Sequence[Row]) -> Examples:
    return _floats("action_units", name, columns, rows, 0, 5)


def _floats(
    task: TaskName, name: str, names: Sequence[str], rows: Sequence[Row], low: float, high: float
) -> Examples:
    values = [_numbers(row) for row in rows]
    for row, numbers_of in zip(rows, values, strict=True):
        if any(value < low or value > high for value in numbers_of):
            raise TrainingError(
                f"{row.where}: {task} lie in {low} ... {high}; correct {' '.join(row.words)!r}"
            )
    targets = torch.tensor(values, dtype=torch.float32)
    split = complete_split([row.split for row in rows], groups=_people(rows))
    return Examples(name, task, tuple(names), tuple(row.picture for row in rows), targets, split)


def _numbers(row: Row) -> list[float]:
    """Its cells; NaN where they are blank."""
    known = iter(numbers([word for word in row.words if word], row.where))
    return [next(known) if word else nan for word in row.words]


def _people(rows: Sequence[Row]) -> list[str] | None:
    people = [row.person for row in rows if row.person is not None]
    return people if len(people) == len(rows) else None


# ---------------------------------------------------------------- points


def _landmarks(name: str, table: Path, columns: Sequence[str], rows: Sequence[Row]) -> Examples:
    """Pixels, where (0, 0) is the corner of the picture; without a box the whole of it counts."""
    names = [column[2:] for column in columns[::2]]
    pointed = []
    squares = map_ahead(_square, [row.picture for row in rows], workers=os.cpu_count() or 1, window=64)
    for row, square in zip(rows, squares, strict=True):
        points = np.reshape(_numbers(row), (-1, 2))
        pointed.append(Pointed(row.picture, in_square(points, square), row.split, row.person))
    return point_examples(name, pointed, names=names, scheme=_scheme(table, names))


def _square(picture: Picture) -> Square:
    """The square that will be looked at; that of a whole picture takes its size."""
    if picture.box is not None:
        left, top, right, bottom = map(round, picture.box)
        return left, top, right, bottom
    height, width = load_image(picture.path).shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _scheme(table: Path, names: Sequence[str]) -> Scheme:
    """Numbered points follow the published scheme of their count; named ones say which is left and right."""
    if len(names) in SCHEMES and all(name.isdecimal() for name in names):
        return SCHEMES[len(names)]
    if not {"left_eye", "right_eye"} <= set(names):
        counts = ", ".join(map(str, SCHEMES))
        raise TrainingError(
            f"{table}: the eyes, whose distance errors are measured in, are not known; name their columns "
            f"x_left_eye, y_left_eye, x_right_eye, y_right_eye, or number {counts} points as their sets do"
        )
    other = {"left": "right", "right": "left"}
    opposite = [re.sub("left|right", lambda side: other[side[0]], name) for name in names]
    known = set(opposite) <= set(names)
    return Scheme(
        tuple(names.index(name) for name in opposite) if known else (),
        (names.index("left_eye"), names.index("right_eye")),
    )


_READERS: dict[TaskName, Callable[[str, Path, Sequence[str], Sequence[Row]], Examples]] = {
    "classes": _classes,
    "identities": _identities,
    "attributes": _attributes,
    "landmarks": _landmarks,
    "affect": _affect,
    "action_units": _action_units,
}

LAYOUT = Layout(
    "csv",
    "a .csv with a column path or image; perhaps split; and label, identity, valence and arousal, x_NAME and "
    "y_NAME, AU1 ..., attributes, or columns of 0 and 1",
    lambda path: find_table(path) is not None,
    _read,
)
