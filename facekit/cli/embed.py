"""``facekit embed``: pictures in, a file of embeddings out, and a line for each picture."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from facekit.cli.console import count, expand, print_json, reason, say
from facekit.cli.options import Model, Pictures
from facekit.encode import EncodedImage
from facekit.errors import NoFaceError, SettingError
from facekit.face import Face
from facekit.gallery import ALIGNED
from facekit.policy import FacePolicy
from facekit.trash import shown
from facekit.vectorfile import write_vectors
from facekit.wholefile import replacing

__all__ = ["Embed"]


@dataclass(frozen=True)
class Embed:
    """Embeds the faces of pictures.

    Attributes:
        pictures: Pictures and folders of pictures.
        out: The file to write: .npz, or .safetensors, which is lighter on memory.
        faces: Which faces of a picture are embedded.
        aligned: The pictures are aligned square crops; nothing is searched in them.
        json: Print JSON lines, one a picture, as the work goes on.
    """

    pictures: Pictures
    out: Annotated[str, tyro.conf.arg(metavar="FILE")]
    faces: FacePolicy = "all"
    aligned: bool = False
    model: Model = field(default_factory=Model)
    json: bool = False

    def __call__(self) -> int:
        write = _writer(self.out)
        pictures = list(expand(self.pictures))
        encoder = self.model.recognition().encoder
        found: list[tuple[str, Face]] = []
        bad = 0
        for picture in encoder.stream(pictures, faces=self.faces, aligned=self.aligned, progress=None):
            self._tell(picture, len(found))
            bad += picture.error is not None
            found += [(picture.name, face) for face in picture.faces]
        if not found:
            raise NoFaceError(f"no face in any of {len(pictures)} pictures; nothing was written")
        detector = ALIGNED if self.aligned else encoder.detector_fingerprint
        write(Path(self.out), found, {"checkpoint": encoder.checkpoint_fingerprint, "detector": detector})
        total = f"{count(len(found), 'face')} of {count(len(pictures), 'picture')}"
        say(f"{total}, {bad} not readable -> {self.out}" if bad else f"{total} -> {self.out}")
        return 0

    def _tell(self, picture: EncodedImage, row: int) -> None:
        """What was found in one picture; ``row`` is where its faces begin in the file."""
        if self.json:
            faces = [{"row": row + i, **face.to_dict()} for i, face in enumerate(picture.faces)]
            error = None if picture.error is None else reason(picture.error)
            print_json({"picture": picture.name, "size": picture.size, "faces": faces, "error": error})
        elif picture.error is not None:
            print(shown(str(picture.error)))
        else:
            print(f"{shown(picture.name)}: {count(len(picture.faces), 'face')}")


def _writer(out: str) -> Any:
    """What writes the embeddings into a file of this name, known before the work begins.

    Raises:
        SettingError: another suffix, no such folder, or a folder itself.
    """
    path = Path(out)
    writers = {".npz": _write_npz, ".safetensors": _write_safetensors}
    if path.suffix.lower() not in writers:
        raise SettingError(f"--out: {out!r} must end with .npz or .safetensors")
    if not os.path.isdir(path.absolute().parent):
        raise SettingError(f"--out: {out!r} is in no existing folder; make it first")
    if os.path.isdir(path):
        raise SettingError(f"--out: {out!r} is a folder; name a file")
    return writers[path.suffix.lower()]


def _write_npz(path: Path, found: list[tuple[str, Face]], origin: dict[str, str]) -> None:
    """One array a property, with a row a face; the origin of all as two texts."""
    faces = [face for _, face in found]
    arrays: dict[str, Any] = {
        "embeddings": np.stack([face.embedding for face in faces]),
        "pictures": np.array([name for name, _ in found]),
        "boxes": np.stack([face.box for face in faces]),
        "landmarks": np.stack([face.landmarks for face in faces]),
        "confidences": np.array([face.confidence for face in faces], np.float32),
        "qualities": np.array([face.quality for face in faces], np.float32),
        **origin,
    }
    try:
        with replacing(path, private=True) as file:
            np.savez(file, **arrays)
    except (OSError, ValueError) as error:  # ValueError: no name of a file, as with a NUL in it
        reason = getattr(error, "strerror", None) or error
        raise SettingError(f"{path}: cannot be written ({reason})") from error


def _write_safetensors(path: Path, found: list[tuple[str, Face]], origin: dict[str, str]) -> None:
    """``vectors`` with a row a face, ``table`` with the bytes of a JSON list of what is known of each."""
    table = [{"picture": name, **face.to_dict()} for name, face in found]
    vectors = np.stack([face.embedding for _, face in found])
    write_vectors(path, vectors, table, {"format": "facekit embeddings", "version": "1", **origin})
