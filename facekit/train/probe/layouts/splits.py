"""Who is trained on, validated with and tested, where a set does not say it all."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facekit.train.probe.examples import TEST, TRAIN, VALIDATION

__all__ = ["SPLITS", "complete_split"]

SPLITS = {
    "train": TRAIN,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "test": TEST,
    "heldout": TEST,
}
"""What folders and columns call the splits."""

_SHARES = {TEST: 0.2, VALIDATION: 0.1}
_SEED = 0  # of the split, not of a run: all runs of all networks share it


def complete_split(
    split: Sequence[int],
    *,
    groups: Sequence[Hashable] | None = None,
    classes: Sequence[Hashable] | None = None,
    fewest: int = 1,
) -> Tensor:
    """Draw the splits that a set does not name: a fifth of its training rows for the test, then a tenth for
    validation. Named splits stay as they are.

    Args:
        split: one a row, ``TRAIN`` where it names none.
        groups: one a row, such as the person: a group is never divided.
        classes: one a row: where there are no groups, each class gives its share, and at least one row of
            two or more.
        fewest: groups that are drawn, if twice as many remain: one person is told apart from nobody.

    Returns:
        (n,) uint8.
    """
    result = np.array(split, dtype=np.uint8)
    for wanted, share in _SHARES.items():
        rows = np.flatnonzero(result == TRAIN)
        if not (result == wanted).any():
            result[rows[_drawn(rows, share, groups, classes, fewest, _SEED + wanted)]] = wanted
    return torch.from_numpy(result)


def _drawn(
    rows: NDArray[np.int64],
    share: float,
    groups: Sequence[Hashable] | None,
    classes: Sequence[Hashable] | None,
    fewest: int,
    seed: int,
) -> NDArray[np.int64]:
    """Places in ``rows`` that make up the share."""
    generator = torch.Generator().manual_seed(seed)
    if groups is not None and len(members := _members(groups, rows)) > 1:
        order = torch.randperm(len(members), generator=generator).tolist()
        sizes = np.cumsum([len(members[number]) for number in order])
        least = fewest if len(members) >= 3 * fewest else 1
        count = min(max(int(np.searchsorted(sizes, share * len(rows))) + 1, least), len(members) - 1)
        return np.concatenate([members[number] for number in order[:count]])
    drawn = [np.empty(0, np.int64)]
    for places in _members(classes, rows) if classes is not None else [np.arange(len(rows))]:
        count = max(round(share * len(places)), min(1, len(places) - 1))
        drawn.append(places[torch.randperm(len(places), generator=generator)[:count].numpy()])
    return np.concatenate(drawn)


def _members(labels: Sequence[Hashable], rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The places in ``rows`` of each label, in the order of their first appearance."""
    places: dict[Hashable, list[int]] = {}
    for place, row in enumerate(rows.tolist()):
        places.setdefault(labels[row], []).append(place)
    return [np.array(found, dtype=np.int64) for found in places.values()]
