"""Where the points of a mirrored picture are."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mirrored_points"]


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
