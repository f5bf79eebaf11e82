"""Fine-tuning: a face task learnt from labels, some missing, and from what the network is sure of in a pile.

Lee 2013, "Pseudo-Label"; as a part of fine-tuning: Zhou, Oliver, Wu, Zheng 2018, "When semi-supervised
learning meets transfer learning", whose finding is that the gain shrinks with pre-training and grows with the
domain gap. So the same run without the pile always comes first, and stands beside it in the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from facekit.checkpoint import save_checkpoint
from facekit.embed import resolve_device
from facekit.errors import SettingError, TrainingError
from facekit.train import processes
from facekit.train.best import BestMoment
from facekit.train.config import DataSettings, OptimSettings, RunSettings, require
from facekit.train.losses.pseudo import ramp_up, sure_attributes, sure_classes
from facekit.train.network import NetworkSettings
from facekit.train.optim import decay_groups, rate_factor
from facekit.train.outputs import write_head
from facekit.train.probe.backbone import Backbone
from facekit.train.probe.examples import TEST, TRAIN, VALIDATION, Examples, examples_digest, tasked
from facekit.train.probe.finetuning import Labelled, Tuning, published_views
from facekit.train.probe.gain import write_gain
from facekit.train.probe.joined import join_examples, never_known
from facekit.train.probe.layouts import open_examples
from facekit.train.probe.table import Cell, read_cells, write_cell
from facekit.train.probe.tasks import task_of
from facekit.train.probe.tasks.affect import Affect
from facekit.train.probe.tasks.identities import Identities
from facekit.train.probe.unlabelled import Unlabelled, list_unlabelled
from facekit.train.recipe import Recipe, Scores, Step
from facekit.train.run import require_data, train_once
from facekit.train.settings import portable
from facekit.train.start import start_of
from facekit.train.stream import open_crops
from facekit.train.views import ViewSettings

__all__ = ["FineTuningSettings", "PseudoSettings", "build_recipe"]

_NAME = "finetune"
_SURE = {"attributes": sure_attributes, "classes": sure_classes}


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudoSettings:
    """What is made of pictures without labels."""

    threshold: float = 0.95
    """Lowest probability of what the network takes for the label of a picture without one."""
    weight: float = 1.0
    """Weight of the loss of these labels, after its rise."""
    ramp: tuple[float, float] = (0.1, 0.6)
    """Shares of the run between which this weight rises from 0."""

    def __post_init__(self) -> None:
        require(0.5 <= self.threshold < 1, "threshold", self.threshold, "give a probability in [0.5, 1)")
        require(0 <= self.weight < math.inf, "weight", self.weight, "give 0 or more")
        begin, end = self.ramp
        remedy = "give two shares of the run in [0, 1], the lower one first"
        require(0 <= begin <= end <= 1, "ramp", self.ramp, remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuningSettings:
    """Learn a face task from labelled sets, and from pictures without labels by pseudo-labels."""

    data: tuple[str, ...]
    """[TASK=]PATH, one or several labelled sets of one task: attributes, classes, landmarks, affect,
    action_units, reconstruction or identities. Of several sets of attributes or action units, those that a
    set does not have are unknown in its pictures; elsewhere the names have to be the same."""
    run: RunSettings
    layout: str = "auto"
    """How the sets lie on disk; if not given, it is recognised."""
    optim: OptimSettings = field(
        default_factory=lambda: OptimSettings(backbone_lr=1e-3, weight_decay=1e-2, warmup=0.0)
    )
    network: NetworkSettings = field(default_factory=NetworkSettings)
    views: ViewSettings = field(default_factory=published_views)
    """What is learnt from; points are seen whole, with other colours."""
    unlabelled: Path | None = None
    """Pictures without labels, for attributes or classes: a folder, CSV, RecordIO or tar shards, as for the
    recipes without labels. The same run without them comes first, in the folder supervised of --out."""
    pseudo: PseudoSettings = field(default_factory=PseudoSettings)
    keep_gb: float = 8.0
    """Decoded pictures without labels that take so many gigabytes or less, in all processes of a machine
    together, are kept in memory; more are decoded anew in each epoch. 0 keeps none."""
    workers: int | None = None
    """Processes that decode those which are not kept; if not given, one a core, 16 at most, for each of
    torchrun's processes its share."""

    def __post_init__(self) -> None:
        require(bool(self.data), "data", "", "name one or several sets")
        DataSettings(data=Path(), keep_gb=self.keep_gb, workers=self.workers)  # refuses what they cannot be


def build_recipe(settings: FineTuningSettings) -> Recipe:
    """Everything of the recipe that the loop needs; with a pile, after the run without it.

    Raises:
        SettingError: settings that do not go together or do not fit the data.
        TrainingError: data that cannot be understood.
        EvaluationError: validation or test pictures in which nothing can be scored.
    """
    training = _Training(settings)
    return Recipe(
        modules=training.modules,
        groups=training.groups(),
        steps_per_epoch=training.tuning.steps_per_epoch,
        batches=training.batches,
        lr_factor=lambda at: rate_factor(settings.optim, at, settings.network.small_share),
        step=training.step,
        evaluate=training.evaluate,
        export=training.export,
        notes=training.notes(),
        divisible=not isinstance(training.task, Affect),
    )


class _Training:
    """The network, the sets and the pile of one run, and what is done with them."""

    def __init__(self, settings: FineTuningSettings) -> None:
        run, network = settings.run, settings.network
        self.settings = settings
        self.examples = _open(settings)
        rows = self.examples.rows(TRAIN)
        self.task = task_of(self.examples, rows)
        if run.batch_size > len(rows):
            raise SettingError(f"batch_size={run.batch_size}: more than the {len(rows)} training pictures")
        listing = None
        if settings.unlabelled is not None:
            if self.examples.task not in _SURE:
                raise SettingError(
                    f"unlabelled={settings.unlabelled}: pseudo-labels are made of {' and '.join(_SURE)}, "
                    f"not of {self.examples.task}; leave it out"
                )
            listing = list_unlabelled(settings.unlabelled, self.examples)
            _train_supervised(settings, self.examples)
            require_data(run.out, lambda: examples_digest(self.examples))
        torch.manual_seed(run.seed)
        self.start = start_of(network)
        device = resolve_device(run.device)
        backbone = Backbone(
            network.architecture, self.start.model, self.start.config(input_size=network.size), device
        )
        labelled = Labelled.of(self.examples, rows, network.resolution)
        self.tuning = Tuning(
            backbone, self.task, labelled, settings.views, batch_size=run.batch_size, seed=run.seed
        )
        self.tuning.require_scored()
        self.modules = nn.ModuleDict(dict(self.tuning.modules.items()))
        self.pile: Unlabelled | None = None
        if listing is not None and settings.unlabelled is not None:
            keep_gb = settings.keep_gb / processes.beside()  # each keeps all
            sizes = DataSettings(data=settings.unlabelled, keep_gb=keep_gb, workers=settings.workers)
            self.pile = Unlabelled(
                open_crops(listing, network.resolution, sizes, pin=device.type == "cuda"),
                steps=self.tuning.steps_per_epoch,
                batch_size=run.batch_size,
                columns=len(self.examples.names) if self.examples.task == "attributes" else None,
                seed=run.seed,
            )
            self.modules["pile"] = self.pile
        self._teaches = False
        self._best = BestMoment(run.out / "best.safetensors")

    def batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """(pictures, targets, targets of their mirror images) of this process; and the same of the pile."""
        if epoch == skip == 0 and processes.rank() == 0:
            self._best.forget()
        labelled = self.tuning.batches(epoch, skip)
        if self.pile is None:
            yield from labelled
            return
        if skip == 0:  # else the run's state has those that this epoch began with
            sure, threshold = _SURE[self.examples.task], self.settings.pseudo.threshold
            size = self._side(
                Step(epoch * self.tuning.steps_per_epoch, epoch / self.settings.run.epochs, epoch)
            )
            self.pile.relabel(
                epoch,
                lambda pictures: sure(self.tuning.told(pictures, size=size), threshold),
                counts=self._weight(self._last_step(epoch)) > 0,
            )
        self._teaches = self.pile.is_sure()
        for known, (pictures, labels) in zip(labelled, self.pile.batches(epoch, skip), strict=True):
            yield *known, pictures, labels, self.task.mirrored(labels) if self.tuning.mirrors else labels

    def step(self, batch: tuple[Tensor, ...], at: Step) -> dict[str, Tensor | float]:
        """Compare what the head says of a view of each picture with its target, and with its pseudo-label.

        Both kinds of pictures go through the network together, so that its batch norms see in training what
        they will count on later. As long as pseudo-labels have no weight, only the labelled ones do.
        """
        size = self._side(at)
        views, targets = self.tuning.drawn(*batch[:3], size=size)
        if self.pile is None:
            return {"loss": self.task.loss(self.tuning.forward(views), targets)}
        weight = self._weight(at.progress)
        guesses = batch[4]
        confident = (~guesses.isnan() & (guesses >= 0)).float().mean()
        guessed: Tensor | float = 0.0
        if weight and self._teaches:  # else the pile would only move the batch norms
            more, guesses = self.tuning.drawn(*batch[3:], size=size)
            outputs = self.tuning.forward(torch.cat([views, more]))
            guessed = self.task.loss(outputs[len(views) :], guesses)
            outputs = outputs[: len(views)]
        else:
            outputs = self.tuning.forward(views)
        known = self.task.loss(outputs, targets)
        return {
            "loss": known + weight * guessed,
            "labelled_loss": known,
            "pseudo_loss": guessed,
            "pseudo_weight": weight,
            "confident": confident,
        }

    def evaluate(self, at: Step) -> Scores:
        """The figure by which models are chosen, on the validation pictures; the best one is kept."""
        metric, score = self.task.metrics[0], self.tuning.judged().values["score"]
        self._best.look(self.tuning.modules, at.number, score)
        return Scores({f"validation_{metric.name}": score if metric.higher_is_better else -score})

    def export(self, folder: Path, scores: Scores) -> None:
        """Measure the chosen moment on the test pictures; its head, the table, and its checkpoint."""
        step, score = self._best.restore(self.tuning.modules)
        test, out = self.examples.rows(TEST), self.settings.run.out
        figures = self.task.scores(self.tuning.outputs(test), test)
        write_head(out, self.tuning.modules["head"], self._outputs())
        cell = Cell(
            method="supervised" if self.pile is None else "pseudo-labels",
            set=self.examples.name,
            task=self.examples.task,
            mode="finetune",
            labels=str(len(self.examples.rows(TRAIN))),
            seed=self.settings.run.seed,
            metrics=self.task.metrics,
            scores=figures,
            settings={"chosen": {"at": step, "validation": score}},
        )
        write_cell(out / "cells", cell)
        before = None if self.pile is None else _supervised_cell(out, cell)
        tqdm.write(write_gain(out, before, cell, unused=self._unused()))
        network = self.settings.network
        config = self.start.config(
            input_size=network.size,
            license=network.license,
            recipe={"name": _NAME, "settings": portable(self.settings), "test": figures},
        )
        save_checkpoint(folder, self.tuning.modules["backbone"], config)  # last: it says that all is there

    def _unused(self) -> str:
        """Why the pile taught nothing, if so: then there is no gain to speak of."""
        if self.pile is None or int(self.pile.learnt):
            return ""
        if not self._weight(self._last_step(self.settings.run.epochs - 1)):
            return "by --weight and --ramp nothing of the pile was learnt"
        asked = self.settings.pseudo.threshold
        return (
            f"of no picture of the pile was the network as sure as --threshold {asked}, so nothing was "
            "learnt from it; lower that, or train longer"
        )

    def _last_step(self, epoch: int) -> float:
        """Of an epoch, as a share of the run."""
        steps = self.tuning.steps_per_epoch
        return ((epoch + 1) * steps - 1) / (self.settings.run.epochs * steps)

    def _weight(self, progress: float) -> float:
        """Of the pseudo-labels' loss, at a share of the run."""
        pseudo = self.settings.pseudo
        return pseudo.weight * ramp_up(progress, *pseudo.ramp)

    def _outputs(self) -> dict[str, Any]:
        """What the head tells; of people, those that it has a centre of."""
        names = self.task.people if isinstance(self.task, Identities) else self.examples.names
        return {"task": self.examples.task, "names": names, "sees": self.task.sees}

    def _side(self, at: Step) -> int:
        """Of the views of a step, in pixels."""
        return self.settings.network.side(self.settings.network.size, at)

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups: a backbone that comes trained has a learning rate of its own."""
        optim = self.settings.optim
        rate = optim.lr if self.start.trained is None else optim.trained_lr
        backbone, head = (self.tuning.modules[name].parameters() for name in ("backbone", "head"))
        return [
            *decay_groups("backbone", backbone, lr=rate, weight_decay=optim.weight_decay),
            *decay_groups("head", head, lr=optim.lr, weight_decay=optim.weight_decay),
        ]

    def notes(self) -> tuple[str, ...]:
        """What is worth knowing before the first step."""
        counts = [len(self.examples.rows(split)) for split in (TRAIN, VALIDATION, TEST)]
        what = f"{self.examples.name}: {len(self.examples.names)} {self.examples.task}, "
        sizes = "{} pictures to learn from, {} to choose by, {} to test with".format(*counts)
        pile = () if self.pile is None else (f"{len(self.pile)} pictures without labels",)
        return what + sizes, *never_known(self.examples), *self.task.notes, *pile


def _open(settings: FineTuningSettings) -> Examples:
    sets = []
    for text in settings.data:
        task, path = tasked(text)
        sets.append(open_examples(path, task=task, layout=settings.layout))
    examples = join_examples(sets)
    if not len(examples.rows(VALIDATION)):
        raise TrainingError(f"{examples.name}: no validation pictures to choose by; mark some")
    return examples


def _train_supervised(settings: FineTuningSettings, examples: Examples) -> None:
    """The run that a pile is compared with: the same without it, found again where it is finished."""
    out = settings.run.out / "supervised"
    alone = replace(settings, run=replace(settings.run, out=out), unlabelled=None, pseudo=PseudoSettings())
    train_once(_NAME, alone, build_recipe, learnt=lambda: examples_digest(examples))


def _supervised_cell(out: Path, other: Cell) -> Cell:
    alike = replace(other, method="supervised").key
    found = [cell for cell in read_cells(out / "supervised" / "cells") if cell.key == alike]
    if not found:
        raise TrainingError(f"{out / 'supervised'}: its figures are gone; delete it and run again")
    return found[0]
