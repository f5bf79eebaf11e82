"""Pictures of which each shows one class, whatever list said so."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch

from facekit.train.probe.examples import Examples, Picture
from facekit.train.probe.layouts.splits import complete_split

__all__ = ["Labelled", "class_examples"]


class Labelled(NamedTuple):
    """A picture and its class, a number; the split that it is in; and, where known, whom it shows."""

    picture: Picture
    label: int
    split: int
    person: Hashable = None


def class_examples(name: str, names: Sequence[str], rows: Sequence[Labelled]) -> Examples:
    """The rows as examples of the classes ``names``; missing splits are drawn."""
    known = all(row.person is not None for row in rows)
    return Examples(
        name,
        "classes",
        tuple(names),
        tuple(row.picture for row in rows),
        torch.tensor([row.label for row in rows], dtype=torch.int64),
        complete_split(
            [row.split for row in rows],
            groups=[row.person for row in rows] if known else None,
            classes=[row.label for row in rows],
        ),
    )
