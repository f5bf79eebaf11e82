"""Several labelled sets of one task as one: what a set says nothing of is not known of its pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from facekit.errors import SettingError, TrainingError
from facekit.train.probe.examples import TEST, TRAIN, VALIDATION, Examples

__all__ = ["join_examples", "never_known"]

_BY_COLUMN = ("attributes", "action_units")  # whose targets are columns of their own, with NaN for unknown
_ALIKE = ("names", "interocular", "mirror")
_SPLITS = {TRAIN: "training", VALIDATION: "validation", TEST: "test"}


def join_examples(sets: Sequence[Examples]) -> Examples:
    """One set of several, in their order. Each keeps its split.

    Attributes and action units are the union of those of all sets, in the order in which they appear; NaN
    where a picture's set does not have one. Elsewhere all sets must have the same names.

    Args:
        sets: of one task.

    Raises:
        SettingError: sets that do not go together.
        TrainingError: a picture in one split of one of them, and in another split of another.
    """
    first, *others = sets
    for other in others:
        _require_fit(first, other)
    if not others:
        return first
    _require_apart(sets)
    names = tuple(dict.fromkeys(name for each in sets for name in each.names))
    return Examples(
        name=" + ".join(dict.fromkeys(each.name for each in sets)),
        task=first.task,
        names=names,
        pictures=[picture for each in sets for picture in each.pictures],
        targets=torch.cat([_spread(each, names) for each in sets]),
        split=torch.cat([each.split for each in sets]),
        interocular=first.interocular,
        mirror=first.mirror,
    )


def never_known(examples: Examples) -> tuple[str, ...]:
    """A line that names the columns of which no training picture says anything; none where there are none."""
    if examples.task not in _BY_COLUMN:
        return ()
    unknown = examples.targets[examples.rows(TRAIN)].isnan().all(0)
    names = [name for name, never in zip(examples.names, unknown.tolist(), strict=True) if never]
    return (f"of no training picture it is known: {', '.join(names)}; it is not learnt",) if names else ()


def _spread(examples: Examples, names: Sequence[str]) -> Tensor:
    if examples.task not in _BY_COLUMN:
        return examples.targets
    wide = torch.full((len(examples), len(names)), torch.nan)
    wide[:, [names.index(name) for name in examples.names]] = examples.targets
    return wide


def _require_fit(one: Examples, other: Examples) -> None:
    which = f"data={one.name}, {other.name}"
    if one.task != other.task:
        raise SettingError(f"{which}: labels for {one.task} and for {other.task}; give sets of one task")
    if one.task == "identities":
        raise SettingError(f"{which}: the people of two sets are others; train convrec on one list")
    if one.task in _BY_COLUMN:
        return
    for what in _ALIKE:
        here, there = getattr(one, what), getattr(other, what)
        if here != there:
            differ = sorted(set(map(str, here)) ^ set(map(str, there)))[:8]
            raise SettingError(
                f"{which}: their {what} differ ({', '.join(differ) or 'in their order'}); "
                f"{one.task} are joined where they are the same"
            )


def _require_apart(sets: Sequence[Examples]) -> None:
    """A picture has one part in all sets: to learn from, to choose by, or to test with.

    Another face of the same file counts as the same picture. Rows of a file that holds many pictures have no
    name by which to compare them.
    """
    before: dict[str, tuple[str, set[int]]] = {}
    for each in sets:
        here: dict[str, set[int]] = {}
        for picture, split in zip(each.pictures, each.split.tolist(), strict=True):
            if picture.read is None:
                here.setdefault(os.path.realpath(picture.path), set()).add(split)
        for file, splits in here.items():
            other, theirs = before.setdefault(file, (each.name, splits))
            if len(splits | theirs) > 1 and theirs is not splits:
                said = [" and ".join(_SPLITS[split] for split in sorted(of)) for of in (theirs, splits)]
                raise TrainingError(
                    f"{file}: in the {said[0]} split of {other}, and in the {said[1]} split of {each.name}; "
                    "name its split alike in both"
                )
