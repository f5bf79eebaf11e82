"""How far figures of all pairs would move with other people: intervals from leaving parts of them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from facekit.evaluate.intervals import Interval, log_odds, student

__all__ = ["FEWEST_PEOPLE", "divide", "jackknife"]

FEWEST_PEOPLE = 10
"""Of fewer people no interval is given: it would say more about them than about the figure."""

_PARTS = 32

Figures: TypeAlias = "Callable[[int | None], Sequence[float]]"
"""The part of the people that is left out, or None -> shares in [0, 1]; NaN where there is none."""


def divide(people: int) -> NDArray[np.int64]:
    """The part (n,) that each of the people falls into: 32 parts by lot, or each alone; always the same."""
    return np.random.default_rng(0).permutation(people) % min(people, _PARTS)


def jackknife(figures: Figures, parts: int, *, confidence: float = 0.95) -> list[Interval]:
    """Intervals of shares from leaving out one part of the people at a time, with all their pairs.

    A pair of people is left out with either of them, so that whatever pairs that share a person have in
    common shows. What pairs have alone is counted twice: the interval is, if anything, too wide, never too
    narrow on that account (B. Efron, C. Stein, "The jackknife estimate of variance", 1981). It is made on
    the scale of log(p / (1 - p)), where the error of a share near 0 or 1 is less lopsided, and widened as
    Student's for few parts.

    Returns:
        An interval for each of the figures; None where nothing varies, or where the figure is 0 or 1, or
        would be without one of the parts: then too few people err to say how many others would.
    """
    whole = np.array(figures(None), np.float64)
    without = np.array([figures(part) for part in range(parts)], np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        centre, moved = log_odds(whole), log_odds(without)
        varies = np.isfinite(moved).all(0) & (np.ptp(moved, axis=0) > 0)
        error = np.sqrt((parts - 1) * np.var(moved, axis=0)) * student(parts - 1, confidence)
        ends = [1 / (1 + np.exp(-(centre + side * error))) for side in (-1, 1)]
    return [
        (float(low), float(high)) if known else None for low, high, known in zip(*ends, varies, strict=True)
    ]
