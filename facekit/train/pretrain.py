"""Learning from pictures alone: what the recipes without labels share, apart from their loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from facekit.checkpoint import save_checkpoint
from facekit.embed import resolve_device
from facekit.errors import SettingError
from facekit.train import processes
from facekit.train.config import DataSettings, OptimSettings, RunSettings
from facekit.train.data import load_crops, read_listing, shuffled_rows
from facekit.train.network import NetworkSettings
from facekit.train.optim import rate_factor
from facekit.train.recipe import Recipe, Scores, Step
from facekit.train.settings import portable
from facekit.train.start import start_of
from facekit.train.statistics import alignment, uniformity
from facekit.train.stream import open_crops
from facekit.train.views import ViewSettings, random_views
from facekit.train.watch import Watch

__all__ = [
    "FACE_VIEWS",
    "SMALL_VIEWS",
    "Drawn",
    "Objective",
    "PretrainSettings",
    "pretraining",
    "through",
]

FACE_VIEWS = ViewSettings(
    area=(0.3, 1.0), aspect=1.2, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur=0.3
)
"""Gentler than for photographs of anything: what is left of an aligned face still shows who it is."""

SMALL_VIEWS = ViewSettings(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur=0.0)
"""SimCLR's for 32 px: half the strength of colours, and no blur."""

_FIRST, _LAST = Step(0, 0.0, 0.0), Step(0, 1.0, 0.0)


class PretrainSettings(Protocol):
    """What the settings of each of these recipes hold."""

    @property
    def data(self) -> DataSettings: ...
    @property
    def run(self) -> RunSettings: ...
    @property
    def optim(self) -> OptimSettings: ...
    @property
    def network(self) -> NetworkSettings: ...


@dataclass(frozen=True, slots=True)
class Drawn:
    """Views that are drawn of each picture.

    Attributes:
        settings: how.
        size: their side in pixels, in the end.
        count: how many.
    """

    settings: ViewSettings
    size: int
    count: int


class Objective(Protocol):
    """What is asked of the features of several views of each picture.

    Attributes:
        modules: its heads, which are trained with the backbone and left out of the checkpoint.
    """

    @property
    def modules(self) -> nn.ModuleDict: ...

    def __call__(self, features: Sequence[Tensor], at: Step) -> Mapping[str, Tensor | float]:
        """Metrics of a step; ``"loss"`` is what is minimised, ``"chance"`` that of knowing nothing.

        Args:
            features: of each view of all pictures, (n, d) float32 each, in the order in which they are drawn.
            at: the step.
        """


def pretraining(
    name: str,
    settings: PretrainSettings,
    drawn: Sequence[Drawn],
    objective: Callable[[int], Objective],
    *,
    export_head: Callable[[Path, Objective], None] | None = None,
) -> Recipe:
    """A recipe: views of each picture go through the network, and an objective compares them.

    Args:
        name: of the recipe, for the checkpoint.
        settings: all of them; the checkpoint keeps them.
        drawn: the views, of which the first two are watched.
        objective: width of the backbone's features -> what is asked of them.
        export_head: writes what the probes need of the heads into the checkpoint.

    Raises:
        SettingError: settings that do not go together.
        TrainingError: no pictures.
    """
    torch.manual_seed(settings.run.seed)
    training = _Pretraining(name, settings, drawn, objective, export_head)
    return Recipe(
        modules=training.modules,
        groups=training.start.groups(training.modules, settings.optim),
        steps_per_epoch=training.steps_per_epoch,
        batches=training.batches,
        lr_factor=lambda at: rate_factor(settings.optim, at, settings.network.small_share),
        step=training.step,
        evaluate=training.evaluate,
        export=training.export,
        notes=training.notes(),
        divisible=False,
    )


def through(head: nn.Module, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What a head makes of each view, (n, d) each; its batch norms see them all together."""
    made: Tensor = head(torch.cat(list(features)))
    return torch.split(made, len(features[0]))


class _Pretraining:
    """The network and pictures of one run, and what is done with them."""

    def __init__(
        self,
        name: str,
        settings: PretrainSettings,
        drawn: Sequence[Drawn],
        objective: Callable[[int], Objective],
        export_head: Callable[[Path, Objective], None] | None,
    ) -> None:
        run, network = settings.run, settings.network
        self.name, self.settings, self.drawn = name, settings, drawn
        self.device = resolve_device(run.device)
        training, aside = read_listing(settings.data, labelled=False)
        start = start_of(network, [each.size for each in drawn])  # before all pictures are decoded
        self.start, self.backbone = start, start.model
        self.crops = open_crops(training, network.resolution, settings.data, pin=self.device.type == "cuda")
        self.heldout = load_crops(aside, network.resolution)
        self.steps_per_epoch = len(self.crops) // run.batch_size
        if self.steps_per_epoch == 0:
            raise SettingError(f"batch_size={run.batch_size}: more than the {len(self.crops)} pictures")
        self._mean = torch.tensor(start.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(start.std, device=self.device).view(1, 3, 1, 1)
        self.objective = objective(start.dim)
        self._export_head = export_head
        modules = nn.ModuleDict({"backbone": self.backbone, **self.objective.modules})
        modules = processes.synchronized(modules, self.device)
        self.modules = modules.to(memory_format=torch.channels_last)
        self.watch = Watch(self._features, self.heldout, self.crops, run)

    def batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """(pictures,) of this process."""
        run = self.settings.run
        order = shuffled_rows(len(self.crops), run.batch_size, seed=run.seed, epoch=epoch)[skip:]
        own = [rows[processes.rank() :: processes.world()] for rows in order]
        return ((pictures,) for pictures, _, _ in self.crops.batches(own))

    def step(self, batch: tuple[Tensor, ...], at: Step) -> dict[str, Tensor | float]:
        """Draw views, take those of one size through the network together, and compare them."""
        (pictures,) = batch
        features: list[Tensor] = []
        for drawn in self.drawn:
            views = random_views(
                pictures.repeat(drawn.count, 1, 1, 1),
                drawn.settings,
                size=self.settings.network.side(drawn.size, at),
                generator=torch.default_generator,
            )
            features += torch.split(self._features(255.0 * views), len(pictures))
        metrics = dict(self.objective(features, at))
        with torch.no_grad():
            metrics["alignment"] = alignment(features[0], features[1])
            metrics["uniformity"] = uniformity(features[0])
        return metrics

    def evaluate(self, at: Step) -> Scores:
        """How the features lie, of pictures as large as the views of the moment."""
        network = self.settings.network
        return self.watch.scores(at, size=network.side(network.size, at))

    def export(self, folder: Path, scores: Scores) -> None:
        """A checkpoint of the backbone; with thresholds, if people were held out."""
        network = self.settings.network
        calibration = self.watch.calibration(self.settings.data.data)
        threshold = calibration.threshold_at(1e-3) if calibration and 1e-3 in calibration.thresholds else None
        config = self.start.config(
            input_size=network.size,
            license=network.license,
            calibration=calibration,
            threshold=threshold,
            recipe={"name": self.name, "settings": portable(self.settings), "heldout": dict(scores.values)},
        )
        save_checkpoint(folder, self.backbone, config)
        if self._export_head is not None:
            self._export_head(folder, self.objective)

    def notes(self) -> tuple[str, ...]:
        """What is worth knowing before the first step."""
        network = self.settings.network
        early, late = (
            " + ".join(f"{drawn.count} of {network.side(drawn.size, at)} px" for drawn in self.drawn)
            for at in (_FIRST, _LAST)
        )
        change = "" if early == late else f"{early} until {100 * network.start_share:g} % of the run, then "
        held = f"{len(self.heldout)} others are held out"
        return (f"{len(self.crops)} pictures, views: {change}{late}; {held}",)

    def _features(self, pixels: Tensor) -> Tensor:
        """(n, d) float32, of (n, 3, s, s) pixels 0...255."""
        x = ((pixels - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.backbone(x)
        return features.float()
