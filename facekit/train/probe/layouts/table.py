"""A CSV file as rows of text, and what its columns say of each picture: split, person, where the face is."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from facekit.errors import TrainingError
from facekit.train.probe.examples import TRAIN, Picture
from facekit.train.probe.layouts.files import Folder, numbers
from facekit.train.probe.layouts.points import square_around
from facekit.train.probe.layouts.splits import SPLITS

__all__ = ["BOX", "PATHS", "Row", "Table", "find_table", "read_table"]

PATHS = ("path", "image")
BOX = ("left", "top", "right", "bottom")


class Row(NamedTuple):
    """A picture, the chosen cells of its line, its split and person, and where the line is, for messages."""

    picture: Picture
    words: list[str]
    split: int
    person: str | None
    where: str


@dataclass(frozen=True, slots=True)
class Table:
    """The cells of a file.

    Attributes:
        path: the file.
        columns: where in a line each column is, by its name.
        lines: the cells of each line, as many as there are columns.
        numbers: of the lines in the file.
    """

    path: Path
    columns: dict[str, int]
    lines: list[list[str]] = field(repr=False)
    numbers: list[int] = field(repr=False)

    def cells(self, column: str) -> Iterator[str]:
        """What stands in a column; blanks where there is none."""
        place = self.columns.get(column)
        return (line[place] if place is not None else "" for line in self.lines)

    def rows(self, columns: Sequence[str]) -> list[Row]:
        """The lines in which at least one of some columns is filled.

        Raises:
            TrainingError: a picture outside the file's folder, a box without a size, or an unknown split.
        """
        folder = Folder(self.path.parent)
        named = self.cells(next(name for name in PATHS if name in self.columns))
        places = [self.columns[column] for column in columns]
        rows = []
        for line, number, name, split, person in zip(
            self.lines, self.numbers, named, self.cells("split"), self.cells("identity"), strict=True
        ):
            where = f"{self.path}, line {number}"
            if split and split not in SPLITS:
                raise TrainingError(f"{where}: split {split!r} is none of {', '.join(SPLITS)}; correct it")
            words = [line[place] for place in places]
            if any(words):
                picture = Picture(folder.file(name, where), self._box(line, where))
                rows.append(Row(picture, words, SPLITS.get(split, TRAIN), person or None, where))
        return rows

    def _box(self, line: list[str], where: str) -> tuple[int, int, int, int] | None:
        if not set(BOX) <= set(self.columns):
            return None
        words = [line[self.columns[side]] for side in BOX]
        return square_around(numbers(words, where), where) if any(words) else None


def find_table(path: Path) -> Path | None:
    """The CSV file at a path, or the only one in a folder, of those that say something about pictures."""
    found = [path] if path.is_file() else sorted(path.glob("*.csv")) if path.is_dir() else []
    fitting = [file for file in found if file.suffix.lower() == ".csv" and _is_labelled(file)]
    return fitting[0] if len(fitting) == 1 else None


def _is_labelled(file: Path) -> bool:
    with file.open("rb") as opened:
        line = opened.readline(1 << 16).decode("utf-8-sig", errors="replace")
    names = {cell.strip() for cell in next(csv.reader([line]), [])}
    return bool(names & set(PATHS) and names - {*PATHS, *BOX, "split"})


def read_table(path: Path) -> Table:
    """Read a CSV file whose first line names the columns.

    Raises:
        TrainingError: not such a file, a column twice, or a line with more or fewer cells than columns.
    """
    lines, places = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            heading = [cell.strip() for cell in next(reader, [])]
            for line in reader:
                if not any(line):
                    continue
                if len(line) != len(heading):
                    where = f"{path}, line {reader.line_num}"
                    raise TrainingError(f"{where}: {len(line)} cells for {len(heading)} columns; complete it")
                lines.append([cell.strip() for cell in line])
                places.append(reader.line_num)
    except (OSError, ValueError, csv.Error) as error:
        raise TrainingError(f"{path}: not a readable CSV file ({error}); save it as UTF-8") from error
    if len(set(heading)) < len(heading) or not set(PATHS) & set(heading):
        raise TrainingError(
            f"{path}: needs a column path or image, and each column once; it has {heading[:20]}"
        )
    return Table(path, {name: place for place, name in enumerate(heading)}, lines, places)
