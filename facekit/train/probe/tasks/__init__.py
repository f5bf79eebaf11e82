"""The face tasks that a representation is tried on, one file each."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from facekit.errors import TrainingError
from facekit.train.probe.examples import TEST, TRAIN, Examples
from facekit.train.probe.tasks.action_units import ActionUnits
from facekit.train.probe.tasks.affect import Affect
from facekit.train.probe.tasks.attributes import Attributes
from facekit.train.probe.tasks.classes import Classes
from facekit.train.probe.tasks.identities import Identities
from facekit.train.probe.tasks.landmarks import Landmarks
from facekit.train.probe.tasks.reconstruction import Reconstruction
from facekit.train.probe.tasks.task import Task

__all__ = ["Task", "task_of"]


def task_of(examples: Examples, rows: Tensor | None = None) -> Task:
    """The task of a set.

    Args:
        examples: which it keeps.
        rows: (k,) int64, those of the training split whose labels may be looked at, before training (people
            to tell apart, a model of shapes) and in it; by default all.

    Raises:
        TrainingError: nothing to learn from, or no test split.
        EvaluationError: a test split in which nothing can be scored.
    """
    rows = examples.rows(TRAIN) if rows is None else rows
    if not len(rows):
        raise TrainingError(f"{examples.name}: no picture to learn from; name some of the training split")
    if not len(examples.rows(TEST)):
        raise TrainingError(f"{examples.name}: no picture in the test split; name some to measure on")
    if examples.task == "identities":
        return Identities(examples, rows)
    if examples.task == "reconstruction":
        return Reconstruction(examples, rows)
    kinds: dict[str, Callable[[Examples], Task]] = {
        "classes": Classes,
        "attributes": Attributes,
        "landmarks": Landmarks,
        "affect": Affect,
        "action_units": ActionUnits,
    }
    return kinds[examples.task](examples)
