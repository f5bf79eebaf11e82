"""Pictures that are files by themselves: a folder of people, or a CSV that says who is where."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facekit.errors import TrainingError
from facekit.image import find_images
from facekit.train.listed import require_columns

__all__ = ["FileSource", "open_csv", "open_folder"]


@dataclass(frozen=True, slots=True, eq=False)
class FileSource:
    """One picture a file.

    Attributes:
        root: folder from which pictures are named.
        people: names, sorted.
        person: (n,) int64, index of ``people``.
        known: (n,) bool, whether the folder or the CSV says whose it is.
        heldout: (n,) bool; None where no split is named.
        names: all paths one after another, uint8: millions of objects would not fit beside the workers.
        ends: (n,) int64, where each path ends in ``names``.
    """

    root: Path
    people: Sequence[str]
    person: Tensor
    known: Tensor
    heldout: Tensor | None
    names: Tensor
    ends: Tensor

    def read(self, row: int) -> Path:
        """The path of a row."""
        return self.file(row)

    def file(self, row: int) -> Path:
        """The path of a row."""
        start = int(self.ends[row - 1]) if row else 0
        return Path(os.fsdecode(self.names[start : self.ends[row]].numpy().tobytes()))

    def name(self, row: int) -> str:
        """The path of a row, from ``root`` on."""
        return self.file(row).relative_to(self.root).as_posix()


def open_folder(folder: Path, *, labelled: bool = True) -> FileSource:
    """List a folder with one folder a person, whose pictures may lie in folders inside it.

    Args:
        folder: which.
        labelled: if not, pictures may lie outside any person's folder: each is a person by itself.

    Raises:
        ImageError: no such folder, or no pictures in it.
        TrainingError: pictures outside any person's folder.
    """
    paths = find_images(folder)
    if labelled and any(path.parent == folder for path in paths):
        raise TrainingError(f"{folder}: pictures outside any person's folder; make one folder a person")
    known = [path.parent != folder for path in paths]
    return _source(folder, [(path, path.relative_to(folder).parts[0], "") for path in paths], known)


def open_csv(table: Path, images: Path | None = None, *, labelled: bool = True) -> FileSource:
    """Read a CSV with the columns path, identity and perhaps split (train or heldout).

    Args:
        table: the file.
        images: where its paths start, if not beside it.
        labelled: if not, the identity may be missing: each such picture is a person by itself.

    Raises:
        TrainingError: not such a file, or a row that cannot be understood or leads elsewhere.
    """
    root = (images or table.parent).resolve()
    rows, known = [], []
    try:
        with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            wanted = ("path", "identity") if labelled else ("path",)
            require_columns(table, wanted, reader.fieldnames)
            for row in reader:
                where = f"{table}, line {reader.line_num}"
                if not row["path"]:
                    raise TrainingError(f"{where}: says no path; add it or drop the line")
                path = Path(os.path.realpath(root / row["path"]))
                if not path.is_relative_to(root):
                    raise TrainingError(f"{where}: {row['path']!r} leads out of {root}")
                identity = (row.get("identity") or "").strip()
                if labelled and not identity:
                    raise TrainingError(f"{where}: says no identity; add it or drop the line")
                split = (row.get("split") or "").strip()
                if split not in ("", "train", "heldout"):
                    raise TrainingError(f"{where}: split {split!r}; give train or heldout")
                rows.append((path, identity or row["path"], split))
                known.append(bool(identity))
    except (OSError, ValueError, csv.Error) as error:
        raise TrainingError(f"{table}: not a readable CSV file or folder ({error})") from error
    return _source(root, rows, known)


def _source(root: Path, rows: Iterable[tuple[Path, str, str]], known: Sequence[bool]) -> FileSource:
    names, identities, splits = [], [], []
    for path, identity, split in rows:
        names.append(os.fsencode(path))
        identities.append(identity)
        splits.append(split)
    people = sorted(set(identities))
    number = {name: index for index, name in enumerate(people)}
    return FileSource(
        root,
        people,
        torch.tensor([number[identity] for identity in identities], dtype=torch.int64),
        torch.tensor(known, dtype=torch.bool),
        torch.tensor([split == "heldout" for split in splits]) if any(splits) else None,
        torch.from_numpy(np.frombuffer(bytearray(b"".join(names)), np.uint8)),
        torch.from_numpy(np.cumsum([len(name) for name in names], dtype=np.int64)),
    )
