"""Files and lines that a set's own lists name, none of which may lead out of its folder or be endless."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from facekit.errors import TrainingError

__all__ = ["Folder", "first_existing", "numbers", "read_lines", "whole_number"]

_LONGEST = 1 << 16  # characters of a line; 98 points take 2,000


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder whose files are named by lists that nobody has checked.

    Attributes:
        root: the folder.
    """

    root: Path
    _inside: dict[str, bool] = field(default_factory=dict, repr=False)

    def file(self, name: str, where: str) -> Path:
        """The path of a file, which need not exist.

        Args:
            name: relative to the folder.
            where: which line of which list says so, for messages.

        Raises:
            TrainingError: no name, or one that leads elsewhere, be it by a link.
        """
        path = self.root / name
        folder, last = os.path.split(path)
        if not name.strip() or "\0" in name or last in ("", ".", ".."):
            raise TrainingError(f"{where}: {name!r} names no picture; complete the line or drop it")
        if folder not in self._inside:  # to resolve each of 200,000 pictures would take its time
            self._inside[folder] = self._holds(folder)
        if not self._inside[folder] or (path.is_symlink() and not self._holds(path)):
            raise TrainingError(f"{where}: {name!r} leads out of {self.root}; move the picture into it")
        return path

    def _holds(self, path: str | Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self.root.resolve())


def first_existing(root: Path, *names: str) -> Path | None:
    """The first of some paths in a folder that is there; sets are unpacked in more than one way."""
    return next((root / name for name in names if (root / name).exists()), None)


def read_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(where, words) of each line that is not blank; ``where`` names file and line for messages.

    Raises:
        TrainingError: not a readable text file, or an endless line.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            number = 0
            while line := file.readline(_LONGEST):
                number += 1
                if len(line) == _LONGEST:
                    raise TrainingError(
                        f"{path}, line {number}: longer than {_LONGEST} characters; not such a list"
                    )
                if words := line.split():
                    yield f"{path}, line {number}", words
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: cannot be read as text ({error}); unpack the set anew") from error


def numbers(words: Sequence[str], where: str) -> list[float]:
    """Finite numbers from their text.

    Raises:
        TrainingError: one of them is none.
    """
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise TrainingError(
            f"{where}: a number is expected ({error}); correct the line or drop it"
        ) from error
    if not all(map(isfinite, values)):
        raise TrainingError(f"{where}: {' '.join(words[:8])} ... is not finite; correct the line or drop it")
    return values


def whole_number(word: str, allowed: range, where: str) -> int:
    """A whole number in a range, from its text, which may be written as ``3.0000000e+00``.

    Raises:
        TrainingError: it is none.
    """
    (value,) = numbers([word], where)
    if value % 1 or int(value) not in allowed:
        raise TrainingError(f"{where}: {word} is none of {allowed.start} ... {allowed.stop - 1}; correct it")
    return int(value)
