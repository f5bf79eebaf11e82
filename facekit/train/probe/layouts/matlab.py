"""MATLAB's files of version 5, as far as sets of pictures use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekit.errors import MissingExtraError, TrainingError

__all__ = ["load_mat"]

_LARGEST = 1 << 18  # bytes: labels take some thousand, and zlib unpacks to a thousand times its size


def load_mat(file: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, NDArray[np.float64]]:
    """Some variables of a file.

    Args:
        file: its path.
        shapes: by name.

    Returns:
        By name, float64 and finite.

    Raises:
        TrainingError: not such a file, larger than one with labels is, or without these variables.
        MissingExtraError: no SciPy.
    """
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError as error:
        raise MissingExtraError("scipy", "train", f"Reading {file}") from error
    try:
        if file.stat().st_size > _LARGEST:
            raise ValueError(f"{file.stat().st_size} bytes, more than {_LARGEST}")
        content = loadmat(file, variable_names=list(shapes))
        return {name: _checked(content, name, shape) for name, shape in shapes.items()}
    except Exception as error:  # SciPy raises whatever a damaged file makes of it
        raise TrainingError(f"{file}: cannot be read as labels ({error}); unpack it anew") from error


def _checked(content: dict[str, Any], name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    if name not in content:
        raise ValueError(f"there is no {name}")
    values = np.asarray(content[name], dtype=np.float64)
    if values.shape != shape or not np.isfinite(values).all():
        raise ValueError(f"{name} is {values.shape} and should be {shape} and finite")
    return values
