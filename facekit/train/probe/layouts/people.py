"""Pictures of which each shows one person, whatever list said so."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from facekit.train.probe.examples import Examples, Picture
from facekit.train.probe.layouts.splits import complete_split

__all__ = ["people_examples"]


def people_examples(name: str, rows: Sequence[tuple[Picture, str, int]]) -> Examples:
    """Pictures, people and splits as examples of identities; whole people are drawn for missing splits."""
    people = sorted({person for _, person, _ in rows})
    number = {person: index for index, person in enumerate(people)}
    return Examples(
        name,
        "identities",
        tuple(people),
        tuple(picture for picture, _, _ in rows),
        torch.tensor([number[person] for _, person, _ in rows], dtype=torch.int64),
        complete_split([split for _, _, split in rows], groups=[person for _, person, _ in rows], fewest=2),
    )
