"""ConvRec: identities learnt with a progressive margin, a teacher's embeddings, or both.

The published recipe (ConvAI Innovations, 2024) has three phases. Until 16 % of the run the trained backbone
is frozen and a softmax without a margin learns the people; until 40 % the margin comes in; then it rises to
ArcFace's, with stronger augmentation. With ``--distill`` the embedding is also pulled towards that of a
stronger network, either of the very same view ("patient and consistent", Beyer et al. 2022) or of the
untouched picture, which is embedded once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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
from facekit.train import processes
from facekit.train.augment import Augmentation, augment, mix_faces
from facekit.train.config import DataSettings, OptimSettings, RunSettings, require
from facekit.train.data import load_crops, read_listing, shuffled_rows
from facekit.train.heads import MarginHead
from facekit.train.losses import cosine_distillation, expected_initial_loss
from facekit.train.optim import decay_groups, progressive_margin, rate_factor
from facekit.train.recipe import Recipe, Scores, Step
from facekit.train.settings import portable
from facekit.train.start import start_network
from facekit.train.stream import open_crops
from facekit.train.teacher import embeddings_of_pictures, open_teacher, stored_embeddings
from facekit.train.validate import (
    ENOUGH_PAIRS,
    calibrate,
    heldout_curve,
    heldout_scores,
    impostor_pairs,
)

__all__ = ["ConvRecSettings", "build_recipe"]

_CROP = 112  # pixels; what inference aligns to
_FROZEN, _MILD = 0.16, 0.40  # shares of the run after which the first and the second phase end


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvRecSettings:
    """Train a face embedder with a progressive margin, a teacher, or both."""

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
    margin_weight: float = 1.0
    """Weight of the margin loss; 0 learns from the teacher alone."""
    sample_rate: float = 1.0
    """Share of the people whom each step compares with, for very many of them (Partial FC)."""
    distill: str | None = None
    """Teacher whose embeddings are imitated: a checkpoint, ONNX file or Hub name; or the .npz that
    `facekit embed --aligned` wrote of the training pictures."""
    distill_weight: float = 1.0
    """Weight of 1 - cos(student, teacher)."""
    distill_view: Literal["same", "picture"] = "same"
    """What the teacher sees: the student's own view, at every step; or the picture and its mirror, once."""
    mixtures: float = 0.0
    """Share of each batch that is mixtures of two faces, of which only the teacher knows what they are; it
    sees them at every step."""
    size: int = _CROP
    """Side in pixels of the faces that the network sees; smaller is faster and less accurate."""
    start_size: int | None = None
    """Side in pixels during the first part of the run, if another."""
    start_share: float = 0.5
    """Share of the run that sees --start-size."""
    flip_average: bool = False
    """Let the checkpoint average the embeddings of a face and its mirror: a little more accurate, and the
    network takes twice as long."""
    license: str = "unknown"
    """License written into the checkpoint."""

    def __post_init__(self) -> None:
        for name in ("mild", "start_share"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "give a share in [0, 1]")
        for name in ("margin_weight", "distill_weight"):
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "give 0 or more")
        require(0 < self.scale < math.inf, "scale", self.scale, "give a number above 0")
        require(0 <= self.margin <= math.pi / 2, "margin", self.margin, "give radians in [0, pi/2]")
        require(0 <= self.cosine_margin <= 1, "cosine_margin", self.cosine_margin, "give 0 ... 1")
        require(0 < self.sample_rate <= 1, "sample_rate", self.sample_rate, "give a share in (0, 1]")
        if self.margin_weight == 0 and self.distill is None:
            raise SettingError(
                "margin_weight=0 without a teacher: there is nothing to learn from; give --distill"
            )
        if not 0 <= self.mixtures < 1 or (self.mixtures and (self.distill is None or self.is_stored)):
            raise SettingError(
                f"mixtures={self.mixtures}: give a share in [0, 1), and a network as --distill"
            )
        for name, size in (("size", self.size), ("start_size", self.start_size)):
            if size is not None and not 16 <= size <= _CROP:
                raise SettingError(f"{name}={size}: give pixels in 16 ... {_CROP}")

    @property
    def is_stored(self) -> bool:
        """Whether the teacher's embeddings come from a file."""
        return self.distill is not None and self.distill.lower().endswith(".npz")


def build_recipe(settings: ConvRecSettings) -> Recipe:
    """Everything of the recipe that the loop needs: networks, batches, one step, validation, export."""
    torch.manual_seed(settings.run.seed)
    training = _Training(settings)
    return Recipe(
        modules=training.modules,
        groups=training.groups(),
        steps_per_epoch=training.steps_per_epoch,
        batches=training.batches,
        lr_factor=training.lr_factor,
        step=training.step,
        evaluate=training.evaluate,
        export=training.export,
        notes=training.notes(),
        sharded={"head.weight": training.crops.classes} if training.head is not None else {},
    )


class _Training:
    """The networks and pictures of one run, and what is done with them."""

    def __init__(self, settings: ConvRecSettings) -> None:
        self.settings = settings
        self.device = resolve_device(settings.run.device)
        training, aside = read_listing(settings.data)
        self.crops = open_crops(training, _CROP, settings.data, pin=self.device.type == "cuda")
        self.heldout = load_crops(aside, _CROP)
        self.steps_per_epoch = len(self.crops) // settings.run.batch_size
        if self.steps_per_epoch == 0:
            raise SettingError(
                f"batch_size={settings.run.batch_size}: more than the {len(self.crops)} training pictures"
            )
        self.start = start_network(settings.architecture, settings.init, size=settings.size)
        self.backbone, self.head = self.start.model, None
        self.modules = nn.ModuleDict({"backbone": self.backbone})
        if settings.margin_weight:
            self.head = MarginHead(self.start.dim, self.crops.classes, sample_rate=settings.sample_rate)
            self.modules["head"] = self.head
        self.modules.to(memory_format=torch.channels_last)
        self.teacher: Embedder | None = None
        self.targets: Tensor | None = None
        if settings.distill is not None and settings.is_stored:
            self.targets = stored_embeddings(settings.distill, training, self.crops, self.start.dim)
        elif settings.distill is not None:
            self.teacher = open_teacher(settings.distill, self.start.dim, self.device)
            if settings.distill_view == "picture":
                stored = settings.run.out / "teacher.safetensors"
                self.targets = embeddings_of_pictures(self.teacher, self.crops, stored)
        self._mean = torch.tensor(self.start.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(self.start.std, device=self.device).view(1, 3, 1, 1)
        self._curve: ROC | None = None

    def batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """(pictures, labels[, what the teacher says]) of this process."""
        run = self.settings.run
        order = shuffled_rows(len(self.crops), run.batch_size, seed=run.seed, epoch=epoch)[skip:]
        own = [rows[processes.rank() :: processes.world()] for rows in order]
        for pictures, labels, rows in self.crops.batches(own):
            yield (pictures, labels) if self.targets is None else (pictures, labels, self.targets[rows])

    def step(self, batch: tuple[Tensor, ...], at: Step) -> dict[str, Tensor | float]:
        """Augment, embed, and compare with people and teacher."""
        settings, (pictures, labels, *target) = self.settings, batch
        mixed = int(settings.mixtures * len(pictures))
        if mixed:
            pictures = torch.cat([mix_faces(pictures[:mixed], torch.default_generator), pictures[mixed:]])
        strength = settings.mild if at.progress < _MILD else 1.0
        views = augment(pictures, settings.augment.scaled(strength), torch.default_generator)
        self._freeze(self.head is not None and at.progress < _FROZEN)
        embeddings = self.backbone(self._network_input(views, at)).float()
        metrics: dict[str, Tensor | float] = {}
        loss, chance = embeddings.new_zeros(()), 0.0
        if settings.distill is not None:
            wanted = self._wanted(views, target, mixed)
            told = cosine_distillation(embeddings, wanted)
            metrics["teacher_loss"] = told
            loss, chance = loss + settings.distill_weight * told, settings.distill_weight
        if self.head is not None:
            numbers = self._margins(at)
            known, cosine = self.head(embeddings[mixed:], labels[mixed:], **numbers)
            metrics |= {"margin_loss": known, "target_cosine": cosine, **numbers}
            loss = loss + settings.margin_weight * known
            chance += settings.margin_weight * _chance(self.crops.classes, **numbers)
        return {"loss": loss, "chance": chance, **metrics}

    def lr_factor(self, at: Step) -> float:
        """Of every learning rate."""
        return rate_factor(self.settings.optim, at)

    def evaluate(self, at: Step) -> Scores:
        """All pairs of the held-out people."""
        if not len(self.heldout):
            return Scores({})
        checkpoint = Checkpoint(self.backbone, self._config(input_size=self._view_size(at)))
        embedder = Embedder(checkpoint, device=self.device, precision=self.settings.run.precision)
        self._curve = heldout_curve(embedder.embed(self.heldout.pictures), self.heldout.labels)
        return Scores({}) if self._curve is None else heldout_scores(self._curve)

    def export(self, folder: Path, scores: Scores) -> None:
        """A checkpoint; with thresholds, if enough people were held out and evaluated."""
        data = self.settings.data.data
        what = f"{self.heldout.classes} held-out people of {data.name}, {len(self.heldout)} pictures"
        calibration = None if self._curve is None else calibrate(self._curve, what)
        threshold = calibration.threshold_at(1e-3) if calibration and 1e-3 in calibration.thresholds else None
        recipe = {"name": "convrec", "settings": portable(self.settings), "heldout": dict(scores.values)}
        config = self._config(calibration=calibration, threshold=threshold, recipe=recipe)
        save_checkpoint(folder, self.backbone, config, half=True)

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups: what comes trained learns slower."""
        optim = self.settings.optim
        trained = set() if self.start.trained is None else set(self.start.trained.parameters())
        fresh = [p for p in self.modules.parameters() if p not in trained]
        slow = [p for p in self.modules.parameters() if p in trained]
        return [
            *decay_groups("backbone", slow, lr=optim.trained_lr, weight_decay=optim.weight_decay),
            *decay_groups("fresh", fresh, lr=optim.lr, weight_decay=optim.weight_decay),
        ]

    def notes(self) -> tuple[str, ...]:
        """What is worth knowing before the first step."""
        people = f"{len(self.crops)} pictures of {self.crops.classes} people"
        notes = [f"{people}; {len(self.heldout)} of {self.heldout.classes} others are held out"]
        if impostor_pairs(self.heldout.labels) < ENOUGH_PAIRS:
            notes.append(
                "too few are held out to measure thresholds: the checkpoint will have none; "
                "raise --heldout, or use facekit calibrate afterwards"
            )
        if self.head is not None:
            numbers = self._margins(Step(0, 0.0, 0.0))
            first = expected_initial_loss(self.crops.classes, self.start.dim, **numbers)
            chance = math.log(self.crops.classes)
            notes.append(
                f"expected first margin loss: {first:.2f} (ln of the number of people: {chance:.2f})"
            )
        return tuple(notes)

    def _margins(self, at: Step) -> dict[str, float]:
        """Scale and margins of a step, as the head takes them."""
        settings = self.settings
        scale, share = settings.scale, 1.0
        if settings.margin_schedule == "progressive":
            scale, share = progressive_margin(at.progress, scale=settings.scale, margin=1.0)
        return {
            "scale": scale,
            "margin": share * settings.margin,
            "cosine_margin": share * settings.cosine_margin,
        }

    def _freeze(self, frozen: bool) -> None:
        """Keep what comes trained as it is; its batch norms, too, keep the statistics that they came with."""
        trained = self.start.trained
        if trained is None:
            return
        for parameter in trained.parameters():
            parameter.requires_grad_(not frozen)
        if frozen:
            trained.eval()

    def _wanted(self, views: Tensor, target: list[Tensor], mixed: int) -> Tensor:
        """(n, d) what the teacher says of each view."""
        if self.teacher is None:
            return target[0]
        seen = mixed if target else len(views)
        wanted = self.teacher.embed(views[:seen]).to(self.device)
        return torch.cat([wanted, target[0][seen:]]) if target else wanted

    def _view_size(self, at: Step) -> int:
        settings = self.settings
        early = settings.start_size is not None and at.progress < settings.start_share
        return settings.start_size or settings.size if early else settings.size

    def _network_input(self, views: Tensor, at: Step) -> Tensor:
        x = views.float()
        size = self._view_size(at)
        if size < _CROP:
            x = F.interpolate(x, size=size, mode="area")
        return ((x - self._mean) / self._std).contiguous(memory_format=torch.channels_last)

    def _config(self, *, input_size: int | None = None, **more: Any) -> ModelConfig:
        return ModelConfig(
            architecture=self.settings.architecture,
            embedding_dim=self.start.dim,
            input_size=input_size or self.settings.size,
            color="rgb",
            mean=self.start.mean,
            std=self.start.std,
            sizes=self.start.sizes,
            flip_average=self.settings.flip_average,
            license=self.settings.license,
            **more,
        )


def _chance(classes: int, *, scale: float, margin: float, cosine_margin: float) -> float:
    """The margin loss of a network that gives all pictures one embedding, far from all centres."""
    return math.log(max(2, classes)) + scale * (math.sin(margin) + cosine_margin)
