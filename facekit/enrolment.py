"""Whose face each picture shows, by folder, file name, CSV or mapping, and what has changed since."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from facekit.errors import FacekitError, MultipleFacesError, NoFaceError, SettingError
from facekit.image import ImageSource, content_digest, find_images, source_name

__all__ = ["Enrolment", "Key", "People", "Sample", "Skipped", "changes", "list_enrolments"]

People: TypeAlias = "str | os.PathLike[str] | Mapping[str, ImageSource | Sequence[ImageSource]]"
"""A folder, a CSV file, or pictures by person; see :func:`list_enrolments`."""

Key: TypeAlias = tuple[str, str]
"""Person and source."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One face of a person.

    Attributes:
        person: whose face it is.
        source: where it came from: the path of a picture, relative to the folder or as written in the CSV, or
            what kind of object it is, with a digest of its content.
        stamp: what the file looked like from outside when it was read, so that a change shows; empty for what
            is no file and for faces that were added by hand.
    """

    person: str
    source: str = ""
    stamp: str = ""

    @property
    def key(self) -> Key:
        return self.person, self.source


@dataclass(frozen=True, slots=True)
class Skipped:
    """A picture from which nobody was enrolled.

    Attributes:
        person: whose face it should have shown.
        source: as in :class:`Sample`.
        reason: one line.
        kind: the name of the error, such as ``"NoFaceError"``.
        stamp: as in :class:`Sample`; empty if it is worth another try.
    """

    person: str
    source: str
    reason: str
    kind: str
    stamp: str = ""

    @property
    def key(self) -> Key:
        return self.person, self.source


class Enrolment(NamedTuple):
    """A picture that is to be read, and the sample that it should give."""

    sample: Sample
    image: ImageSource

    def skipped(self, error: FacekitError) -> Skipped:
        """The picture in vain. What cannot be read may be readable the next time, and is tried again."""
        lasting = isinstance(error, (NoFaceError, MultipleFacesError))
        stamp = self.sample.stamp if lasting else ""
        return Skipped(self.sample.person, self.sample.source, str(error), type(error).__name__, stamp)


def list_enrolments(people: People) -> list[Enrolment]:
    """Lists the pictures and whose they are. Reads no files of them.

    Args:
        people: one of

            * a folder: the pictures in a folder inside it, at any depth, are of the person whose name that
              folder bears; a loose picture is of a person whose name is the file's without its suffix;
            * a file ``*.csv``: columns path and person, in this order or under these headings; paths are
              relative to the file's folder;
            * a mapping of person -> picture, folder, or list of these.

    Raises:
        SettingError: none of these, a CSV without rows, a row of it that is not one, or a name in the mapping
            that is no text.
        ImageError: a folder that is missing or holds no pictures.
    """
    if isinstance(people, Mapping):
        for person in people:
            if not isinstance(person, str) or not person:
                raise SettingError(f"people: {person!r} is no name; give a text that is not empty")
        return [item for person, images in people.items() for item in _of_person(person, images)]
    if not isinstance(people, (str, os.PathLike)):
        raise SettingError(f"people: a folder, CSV or mapping expected; got {type(people).__name__}")
    path = Path(people)
    if path.suffix.lower() == ".csv" and os.path.isfile(path):
        return _from_csv(path)
    return [_in_folder(image, path) for image in find_images(people)]


def changes(
    found: Sequence[Enrolment], stored: Sequence[Sample | Skipped]
) -> tuple[list[Enrolment], set[Key]]:
    """What is to be read because it is new or has changed, and the keys of what has vanished.

    Samples without a stamp do not vanish: nobody said that they are to be found.
    """
    stamps = {item.key: item.stamp for item in stored}
    known = [item.sample.stamp != "" and item.sample.stamp == stamps.get(item.sample.key) for item in found]
    fresh = [item for item, is_known in zip(found, known, strict=True) if not is_known]
    vanishing = {item.key for item in stored if item.stamp or isinstance(item, Skipped)}
    return fresh, vanishing - {item.sample.key for item in found}


def _of_person(person: str, images: ImageSource | Sequence[ImageSource]) -> Iterator[Enrolment]:
    several: Sequence[Any] = images if isinstance(images, (list, tuple)) else [images]
    for image in several:
        is_path = isinstance(image, (str, os.PathLike))
        for found in find_images(image) if is_path and os.path.isdir(image) else [image]:
            yield _enrolment(person, _source(found), found)


def _source(image: ImageSource) -> str:
    """Its name; what is no file bears its content's, or the next picture of its size would replace it."""
    name = source_name(image)
    digest = content_digest(image) if name.startswith("<") and name.endswith(">") else ""
    return f"{name[:-1]} {digest}>" if digest else name


def _in_folder(image: Path, folder: Path) -> Enrolment:
    inside = image.relative_to(folder)
    person = inside.parts[0] if len(inside.parts) > 1 else inside.stem
    return _enrolment(person, inside.as_posix(), image)


def _from_csv(path: Path) -> list[Enrolment]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingError(
            f"{path}: not readable as CSV ({error}); save it as UTF-8", path=str(path)
        ) from error
    headings = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    columns = [0, 1]
    if "path" in headings and "person" in headings:
        columns = [headings.index("path"), headings.index("person")]
        del rows[0]
    if not rows:
        raise SettingError(f"{path}: lists no pictures; give a row of path,person for each", path=str(path))
    pairs = dict.fromkeys(_cells(path, number, row, columns) for number, row in rows)  # each once
    return [_enrolment(person, name, path.parent / name) for name, person in pairs]


def _cells(path: Path, number: int, row: list[str], columns: list[int]) -> tuple[str, str]:
    cells = [row[column].strip() if column < len(row) else "" for column in columns]
    if not all(cells):
        other = any(mark in cell for cell in row for mark in ";\t")
        remedy = "separate the columns by a comma" if len(row) == 1 and other else "complete it"
        raise SettingError(f"{path}: row {number} is not path,person; {remedy}", path=str(path))
    return cells[0], cells[1]


def _enrolment(person: str, source: str, image: Any) -> Enrolment:
    stamp = ""
    if isinstance(image, (str, os.PathLike)):
        with suppress(OSError, ValueError):  # reading the picture will say what is wrong
            found = Path(image).stat()
            stamp = f"{found.st_size}-{found.st_mtime_ns}"
    return Enrolment(Sample(person, source, stamp), image)
