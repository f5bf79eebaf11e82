"""How far predicted points are from where they should be."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["absolute_yaw", "box_error", "ced_auc", "failure_rate", "interocular_error"]


def interocular_error(
    predicted: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]], pair: tuple[int, int]
) -> NDArray[np.float64]:
    """Mean distance of a picture's points from their places, in distances of its eyes (NME).

    Source: Sagonas et al. 2013, "300 faces in-the-wild challenge", eq. 1, which takes the outer corners.

    Args:
        predicted: (n, p, 2).
        targets: (n, p, 2); points with a NaN are not known and count for nothing.
        pair: the two points whose distance is the unit.

    Returns:
        (n,); NaN for pictures without a known point or unit.
    """
    eyes = np.linalg.norm(targets[:, pair[0]].astype(np.float64) - targets[:, pair[1]], axis=-1)
    return _mean_distance(predicted, targets) / np.where(eyes > 0, eyes, np.nan)


def box_error(
    predicted: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    r"""Mean distance of a picture's points from their places, in :math:`\sqrt{wh}` of the box around them.

    The box is that of the known points' x and y; seen from the side, eyes would be no unit.

    Source: Zhu et al. 2016, "Face alignment across large poses: a 3D solution", section 5.2; on
    AFLW2000-3D usually averaged over the bins 0-30, 30-60, 60-90 degrees of yaw.

    Args:
        predicted: (n, p, d), d of 2 or 3.
        targets: (n, p, d); points with a NaN are not known and count for nothing.

    Returns:
        (n,); NaN for pictures with fewer than two known points.
    """
    known = ~np.isnan(targets).any(-1)[..., None]
    flat = targets[..., :2].astype(np.float64)
    high = flat.max(1, where=known, initial=-np.inf)
    low = flat.min(1, where=known, initial=np.inf)
    area = np.prod(np.maximum(high - low, 0), axis=1)
    return _mean_distance(predicted, targets) / np.where(area > 0, np.sqrt(area), np.nan)


def absolute_yaw(points: NDArray[np.floating[Any]], pair: tuple[int, int]) -> NDArray[np.float64]:
    """How far faces are turned to a side: the angle between the line of the eyes and the picture.

    Args:
        points: (n, p, 3), z in the unit of x and y.
        pair: two points that mirror each other, far apart.

    Returns:
        (n,) degrees in [0, 90]; NaN where one of the two is not known.
    """
    line = points[:, pair[1]].astype(np.float64) - points[:, pair[0]]
    return np.degrees(np.arctan2(np.abs(line[:, 2]), np.hypot(line[:, 0], line[:, 1])))


def ced_auc(errors: NDArray[np.floating[Any]], limit: float) -> float:
    r"""Area under the cumulative error distribution up to a limit, as a share of the whole: in [0, 1].

    :math:`\frac{1}{l}\int_0^l F(e)\,de`, which for the empirical F is the mean of
    :math:`\max(0, 1 - e/l)`.

    Args:
        errors: (n,), n > 0.
        limit: l > 0, such as 0.08.
    """
    return float(np.maximum(0, 1 - errors / limit).mean())


def failure_rate(errors: NDArray[np.floating[Any]], limit: float) -> float:
    """Share of the pictures whose error is above a limit, in [0, 1].

    Args:
        errors: (n,), n > 0.
        limit: such as 0.08.
    """
    return float((errors > limit).mean())


def _mean_distance(
    predicted: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """(n,) over the known points; NaN where there is none."""
    known = ~np.isnan(targets).any(-1)
    distances = np.linalg.norm(predicted.astype(np.float64) - targets, axis=-1)
    total = distances.sum(1, where=known)
    return np.where(known.any(1), total / np.maximum(known.sum(1), 1), np.nan)
