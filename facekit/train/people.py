"""Learning people by a margin: what the recipes that know identities share, apart from their losses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.checkpoint import Checkpoint, ModelConfig, save_checkpoint
from facekit.embed import Embedder, resolve_device
from facekit.errors import SettingError
from facekit.evaluate import ROC
from facekit.train.augment import Augmentation
from facekit.train.config import DataSettings, OptimSettings, RunSettings, require, require_start
from facekit.train.data import load_crops, read_listing
from facekit.train.losses import expected_initial_loss
from facekit.train.optim import progressive_margin
from facekit.train.recipe import Scores, Step
from facekit.train.settings import portable
from facekit.train.start import start_network
from facekit.train.stream import open_crops
from facekit.train.validate import (
    ENOUGH_PAIRS,
    calibrate,
    heldout_curve,
    heldout_scores,
    impostor_pairs,
)

__all__ = ["CROP", "MarginSettings", "PeopleTraining", "chance_of", "steps_of"]

CROP = 112
"""Pixels; what inference aligns to."""

_SHARE = 0.5
_FROZEN, _MILD = 0.16, 0.40  # shares of the run after which the first and the second phase end


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginSettings:
    """What the recipes with a margin have in common."""

    data: DataSettings
    run: RunSettings
    optim: OptimSettings = field(default_factory=OptimSettings)
    augment: Augmentation = field(default_factory=Augmentation)
    mild: float = 0.5
    """Strength of the augmentation until 40 % of the run, as a share of what it is afterwards."""
    architecture: Literal["convrec", "faceresnet"] = "convrec"
    """convrec is the published ResNet-50 with its embedding head; faceresnet is small enough for a CPU."""
    init: str | None = None
    """Weights to start from: a checkpoint (folder, file or Hub name), torchvision's resnet50 as a file,
    imagenet to fetch that, or random. If not given, imagenet for convrec and random for faceresnet. What
    comes trained is frozen for the first 16 % of the run, while the rest learns the people."""
    scale: float = 64.0
    """Final scale s of the logits."""
    margin: float = 0.5
    """Final angular margin m, in radians (ArcFace); 0 with --cosine-margin 0 is a softmax."""
    cosine_margin: float = 0.0
    """Final margin that is subtracted from the cosine (CosFace: 0.4 with --margin 0)."""
    margin_schedule: Literal["progressive", "constant"] = "progressive"
    """Scale and margins that rise with the run, or their final values from the first step on."""
    sample_rate: float = 1.0
    """Share of the people whom each step compares with, for very many of them (Partial FC)."""
    size: int = CROP
    """Side in pixels of the faces that the network sees; smaller is faster and less accurate."""
    start_size: int | None = None
    """Side in pixels during the first part of the run, if another."""
    start_share: float = _SHARE
    """Share of the run that sees --start-size; half of the cosine's learning rate is left for the rest, where
    that is less than half of the run."""
    flip_average: bool = False
    """Let the checkpoint average the embeddings of a face and its mirror: a little more accurate, and the
    network takes twice as long."""
    license: str = "unknown"
    """License written into the checkpoint."""

    def __post_init__(self) -> None:
        require(0 <= self.mild <= 1, "mild", self.mild, "give a share in [0, 1]")
        require_start(self.start_size, self.start_share, full=self.size, usual=_SHARE)
        require(0 < self.scale < math.inf, "scale", self.scale, "give a number above 0")
        require(0 <= self.margin <= math.pi / 2, "margin", self.margin, "give radians in [0, pi/2]")
        require(0 <= self.cosine_margin <= 1, "cosine_margin", self.cosine_margin, "give 0 ... 1")
        require(0 < self.sample_rate <= 1, "sample_rate", self.sample_rate, "give a share in (0, 1]")
        for name, size in (("size", self.size), ("start_size", self.start_size)):
            if size is not None and not 16 <= size <= CROP:
                raise SettingError(f"{name}={size}: give pixels in 16 ... {CROP}")

    @property
    def small_share(self) -> float:
        """Share of the run that sees smaller pictures."""
        return 0.0 if self.start_size is None else self.start_share


class PeopleTraining:
    """The network of one run, the people it learns, those held out, and how it is measured and exported.

    Draws the network's first weights from torch's generator.

    Args:
        name: of the recipe, for the checkpoint.
        settings: all of the recipe's; the checkpoint keeps them.

    Attributes:
        device: where the run is.
        listing: the pictures to learn from, as they are listed.
        crops: the same, as far as they could be read.
        heldout: pictures of people who are not learnt.
        start: the network at its beginning.
        backbone: the network.

    Raises:
        SettingError: settings that do not fit the data.
        TrainingError: data that cannot be understood.
    """

    def __init__(self, name: str, settings: MarginSettings) -> None:
        self._name, self._settings = name, settings
        self.device = resolve_device(settings.run.device)
        self.listing, aside = read_listing(settings.data)
        self.crops = open_crops(self.listing, CROP, settings.data, pin=self.device.type == "cuda")
        self.heldout = load_crops(aside, CROP)
        steps_of(len(self.crops), settings.run.batch_size)
        self.start = start_network(settings.architecture, settings.init, size=settings.size)
        self.backbone = self.start.model
        self._mean = torch.tensor(self.start.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(self.start.std, device=self.device).view(1, 3, 1, 1)
        self._curve: ROC | None = None

    def embed(self, views: Tensor, at: Step) -> Tensor:
        """(n, d) float32 of (n, 3, 112, 112) uint8, at the size of a step."""
        x = views.float()
        size = self._view_size(at)
        if size < CROP:
            x = F.interpolate(x, size=size, mode="area")
        x = ((x - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        embeddings: Tensor = self.backbone(x)
        return embeddings.float()

    def augmentation(self, at: Step) -> Augmentation:
        """How far the views of a step may be from their pictures."""
        settings = self._settings
        return settings.augment.scaled(settings.mild if at.progress < _MILD else 1.0)

    def margins(self, at: Step) -> dict[str, float]:
        """Scale and margins of a step, as a margin head takes them."""
        settings = self._settings
        scale, share = settings.scale, 1.0
        if settings.margin_schedule == "progressive":
            scale, share = progressive_margin(at.progress, scale=settings.scale, margin=1.0)
        return {
            "scale": scale,
            "margin": share * settings.margin,
            "cosine_margin": share * settings.cosine_margin,
        }

    def freeze_trained(self, at: Step) -> None:
        """Keep what comes trained as it is in the first phase.

        Its batch norms, too, keep the statistics that they came with.
        """
        trained, frozen = self.start.trained, at.progress < _FROZEN
        if trained is None:
            return
        for parameter in trained.parameters():
            parameter.requires_grad_(not frozen)
        if frozen:
            trained.eval()

    def groups(self, modules: nn.Module) -> list[dict[str, Any]]:
        """Parameter groups of ``modules``: what comes trained learns slower."""
        return self.start.groups(modules, self._settings.optim)

    def evaluate(self, at: Step) -> Scores:
        """All pairs of the held-out people."""
        if not len(self.heldout):
            return Scores({})
        checkpoint = Checkpoint(self.backbone, self._config(input_size=self._view_size(at)))
        embedder = Embedder(checkpoint, device=self.device, precision=self._settings.run.precision)
        self._curve = heldout_curve(embedder.embed(self.heldout.pictures), self.heldout.labels)
        return Scores({}) if self._curve is None else heldout_scores(self._curve)

    def export(self, folder: Path, scores: Scores) -> None:
        """A checkpoint; with thresholds, if enough people were held out and evaluated."""
        data = self._settings.data.data
        what = f"{self.heldout.classes} held-out people of {data.name}, {len(self.heldout)} pictures"
        calibration = None if self._curve is None else calibrate(self._curve, what)
        threshold = calibration.threshold_at(1e-3) if calibration and 1e-3 in calibration.thresholds else None
        recipe = {
            "name": self._name,
            "settings": portable(self._settings),
            "heldout": dict(scores.values),
        }
        config = self._config(calibration=calibration, threshold=threshold, recipe=recipe)
        save_checkpoint(folder, self.backbone, config, half=True)

    def notes(self) -> list[str]:
        """What is worth knowing of the people before the first step."""
        people = f"{len(self.crops)} pictures of {self.crops.classes} people"
        notes = [f"{people}; {len(self.heldout)} of {self.heldout.classes} others are held out"]
        if impostor_pairs(self.heldout.labels) < ENOUGH_PAIRS:
            notes.append(
                "too few are held out to measure thresholds: the checkpoint will have none; "
                "raise --heldout, or use facekit calibrate afterwards"
            )
        return notes

    def first_loss(self) -> str:
        """What the margin loss should be at the first step."""
        classes, numbers = self.crops.classes, self.margins(Step(0, 0.0, 0.0))
        first = expected_initial_loss(classes, self.start.dim, **numbers)
        return (
            f"expected first margin loss: {first:.2f} (ln of the number of people: {math.log(classes):.2f})"
        )

    def _view_size(self, at: Step) -> int:
        settings = self._settings
        if settings.start_size is None or at.progress >= settings.small_share:
            return settings.size
        return settings.start_size

    def _config(self, *, input_size: int | None = None, **more: Any) -> ModelConfig:
        return self.start.config(
            input_size=input_size or self._settings.size,
            flip_average=self._settings.flip_average,
            license=self._settings.license,
            **more,
        )


def steps_of(pictures: int, batch_size: int) -> int:
    """Whole batches in one pass over the training pictures.

    Raises:
        SettingError: not even one.
    """
    if pictures < batch_size:
        raise SettingError(f"batch_size={batch_size}: more than the {pictures} training pictures")
    return pictures // batch_size


def chance_of(classes: int, *, scale: float, margin: float, cosine_margin: float) -> float:
    """The margin loss of a network that gives all pictures one embedding, far from all centres."""
    return math.log(max(2, classes)) + scale * (math.sin(margin) + cosine_margin)
