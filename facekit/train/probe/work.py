"""All probes that a command asks for: networks by sets by seeds by labels by ways to use them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from facekit.errors import EvaluationError, ImageError, SettingError, TrainingError
from facekit.train.probe.backbone import open_backbone
from facekit.train.probe.divergence import open_divergence
from facekit.train.probe.examples import TEST, VALIDATION, Examples
from facekit.train.probe.job import Job, ModeSettings, Trial
from facekit.train.probe.neighbours import NeighbourSettings
from facekit.train.probe.subsets import Labels, choose_labels
from facekit.train.probe.table import Cell, read_cells, write_cell
from facekit.train.probe.tasks import task_of

__all__ = ["Network", "Work", "run_work"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Network:
    """A network that is compared.

    Attributes:
        name: in tables.
        source: where it is from, as :func:`~facekit.train.probe.backbone.open_backbone` knows it.
        size: side of its pictures in pixels; None for what a checkpoint says.
    """

    name: str
    source: str
    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Everything that a command asks for.

    Attributes:
        networks: to compare.
        sets: to try them on.
        labels: how many of each set's.
        modes: ways to use them.
        seeds: how many, from 0 on.
        device: where.
        folder: of the finished cells.
        share: number of this process, and how many there are; they share the cells, not the steps.
    """

    networks: Sequence[Network]
    sets: Sequence[Examples]
    labels: Sequence[Labels]
    modes: Sequence[ModeSettings]
    seeds: int
    device: torch.device
    folder: Path
    share: tuple[int, int] = (0, 1)


def run_work(work: Work) -> None:
    """Do what is not done yet, and write a cell for each.

    Raises:
        SettingError: nothing of it can be done.
        CheckpointError: a network that cannot be opened, before anything is done.
        ImageError: a picture that cannot be read.
        TrainingError: a set without pictures to choose or to test by, or a probe that diverges.
    """
    for network in work.networks:  # rather now than after hours of others
        _check_network(network, work)
    for examples in work.sets:
        _check(examples)
        for labels in work.labels:
            choose_labels(examples, labels, seed=0)
    done = {cell.key: cell for cell in read_cells(work.folder)}
    rank, world = work.share
    number = -1
    for number, job in enumerate(_jobs(work)):
        before, planned = done.get(job.key), job.planned()
        finished = before is not None and all(before.settings.get(k) == v for k, v in planned.items())
        if finished or number % world != rank:
            continue
        began = time.monotonic()
        try:
            cell = job.run()
        except EvaluationError as error:
            raise EvaluationError(
                f"{job.trial.examples.name} ({job.trial.examples.task}): {error}"
            ) from error
        except ImageError as error:
            raise ImageError(
                f"{error} (or take it out of {job.trial.examples.name}: what leaves some pictures out is "
                "another probe)",
                path=error.path,
            ) from error
        write_cell(work.folder, cell)
        instead = ", in the place of one with other settings" * (before is not None)
        _log.info("%s (%.0f s)%s", _line(cell), time.monotonic() - began, instead)
    if number < 0:
        raise SettingError("nothing to do: none of the networks can be probed like this, as is said above")


def _check_network(network: Network, work: Work) -> None:
    """Open it, and let it go again: all of them together may not fit into memory."""
    open_backbone(network.source, size=network.size, seed=0, device=work.device)
    for settings in work.modes:
        if isinstance(settings, NeighbourSettings) and settings.divergence == "bregman":
            open_divergence(network.source)


def _check(examples: Examples) -> None:
    for split, name in ((VALIDATION, "validation"), (TEST, "test")):
        if not len(examples.rows(split)):
            raise TrainingError(f"{examples.name}: no {name} pictures; mark some in its column split")


def _jobs(work: Work) -> Iterator[Job]:
    """Those that can be done, in an order in which features are computed once."""
    said: set[str] = set()

    def say(text: str) -> None:
        if text not in said:
            _log.info("%s", text)
        said.add(text)

    for trial, seed in _trials(work):
        for labels in work.labels:
            rows = choose_labels(trial.examples, labels, seed=seed)
            task = task_of(trial.examples, rows)
            for note in task.notes:
                say(f"{trial.examples.name}: {note}")
            for settings in work.modes:
                job = Job(trial, task, labels, rows, settings, seed)
                hindrance = job.hindrance()
                if hindrance is None and (seed == 0 or job.varies()):
                    yield job
                elif hindrance is not None:
                    say(f"left out: {hindrance}")


def _trials(work: Work) -> Iterator[tuple[Trial, int]]:
    for network in work.networks:
        backbone = open_backbone(network.source, size=network.size, seed=0, device=work.device)
        for examples in work.sets:
            trial = Trial(network.name, backbone, examples)
            for seed in range(work.seeds):
                if backbone.drawn and seed:
                    drawn = open_backbone(network.source, size=network.size, seed=seed, device=work.device)
                    trial = Trial(network.name, drawn, examples)
                yield trial, seed


def _line(cell: Cell) -> str:
    """A finished cell in one line."""
    metric = cell.metrics[0]
    value = cell.scores[metric.name]
    score = f"{100 * value:.2f} %" if metric.percent else f"{value:.4f}"
    where = f"{cell.method}, {cell.set}, {cell.task}, {cell.mode}, {cell.labels} of the labels"
    return f"{where}, seed {cell.seed}: {metric.name} {score}"
