"""Flags that several commands share: which network, which faces, how sure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from facekit.checkpoint import Checkpoint, load_checkpoint
from facekit.deduplication import FaceDeduplication
from facekit.recognition import FaceRecognition

__all__ = ["File", "Folder", "Model", "Pictures", "Threshold"]

File = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
Folder = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
Pictures = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PICTURE")]


@dataclass(frozen=True)
class Model:
    """Which network makes the embeddings, and where it runs.

    Attributes:
        checkpoint: A checkpoint folder, a file (.pth, .ckpt, .onnx ...) or owner/name on the Hugging Face
            Hub; the one that ships with facekit if not given.
        device: auto, cpu, cuda, cuda:1, mps ...; what is not there is an error.
        precision: Of the network.
        min_face: The smallest face to look for, in pixels.
        revision: Branch, tag or commit of a checkpoint on the Hub.
        local_files_only: Ask the Hub's cache alone, never the network.
    """

    checkpoint: str | None = None
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    min_face: float = 40.0
    revision: str | None = None
    local_files_only: bool = False

    def load(self) -> Checkpoint:
        return load_checkpoint(
            self.checkpoint, revision=self.revision, local_files_only=self.local_files_only
        )

    def recognition(self) -> FaceRecognition:
        return FaceRecognition(self.load(), self.device, precision=self.precision, min_face=self.min_face)

    def deduplication(self) -> FaceDeduplication:
        return FaceDeduplication(self.load(), self.device, precision=self.precision, min_face=self.min_face)


@dataclass(frozen=True)
class Threshold:
    """How alike two faces of one person are; the checkpoint's default if nothing is given.

    Attributes:
        threshold: The least similarity, -1 to 1; beats --far.
        far: The false accept rate to work at, such as 1e-3, looked up in the checkpoint's calibration.
    """

    threshold: float | None = None
    far: float | None = None
