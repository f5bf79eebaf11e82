"""Embeddings of a source on the disk, in blocks: work that is stopped goes on, and memory does not grow."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from facekit.encode import FaceEncoder
from facekit.errors import (
    FacekitError,
    GalleryError,
    ImageError,
    MultipleFacesError,
    NoFaceError,
    SettingError,
)
from facekit.gallery import ALIGNED
from facekit.image import ImageSource
from facekit.policy import FacePolicy
from facekit.train.sources import Source
from facekit.train.sources.source import NamedBytes, pictures_digest
from facekit.vectorfile import read_vectors, write_vectors

__all__ = ["EmbeddedRows", "SourcePictures", "embed_rows"]

_BLOCK = 2048  # pictures of a file: what an interruption may cost
_FORMAT = {"format": "facekit data select", "version": "1"}


@dataclass(slots=True, eq=False)
class EmbeddedRows:
    """One face of each picture; the vectors stay on the disk and are read by slices.

    Attributes:
        files: of 2,048 vectors each, in order, and what the metadata of each says.
        dim: of the vectors.
        quality: (n,) float32 in [0, 1]; NaN where a picture gave no face.
        problems: by place, the kind of problem in a word or two, and the whole message.
    """

    files: Sequence[tuple[Path, dict[str, str]]]
    dim: int
    quality: NDArray[np.float32]
    problems: dict[int, tuple[str, str]]
    _last: tuple[int, NDArray[np.float32]] | None = field(default=None, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.quality)

    def __getitem__(self, part: slice) -> NDArray[np.float32]:
        """(m, d) of unit length; zeros where a picture gave no face.

        Raises:
            GalleryError: a file is gone.
            SettingError: another command has written one anew.
        """
        start, stop, step = part.indices(len(self))
        blocks = []
        for number in range(start // _BLOCK, -(-stop // _BLOCK)):
            at = number * _BLOCK
            block = self._block(number)
            blocks.append(block[max(start - at, 0) : stop - at])
        found = np.concatenate(blocks) if blocks else np.empty((0, self.dim), np.float32)
        return found[::step]

    def _block(self, number: int) -> NDArray[np.float32]:
        """The map of a file. The last one stays open: people's slices follow each other, and are many."""
        if self._last is None or self._last[0] != number:
            file, about = self.files[number]
            vectors, _, metadata = read_vectors(file)
            if metadata != about:
                raise SettingError(f"{file}: another command has written it anew; give each its own --out")
            self._last = number, vectors
        return self._last[1]

    def blocks(self) -> Iterator[slice]:
        """Slices that cover all, a file each."""
        return (slice(at, min(at + _BLOCK, len(self))) for at in range(0, len(self), _BLOCK))

    def take(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """(m, d) of these places, which rise."""
        cuts = np.searchsorted(places, [block.start for block in self.blocks()])
        parts = zip(self.blocks(), np.split(places, cuts)[1:], strict=True)
        found = [self[block][chosen - block.start] for block, chosen in parts if len(chosen)]
        return np.concatenate(found) if found else np.empty((0, self.dim), np.float32)


def embed_rows(
    encoder: FaceEncoder,
    source: Source,
    rows: Sequence[int],
    folder: Path,
    *,
    faces: FacePolicy,
    aligned: bool,
    what: str,
) -> EmbeddedRows:
    """Embeds one face of each picture, or finds what an earlier call has embedded.

    A file of vectors is taken again if it is of the same pictures, by the same checkpoint, detector and
    policy. Pictures are known by their names, and by size and time of the files in which they lie.

    Args:
        encoder: makes the vectors.
        source: where the pictures lie.
        rows: which of them, in which order.
        folder: where the vectors go; made if need be.
        faces: which face counts where a picture has several.
        aligned: the pictures are aligned square crops.
        what: the bar on stderr says so.

    Raises:
        GalleryError: the files cannot be written.
        SettingError: one of an earlier call is damaged.
        NoFaceError: there is no face in any of the pictures.
    """
    folder.mkdir(exist_ok=True)
    detector = ALIGNED if aligned else encoder.detector_fingerprint
    origin = {
        **_FORMAT,
        "checkpoint": encoder.checkpoint_fingerprint,
        "detector": detector,
        "faces": "" if aligned else faces,
    }
    made = EmbeddedRows([], encoder.embedder.dim, np.full(len(rows), np.nan, np.float32), {})
    files: list[tuple[Path, dict[str, str]]] = []
    with tqdm(total=len(rows), desc=what, unit="picture", disable=None, file=sys.stderr) as bar:
        for block in made.blocks():
            chosen = rows[block]
            file = folder / f"{len(files):06}.vectors"
            about = {**origin, "pictures": pictures_digest(source, chosen)}
            table = _stored(file, about)
            if table is None:
                vectors, table = _embed(encoder, source, chosen, faces, aligned, bar)
                write_vectors(file, vectors, table, about)
            else:
                bar.update(len(chosen))
            made.quality[block] = np.array(table["quality"], np.float32)
            made.problems.update(
                {block.start + int(at): (kind, text) for at, kind, text in table["problems"]}
            )
            files.append((file, about))
    if len(made.problems) == len(rows):
        first = f"; {made.problems[0][1]}" if rows else ""
        raise NoFaceError(f"{source.root}: no face in any of {len(rows):,} pictures{first}")
    return EmbeddedRows(files, made.dim, made.quality, made.problems)


def _stored(file: Path, about: dict[str, str]) -> dict[str, Any] | None:
    """What an earlier call has written about the same pictures, if it has.

    Raises:
        SettingError: the file is damaged.
    """
    if not file.exists():
        return None
    try:
        _, table, metadata = read_vectors(file)
    except GalleryError as error:
        raise SettingError(f"{file}: damaged; delete it, and its pictures are embedded again") from error
    return table if metadata == about else None


def _embed(
    encoder: FaceEncoder, source: Source, rows: Sequence[int], faces: FacePolicy, aligned: bool, bar: Any
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """(b, d) vectors, and the table that is kept with them; its null is NaN, which JSON does not know."""
    vectors = np.zeros((len(rows), encoder.embedder.dim), np.float32)
    quality: list[float | None] = [None] * len(rows)
    problems: list[tuple[int, str, str]] = []
    pictures = SourcePictures(source, rows)
    for at, encoded in enumerate(encoder.stream(pictures, faces=faces, aligned=aligned)):
        try:
            face = encoded.one_face()
            vectors[at], quality[at] = face.embedding, face.quality
        except FacekitError as error:
            found = pictures.errors.get(at, error)
            problems.append((at, _kind(found), str(found)))
        bar.update()
    return vectors, {"quality": quality, "problems": problems}


def _kind(error: FacekitError) -> str:
    kinds = {NoFaceError: "no face", MultipleFacesError: "several faces"}
    return kinds.get(type(error), "unreadable")


class SourcePictures:
    """Pictures of a source, one after another; one that its archive does not give is empty.

    Args:
        source: where they lie.
        rows: which of them, in their order.

    Attributes:
        errors: by place, why a picture that has been asked for was not given.
    """

    def __init__(self, source: Source, rows: Sequence[int]) -> None:
        self.source, self.rows = source, rows
        self.errors: dict[int, ImageError] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[ImageSource]:
        for at, row in enumerate(self.rows):
            try:
                yield self.source.read(row)
            except ImageError as error:
                self.errors[at] = error
                yield NamedBytes(b"", self.source.name(row))
