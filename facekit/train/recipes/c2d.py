"""C2D: learn from labels of which some are wrong, and find out which.

Zheltonozhskii et al. 2022, "Contrast to divide: self-supervised pre-training for learning with noisy labels":
two networks that have learnt the same pictures without labels (``--init``) learn the labels for a few epochs,
too few to know wrong ones by heart. Then, as in DivideMix (Li et al. 2020), what a network loses on a picture
tells how likely its label is right, and each epoch each network learns by what the other one believes: labels
that are likely right count, in part; where they are not, both networks guess instead. Pictures are mixed in
pairs (MixUp).

Both learn in one step, from the same two views of each picture; DivideMix trains one for an epoch, then the
other.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.checkpoint import save_checkpoint
from facekit.embed import resolve_device, resolve_precision
from facekit.errors import SettingError, TrainingError
from facekit.train import processes
from facekit.train.augment import Augmentation, augment
from facekit.train.config import DataSettings, OptimSettings, RunSettings, require
from facekit.train.coteaching import Classifier, Coteaching, learn_all
from facekit.train.data import load_crops, read_listing, shuffled_rows
from facekit.train.division import Division, Judgement, judge, known_labels, write_losses
from facekit.train.heads import CosineClasses, LinearClasses
from facekit.train.network import NetworkSettings
from facekit.train.optim import decay_groups, rate_factor
from facekit.train.outputs import write_head
from facekit.train.recipe import Recipe, Scores, Step
from facekit.train.settings import portable
from facekit.train.start import start_of
from facekit.train.stream import open_crops
from facekit.train.watch import Watch

__all__ = ["PRESETS", "C2DSettings", "build_recipe"]

_log = logging.getLogger(__name__)

_FEW = 0.02  # of the labels; where fewer count, both networks learn little but each other's guesses


@dataclass(frozen=True, slots=True, kw_only=True)
class C2DSettings:
    """Learn people or classes of which some labels are wrong, and find out which (Contrast to Divide)."""

    data: DataSettings
    run: RunSettings
    optim: OptimSettings = field(default_factory=lambda: OptimSettings(clip=1.0))
    network: NetworkSettings = field(default_factory=NetworkSettings)
    augment: Augmentation = field(default_factory=Augmentation)
    head: Literal["softmax", "margin"] = "softmax"
    """A linear classifier, or centres with a margin (CosFace), whose embeddings are better to compare."""
    scale: float = 30.0
    """Scale s of the logits of --head margin."""
    margin: float = 0.2
    """Cosine margin m of --head margin; a label that is believed in part has its part of it."""
    warmup_epochs: int = 5
    """Epochs in which all labels are learnt as they are, too few to know wrong ones by heart. As many as
    --epochs is plain training, of one network."""
    asymmetric: bool = False
    """In these epochs, keep the networks from being sure: where one class is often taken for another one."""
    threshold: float = 0.5
    """Probability of being right from which a label counts."""
    lambda_u: float = 25.0
    """Weight of the guesses. Published: 0 for 20 % wrong labels or asymmetric ones, 25 for 10 classes, 150
    and more for 100, since the error is a mean over the classes."""
    rampup: float = 16.0
    """Epochs after the warm-up in which that weight rises from 0."""
    sharpen: float = 0.5
    """Temperature by which targets are made surer; 1 leaves them as they are."""
    mixup: float = 4.0
    """Parameter of the Beta distribution of the shares of two mixed pictures; the higher, the evener."""

    def __post_init__(self) -> None:
        for name in ("scale", "mixup"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "give a number above 0")
        for name in ("lambda_u", "rampup"):
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "give 0 or more")
        require(0 <= self.margin <= 1, "margin", self.margin, "give a cosine in [0, 1]")
        require(0 < self.threshold < 1, "threshold", self.threshold, "give a probability in (0, 1)")
        require(0 < self.sharpen <= 1, "sharpen", self.sharpen, "give a number in (0, 1]")
        most = self.run.epochs
        remedy = f"give 1 ... {most}, the epochs of the run"
        require(1 <= self.warmup_epochs <= most, "warmup_epochs", self.warmup_epochs, remedy)

    @property
    def plain(self) -> bool:
        """Whether labels are learnt as they are to the end, which leaves a second network nothing to do."""
        return self.warmup_epochs == self.run.epochs


def _cifar10(data: Path, out: Path) -> C2DSettings:
    """C2D's for CIFAR-10, with AdamW and one cosine instead of SGD and a step."""
    return C2DSettings(
        data=DataSettings(data=data, heldout=0.0),
        run=RunSettings(out=out, epochs=360, batch_size=64),
        optim=OptimSettings(lr=1e-3, weight_decay=5e-4, warmup=0.0, clip=1.0),
        network=NetworkSettings(architecture="resnet18", stem="full", size=32, resolution=32),
        augment=Augmentation(
            rotation=0.0, zoom=0.0, shift=0.125, brightness=0.0, grey=0.0, low_resolution=0.0
        ),
    )


PRESETS: Mapping[str, Callable[[Path, Path], C2DSettings]] = {"cifar10": _cifar10}
"""Published settings by name, given where the data are and where the run goes."""


def build_recipe(settings: C2DSettings) -> Recipe:
    """Everything of the recipe that the loop needs: two networks, batches, one step, validation, export.

    Raises:
        SettingError: settings that do not go together.
        TrainingError: no pictures, or of one class.
    """
    torch.manual_seed(settings.run.seed)
    training = _Training(settings)
    return Recipe(
        modules=training.modules,
        groups=training.groups(),
        steps_per_epoch=training.steps_per_epoch,
        batches=training.batches,
        lr_factor=lambda at: rate_factor(settings.optim, at, settings.network.small_share),
        step=training.step,
        evaluate=training.evaluate,
        export=training.export,
        notes=training.notes(),
        divisible=False,
    )


class _Training:
    """The networks and pictures of one run, and what is done with them."""

    def __init__(self, settings: C2DSettings) -> None:
        run, network = settings.run, settings.network
        self.settings, self.device = settings, resolve_device(run.device)
        self.precision = resolve_precision(run.precision, self.device)
        listing, aside = read_listing(settings.data)
        self.chosen = listing.source.heldout is not None  # who is held out, by the data: names to rely on
        starts = [start_of(network) for _ in range(1 if settings.plain else 2)]
        self.start = starts[0]
        self.crops = open_crops(listing, network.resolution, settings.data, pin=self.device.type == "cuda")
        self.steps_per_epoch = _steps(self.crops.classes, len(self.crops), run.batch_size)
        self.heldout = load_crops(aside, network.resolution)
        self.labelled = known_labels(listing, self.crops)
        prior = torch.bincount(self.labelled.labels, minlength=self.crops.classes) / len(self.crops)
        self.coteaching = Coteaching(
            prior.to(self.device), temperature=settings.sharpen, mixup=settings.mixup
        )
        self.networks = [Classifier(start.model, self._head(start.dim), prior) for start in starts]
        self.division = Division(len(self.crops))
        modules = nn.ModuleDict(dict(zip(("first", "second"), self.networks, strict=False)))
        modules = processes.synchronized(modules, self.device)
        modules["division"] = self.division
        self.modules = modules.to(memory_format=torch.channels_last)
        self._mean = torch.tensor(self.start.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(self.start.std, device=self.device).view(1, 3, 1, 1)
        self._figures: dict[str, float] = {}
        self.watch = Watch(self._first_features, self.heldout, self.crops, run)

    def batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """(pictures, labels) of this process; after the warm-up, also what the other network says of them.

        That is, for each network: how likely the labels are clean, and whether they count, (n, 2) each.
        """
        run, threshold = self.settings.run, self.settings.threshold
        order = shuffled_rows(len(self.crops), run.batch_size, seed=run.seed, epoch=epoch)[skip:]
        own = [rows[processes.rank() :: processes.world()] for rows in order]
        if epoch < self.settings.warmup_epochs:
            yield from ((pictures, labels) for pictures, labels, _ in self.crops.batches(own))
            return
        if skip == 0:  # else the state has it
            self._divide(epoch)
        self._figures = self.division.figures(threshold)
        of_both = self.division.clean, self.division.believed(threshold)
        clean, believed = (of_each.flip(0).T for of_each in of_both)
        for pictures, labels, rows in self.crops.batches(own):
            rows = rows.to(clean.device)
            yield pictures, labels, clean[rows], believed[rows]

    def step(self, batch: tuple[Tensor, ...], at: Step) -> dict[str, Tensor | float]:
        """Of a view of each picture for each network: learn the labels, or what is believed of them."""
        settings, (pictures, labels, *believed) = self.settings, batch
        several = pictures.repeat(len(self.networks), 1, 1, 1)
        views = augment(several, settings.augment, torch.default_generator)
        x = self._input(views.float(), self._side(at))
        if not believed:
            return learn_all(self.networks, x, labels, keep_unsure=settings.asymmetric)
        ramp = min(1.0, (at.epoch - settings.warmup_epochs) / settings.rampup) if settings.rampup else 1.0
        weight = ramp * settings.lambda_u
        return self.coteaching(self.networks, x, labels, *believed, weight=weight) | self._figures

    def evaluate(self, at: Step) -> Scores:
        """How the first network's features lie, and all pairs of the held-out people."""
        return self.watch.scores(at, size=self._side(at))

    def export(self, folder: Path, scores: Scores) -> None:
        """A checkpoint of the first network, with thresholds if data say whom to hold out; and losses.csv.

        Not of the better one: chosen by the held-out people, it would seem better than it is on others. And
        without thresholds where people are held out by names that may be wrong: one person under two names
        makes strangers look alike.
        """
        network = self.settings.network
        calibration = self.watch.calibration(self.settings.data.data) if self.chosen else None
        threshold = calibration.threshold_at(1e-3) if calibration and 1e-3 in calibration.thresholds else None
        config = self.start.config(
            input_size=network.size,
            license=network.license,
            calibration=calibration,
            threshold=threshold,
            recipe={"name": "c2d", "settings": portable(self.settings), "heldout": dict(scores.values)},
        )
        save_checkpoint(folder, self.networks[0].backbone, config)
        self._write_losses("losses.csv", self._judge(self.settings.run.epochs, shared=False))
        outputs = {"head": self.settings.head, "names": list(self.labelled.classes)}
        write_head(self.settings.run.out, self.networks[0].head, outputs)

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups; without ``backbone_lr`` all learns at one rate, as published."""
        optim = self.settings.optim
        backbone_lr = optim.lr if self.start.trained is None else optim.backbone_lr or optim.lr
        backbones = [p for network in self.networks for p in network.backbone.parameters()]
        heads = [p for network in self.networks for p in network.head.parameters()]
        return [
            *decay_groups("backbones", backbones, lr=backbone_lr, weight_decay=optim.weight_decay),
            *decay_groups("heads", heads, lr=optim.lr, weight_decay=optim.weight_decay),
        ]

    def notes(self) -> tuple[str, ...]:
        """What is worth knowing before the first step."""
        what = f"{len(self.crops)} pictures of {self.crops.classes} people or classes"
        notes = [f"{what}; {len(self.heldout)} of {self.heldout.classes} others are held out"]
        if self.settings.network.init == "random":
            notes.append(
                "from random weights fewer wrong labels are found: let simclr learn the pictures first, "
                "and give its checkpoint as --init"
            )
        if len(self.heldout) and not self.chosen:
            notes.append(
                "people are held out by names that may be wrong, so the checkpoint gets no thresholds: mark "
                "people of whom you are sure in a column split, or run facekit calibrate on some afterwards"
            )
        if self.settings.plain:
            notes.append(
                "all epochs are warm-up: plain training of one network, with a look at the labels at its end"
            )
        return tuple(notes)

    def _divide(self, epoch: int) -> None:
        """Say anew how likely the labels are clean; right after the warm-up, write it down, too."""
        judgement = self._judge(epoch, shared=True)
        self.division.update(judgement)
        figures = self.division.figures(self.settings.threshold)
        if figures["clean_share"] < _FEW and processes.rank() == 0:
            _log.warning(
                "epoch %d: only %.2g %% of the labels count, since the losses are hardly of two kinds "
                "(separation %.2f): give more --warmup-epochs or a start that knows more (--init), or lower "
                "--threshold",
                epoch,
                100 * figures["clean_share"],
                figures["separation"],
            )
        if epoch == self.settings.warmup_epochs and processes.rank() == 0:
            self._write_losses("losses-warmup.csv", judgement)

    def _judge(self, epoch: int, *, shared: bool) -> Judgement:
        """What the networks lose on all pictures, after so many epochs."""
        side = self._side(Step(epoch * self.steps_per_epoch, epoch / self.settings.run.epochs, float(epoch)))
        lower = self.precision != torch.float32
        self.modules.eval()

        def logits(pictures: Tensor) -> list[Tensor]:
            x = self._input(pictures.to(self.device).float(), side)
            with torch.autocast(self.device.type, self.precision, enabled=lower):
                return [network(x) for network in self.networks]

        return judge(logits, self.crops, networks=len(self.networks), shared=shared)

    def _write_losses(self, name: str, judgement: Judgement) -> None:
        """In the run's folder: a checkpoint travels, and what is said of people should not."""
        file = self.settings.run.out / name
        write_losses(file, self.labelled, judgement, threshold=self.settings.threshold)

    def _head(self, dim: int) -> LinearClasses | CosineClasses:
        settings, classes = self.settings, self.crops.classes
        if settings.head == "softmax":
            return LinearClasses(dim, classes)
        return CosineClasses(dim, classes, scale=settings.scale, margin=settings.margin)

    def _side(self, at: Step) -> int:
        return self.settings.network.side(self.settings.network.size, at)

    def _input(self, pixels: Tensor, side: int) -> Tensor:
        """Pixels 0...255 as the networks take them."""
        if pixels.shape[-1] != side:
            pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True, align_corners=False)
        return ((pixels - self._mean) / self._std).contiguous(memory_format=torch.channels_last)

    def _first_features(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.networks[0].backbone(self._input(pixels, pixels.shape[-1]))
        return features


def _steps(classes: int, pictures: int, batch_size: int) -> int:
    """Whole batches in one pass."""
    if classes < 2:
        raise TrainingError("all pictures that can be read are of one person; at least 2 are needed")
    if pictures < batch_size:
        raise SettingError(f"batch_size={batch_size}: more than the {pictures} training pictures")
    return pictures // batch_size
