"""Fine-tuning: all layers of the network and a new head learn from the labels."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.embed import resolve_precision
from facekit.errors import SettingError, TrainingError
from facekit.train import processes
from facekit.train.config import require
from facekit.train.data import shuffled_rows
from facekit.train.optim import cosine, decay_groups
from facekit.train.probe.backbone import Backbone, look
from facekit.train.probe.examples import TEST, VALIDATION, Examples
from facekit.train.probe.features import Squares
from facekit.train.probe.fitting import Fitted, Plan, judged, learn, mirrored_targets, not_exported
from facekit.train.probe.tasks import Task
from facekit.train.recipe import Recipe, Scores, Step
from facekit.train.views import ViewSettings, random_views

__all__ = ["FineTuneSettings", "Labelled", "Tuning", "fine_tune", "published_views"]

_POINTS = ("landmarks", "reconstruction")  # whose targets a crop would move
_AT_ONCE = 256  # pictures decoded at a time, where nothing is learnt


def published_views() -> ViewSettings:
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
    """Of network and head while they learn; losses, and heads of identities and of shapes, are always
    fp32."""
    views: ViewSettings = field(default_factory=published_views)
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
    labelled = Labelled.of(examples, rows, backbone.size)
    batch_size = min(settings.batch_size, len(rows))
    tuning = Tuning(backbone, task, labelled, settings.views, batch_size=batch_size, seed=seed)
    steps = max(settings.epochs * tuning.steps_per_epoch, settings.least_steps)
    recipe = Recipe(
        modules=tuning.modules,
        groups=decay_groups(
            "all", tuning.modules.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
        ),
        steps_per_epoch=tuning.steps_per_epoch,
        batches=tuning.batches,
        lr_factor=lambda at: cosine(at.progress),
        step=tuning.step,
        evaluate=lambda at: tuning.judged(),
        export=not_exported,
    )
    precision = resolve_precision(settings.precision, backbone.device)
    looks = learn(recipe, Plan(steps, min(steps, settings.epochs), seed, backbone.device, precision))
    return Fitted(tuning.outputs, looks, max(looks, key=lambda look: look.score))


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """The pictures of a set that are learnt from, and those that say when the network was best.

    Attributes:
        examples: the set.
        rows: (k,) int64, whose labels are used.
        squares: their pictures.
        judges: (j,) int64, the rows for validation.
        seen: their pictures.
        size: side of all these pictures in pixels.
    """

    examples: Examples
    rows: Tensor
    squares: Squares
    judges: Tensor
    seen: Squares
    size: int

    @classmethod
    def of(cls, examples: Examples, rows: Tensor, size: int) -> Labelled:
        """Decode them, as far as they fit into memory.

        Args:
            examples: the set.
            rows: (k,) int64, whose labels are used.
            size: side of the pictures in pixels.
        """
        judges = examples.rows(VALIDATION)
        squares, seen = Squares(examples, rows, size), Squares(examples, judges, size)
        return cls(examples, rows, squares, judges, seen, size)


class Tuning:
    """A copy of a network with its head, and how both learn from labelled pictures.

    Args:
        backbone: the network; it stays as it is.
        task: of the set.
        labelled: what is learnt from.
        views: how far what is seen may be from the pictures.
        batch_size: pictures a step, over all processes; at most as many as there are.
        seed: of head and order.

    Attributes:
        modules: ``backbone`` and ``head``, on the backbone's device.
        mirrors: whether it can be told what mirrored pictures show.
    """

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        labelled: Labelled,
        views: ViewSettings,
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        examples = labelled.examples
        self.backbone, self.task, self.labelled = backbone, task, labelled
        self._views = replace(views, flip=0.0)  # mirrored here, together with the targets
        if examples.task in _POINTS:
            self._views = replace(self._views, area=(1.0, 1.0), aspect=1.0)
        self._batch_size, self._flip, self._seed = batch_size, views.flip, seed
        self._targets = examples.targets[labelled.rows]
        mirrored = mirrored_targets(task, self._targets)
        self.mirrors = mirrored is not None
        self._mirrored = self._targets if mirrored is None else mirrored
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = task.head(backbone.channels(task.sees), backbone.size)
        assert isinstance(backbone.network, nn.Module)
        self.modules = nn.ModuleDict({"backbone": copy.deepcopy(backbone.network), "head": head})
        self.modules.to(backbone.device).to(memory_format=torch.channels_last)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the labelled pictures."""
        return len(self._targets) // self._batch_size

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Tensor, ...]]:
        """(pictures, targets, targets of their mirror images) of this process."""
        order = shuffled_rows(len(self._targets), self._batch_size, seed=self._seed, epoch=epoch)
        for batch in order[skip:]:
            places = batch[processes.rank() :: processes.world()]
            yield self.labelled.squares.at(places), self._targets[places], self._mirrored[places]

    def step(self, batch: tuple[Tensor, ...], at: Step) -> dict[str, Tensor | float]:
        """Draw a view of each picture, and compare what the head says of it with its target."""
        views, targets = self.drawn(*batch, size=self.backbone.size)
        return {"loss": self.task.loss(self.forward(views), targets)}

    def drawn(
        self, pictures: Tensor, targets: Tensor, mirrored: Tensor, *, size: int
    ) -> tuple[Tensor, Tensor]:
        """A random view of each picture, and the targets of what it shows.

        Args:
            pictures: (n, 3, s, s) uint8.
            targets: (n, ...) of them.
            mirrored: (n, ...) of their mirror images; not looked at where nobody can tell them.
            size: side of the views in pixels.

        Returns:
            (n, 3, size, size) float32 in [0, 255]; (n, ...) targets.
        """
        if self.mirrors:
            turned = (torch.rand(len(pictures)) < self._flip).to(pictures.device)
            pictures = torch.where(turned[:, None, None, None], pictures.flip(-1), pictures)
            targets = torch.where(turned.view(-1, *[1] * (targets.ndim - 1)), mirrored, targets)
        views = random_views(pictures, self._views, size=size, generator=torch.default_generator)
        return 255 * views, targets

    def forward(self, pictures: Tensor) -> Tensor:
        """What the head makes of pictures in [0, 255]."""
        seen = look(self.modules["backbone"], self.backbone.normalised(pictures), self.task.sees)
        outputs: Tensor = self.modules["head"](seen)
        return outputs

    def judged(self) -> Scores:
        """The score of the validation pictures, of which more is better."""
        return judged(self.task, self._through(self.labelled.seen), self.labelled.judges)

    def outputs(self, rows: Tensor) -> Tensor:
        """Of the head, for some rows of the set, prepared as those for validation; on the CPU."""
        return self._through(Squares(self.labelled.examples, rows, self.labelled.size))

    def require_scored(self) -> None:
        """Score anything, so that pictures which cannot be scored are found before the first step.

        Raises:
            EvaluationError: the validation or the test pictures hold nothing that can be scored.
        """
        shape = self.told(self.labelled.seen.at(torch.zeros(1, dtype=torch.int64))).shape[1:]
        generator = torch.Generator().manual_seed(0)
        for split in (VALIDATION, TEST):
            rows = self.labelled.examples.rows(split)
            self.task.scores(torch.randn(len(rows), *shape, generator=generator), rows)

    @torch.no_grad()
    def told(self, pictures: Tensor, *, size: int | None = None) -> Tensor:
        """What the head says of pictures as they are, in evaluation mode.

        Args:
            pictures: (n, 3, s, s) uint8.
            size: side in pixels at which the network sees them, if not its own.

        Returns:
            (n, ...) float32 on the CPU.
        """
        self.modules.eval()
        side = size or self.backbone.size
        if pictures.shape[-1] != side:
            pictures = F.interpolate(
                pictures.float(), (side, side), mode="bilinear", antialias=True, align_corners=False
            )
        return self.forward(pictures).float().cpu()

    def _through(self, squares: Squares) -> Tensor:
        parts = torch.split(torch.arange(len(squares)), _AT_ONCE)
        return torch.cat([self.told(squares.at(part)) for part in parts])
