"""300W-LP to train on and AFLW2000-3D for the test: 68 points of faces in all poses, with depth.

Zhu, Lei, Liu, Shi, Li, "Face Alignment Across Large Poses: A 3D Solution", CVPR 2016. A picture of
AFLW2000-3D has a ``.mat`` beside it with ``pt3d_68``, (3, 68). One of 300W-LP has one with ``Pose_Para``,
(1, 7): pitch, yaw and roll in radians, a translation and the scale; and ``landmarks/<set>/<name>_pts.mat``
with ``pts_3d``, (68, 2): where the points of the head are seen. Their depth is not in it, but every head is
shown in several poses, from which it follows. Mirrored copies (``..._Flip``) are left out: training mirrors
by itself.

Either set alone will do, too; then a part of it is the test split.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekit.errors import TrainingError
from facekit.train.probe.examples import TEST, TRAIN, Examples, Picture, TaskName
from facekit.train.probe.layouts.depth import points_in_depth, rotation
from facekit.train.probe.layouts.files import first_existing
from facekit.train.probe.layouts.layout import Layout, choose_task
from facekit.train.probe.layouts.matlab import load_mat
from facekit.train.probe.layouts.points import Pointed, in_square, point_examples, square_around

__all__ = ["LAYOUT"]

_log = logging.getLogger(__name__)

_POINTS = 68
_SETS = ("AFW", "HELEN", "IBUG", "LFPW")
_POSE = re.compile(r"(?P<head>.+)_\d+")  # AFW_134212_1_0: the first of the poses of AFW_134212_1


def _synthetic(path: Path) -> Path | None:
    """The folder of 300W-LP."""
    found = first_existing(path, *(f"{name}landmarks/AFW" for name in ("", "300W_LP/", "300W-LP/")))
    return found.parent.parent if found else None


def _real(path: Path) -> Path | None:
    """The folder of AFLW2000-3D."""
    names = ("", "AFLW2000/", "AFLW2000-3D/", "AFLW2000-3D/AFLW2000/")
    found = first_existing(path, *(f"{name}image00002.mat" for name in names))
    return found.parent if found else None


def _fits(path: Path) -> bool:
    return path.is_dir() and bool(_synthetic(path) or _real(path))


def _read(path: Path, task: TaskName | None) -> Examples:
    choose_task(path, task, "reconstruction")
    synthetic, real = _synthetic(path), _real(path)
    rows = _heads(synthetic) if synthetic else []
    if real:
        rows += _faces(real, TEST if synthetic else TRAIN)
    name = "300W-LP" if not real else "AFLW2000-3D"
    return point_examples(name, rows, task="reconstruction")


def _faces(folder: Path, split: int) -> list[Pointed]:
    rows = []
    for file in sorted(folder.glob("*.mat")):
        points = load_mat(file, {"pt3d_68": (3, _POINTS)})["pt3d_68"].T
        rows.append(_pointed(file, points, split, file.stem))
    return rows


def _heads(folder: Path) -> list[Pointed]:
    """All pictures of heads whose depth can be told."""
    rows, lost = [], []
    for name in _SETS:
        heads: dict[str, list[Path]] = defaultdict(list)
        for file in sorted((folder / name).glob("*.mat")):
            match = _POSE.fullmatch(file.stem)
            heads[match["head"] if match else file.stem].append(file)
        for head, files in heads.items():
            points = _in_depth(folder / "landmarks" / name, files)
            if points is None:
                lost += files
                continue
            rows += [_pointed(*row, TRAIN, head) for row in zip(files, points, strict=True)]
    if len(lost) > len(rows):
        raise TrainingError(
            f"{lost[0]}: its points are not what its poses make of one head, as in {len(lost)} of "
            f"{len(lost) + len(rows)} pictures; is this 300W-LP as it was published?"
        )
    if lost:
        _log.warning("%s: %d pictures are left out, as their depth cannot be told", folder, len(lost))
    return rows


def _in_depth(landmarks: Path, files: list[Path]) -> NDArray[np.float64] | None:
    points = [
        load_mat(landmarks / f"{file.stem}_pts.mat", {"pts_3d": (_POINTS, 2)})["pts_3d"] for file in files
    ]
    poses = [load_mat(file, {"Pose_Para": (1, 7)})["Pose_Para"][0] for file in files]
    turns = [rotation(*pose[:3].tolist()) for pose in poses]
    return points_in_depth(np.array(points), np.array(turns), np.array([pose[6] for pose in poses]))


def _pointed(file: Path, points: NDArray[np.float64], split: int, head: str) -> Pointed:
    """MATLAB counts pixels from 1 at the middle of the first; depth counts from the points' mean."""
    place = points - [0.5, 0.5, points[:, 2].mean()]
    square = square_around(place[:, :2], str(file))
    return Pointed(Picture(file.with_suffix(".jpg"), square), in_square(place, square), split, head)


LAYOUT = Layout(
    "300w-lp",
    "300W_LP/ with landmarks/AFW/, and AFLW2000/ with image00002.mat, or one of them",
    _fits,
    _read,
)
