"""Pictures that are files by themselves -> one file of them: RecordIO, or a shard in WebDataset's layout."""

from __future__ import annotations

import codecs
import csv
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from facekit.errors import TrainingError
from facekit.train.exclude import reasons_of_exclusion
from facekit.train.sources import open_csv, open_folder, write_records, write_shard
from facekit.train.sources.files import FileSource
from facekit.train.sources.source import MAX_BYTES
from facekit.wholefile import replacing

__all__ = ["Conversion", "convert_pictures"]

_COLUMNS = ("number", "person", "split", "path")


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was written.

    Attributes:
        names: the CSV beside the file: number, person, split and path of each picture, in the file's order.
        pictures: how many there are.
        people: of how many.
        skipped: why others are not in it, a line each.
        warning: a line about rows of the exclusions that name no picture; empty where all do.
    """

    names: Path
    pictures: int
    people: int
    skipped: list[str]
    warning: str


def convert_pictures(
    people: Path, out: Path, *, images: Path | None = None, exclude: Path | None = None
) -> Conversion:
    """Copies the files of pictures, byte for byte, into one that training reads.

    Args:
        people: a folder with a folder a person, or a CSV of path, identity and perhaps split.
        out: ``.rec``, beside which ``.idx`` is written, or ``.tar``; and ``.csv`` with the names.
        images: where the paths of the CSV start, if not beside it.
        exclude: CSV of pictures to leave out, see
            :func:`~facekit.train.exclude.reasons_of_exclusion`.

    Raises:
        ImageError: no such folder, or no pictures in it.
        TrainingError: data that cannot be understood, ``images`` for what is no CSV, no picture that can be
            read, or a place that cannot be written, as where a ``.csv`` that is no list of names would be
            replaced.
    """
    if out.suffix not in (".rec", ".tar"):
        raise TrainingError(f"{out}: must end with .rec or .tar, which say what to write")
    names = out.with_suffix(".csv")
    _check_names(names, people, exclude)
    if images is not None and people.is_dir():
        raise TrainingError(f"{people}: is no CSV, whose paths alone start at images={images}; leave it out")
    source = open_folder(people) if people.is_dir() else open_csv(people, images)
    reasons, warning = [""] * len(source.person), ""
    if exclude is not None:
        reasons, warning = reasons_of_exclusion(source, exclude)
    kept = torch.tensor([not reason for reason in reasons], dtype=torch.bool)
    rows = torch.argsort(source.person, stable=True)
    rows = rows[kept[rows]]
    if not len(rows):
        raise TrainingError(
            f"{exclude}: leaves out all {len(kept):,} pictures of {people}; nothing is written"
        )
    skipped: list[str] = []
    written: set[int] = set()
    try:
        with replacing(names) as file:
            table = codecs.getwriter("utf-8")(file, "surrogateescape")
            pictures = _pictures(source, rows.tolist(), table, skipped, written)
            if out.suffix == ".rec":
                write_records(out, ((person, content) for person, _, content in _some(pictures, people)))
            else:
                write_shard(out, _some(pictures, people))
    except OSError as error:
        raise TrainingError(
            f"{names}: cannot be written ({error.strerror or error}); free space or give another place"
        ) from error
    return Conversion(names, len(rows) - len(skipped), len(written), skipped, warning)


def _check_names(names: Path, people: Path, exclude: Path | None) -> None:
    """Makes sure, before the work begins, that the names replace nothing but those of an earlier call.

    Raises:
        TrainingError: something else is there.
    """
    given = [path.resolve() for path in (people, exclude) if path is not None]
    ours = False
    with suppress(OSError), names.open("rb") as file:
        ours = file.readline(100).rstrip() == ",".join(_COLUMNS).encode()
    if os.path.lexists(names) and (not ours or names.resolve() in given):
        raise TrainingError(f"{names}: the list of names would replace this; give the result another name")


def _pictures(
    source: FileSource, rows: list[int], table: codecs.StreamWriter, skipped: list[str], written: set[int]
) -> Iterator[tuple[int, str, bytes]]:
    """(person, suffix, content) of each file that can be read; says in the table whose it is."""
    writer: Any = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in tqdm(rows, "copying", disable=None):
        path, person = source.read(row), int(source.person[row])
        try:
            size = path.stat().st_size
            if not 0 < size <= MAX_BYTES - 32:
                raise OSError(f"{size} bytes are no picture")
            content = path.read_bytes()
        except OSError as error:
            skipped.append(f"{path}: {error.strerror or error}; replace the file or leave it out")
            continue
        split = "" if source.heldout is None else ("train", "heldout")[int(source.heldout[row])]
        writer.writerow((person, source.people[person], split, source.name(row)))
        written.add(person)
        yield person, path.suffix.lower(), content


def _some(pictures: Iterator[tuple[int, str, bytes]], people: Path) -> Iterator[tuple[int, str, bytes]]:
    """The pictures.

    Raises:
        TrainingError: there are none.
    """
    first = next(pictures, None)
    if first is None:
        raise TrainingError(f"{people}: none of the pictures can be read; nothing is written")
    yield first
    yield from pictures
