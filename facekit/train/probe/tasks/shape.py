"""A linear model of 3-D points: their mean, how people and expressions vary it, and how it is posed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from facekit.errors import TrainingError

__all__ = ["POSE", "ShapeModel", "fit_shape", "levelled", "place"]

POSE = 9
"""Numbers of a pose: six of the rotation, one of the size, two of the place."""

_COMPONENTS = 40
_ROUNDS = 10  # of Procrustes' alignment, which changes nothing to speak of after three


@dataclass(frozen=True, slots=True, eq=False)
class ShapeModel:
    """What :func:`fit_shape` found; all float32.

    Attributes:
        mean: (p, 3), around 0 and of unit size, turned as faces are on average.
        basis: (k, p, 3), a standard deviation of each component long.
        scale: (2,) mean and standard deviation of the logarithm of the size.
        place: (2, 2) mean and standard deviation of x and y of the centre.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor
    place: Tensor


def fit_shape(points: Tensor) -> ShapeModel:
    """Fit a shape model: points are aligned to their mean (Procrustes), and what remains is a PCA.

    Source: Cootes et al. 1995, "Active shape models", with the similarity transform solved as in Umeyama
    1991; as many as 40 components, fewer of few faces.

    Args:
        points: (n, p, 3); faces with a NaN are left out.

    Raises:
        TrainingError: fewer than two whole faces.
    """
    whole = points[points.isfinite().all(-1).all(-1)].double()
    if len(whole) < 2:
        raise TrainingError(f"{len(whole)} faces with all points in 3-D: a model of shape needs at least 2")
    centre = whole.mean(1, keepdim=True)
    size = (whole - centre).square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-9)
    shapes = (whole - centre) / size
    mean = shapes[0]
    for _ in range(_ROUNDS):
        turns = _rotations(mean, shapes)
        mean = (shapes @ turns).mean(0)
        mean = mean / mean.square().mean().sqrt()
    mean = mean @ _nearest_rotation(turns.mean(0)).T  # as faces are on average, so that no turn is the first
    aligned = shapes @ _rotations(mean, shapes)
    _, spread, axes = torch.linalg.svd((aligned - mean).flatten(1), full_matrices=False)
    count = min(_COMPONENTS, len(whole) - 1)
    basis = axes[:count] * spread[:count, None] / len(whole) ** 0.5
    logarithm, position = size.flatten().log(), centre[:, 0, :2]
    return ShapeModel(
        mean=mean.float(),
        basis=basis.unflatten(1, mean.shape).float(),
        scale=torch.stack([logarithm.mean(), logarithm.std()]).float(),
        place=torch.stack([position.mean(0), position.std(0)]).float(),
    )


def place(parameters: Tensor, model: ShapeModel) -> Tensor:
    """The points that parameters stand for, by scaled orthographic projection; 0 is the mean face.

    The first two columns of the rotation are given freely and made orthonormal (Zhou et al. 2019, "On the
    continuity of rotation representations in neural networks", eq. 11).

    Args:
        parameters: (n, k + 9) float32: shape, then rotation, size and place.
        model: on the same device.

    Returns:
        (n, p, 3), z around 0: how far away a face is, nobody can see.
    """
    shape, turn, scale, position = torch.split(parameters, [len(model.basis), 6, 1, 2], dim=1)
    points = model.mean + torch.einsum("nk,kpd->npd", shape, model.basis)
    size = (model.scale[0] + model.scale[1] * scale).exp()
    posed = size[:, None] * points @ _rotation(turn).mT
    moved = posed[..., :2] + (model.place[0] + model.place[1] * position)[:, None]
    return torch.cat([moved, posed[..., 2:]], dim=-1)


def levelled(points: Tensor, known: Tensor) -> Tensor:
    """Points with the mean z of the known ones at 0, since where z begins is a convention.

    Args:
        points: (n, p, 3), finite.
        known: (n, p) bool.
    """
    share = known / known.sum(1, keepdim=True).clamp(min=1)
    depth = (share * points[..., 2]).sum(1, keepdim=True)[..., None]
    return torch.cat([points[..., :2], points[..., 2:] - depth], dim=-1)


def _rotation(turn: Tensor) -> Tensor:
    """(n, 6), 0 for none -> (n, 3, 3)."""
    first, second = torch.split(turn + turn.new_tensor([1.0, 0, 0, 0, 1, 0]), 3, dim=1)
    x = F.normalize(first, dim=1)
    y = F.normalize(second - (x * second).sum(1, keepdim=True) * x, dim=1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1)


def _rotations(mean: Tensor, shapes: Tensor) -> Tensor:
    """(n, 3, 3): R of the least squares of ``shapes @ R - mean``."""
    return _nearest_rotation(shapes.mT @ mean)


def _nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotation (no mirror image) with the largest trace of its product with (..., 3, 3)."""
    left, _, right = torch.linalg.svd(matrix)
    sign = torch.ones_like(matrix[..., 0])
    sign[..., 2] = torch.det(left @ right)
    rotation: Tensor = left @ (sign[..., None] * right)
    return rotation
