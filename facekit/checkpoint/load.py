"""Any source of weights to a checkpoint: folder, file or Hub name."""

from __future__ import annotations

from pathlib import Path

from facekit.checkpoint.folder import Checkpoint, read_folder
from facekit.checkpoint.onnx import load_onnx
from facekit.errors import CheckpointError

__all__ = ["load_checkpoint"]

SHIPPED = Path(__file__).parent.parent / "weights"


def load_checkpoint(source: str | Path | None = None) -> Checkpoint:
    path = SHIPPED if source is None else Path(source)
    if path.suffix == ".onnx":
        return Checkpoint(*load_onnx(path))
    if path.is_dir():
        return read_folder(path)
    raise CheckpointError(f"{path}: no such file", path=str(path))
