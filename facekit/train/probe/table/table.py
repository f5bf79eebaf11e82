"""Cells side by side: networks and ways down, sets, labels and figures across."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from facekit.errors import TrainingError
from facekit.train.probe.examples import TaskName
from facekit.train.probe.metrics import Metric
from facekit.train.probe.table.cell import MODES, Cell, Key, Mode

__all__ = ["Column", "Entry", "Row", "Table", "make_table", "shown"]

_BY_SEED = ("labels", "chosen")  # settings that each seed has its own of


@dataclass(frozen=True, slots=True)
class Row:
    """A network, and how the labels were used.

    Attributes:
        method: the network.
        mode: the way.
    """

    method: str
    mode: Mode


@dataclass(frozen=True, slots=True)
class Column:
    """A figure that a set gave with so many labels.

    Attributes:
        set: the examples.
        task: theirs.
        labels: how many, as text.
        metric: the figure.
    """

    set: str
    task: TaskName
    labels: str
    metric: Metric


@dataclass(frozen=True, slots=True)
class Entry:
    """What the seeds gave.

    Attributes:
        mean: over the seeds.
        deviation: of the sample (n - 1); None of one seed.
        seeds: which, rising.
    """

    mean: float
    deviation: float | None
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """All entries, and the order in which they are shown.

    Attributes:
        rows: methods in the order in which they came, each with its ways.
        columns: sets in the order in which they came, by rising labels, the main figure first.
        entries: those that there are.
        main: the columns of the figures by which models are chosen.
    """

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    entries: Mapping[tuple[Row, Column], Entry]
    main: tuple[Column, ...]

    def best(self, column: Column) -> frozenset[Row]:
        """The rows that are best in a column, as it is shown; none where there is but one."""
        means = {row: self.entries[row, column].mean for row in self.rows if (row, column) in self.entries}
        if len(means) < 2:
            return frozenset()
        best = (max if column.metric.higher_is_better else min)(means.values())
        text = shown(column.metric, best)
        return frozenset(row for row, mean in means.items() if shown(column.metric, mean) == text)


def shown(metric: Metric, value: float) -> str:
    """A figure as people read it: percent with two digits, or three digits."""
    return f"{100 * value:.2f}" if metric.percent else f"{value:.3f}"


def make_table(cells: Sequence[Cell]) -> Table:
    """Put cells side by side, and take means over their seeds.

    Raises:
        TrainingError: there are none, two of one key that differ, or such as cannot be compared: seeds with
            other settings, a set that was another one, or two networks of one name.
    """
    if not cells:
        raise TrainingError("no finished probes; run one of knn, linear, finetune or fewshot first")
    _check(cells)
    groups: dict[tuple[Row, Column], dict[int, float]] = {}
    main: dict[Column, None] = {}
    for cell in _distinct(cells):
        row = Row(cell.method, cell.mode)
        for place, metric in enumerate(cell.metrics):
            column = Column(cell.set, cell.task, cell.labels, metric)
            groups.setdefault((row, column), {})[cell.seed] = cell.scores[metric.name]
            if place == 0:
                main.setdefault(column)
    entries = {place: _entry(scores) for place, scores in groups.items()}
    columns = _in_order(list(dict.fromkeys(column for _, column in entries)))
    methods = list(dict.fromkeys(row.method for row, _ in entries))
    rows = sorted({row for row, _ in entries}, key=lambda r: (methods.index(r.method), MODES.index(r.mode)))
    return Table(tuple(rows), columns, entries, tuple(column for column in columns if column in main))


def _distinct(cells: Sequence[Cell]) -> list[Cell]:
    """Each key once."""
    found: dict[Key, Cell] = {}
    for cell in cells:
        if found.setdefault(cell.key, cell) != cell:
            name = f"{cell.method} on {cell.set} ({cell.mode}, {cell.labels} of the labels, seed {cell.seed})"
            raise TrainingError(f"{name}: two results that differ; name the networks of the folders apart")
    return list(found.values())


def _check(cells: Sequence[Cell]) -> None:
    """What stands side by side, or goes into one mean, is from the same data, network and settings."""
    found: dict[object, object] = {}
    for cell in cells:
        rest = {name: value for name, value in cell.settings.items() if name not in _BY_SEED}
        which = f"{cell.method} on {cell.set} ({cell.mode}, {cell.labels} of the labels)"
        data, network = rest.get("data"), rest.get("network")
        for place, value, what in (
            (("set", cell.set, cell.task), data, f"{cell.set}: results on pictures or labels"),
            (("network", cell.method), network, f"{cell.method}: results of networks"),
            (cell.key[:-1], rest, f"{which}: seeds with settings"),
        ):
            if found.setdefault(place, value) != value:
                raise TrainingError(f"{what} that differ; run all of them again, or keep them apart")


def _entry(scores: Mapping[int, float]) -> Entry:
    values = [*scores.values()]
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Entry(statistics.fmean(values), deviation, tuple(sorted(scores)))


def _in_order(columns: Sequence[Column]) -> tuple[Column, ...]:
    """By set, labels, figure."""
    sets = list(dict.fromkeys((column.set, column.task) for column in columns))
    metrics = list(dict.fromkeys(column.metric for column in columns))

    def place(column: Column) -> tuple[int, tuple[bool, float, str], int]:
        return sets.index((column.set, column.task)), _amount(column.labels), metrics.index(column.metric)

    return tuple(sorted(columns, key=place))


def _amount(labels: str) -> tuple[bool, float, str]:
    """Counts come before shares, less before more."""
    number = re.search(r"\d+(\.\d+)?", labels)
    return "%" in labels, float(number[0]) if number else 0.0, labels
