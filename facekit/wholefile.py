"""Files that are written whole: whoever opens one finds the old content or the new, never a part."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

__all__ = ["flush_folder", "replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str], *, private: bool = False) -> Iterator[IO[bytes]]:
    """A new binary file that takes the place of ``path`` at the end of the block, or vanishes with an error.

    It is written beside its place, flushed and renamed; a file that it replaces keeps its access rights, and
    whoever has that open or mapped keeps the old content. What a killed process leaves is a hidden
    ``.<name>.<random>.part``.

    Args:
        path: where to; its folder must exist. Links are followed.
        private: whether a new file is for its owner alone, as what shows faces should be.

    Raises:
        OSError: it cannot be written.
        ValueError: no name of a file, such as one with a NUL in it.
    """
    place = Path(os.path.realpath(path))
    part = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb", opener=_private if private else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if place.exists():
            shutil.copymode(place, part)
        part.replace(place)
        flush_folder(place.parent)
    finally:
        with suppress(OSError, ValueError):  # it tells nothing that the first error does not
            part.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def flush_folder(folder: Path) -> None:
    """Puts the new name on the disk; Windows cannot open folders, and needs not."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
