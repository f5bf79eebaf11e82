"""Which labels are likely right: a network loses little where picture and label agree, much where they do not.

Networks learn what most labels say before they learn wrong ones by heart, so that early in training the losses
of the pictures fall into two heaps. DivideMix (Li et al. 2020, section 3.1) fits a mixture of two normal
distributions to them and takes the posterior of the lower one for the probability that a label is clean; C2D
(Zheltonozhskii et al. 2022) does so from a self-supervised start. Their fit is made firm here in three ways:

* a handful of huge losses does not squeeze all others together: see :func:`_fences`;
* the start is the best split into two intervals, not a random one: the same losses give the same answer;
* two normal distributions cross twice, so that the lowest or the highest losses would change sides; beyond the
  turning point the posterior stays what it is there, and is never higher for a higher loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facekit.errors import SettingError

__all__ = ["LossMixture", "clean_probability", "fit_losses"]

_FLOOR = 5e-4  # added to variances, in units of the squared range: DivideMix's reg_covar
_TOLERANCE = 1e-6  # of the mean log-likelihood, between two steps
_STEPS = 1000
_POINTS = (
    1 << 14
)  # losses that are fitted: evenly spaced ones of the sorted, which are distributed as all are
_TAIL = (
    0.01  # of the losses on either side, which may not stretch the range to more than three times the rest's
)
_ROUNDING = 1e-6  # of the largest loss: float32 cannot tell closer ones apart
_LARGEST = 1e300  # so that differences stay finite
_REACH = 100.0  # deviations from both means beyond which nothing changes any more


@dataclass(frozen=True, slots=True)
class LossMixture:
    """Two normal distributions of losses: of pictures under the right label, and under a wrong one.

    Attributes:
        shares: of the pictures, (right, wrong); sum 1.
        means: of the losses, the lower first; equal where there is one kind of losses only.
        deviations: their standard deviations.
    """

    shares: tuple[float, float]
    means: tuple[float, float]
    deviations: tuple[float, float]

    @property
    def separation(self) -> float:
        """Distance of the means in deviations; below 2 the two are one heap rather than two.

        sqrt(2) (m1 - m0) / sqrt(s0^2 + s1^2): Ashman, Bird & Zepf 1994, "Detecting bimodality", section 4.
        """
        apart = self.means[1] - self.means[0]
        return 0.0 if apart == 0 else float(np.sqrt(2) * apart / np.hypot(*self.deviations))

    def clean_probability(self, losses: ArrayLike) -> NDArray[np.float64]:
        """How likely each label is right: the posterior of the lower distribution, made monotone.

        The log-odds of two normal distributions are a parabola. They fall between the two means, and turn to the
        left of both or to the right of both, by which of the two is wider; what lies beyond counts as the turn.

        Args:
            losses: (n,), finite.

        Returns:
            (n,) in [0, 1], never higher for a higher loss; 1 where there is one kind of losses only.

        Raises:
            SettingError: losses that are not (n,) finite numbers.
        """
        values = _checked(losses)
        if self.means[0] == self.means[1]:
            return np.ones(len(values))
        (low, high), (narrow, wide) = self.means, self.deviations
        reach = _REACH * (narrow + wide)
        at = np.clip(values, low - reach, high + reach)
        ratio = wide / narrow
        if ratio != 1:
            turn = low - (high - low) / (ratio**2 - 1)
            at = np.maximum(at, turn) if ratio > 1 else np.minimum(at, turn)
        odds = np.log(self.shares[0] / self.shares[1] * ratio)
        odds = odds + (((at - high) / wide) ** 2 - ((at - low) / narrow) ** 2) / 2
        order = np.argsort(values, kind="stable")
        clean = np.empty(len(values))
        # rounding may raise a value by its last digit
        clean[order] = np.minimum.accumulate(np.exp(-np.logaddexp(0, -odds[order])))
        return clean


def clean_probability(losses: ArrayLike) -> NDArray[np.float64]:
    """How likely the label of each picture is right, from what a network loses on it.

    There should be pictures of both kinds. Where no label is wrong, the upper part of the one heap is taken for
    wrong; :attr:`LossMixture.separation` tells. The order is that of the losses in any case.

    Args:
        losses: (n,) finite, of any sign and scale, all measured by the same network; before it knows wrong labels
            by heart, and without augmentation.

    Returns:
        (n,) in [0, 1], never higher for a higher loss; 1 for all where the losses are equal.

    Raises:
        SettingError: losses that are not (n,) finite numbers.
    """
    return fit_losses(losses).clean_probability(losses)


def fit_losses(losses: ArrayLike) -> LossMixture:
    """The mixture of two normal distributions that fits the losses best, by expectation maximisation.

    Args:
        losses: (n,), finite.

    Raises:
        SettingError: losses that are not (n,) finite numbers.
    """
    ordered = np.sort(_checked(losses))
    low, high = _fences(ordered)
    if high - low <= _ROUNDING * max(abs(low), abs(high)):
        return LossMixture((1.0, 0.0), (low, low), (0.0, 0.0))
    step = -(-len(ordered) // _POINTS)
    scaled = (np.clip(ordered[step // 2 :: step], low, high) - low) / (high - low)
    shares, means, variances = _fit(scaled)
    first, second = np.argsort(means, kind="stable")
    return LossMixture(
        (float(shares[first]), float(shares[second])),
        (float(low + means[first] * (high - low)), float(low + means[second] * (high - low))),
        (float(np.sqrt(variances[first]) * (high - low)), float(np.sqrt(variances[second]) * (high - low))),
    )


def _checked(losses: ArrayLike) -> NDArray[np.float64]:
    values: NDArray[Any] = np.asarray(losses)
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise SettingError(f"losses: {values.dtype} of shape {values.shape}; give one number a picture")
    values = values.astype(np.float64)
    bad = ~(np.abs(values) < _LARGEST)
    if bad.any():
        row = int(bad.argmax())
        raise SettingError(
            f"losses: {int(bad.sum()):,} of {len(values):,} are no finite numbers, number {row} is {values[row]};"
            " leave these pictures out"
        )
    return values


def _fences(ordered: NDArray[np.float64]) -> tuple[float, float]:
    """The range in which losses count as they are; what lies outside counts as its end.

    DivideMix scales by the least and the largest loss. One loss that is a hundred times the others' then leaves
    them all within one hundredth of the range, where the floor of the variances makes them one heap. Here 1 % on
    either side may stretch the range of the others by its own width at most: far enough to be a heap of their
    own, if wrong labels are that few.
    """
    if not len(ordered):
        return 0.0, 0.0
    last = len(ordered) - 1
    low, high = ordered[int(np.ceil(_TAIL * last))], ordered[int(np.floor((1 - _TAIL) * last))]
    width = high - low
    if width <= 0:  # two or three losses, or nearly all of them alike
        return float(ordered[0]), float(ordered[-1])
    return float(max(ordered[0], low - width)), float(min(ordered[-1], high + width))


def _fit(
    ordered: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Shares, means and variances, (2,) each, of sorted values from 0 to 1."""
    first = np.arange(len(ordered)) < _split(ordered)
    belongs = np.stack([first, ~first]).astype(np.float64)
    before = -np.inf
    for _ in range(_STEPS):
        sizes = belongs.sum(1) + 10 * np.finfo(np.float64).eps
        shares = sizes / sizes.sum()
        means = (belongs @ ordered) / sizes
        away = (ordered - means[:, None]) ** 2
        variances = (belongs * away).sum(1) / sizes + _FLOOR
        logs = np.log(shares / np.sqrt(2 * np.pi * variances))[:, None] - away / (2 * variances[:, None])
        each = np.logaddexp(logs[0], logs[1])
        belongs = np.exp(logs - each)
        likelihood = float(each.mean())
        if likelihood - before < _TOLERANCE:
            break
        before = likelihood
    return shares, means, variances


def _split(ordered: NDArray[np.float64]) -> int:
    """How many of the sorted values make up the lower of the two intervals with the least variance inside.

    That is 2-means, exactly: in one dimension its clusters are intervals.
    """
    sums = np.cumsum(ordered)
    below = np.arange(1, len(ordered))
    between = sums[:-1] ** 2 / below + (sums[-1] - sums[:-1]) ** 2 / (len(ordered) - below)
    return int(between.argmax()) + 1
