"""A run at a glance: its log drawn as one picture."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekit.errors import MissingExtraError, TrainingError
from facekit.train.log import read_log
from facekit.wholefile import replacing

__all__ = ["write_page"]

_POINTS = 1000  # at least so many of a long line are kept, at most twice as many
_INK, _FAINT = "#1f2937", "#9ca3af"
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's, told apart with every common kind of colour blindness; without their yellow, which is
too light for a line."""

Draw = Callable[[Any, "_History"], None]


def write_page(folder: Path) -> Path:
    """Draw ``folder/log.jsonl``, of a run that goes on or is over, as ``folder/page.png``.

    Loss, learning rates, margin and scale, cosine to the own centre, TAR@FAR of held-out people, and their
    scores. What a run has not logged is said so in its panel. The log is read line by line; of a long run
    each line keeps means and extremes of runs of steps.

    Returns:
        The picture.

    Raises:
        TrainingError: there is no log, or the picture cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # no pyplot: it has a state of its own, and looks for a display
    except ImportError as error:
        raise MissingExtraError("matplotlib", "train", "Drawing the page of a run") from error
    history = _read(folder / "log.jsonl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name in letters that the font lacks is drawn as boxes
        figure: Any = Figure(figsize=(15, 8.5), dpi=120, facecolor="white")
        figure.subplots_adjust(left=0.05, right=0.955, top=0.885, bottom=0.065, wspace=0.26, hspace=0.3)
        _draw(figure, history, os.fsencode(folder.resolve().name).decode(errors="replace"))
        return _save(figure, folder / "page.png")


def _save(figure: Any, path: Path) -> Path:
    try:
        with replacing(path) as file:
            figure.savefig(file, format="png")
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written ({error.strerror or error}); free space and try again"
        ) from error
    return path


# ---------------------------------------------------------------- what is drawn


class _Curve:
    """A line of any length in bounded memory: runs of values, merged in pairs whenever there are too many."""

    def __init__(self) -> None:
        self._runs: list[tuple[float, float, float, float]] = []  # x, mean, lowest, highest
        self._pending: list[tuple[float, float]] = []
        self._length = 1  # values of a run

    def add(self, x: float, y: float) -> None:
        """Go on with a point."""
        self._pending.append((x, y))
        if len(self._pending) == self._length:
            self._runs.append(_run(self._pending))
            self._pending = []
        if len(self._runs) == 2 * _POINTS:
            pairs = np.array(self._runs).reshape(_POINTS, 2, 4)
            means, low, high = pairs[..., :2].mean(1), pairs[..., 2].min(1), pairs[..., 3].max(1)
            self._runs = [*map(tuple, np.column_stack([means, low, high]).tolist())]
            self._length *= 2

    def points(self) -> NDArray[np.float64]:
        """(4, n): x, mean, lowest and highest y of each run of values."""
        last = [_run(self._pending)] if self._pending else []
        return np.array([*self._runs, *last], dtype=np.float64).reshape(-1, 4).T


def _run(values: list[tuple[float, float]]) -> tuple[float, float, float, float]:
    x, y = zip(*values, strict=True)
    return sum(x) / len(x), sum(y) / len(y), min(y), max(y)


@dataclass(slots=True)
class _History:
    """What a log says, thinned.

    Attributes:
        curves: over steps, by name.
        epochs: TAR by FAR, after each epoch.
        scores: shares of genuine and of impostor scores in equal bins over [-1, 1]; both or none.
        done: steps, up to the last record.
    """

    curves: dict[str, _Curve] = field(default_factory=dict)
    epochs: dict[int, dict[float, float]] = field(default_factory=dict)
    scores: tuple[NDArray[np.float64], ...] = ()
    done: int = 0


def _read(path: Path) -> _History:
    history = _History()
    try:
        for record in read_log(path):
            step = _number(record.get("step"))
            if step is not None:
                history.done = int(step) + (record["event"] == "step")
            if record["event"] == "step" and step is not None:
                for name, value in record.items():
                    number = _number(value) if _is_drawn(name) else None
                    if number is not None:
                        history.curves.setdefault(name, _Curve()).add(step, number)
            elif record["event"] == "epoch" and _number(record.get("epoch")) is not None:
                history.epochs[int(record["epoch"])] = dict(_rates(record))
            elif record["event"] == "scores":
                sides = _shares(record.get("genuine")), _shares(record.get("impostor"))
                history.scores = tuple(side for side in sides if len(side)) if all(map(len, sides)) else ()
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be read ({error.strerror or error}); give the folder of a run"
        ) from error
    return history


def _is_drawn(name: str) -> bool:
    return name in ("loss", "chance", "margin", "scale", "target_cosine") or name.startswith(("lr_", "lr/"))


def _number(value: object) -> float | None:
    """A finite number that can be drawn; logs hold null where a value was none."""
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e30 else None


def _rates(record: dict[str, Any]) -> Iterator[tuple[float, float]]:
    for name, value in record.items():
        far, number = name.removeprefix("tar@far="), _number(value)
        if far != name and number is not None:
            with suppress(ValueError):
                if 0 < float(far) <= 1:
                    yield float(far), number


def _shares(counts: object) -> NDArray[np.float64]:
    """Counts as shares of their sum; empty where they are none."""
    numbers = [_number(count) for count in counts] if isinstance(counts, list) else []
    if not all(number is not None and number >= 0 for number in numbers) or not any(numbers):
        return np.empty(0)
    values = np.array(numbers, dtype=np.float64)
    shares: NDArray[np.float64] = values / values.sum()
    return shares


# ---------------------------------------------------------------- the panels


def _draw(figure: Any, history: _History, name: str) -> None:
    panels: tuple[tuple[str, Draw], ...] = (
        ("Loss", _loss),
        ("Learning rate", _rate),
        ("Margin and scale", _margin),
        ("Cosine to the own centre", _cosine),
        ("Held-out TAR at FAR", _tar),
        ("Held-out scores", _scores),
    )
    done = _count(history.done, "step") + (f", {_count(len(history.epochs), 'epoch')}" * bool(history.epochs))
    title = f"{_plain(name)}   {done}"
    figure.suptitle(title, x=0.014, y=0.975, ha="left", fontsize=15, fontweight="bold", color=_INK)
    for axes, (title, draw) in zip(figure.subplots(2, 3).flat, panels, strict=True):
        axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_FAINT)
        axes.tick_params(colors=_INK, labelsize=9, color=_FAINT)
        axes.grid(color="#e5e7eb", linewidth=0.7)
        axes.set_axisbelow(True)
        draw(axes, history)


def _loss(axes: Any, history: _History) -> None:
    if not _over_steps(axes, history, ["loss"]):
        return
    _, _, low, high = history.curves["loss"].points()
    _raw_and_smooth(axes, history.curves["loss"], _COLORS[0], "loss")
    bottom, top = low.min(), np.quantile(high, 0.995)  # a spike would flatten all the rest
    if "chance" in history.curves:
        x, chance, *_ = history.curves["chance"].points()
        axes.plot(x, chance, color=_INK, linewidth=1.2, linestyle=(0, (4, 3)), label="chance", **_dot(x))
        bottom, top = min(bottom, chance.min()), max(top, chance.max())
    room = 0.05 * (top - bottom) or 0.5
    axes.set_ylim(bottom - room, top + room)
    _legend(axes)


def _rate(axes: Any, history: _History) -> None:
    names = sorted(name for name in history.curves if name.startswith(("lr_", "lr/")))
    if not _over_steps(axes, history, names):
        return
    for number, name in enumerate(names):
        x, y, *_ = history.curves[name].points()
        # equal rates lie on each other: the ones below are wider
        width = 1.8 + 1.6 * min(len(names) - 1 - number, 3)
        label = "factor of the highest" if name == "lr_factor" else _plain(name[3:])
        axes.plot(x, y, color=_COLORS[number % len(_COLORS)], linewidth=width, label=label, **_dot(x))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:g}")
    _legend(axes)


def _margin(axes: Any, history: _History) -> None:
    names = [name for name in ("margin", "scale") if name in history.curves]
    if not _over_steps(axes, history, names):
        return
    sides = [axes, axes.twinx()][: len(names)]
    for number, (side, name) in enumerate(zip(sides, names, strict=True)):
        color = _COLORS[("margin", "scale").index(name)]
        x, y, *_ = history.curves[name].points()
        side.plot(x, y, color=color, linewidth=1.8, linestyle=("-", (0, (5, 2)))[number], **_dot(x))
        side.set_ylabel(name, color=color, fontsize=10)
        side.tick_params(axis="y", colors=color, labelsize=9)
        # from 0, and not equally high, so that two constants do not lie on each other
        side.set_ylim(min(0.0, 1.1 * y.min()), max(0.0, (1.1, 1.3)[number] * y.max()) or 1.0)
        if side is not axes:
            side.spines[:].set_visible(False)


def _cosine(axes: Any, history: _History) -> None:
    if _over_steps(axes, history, ["target_cosine"]):
        _raw_and_smooth(axes, history.curves["target_cosine"], _COLORS[2], "target cosine")


def _tar(axes: Any, history: _History) -> None:
    fars = _fars(history)
    if not fars:
        return _say(axes, "no held-out people")
    for number, far in enumerate(fars):
        epochs = [epoch for epoch, rates in sorted(history.epochs.items()) if far in rates]
        rates = [100 * history.epochs[epoch][far] for epoch in epochs]
        label = f"{100 * far:g} %: {rates[-1]:.1f} %"
        color, size = _COLORS[number % len(_COLORS)], 4 if len(epochs) < 50 else 0
        axes.plot(epochs, rates, color=color, marker="o", markersize=size, linewidth=1.8, label=label)
    axes.set_xlabel("epoch", fontsize=10, color=_INK)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.set_ylabel("TAR, %", fontsize=10, color=_INK)
    axes.set_ylim(0, 102)
    _legend(axes, title="FAR: last TAR")


def _scores(axes: Any, history: _History) -> None:
    if not history.scores:
        return _say(axes, "not logged" if _fars(history) else "no held-out people")
    genuine, impostor = history.scores
    for shares, color, label in ((impostor, _COLORS[1], "two people"), (genuine, _COLORS[0], "one person")):
        edges = np.linspace(-1, 1, len(shares) + 1)
        density = shares * len(shares) / 2
        axes.stairs(density, edges, fill=True, color=color, alpha=0.3)
        axes.stairs(density, edges, color=color, linewidth=1.4, label=label)
    taken = np.concatenate([np.linspace(-1, 1, len(side))[side > 0] for side in history.scores])
    axes.set_xlim(max(-1, taken.min() - 0.05), min(1, taken.max() + 0.05))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("cosine of two pictures", fontsize=10, color=_INK)
    axes.set_ylabel("density", fontsize=10, color=_INK)
    _legend(axes)


# ---------------------------------------------------------------- what panels share


def _over_steps(axes: Any, history: _History, names: Sequence[str]) -> bool:
    """Make a panel over steps; False where there is nothing to draw, which is said."""
    from matplotlib.ticker import EngFormatter

    if not any(name in history.curves for name in names):
        _say(axes, "not logged")
        return False
    axes.set_xlabel("step", fontsize=10, color=_INK)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return True


def _raw_and_smooth(axes: Any, curve: _Curve, color: str, label: str) -> None:
    """Every value (or the extremes of runs of them), light, and their moving mean."""
    x, mean, low, high = curve.points()
    raw = np.column_stack([low, high]).ravel()
    axes.plot(np.repeat(x, 2), raw, color=color, alpha=0.3, linewidth=0.8)
    axes.plot(x, _smooth(mean), color=color, linewidth=2, label=label, **_dot(x))


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the neighbours, a fiftieth of the line to each side, taken twice: near ones weigh more."""
    reach, places = len(values) // 50, np.arange(len(values))
    first, end = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    for _ in range(2):
        sums = np.concatenate([[0.0], np.cumsum(values)])
        values = (sums[end] - sums[first]) / (end - first)
    return values


def _fars(history: _History) -> list[float]:
    return sorted({far for rates in history.epochs.values() for far in rates}, reverse=True)


def _dot(x: NDArray[np.float64]) -> dict[str, Any]:
    """One point is no line: it is marked."""
    return {"marker": "o", "markersize": 6} if len(x) == 1 else {}


def _legend(axes: Any, title: str = "") -> None:
    axes.legend(
        loc="best",
        title=title,
        fontsize=9,
        title_fontsize=9,
        labelcolor=_INK,
        framealpha=0.8,
        edgecolor="none",
    )


def _say(axes: Any, text: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=12, color=_FAINT)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}".replace(",", " ")


def _plain(text: str) -> str:
    """Text in which a dollar is a dollar, and no formula."""
    return text.replace("$", r"\$")
