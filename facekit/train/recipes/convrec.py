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
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from facekit.embed import Embedder
from facekit.errors import SettingError
from facekit.train import processes
from facekit.train.augment import augment, mix_faces
from facekit.train.config import require
from facekit.train.data import shuffled_rows
from facekit.train.heads import MarginHead
from facekit.train.losses import cosine_distillation
from facekit.train.optim import rate_factor
from facekit.train.people import MarginSettings, PeopleTraining, chance_of
from facekit.train.recipe import Recipe, Step
from facekit.train.teacher import embeddings_of_pictures, open_teacher, stored_embeddings

__all__ = ["ConvRecSettings", "build_recipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvRecSettings(MarginSettings):
    """Train a face embedder with a progressive margin, a teacher, or both."""

    margin_weight: float = 1.0
    """Weight of the margin loss; 0 learns from the teacher alone."""
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

    def __post_init__(self) -> None:
        MarginSettings.__post_init__(self)  # super() does not work where slots make a class anew
        for name in ("margin_weight", "distill_weight"):
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "give 0 or more")
        if self.margin_weight == 0 and self.distill is None:
            raise SettingError(
                "margin_weight=0 without a teacher: there is nothing to learn from; give --distill"
            )
        if not 0 <= self.mixtures < 1 or (self.mixtures and (self.distill is None or self.is_stored)):
            raise SettingError(
                f"mixtures={self.mixtures}: give a share in [0, 1), and a network as --distill"
            )

    @property
    def is_stored(self) -> bool:
        """Whether the teacher's embeddings come from a file."""
        return self.distill is not None and self.distill.lower().endswith(".npz")


def build_recipe(settings: ConvRecSettings) -> Recipe:
    """Everything of the recipe that the loop needs: networks, batches, one step, validation, export."""
    torch.manual_seed(settings.run.seed)
    training = _Training(settings)
    people = training.people
    return Recipe(
        modules=training.modules,
        groups=people.groups(training.modules),
        steps_per_epoch=len(people.crops) // settings.run.batch_size,
        batches=training.batches,
        lr_factor=lambda at: rate_factor(settings.optim, at, settings.small_share),
        step=training.step,
        evaluate=people.evaluate,
        export=people.export,
        notes=training.notes(),
        sharded={"head.weight": people.crops.classes} if training.head is not None else {},
    )


class _Training:
    """The networks and pictures of one run, and what is done with them."""

    def __init__(self, settings: ConvRecSettings) -> None:
        self.settings = settings
        self.people = people = PeopleTraining("convrec", settings)
        self.modules, self.head = nn.ModuleDict({"backbone": people.backbone}), None
        if settings.margin_weight:
            self.head = MarginHead(people.start.dim, people.crops.classes, sample_rate=settings.sample_rate)
            self.modules["head"] = self.head
        self.modules.to(memory_format=torch.channels_last)
        self.teacher: Embedder | None = None
        self.targets: Tensor | None = None
        if settings.distill is not None and settings.is_stored:
            self.targets = stored_embeddings(settings.distill, people.listing, people.crops, people.start.dim)
        elif settings.distill is not None:
            self.teacher = open_teacher(settings.distill, people.start.dim, people.device)
            if settings.distill_view == "picture":
                stored = settings.run.out / "teacher.safetensors"
                self.targets = embeddings_of_pictures(self.teacher, people.crops, stored)

    def batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """(pictures, labels[, what the teacher says]) of this process."""
        run, crops = self.settings.run, self.people.crops
        order = shuffled_rows(len(crops), run.batch_size, seed=run.seed, epoch=epoch)[skip:]
        own = [rows[processes.rank() :: processes.world()] for rows in order]
        for pictures, labels, rows in crops.batches(own):
            yield (pictures, labels) if self.targets is None else (pictures, labels, self.targets[rows])

    def step(self, batch: tuple[Tensor, ...], at: Step) -> dict[str, Tensor | float]:
        """Augment, embed, and compare with people and teacher."""
        settings, people, (pictures, labels, *target) = self.settings, self.people, batch
        mixed = int(settings.mixtures * len(pictures))
        if mixed:
            pictures = torch.cat([mix_faces(pictures[:mixed], torch.default_generator), pictures[mixed:]])
        views = augment(pictures, people.augmentation(at), torch.default_generator)
        if self.head is not None:
            people.freeze_trained(at)
        embeddings = people.embed(views, at)
        metrics: dict[str, Tensor | float] = {}
        loss, chance = embeddings.new_zeros(()), 0.0
        if settings.distill is not None:
            wanted = self._wanted(views, target, mixed)
            told = cosine_distillation(embeddings, wanted)
            metrics["teacher_loss"] = told
            loss, chance = loss + settings.distill_weight * told, settings.distill_weight
        if self.head is not None:
            numbers = people.margins(at)
            known, cosine = self.head(embeddings[mixed:], labels[mixed:], **numbers)
            metrics |= {"margin_loss": known, "target_cosine": cosine, **numbers}
            loss = loss + settings.margin_weight * known
            chance += settings.margin_weight * chance_of(people.crops.classes, **numbers)
        return {"loss": loss, "chance": chance, **metrics}

    def notes(self) -> tuple[str, ...]:
        """What is worth knowing before the first step."""
        first = [] if self.head is None else [self.people.first_loss()]
        return (*self.people.notes(), *first)

    def _wanted(self, views: Tensor, target: list[Tensor], mixed: int) -> Tensor:
        """(n, d) what the teacher says of each view."""
        if self.teacher is None:
            return target[0]
        seen = mixed if target else len(views)
        wanted = self.teacher.embed(views[:seen]).to(self.people.device)
        return torch.cat([wanted, target[0][seen:]]) if target else wanted
