"""Lists of pairs to verify, LFW's or a CSV, read together with where their pictures are."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from facekit.errors import EvaluationError

__all__ = ["Pair", "load_pairs"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_SAME = {"1": True, "true": True, "0": False, "false": False}


class Pair(NamedTuple):
    """Two pictures, whether they show one person, and the fold of the protocol (None: it has none)."""

    a: Path
    b: Path
    same: bool
    fold: int | None


def load_pairs(file: str | Path, folder: str | Path) -> list[Pair]:
    """Reads the pairs of a verification protocol, and finds their pictures.

    A file that ends in ``.csv`` has the columns ``a,b,same`` and perhaps ``fold``: two paths inside the
    folder, 1 or 0 (true or false), and a number. Any other is in LFW's format (``pairs.txt``): a line
    with the number of folds and of pairs of each kind in a fold, or with the latter alone; then, fold
    by fold, the pairs ``name i j`` of one person and the pairs ``name i name j`` of two. The pictures
    are ``name/name_0001.jpg`` or ``name_0001.jpg`` in the folder (also .jpeg, .png, .webp).

    Raises:
        EvaluationError: with the line, where the file is not so, a picture is not there, or a path
            leads out of the folder.
    """
    reader = _PairsFile(Path(file), Path(folder))
    return list(reader.from_csv() if reader.file.suffix.lower() == ".csv" else reader.from_lfw())


class _PairsFile:
    """A file of pairs and the folder of their pictures; its errors name the line."""

    def __init__(self, file: Path, folder: Path) -> None:
        self.file, self.folder, self.root = file, folder, folder.resolve()
        if not folder.is_dir():
            raise EvaluationError(
                f"{folder} is not a folder: give the one with the pictures", path=str(folder)
            )
        try:
            self.lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise EvaluationError(f"{file} cannot be read as text: {error}", path=str(file)) from error

    def from_lfw(self) -> Iterator[Pair]:
        rows = [(number, line.split()) for number, line in enumerate(self.lines, 1) if line.strip()]
        header = rows[0][1] if rows else []
        if len(header) not in (1, 2) or not all(_is_count(word) for word in header):
            raise self.error(1, "is not LFW's header: the number of folds, and of pairs of each kind in one")
        each, folds = int(header[-1]), int(header[0]) if len(header) == 2 else None
        if len(rows) - 1 != 2 * each * (folds or 1):
            raise self.error(1, f"promises {2 * each * (folds or 1)} pairs, and {len(rows) - 1} follow")
        for place, (number, words) in enumerate(rows[1:]):
            fold, within = divmod(place, 2 * each)
            same = within < each
            if len(words) != (3 if same else 4) or not all(_is_count(word) for word in (words[1], words[-1])):
                raise self.error(number, f"is not a pair {'name i j' if same else 'name i name j'}")
            a, b = (
                self.lfw_picture(number, *words[:2]),
                self.lfw_picture(number, words[0 if same else 2], words[-1]),
            )
            yield Pair(a, b, same, None if folds is None else fold)

    def lfw_picture(self, number: int, name: str, index: str) -> Path:
        stem = f"{name}_{int(index):04d}"
        return self.picture(
            number, [f"{at}{suffix}" for at in (f"{name}/{stem}", stem) for suffix in _SUFFIXES]
        )

    def from_csv(self) -> Iterator[Pair]:
        rows = csv.DictReader(self.lines, skipinitialspace=True)
        if not {"a", "b", "same"} <= set(rows.fieldnames or []):
            raise self.error(1, "does not name the columns a, b and same")
        for row in rows:
            number, fold = rows.line_num, row.get("fold")
            same = _SAME.get((row["same"] or "").strip().lower())
            if same is None:
                raise self.error(number, f"has same = {row['same']!r}: give 1 or 0")
            if "fold" in row and not _is_count(fold or ""):
                raise self.error(number, f"has fold = {fold!r}: give a number, or no such column")
            a, b = (self.picture(number, [row[side] or ""]) for side in "ab")
            yield Pair(a, b, same, None if fold is None else int(fold))

    def picture(self, number: int, names: list[str]) -> Path:
        """The first of these files that exists in the folder."""
        for path in (self.folder / name for name in names):
            if path.is_file():
                if not path.resolve().is_relative_to(self.root):
                    raise self.error(number, f"leads out of {self.folder}, to {path}")
                return path
        raise self.error(number, f"names {names[0]!r}, which is not in {self.folder}")

    def error(self, number: int, what: str) -> EvaluationError:
        return EvaluationError(f"{self.file}: line {number} {what}", path=str(self.file))


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 10
