"""Lists of pairs to verify, LFW's, a CSV or insightface's, read together with where their pictures are."""

from __future__ import annotations

import csv
import io
import os
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facekit.errors import EvaluationError

__all__ = ["Pair", "identities", "load_bin", "load_pairs"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_SAME = {"1": True, "true": True, "0": False, "false": False}


class Pair(NamedTuple):
    """Two pictures, and what the protocol says about them.

    Attributes:
        a: one picture.
        b: the other.
        same: whether they show one person.
        fold: the number of the fold; None where there are none.
        people: the names of the two people; None where the protocol has no names.
    """

    a: Path
    b: Path
    same: bool
    fold: int | None
    people: tuple[str, str] | None = None


def identities(pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """A number for each of the people in the pairs, (n, 2).

    Without names, pictures that pairs of one person connect are of one person, and all others of others.
    """
    if all(pair.people is not None for pair in pairs):
        names = np.array([pair.people for pair in pairs]).reshape(-1, 2)
        return np.unique(names, return_inverse=True)[1].reshape(-1, 2)
    first: dict[Path, Path] = {}  # picture -> another one of the same person, and so on to the first

    def origin(path: Path) -> Path:
        while (before := first.setdefault(path, path)) != path:
            first[path] = first[before]
            path = before
        return path

    for pair in pairs:
        if pair.same:
            first[origin(pair.a)] = origin(pair.b)
    numbers: dict[Path, int] = {}
    return np.array(
        [[numbers.setdefault(origin(side), len(numbers)) for side in pair[:2]] for pair in pairs]
    ).reshape(-1, 2)


def load_pairs(file: str | Path, folder: str | Path) -> list[Pair]:
    """Reads the pairs of a verification protocol, and finds their pictures.

    A file that ends in ``.csv`` has the columns ``a,b,same``, two paths inside the folder and 1 or 0 (true
    or false); perhaps also ``fold``, a number, and ``person_a,person_b``, the people's names. Any other is
    in LFW's format (``pairs.txt``): a line
    with the number of folds and of pairs of each kind in a fold, or with the latter alone; then, fold
    by fold, the pairs ``name i j`` of one person and the pairs ``name i name j`` of two. The pictures
    are ``name/name_0001.jpg`` or ``name_0001.jpg`` in the folder (also .jpeg, .png, .webp).

    Raises:
        EvaluationError: with the line, where the file is not so, a picture is not there, or a path
            leads out of the folder.
    """
    reader = _PairsFile(Path(file), Path(folder))
    return list(reader.from_csv() if reader.file.suffix.lower() == ".csv" else reader.from_lfw())


def load_bin(file: str | Path) -> tuple[list[Pair], dict[Path, bytes]]:
    """Reads a verification set of insightface, ``lfw.bin`` and its like, without running what it may contain.

    It is a pickle of the pictures, two a pair, as the bytes of JPEG or PNG files of aligned crops, and of
    whether each pair is of one person.

    Returns:
        The pairs, and the pictures that their paths, such as ``lfw.bin/000042``, stand for; a picture that
        occurs several times is one.

    Raises:
        EvaluationError: the file cannot be read, is no such pickle, wants to import something, or to take far
            more memory than its size.
    """
    path = Path(file)
    try:
        with path.open("rb") as stream:
            pictures, same = _PlainUnpickler(stream, path.stat().st_size).load()
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be read ({error.strerror or error})", path=str(path)
        ) from error
    except Exception as error:  # hostile bytes raise anything: KeyError, EOFError, UnicodeDecodeError, ...
        why = str(error) if isinstance(error, pickle.UnpicklingError) else type(error).__name__
        raise EvaluationError(
            f"{path}: not a verification set of insightface ({why})", path=str(path)
        ) from None
    plain = isinstance(pictures, list) and isinstance(same, list)
    if not plain or not all(isinstance(picture, bytes) for picture in pictures):
        raise EvaluationError(f"{path}: holds no list of the bytes of pictures", path=str(path))
    if len(pictures) != 2 * len(same) or not all(kind in (0, 1) for kind in same):
        raise EvaluationError(
            f"{path}: {len(pictures)} pictures and {len(same)} kinds: two pictures a pair are needed, and"
            " True or False",
            path=str(path),
        )
    places: dict[bytes, Path] = {}
    at = [places.setdefault(picture, path / f"{place:06d}") for place, picture in enumerate(pictures)]
    pairs = [Pair(at[2 * i], at[2 * i + 1], bool(kind), None) for i, kind in enumerate(same)]
    return pairs, {place: picture for picture, place in places.items()}


class _PlainUnpickler(pickle._Unpickler):
    """Lists, numbers and bytes; nothing is imported or called but what old pickles write bytes with.

    It is the one in Python: that in C makes room for all things before the one that it is to remember, so
    that ten bytes would take 32 GiB.

    Args:
        stream: the file.
        size: its bytes: what it holds as text is no more, however often it is written.
    """

    def __init__(self, stream: IO[bytes], size: int) -> None:
        super().__init__(stream, encoding="bytes")
        self._left = size

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._latin1
        raise pickle.UnpicklingError(f"refused: to open it {module}.{name} would have to be imported and run")

    def _latin1(self, text: str, encoding: str) -> bytes:
        self._left -= len(text)
        if self._left < 0:
            raise pickle.UnpicklingError("unpacks to more than the file has")
        return text.encode("latin1")


class _PairsFile:
    """A file of pairs and the folder of their pictures; its errors name the line."""

    def __init__(self, file: Path, folder: Path) -> None:
        self.file, self.folder, self.root = file, folder, folder.resolve()
        if not folder.is_dir():
            raise EvaluationError(
                f"{folder} is not a folder: give the one with the pictures", path=str(folder)
            )
        try:
            self.text = file.read_bytes().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise EvaluationError(f"{file} cannot be read as text: {error}", path=str(file)) from error

    def from_lfw(self) -> Iterator[Pair]:
        lines = self.text.split("\n")  # and nowhere else: names may hold what splitlines takes for an end
        rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
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
            people = words[0], words[0 if same else 2]
            a, b = (self.lfw_picture(number, *at) for at in zip(people, (words[1], words[-1]), strict=True))
            yield Pair(a, b, same, None if folds is None else fold, people)

    def lfw_picture(self, number: int, name: str, index: str) -> Path:
        stem = f"{name}_{int(index):04d}"
        return self.picture(
            number, [f"{at}{suffix}" for at in (f"{name}/{stem}", stem) for suffix in _SUFFIXES]
        )

    def from_csv(self) -> Iterator[Pair]:
        rows = csv.DictReader(io.StringIO(self.text, newline=""), skipinitialspace=True)
        try:
            yield from self.from_rows(rows)
        except csv.Error as error:
            raise self.error(rows.line_num, f"cannot be read as CSV ({error})") from error

    def from_rows(self, rows: csv.DictReader[str]) -> Iterator[Pair]:
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
            yield Pair(a, b, same, None if fold is None else int(fold), self.people(number, row, same))

    def people(self, number: int, row: dict[str, str], same: bool) -> tuple[str, str] | None:
        """The names of a row of the CSV, where it has such columns."""
        if not {"person_a", "person_b"} & set(row):
            return None
        a, b = ((row.get(f"person_{side}") or "").strip() for side in "ab")
        if not a or not b or (a == b) != same:
            said = "one person" if same else "two"
            raise self.error(number, f"has person_a = {a!r}, person_b = {b!r}: name the people, {said}")
        return a, b

    def picture(self, number: int, names: list[str]) -> Path:
        """The first of these files that exists in the folder."""
        for path in (self.folder / name for name in names):
            if os.path.isfile(path):  # False also for what cannot be a name
                if not path.resolve().is_relative_to(self.root):
                    raise self.error(number, f"leads out of {self.folder}, to {path}")
                return path
        raise self.error(number, f"names {names[0]!r}, which is not in {self.folder}")

    def error(self, number: int, what: str) -> EvaluationError:
        return EvaluationError(f"{self.file}: line {number} {what}", path=str(self.file))


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 10
