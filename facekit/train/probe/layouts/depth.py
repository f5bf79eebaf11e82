"""How far from the camera the points of a face lie, from several pictures of one head in known poses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["points_in_depth", "rotation"]

_SPREAD = 0.05  # smallest over largest singular value, below which the poses are as good as one
_ERROR = 0.02  # of the face's size, beyond which the points are not projections of one head


def rotation(pitch: float, yaw: float, roll: float) -> NDArray[np.float64]:
    """(3, 3): the head's rotation by angles in radians, as 3DDFA has them: x to the right, y up, z to the
    camera, R = Rx(pitch) Ry(yaw) Rz(roll), each turning by the negative angle (Zhu, Lei, Liu, Shi, Li, "Face
    Alignment Across Large Poses: A 3D Solution", CVPR 2016, equation 2, and its published code).
    """
    (sx, sy, sz), (cx, cy, cz) = np.sin((pitch, yaw, roll)), np.cos((pitch, yaw, roll))
    x = np.array([[1, 0, 0], [0, cx, sx], [0, -sx, cx]])
    y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    z = np.array([[cz, sz, 0], [-sz, cz, 0], [0, 0, 1]])
    return np.asarray(x @ y @ z)


def points_in_depth(
    points: NDArray[np.float64], rotations: NDArray[np.float64], scales: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Add depth to points that several pictures show of one head in different poses.

    Under scaled orthographic projection, x = f (R P)_{1,2} + t, each picture says two linear things of each
    point P of the head; two or more poses say all, and P follows by least squares. The pictures' means are
    taken out first, so that t does not matter.

    Args:
        points: (k, p, 2), pixels, y down: p points in k pictures.
        rotations: (k, 3, 3), as of :func:`rotation`.
        scales: (k,), f.

    Returns:
        (k, p, 3): the points, and their distance towards the camera from their mean, in pixels. None where
        the poses are too alike to tell, or the points are not what these poses make of one head.
    """
    flip = np.array([1.0, -1.0])  # pictures count y down, heads up
    means = points.mean(axis=1, keepdims=True)
    seen = (points - means) * flip
    poses = scales[:, None, None] * rotations
    system = poses[:, :2].reshape(-1, 3)
    strengths = np.linalg.svd(system, compute_uv=False)
    if len(system) < 4 or strengths[-1] < _SPREAD * strengths[0]:
        return None
    head = np.linalg.lstsq(system, seen.transpose(0, 2, 1).reshape(len(system), -1), rcond=None)[0]
    shown = (poses @ head).transpose(0, 2, 1)
    errors = np.linalg.norm(shown[..., :2] - seen, axis=-1).mean(axis=1)
    sizes = np.sqrt(np.ptp(seen, axis=1).prod(axis=-1))
    if (errors > _ERROR * sizes).any():
        return None
    return np.concatenate([points, shown[..., 2:]], axis=-1)
