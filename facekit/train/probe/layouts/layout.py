"""What a layout is: how a set of labelled pictures is recognised on disk, and read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from facekit.errors import TrainingError
from facekit.train.probe.examples import Examples, TaskName

__all__ = ["Layout", "choose_task"]


@dataclass(frozen=True, slots=True)
class Layout:
    """One way in which sets lie on disk.

    Attributes:
        name: what ``--layout`` calls it.
        looks: its characteristic files, for people whose folder was not recognised.
        fits: whether a path has these files; looks at names and first lines only.
        read: the examples in a path that fits, for one of its tasks; None for its only one.
    """

    name: str
    looks: str
    fits: Callable[[Path], bool]
    read: Callable[[Path, TaskName | None], Examples]


def choose_task(path: Path, task: TaskName | None, *offered: TaskName) -> TaskName:
    """The task that was asked for, or the only one that the labels allow.

    Raises:
        TrainingError: the labels are not there, or allow several tasks and none was asked for.
    """
    names = ", ".join(offered)
    if task is not None and task in offered:
        return task
    if task is not None or not offered:
        raise TrainingError(f"{path}: holds no labels for {task or 'any task'}, only for: {names or 'none'}")
    if len(offered) == 1:
        return offered[0]
    raise TrainingError(
        f"{path}: holds labels for several tasks; name the task in front, as TASK={path}: {names}"
    )
