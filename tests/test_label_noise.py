"""Probabilities that labels are right: against scikit-learn and loops; what must not change them; edges."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture

from facekit import label_noise
from facekit.errors import SettingError
from facekit.label_noise import LossMixture, clean_probability, fit_losses

Floats = NDArray[np.float64]


def _losses(
    noise: float, n: int = 4000, shape: str = "gamma", seed: int = 0
) -> tuple[Floats, NDArray[np.bool_]]:
    """Losses of right labels and, at the end, of wrong ones; and which are right."""
    rng = np.random.default_rng(seed)
    wrong = round(noise * n)
    right = n - wrong
    parts = {
        "normal": lambda: (rng.normal(1, 0.4, right), rng.normal(4, 0.8, wrong)),
        "gamma": lambda: (rng.gamma(1.5, 0.6, right), rng.gamma(9, 0.5, wrong)),
        "exponential": lambda: (rng.exponential(0.15, right), rng.gamma(6, 0.8, wrong)),
        "overlapping": lambda: (rng.normal(2.5, 0.7, right), rng.normal(3.7, 0.5, wrong)),
    }[shape]()
    return np.concatenate(parts), np.arange(n) < right


# ---------------------------------------------------------------- oracles


@pytest.mark.parametrize("shape", ["normal", "gamma", "exponential"])
@pytest.mark.parametrize("noise", [0.2, 0.5, 0.8])
def test_without_pooling_the_fit_is_that_of_scikit_learn(
    shape: str, noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_noise, "_POOLED", 0.0)
    monkeypatch.setattr(label_noise, "_STARTS", ())  # but from 2-means, as there
    losses, _ = _losses(noise, n=2000, shape=shape)
    low, width = losses.min(), np.ptp(losses)
    theirs = GaussianMixture(2, tol=1e-6, max_iter=1000, reg_covar=5e-4, random_state=0)
    theirs.fit((losses[:, None] - low) / width)
    order = theirs.means_[:, 0].argsort()
    ours = fit_losses(losses)
    assert ours.shares == pytest.approx(theirs.weights_[order], abs=2e-3)
    assert ours.means == pytest.approx(low + width * theirs.means_[order, 0], abs=1e-3 * width)
    deviations = width * np.sqrt(theirs.covariances_[order, 0, 0])
    assert ours.deviations == pytest.approx(deviations, abs=1e-3 * width)
    between = (losses > ours.means[0]) & (losses < ours.means[1])  # where both posteriors fall
    posterior = theirs.predict_proba((losses[:, None] - low) / width)[:, order[0]]
    assert clean_probability(losses)[between] == pytest.approx(posterior[between], abs=0.02)


def _reference(losses: list[float]) -> LossMixture:
    """The same, value by value: from each of five starts a step after the other, and the likeliest."""
    low, width = min(losses), max(losses) - min(losses)
    values = sorted((loss - low) / width for loss in losses)

    def scatter(part: list[float]) -> float:
        return sum((value - sum(part) / len(part)) ** 2 for value in part)

    best = min(range(1, len(values)), key=lambda at: scatter(values[:at]) + scatter(values[at:]))
    starts = [best, *(int(share * len(values)) for share in (0.1, 0.5, 0.9, 0.99))]
    _, shares, means, deviations = max(_climb(values, start) for start in starts)
    return LossMixture(
        (shares[0], shares[1]),
        (low + width * means[0], low + width * means[1]),
        (width * deviations[0], width * deviations[1]),
    )


def _climb(values: list[float], start: int) -> tuple[float, list[float], list[float], list[float]]:
    belongs = [[float(at < start), float(at >= start)] for at in range(len(values))]
    before = -math.inf
    while True:
        sizes = [sum(row[k] for row in belongs) for k in (0, 1)]
        pairs = list(zip(belongs, values, strict=True))
        means = [sum(row[k] * value for row, value in pairs) / sizes[k] for k in (0, 1)]
        own = [sum(row[k] * (value - means[k]) ** 2 for row, value in pairs) / sizes[k] for k in (0, 1)]
        shares = [size / len(values) for size in sizes]
        pooled = shares[0] * own[0] + shares[1] * own[1]
        deviations = [math.sqrt(0.9 * each + 0.1 * pooled + 5e-4) for each in own]
        densities = [
            [shares[k] * NormalDist(means[k], deviations[k]).pdf(value) for k in (0, 1)] for value in values
        ]
        likelihood = sum(math.log(sum(row)) for row in densities) / len(values)
        if abs(likelihood - before) < 1e-6:
            return likelihood, shares, means, deviations
        before = likelihood
        belongs = [[each / sum(row) for each in row] for row in densities]


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_is_that_of_a_loop(seed: int) -> None:
    losses, _ = _losses(0.4, n=60, shape="gamma", seed=seed)
    expected, found = _reference(losses.tolist()), fit_losses(losses)
    assert found.shares == pytest.approx(expected.shares, abs=1e-9)
    assert found.means == pytest.approx(expected.means, abs=1e-9)
    assert found.deviations == pytest.approx(expected.deviations, abs=1e-9)


def test_two_points_have_a_closed_form() -> None:
    mixture = fit_losses([2.0] * 60 + [6.0] * 40)
    deviation = 4 * np.sqrt(5e-4)
    assert mixture.shares == pytest.approx((0.6, 0.4))
    assert mixture.means == pytest.approx((2, 6))
    assert mixture.deviations == pytest.approx((deviation, deviation))
    assert mixture.separation == pytest.approx(4 / deviation)  # Ashman's D of equal deviations


@pytest.mark.parametrize(
    "deviations", [(0.3, 0.9), (0.9, 0.3), (0.5, 0.5), (0.5, 0.5 * (1 + 1e-12)), (1e-3, 2.0)]
)
def test_the_posterior_is_that_of_brute_force(deviations: tuple[float, float]) -> None:
    mixture = LossMixture((0.3, 0.7), (1.0, 2.5), deviations)
    at = np.linspace(-8, 12, 20_001)
    logs = [
        np.log(share) + norm.logpdf(at, mean, deviation)
        for share, mean, deviation in zip(mixture.shares, mixture.means, deviations, strict=True)
    ]
    expected = np.exp(logs[0] - np.logaddexp(*logs))
    if deviations[0] < deviations[1]:  # rises to the left of both means: the highest that is still to come
        expected = np.maximum.accumulate(expected[::-1])[::-1]
    else:  # rises to the right of both: the lowest so far
        expected = np.minimum.accumulate(expected)
    found = mixture.clean_probability(at)
    assert found == pytest.approx(expected, abs=1e-5)
    assert (np.diff(found) <= 0).all()


# ---------------------------------------------------------------- what it is good for


@pytest.mark.parametrize("shape", ["normal", "gamma", "exponential"])
@pytest.mark.parametrize("noise", [0.05, 0.2, 0.4, 0.6, 0.8])
def test_half_is_where_right_and_wrong_part(shape: str, noise: float) -> None:
    """A fit that stops at a change of 1e-2 is right about 85 % where 80 % are wrong, gamma or exponential."""
    losses, right = _losses(noise, shape=shape)
    clean = clean_probability(losses)
    assert ((clean >= 0.5) == right).mean() > 0.92
    assert roc_auc_score(right, clean) == pytest.approx(roc_auc_score(right, -losses), abs=0.002)


@pytest.mark.parametrize("noise", [0.2, 0.4, 0.6, 0.8])
def test_the_order_is_that_of_the_losses_where_the_normals_cross(noise: float) -> None:
    losses, right = _losses(noise, shape="overlapping")
    expected = roc_auc_score(right, -losses)
    assert roc_auc_score(right, clean_probability(losses)) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("outliers", [[1e6], [1e3, 1e9], [-1e6], [1e30, -1e30]])
def test_a_few_huge_losses_change_nothing_for_the_others(outliers: list[float]) -> None:
    losses, right = _losses(0.4, n=1000, shape="normal")
    clean = clean_probability(np.r_[losses, outliers])
    assert ((clean[:1000] >= 0.5) == right).mean() > 0.98
    assert (clean[1000:][np.array(outliers) > 0] < 0.5).all()
    assert (clean[1000:][np.array(outliers) < 0] > 0.5).all()


@pytest.mark.parametrize(("noise", "shape"), [(0.004, "normal"), (0.01, "normal"), (0.02, "exponential")])
def test_few_wrong_labels_are_no_outliers(noise: float, shape: str) -> None:
    losses, right = _losses(noise, shape=shape)
    clean = clean_probability(losses)
    assert (clean[~right] < 0.5).mean() > 0.9
    assert (clean[right] < 0.5).mean() < 0.02


def test_wrong_labels_among_losses_of_zero() -> None:
    clean = clean_probability(np.r_[np.zeros(995), np.full(5, 3.0)])
    assert (clean[:995] > 0.99).all()
    assert (clean[995:] < 0.01).all()


def test_a_heap_within_the_other_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left alone, the fit becomes a narrow heap in the middle of a wide one, on both sides of it."""
    rng = np.random.default_rng(0)
    losses = np.r_[rng.normal(2, 0.7, 2000), rng.normal(2.2, 0.2, 2000)]
    assert fit_losses(losses).separation >= 1
    monkeypatch.setattr(label_noise, "_APART", -math.inf)
    assert abs(fit_losses(losses).separation) < 1


def test_one_heap_shows_in_the_separation() -> None:
    rng = np.random.default_rng(0)
    assert fit_losses(rng.normal(3, 1, 4000)).separation < 2
    assert fit_losses(_losses(0.4, shape="normal")[0]).separation > 4


def test_many_losses_are_fitted_as_few_are() -> None:
    many, _ = _losses(0.4, n=300_000)
    few = fit_losses(np.sort(many)[20::40])
    mixture = fit_losses(many)
    assert mixture.means == pytest.approx(few.means, rel=0.05)
    assert mixture.shares == pytest.approx(few.shares, rel=0.05)


# ---------------------------------------------------------------- what must not change it

SOME = arrays(np.float64, st.integers(0, 40), elements=st.floats(-1e6, 1e6))


@settings(max_examples=150, deadline=None)
@given(losses=SOME)
def test_never_higher_for_a_higher_loss(losses: Floats) -> None:
    clean = clean_probability(losses)
    assert clean.shape == losses.shape
    assert ((clean >= 0) & (clean <= 1)).all()
    order = losses.argsort()
    assert (np.diff(clean[order]) <= 0).all()
    for loss in losses[:5]:
        assert len(set(clean[losses == loss])) == 1


@settings(max_examples=50, deadline=None)
@given(losses=SOME, seed=st.integers(0, 100))
def test_the_order_of_the_pictures_does_not_matter(losses: Floats, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(losses))
    assert (clean_probability(losses[order]) == clean_probability(losses)[order]).all()


@pytest.mark.parametrize("shape", ["normal", "exponential", "overlapping"])
@pytest.mark.parametrize(
    ("scale", "shift"), [(1, 100), (1e-6, 0), (1e12, -5e12), (0.3, -7), (1e-200, 0), (1e200, 0)]
)
def test_scale_and_shift_do_not_matter(shape: str, scale: float, shift: float) -> None:
    losses, _ = _losses(0.4, n=1000, shape=shape)
    assert clean_probability(scale * losses + shift) == pytest.approx(clean_probability(losses), abs=1e-6)


def test_single_precision_is_enough() -> None:
    losses, _ = _losses(0.4)
    assert clean_probability(losses.astype(np.float32)) == pytest.approx(clean_probability(losses), abs=1e-3)


# ---------------------------------------------------------------- edges


@pytest.mark.parametrize(
    "losses",
    [
        [],
        [3.0],
        [0.0] * 5,
        [-2.5] * 5,
        [1e-310] * 3,
        np.float32(np.log(1000)) * np.float32([1, 1 + 1.2e-7, 1 - 1.2e-7]),
    ],
)
def test_losses_that_are_alike_speak_against_no_label(losses: list[float]) -> None:
    assert clean_probability(losses).tolist() == [1.0] * len(losses)
    assert fit_losses(losses).separation == 0


def test_two_and_three_losses() -> None:
    assert clean_probability([0.1, 5.0]).round(3).tolist() == [1, 0]
    assert clean_probability([5, 0, 5]).round(3).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("losses", "problem"),
    [
        ([1.0, float("nan"), 2.0], r"1 of 3 are not between -1e\+300 and 1e\+300, such as nan at 1"),
        ([1.0, -1e308, 2.0], r"1 of 3 are not between .*, such as -1e\+308 at 1"),
        ([1.0, float("inf"), -float("inf")], "2 of 3 are not between .*, such as inf at 1"),
        ([1e308, 1.0], "such as 1e"),
        ([[1.0, 2.0]], r"float64 of shape \(1, 2\); give one number a picture"),
        (1.0, r"of shape \(\)"),
        (["a", "b"], "give one number a picture"),
        ([True, False], "bool of shape"),
    ],
)
def test_what_is_no_list_of_losses(losses: object, problem: str) -> None:
    with pytest.raises(SettingError, match=problem) as caught:
        clean_probability(losses)
    assert "\n" not in str(caught.value)
