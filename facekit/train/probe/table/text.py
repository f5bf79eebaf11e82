"""A table as Markdown for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from facekit.train.probe.metrics import Metric
from facekit.train.probe.table.table import Column, Row, Table, shown

__all__ = ["named", "readable", "to_json", "to_markdown"]


def to_markdown(table: Table) -> str:
    """The main figure of every set, then all figures of each set; the best of a column in bold.

    An arrow says whether higher or lower is better.
    """
    heads = [f"{c.set}, {c.labels}: {named(c.metric)}" for c in table.main]
    lines = [[row.method, row.mode, *(_entry(table, row, c) for c in table.main)] for row in table.rows]
    parts = [_grid(["network", "mode", *heads], lines, words=2)]
    for set, task in dict.fromkeys((column.set, column.task) for column in table.columns):
        columns = [column for column in table.columns if (column.set, column.task) == (set, task)]
        metrics = list(dict.fromkeys(column.metric for column in columns))
        if len(metrics) > 1:
            heads = ["labels", "network", "mode", *map(named, metrics)]
            parts += [f"## {_plain(set)} ({task})", _grid(heads, [*_details(table, columns)], words=3)]
    return "\n\n".join([*parts, _legend(table)]) + "\n"


def to_json(table: Table) -> str:
    """All entries under ``results``, each with what it is of; shares are shares, not percent."""
    results = [
        {
            **asdict(row),
            **asdict(column),
            "main": column in table.main,
            "best": row in table.best(column),
            **asdict(table.entries[row, column]),
        }
        for column in table.columns
        for row in table.rows
        if (row, column) in table.entries
    ]
    return json.dumps({"results": results}, indent=2, allow_nan=False) + "\n"


def named(metric: Metric) -> str:
    """A metric's name, unit and direction: ``accuracy, % ↑``."""
    return f"{metric.name}{', %' if metric.percent else ''} {'↑' if metric.higher_is_better else '↓'}"


def _details(table: Table, columns: Sequence[Column]) -> Iterator[list[str]]:
    """Lines of one set: labels by rows, with all figures."""
    metrics = list(dict.fromkeys(column.metric for column in columns))
    for labels in dict.fromkeys(column.labels for column in columns):
        across = [Column(columns[0].set, columns[0].task, labels, metric) for metric in metrics]
        for row in table.rows:
            if any((row, column) in table.entries for column in across):
                yield [labels, row.method, row.mode, *(_entry(table, row, column) for column in across)]


def _entry(table: Table, row: Row, column: Column) -> str:
    entry = table.entries.get((row, column))
    if entry is None:
        return ""
    text = shown(column.metric, entry.mean)
    if entry.deviation is not None:
        text += f" ± {shown(column.metric, entry.deviation)}"
        text += f" ({len(entry.seeds)})" if len(_repeats(table)) > 1 else ""
    return f"**{text}**" if row in table.best(column) else text


def _legend(table: Table) -> str:
    repeats, best = _repeats(table), "In bold: the best with the same labels."
    if not repeats:
        return f"One seed each. {best}"
    number = f"{repeats[0]} seeds" if len(repeats) == 1 else "as many seeds as the brackets say"
    return f"Mean ± standard deviation over {number}; one seed where there is no ±. {best}"


def _repeats(table: Table) -> list[int]:
    """Over how many seeds there are means, apart from one."""
    return sorted({len(entry.seeds) for entry in table.entries.values()} - {1})


def _grid(heads: Sequence[str], lines: Sequence[Sequence[str]], *, words: int) -> str:
    """A Markdown table, aligned for those who read it as it is; the first columns are words."""
    rows = [[_plain(text) for text in line] for line in (heads, *lines)]
    widths = [max(3, *(len(row[place]) for row in rows)) for place in range(len(heads))]
    aligned = [
        [text.ljust(width) for text, width in zip(row[:words], widths, strict=False)]
        + [text.rjust(width) for text, width in zip(row[words:], widths[words:], strict=True)]
        for row in rows
    ]
    rule = ["-" * width if place < words else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (aligned[0], rule, *aligned[1:]))


def readable(text: str) -> str:
    """Text in one line, without what steers a terminal or no file can hold."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))


def _plain(text: str) -> str:
    """Text that neither ends a column nor a line."""
    return readable(text).replace("|", "\\|")
