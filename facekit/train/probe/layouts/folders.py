"""A folder with one folder a class or person, or folders train, validation and test of such."""

from __future__ import annotations

from pathlib import Path

from facekit.errors import TrainingError
from facekit.image import find_images
from facekit.train.probe.examples import TRAIN, Examples, Picture, TaskName
from facekit.train.probe.layouts.classes import Labelled, class_examples
from facekit.train.probe.layouts.layout import Layout, choose_task
from facekit.train.probe.layouts.people import people_examples
from facekit.train.probe.layouts.splits import SPLITS

__all__ = ["LAYOUT"]


def _fits(path: Path) -> bool:
    return path.is_dir() and any(_subfolders(path))


def _subfolders(path: Path) -> list[str]:
    return [
        entry.name
        for entry in path.iterdir()
        if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith(".")
    ]


def _read(path: Path, task: TaskName | None) -> Examples:
    """The name of a folder is the class, or, where that is the task, the person."""
    chosen = choose_task(path, task or "classes", "classes", "identities")
    divided = {"train"} <= set(_subfolders(path)) <= set(SPLITS)
    rows = []
    for picture in find_images(path):
        *folders, _ = picture.relative_to(path).parts
        split = SPLITS[folders.pop(0)] if divided and folders else TRAIN
        if not folders:
            raise TrainingError(f"{picture}: outside any class's folder; make one folder a class")
        rows.append((picture, folders[0], split))
    names = sorted({label for _, label, _ in rows})
    if chosen == "identities":
        return people_examples(path.name, [(Picture(picture), who, split) for picture, who, split in rows])
    number = {label: index for index, label in enumerate(names)}
    return class_examples(
        path.name,
        names,
        [Labelled(Picture(picture), number[label], split) for picture, label, split in rows],
    )


LAYOUT = Layout("folder", "a folder with one folder a class, or train/ and test/ of such", _fits, _read)
