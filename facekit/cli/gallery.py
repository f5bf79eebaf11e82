"""``facekit gallery``: enrol people, and ask who somebody is."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from facekit.cli.console import count, expand, print_json, reason, table
from facekit.cli.options import File, Folder, Model, Pictures, Threshold
from facekit.encode import EncodedImage
from facekit.errors import NoFaceError, SettingError
from facekit.face import Face
from facekit.gallery import Gallery
from facekit.identify import Match
from facekit.policy import FacePolicy
from facekit.threshold import choose_threshold
from facekit.trash import shown

__all__ = ["Build", "Info", "Search"]

_AT_ONCE = 1024  # pictures whose faces are searched together


@dataclass(frozen=True)
class Build:
    """Enrols people from their pictures; of a gallery that is there already, only what is new or changed.

    Attributes:
        people: A folder with a folder a person, a folder of loose pictures, or a CSV of path and person.
        out: The gallery's file.
        faces: Which face counts where a picture has several.
        aligned: The pictures are aligned square crops; nothing is searched in them.
        json: Print one JSON document.
    """

    people: Folder
    out: Annotated[str, tyro.conf.arg(metavar="FILE")]
    faces: FacePolicy = "largest"
    aligned: bool = False
    model: Model = field(default_factory=Model)
    json: bool = False

    def __call__(self) -> int:
        if os.path.isdir(self.out):
            raise SettingError(f"--out: {self.out!r} is a folder; name a file")
        if not os.path.isdir(Path(self.out).absolute().parent):
            raise SettingError(f"--out: {self.out!r} is in no existing folder; make it first")
        gallery = self.model.recognition().build_gallery(
            self.people, update=self.out, faces=self.faces, aligned=self.aligned
        )
        _describe(gallery, self.out, as_json=self.json)
        return 0


@dataclass(frozen=True)
class Info:
    """What is in a gallery.

    Attributes:
        gallery: The gallery's file.
        json: Print one JSON document.
    """

    gallery: File
    json: bool = False

    def __call__(self) -> int:
        _describe(Gallery.load(self.gallery), self.gallery, as_json=self.json)
        return 0


@dataclass(frozen=True)
class Search:
    """Who of a gallery the faces in pictures are, or that they are unknown.

    Attributes:
        pictures: Pictures and folders of pictures.
        gallery: The gallery's file.
        top_k: How many people to name for each face.
        faces: Which faces of a picture are looked up.
        aligned: The pictures are aligned square crops; nothing is searched in them.
        json: Print one JSON document.
    """

    pictures: Pictures
    gallery: Annotated[str, tyro.conf.arg(metavar="FILE")]
    top_k: int = 5
    limit: Threshold = field(default_factory=Threshold)
    faces: FacePolicy = "largest"
    aligned: bool = False
    model: Model = field(default_factory=Model)
    json: bool = False

    def __call__(self) -> int:
        if self.top_k < 1:
            raise SettingError(f"--top-k: {self.top_k} must be at least 1")
        pictures = list(expand(self.pictures))
        recognition = self.model.recognition()
        asked = choose_threshold(recognition.config, threshold=self.limit.threshold, far=self.limit.far)
        gallery = recognition.load_gallery(self.gallery)
        encoded = recognition.stream(pictures, faces=self.faces, aligned=self.aligned, progress=None)
        answers, found = [], 0
        for picture, matches in _look_up(encoded, gallery, self.top_k):
            found += len(matches)
            if self.json:
                answers.append(_as_json(picture, matches, asked.similarity))
            else:
                print(_as_text(picture, matches, asked.similarity))
        if self.json:
            print_json({"threshold": asked.similarity, "far": asked.far, "pictures": answers})
        if not found:
            raise NoFaceError("no face in any of the pictures")
        return 0


def _look_up(
    pictures: Iterator[EncodedImage], gallery: Gallery, top_k: int
) -> Iterator[tuple[EncodedImage, list[list[Match]]]]:
    """Each picture with the matches of each of its faces."""
    while batch := list(islice(pictures, _AT_ONCE)):
        probes = [face.embedding for picture in batch for face in picture.faces]
        found = iter(gallery.search_many(np.stack(probes), top_k=top_k) if probes else [])
        for picture in batch:
            yield picture, list(islice(found, len(picture.faces)))


def _person(matches: list[Match], threshold: float) -> str | None:
    """Who it is; None for a stranger."""
    return matches[0].person if matches and matches[0].similarity >= threshold else None


def _as_json(picture: EncodedImage, matches: list[list[Match]], threshold: float) -> dict[str, Any]:
    def answer(face: Face, found: list[Match]) -> dict[str, Any]:
        person = _person(found, threshold)
        return {"person": person, "matches": [match.to_dict() for match in found], **face.to_dict()}

    faces = [answer(face, found) for face, found in zip(picture.faces, matches, strict=True)]
    error = None if picture.error is None else reason(picture.error)
    return {"picture": picture.name, "faces": faces, "error": error}


def _as_text(picture: EncodedImage, matches: list[list[Match]], threshold: float) -> str:
    if picture.error is not None:
        return shown(str(picture.error))
    if not matches:
        return f"{shown(picture.name)}: no face"
    lines = []
    for found in matches:
        lines.append(shown(f"{picture.name}: {_person(found, threshold) or 'unknown'}"))
        lines.append(table((f"{match.similarity:+.3f}", match.person, match.source) for match in found))
    return "\n".join(lines)


def _describe(gallery: Gallery, path: str, *, as_json: bool) -> None:
    samples, skipped = gallery.samples, gallery.skipped
    if as_json:
        print_json(
            {
                "gallery": path,
                "people": Counter(sample.person for sample in samples),
                "samples": len(samples),
                "dim": gallery.dim,
                "checkpoint": gallery.checkpoint,
                "detector": gallery.detector,
                "skipped": [
                    {"person": s.person, "source": s.source, "kind": s.kind, "reason": s.reason}
                    for s in skipped
                ],
            }
        )
        return
    size = f"{count(len(gallery), 'person', 'people')}, {count(len(samples), 'sample')}"
    print(f"{shown(path)}: {size} of {gallery.dim} numbers")
    print(shown(f"  made by {gallery.checkpoint} and {gallery.detector}"))
    for item in skipped:
        print(f"  skipped: {shown(item.reason)}")
