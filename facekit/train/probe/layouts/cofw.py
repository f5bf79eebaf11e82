"""COFW: 1,345 faces to train on and 507 occluded ones for the test, 29 points each, in two MATLAB files.

Burgos-Artizzu, Perona, Dollár, "Robust face landmark estimation under occlusion", ICCV 2013. The files are
HDF5, in which MATLAB's axes are reversed: pictures are (3, width, height), or (width, height) if grey; points
are (87, n): 29 times x, y and whether it is occluded, in pixels, of which the middle of the first is (1, 1).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facekit.errors import ImageError, MissingExtraError, TrainingError
from facekit.train.probe.examples import TEST, TRAIN, Examples, Picture, TaskName
from facekit.train.probe.layouts.files import first_existing
from facekit.train.probe.layouts.layout import Layout, choose_task
from facekit.train.probe.layouts.points import Pointed, in_square, point_examples, square_around

if TYPE_CHECKING:
    import h5py

__all__ = ["LAYOUT"]

_POINTS = 29
_PARTS = {TRAIN: ("COFW_train_color.mat", "Tr"), TEST: ("COFW_test_color.mat", "T")}
_LARGEST = 1 << 27  # bytes of one table or picture: an HDF5 file may claim more than it has


def _file(path: Path, split: int) -> Path | None:
    name, _ = _PARTS[split]
    return first_existing(path, name, f"COFW_color/{name}")


def _read(path: Path, task: TaskName | None) -> Examples:
    choose_task(path, task, "landmarks")
    rows = []
    for split, (name, ending) in _PARTS.items():
        file = _file(path, split)
        if file is None:
            raise TrainingError(f"{path}: holds no {name}; unpack both parts of COFW there")
        for number, points in enumerate(_points(file, ending)):
            square = square_around(points, f"{file}, picture {number}")
            picture = Picture(file, square, partial(_picture, file, ending, number))
            rows.append(Pointed(picture, in_square(points, square), split))
    return point_examples("COFW", rows)


def _points(file: Path, ending: str) -> NDArray[np.float64]:
    """(n, 29, 2), in pixels from the picture's corner."""
    try:
        with _open(file) as content:
            table, pictures = _values(content, f"phis{ending}"), _dataset(content, f"Is{ending}")
            if table.shape != (3 * _POINTS, pictures.size):
                raise ValueError(f"phis{ending} is {table.shape} for {pictures.size} pictures")
    except (OSError, KeyError, ValueError) as error:
        raise TrainingError(f"{file}: not COFW's file ({error}); download it anew") from error
    points = table[: 2 * _POINTS].T.reshape(-1, 2, _POINTS).transpose(0, 2, 1) - 0.5
    if not np.isfinite(points).all():
        raise TrainingError(f"{file}: holds points that are not finite; download it anew")
    return points


def _picture(file: Path, ending: str, number: int) -> NDArray[np.uint8]:
    """One picture, (h, w) or (h, w, 3)."""
    try:
        with _open(file) as content:
            reference = _dataset(content, f"Is{ending}")[()].reshape(-1)[number]
            pixels = _values(content, reference)
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise ImageError(f"{file}, picture {number}: cannot be read ({error}); download it anew") from error
    return np.ascontiguousarray(pixels.T)


def _open(file: Path) -> h5py.File:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise MissingExtraError("h5py", "train", f"Reading {file}") from error
    return h5py.File(file, "r")


def _values(content: h5py.File, name: Any) -> NDArray[Any]:
    return np.asarray(_dataset(content, name)[()])


def _dataset(content: h5py.File, name: Any) -> Any:
    """A table that lies in this file, and no more than it could hold."""
    import h5py

    if isinstance(name, str) and not isinstance(content.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is missing, or in another file")
    found = content[name]
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual or found.nbytes > _LARGEST:
        raise ValueError(f"{name} is no table of this file, or larger than {_LARGEST} bytes")
    return found


LAYOUT = Layout(
    "cofw",
    "COFW_train_color.mat and COFW_test_color.mat",
    lambda path: _file(path, TRAIN) is not None,
    _read,
)
