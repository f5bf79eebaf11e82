"""Scores of likeness: k-means and logistic regression against scikit-learn's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression

from facekit.errors import SettingError
from facekit.likeness import Classifier, Clusters, fit_classifier, fit_clusters, spherical_kmeans

Vectors = NDArray[np.float32]
Fit = Callable[[Vectors, Vectors], Classifier | Clusters]


def _cloud(count: int, clouds: int, seed: int, spread: float = 0.5) -> Vectors:
    """Unit vectors in some clouds, whose centres the seed draws."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(clouds, 1, 24)) + spread * rng.normal(size=(clouds, count // clouds, 24))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=2, keepdims=True), np.float32).reshape(-1, 24)


@pytest.mark.parametrize("spread", [0.1, 0.5, 2.0])
def test_centres_are_about_as_good_as_those_of_sklearn(spread: float) -> None:
    vectors = _cloud(600, 12, seed=0, spread=spread)
    centres = spherical_kmeans(vectors, 12)
    theirs = KMeans(12, n_init=10, random_state=0).fit(vectors)
    sums = np.stack([vectors[theirs.labels_ == label].sum(0) for label in range(12)])
    # the sum of similarities to the centre of the own cluster is the length of the cluster's sum
    assert (vectors @ centres.T).max(1).sum() >= 0.97 * np.linalg.norm(sums, axis=1).sum()
    assert np.allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-6)


def test_centres_are_the_same_every_time_and_repeated_vectors_do_no_harm() -> None:
    vectors = _cloud(200, 5, seed=3)
    assert np.array_equal(spherical_kmeans(vectors, 9), spherical_kmeans(vectors, 9))
    twice = np.repeat(_cloud(2, 2, seed=4), 10, axis=0)
    centres = spherical_kmeans(twice, 5)  # of which only two can be of use
    assert np.isfinite(centres).all()
    assert np.allclose((twice @ centres.T).max(1), 1, atol=1e-5)
    for count in (0, 5):
        with pytest.raises(SettingError, match=rf"count is {count}: give 1 \.\.\. 4"):
            spherical_kmeans(vectors[:4], count)


def test_the_score_by_clusters_is_a_ratio_of_densities() -> None:
    target, rest, asked = _cloud(64, 4, seed=1), _cloud(90, 3, seed=2), _cloud(30, 3, seed=8)
    found = fit_clusters(target, rest)
    assert (len(found.target), len(found.rest)) == (64 // 16, 90 // 16)
    middle = rest.mean(0)
    for vector, score in zip(asked, found.score(asked), strict=True):
        way = (vector - middle) / np.linalg.norm(vector - middle)
        ours, theirs = (
            sum(np.exp(5 * float(way @ centre)) for centre in centres) / len(centres)
            for centres in (found.target, found.rest)
        )
        assert score == pytest.approx(np.log(ours / theirs), abs=1e-4)


@pytest.mark.parametrize("fit", [fit_clusters, fit_classifier])
def test_what_all_vectors_share_does_not_hide_what_they_do_not(fit: Fit) -> None:
    common = 5 * np.ones(24)  # the mean that all faces have
    others = [
        (cloud + common) / np.linalg.norm(cloud + common, axis=1, keepdims=True)
        for cloud in (_cloud(300, 3, seed=10), _cloud(300, 3, seed=11))
    ]
    target, like, unlike = others[0][::2], others[0][1::2], others[1][1::2]
    source = np.concatenate([like, unlike]).astype(np.float32)
    best = np.argsort(-fit(target.astype(np.float32), source).score(source))[: len(like)]
    assert (best < len(like)).mean() >= 0.95


@pytest.mark.parametrize("fit", [fit_clusters, fit_classifier])
def test_one_vector_a_side_is_enough_and_none_is_refused(fit: Fit) -> None:
    some = _cloud(4, 1, seed=0)
    assert np.isfinite(fit(some[:1], some[1:2]).score(some)).all()
    for ours, theirs in ((some, some[:0]), (some[:0], some)):
        with pytest.raises(SettingError, match="both are needed"):
            fit(ours, theirs)
    with pytest.raises(SettingError, match=r"give \(n, d\) and \(m, d\)"):
        fit(some, np.empty((3, 7), np.float32))


@pytest.mark.parametrize(("ours", "theirs"), [(60, 600), (600, 60), (40, 40)])
def test_the_classifier_is_that_of_sklearn(ours: int, theirs: int) -> None:
    target, rest = _cloud(ours, 2, seed=5), _cloud(theirs, 4, seed=6)
    found = fit_classifier(target, rest)
    # theirs minimises C * (sum of weighted losses) + |w|^2 / 2
    model = LogisticRegression(C=10, tol=1e-10, max_iter=10_000)
    labels = np.repeat([1, 0], [ours, theirs])
    weights = np.repeat([0.5 / ours, 0.5 / theirs], [ours, theirs])
    both = np.concatenate([target, rest]).astype(np.float64)
    ways = both - rest.mean(0)
    ways /= np.maximum(np.linalg.norm(ways, axis=1, keepdims=True), 1e-6)
    model.fit(ways, labels, weights)
    assert np.allclose(found.weights, model.coef_[0], rtol=1e-3, atol=1e-3 * np.abs(model.coef_).max())
    assert np.allclose(found.score(both), model.predict_proba(ways)[:, 1], atol=1e-3)


def test_classes_that_are_far_apart_or_alike_have_finite_weights() -> None:
    one, other = np.eye(4, dtype=np.float32)[:2]
    apart = fit_classifier(one[None], other[None])
    assert np.isfinite(apart.weights).all()
    assert apart.score(one[None])[0] > 0.6
    assert apart.score(other[None])[0] < 0.4
    same = _cloud(40, 2, seed=7)
    assert np.allclose(fit_classifier(same, same).score(same), 0.5, atol=1e-6)
