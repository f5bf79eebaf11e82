"""Learning from pictures alone: what the recipes without labels share, apart from their loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.checkpoint import ModelConfig, save_checkpoint
from facekit.embed import resolve_device, resolve_precision
from facekit.errors import SettingError, TrainingError
from facekit.evaluate import ROC
from facekit.train import processes
from facekit.train.config import DataSettings, OptimSettings, RunSettings, require
from facekit.train.data import load_crops, read_listing, shuffled_rows
from facekit.train.optim import decay_groups, rate_factor
from facekit.train.recipe import Recipe, Scores, Step
from facekit.train.settings import portable
from facekit.train.start import embedding_length, start_network
from facekit.train.statistics import alignment, effective_rank, uniformity
from facekit.train.stream import open_crops
from facekit.train.validate import calibrate, heldout_curve, heldout_scores
from facekit.train.views import ViewSettings, random_views

__all__ = [
    "FACE_VIEWS",
    "SMALL_VIEWS",
    "Drawn",
    "NetworkSettings",
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

_WATCHED = 2000  # pictures whose features are looked at after each epoch
_AT_ONCE = 256
_LARGEST = 512  # pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """Which network learns, from which weights, and how large the pictures are."""

    architecture: Literal[
        "resnet10t", "resnet18", "resnet34", "resnet50", "vgg11_bn", "faceresnet", "iresnet50"
    ] = "resnet10t"
    """The backbone; its pooled features are what the checkpoint gives."""
    stem: Literal["imagenet", "half", "full"] | None = None
    """First layers of resnet18, 34 and 50: imagenet leaves a quarter of the side, half a half, and full,
    for pictures of 32 pixels, all of it."""
    init: str = "random"
    """Weights to start from: a checkpoint (folder, file or Hub name), or random."""
    size: int = 112
    """Side in pixels of the views that the network sees."""
    resolution: int = 112
    """Side in pixels of the pictures that views are cut from; others are resized."""
    license: str = "unknown"
    """License written into the checkpoint."""

    def __post_init__(self) -> None:
        for name in ("size", "resolution"):
            value = getattr(self, name)
            require(16 <= value <= _LARGEST, name, value, f"give pixels in 16 ... {_LARGEST}")
        if self.stem is not None and self.architecture not in ("resnet18", "resnet34", "resnet50"):
            raise SettingError(f"stem={self.stem}: {self.architecture} has its own; leave it out")

    @property
    def sizes(self) -> dict[str, Any]:
        """What the architecture's builder takes."""
        return {} if self.stem is None else {"stem": self.stem}


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
        size: their side in pixels.
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
        groups=training.groups(),
        steps_per_epoch=training.steps_per_epoch,
        batches=training.batches,
        lr_factor=lambda at: rate_factor(settings.optim, at),
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
        self.crops = open_crops(training, network.resolution, settings.data, pin=self.device.type == "cuda")
        self.heldout = load_crops(aside, network.resolution)
        self.steps_per_epoch = len(self.crops) // run.batch_size
        if self.steps_per_epoch == 0:
            raise SettingError(f"batch_size={run.batch_size}: more than the {len(self.crops)} pictures")
        start = start_network(network.architecture, network.init, size=network.size, sizes=network.sizes)
        if network.stem is not None and start.sizes.get("stem", "imagenet") != network.stem:
            raise SettingError(f"stem={network.stem}: {network.init} has another; leave it out")
        for small in {each.size for each in drawn} - {network.size}:
            embedding_length(start.model, small)
        self.start, self.backbone = start, start.model
        self._mean = torch.tensor(start.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(start.std, device=self.device).view(1, 3, 1, 1)
        self.objective = objective(start.dim)
        self._export_head = export_head
        modules = nn.ModuleDict({"backbone": self.backbone, **self.objective.modules})
        if processes.world() > 1 and self.device.type == "cuda":  # gloo has none
            modules = nn.SyncBatchNorm.convert_sync_batchnorm(modules)  # type: ignore[no-untyped-call]
        self.modules = modules.to(memory_format=torch.channels_last)
        self._curve: ROC | None = None

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
                size=drawn.size,
                generator=torch.default_generator,
            )
            features += torch.split(self.backbone(self._input(255.0 * views)).float(), len(pictures))
        metrics = dict(self.objective(features, at))
        with torch.no_grad():
            metrics["alignment"] = alignment(features[0], features[1])
            metrics["uniformity"] = uniformity(features[0])
        return metrics

    def evaluate(self, at: Step) -> Scores:
        """The spread of the features; where it is known who is on the held-out pictures, all their pairs."""
        held = len(self.heldout) > 1  # one alone has no spread
        if held:
            pictures = self.heldout.pictures
        else:
            pictures, _, _ = next(iter(self.crops.batches([torch.arange(min(_WATCHED, len(self.crops)))])))
        features = self._features(pictures)
        if not features.isfinite().all():
            raise TrainingError(
                f"the features are no longer numbers after step {at.number}: start anew with a lower --lr"
            )
        embeddings = F.normalize(features)
        values = {
            "effective_rank": float(effective_rank(embeddings[:_WATCHED])),
            "heldout_uniformity": float(uniformity(embeddings[:_WATCHED])),
        }
        self._curve = heldout_curve(embeddings, self.heldout.labels) if held else None
        if self._curve is None:
            return Scores(values)
        scores = heldout_scores(self._curve)
        return Scores({**values, **scores.values}, scores.genuine, scores.impostor)

    def export(self, folder: Path, scores: Scores) -> None:
        """A checkpoint of the backbone; with thresholds, if people were held out."""
        data = self.settings.data.data
        what = f"{self.heldout.classes} held-out people of {data.name}, {len(self.heldout)} pictures"
        calibration = None if self._curve is None else calibrate(self._curve, what)
        threshold = calibration.threshold_at(1e-3) if calibration and 1e-3 in calibration.thresholds else None
        recipe = {"name": self.name, "settings": portable(self.settings), "heldout": dict(scores.values)}
        config = self._config(calibration=calibration, threshold=threshold, recipe=recipe)
        save_checkpoint(folder, self.backbone, config)
        if self._export_head is not None:
            self._export_head(folder, self.objective)

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups: a backbone that comes trained learns slower than its heads."""
        optim = self.settings.optim
        slow = optim.lr if self.start.trained is None else optim.backbone_lr
        backbone = list(self.backbone.parameters())
        known = set(backbone)
        heads = [parameter for parameter in self.modules.parameters() if parameter not in known]
        return [
            *decay_groups("backbone", backbone, lr=slow, weight_decay=optim.weight_decay),
            *decay_groups("heads", heads, lr=optim.lr, weight_decay=optim.weight_decay),
        ]

    def notes(self) -> tuple[str, ...]:
        """What is worth knowing before the first step."""
        views = " + ".join(f"{drawn.count} of {drawn.size} px" for drawn in self.drawn)
        return (f"{len(self.crops)} pictures, views: {views}; {len(self.heldout)} others are held out",)

    @torch.inference_mode()
    def _features(self, pictures: Tensor) -> Tensor:
        """(n, d) float32 on the CPU, of (n, 3, s, s) uint8."""
        size = self.settings.network.size
        precision = resolve_precision(self.settings.run.precision, self.device)
        parts = []
        for part in torch.split(pictures, _AT_ONCE):
            x = part.to(self.device).float()
            if x.shape[-1] != size:
                x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
            with torch.autocast(self.device.type, precision, enabled=precision != torch.float32):
                parts.append(self.backbone(self._input(x)).float().cpu())
        return torch.cat(parts)

    def _input(self, pixels: Tensor) -> Tensor:
        """Pixels 0...255 as the network takes them."""
        return ((pixels - self._mean) / self._std).contiguous(memory_format=torch.channels_last)

    def _config(self, **more: Any) -> ModelConfig:
        network = self.settings.network
        return ModelConfig(
            architecture=network.architecture,
            embedding_dim=self.start.dim,
            input_size=network.size,
            color="rgb",
            mean=self.start.mean,
            std=self.start.std,
            sizes=self.start.sizes,
            license=network.license,
            **more,
        )
