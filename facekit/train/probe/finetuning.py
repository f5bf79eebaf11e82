"""Fine-tuning: all layers of the network and a new head learn from the labels."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from facekit.embed import resolve_precision
from facekit.errors import SettingError, TrainingError
from facekit.train.config import require
from facekit.train.data import shuffled_rows
from facekit.train.optim import cosine, decay_groups
from facekit.train.probe.backbone import Backbone, look
from facekit.train.probe.examples import VALIDATION, Examples
from facekit.train.probe.features import Squares
from facekit.train.probe.fitting import Fitted, Plan, judged, learn, mirrored_targets, not_exported
from facekit.train.probe.tasks import Task
from facekit.train.recipe import Recipe, Step
from facekit.train.views import ViewSettings, random_views

__all__ = ["FineTuneSettings", "fine_tune"]

_POINTS = ("landmarks", "reconstruction")  # whose targets a crop would move
_AT_ONCE = 256  # pictures decoded at a time, where nothing is learnt


def _published_views() -> ViewSettings:
    """VCL's, of aligned faces."""
    return ViewSettings(
        area=(0.75, 1.0),
        jitter=0.5,
        brightness=0.7,
        contrast=0.7,
        saturation=0.7,
        hue=0.2,
        grey=0.2,
        blur=0.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneSettings:
    """How all layers learn; by default as VCL was published, apart from the cosine of the learning rate."""

    epochs: int = 15
    """Passes over the training pictures; the validation pictures choose among as many moments."""
    least_steps: int = 200
    """Steps at the least: so few labels that 15 passes are fewer are passed over more often."""
    batch_size: int = 128
    """Pictures a step."""
    lr: float = 1e-3
    """Highest learning rate of AdamW, for all layers."""
    weight_decay: float = 1e-2
    """Decoupled decay of matrices and kernels."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of network and head while they learn; losses, and heads of identities and shapes, are always fp32."""
    views: ViewSettings = field(default_factory=_published_views)
    """What is learnt from; points are seen whole, with other colours."""

    def __post_init__(self) -> None:
        for name in ("epochs", "least_steps"):
            require(getattr(self, name) > 0, name, getattr(self, name), "give 1 or more")
        require(self.batch_size > 1, "batch_size", self.batch_size, "give 2 or more: batch norm needs them")
        require(0 < self.lr < math.inf, "lr", self.lr, "give a number above 0")
        require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "give 0 or more")


def fine_tune(
    backbone: Backbone,
    task: Task,
    examples: Examples,
    rows: Tensor,
    settings: FineTuneSettings,
    *,
    seed: int,
) -> Fitted:
    """Train a copy of the network, and a head on it, on some labels.

    Args:
        backbone: the network; it stays as it is.
        task: of the set.
        examples: the set.
        rows: (k,) int64, whose labels are used.
        settings: how.
        seed: of head, order and views.

    Raises:
        SettingError: a network that cannot learn.
        TrainingError: fewer than two pictures, or the loss is no longer a number.
    """
    if not backbone.learns:
        raise SettingError(f"{backbone.source}: has no weights that could learn; probe it with knn or linear")
    if len(rows) < 2:
        raise TrainingError(f"{examples.name}: {len(rows)} pictures to learn from; batch norm needs two")
    tuning = _Tuning(backbone, task, examples, rows, settings, seed)
    per_epoch = tuning.recipe.steps_per_epoch
    steps = max(settings.epochs * per_epoch, settings.least_steps)
    precision = resolve_precision(settings.precision, backbone.device)
    plan = Plan(steps, min(steps, settings.epochs), seed, backbone.device, precision)
    looks = learn(tuning.recipe, plan)
    return Fitted(tuning.outputs, looks, max(looks, key=lambda look: look.score))


class _Tuning:
    """A copy of the network with its head, and the pictures that it learns from."""

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        examples: Examples,
        rows: Tensor,
        settings: FineTuneSettings,
        seed: int,
    ) -> None:
        self.backbone, self.task, self.examples, self.seed = backbone, task, examples, seed
        self.views = replace(settings.views, flip=0.0)  # mirrored here, together with the targets
        if examples.task in _POINTS:
            self.views = replace(self.views, area=(1.0, 1.0), aspect=1.0)
        self.batch = min(settings.batch_size, len(rows))
        self.flip = settings.views.flip
        self.squares = Squares(examples, rows, backbone.size)
        self.targets = examples.targets[rows]
        self.mirrored = mirrored_targets(task, self.targets)
        self.judges = examples.rows(VALIDATION)
        self.seen = Squares(examples, self.judges, backbone.size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = task.head(backbone.channels(task.sees), backbone.size)
        assert isinstance(backbone.network, nn.Module)
        self.modules = nn.ModuleDict({"backbone": copy.deepcopy(backbone.network), "head": head})
        self.modules.to(backbone.device).to(memory_format=torch.channels_last)
        self.recipe = Recipe(
            modules=self.modules,
            groups=decay_groups(
                "all", self.modules.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
            ),
            steps_per_epoch=len(rows) // self.batch,
            batches=self.batches,
            lr_factor=lambda at: cosine(at.progress),
            step=self.step,
            evaluate=lambda at: judged(task, self._through(self.seen), self.judges),
            export=not_exported,
        )

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Tensor, ...]]:
        """(pictures, targets, targets of their mirror images)."""
        for places in shuffled_rows(len(self.targets), self.batch, seed=self.seed, epoch=epoch)[skip:]:
            mirrored = self.targets if self.mirrored is None else self.mirrored
            yield self.squares.at(places), self.targets[places], mirrored[places]

    def step(self, batch: tuple[Tensor, ...], at: Step) -> dict[str, Tensor | float]:
        """Draw a view of each picture, and compare what the head says of it with its target."""
        pictures, targets, mirrored = batch
        if self.mirrored is not None:
            turned = (torch.rand(len(pictures)) < self.flip).to(pictures.device)
            pictures = torch.where(turned[:, None, None, None], pictures.flip(-1), pictures)
            targets = torch.where(turned.view(-1, *[1] * (targets.ndim - 1)), mirrored, targets)
        views = random_views(pictures, self.views, size=self.backbone.size, generator=torch.default_generator)
        return {"loss": self.task.loss(self._forward(255 * views), targets)}

    def outputs(self, rows: Tensor) -> Tensor:
        """Of the head, for some rows of the set."""
        return self._through(Squares(self.examples, rows, self.backbone.size))

    @torch.no_grad()
    def _through(self, squares: Squares) -> Tensor:
        self.modules.eval()
        parts = torch.split(torch.arange(len(squares)), _AT_ONCE)
        return torch.cat([self._forward(squares.at(part)).float().cpu() for part in parts])

    def _forward(self, pictures: Tensor) -> Tensor:
        seen = look(self.modules["backbone"], self.backbone.normalised(pictures), self.task.sees)
        outputs: Tensor = self.modules["head"](seen)
        return outputs
