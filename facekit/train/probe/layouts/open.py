"""Labelled pictures in whatever layout they were handed on: recognised by its files, read, and checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from facekit.errors import SettingError, TrainingError
from facekit.train.probe.examples import TASKS, TEST, TRAIN, Examples, TaskName
from facekit.train.probe.layouts import (
    affectnet,
    aflw3d,
    celeba,
    ckplus,
    cofw,
    columns,
    disfa,
    fer2013,
    folders,
    ibug,
    rafdb,
    utkface,
    wflw,
)
from facekit.train.probe.layouts.layout import Layout

__all__ = ["LAYOUTS", "open_examples"]

LAYOUTS: tuple[Layout, ...] = (
    celeba.LAYOUT,
    affectnet.LAYOUT,
    fer2013.LAYOUT,
    rafdb.LAYOUT,
    ckplus.LAYOUT,
    disfa.LAYOUT,
    *ibug.LAYOUTS,
    wflw.LAYOUT,
    cofw.LAYOUT,
    aflw3d.LAYOUT,
    utkface.LAYOUT,
    columns.LAYOUT,
    folders.LAYOUT,
)
"""In the order in which they are tried: what any folder looks like comes last."""


def open_examples(
    path: Path, *, task: TaskName | None = None, layout: str = "auto", name: str | None = None
) -> Examples:
    """What a set of pictures says, before any of them is decoded.

    Where the set names no test split, a fifth of its training pictures becomes it; where it names none for
    validation, a tenth: whole people where they are known, the same part of each class otherwise, and always
    the same ones.

    Args:
        path: the folder as it was unpacked, or a CSV file.
        task: what to learn, where the labels allow several things.
        layout: one of :data:`LAYOUTS` by name, or ``"auto"``.
        name: what tables call the set; its own name, if not given.

    Raises:
        TrainingError: no known layout, labels that cannot be understood, no pictures to train on or to test
            with, people in the test split and in another one, or a task that the labels do not allow.
        ImageError: a folder that should hold pictures does not.
        SettingError: an unknown layout or task.
        MissingExtraError: SciPy or h5py is needed and not installed.
    """
    if task is not None and task not in TASKS:
        raise SettingError(f"task is {task!r}: choose of {', '.join(TASKS)}")
    chosen = _layout(path, layout)
    examples = chosen.read(path, task)
    _check(path, examples)
    return replace(examples, name=name) if name else examples


def _layout(path: Path, name: str) -> Layout:
    if name != "auto":
        for layout in LAYOUTS:
            if layout.name == name:
                return layout
        raise SettingError(f"layout is {name!r}: choose of auto, {', '.join(one.name for one in LAYOUTS)}")
    if not path.exists():
        raise TrainingError(f"{path}: no such file or folder; check the path")
    for layout in LAYOUTS:
        if layout.fits(path):
            return layout
    known = "; ".join(f"{layout.name} ({layout.looks})" for layout in LAYOUTS)
    raise TrainingError(f"{path}: is in no known layout; give the folder as it was unpacked: {known}")


def _check(path: Path, examples: Examples) -> None:
    for split, purpose in ((TRAIN, "train on"), (TEST, "test with")):
        if not len(examples.rows(split)):
            raise TrainingError(
                f"{path}: {len(examples)} pictures, none of them to {purpose}; name the splits"
            )
    if examples.task == "identities":
        tested = examples.split == TEST
        both = examples.targets[tested][torch.isin(examples.targets[tested], examples.targets[~tested])]
        if len(both):
            person = examples.names[int(both[0])]
            raise TrainingError(f"{path}: {person!r} is in the test split and in another; split by identity")
