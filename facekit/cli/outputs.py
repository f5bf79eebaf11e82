"""What a command writes: a folder, and lists in it; never over what it reads or another command wrote."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from facekit.errors import SettingError
from facekit.wholefile import replacing

__all__ = ["check_columns", "check_outputs", "output_folder", "write_list"]

_HEADER = 1 << 12  # characters; ours have some fifty


@contextmanager
def output_folder(out: str) -> Iterator[Path]:
    """The folder, there before the work begins; one that an error leaves new and empty goes again.

    Raises:
        SettingError: it cannot be one.
    """
    folder = Path(out)
    new = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        problem = error.strerror or error
        raise SettingError(
            f"--out: {out!r} cannot be made ({problem}); name a folder in an existing one"
        ) from error
    try:
        yield folder
    except BaseException:
        if new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()
        raise


def check_outputs(outputs: Iterable[Path], inputs: Iterable[str | None]) -> None:
    """Looks whether a command would write over what it reads.

    Raises:
        SettingError: it would.
    """
    read = {Path(name).resolve() for name in inputs if name is not None}
    for file in outputs:
        if file.resolve() in read:
            raise SettingError(f"{file}: is read, and would be written over; give another --out")


def check_columns(file: Path, *known: Sequence[str]) -> None:
    """Looks whether a list, if it is there, is one that the command may have written.

    Args:
        file: the list.
        known: the columns of its lists, a sequence a kind.

    Raises:
        SettingError: it has other columns.
    """
    with suppress(OSError):  # what is not there does no harm, and of what cannot be read, writing tells
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            header = next(csv.reader([stream.readline(_HEADER)]), [])
        if header and header not in map(list, known):
            raise SettingError(
                f"{file}: is there, with other columns than {', '.join(known[0])}: not a list of this"
                " command's; give another --out"
            )


def write_list(file: Path, rows: Iterable[Sequence[str]]) -> None:
    """Writes a CSV, all or nothing.

    Raises:
        SettingError: it cannot be written.
    """
    try:
        with replacing(file, private=True) as stream:
            text: Any = codecs.getwriter("utf-8")(stream, "surrogateescape")
            csv.writer(_Lines(text), lineterminator="\r\n").writerows(rows)
    except OSError as error:
        raise SettingError(f"{file}: cannot be written ({error.strerror or error})") from error


class _Lines:
    """Lines that end in a newline alone; a writer quotes the characters of its line's end, and only those."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, line: str) -> None:
        self.stream.write(line.removesuffix("\r\n") + "\n")
