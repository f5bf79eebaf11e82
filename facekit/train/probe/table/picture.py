"""A table as a picture: a panel a set, a line a network, a dot for each number of labels."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

from facekit.errors import MissingExtraError, TrainingError
from facekit.train.probe.table.table import Column, Row, Table, shown
from facekit.train.probe.table.text import named, readable
from facekit.wholefile import replacing

__all__ = ["draw_table"]

_INK, _FAINT = "#1f2937", "#9ca3af"
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's, told apart with every common kind of colour blindness."""
_MARKERS = "osD^vPX"
_ACROSS = 3  # panels
_LONGEST = 36  # letters of a name


def draw_table(table: Table, path: Path) -> Path:
    """Draw the main figures as a PNG: means, and standard deviations as bars.

    Returns:
        The picture.

    Raises:
        TrainingError: it cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # no pyplot: it has a state of its own, and looks for a display
    except ImportError as error:
        raise MissingExtraError("matplotlib", "train", "Drawing a table") from error
    panels = _panels(table)
    across = min(_ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    height = 1.35 + 0.32 * len(table.rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name in letters that the font lacks is drawn as boxes
        size = (2.2 + 4.2 * across, height * down + 0.2)
        figure: Any = Figure(figsize=size, dpi=120, facecolor="white", layout="constrained")
        axes = figure.subplots(down, across, squeeze=False, sharey=True)
        for place, columns in zip(axes.flat, panels, strict=False):
            _panel(place, table, columns)
        for place in axes.flat[len(panels) :]:
            place.set_axis_off()
        return _save(figure, path)


def _panels(table: Table) -> list[list[Column]]:
    """The main columns of each set and figure."""
    panels: dict[object, list[Column]] = {}
    for column in table.main:
        panels.setdefault((column.set, column.task, column.metric), []).append(column)
    return list(panels.values())


def _panel(axes: Any, table: Table, columns: list[Column]) -> None:
    first = columns[0]
    axes.set_title(_plain(first.set), loc="left", fontsize=11.5, fontweight="bold", color=_INK)
    axes.set_xlabel(_plain(named(first.metric)), fontsize=10, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_INK, labelsize=9, color=_FAINT)
    axes.grid(color="#e5e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_yticks(range(len(table.rows)), [_label(row) for row in table.rows])
    axes.set_ylim(len(table.rows) - 0.4, -0.6)  # the first one on top
    for number, column in enumerate(columns):
        _dots(axes, table, column, number)
    axes.margins(x=0.12)
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),  # above, where no dot is
        ncols=len(columns),
        columnspacing=1.0,
        handletextpad=0.2,
        fontsize=9,
        labelcolor=_INK,
        frameon=False,
    )


def _dots(axes: Any, table: Table, column: Column, number: int) -> None:
    """The entries of a column; the best ones are larger, and say their value."""
    color, marker = _COLORS[number % len(_COLORS)], _MARKERS[number % len(_MARKERS)]
    factor, best = 100 if column.metric.percent else 1, table.best(column)
    label: str | None = _plain(column.labels)
    for place, row in enumerate(table.rows):
        entry = table.entries.get((row, column))
        if entry is None:
            continue
        axes.errorbar(
            factor * entry.mean,
            place,
            xerr=None if entry.deviation is None else factor * entry.deviation,
            color=color,
            marker=marker,
            markersize=9 if row in best else 5.5,
            elinewidth=1.4,
            capsize=2.5,
            linestyle="none",
            label=label,
        )
        label = None  # once in the legend
        if row in best:
            text, offset = shown(column.metric, entry.mean), (0, 7)
            axes.annotate(
                text,
                (factor * entry.mean, place),
                offset,
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )


def _label(row: Row) -> str:
    name = row.method if len(row.method) <= _LONGEST else row.method[: _LONGEST - 1] + "…"
    return f"{_plain(name)}  {row.mode}"


def _save(figure: Any, path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            figure.savefig(file, format="png")
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written ({error.strerror or error}); free space and try again"
        ) from error
    return path


def _plain(text: str) -> str:
    """Text in which a dollar is a dollar, and no formula."""
    return readable(text).replace("$", r"\$")
