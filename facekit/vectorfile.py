"""Vectors and a table about them in one file: written all or nothing, read through a memory map.

It is a safetensors file, so that other tools can open it: ``vectors`` (n, d) float32, ``table`` the bytes of
a JSON document, and some text in its ``__metadata__``. Nothing in it is ever executed. It is written by hand,
because the library that writes this format wants the vectors in memory twice.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from facekit.errors import GalleryError
from facekit.wholefile import replacing

__all__ = ["read_vectors", "write_vectors"]

_LARGEST_HEADER = 1 << 16  # bytes; ours has some hundred
_ALIGNMENT = 64  # bytes; where the vectors start, so that the map of them is aligned
_ROWS = 1 << 14  # vectors that are written at a time


def write_vectors(
    path: str | os.PathLike[str],
    vectors: NDArray[np.float32],
    table: Any,
    metadata: Mapping[str, str],
) -> None:
    """Writes the file, or leaves what was there.

    See :func:`~facekit.wholefile.replacing`: whoever has the old file mapped keeps the old vectors.

    Args:
        path: where to; its folder must exist. A new file is for its owner alone: faces are private.
        vectors: (n, d) float32.
        table: anything that JSON can hold.
        metadata: text by name; must fit into some 60 KB.

    Raises:
        GalleryError: it cannot be written.
    """
    try:
        with replacing(path, private=True) as file:
            for block in _blocks(vectors, json.dumps(table).encode(), metadata):
                file.write(block)
    except (OSError, ValueError) as error:  # ValueError: no name of a file, as with a NUL in it
        name, reason = os.fspath(path), getattr(error, "strerror", None) or error
        raise GalleryError(
            f"{name}: cannot be written ({reason}); what was there is unchanged", path=name
        ) from error


def _blocks(vectors: NDArray[np.float32], table: bytes, metadata: Mapping[str, str]) -> Iterator[bytes]:
    size = vectors.size * 4
    header = {
        "__metadata__": dict(metadata),
        "vectors": {"dtype": "F32", "shape": list(vectors.shape), "data_offsets": [0, size]},
        "table": {"dtype": "U8", "shape": [len(table)], "data_offsets": [size, size + len(table)]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for start in range(0, len(vectors), _ROWS):
        yield vectors[start : start + _ROWS].astype("<f4").tobytes()
    yield table


def read_vectors(path: str | os.PathLike[str]) -> tuple[NDArray[np.float32], Any, dict[str, str]]:
    """What :func:`write_vectors` wrote.

    Returns:
        (n, d) float32, a read-only map of the file (its values are not looked at); the table; the metadata.

    Raises:
        GalleryError: missing, unreadable, cut short, or not such a file.
    """
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            start, header = _read_header(file)
            shape, table_size = _checked(header, os.fstat(file.fileno()).st_size - start)
            file.seek(start + math.prod(shape) * 4)
            table = json.loads(file.read(table_size))
            vectors: NDArray[np.float32] = np.empty(shape, np.float32)
            if vectors.size:  # nothing cannot be mapped
                vectors = np.memmap(file, "<f4", "r", start, shape)
    except OSError as error:
        raise GalleryError(f"{name}: cannot be read ({error.strerror or error})", path=name) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = str(error) if isinstance(error, _Damaged) else "damaged"
        raise GalleryError(
            f"{name}: not a readable gallery ({reason}); restore a copy, or build it again", path=name
        ) from error
    return vectors, table, header["__metadata__"]


class _Damaged(ValueError):
    """What is wrong with the file, in words for the user."""


def _read_header(file: IO[bytes]) -> tuple[int, dict[str, Any]]:
    """Where the data start, and the parsed header."""
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= _LARGEST_HEADER:
        raise _Damaged("its first bytes are no header")
    text = file.read(length)
    if len(text) < length:
        raise _Damaged("it is cut short")
    header = json.loads(text)
    metadata = header["__metadata__"]
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _Damaged("its metadata are not text")
    return 8 + length, header


def _checked(header: dict[str, Any], size: int) -> tuple[tuple[int, int], int]:
    """The vectors' shape and the table's size, if they are as we write them and fill ``size`` bytes."""
    rows, dim = header["vectors"]["shape"]
    (table,) = header["table"]["shape"]
    if not all(type(count) is int and count >= 0 for count in (rows, dim, table)):
        raise _Damaged("its header has sizes that are none")
    end = rows * dim * 4
    layout = {
        "vectors": {"dtype": "F32", "shape": [rows, dim], "data_offsets": [0, end]},
        "table": {"dtype": "U8", "shape": [table], "data_offsets": [end, end + table]},
    }
    if {name: header[name] for name in header if name != "__metadata__"} != layout:
        raise _Damaged("its header describes something else")
    if end + table != size:
        missing = end + table - size
        raise _Damaged(f"{missing} bytes are missing" if missing > 0 else f"{-missing} bytes too many")
    return (rows, dim), table
