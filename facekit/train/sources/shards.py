"""Tar shards in WebDataset's layout: ``key.jpg`` and, beside it, ``key.cls`` with the number of the person.

The files of one picture follow each other and share their name up to the first dot behind the last slash
(webdataset, tariterators.py). The headers are read here rather than by ``tarfile``, because there are
millions of them, and because a damaged one must neither loop nor fill the memory; ustar, GNU's long names
and pax's ``path`` and ``size`` are understood (POSIX.1-2017, pax, "ustar Interchange Format").
"""

from __future__ import annotations

import io
import logging
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from facekit.errors import ImageError, TrainingError
from facekit.image import IMAGE_SUFFIXES
from facekit.train.sources.source import MAX_BYTES, NamedBytes
from facekit.wholefile import replacing

__all__ = ["ShardSource", "open_shards", "write_shard"]

_log = logging.getLogger(__name__)

_BLOCK = 512
_MAX_NAME = 1 << 16  # bytes of a long name, or of the pax records of one file
_SAMPLE = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")
_PAX = re.compile(rb"\d+ (path|size)=([^\n]*)\n")


@dataclass(frozen=True, slots=True, eq=False)
class ShardSource:
    """The pictures of several tar files, read where they lie.

    Attributes:
        shards: the files.
        people: numbers as text, in the order of the numbers; those below 0 are of pictures that come without.
        person: (n,) int64, index of ``people``.
        known: (n,) bool, whether a number came with the picture.
        places: (n, 3) int64: shard, where the picture starts in it, its length.
        heldout: always None.
    """

    shards: Sequence[Path]
    people: Sequence[str]
    person: Tensor
    known: Tensor
    places: Tensor
    heldout: None = None

    @property
    def root(self) -> Path:
        return self.shards[0].parent

    def file(self, row: int) -> Path:
        """The shard of a row."""
        return self.shards[int(self.places[row, 0])]

    def name(self, row: int) -> str:
        """``0.tar, byte 512``: the file, and where the picture starts in it."""
        shard, at, _ = self.places[row].tolist()
        return f"{self.shards[shard].name}, byte {at}"

    def read(self, row: int) -> NamedBytes:
        """The encoded picture of a row.

        Raises:
            ImageError: the shard cannot be read there.
        """
        shard, at, size = self.places[row].tolist()
        name = f"{self.shards[shard]}, byte {at}"
        try:
            with self.shards[shard].open("rb", buffering=0) as file:
                file.seek(at)
                content = file.read(size)
        except OSError as error:
            raise ImageError(f"{name}: {error}; copy the file anew", path=name) from error
        if len(content) < size:
            raise ImageError(f"{name}: cut short; copy the file anew", path=name)
        return NamedBytes(content, name)


def open_shards(shards: Sequence[Path], *, labelled: bool = True) -> ShardSource:
    """Find the pictures of the shards and whose they are, by the headers of all files in them.

    Args:
        shards: the files.
        labelled: if not, the person's number may be missing: each such picture is a person by itself.

    Raises:
        TrainingError: not a plain tar file, damaged or cut short, or a picture without a person's number.
    """
    places: list[tuple[int, int, int]] = []
    labels: list[int] = []
    for number, shard in enumerate(shards):
        try:
            with shard.open("rb", buffering=0) as file:
                for label, at, size in _samples(file, labelled):
                    labels.append(-1 - len(labels) if label is None else label)
                    places.append((number, at, size))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{shard}: {error}; make or copy it anew, or leave it out") from error
    found = np.array(labels, dtype=np.int64)
    numbers, person = np.unique(found, return_inverse=True)
    table = torch.tensor(places, dtype=torch.int64).view(-1, 3)
    known = torch.from_numpy(found >= 0)
    return ShardSource(tuple(shards), tuple(map(str, numbers)), torch.from_numpy(person), known, table)


def write_shard(path: Path, pictures: Iterable[tuple[int, str, bytes]]) -> None:
    """Write a tar file in WebDataset's layout; in the end it is there whole, or not at all.

    Args:
        path: of the ``.tar`` file.
        pictures: (person, suffix such as ``.jpg``, encoded picture).

    Raises:
        TrainingError: the file cannot be written.
    """
    try:
        with (
            replacing(path) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for number, (person, suffix, content) in enumerate(pictures):
                for kind, data in ((suffix, content), (".cls", b"%d" % person)):
                    member = tarfile.TarInfo(f"{number:09d}{kind}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written ({error}); free space or give another place"
        ) from error


def _samples(file: IO[bytes], labelled: bool) -> Iterator[tuple[int | None, int, int]]:
    """(person, start, length) of each picture; where nobody has to be named, the person may be None."""
    current, label, picture = "", None, None
    for name, at, size in _files(file):
        split = _SAMPLE.fullmatch(name)
        if split is None:
            continue
        key, suffix = split[1], split[2].lower()
        if key != current:
            if picture is not None:
                yield _sample(current, label, picture, labelled)
            current, label, picture = key, None, None
        if suffix == "cls":
            label = _label(_read(file, at, min(size, 32)), name)
        elif f".{suffix}".endswith(IMAGE_SUFFIXES):
            if picture is not None:
                raise ValueError(f"{key!r} has two pictures")
            if size > MAX_BYTES:
                raise ValueError(f"{name!r} has {size} bytes, more than {MAX_BYTES}")
            picture = at, size
    if picture is not None:
        yield _sample(current, label, picture, labelled)


def _sample(
    key: str, label: int | None, picture: tuple[int, int], labelled: bool
) -> tuple[int | None, int, int]:
    if label is None and labelled:
        raise ValueError(f"{key!r} has a picture and no .cls beside it that says who it is")
    return label, *picture


def _label(text: bytes, name: str) -> int:
    if not re.fullmatch(rb"\s*\d{1,18}\s*", text):
        raise ValueError(f"{name!r} holds {text!r}, not a person's number")
    return int(text)


def _files(file: IO[bytes]) -> Iterator[tuple[str, int, int]]:
    """(name, start, length) of each regular file in an archive."""
    end = os.fstat(file.fileno()).st_size
    at = 0
    told: dict[bytes, bytes] = {}  # what an extended header says of the next file
    while at != end:
        head = _read(file, at, _BLOCK)
        if not any(head):
            return
        if int(head[148:156].strip(b" \0") or b"0", 8) != sum(head) - sum(head[148:156]) + 8 * 32:
            raise ValueError(f"no header of a tar file at byte {at}; compressed ones must be unpacked")
        kind, size, start = head[156:157], _size(head[124:136]), at + _BLOCK
        if kind in b"Lx":
            if not 0 <= size <= _MAX_NAME:
                raise ValueError(f"a name of {size} bytes at byte {at}")
            text = _read(file, start, size)
            told |= {b"path": text.rstrip(b"\0")} if kind == b"L" else dict(_PAX.findall(text))
        else:
            size = int(told[b"size"]) if b"size" in told else size
            if not 0 <= size <= end - start:
                raise ValueError(f"cut short, or a wrong length ({size}), at byte {start}")
            if kind in b"0\0":
                yield _name(head, told), start, size
            told = {}
        at = start + size + -size % _BLOCK
    _log.warning("%s: ends without tar's end mark; it may have been longer", file.name)


def _read(file: IO[bytes], at: int, size: int) -> bytes:
    file.seek(at)
    content = file.read(size)
    if len(content) < size:
        raise ValueError("cut short")
    return content


def _size(field: bytes) -> int:
    """Octal text, or, with the highest bit set, a number of big-endian bytes."""
    return int.from_bytes(field[1:], "big") if field[0] == 0x80 else int(field.strip(b" \0") or b"0", 8)


def _name(head: bytes, told: dict[bytes, bytes]) -> str:
    name, prefix = (part.split(b"\0")[0] for part in (head[:100], head[345:500]))
    if prefix and head[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    return told.get(b"path", name).decode("utf-8", "replace")
