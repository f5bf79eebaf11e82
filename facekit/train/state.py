"""Save and resume a run: one file, replaced atomically."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from facekit.errors import TrainingError

__all__ = ["load_state", "save_state"]


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state``; ``path`` holds either the old state or the new one, whenever the power fails."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise TrainingError(
            f"{path}: the run's state cannot be saved ({error}); free space and start again"
        ) from error


def load_state(path: Path) -> dict[str, Any] | None:
    """The saved state, or None where there is none yet.

    Raises:
        TrainingError: there is one, but it cannot be read.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise TrainingError(
            f"{path}: not a state that can be resumed ({error}); give another --out"
        ) from error
    return state
