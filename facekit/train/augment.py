"""Random views of a batch of aligned faces, drawn for each picture by itself, on its device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from facekit.train.config import require

__all__ = ["Augmentation", "augment", "mix_faces"]

_Draw = Callable[[float, float], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How far a view may be from its picture; all draws are uniform, for each picture by itself."""

    flip: float = 0.5
    """Chance of a mirrored view."""
    rotation: float = 6.0
    """Degrees, either way."""
    zoom: float = 0.08
    """Relative change of size, either way."""
    shift: float = 0.04
    """Share of the side, either way, along x and y."""
    brightness: float = 0.2
    """Relative change of brightness, of contrast and of saturation, either way."""
    grey: float = 0.05
    """Chance of a view without colour."""
    low_resolution: float = 0.15
    """Chance of a view that was shrunk to between a quarter and the whole, and enlarged again."""

    def __post_init__(self) -> None:
        for name in ("flip", "grey", "low_resolution"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "give a chance in [0, 1]")
        for name in ("zoom", "shift", "brightness"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "give a share in [0, 1)")
        require(0 <= self.rotation <= 180, "rotation", self.rotation, "give degrees in [0, 180]")

    def scaled(self, strength: float) -> Augmentation:
        """The same kinds of change, ``strength`` in [0, 1] times as strong (the chance of a flip stays)."""
        return Augmentation(
            flip=self.flip,
            rotation=self.rotation * strength,
            zoom=self.zoom * strength,
            shift=self.shift * strength,
            brightness=self.brightness * strength,
            grey=self.grey * strength,
            low_resolution=self.low_resolution * strength,
        )


def augment(pictures: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """One random view of each picture.

    Args:
        pictures: (n, 3, s, s) uint8.
        settings: how strong.
        generator: on the CPU; the same state gives the same draws on every device.

    Returns:
        (n, 3, s, s) uint8 on the same device.
    """

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(len(pictures)).uniform_(low, high, generator=generator).to(pictures.device)

    x = pictures.float()
    x = _warp(x, draw, settings)
    x = _recolour(x, draw, settings)
    x = _coarsen(x, draw, settings)
    return x.round_().clamp_(0, 255).to(torch.uint8)


def mix_faces(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """A face that nobody has, of each picture and the one before it in the batch.

    A line at a random angle goes through the picture, one face on either side of it; the transition is
    between sharp, as in CutMix, and so wide that the two are blended evenly, as in mixup. Aligned faces
    keep their features in place, so that a teacher has something to say of the mixture.

    Args:
        pictures: (n, 3, s, s) uint8.
        generator: on the CPU; the same state gives the same draws on every device.

    Returns:
        (n, 3, s, s) uint8 on the same device.
    """

    def draw(low: float, high: float) -> Tensor:
        drawn = torch.empty(len(pictures)).uniform_(low, high, generator=generator)
        return drawn.to(pictures.device).view(-1, 1, 1, 1)

    angle, place = draw(0.0, 2 * math.pi), draw(-0.4, 0.4)
    steepness = draw(math.log(0.5), math.log(30.0)).exp()
    along = torch.linspace(-1.0, 1.0, pictures.shape[-1], device=pictures.device)
    distance = along * angle.cos() + along[:, None] * angle.sin() - place
    share = torch.sigmoid(steepness * distance)
    x = pictures.float()
    return (share * x + (1.0 - share) * x.roll(1, 0)).round_().to(torch.uint8)


def _warp(x: Tensor, draw: _Draw, settings: Augmentation) -> Tensor:
    angle = draw(-math.radians(settings.rotation), math.radians(settings.rotation))
    zoom = 1.0 + draw(-settings.zoom, settings.zoom)
    mirror = 1.0 - 2.0 * (draw(0.0, 1.0) < settings.flip).float()
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    dx, dy = draw(-2 * settings.shift, 2 * settings.shift), draw(-2 * settings.shift, 2 * settings.shift)
    theta = torch.stack([cos * mirror, -sin, dx, sin * mirror, cos, dy], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)


def _recolour(x: Tensor, draw: _Draw, settings: Augmentation) -> Tensor:
    strength = settings.brightness
    brightness, contrast, saturation = (1.0 + draw(-strength, strength).view(-1, 1, 1, 1) for _ in range(3))
    saturation = torch.where(draw(0.0, 1.0).view(-1, 1, 1, 1) < settings.grey, 0.0, saturation)
    weights = x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    luma = (x * weights).sum(1, keepdim=True)
    mean = luma.mean((2, 3), keepdim=True)
    x = luma + saturation * (x - luma)
    return (mean + contrast * (x - mean)) * brightness


def _coarsen(x: Tensor, draw: _Draw, settings: Augmentation) -> Tensor:
    """Low resolution, in three steps of size so that a batch stays a batch."""
    chosen = draw(0.0, 1.0) < settings.low_resolution
    step = draw(0.0, 3.0).floor()
    size = x.shape[-1]
    for level, share in enumerate((0.25, 0.4, 0.65)):
        rows = (chosen & (step == level)).nonzero()[:, 0]
        if len(rows):
            small = F.interpolate(x[rows], size=max(1, round(size * share)), mode="area")
            x[rows] = F.interpolate(small, size=size, mode="bilinear", align_corners=False)
    return x
