"""What is said of a mirrored picture: where its points are, and which side is left."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["mirrored_names", "mirrored_points"]

_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)
_PAIRS = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"))
_OTHER = {**dict(_PAIRS), **{right: left for left, right in _PAIRS}}


def mirrored_names(names: Sequence[str]) -> tuple[int, ...] | None:
    """The number that each name has in the mirrored picture: ``looks left`` becomes ``looks right``.

    Returns:
        None where a name speaks of a side, and no other one of the other side: nobody can tell.
    """
    opposite = [_SIDE.sub(lambda side: _OTHER.get(side[0], side[0]), name) for name in names]
    unpaired = [name for name in names if _SIDE.search(name) and opposite.count(name) != 1]
    return None if unpaired else tuple(names.index(name) for name in opposite)


def mirrored_points(points: Tensor, mirror: tuple[int, ...]) -> Tensor:
    """Points of mirrored pictures: x becomes 1 - x, and the left eye the right one.

    Args:
        points: (n, p, 2 or 3).
        mirror: the number that each point has in the mirrored picture; where empty, nobody can tell, and
            all are NaN.
    """
    if not mirror:
        return torch.full_like(points, torch.nan)
    flipped = torch.cat([1 - points[..., :1], points[..., 1:]], dim=-1)
    return torch.empty_like(flipped).index_copy_(1, torch.tensor(mirror, device=points.device), flipped)
