"""How much vectors are like a target's: by centres of both sides, or by a classifier that tells them apart.

Both choose pictures for a purpose that a sample of pictures shows, the target (Chakraborty et al. 2020,
"Efficient Conditional Pre-training for Transfer Learning", arXiv 2011.10231). What is fitted takes a few
thousand vectors; scoring then takes any number, block by block.

The published score by clusters is the similarity to the nearest centre of the target, or the mean over its
centres. In a space where what all faces share is large, and where centres are people, that is little better
than chance: of mixtures with faces of CelebA, the nearer half were CelebA's in 48 to 66 of 100 pictures.
Here the mean of the others is taken away first, and their own centres are weighed against the target's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekit.errors import SettingError

__all__ = ["Classifier", "Clusters", "fit_classifier", "fit_clusters", "spherical_kmeans"]

_EACH = 16  # vectors that a centre stands for, at least
_MOST = 64  # centres
_CONCENTRATION = 5.0  # of the density around a centre; 10 and 20 choose worse where centres say little
_ROUNDS = 100  # of k-means; it ends when nothing moves
_STEPS = 100  # of Newton's method; about ten are taken
_PENALTY = 0.1  # of the weights' squared length, for classes that weigh one half each
_SMALL = 1e-9  # length of a gradient that counts as zero

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """The centres of a target and of others, as seen from the middle of the others.

    Attributes:
        middle: (d,) float32, the mean of the others.
        target: (k, d) float32 of unit length.
        rest: (m, d) float32 of unit length.
    """

    middle: NDArray[np.float32]
    target: NDArray[np.float32]
    rest: NDArray[np.float32]

    def score(self, vectors: Floats) -> NDArray[np.float32]:
        """(n,) logarithm of how many times likelier vectors (n, d) are the target's than the others'.

        Both are mixtures of von Mises-Fisher densities of concentration 5, one a centre (Banerjee et al.
        2005, "Clustering on the Unit Hypersphere").
        """
        seen = _seen_from(self.middle, vectors)
        scores = _log_density(seen, self.target) - _log_density(seen, self.rest)
        return np.asarray(scores, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """A plane with a target on its one side and others on the other, as seen from the middle of the others.

    Attributes:
        middle: (d,) float32, the mean of the others.
        weights: (d,) float64, normal to the plane.
        bias: where it lies.
    """

    middle: NDArray[np.float32]
    weights: NDArray[np.float64]
    bias: float

    def score(self, vectors: Floats) -> NDArray[np.float32]:
        """(n,) probability in [0, 1] that vectors (n, d) are the target's, were it half of all."""
        return np.asarray(_logistic(_seen_from(self.middle, vectors) @ self.weights + self.bias), np.float32)


def fit_clusters(target: Floats, rest: Floats) -> Clusters:
    """The centres of both sides, one for each 16 vectors, 64 at most.

    Args:
        target: (n, d).
        rest: (m, d), such as a random sample of what is to be scored; it may hold some that are the target's.

    Raises:
        SettingError: a side without vectors, or of another dimension than the other.
    """
    _check(target, rest)
    middle = np.asarray(np.asarray(rest, np.float64).mean(0), np.float32)
    ours, theirs = (
        spherical_kmeans(_seen_from(middle, side), max(1, min(_MOST, len(side) // _EACH)))
        for side in (target, rest)
    )
    return Clusters(middle, ours, theirs)


def spherical_kmeans(vectors: NDArray[np.float32], count: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Centres by similarity (Dhillon and Modha 2001), seeded by k-means++ (Arthur and Vassilvitskii 2007).

    Args:
        vectors: (n, d) of unit length.
        count: centres k, 1 ... n.
        seed: of the first centres; the same seed gives the same result.

    Returns:
        (k, d) float32 of unit length.

    Raises:
        SettingError: ``count`` is not 1 ... n.
    """
    if not 1 <= count <= len(vectors):
        raise SettingError(
            f"count is {count}: give 1 ... {len(vectors)}, as many as there are vectors at most"
        )
    centres = vectors[_seeds(vectors, count, np.random.default_rng(seed))]
    nearest = np.full(len(vectors), -1)
    for _ in range(_ROUNDS):
        scores = vectors @ centres.T
        before, nearest = nearest, scores.argmax(1)
        if np.array_equal(before, nearest):
            break
        centres = _means(vectors, nearest, scores.max(1), count)
    return centres


def fit_classifier(target: Floats, rest: Floats) -> Classifier:
    """Logistic regression of a target against other vectors, by Newton's method.

    Minimises the mean log loss, with both classes of equal weight, and 0.05 |w|^2; the bias is free.

    Args:
        target: (n, d).
        rest: (m, d), such as a random sample of what is to be scored; it may hold some that are the target's.

    Raises:
        SettingError: a class without vectors, or of another dimension than the other.
    """
    _check(target, rest)
    ones = np.ones((len(target) + len(rest), 1))
    middle = np.asarray(np.asarray(rest, np.float64).mean(0), np.float32)
    both = np.concatenate([_seen_from(middle, side) for side in (target, rest)])
    inputs = np.hstack([both.astype(np.float64), ones])
    sign = np.repeat([1.0, -1.0], [len(target), len(rest)])
    share = np.repeat([0.5 / len(target), 0.5 / len(rest)], [len(target), len(rest)])
    solution = _newton(inputs, sign, share)
    return Classifier(middle, solution[:-1], float(solution[-1]))


def _check(target: Floats, rest: Floats) -> None:
    if target.ndim != 2 or rest.ndim != 2 or target.shape[1] != rest.shape[1]:
        raise SettingError(f"target {target.shape} and rest {rest.shape}: give (n, d) and (m, d)")
    if not len(target) or not len(rest):
        raise SettingError(f"{len(target)} vectors of the target and {len(rest)} others: both are needed")


def _seen_from(middle: NDArray[np.float32], vectors: Floats) -> NDArray[np.float32]:
    """(n, d) directions of unit length; zero for a vector in the middle itself."""
    ways = np.asarray(vectors, np.float32) - middle
    return np.asarray(ways / np.maximum(np.linalg.norm(ways, axis=1, keepdims=True), 1e-6), np.float32)


def _log_density(vectors: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) but for what is the same everywhere."""
    return np.asarray(np.log(np.exp(_CONCENTRATION * (vectors @ centres.T)).mean(1)), np.float32)


def _seeds(vectors: NDArray[np.float32], k: int, rng: np.random.Generator) -> list[int]:
    """Vectors that are far from each other: each is drawn by its squared distance to those drawn before."""
    chosen = [int(rng.integers(len(vectors)))]
    distance = np.full(len(vectors), np.inf)
    while len(chosen) < k:
        distance = np.minimum(distance, np.maximum(1 - vectors @ vectors[chosen[-1]], 0))
        distance[chosen] = 0  # rounding leaves a little
        total = distance.sum()
        if total > 0:
            chosen.append(int(rng.choice(len(vectors), p=distance / total)))
        else:  # fewer than k different vectors
            chosen.append(int(np.setdiff1d(np.arange(len(vectors)), chosen)[0]))
    return chosen


def _means(
    vectors: NDArray[np.float32], nearest: NDArray[np.int64], scores: NDArray[np.float32], k: int
) -> NDArray[np.float32]:
    """(k, d) of unit length; a centre that has lost all its vectors goes where centres are farthest."""
    member = np.zeros((k, len(vectors)), np.float32)
    member[nearest, np.arange(len(vectors))] = 1
    sums = member @ vectors
    lengths = np.linalg.norm(sums, axis=1)
    empty = np.flatnonzero(lengths < 1e-6)
    sums[empty] = vectors[np.argsort(scores, kind="stable")[: len(empty)]]
    lengths[empty] = 1
    return np.asarray(sums / lengths[:, None], np.float32)


def _newton(
    inputs: NDArray[np.float64], sign: NDArray[np.float64], share: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The minimum of sum_i share_i ln(1 + exp(-sign_i x_i w)) + penalty / 2 |w|^2, the last w unpenalised."""
    penalty = np.full(inputs.shape[1], _PENALTY)
    penalty[-1] = 0

    def loss(at: NDArray[np.float64]) -> float:
        return float(share @ np.logaddexp(0, -sign * (inputs @ at)) + penalty @ at**2 / 2)

    solution = np.zeros(inputs.shape[1])
    least = loss(solution)
    for _ in range(_STEPS):
        wrong = _logistic(-sign * (inputs @ solution))
        gradient = -inputs.T @ (share * sign * wrong) + penalty * solution
        if np.linalg.norm(gradient) < _SMALL:
            break
        curvature = (inputs * (share * wrong * (1 - wrong))[:, None]).T @ inputs + np.diag(penalty)
        curvature[-1, -1] += 1e-12  # of the bias, where all are told apart
        step, length = np.linalg.solve(curvature, gradient), 1.0
        while loss(solution - length * step) > least and length > 1e-6:
            length /= 2
        solution = solution - length * step
        least = loss(solution)
    return solution


def _logistic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.exp(-np.logaddexp(0, -x)))
