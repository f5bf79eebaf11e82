"""Greedy non-maximum suppression as a fixed point, for all candidates of all pictures at once."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from facekit.detect.integral import runs

__all__ = ["best_first", "overlap", "overlap_of_smaller", "suppress", "survivors"]

PAIRS = 1 << 22
"""Pairs compared at a time: bounds the memory."""


def best_first(group: Tensor, scores: Tensor) -> Tensor:
    """The order by group, then by falling score; ties keep their order. (n,) int64, (n,) -> (n,) int64."""
    order = scores.argsort(descending=True, stable=True)
    return order[group[order].argsort(stable=True)]


def survivors(count: int, winners: Tensor, losers: Tensor) -> Tensor:
    """Which candidates greedy suppression keeps, given every pair that excludes each other.

    A candidate stays if no *staying* candidate beats it. Starting from all, each round settles the candidates
    one link further down the longest chain of defeats, so that the fixed point is the greedy answer.

    Args:
        count: number of candidates.
        winners, losers: (p,) int64, the better and the worse of each pair that overlaps too much.

    Returns:
        (count,) bool.
    """
    keep = torch.ones(count, dtype=torch.bool, device=winners.device)
    while True:
        defeats = torch.zeros(count, dtype=torch.int32, device=winners.device)
        settled = defeats.index_add_(0, losers, keep[winners].int()) == 0
        if torch.equal(settled, keep):
            return keep
        keep = settled


def suppress(group: Tensor, boxes: Tensor, threshold: float, *, smaller: bool = False) -> Tensor:
    """Which boxes stay when every box drops the worse ones of its group that it overlaps.

    Args:
        group: (n,) int64, not falling.
        boxes: (n, 4) float32, within a group the best first.
        threshold: the overlap above which the worse box goes.
        smaller: measure the overlap by :func:`overlap_of_smaller` rather than by :func:`overlap`.

    Returns:
        (n,) bool.
    """
    measure = overlap_of_smaller if smaller else overlap
    place = torch.arange(len(group), device=group.device)
    rank = place - torch.searchsorted(group, group)
    winners, losers = [], []
    for part in _parts(rank):
        worse, step = runs(rank[part])
        worse += part.start
        better = worse - 1 - step
        close = measure(boxes[better], boxes[worse]) > threshold
        winners.append(better[close])
        losers.append(worse[close])
    return survivors(len(group), torch.cat(winners), torch.cat(losers))


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4), as torchvision measures it."""
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_(min=0)
    shared = sides[..., 0] * sides[..., 1]
    return shared / (_area(a, 0) + _area(b, 0) - shared)


def overlap_of_smaller(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over the smaller box's area, sides counted in whole pixels as the original MTCNN does."""
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]) + 1).clamp_(min=0)
    return sides[..., 0] * sides[..., 1] / torch.minimum(_area(a, 1), _area(b, 1))


def _area(box: Tensor, border: int) -> Tensor:
    return (box[..., 2] - box[..., 0] + border) * (box[..., 3] - box[..., 1] + border)


def _parts(rank: Tensor) -> list[slice]:
    """Slices of the candidates with about ``PAIRS`` pairs each: a candidate of rank r has r pairs."""
    block = (rank.cumsum(0) // PAIRS).tolist() if len(rank) * len(rank) > 2 * PAIRS else [0] * len(rank)
    starts = [i for i, b in enumerate(block) if i == 0 or b != block[i - 1]]
    return [slice(a, b) for a, b in pairwise([*starts, len(block)])] or [slice(0, 0)]
