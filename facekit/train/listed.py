"""Lists of pictures: CSV files whose column ``path`` names pictures of a source."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from facekit.errors import TrainingError

__all__ = ["Listed", "read_list", "require_columns"]

_SHOWN = 20  # columns in a message


@dataclass(frozen=True, slots=True)
class Listed:
    """A line that names a picture.

    Attributes:
        line: its number, for messages.
        name: the picture, from the source's ``root`` on.
        cells: the line by its columns; empty where the line is too short.
    """

    line: int
    name: str
    cells: dict[str, str]


def read_list(table: Path, root: Path, columns: Sequence[str] = ("path",)) -> Iterator[Listed]:
    """The lines of a list, one after another. Nothing is opened under the names that it gives.

    Args:
        table: the file.
        root: of the source, in full; a path starts there, or is given in full.
        columns: what the header must have.

    Raises:
        TrainingError: not such a file, or a path that leads out of ``root``.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file, restval="")
            require_columns(table, columns, reader.fieldnames)
            for row in reader:
                path = Path(os.path.realpath(root / row["path"]))
                if not row["path"] or not path.is_relative_to(root):
                    where = f"{table}, line {reader.line_num}"
                    raise TrainingError(f"{where}: {row['path']!r} names nothing in {root}; drop the line")
                row.pop(None, None)  # cells beyond the header
                yield Listed(reader.line_num, path.relative_to(root).as_posix(), dict(row))
    except (OSError, ValueError, csv.Error) as error:
        raise TrainingError(
            f"{table}: not a readable CSV file ({error}); give one with the {_named(columns)}"
        ) from error


def require_columns(table: Path, wanted: Sequence[str], found: Sequence[str] | None) -> None:
    """Refuse a file whose header lacks a column.

    Raises:
        TrainingError: it does; with what it has, which shows another separator or encoding.
    """
    if not set(wanted) <= set(found or ()):
        has = list(found or ())[:_SHOWN]
        raise TrainingError(
            f"{table}: needs a header with the {_named(wanted)}, separated by commas, in UTF-8; it has {has}"
        )


def _named(columns: Sequence[str]) -> str:
    return f"{'column' if len(columns) == 1 else 'columns'} {' and '.join(columns)}"
