"""SimCLR: two views of one picture are more alike than those of different pictures.

Chen et al. 2020, "A simple framework for contrastive learning of visual representations", and its second
version's deeper head (2020, "Big self-supervised models are strong semi-supervised learners"). The measure
for the other recipes without labels, and their default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from facekit.train import processes
from facekit.train.config import DataSettings, OptimSettings, RunSettings, require
from facekit.train.heads import ProjectionHead
from facekit.train.losses import chance_level, nt_xent
from facekit.train.network import NetworkSettings
from facekit.train.pretrain import FACE_VIEWS, SMALL_VIEWS, Drawn, pretraining, through
from facekit.train.recipe import Recipe, Step
from facekit.train.views import ViewSettings

__all__ = ["PRESETS", "SimCLRSettings", "build_recipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimCLRSettings:
    """Learn from pictures without labels: contrast two views of each with all others (SimCLR)."""

    data: DataSettings
    run: RunSettings
    optim: OptimSettings = field(default_factory=lambda: OptimSettings(weight_decay=1e-2, warmup=0.05))
    network: NetworkSettings = field(default_factory=NetworkSettings)
    views: ViewSettings = FACE_VIEWS
    head: Literal["v1", "v2"] = "v2"
    """Projection head: two layers (v1) or three with batch norms (v2)."""
    temperature: float = 0.1
    """Of the cosines between views."""

    def __post_init__(self) -> None:
        require(0 < self.temperature < math.inf, "temperature", self.temperature, "give a number above 0")


def _cifar10(data: Path, out: Path) -> SimCLRSettings:
    """google-research/simclr's for one GPU: 512 pictures a step, 1000 epochs, half the strength, no blur."""
    return SimCLRSettings(
        data=DataSettings(data=data, heldout=0.0),
        run=RunSettings(out=out, epochs=1000, batch_size=512),
        optim=OptimSettings(optimizer="lars", lr=1.0, weight_decay=1e-4, warmup=0.01, clip=math.inf),
        network=NetworkSettings(architecture="resnet18", stem="full", size=32, resolution=32),
        views=SMALL_VIEWS,
        temperature=0.5,
    )


def _stl10(data: Path, out: Path) -> SimCLRSettings:
    """96 px, with the colours and the blur of ImageNet's views, for one GPU."""
    return SimCLRSettings(
        data=DataSettings(data=data, heldout=0.0),
        run=RunSettings(out=out, epochs=100, batch_size=256),
        optim=OptimSettings(lr=1e-3, weight_decay=1e-4, warmup=0.05, clip=math.inf),
        network=NetworkSettings(architecture="resnet18", stem="half", size=96, resolution=96),
        views=ViewSettings(),
        temperature=0.5,
    )


PRESETS: Mapping[str, Callable[[Path, Path], SimCLRSettings]] = {"cifar10": _cifar10, "stl10": _stl10}
"""Published settings by name, given where the data are and where the run goes."""


class _Contrast:
    """NT-Xent of projected features."""

    def __init__(self, settings: SimCLRSettings, dim: int) -> None:
        self.modules = nn.ModuleDict({"projection": ProjectionHead(dim, version=settings.head)})
        self._temperature = settings.temperature

    def __call__(self, features: Sequence[Tensor], at: Step) -> Mapping[str, Tensor | float]:
        first, second = through(self.modules["projection"], features)
        loss = nt_xent(first, second, temperature=self._temperature)
        return {"loss": loss, "chance": chance_level(2 * len(first) * processes.world())}


def build_recipe(settings: SimCLRSettings) -> Recipe:
    """Everything of the recipe that the loop needs."""
    drawn = [Drawn(settings.views, settings.network.size, 2)]
    return pretraining("simclr", settings, drawn, lambda dim: _Contrast(settings, dim))
