"""``python -m facekit.train probe knn | linear | finetune | fewshot | table``: argv -> settings -> table."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from facekit.checkpoint import load_checkpoint
from facekit.embed import resolve_device
from facekit.errors import SettingError, TrainingError
from facekit.train import processes
from facekit.train.config import require
from facekit.train.probe.backbone import PIXELS, SCRATCH
from facekit.train.probe.examples import Examples, TaskName, tasked
from facekit.train.probe.finetuning import FineTuneSettings
from facekit.train.probe.frozen import LinearSettings
from facekit.train.probe.job import ModeSettings
from facekit.train.probe.layouts import open_examples
from facekit.train.probe.neighbours import NeighbourSettings
from facekit.train.probe.subsets import Labels
from facekit.train.probe.table import Cell, draw_table, make_table, read_cells, to_json, to_markdown
from facekit.train.probe.work import Network, Work, run_work
from facekit.wholefile import replacing

__all__ = ["probe"]

_CELLS = "cells"
_SIZE = 112  # pixels; where neither a checkpoint nor --size says another
_FEW = (0.01, 0.1, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """Which networks are compared on which sets, with how many labels."""

    networks: tyro.conf.Positional[tuple[str, ...]]
    """[NAME=]SOURCE, one or several: a checkpoint (folder, file or Hub name); scratch:ARCHITECTURE for random
    weights, as in scratch:resnet10t or scratch:resnet18,stem=full; pixels for no network at all."""
    data: tuple[str, ...]
    """[TASK=]PATH, one or several sets. TASK chooses where a set has several: identities, classes,
    attributes, landmarks, affect, action_units or reconstruction."""
    out: Path
    """Folder of the results, one file each; what lies there already is not done again."""
    layout: str = "auto"
    """How the sets lie on disk; if not given, it is recognised."""
    fraction: tuple[float, ...] = ()
    """Shares of the training labels, drawn by each seed; if not given, all; for fewshot 0.01, 0.1 and 1."""
    first: tuple[int, ...] = ()
    """Or the first so many labels of the set, as CelebA's "1 %", its first 1627."""
    seeds: int = 3
    """How often, each time with other labels, heads and orders, where these are drawn."""
    size: int | None = None
    """Side of the pictures in pixels; if not given, what each checkpoint says, and for the others the largest
    of these."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        require(bool(self.networks), "networks", "", "name one or several, such as scratch:resnet10t")
        require(bool(self.data), "data", "", "name one or several sets")
        require(self.seeds > 0, "seeds", self.seeds, "give 1 or more")
        require(self.size is None or self.size > 0, "size", self.size, "give pixels above 0")

    def labels(self, usual: Sequence[float]) -> tuple[Labels, ...]:
        """How many labels, each in turn."""
        given = *(Labels(share) for share in self.fraction), *(Labels(first=n) for n in self.first)
        return given or tuple(Labels(share) for share in usual)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnProbe:
    """Nearest neighbours in frozen features: nothing is learnt."""

    comparison: ProbeSettings
    neighbours: NeighbourSettings = field(default_factory=NeighbourSettings)

    @property
    def modes(self) -> tuple[ModeSettings, ...]:
        return (self.neighbours,)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbe:
    """A head on frozen features."""

    comparison: ProbeSettings
    linear: LinearSettings = field(default_factory=LinearSettings)

    @property
    def modes(self) -> tuple[ModeSettings, ...]:
        return (self.linear,)


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneProbe:
    """All layers of the network learn."""

    comparison: ProbeSettings
    finetune: FineTuneSettings = field(default_factory=FineTuneSettings)

    @property
    def modes(self) -> tuple[ModeSettings, ...]:
        return (self.finetune,)


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShotProbe:
    """Frozen and fine-tuned, with few labels and with all."""

    comparison: ProbeSettings
    linear: LinearSettings = field(default_factory=LinearSettings)
    finetune: FineTuneSettings = field(default_factory=FineTuneSettings)

    @property
    def modes(self) -> tuple[ModeSettings, ...]:
        return (self.linear, self.finetune)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOf:
    """The results of several folders side by side."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that probes wrote (--out)."""
    out: Path | None = None
    """Folder for table.md, table.json and table.png; if not given, the table is only printed."""


_PROBES: Mapping[str, Any] = {
    "knn": KnnProbe,
    "linear": LinearProbe,
    "finetune": FineTuneProbe,
    "fewshot": FewShotProbe,
    "table": TableOf,
}
_ALSO = """
A command that was interrupted goes on when it is given again. torchrun -m facekit.train probe ... shares the
probes among several processes, one a GPU."""


def probe(argv: Sequence[str]) -> int:
    """Run a probe from the command line; returns the exit code.

    Raises:
        FacekitError: what cannot be done, in one line.
    """
    name = argv[0] if argv else ""
    if name not in _PROBES:
        names = "|".join(_PROBES)
        print(f"usage: python -m facekit.train probe {{{names}}} [--help]", file=sys.stderr)
        return 0 if name in ("-h", "--help") else 2
    kind = _PROBES[name]
    settings = tyro.cli(
        kind,
        prog=f"python -m facekit.train probe {name}",
        description=f"{kind.__doc__}\n{'' if kind is TableOf else _ALSO}",
        args=list(argv[1:]),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    if isinstance(settings, TableOf):
        _show(settings.folders, settings.out)
        return 0
    _run(settings.comparison, settings.modes, _FEW if name == "fewshot" else (1.0,))
    return 0


def _run(what: ProbeSettings, modes: Sequence[ModeSettings], usual: Sequence[float]) -> None:
    share = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    work = Work(
        networks=tuple(_networks(what)),
        sets=tuple(_sets(what)),
        labels=what.labels(usual),
        modes=modes,
        seeds=what.seeds,
        device=_device(what.device, share[1]),
        folder=what.out / _CELLS,
        share=share,
    )
    run_work(work)
    with processes.joined(what.device):  # only now: until here, each is on its own
        processes.barrier()
    if share[0] == 0:
        _show((what.out,), what.out, order=[name for name, _ in map(_named, what.networks)])


def _device(name: str, world: int) -> torch.device:
    device = resolve_device(name)
    if world > 1 and device.type == "cuda":
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def _networks(what: ProbeSettings) -> Iterator[Network]:
    named = [_named(text) for text in what.networks]
    repeated = sorted({name for name, _ in named if [other for other, _ in named].count(name) > 1})
    require(not repeated, "networks", ", ".join(repeated), "two of one name; write NAME=SOURCE")
    stored = [source for _, source in named if not _is_made(source)]
    size = what.size
    if size is None and len(stored) < len(named):
        size = max((load_checkpoint(source).config.input_size for source in stored), default=_SIZE)
    for name, source in named:
        yield Network(name, source, size if _is_made(source) else what.size)


def _is_made(source: str) -> bool:
    """Whether it is no checkpoint, and so has no size of its own."""
    return source == PIXELS or source.startswith(SCRATCH)


def _named(text: str) -> tuple[str, str]:
    """Name and source of ``[NAME=]SOURCE``."""
    name, sign, source = text.partition("=")
    if name and sign and source and not Path(text).exists() and not any(mark in name for mark in ":/\\"):
        return name, source
    path = Path(text)
    if _is_made(text) or not path.exists():
        return text, text
    parts = path.resolve().parts
    return (parts[-2] if parts[-1] == "checkpoint" and len(parts) > 1 else parts[-1]), text


def _sets(what: ProbeSettings) -> Iterator[Examples]:
    known: set[tuple[str, TaskName]] = set()
    for text in what.data:
        task, path = tasked(text)
        examples = open_examples(path, task=task, layout=what.layout)
        which = (examples.name, examples.task)
        require(which not in known, "data", text, f"two sets are {which}; give one of them its own --out")
        known.add(which)
        yield examples


def _show(folders: Sequence[Path], out: Path | None, *, order: Sequence[str] = ()) -> None:
    """Print the table of some folders' cells, and write it.

    Args:
        folders: in their order.
        out: for the table.
        order: of the networks; others come before these.
    """
    cells: list[Cell] = []
    for folder in folders:
        found = read_cells(folder / _CELLS)
        if not found:
            raise SettingError(f"{folder}: holds no results; give the --out of a probe")
        cells += found
    cells.sort(key=lambda cell: order.index(cell.method) if cell.method in order else -1)
    table = make_table(cells)
    text = to_markdown(table)
    if out is not None:
        _write(out / "table.md", text)
        _write(out / "table.json", to_json(table))
        draw_table(table, out / "table.png")
    print(text)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written ({error}); give another --out") from error
