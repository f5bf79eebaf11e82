"""How well predicted numbers agree with the annotated ones: affect, intensities of action units."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekit.errors import EvaluationError

__all__ = ["ccc", "icc", "mse", "pcc", "rmse", "sagr"]


def ccc(predicted: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]]) -> float:
    r"""Concordance correlation: :math:`2\sigma_{xy} / (\sigma_x^2 + \sigma_y^2 + (\mu_x - \mu_y)^2)`.

    1 only where both are the same numbers; 0 for a constant prediction. Variances are those of the
    population (by n).

    Source: Lin 1989, "A concordance correlation coefficient to evaluate reproducibility", eq. 2.

    Args:
        predicted: (n,).
        targets: (n,).

    Raises:
        EvaluationError: all targets are alike.
    """
    x, y = _pair(predicted, targets)
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    return float(2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))


def pcc(predicted: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]]) -> float:
    """Pearson's correlation; 0 for a constant prediction, which tells nothing.

    Args:
        predicted: (n,).
        targets: (n,).

    Raises:
        EvaluationError: all targets are alike.
    """
    x, y = _pair(predicted, targets)
    if _constant(x):
        return 0.0
    return float(np.clip(((x - x.mean()) * (y - y.mean())).mean() / (x.std() * y.std()), -1, 1))


def mse(predicted: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]]) -> float:
    """Mean squared error, in squared units of the targets.

    Args:
        predicted: (n,), n > 0.
        targets: (n,).
    """
    return float(((predicted.astype(np.float64) - targets) ** 2).mean())


def rmse(predicted: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]]) -> float:
    """Root of :func:`mse`, in units of the targets."""
    return math.sqrt(mse(predicted, targets))


def sagr(predicted: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]]) -> float:
    """Sign agreement: share of the predictions with the sign of the target, in [0, 1]; 0 is a sign.

    Source: Nicolaou et al. 2011, "Continuous prediction of spontaneous affect", as in AffectNet
    (Mollahosseini et al. 2017, eq. 5).

    Args:
        predicted: (n,), n > 0.
        targets: (n,).
    """
    return float((np.sign(predicted) == np.sign(targets)).mean())


def icc(ratings: NDArray[np.floating[Any]]) -> float:
    r"""Intraclass correlation ICC(3,1): :math:`(BMS - EMS) / (BMS + (k-1) EMS)`.

    BMS and EMS are the mean squares between the rows and of the residuals of a two-way analysis of
    variance: what one judge adds to all ratings costs nothing, what he stretches them by does.

    Source: Shrout and Fleiss 1979, "Intraclass correlations: uses in assessing rater reliability", case 3;
    the figure of DISFA's intensities.

    Args:
        ratings: (n, k) of k >= 2 judges, such as a network and an annotator.

    Raises:
        EvaluationError: fewer than two rows, or all ratings of each judge are alike.
    """
    values = ratings.astype(np.float64)
    n, k = values.shape
    if n < 2 or all(_constant(judge) for judge in values.T):
        raise EvaluationError(f"ICC of {n} rows that are all alike: give rows whose ratings differ")
    rows, judges, mean = values.mean(1), values.mean(0), values.mean()
    between = k * ((rows - mean) ** 2).sum() / (n - 1)
    residual = ((values - rows[:, None] - judges + mean) ** 2).sum() / ((n - 1) * (k - 1))
    return float((between - residual) / (between + (k - 1) * residual))


def _pair(
    predicted: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = predicted.astype(np.float64), targets.astype(np.float64)
    if len(y) < 2 or _constant(y):
        raise EvaluationError(f"{len(y)} targets that are all alike: give rows whose targets differ")
    return x, y


def _constant(values: NDArray[np.float64]) -> bool:
    """Whether all are the same; a variance would say no for rounding alone."""
    return bool((values == values[0]).all())
