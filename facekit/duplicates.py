"""Pictures that show the same people form a group, which says how alike they are and which is best.

Faces are one person by average linkage (:mod:`facekit.grouping`): the mean similarity of all pairs inside a
group reaches the threshold, and A does not join C just because both look like B. Where all faces of a picture
count, two pictures are in one group if exactly the same people are in both; so a portrait does not repeat a
group photograph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from facekit.errors import FacekitError
from facekit.face import Face
from facekit.grouping import group_pairs
from facekit.policy import FacePolicy
from facekit.similarity import cosine, pairs_above
from facekit.trash import counted, shown

__all__ = ["DuplicateGroup", "DuplicatePicture", "Duplicates", "group_pictures"]


@dataclass(frozen=True, slots=True, eq=False)
class DuplicatePicture:
    """A picture that repeats another, and what speaks for keeping it.

    Attributes:
        path: as found in the folder.
        faces: those that count; in all pictures of a group in the same order of people.
        size: (height, width) in pixels.
        bytes: size of the file.
        modified_ns: when it was last written, in nanoseconds since 1970.
    """

    path: Path
    faces: tuple[Face, ...]
    size: tuple[int, int]
    bytes: int
    modified_ns: int

    @property
    def quality(self) -> float:
        """That of its worst face in [0, 1], by sharpness, size, pose, confidence (:mod:`facekit.quality`)."""
        return min(face.quality for face in self.faces)

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.size[0] * self.size[1]

    @property
    def why(self) -> str:
        """What speaks for and against it, in words."""
        height, width = self.size
        face = min(face.size for face in self.faces)
        return f"quality {self.quality:.2f}, face of {face:.0f} px, picture of {width} x {height}"

    def to_dict(self) -> dict[str, Any]:
        """The picture as plain values for JSON."""
        return {
            "path": str(self.path),
            "quality": round(self.quality, 4),
            "width": self.size[1],
            "height": self.size[0],
            "bytes": self.bytes,
            "modified_ns": self.modified_ns,
            "faces": [face.to_dict() for face in self.faces],
        }


@dataclass(frozen=True, slots=True, eq=False)
class DuplicateGroup(Sequence[Path]):
    """The paths of pictures of the same people, those with the best faces first.

    Attributes:
        pictures: what is known of each, in the same order.
    """

    pictures: tuple[DuplicatePicture, ...]

    @property
    def keep(self) -> Path:
        """The one that ``keep="best"`` keeps."""
        return self[0]

    @property
    def scores(self) -> dict[tuple[Path, Path], float]:
        """Similarity of every pair: of its least alike faces, where pictures have several.

        Computed when asked for; their number grows with the square of the group.
        """
        rows = enumerate(self._rows(), 1)
        return {
            (self[i - 1], other): float(score)
            for i, row in rows
            for other, score in zip(self[i:], row, strict=True)
        }

    @property
    def similarity(self) -> tuple[float, float]:
        """The lowest and the highest of :attr:`scores`."""
        ends = [(float(row.min()), float(row.max())) for row in self._rows()]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def similarity_to(self, path: Path) -> list[float]:
        """How alike each picture is to one of them, itself included."""
        vectors = self._vectors()
        return [float(score) for score in cosine(vectors[self.index(path)], vectors).min(axis=1)]

    def to_dict(self) -> dict[str, Any]:
        """The group as plain values for JSON."""
        lowest, highest = self.similarity
        pictures = [picture.to_dict() for picture in self.pictures]
        return {"similarity": [round(lowest, 4), round(highest, 4)], "pictures": pictures}

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        if isinstance(index, slice):
            return [picture.path for picture in self.pictures[index]]
        return self.pictures[index].path

    def __len__(self) -> int:
        return len(self.pictures)

    def __str__(self) -> str:
        lowest, highest = self.similarity
        lines = [f"{len(self)} pictures, similarity {lowest:.3f} to {highest:.3f}"]
        return "\n".join(lines + [f"  {shown(str(each.path))}  {each.why}" for each in self.pictures])

    def _vectors(self) -> NDArray[np.float32]:
        """(pictures, people, d)."""
        return np.array([[face.embedding for face in picture.faces] for picture in self.pictures])

    def _rows(self) -> Iterator[NDArray[np.float32]]:
        """For each picture but the last the similarities to those that follow."""
        vectors = self._vectors()
        for i in range(1, len(self)):
            yield cosine(vectors[i - 1], vectors[i:]).min(axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class Duplicates(Sequence[DuplicateGroup]):
    """The groups of a folder, the largest first.

    Attributes:
        folder: as given.
        groups: of two or more pictures each; no picture is in two.
        skipped: the pictures that took no part, unreadable or without a face, and why.
        threshold: the similarity that was asked for.
        far: the rate at which pairs of strangers reach it, by the checkpoint's calibration; None where that
            was not measured.
        faces: which faces of a picture counted.
        compared: how many faces were compared, each with every other: n of them are n (n - 1) / 2 pairs.
    """

    folder: Path
    groups: tuple[DuplicateGroup, ...]
    skipped: Mapping[Path, FacekitError]
    threshold: float
    far: float | None
    faces: FacePolicy
    compared: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The groups as plain values for JSON."""
        return {
            "folder": str(self.folder),
            "threshold": self.threshold,
            "far": self.far,
            "faces": self.faces,
            "compared": self.compared,
            "groups": [group.to_dict() for group in self],
            "skipped": {str(path): str(error) for path, error in self.skipped.items()},
        }

    @overload
    def __getitem__(self, index: int) -> DuplicateGroup: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[DuplicateGroup, ...]: ...
    def __getitem__(self, index: int | slice) -> DuplicateGroup | tuple[DuplicateGroup, ...]:
        return self.groups[index]

    def __len__(self) -> int:
        return len(self.groups)

    def __str__(self) -> str:
        rate = "" if self.far is None else f" (false accept rate {self.far:.2g})"
        groups = counted(len(self), "group")
        head = f"{shown(str(self.folder))}: {groups} at threshold {self.threshold:.3f}{rate}"
        skipped = [f"skipped {shown(str(error))}" for error in self.skipped.values()]
        return "\n".join([head, *map(str, self), *skipped])


def group_pictures(
    pictures: Sequence[DuplicatePicture], threshold: float, *, device: torch.device | None = None
) -> list[DuplicateGroup]:
    """The groups of pictures that show the same people, the largest first."""
    counts = [len(picture.faces) for picture in pictures]
    if not counts:
        return []
    vectors = np.stack([face.embedding for picture in pictures for face in picture.faces])
    pairs, scores = pairs_above(vectors, threshold, device=device)
    apart = _faces_of_one_picture(counts)
    people = group_pairs(len(vectors), pairs, scores, threshold, vectors=vectors, cannot_link=apart)
    person = np.arange(len(vectors))  # who is in no group has a number of their own
    for number, faces in enumerate(people, start=len(vectors)):
        person[list(faces)] = number
    groups: dict[tuple[int, ...], list[DuplicatePicture]] = {}
    for picture, numbers in zip(pictures, np.split(person, np.cumsum(counts)[:-1]), strict=True):
        order = np.argsort(numbers)
        same_order = replace(picture, faces=tuple(picture.faces[i] for i in order))
        groups.setdefault(tuple(numbers[order].tolist()), []).append(same_order)
    repeated = sorted((group for group in groups.values() if len(group) > 1), key=len, reverse=True)
    return [DuplicateGroup(tuple(sorted(group, key=_best_first))) for group in repeated]


def _best_first(picture: DuplicatePicture) -> tuple[float, int, int, Path]:
    return -picture.quality, -picture.pixels, picture.modified_ns, picture.path


def _faces_of_one_picture(counts: Sequence[int]) -> NDArray[np.int64]:
    """(c, 2) all pairs of faces that cannot be one person."""
    starts = np.cumsum([0, *counts[:-1]])
    spans = zip(starts.tolist(), counts, strict=True)
    pairs = [pair for start, count in spans for pair in combinations(range(start, start + count), 2)]
    return np.array(pairs, np.int64).reshape(-1, 2)
