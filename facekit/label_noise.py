"""Which labels are likely right, by what a network that learns from them loses on each picture.

Networks learn what most labels say before they learn wrong ones by heart, so that early in training the
losses of the pictures fall into two heaps. DivideMix (Li et al. 2020, section 3.1) fits a mixture of two
normal distributions to them and takes the posterior of the lower one for the probability that a label is
clean; C2D (Zheltonozhskii et al. 2022) does so from a self-supervised start. Their fit is changed here:

* a handful of huge losses does not squeeze all others together (:func:`_fences`);
* it starts from the best split into two intervals and from four others, not from random ones, and takes the
  likeliest end: the same losses give the same answer, and few wrong labels are found as many are;
* each variance has a part of the pooled one (Friedman 1989, "Regularized discriminant analysis"),
  because losses of right labels are skewed: a distribution as narrow as their bulk calls their tail wrong;
* it goes on until the likelihood stands still, for as long as the means stay apart. Stopped at a change of
  1e-2, it misses a fifth of the wrong labels where they are 80 % of all;
* two normal distributions cross twice, so that the lowest or the highest losses would change sides. Beyond
  the turning point the posterior stays what it is there, and is never higher for a higher loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facekit.errors import SettingError

__all__ = ["LossMixture", "clean_probability", "fit_losses"]

_FLOOR = 5e-4  # added to variances, in units of the squared range: DivideMix's reg_covar
_POOLED = 0.1  # of each variance is that of both
_TOLERANCE = 1e-6  # of the mean log-likelihood, between two steps
_STEPS = 1000
_STARTS = (0.1, 0.5, 0.9, 0.99)  # shares of the lower losses that are taken for right at first
_APART = 1.0  # deviations; heaps with closer means lie inside one another, and neither is of right labels
_POINTS = 1 << 14  # losses that are fitted: every k-th of the sorted, which are distributed as all are
_TAIL = 0.01  # of the losses, on either side, which may not stretch the range of the others at will
_ROUNDING = 1e-6  # of the largest loss: float32 cannot tell closer ones apart
_LARGEST, _SMALLEST = 1e300, 1e-300  # so that differences stay finite, and what is divided by above 0
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

        sqrt(2) (m1 - m0) / sqrt(s0^2 + s1^2) (Ashman, Bird & Zepf 1994).
        """
        return _separation(self.means, self.deviations)

    def clean_probability(self, losses: ArrayLike) -> NDArray[np.float64]:
        """How likely each label is right: the posterior of the lower distribution, made monotone.

        The log-odds of two normal distributions are a parabola. They fall between the two means, and turn
        left of both or right of both, by which of the two is wider; what lies beyond counts as the turn.

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

    There should be pictures of both kinds. Where no label is wrong, the upper part of the one heap is taken
    for wrong; :attr:`LossMixture.separation` tells. The order is that of the losses in any case.

    Args:
        losses: (n,) finite, of any sign and scale; all by the same network, without augmentation, and before
            it knows wrong labels by heart.

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
    if high - low <= max(_SMALLEST, _ROUNDING * max(abs(low), abs(high))):
        return LossMixture((1.0, 0.0), (low, low), (0.0, 0.0))
    step = -(-len(ordered) // _POINTS)
    fit = _fit((np.clip(ordered[step // 2 :: step], low, high) - low) / (high - low))
    means, deviations = low + fit.means * (high - low), np.sqrt(fit.variances) * (high - low)
    return LossMixture(
        (float(fit.shares[0]), float(fit.shares[1])),
        (float(means[0]), float(means[1])),
        (float(deviations[0]), float(deviations[1])),
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
            f"losses: {int(bad.sum()):,} of {len(values):,} are not between {-_LARGEST:g} and {_LARGEST:g},"
            f" such as {values[row]} at {row}; leave these pictures out"
        )
    return values


def _fences(ordered: NDArray[np.float64]) -> tuple[float, float]:
    """The range in which losses count as they are; what lies outside counts as its end.

    DivideMix scales by the least and the largest loss. One loss that is a hundred times the others' then
    leaves them all within one hundredth of the range, where the floor of the variances makes them one heap.
    Here 1 % on either side may stretch the range of the others by its own width at most: far enough to be a
    heap of their own, if wrong labels are that few.
    """
    if not len(ordered):
        return 0.0, 0.0
    last = len(ordered) - 1
    low, high = ordered[int(np.ceil(_TAIL * last))], ordered[int(np.floor((1 - _TAIL) * last))]
    width = high - low
    if width <= 0:  # two or three losses, or nearly all of them alike
        return float(ordered[0]), float(ordered[-1])
    return float(max(ordered[0], low - width)), float(min(ordered[-1], high + width))


@dataclass(frozen=True, slots=True, eq=False)
class _Parameters:
    """Of both distributions, (2,) each."""

    shares: NDArray[np.float64]
    means: NDArray[np.float64]
    variances: NDArray[np.float64]


def _fit(ordered: NDArray[np.float64]) -> _Parameters:
    """The likeliest of the fits to sorted values from 0 to 1."""
    sizes = [_split(ordered), *(max(1, int(start * len(ordered))) for start in _STARTS)]
    return max((_climb(ordered, size) for size in sizes), key=lambda fit: fit[0])[1]


def _climb(ordered: NDArray[np.float64], size: int) -> tuple[float, _Parameters]:
    """Expectation maximisation from a start: how many values are the lower. Mean log-likelihood and fit."""
    first = np.arange(len(ordered)) < size
    found = _maximise(ordered, np.stack([first, ~first]).astype(np.float64))
    before = -np.inf
    for _ in range(_STEPS):
        away = (ordered - found.means[:, None]) ** 2 / (2 * found.variances[:, None])
        logs = np.log(found.shares / np.sqrt(2 * np.pi * found.variances))[:, None] - away
        each = np.logaddexp(logs[0], logs[1])
        likelihood = float(each.mean())
        if abs(likelihood - before) < _TOLERANCE:  # pooling may lower it at first
            break
        before = likelihood
        further = _maximise(ordered, np.exp(logs - each))
        if _separation(further.means, np.sqrt(further.variances)) < _APART:
            break
        found = further
    return likelihood, found


def _maximise(values: NDArray[np.float64], belongs: NDArray[np.float64]) -> _Parameters:
    """The parameters of distributions to which the values belong with these probabilities, (2, n)."""
    sizes = belongs.sum(1) + 10 * np.finfo(np.float64).eps
    shares = sizes / sizes.sum()
    means = (belongs @ values) / sizes
    variances = (belongs * (values - means[:, None]) ** 2).sum(1) / sizes
    return _Parameters(shares, means, (1 - _POOLED) * variances + _POOLED * (shares @ variances) + _FLOOR)


def _separation(means: ArrayLike, deviations: ArrayLike) -> float:
    (low, high), (first, second) = np.asarray(means), np.asarray(deviations)
    return 0.0 if low == high else float(np.sqrt(2) * (high - low) / np.hypot(first, second))


def _split(ordered: NDArray[np.float64]) -> int:
    """How many of the sorted values make up the lower of the two intervals with the least variance inside.

    That is 2-means, exactly: in one dimension its clusters are intervals.
    """
    sums = np.cumsum(ordered)
    below = np.arange(1, len(ordered))
    between = sums[:-1] ** 2 / below + (sums[-1] - sums[:-1]) ** 2 / (len(ordered) - below)
    return int(between.argmax()) + 1
