"""BeCLR: contrast by a divergence that is learnt beside the features, as well as by the cosine.

Rezaei et al. 2021, "Deep Bregman divergence for contrastive learning of visual representations". Small
networks on the projected features stand for the affine pieces of a convex function; how far the piece that
wins for one view falls short of the winning one of another is the divergence of the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from facekit.train import processes
from facekit.train.config import DataSettings, OptimSettings, RunSettings, require
from facekit.train.heads import BregmanSubnetworks, ProjectionHead
from facekit.train.losses import balance_loss, bregman_nt_xent, chance_level, nt_xent
from facekit.train.network import NetworkSettings
from facekit.train.pretrain import FACE_VIEWS, SMALL_VIEWS, Drawn, Objective, pretraining, through
from facekit.train.recipe import Recipe, Step
from facekit.train.views import ViewSettings
from facekit.wholefile import replacing

__all__ = ["PRESETS", "BregmanSettings", "build_recipe"]


_LARGEST = 1 << 22  # hidden units of all subnetworks: 2 GiB of weights


@dataclass(frozen=True, slots=True, kw_only=True)
class BregmanSettings:
    """Learn from pictures without labels: contrast by a learnt Bregman divergence and by the cosine."""

    data: DataSettings
    run: RunSettings
    optim: OptimSettings = field(default_factory=lambda: OptimSettings(weight_decay=1e-2, warmup=0.05))
    network: NetworkSettings = field(default_factory=NetworkSettings)
    views: ViewSettings = FACE_VIEWS
    temperature: float = 0.1
    """Of both losses."""
    subnetworks: int = 50
    """How many affine pieces, K."""
    hidden: int = 512
    """Width of each subnetwork."""
    sigma: float = 0.9
    """Width of the kernel that makes a similarity of a divergence."""
    weight: float = 1.0
    """Weight of the divergence's loss beside the cosine's."""
    balance: float = 0.1
    """Weight of what keeps all subnetworks in reach of winning; published without, one in five wins."""

    def __post_init__(self) -> None:
        for name in ("temperature", "sigma"):
            value = getattr(self, name)
            require(0 < value < math.inf, name, value, "give a number above 0")
        for name in ("weight", "balance"):
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "give 0 or more")
        for name, most in (("subnetworks", 10_000), ("hidden", 8192)):
            value = getattr(self, name)
            require(1 <= value <= most, name, value, f"give 1 ... {most}")
        together = self.subnetworks * self.hidden
        require(together <= _LARGEST, "subnetworks x hidden", together, f"give {_LARGEST} or fewer together")


def _small(data: Path, out: Path, *, size: int, stem: str, views: ViewSettings) -> BregmanSettings:
    """The README's defaults: 512 pictures a step, 500 epochs, temperature 0.5, K = 100; the code's Adam."""
    return BregmanSettings(
        data=DataSettings(data=data, heldout=0.0),
        run=RunSettings(out=out, epochs=500, batch_size=512),
        optim=OptimSettings(lr=5e-3, weight_decay=1e-6, warmup=0.01, clip=math.inf),
        network=NetworkSettings(
            architecture="resnet18", stem="full" if stem == "full" else "half", size=size, resolution=size
        ),
        views=views,
        temperature=0.5,
        subnetworks=100,
    )


def _cifar10(data: Path, out: Path) -> BregmanSettings:
    return _small(data, out, size=32, stem="full", views=SMALL_VIEWS)


def _stl10(data: Path, out: Path) -> BregmanSettings:
    return _small(data, out, size=96, stem="half", views=ViewSettings(hue=0.1))


PRESETS: Mapping[str, Callable[[Path, Path], BregmanSettings]] = {"cifar10": _cifar10, "stl10": _stl10}
"""Published settings by name, given where the data are and where the run goes."""


class _Divergence:
    """L_Breg + L_NT-Xent of projected features."""

    def __init__(self, settings: BregmanSettings, dim: int) -> None:
        self.settings = settings
        projection = ProjectionHead(dim, version="bregman")
        subnetworks = BregmanSubnetworks(count=settings.subnetworks, hidden=settings.hidden)
        self.modules = nn.ModuleDict({"projection": projection, "subnetworks": subnetworks})

    def __call__(self, features: Sequence[Tensor], at: Step) -> Mapping[str, Tensor | float]:
        settings = self.settings
        first, second = (F.normalize(z.float()) for z in through(self.modules["projection"], features))
        pieces = self.modules["subnetworks"](torch.cat([first, second])).float()
        contrast = nt_xent(first, second, temperature=settings.temperature)
        learnt = bregman_nt_xent(*pieces.chunk(2), temperature=settings.temperature, sigma=settings.sigma)
        evenness = balance_loss(pieces)
        chance = chance_level(2 * len(first) * processes.world())
        return {
            "loss": contrast + settings.weight * learnt + settings.balance * evenness,
            "chance": (1.0 + settings.weight) * chance,
            "nt_xent": contrast,
            "bregman": learnt,
            "balance": evenness,
            "active": float(pieces.argmax(1).unique().numel()),
        }


def build_recipe(settings: BregmanSettings) -> Recipe:
    """Everything of the recipe that the loop needs."""
    drawn = [Drawn(settings.views, settings.network.size, 2)]
    return pretraining(
        "bregman", settings, drawn, lambda dim: _Divergence(settings, dim), export_head=_export_head
    )


def _export_head(folder: Path, objective: Objective) -> None:
    """``head.safetensors``: projection and subnetworks, for nearest neighbours in the learnt divergence."""
    assert isinstance(objective, _Divergence)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in objective.modules.state_dict().items()}
    for name in ("temperature", "sigma"):
        tensors[name] = torch.tensor(getattr(objective.settings, name))
    with replacing(folder / "head.safetensors") as stream:
        stream.write(save(tensors))
