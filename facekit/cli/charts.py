"""Charts of a ROC as SVG, to stand in a page: the ROC itself, DET, and the scores that it comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from facekit.evaluate import ROC, Interval

__all__ = ["det_chart", "roc_chart", "score_chart"]

_WIDTH, _HEIGHT = 520, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 14, 50  # margins, where the axes are labelled
_INK, _GRID = "#334155", "#e2e8f0"
_ONE, _TWO = "#0072b2", "#d55e00"  # one person, two people: told apart by the colour-blind
_SHARES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # ticks of DET's axes
_APART = 44  # pixels from one label of an axis to the next
_COLUMNS = 100  # of the histograms

Scale = Callable[[float], float]


def roc_chart(curve: ROC, intervals: Mapping[float, Interval]) -> str:
    """TAR over FAR, the latter logarithmic, with the intervals of TAR where there are some."""
    decades = min(7, max(1, math.ceil(math.log10(curve.impostor))))
    chart = _Chart("ROC: TAR over FAR", (-decades, 0), (0, 1))
    chart.axis_x([(10.0**n, _power(n)) for n in range(-decades, 1)], "false accept rate", math.log10)
    chart.axis_y([(share / 5, f"{share / 5:g}") for share in range(6)], "true accept rate")
    far = np.log10(np.maximum(curve.far, 10.0**-decades))
    chart.line(far, curve.tar, _ONE)
    for rate, ends in intervals.items():
        if ends is not None and rate >= 10.0**-decades:
            chart.bar(math.log10(rate), ends)
    return chart.svg()


def det_chart(curve: ROC) -> str:
    """FNMR over FMR, both on the scale of the normal deviate: normal scores give a straight line.

    Source: A. Martin et al., "The DET curve in assessment of detection task performance" (1997).
    """
    probit = NormalDist().inv_cdf
    highest = 0.5 if curve.eer < 0.4 else 0.9
    x, y = _thinned(curve.far, 1 - curve.tar, highest)
    ends = [(probit(min([*side, highest / 5])), probit(highest)) for side in (x, y)]
    chart = _Chart("DET: FNMR over FMR", *ends)
    ticks = [(share, f"{share:g}") for share in _SHARES]
    chart.axis_x(ticks, "false match rate", probit)
    chart.axis_y(ticks, "false non-match rate", probit)
    chart.line(np.array([probit(share) for share in x]), np.array([probit(share) for share in y]), _ONE)
    if x and curve.eer > 0:
        chart.dot(probit(curve.eer))
    chart.note(f"EER {curve.eer:.4f}")
    return chart.svg()


def score_chart(curve: ROC, threshold: float | None) -> str:
    """How the scores of pairs of one person and of two are spread, and where the threshold lies."""
    scores = curve.thresholds[1:]
    low, high = float(scores.min()), float(scores.max())
    room = 0.02 * (high - low) or 0.1
    edges = np.linspace(low - room, high + room, _COLUMNS + 1)
    sides = [
        np.histogram(scores, edges, weights=np.diff(share), density=True)[0]
        for share in (curve.far, curve.tar)
    ]
    top = float(max(side.max() for side in sides))
    chart = _Chart("Scores", (edges[0], edges[-1]), (0, 1.05 * top))
    chart.axis_x([(n / 5, f"{n / 5:g}") for n in range(-5, 6)], "similarity")
    chart.axis_y([], "density")
    for side, color in zip(sides, (_TWO, _ONE), strict=True):
        chart.area(np.repeat(edges, 2)[1:-1], np.repeat(side, 2), color)
    if threshold is not None and edges[0] < threshold < edges[-1]:
        chart.mark(threshold, f"threshold {threshold:.3f}")
    chart.legend([("two people", _TWO), ("one person", _ONE)])
    return chart.svg()


class _Chart:
    """An SVG in the making; coordinates are those of the axes."""

    def __init__(self, title: str, x: tuple[float, float], y: tuple[float, float]) -> None:
        self._title, self._x, self._y = title, x, y
        self._parts: list[str] = []

    def axis_x(self, ticks: Sequence[tuple[float, str]], name: str, scale: Scale = float) -> None:
        bottom, last = _HEIGHT - _BOTTOM, -math.inf
        for at, text in _visible(ticks, scale, self._x):
            x = self._at_x(at)
            if x < last + _APART:
                continue
            last = x
            self._parts.append(f'<path stroke="{_GRID}" fill="none" d="M{x:.1f} {_TOP}V{bottom}"/>')
            self._text(x, bottom + 18, text, "middle")
        self._text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, name, "middle")

    def axis_y(self, ticks: Sequence[tuple[float, str]], name: str, scale: Scale = float) -> None:
        for at, text in _visible(ticks, scale, self._y):
            y = self._at_y(at)
            self._parts.append(f'<path stroke="{_GRID}" fill="none" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
            self._text(_LEFT - 8, y + 4, text, "end")
        middle = (_TOP + _HEIGHT - _BOTTOM) / 2
        self._parts.append(
            f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
            f"{name}</text>"
        )

    def line(self, x: NDArray[np.float64], y: NDArray[np.float64], color: str) -> None:
        if len(x):
            self._parts.append(
                f'<path fill="none" stroke="{color}" stroke-width="2" d="M{self._points(x, y)}"/>'
            )

    def area(self, x: NDArray[np.float64], y: NDArray[np.float64], color: str) -> None:
        base = f"{self._at_y(0):.1f}"
        path = f"M{self._at_x(x[0]):.1f} {base}L{self._points(x, y)}L{self._at_x(x[-1]):.1f} {base}Z"
        self._parts.append(f'<path stroke="{color}" fill="{color}" fill-opacity="0.25" d="{path}"/>')

    def bar(self, x: float, ends: tuple[float, float]) -> None:
        """An interval, upright."""
        at, (low, high) = self._at_x(x), (self._at_y(end) for end in ends)
        path = f"M{at:.1f} {low:.1f}V{high:.1f}M{at - 4:.1f} {low:.1f}h8M{at - 4:.1f} {high:.1f}h8"
        self._parts.append(f'<path fill="none" stroke="{_INK}" d="{path}"/>')

    def dot(self, both: float) -> None:
        """A point where x and y are equal, if that is inside."""
        if self._x[0] <= both <= self._x[1] and self._y[0] <= both <= self._y[1]:
            x, y = self._at_x(both), self._at_y(both)
            self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_TWO}"/>')

    def note(self, text: str) -> None:
        """A word in the upper right corner."""
        self._text(_WIDTH - _RIGHT - 8, _TOP + 18, text, "end")

    def mark(self, x: float, text: str) -> None:
        """An upright line with a name."""
        at = self._at_x(x)
        path = f"M{at:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"
        self._parts.append(f'<path fill="none" stroke="{_INK}" stroke-dasharray="4 3" d="{path}"/>')
        right = at < _WIDTH / 2
        self._text(at + (6 if right else -6), _TOP + 12, text, "start" if right else "end")

    def legend(self, names: Sequence[tuple[str, str]]) -> None:
        for row, (name, color) in enumerate(names):
            y = _TOP + 34 + 20 * row
            self._parts.append(
                f'<rect x="{_WIDTH - 108}" y="{y - 10}" width="12" height="12" fill="{color}"/>'
            )
            self._text(_WIDTH - 90, y, name, "start")

    def svg(self) -> str:
        frame = (
            f'<path fill="none" stroke="{_INK}" d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>'
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
            f' font-family="system-ui, sans-serif" font-size="12" fill="{_INK}"'
            f' aria-label="{self._title}">{"".join(self._parts)}{frame}</svg>'
        )

    def _text(self, x: float, y: float, text: str, anchor: str) -> None:
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>')

    def _points(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
        across = [round(self._at_x(value), 1) for value in x.tolist()]
        down = [round(self._at_y(value), 1) for value in y.tolist()]
        points = dict.fromkeys(zip(across, down, strict=True))  # what falls on one point is drawn once
        return "L".join(f"{a} {b}" for a, b in points)

    def _at_x(self, value: float) -> float:
        return _LEFT + _share(value, self._x) * (_WIDTH - _RIGHT - _LEFT)

    def _at_y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - _share(value, self._y) * (_HEIGHT - _BOTTOM - _TOP)


def _share(value: float, ends: tuple[float, float]) -> float:
    return (value - ends[0]) / (ends[1] - ends[0])


def _visible(
    ticks: Sequence[tuple[float, str]], scale: Scale, ends: tuple[float, float]
) -> list[tuple[float, str]]:
    placed = [(scale(value), text) for value, text in ticks]
    return [(at, text) for at, text in placed if ends[0] - 1e-9 <= at <= ends[1] + 1e-9]


def _thinned(
    x: NDArray[np.float64], y: NDArray[np.float64], highest: float
) -> tuple[list[float], list[float]]:
    """Points inside (0, highest) that lie apart, to a fiftieth, on logarithmic axes: of up to 65,537."""
    inside = (x > 0) & (y > 0) & (x <= highest) & (y <= highest)
    x, y = x[inside], y[inside]
    keys = np.round(50 * np.log(np.stack([x, y], axis=1)))
    kept = np.flatnonzero(np.append(True, (np.diff(keys, axis=0) != 0).any(1))[: len(x)])
    return x[kept].tolist(), y[kept].tolist()


def _power(n: int) -> str:
    return "1" if n == 0 else f"1e{n}" if n < -3 else f"{10.0**n:g}"
