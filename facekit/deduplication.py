"""Which pictures of a folder repeat a person, and which of them to keep."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from facekit.checkpoint import Checkpoint, ModelConfig, load_checkpoint
from facekit.duplicates import DuplicateGroup, DuplicatePicture, Duplicates, group_pictures
from facekit.encode import FaceEncoder
from facekit.errors import FacekitError, NoFaceError, SettingError
from facekit.image import MAX_PIXELS, find_images
from facekit.policy import FacePolicy
from facekit.removal import PlannedFile, PlannedGroup, RemovalPlan
from facekit.threshold import Threshold, choose_threshold
from facekit.trash import reason, shown

__all__ = ["FaceDeduplication", "Keep", "plan_removal"]


Keep: TypeAlias = "Literal['best', 'largest', 'oldest', 'newest'] | Callable[[DuplicateGroup], str | Path]"
"""Which picture of a group stays: that with the best faces, the most pixels, the earliest or latest time of
writing (of equals the one with the best faces); or a function that chooses one of the group's paths."""

_ROUNDING = 1e-6  # of a similarity in float32
_FAR = 1e-4  # a folder holds very many pairs, and what is taken for a repetition goes

_RANKS: dict[str, Callable[[DuplicatePicture], float]] = {
    "best": lambda picture: picture.quality,
    "largest": lambda picture: picture.pixels,
    "oldest": lambda picture: -picture.modified_ns,
    "newest": lambda picture: picture.modified_ns,
}


class FaceDeduplication:
    """Finds the pictures of a folder that repeat a person, and removes them so that it can be undone.

    Holds networks, never pictures: safe to share between threads.

    Args:
        checkpoint: what makes the embeddings: None for the one that ships with facekit, a checkpoint folder,
            a file (.pth, .ckpt, .onnx ...), ``"owner/name"`` on the Hugging Face Hub, or one that is loaded.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``; what is not there is an error.
        precision: ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        min_face: the smallest face to look for, in pixels.
        batch_size: crops that the network takes at a time, or ``"auto"``.
        max_pixels: the largest picture that is decoded.

    Raises:
        CheckpointError: the checkpoint cannot be found or used.
        SettingError, DeviceError: a setting that cannot be had.
    """

    def __init__(
        self,
        checkpoint: str | Path | Checkpoint | None = None,
        device: str | torch.device = "auto",
        *,
        precision: str = "auto",
        min_face: float = 40.0,
        batch_size: int | str = "auto",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
        self.config: ModelConfig = loaded.config
        self.encoder = FaceEncoder(
            loaded,
            device=device,
            precision=precision,
            batch_size=batch_size,
            min_face=min_face,
            max_pixels=max_pixels,
        )

    def find_duplicates(
        self,
        folder: str | Path,
        threshold: float | None = None,
        *,
        far: float | None = None,
        faces: FacePolicy = "largest",
        aligned: bool = False,
        progress: bool | None = None,
    ) -> Duplicates:
        """Groups the pictures of a folder, and of those in it, by the people that they show.

        What cannot be read, or shows no face, is among the result's ``skipped`` and stops nothing. Hidden
        files and symbolic links are left out. Memory grows with the pictures and with the pairs that match.

        Args:
            folder: where to look.
            threshold: the similarity that a group has on average; beats ``far``.
            far: a false accept rate, looked up in the checkpoint's calibration. With neither it is 1e-4
                where the calibration reaches that far, for a folder of n faces has n (n - 1) / 2 pairs;
                else the checkpoint's default threshold counts.
            faces: which faces of a picture count. With ``"largest"`` a group photograph repeats a portrait
                of whoever is most in view. With ``"all"`` pictures are in one group only if all their faces
                pair off; two faces of one picture are never taken for the same person.
            aligned: the pictures are square crops, aligned to the ArcFace template.
            progress: a bar on stderr; None for one where stderr is a terminal and the pictures are many.

        Raises:
            ImageError: the folder is missing or holds no pictures.
            SettingError: ``folder``, ``threshold`` or ``faces`` cannot be used.
            CalibrationError: no threshold is given or known, or ``far`` was not measured.
        """
        if not isinstance(folder, (str, os.PathLike)) or not os.fspath(folder):
            raise SettingError(f"folder: {folder!r} is not a folder; name one, '.' for where you are")
        chosen = _choose_threshold(self.config, threshold, far)
        paths = find_images(folder)
        stamps = [_stamp(path) for path in paths]  # before they are read, so that a later change shows
        found: list[DuplicatePicture] = []
        skipped: dict[Path, FacekitError] = {}
        images = self.encoder.stream(paths, faces=faces, aligned=aligned, progress=progress)
        for path, stamp, image in zip(paths, stamps, images, strict=True):
            if image.size is not None and image.faces:
                found.append(DuplicatePicture(path, image.faces, image.size, *stamp))
            else:
                skipped[path] = image.error or NoFaceError(f"{path}: no face found", path=str(path))
        groups = group_pictures(found, chosen.similarity, device=self.encoder.embedder.device)
        compared = sum(len(picture.faces) for picture in found)
        return Duplicates(
            Path(folder), tuple(groups), skipped, chosen.similarity, chosen.far, faces, compared
        )

    def remove_duplicates(
        self,
        folder: str | Path,
        keep: Keep = "best",
        threshold: float | None = None,
        *,
        dry_run: bool = True,
        far: float | None = None,
        faces: FacePolicy = "largest",
        aligned: bool = False,
        progress: bool | None = None,
    ) -> RemovalPlan:
        """Plans to keep one picture of each group; moves the others only if told to.

        A group is alike on average; a picture goes only if it is that much like the very one that stays.
        With ``dry_run=False`` the plan is applied at once, and its ``report`` says what became of it. Either
        way nothing is deleted: the files are moved into ``.facekit-trash`` inside the folder, from where
        :func:`facekit.removal.undo` brings them back.

        Args:
            folder: where to look.
            keep: which picture of a group stays, see :data:`Keep`.
            threshold: as for :meth:`find_duplicates`, like the settings that are not named here. To remove
                group photographs only where all their people are in another, use ``faces="all"``.
            dry_run: only plan; look at it, save it, apply it later.

        Raises:
            RemovalError: the plan cannot be applied, see :func:`facekit.removal.apply_plan`.
            ImageError, SettingError, CalibrationError: as for :meth:`find_duplicates`.
        """
        _check_keep(keep)
        found = self.find_duplicates(
            folder, threshold, far=far, faces=faces, aligned=aligned, progress=progress
        )
        plan = plan_removal(found, keep)
        return plan if dry_run else replace(plan, report=plan.apply(progress=progress))


def plan_removal(duplicates: Duplicates, keep: Keep = "best") -> RemovalPlan:
    """Chooses which picture of each group stays; moves nothing.

    A picture goes only if its own similarity to the one that stays reaches the threshold, not just that of
    its group on average. One that does not, cannot be read any more, or has changed since the groups were
    found, is left out of the plan and is among its ``skipped``.

    Raises:
        SettingError: ``keep`` is not known, or chose a picture outside the group.
    """
    _check_keep(keep)
    folder = duplicates.folder.resolve()
    skipped = {
        _inner(path, duplicates): str(error).removeprefix(f"{path}: ")
        for path, error in duplicates.skipped.items()
    }
    groups = []
    for group in duplicates:
        files: dict[Path, PlannedFile] = {}
        for picture in group.pictures:
            try:
                files[picture.path] = _observe(folder, _inner(picture.path, duplicates), picture)
            except OSError as error:
                skipped[_inner(picture.path, duplicates)] = reason(error)
        left = DuplicateGroup(tuple(picture for picture in group.pictures if picture.path in files))
        if len(left) > 1:
            planned, unlike = _plan_group(left, files, keep, duplicates.threshold)
            groups += [planned] if planned.remove else []
            skipped |= unlike
    settings = {
        "keep": keep if isinstance(keep, str) else getattr(keep, "__name__", "a function"),
        "threshold": duplicates.threshold,
        "far": duplicates.far,
        "faces": duplicates.faces,
        "compared": duplicates.compared,
    }
    return RemovalPlan(str(folder), tuple(groups), settings, skipped)


def _plan_group(
    group: DuplicateGroup, files: Mapping[Path, PlannedFile], keep: Keep, threshold: float
) -> tuple[PlannedGroup, dict[str, str]]:
    """What goes, and why each of those stays that are not alike enough to the one that is kept."""
    stays = _choose(group, keep)
    goes, unlike = [], {}
    for path, score in zip(group, group.similarity_to(stays), strict=True):
        file = files[path]
        if path != stays and score >= threshold - _ROUNDING:
            goes.append(replace(file, why=f"similarity {score:.3f}, {file.why}"))
        elif path != stays:
            problem = f"similarity {score:.3f} to {shown(files[stays].path)} is below the threshold"
            unlike[file.path] = f"stays: {problem}, {threshold:.3f}"
    return PlannedGroup(files[stays], tuple(goes)), unlike


def _choose(group: DuplicateGroup, keep: Keep) -> Path:
    if isinstance(keep, str):
        return max(group.pictures, key=_RANKS[keep]).path
    chosen = Path(str(keep(group)))
    if chosen not in group:
        raise SettingError(f"keep: chose {str(chosen)!r}, which is not one of the group of {group[0]}")
    return chosen


def _choose_threshold(config: ModelConfig, threshold: float | None, far: float | None) -> Threshold:
    rates = [] if config.calibration is None else list(config.calibration.thresholds)
    if threshold is None and far is None and rates and min(rates) <= _FAR <= max(rates):
        far = _FAR
    return choose_threshold(config, threshold=threshold, far=far)


def _check_keep(keep: Keep) -> None:
    if not callable(keep) and keep not in list(_RANKS):
        raise SettingError(f"keep: {keep!r} is not one of {', '.join(map(repr, _RANKS))}, nor a function")


def _observe(folder: Path, path: str, picture: DuplicatePicture) -> PlannedFile:
    file = PlannedFile.observe(folder, path, picture.why)
    if (file.bytes, file.modified_ns) != (picture.bytes, picture.modified_ns):
        raise OSError(errno.EBUSY, "has changed since it was looked at")
    return file


def _inner(path: Path, duplicates: Duplicates) -> str:
    return path.relative_to(duplicates.folder).as_posix()


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of writing; zeros for what is gone, which then cannot be read either."""
    try:
        status = path.lstat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
