"""What commands say: lines for people or JSON for machines on stdout, all else on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from facekit.errors import FacekitError, SettingError
from facekit.image import find_images
from facekit.trash import shown

__all__ = ["count", "expand", "print_json", "reason", "say", "table"]


def print_json(document: Any) -> None:
    """One JSON document on one line of stdout, at once."""
    print(json.dumps(document), flush=True)


def say(text: str) -> None:
    """A line about the work, not its result, on stderr."""
    print(text, file=sys.stderr)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``1 face``, ``2 faces``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def table(rows: Iterable[tuple[str, ...]], *, indent: int = 2) -> str:
    """Columns as wide as their widest cell, two spaces apart; what would steer the terminal is spelt out."""
    cells = [tuple(map(shown, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(" " * indent + line.rstrip() for line in lines)


def expand(pictures: Iterable[str]) -> Iterator[str]:
    """The pictures that a command was given; a folder stands for those in it.

    Raises:
        SettingError: there are none.
        ImageError: a folder without pictures.
    """
    pictures = list(pictures)
    if not pictures:
        raise SettingError("PICTURE: none given; name pictures, or folders of them")
    for picture in pictures:
        if os.path.isdir(picture):
            yield from map(str, find_images(picture))
        else:
            yield picture


def reason(error: FacekitError) -> dict[str, str]:
    """An error as plain values for JSON."""
    return {"type": type(error).__name__, "message": str(error)}
