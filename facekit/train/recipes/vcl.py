"""VCL: contrastive learning of Gaussians, one a view; by the cosine or by the beta-divergence.

Yavuz & Yanikoglu 2024, "Self-supervised variational contrastive learning with applications to face
understanding". The head gives a mean and a variance; samples are contrasted, the Gaussians of one picture's
views are pulled together, and all of them towards the standard one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from facekit.train import processes
from facekit.train.config import DataSettings, OptimSettings, RunSettings, require
from facekit.train.heads import GaussianHead
from facekit.train.losses import beta_nt_xent, chance_level, gaussian_distance, gaussian_norm, nt_xent
from facekit.train.network import NetworkSettings
from facekit.train.pretrain import FACE_VIEWS, Drawn, pretraining
from facekit.train.recipe import Recipe, Step
from facekit.train.views import ViewSettings

__all__ = ["PRESETS", "VCLSettings", "build_recipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VCLSettings:
    """Learn from pictures without labels: contrast samples of a Gaussian a view (VCL)."""

    data: DataSettings
    run: RunSettings
    optim: OptimSettings = field(default_factory=lambda: OptimSettings(weight_decay=1e-2, warmup=0.05))
    network: NetworkSettings = field(default_factory=NetworkSettings)
    views: ViewSettings = FACE_VIEWS
    beta: bool = False
    """Contrast by the beta-divergence, which weighs outliers less, and not by the cosine."""
    beta_value: float = 0.005
    """Its β; towards 0 it is NT-Xent of the distance."""
    sigma: float = 0.5
    """Its σ, the width of the kernel."""
    squared: bool = False
    """Square its distance, as the divergence has it and the published code does not."""
    temperature: float = 0.07
    """Of the similarities between samples."""
    distance: Literal["faces", "imagenet"] = "faces"
    """Which of the two published distances between the Gaussians of one picture."""
    distance_weight: float = 1.0
    """Weight of that distance."""
    norm_weight: float = 1.0
    """Weight of the divergence from the standard Gaussian, a mean over the dimensions."""

    def __post_init__(self) -> None:
        for name in ("beta_value", "sigma", "temperature"):
            value = getattr(self, name)
            require(0 < value < math.inf, name, value, "give a number above 0")
        for name in ("distance_weight", "norm_weight"):
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "give 0 or more")


def _published(data: Path, out: Path) -> VCLSettings:
    """The model card: 128 px, 128 pictures a step, AdamW 1e-3; the code: 600 epochs, SimCLR's views."""
    return VCLSettings(
        data=DataSettings(data=data),
        run=RunSettings(out=out, epochs=600, batch_size=128),
        optim=OptimSettings(lr=1e-3, weight_decay=1e-2, warmup=0.0, clip=math.inf),
        network=NetworkSettings(size=128, resolution=128),
        views=ViewSettings(),
        beta=True,
    )


PRESETS: Mapping[str, Callable[[Path, Path], VCLSettings]] = {"published": _published}
"""Published settings by name, given where the data are and where the run goes."""


class _Variational:
    """L_con + L_dist + L_norm of the Gaussians that the head gives."""

    def __init__(self, settings: VCLSettings, dim: int) -> None:
        self._head = GaussianHead(dim)
        self.modules = nn.ModuleDict({"projection": self._head})
        self._settings = settings

    def __call__(self, features: Sequence[Tensor], at: Step) -> Mapping[str, Tensor | float]:
        settings = self._settings
        mean, log_variance = self._head(torch.cat(list(features)))
        first, second = self._head.sample(mean, log_variance).chunk(2)
        means, log_variances = mean.chunk(2), log_variance.chunk(2)
        contrast = self._contrast(first, second)
        distance = gaussian_distance(
            means[0], log_variances[0], means[1], log_variances[1], variant=settings.distance
        )
        norm = gaussian_norm(mean, log_variance)
        return {
            "loss": contrast + settings.distance_weight * distance + settings.norm_weight * norm,
            "chance": chance_level(2 * len(first) * processes.world()),
            "contrast": contrast,
            "distance": distance,
            "norm": norm,
            "mean_sigma": (0.5 * log_variance.detach().float()).exp().mean(),
        }

    def _contrast(self, first: Tensor, second: Tensor) -> Tensor:
        settings = self._settings
        if not settings.beta:
            return nt_xent(first, second, temperature=settings.temperature)
        return beta_nt_xent(
            first,
            second,
            temperature=settings.temperature,
            beta=settings.beta_value,
            sigma=settings.sigma,
            squared=settings.squared,
        )


def build_recipe(settings: VCLSettings) -> Recipe:
    """Everything of the recipe that the loop needs."""
    drawn = [Drawn(settings.views, settings.network.size, 2)]
    return pretraining("vcl", settings, drawn, lambda dim: _Variational(settings, dim))
