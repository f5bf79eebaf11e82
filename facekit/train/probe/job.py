"""One probe: a network, a set, some of its labels, and a way to use them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from facekit.train.probe.backbone import Backbone, Sees
from facekit.train.probe.examples import TEST, TRAIN, VALIDATION, Examples
from facekit.train.probe.features import Features
from facekit.train.probe.finetuning import FineTuneSettings, fine_tune
from facekit.train.probe.frozen import LinearSettings, fit_head
from facekit.train.probe.neighbours import VOTED, NeighbourSettings, neighbour_outputs
from facekit.train.probe.subsets import Labels, digest
from facekit.train.probe.table import Cell, Key, Mode
from facekit.train.probe.tasks import Task

__all__ = ["Job", "ModeSettings", "Trial"]

ModeSettings = NeighbourSettings | LinearSettings | FineTuneSettings
_MODES: dict[type, Mode] = {NeighbourSettings: "knn", LinearSettings: "linear", FineTuneSettings: "finetune"}


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A network on a set, and what it makes of the pictures while it is frozen.

    Attributes:
        method: name of the network in tables.
        backbone: the network.
        examples: the set.
    """

    method: str
    backbone: Backbone
    examples: Examples
    _features: dict[Sees, Features] = field(default_factory=dict)

    def features(self, sees: Sees) -> Features:
        """The same for all labels and seeds."""
        if sees not in self._features:
            self._features[sees] = Features(self.backbone, self.examples, sees)
        return self._features[sees]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What leads to one cell.

    Attributes:
        trial: the network and the set.
        task: of the set.
        labels: as tables say it.
        rows: (k,) int64, whose labels these are.
        settings: the way to use them.
        seed: of the rows, where they are drawn, and of whatever else is.
    """

    trial: Trial
    task: Task
    labels: Labels
    rows: Tensor
    settings: ModeSettings
    seed: int

    @property
    def mode(self) -> Mode:
        """As tables call the way."""
        return _MODES[type(self.settings)]

    @property
    def method(self) -> str:
        """The network as tables name it; neighbours by its own divergence are a method of their own."""
        divergent = isinstance(self.settings, NeighbourSettings) and self.settings.divergence != "cosine"
        return self.trial.method + ", own divergence" * divergent

    @property
    def key(self) -> Key:
        """Of the cell."""
        examples = self.trial.examples
        return (self.method, examples.name, examples.task, self.mode, str(self.labels), self.seed)

    def varies(self) -> bool:
        """Whether another seed could give other scores."""
        if self.labels.drawn or self.trial.backbone.drawn or isinstance(self.settings, FineTuneSettings):
            return True
        if isinstance(self.settings, NeighbourSettings):
            return False
        backbone = self.trial.backbone
        return not isinstance(self.task.head(backbone.channels(self.task.sees), backbone.size), nn.Linear)

    def hindrance(self) -> str | None:
        """Why it cannot be done, if so."""
        backbone, examples = self.trial.backbone, self.trial.examples
        who = f"{self.trial.method} on {examples.name}"
        if isinstance(self.settings, NeighbourSettings):
            voted = examples.task in VOTED[self.settings.divergence]
            return None if voted else f"{who}: nearest neighbours do not tell {examples.task}"
        if self.task.sees == "map" and backbone.map is None:
            return f"{who}: it has no map of features, which {examples.task} are told from"
        if isinstance(self.settings, FineTuneSettings) and not backbone.learns:
            return f"{who}: it has no weights that could be fine-tuned"
        return None

    def planned(self) -> dict[str, Any]:
        """What the scores hang on, apart from the key, as JSON gives it back."""
        backbone, examples = self.trial.backbone, self.trial.examples
        table = {
            "network": backbone.config.fingerprint,
            "size": backbone.size,
            "data": _fingerprint(examples),
            "pictures": [len(examples.rows(split)) for split in (TRAIN, VALIDATION, TEST)],
            "labels": {"count": len(self.rows), "rows": digest(self.rows)},
            **asdict(self.settings),
        }
        plain: dict[str, Any] = json.loads(json.dumps(table))
        return plain

    def run(self) -> Cell:
        """Learn, choose by the validation pictures, and score the test pictures, once.

        Raises:
            TrainingError: it diverges, or memory is too small.
            EvaluationError: the test pictures hold nothing that can be scored.
        """
        wanted = self.trial.examples.rows(TEST)
        outputs, chosen = self._outputs(wanted)
        return Cell(
            method=self.method,
            set=self.trial.examples.name,
            task=self.trial.examples.task,
            mode=self.mode,
            labels=str(self.labels),
            seed=self.seed,
            metrics=self.task.metrics,
            scores=self.task.scores(outputs, wanted),
            settings={**self.planned(), **chosen},
        )

    def _outputs(self, wanted: Tensor) -> tuple[Tensor, dict[str, Any]]:
        trial, settings = self.trial, self.settings
        if isinstance(settings, NeighbourSettings):
            return neighbour_outputs(trial.features("vector"), self.rows, wanted, settings), {}
        if isinstance(settings, LinearSettings):
            features = trial.features(self.task.sees)
            fitted = fit_head(features, self.task, self.rows, settings, seed=self.seed)
        else:
            fitted = fine_tune(trial.backbone, self.task, trial.examples, self.rows, settings, seed=self.seed)
        return fitted.outputs(wanted), {"chosen": {"at": fitted.best.at, "validation": fitted.best.score}}


@cache  # of a large set, the files take seconds
def _fingerprint(examples: Examples) -> str:
    """12 hex digits that stand for targets, splits, and which pictures these are, wherever the set lies.

    Of a picture that is where it lies in the set, how large its file is, and the square that is looked at:
    another crop of the same pictures is another set.
    """
    paths = list(dict.fromkeys(picture.path for picture in examples.pictures))
    root = os.path.commonpath([path.parent for path in paths])
    files = {path: (os.path.relpath(path, root), _bytes(path)) for path in paths}
    pictures = [[*files[picture.path], picture.box] for picture in examples.pictures]
    meant = [examples.names, examples.interocular, examples.mirror, pictures]
    found = hashlib.sha256(json.dumps(meant).encode())
    found.update(examples.targets.contiguous().numpy().data)
    found.update(examples.split.contiguous().numpy().data)
    return found.hexdigest()[:12]


def _bytes(path: Path) -> int:
    """-1 of what is not there, which is said when it is read."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
