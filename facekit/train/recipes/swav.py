"""SwAV: each view of a picture foretells the cluster of another, and clusters are of even size.

Caron et al. 2020, "Unsupervised learning of visual features by contrasting cluster assignments", as Bulat et
al. 2022 ("Pre-training strategies and datasets for facial representation learning") use it on faces.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.train import processes
from facekit.train.config import DataSettings, OptimSettings, RunSettings, require
from facekit.train.heads import ProjectionHead, Prototypes
from facekit.train.losses import sinkhorn, swapped_prediction
from facekit.train.network import NetworkSettings
from facekit.train.pretrain import FACE_VIEWS, Drawn, pretraining, through
from facekit.train.recipe import Recipe, Step
from facekit.train.statistics import assignment_entropy
from facekit.train.views import ViewSettings

__all__ = ["PRESETS", "SwAVSettings", "build_recipe"]

_PROJECTED = 128
_ASSIGNED = 2  # the large views; all others only foretell


@dataclass(frozen=True, slots=True, kw_only=True)
class SwAVSettings:
    """Learn from pictures without labels: views foretell each other's cluster (SwAV)."""

    data: DataSettings
    run: RunSettings
    optim: OptimSettings = field(default_factory=lambda: OptimSettings(weight_decay=1e-2, warmup=0.05))
    network: NetworkSettings = field(default_factory=NetworkSettings)
    views: ViewSettings = FACE_VIEWS
    small_views: int = 4
    """Further, smaller views of each picture, which foretell and are not foretold."""
    small_size: int = 48
    """Their side in pixels."""
    small_area: tuple[float, float] = (0.1, 0.3)
    """Share of the picture that they show."""
    prototypes: int = 500
    """Clusters; 3000 for millions of pictures."""
    temperature: float = 0.1
    """Of what is foretold."""
    epsilon: float = 0.05
    """How soft the clusters are."""
    iterations: int = 3
    """Of Sinkhorn's algorithm, which evens the clusters out."""
    frozen_prototypes: float = 0.01
    """Share of the run in which the clusters stay where they began."""
    queue: int = 0
    """Features of earlier pictures that are clustered along, where a batch has fewer pictures than there are
    clusters; a multiple of the batch size."""
    queue_from: float = 0.15
    """Share of the run after which the queue is used: earlier features change too fast."""

    def __post_init__(self) -> None:
        for name in ("temperature", "epsilon"):
            value = getattr(self, name)
            require(0 < value < math.inf, name, value, "give a number above 0")
        for name in ("frozen_prototypes", "queue_from"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "give a share in [0, 1]")
        require(0 <= self.small_views <= 32, "small_views", self.small_views, "give 0 ... 32")
        require(16 <= self.small_size <= 512, "small_size", self.small_size, "give pixels in 16 ... 512")
        require(2 <= self.prototypes <= 1_000_000, "prototypes", self.prototypes, "give 2 ... 1000000")
        require(1 <= self.iterations <= 100, "iterations", self.iterations, "give 1 ... 100")
        if self.small_views:
            fits, side = self.small_size <= self.network.size, self.network.size
            require(fits, "small_size", self.small_size, f"give at most --size {side}, or --small-views 0")
        low, high = self.small_area
        require(0 < low <= high <= 1, "small_area", self.small_area, "give two shares in (0, 1], rising")
        require(self.queue <= 1_000_000, "queue", self.queue, "give 1000000 or fewer")
        fits = self.queue >= 0 and self.queue % self.run.batch_size == 0
        require(fits, "queue", self.queue, f"give a multiple of batch_size={self.run.batch_size}, or 0")


def _published(data: Path, out: Path) -> SwAVSettings:
    """Bulat et al.'s script, its learning rate which belongs to a batch of 4096, brought to 1024."""
    return SwAVSettings(
        data=DataSettings(data=data),
        run=RunSettings(out=out, epochs=400, batch_size=1024),
        optim=OptimSettings(optimizer="lars", lr=1.2, weight_decay=1e-6, warmup=10 / 400, clip=math.inf),
        network=NetworkSettings(architecture="resnet50", size=224, resolution=256),
        views=ViewSettings(area=(0.14, 1.0)),
        small_views=6,
        small_size=96,
        small_area=(0.05, 0.14),
        prototypes=3000,
    )


PRESETS: Mapping[str, Callable[[Path, Path], SwAVSettings]] = {"published": _published}
"""Published settings by name, given where the data are and where the run goes."""


class _Queue(nn.Module):
    """Projected features of the last pictures of all processes, of the two large views.

    The rows are the same in all processes. ``seen`` counts the rows that hold pictures, up to all.
    """

    rows: Tensor
    seen: Tensor

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(_ASSIGNED, length, dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def add(self, views: Sequence[Tensor]) -> None:
        """Put the newest first; the oldest fall out."""
        fresh = torch.stack(list(views))
        self.rows.copy_(torch.cat([fresh, self.rows], 1)[:, : self.rows.shape[1]])
        self.seen.add_(fresh.shape[1]).clamp_(max=self.rows.shape[1])


class _Clusters:
    """Swapped prediction of the assignments to prototypes."""

    def __init__(self, settings: SwAVSettings, dim: int) -> None:
        self._settings = settings
        self._projection = ProjectionHead(dim, version="swav")
        self._prototypes = Prototypes(dim=_PROJECTED, count=settings.prototypes)
        self.modules = nn.ModuleDict({"projection": self._projection, "prototypes": self._prototypes})
        self._queue: _Queue | None = None
        if settings.queue:
            self._queue = self.modules["queue"] = _Queue(settings.queue, _PROJECTED)

    def __call__(self, features: Sequence[Tensor], at: Step) -> Mapping[str, Tensor | float]:
        settings = self._settings
        projected = [F.normalize(z.float()) for z in through(self._projection, features)]
        frozen = at.progress < settings.frozen_prototypes
        scores = torch.split(self._prototypes(torch.cat(projected), frozen=frozen), len(projected[0]))
        assigned = self._assign(projected[:_ASSIGNED], at)
        return {
            "loss": swapped_prediction(scores, assigned, temperature=settings.temperature),
            "chance": math.log(settings.prototypes),
            "assignment_entropy": assignment_entropy(torch.cat(assigned)),
        }

    @torch.no_grad()
    def _assign(self, projected: Sequence[Tensor], at: Step) -> list[Tensor]:
        """Soft clusters of this process's large views, evened out over those of all, and of the queue."""
        settings, queue = self._settings, self._queue
        together = [processes.gathered(view.detach()) for view in projected]
        size = len(projected[0])
        own = slice(processes.rank() * size, (processes.rank() + 1) * size)
        full = queue is not None and int(queue.seen) == settings.queue and at.progress >= settings.queue_from
        weight = self._prototypes.weight.float()
        assigned = []
        with torch.autocast(weight.device.type, enabled=False):  # what the softness divides is exact
            for number, view in enumerate(together):
                clustered = torch.cat([view, queue.rows[number]]) if queue is not None and full else view
                scores = clustered @ weight.T
                shares = sinkhorn(scores, epsilon=settings.epsilon, iterations=settings.iterations)
                assigned.append(shares[own])
        if queue is not None:
            queue.add(together)
        return assigned


def build_recipe(settings: SwAVSettings) -> Recipe:
    """Everything of the recipe that the loop needs."""
    small = dataclasses.replace(settings.views, area=settings.small_area)
    drawn = [Drawn(settings.views, settings.network.size, _ASSIGNED)]
    if settings.small_views:
        drawn.append(Drawn(small, settings.small_size, settings.small_views))
    return pretraining("swav", settings, drawn, lambda dim: _Clusters(settings, dim))
