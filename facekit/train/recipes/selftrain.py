"""Self-training: a teacher finds people in a pile without labels, and a student learns them beside others.

A teacher that has learnt the labelled people embeds the pile; groups of pictures that are alike become pseudo
identities, once. The student learns both, with strong augmentation and a margin head for each: the labelled
people never compete with pseudo identities, which may be the same. Losses are joined by their running ratio.

Beside it stands what the same settings, with as many pictures through the network, make of the labelled ones
alone: the gain can be nil.

Source: Zoph et al. 2020, "Rethinking pre-training and self-training".
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from facekit.checkpoint import ModelConfig, load_checkpoint
from facekit.embed import Embedder
from facekit.errors import SettingError
from facekit.threshold import Threshold, choose_threshold
from facekit.train import processes
from facekit.train.augment import Augmentation, augment
from facekit.train.comparison import compare, comparison_table, write_comparison
from facekit.train.config import require
from facekit.train.data import Listing, read_listing, shuffled_rows
from facekit.train.heads import MarginHead
from facekit.train.losses import LossRatio
from facekit.train.optim import rate_factor
from facekit.train.people import CROP, MarginSettings, PeopleTraining, chance_of, steps_of
from facekit.train.pile import labels_digest, open_pile, picture_places, pseudo_listing
from facekit.train.recipe import Recipe, Scores, Step
from facekit.train.recipes import convrec
from facekit.train.run import require_data, train_once
from facekit.train.stream import open_crops
from facekit.train.validate import ACCEPTS, impostor_pairs, measured_rates

__all__ = ["SelfTrainSettings", "build_recipe"]

_log = logging.getLogger(__name__)

_RARE = 1e-2  # the commonest false accept rate at which a pile is grouped, unless another is asked for
_STRONG = Augmentation(rotation=15.0, zoom=0.15, shift=0.08, brightness=0.4, grey=0.1, low_resolution=0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTrainSettings(MarginSettings):
    """Train a student on labelled people and on those whom a teacher finds in a pile without labels."""

    unlabelled: Path
    """Pictures of which nothing is known: aligned face crops, as --data has them; what this says of people is
    ignored, and pictures that are in --data, too, are left out."""
    teacher: str | None = None
    """Who finds people in the pile: a checkpoint (folder, file or Hub name). If not given, it is what the
    labelled pictures alone teach, OUT/supervised."""
    augment: Augmentation = field(default_factory=lambda: _STRONG)
    mild: float = 1.0
    """Strength of the augmentation until 40 % of the run, as a share of what it is afterwards."""
    threshold: float | None = None
    """Mean similarity at which pictures are of one person. If not given, that of --far."""
    far: float | None = None
    """Take the threshold from the teacher's calibration at this false accept rate. If not given, the rarest
    that was measured, 1e-2 at the most: in a pile, each picture meets all others."""
    least: int = 3
    """Pictures of the smallest group that counts as a person."""
    times: int = 1
    """Pictures of the pile for each labelled one, in every batch."""
    alpha: float = 1.0
    """Weight of the pseudo identities' loss, after it is brought to the size of the other."""

    def __post_init__(self) -> None:
        MarginSettings.__post_init__(self)  # super() does not work where slots make a class anew
        if self.threshold is not None:
            require(-1 <= self.threshold <= 1, "threshold", self.threshold, "give a similarity in [-1, 1]")
        if self.far is not None:
            require(self.threshold is None, "far", self.far, "does nothing beside --threshold; leave one out")
            require(0 < self.far <= 0.1, "far", self.far, "give a rate above 0, up to 0.1, such as 1e-4")
        require(
            self.optim.schedule == "cosine",
            "schedule",
            self.optim.schedule,
            "give cosine: restarts go by epochs, and the run on labelled pictures alone has more of them",
        )
        require(self.least >= 2, "least", self.least, "give 2 or more")
        require(
            0 < self.alpha < math.inf,
            "alpha",
            self.alpha,
            "give a number above 0; the paper's are 0.25 ... 4",
        )
        fits = self.times >= 1 and self.run.batch_size % (1 + self.times) == 0
        require(
            fits,
            "times",
            self.times,
            f"give 1 or more, such that 1 more divides --batch-size {self.run.batch_size}",
        )

    @property
    def labelled_batch(self) -> int:
        """Labelled pictures a step, over all processes."""
        return self.run.batch_size // (1 + self.times)


def build_recipe(settings: SelfTrainSettings) -> Recipe:
    """Everything that the loop needs; before that, the supervised run, and who is in the pile."""
    labelled = read_listing(settings.data)
    pile = open_pile(settings.unlabelled, set(picture_places(labelled[0].source)))
    _check(settings, labelled)
    supervised = train_once(
        "convrec",
        _supervised(settings, len(labelled[0])),
        convrec.build_recipe,
        learnt=lambda: labels_digest(labelled),
    )
    require_data(settings.run.out, lambda: labels_digest(labelled))
    source = settings.teacher or str(supervised)
    teacher = Embedder(load_checkpoint(source), device=settings.run.device)
    found, told = pseudo_listing(
        teacher,
        _threshold(settings, source, teacher.config),
        pile,
        labelled,
        settings.run.out,
        least=settings.least,
    )
    del teacher
    rivals = {"teacher": source} if settings.teacher else {}
    torch.manual_seed(settings.run.seed)
    training = _SelfTraining(settings, found, {**rivals, "supervised only": str(supervised)})
    return Recipe(
        modules=training.modules,
        groups=training.people.groups(training.modules),
        steps_per_epoch=training.steps_per_epoch,
        batches=training.batches,
        lr_factor=lambda at: rate_factor(settings.optim, at, settings.small_share),
        step=training.step,
        evaluate=training.people.evaluate,
        export=training.export,
        notes=(*training.people.notes(), told, training.people.first_loss()),
        sharded={"head.weight": training.people.crops.classes, "pseudo.weight": training.pile.classes},
    )


class _SelfTraining:
    """The student, what it learns from, and what it is compared with."""

    def __init__(self, settings: SelfTrainSettings, found: Listing, rivals: dict[str, str]) -> None:
        self.settings, self._rivals = settings, rivals
        self.people = people = PeopleTraining("selftrain", settings)
        self.pile = open_crops(found, CROP, settings.data, pin=people.device.type == "cuda")
        self.steps_per_epoch = steps_of(len(people.crops), settings.labelled_batch)
        dim, rate = people.start.dim, settings.sample_rate
        self.head = MarginHead(dim, people.crops.classes, sample_rate=rate)
        self.pseudo = MarginHead(dim, self.pile.classes, sample_rate=rate)
        self.ratio = LossRatio(settings.alpha)
        parts = {"backbone": people.backbone, "head": self.head, "pseudo": self.pseudo, "ratio": self.ratio}
        self.modules = nn.ModuleDict(parts).to(memory_format=torch.channels_last)

    def batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """(pictures, labels) of this process, a labelled picture and those of the pile beside it in each row.

        So every part of a batch has both in the same proportion.
        """
        times, size, seed = self.settings.times, self.settings.labelled_batch, self.settings.run.seed
        own = slice(processes.rank(), None, processes.world())
        known = shuffled_rows(len(self.people.crops), size, seed=seed, epoch=epoch)[skip:]
        steps = range(epoch * self.steps_per_epoch + skip, (epoch + 1) * self.steps_per_epoch)
        told = endless_rows(len(self.pile), size * times, steps, seed=seed)
        shares = (
            self.people.crops.batches([rows[own] for rows in known]),
            self.pile.batches([rows.view(size, times)[own].flatten() for rows in told]),
        )
        for (pictures, people, _), (others, named, _) in zip(*shares, strict=True):
            beside = len(pictures), times
            yield (
                torch.cat([pictures[:, None], others.view(*beside, *others.shape[1:])], dim=1),
                torch.cat([people[:, None], named.view(beside)], dim=1),
            )

    def step(self, batch: tuple[Tensor, ...], at: Step) -> dict[str, Tensor | float]:
        """Augment and embed all; compare each part with its own people, and join the losses."""
        people, (pictures, labels) = self.people, batch
        views = augment(pictures.flatten(0, 1), people.augmentation(at), torch.default_generator)
        people.freeze_trained(at)
        embeddings = people.embed(views, at).view(*labels.shape, -1)
        numbers = people.margins(at)
        known, cosine = self.head(embeddings[:, 0], labels[:, 0], **numbers)
        told, pseudo_cosine = self.pseudo(embeddings[:, 1:].flatten(0, 1), labels[:, 1:].flatten(), **numbers)
        loss, ratio = self.ratio(known, told)
        return {
            "loss": loss,
            "chance": chance_of(people.crops.classes, **numbers),
            "margin_loss": known,
            "pseudo_loss": told,
            "ratio": ratio,
            "target_cosine": cosine,
            "pseudo_cosine": pseudo_cosine,
            **numbers,
        }

    def export(self, folder: Path, scores: Scores) -> None:
        """The student's checkpoint, and beside its folder the table that says what the pile gave."""
        self.people.export(folder, scores)
        networks = {**self._rivals, "student": str(folder)}
        figures = (
            compare(networks, self.people.heldout, self.settings.run) if len(self.people.heldout) else {}
        )
        if not figures:
            _log.info("too few people are held out to say what the pile gave; raise --heldout")
            return
        table = comparison_table(figures, "supervised only", "student")
        write_comparison(folder.parent, figures, table)
        _log.info("\n%s", table)


def endless_rows(count: int, batch_size: int, steps: range, *, seed: int) -> Sequence[Tensor]:
    """The rows of some batches out of a sequence without end, (b,) int64 each.

    All rows come in an order that seed and pass fix, then again in another; batches cross from one pass to
    the next, so that a small pile fills large batches.
    """
    begin, end = steps.start * batch_size, steps.stop * batch_size
    first = begin // count
    passes = [
        torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + number))
        for number in range(first, -(-end // count))
    ]
    order = torch.cat(passes)[begin - first * count : end - first * count] if passes else torch.empty(0)
    return torch.split(order, batch_size)


def _supervised(settings: SelfTrainSettings, pictures: int) -> convrec.ConvRecSettings:
    """The run on labelled pictures alone: as many steps, of as many pictures, with all else alike."""
    run = settings.run
    steps = run.epochs * steps_of(pictures, settings.labelled_batch)
    epochs = max(1, round(steps / steps_of(pictures, run.batch_size)))
    shared = {each.name: getattr(settings, each.name) for each in fields(MarginSettings)}
    shared["run"] = replace(run, out=run.out / "supervised", epochs=epochs)
    return convrec.ConvRecSettings(**shared)


def _check(settings: SelfTrainSettings, labelled: tuple[Listing, Listing]) -> None:
    """Say before the long work what would stop it afterwards."""
    if settings.labelled_batch % processes.world():
        raise SettingError(
            f"batch_size={settings.run.batch_size}: {settings.labelled_batch} labelled pictures a step for "
            f"{processes.world()} processes; give a multiple of {(1 + settings.times) * processes.world()}"
        )
    if settings.threshold is not None:
        return
    if settings.teacher is not None:
        _threshold(settings, settings.teacher, load_checkpoint(settings.teacher).config)
    elif not _is_measured(settings.far, measured_rates(labelled[1].labels)):
        what = "threshold" if settings.far is None else f"far={settings.far:g}"
        pairs = impostor_pairs(labelled[1].labels)
        raise SettingError(
            f"{what}: too few people are held out ({pairs} pairs of two) to measure the teacher's at "
            f"{_wanted(settings.far)}; raise --heldout, or give --threshold, between -1 and 1"
        )


def _threshold(settings: SelfTrainSettings, source: str, teacher: ModelConfig) -> Threshold:
    """At which pictures of the pile are of one person."""
    table, far = teacher.calibration, settings.far
    if settings.threshold is not None:
        return choose_threshold(teacher, threshold=settings.threshold)
    if table is None:
        raise SettingError(
            f"teacher={source}: has no calibration to take a threshold from; give --threshold, "
            "between -1 and 1, or measure it with `facekit calibrate`"
        )
    measured = [rate for rate in table.thresholds if rate * table.impostor_pairs >= ACCEPTS]
    if not _is_measured(far, measured):
        raise SettingError(
            f"teacher={source}: its calibration, of {table.impostor_pairs} pairs of two people, does not "
            f"tell a threshold at {_wanted(far)}; give --threshold, between -1 and 1, or measure it with "
            "`facekit calibrate`"
        )
    return choose_threshold(teacher, far=min(measured) if far is None else far)


def _is_measured(far: float | None, measured: Sequence[float]) -> bool:
    """Whether the rate that is asked for, or one that is rare enough for a pile, is among the known ones."""
    return min(measured, default=1.0) <= (_RARE if far is None else far)


def _wanted(far: float | None) -> str:
    return f"a false accept rate of {_RARE:g} or less" if far is None else "that rate"
