"""What every collection of training pictures can do, whatever format it is stored in."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from torch import Tensor

from facekit.image import ImageSource

__all__ = ["MAX_BYTES", "NamedBytes", "Source", "pictures_digest"]

MAX_BYTES = 1 << 26
"""The largest encoded picture that is read out of an archive, 64 MiB; whatever claims more is broken."""


class Source(Protocol):
    """Pictures of people, a row each.

    Worker processes get a copy, for which the tables are tensors: those are shared, not copied.

    Attributes:
        people: names, sorted, no two alike.
        person: (n,) int64, whose picture each row is, as an index of ``people``.
        known: (n,) bool; where not, the data do not say whose it is: it is of a person by itself, whose name
            is made up.
        heldout: (n,) bool, kept aside for validation; None where the data names no split.
        root: the folder in which all of it lies.
    """

    @property
    def root(self) -> Path: ...
    @property
    def people(self) -> Sequence[str]: ...
    @property
    def person(self) -> Tensor: ...
    @property
    def known(self) -> Tensor: ...
    @property
    def heldout(self) -> Tensor | None: ...

    def read(self, row: int) -> ImageSource:
        """What :func:`~facekit.image.load_image` decodes.

        Raises:
            ImageError: this one cannot be read.
        """

    def name(self, row: int) -> str:
        """What lists of pictures call it: its path from ``root`` on, or its archive and its place therein."""

    def file(self, row: int) -> Path:
        """The file in which it lies."""


def pictures_digest(source: Source, rows: Iterable[int], *, times: bool = True) -> str:
    """Stands for pictures in their order.

    Args:
        source: where they lie.
        rows: which of them. They count by their names, and by the size of the files they lie in.
        times: whether the files' times count, too: what was made of a picture is soon made anew.
    """
    digest = hashlib.sha256(os.fsencode(source.root.resolve()))
    last: Path | None = None
    for row in rows:
        digest.update(b"\0" + source.name(row).encode(errors="surrogateescape"))
        file = source.file(row)
        if file != last:  # an archive is looked at once
            last = file
            with suppress(OSError):  # of one that is missing, whoever reads it tells
                about = file.stat()
                digest.update(b"\0%d %d" % (about.st_size, about.st_mtime_ns if times else 0))
    return digest.hexdigest()


class NamedBytes(io.BytesIO):
    """An encoded picture that knows what messages call it."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name
