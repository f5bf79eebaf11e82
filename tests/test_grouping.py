from __future__ import annotations

import itertools
import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facekit.errors import SettingError
from facekit.grouping import group_pairs

Matrix = NDArray[np.float64]


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def pairs_of(similarity: Matrix, threshold: float) -> tuple[NDArray[np.int64], Matrix]:
    i, j = np.triu_indices(len(similarity), 1)
    kept = similarity[i, j] >= threshold
    return np.stack([i, j], 1)[kept], similarity[i, j][kept]


def agglomerate(similarity: Matrix, threshold: float) -> list[tuple[int, ...]]:
    """Average linkage as the textbooks define it: merge the two nearest of all, one at a time."""
    groups = [[item] for item in range(len(similarity))]
    while True:
        means = {
            (a, b): similarity[np.ix_(groups[a], groups[b])].mean()
            for a, b in itertools.combinations(range(len(groups)), 2)
        }
        best = max(means, key=lambda ab: means[ab], default=None)
        if best is None or means[best] < threshold - 1e-9:
            return in_order(groups)
        groups[best[0]] += groups.pop(best[1])


def in_order(groups: Any) -> list[tuple[int, ...]]:
    kept = [tuple(sorted(int(item) for item in group)) for group in groups if len(group) > 1]
    return sorted(kept, key=lambda group: (-len(group), group[0]))


@st.composite
def faces(draw: st.DrawFn) -> tuple[NDArray[np.float32], float]:
    n, d = draw(st.integers(1, 24)), draw(st.integers(2, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    centres = rng.standard_normal((draw(st.integers(1, 6)), d))
    vectors = centres[rng.integers(len(centres), size=n)] + draw(st.floats(0.05, 2)) * rng.standard_normal(
        (n, d)
    )
    return unit(vectors), draw(st.floats(0.05, 0.95))


class TestAverageLinkage:
    @settings(deadline=None, max_examples=80)
    @given(faces())
    def test_with_vectors_is_the_clustering_of_the_full_matrix(
        self, drawn: tuple[NDArray[np.float32], float]
    ) -> None:
        vectors, threshold = drawn
        similarity = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
        pairs, scores = pairs_of(similarity, threshold)
        groups = group_pairs(len(vectors), pairs, scores, threshold, vectors=vectors)
        assert groups == agglomerate(similarity, threshold)

    @settings(deadline=None, max_examples=80)
    @given(faces(), st.sampled_from([0.0, -1.0, -math.inf]))
    def test_without_vectors_what_is_not_given_counts_as_missing(
        self, drawn: tuple[NDArray[np.float32], float], missing: float
    ) -> None:
        vectors, threshold = drawn
        similarity = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
        pairs, scores = pairs_of(similarity, threshold)
        groups = group_pairs(len(vectors), pairs, scores, threshold, missing=missing)
        assert groups == agglomerate(np.where(similarity >= threshold, similarity, missing), threshold)

    @settings(deadline=None, max_examples=40)
    @given(faces(), st.data())
    def test_keeps_apart_what_must_be(
        self, drawn: tuple[NDArray[np.float32], float], data: st.DataObject
    ) -> None:
        vectors, threshold = drawn
        items = st.integers(0, len(vectors) - 1)
        apart = data.draw(st.lists(st.tuples(items, items).filter(lambda ij: ij[0] != ij[1]), max_size=8))
        similarity = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
        pairs, scores = pairs_of(similarity, threshold)
        cannot_link = np.array(apart, np.int64).reshape(-1, 2)
        groups = group_pairs(len(vectors), pairs, scores, threshold, vectors=vectors, cannot_link=cannot_link)
        for i, j in apart:
            similarity[i, j] = similarity[j, i] = -math.inf
        assert groups == agglomerate(similarity, threshold)

    def test_is_what_scipy_finds(self) -> None:
        hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
        rng = np.random.default_rng(4)
        centres = rng.standard_normal((40, 16))
        vectors = unit(centres[rng.integers(40, size=400)] + 0.9 * rng.standard_normal((400, 16)))
        similarity = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
        tree = hierarchy.linkage(1 - similarity[np.triu_indices(400, 1)], "average")
        for threshold in (0.3, 0.5, 0.7):
            label = hierarchy.fcluster(tree, 1 - threshold, "distance")
            expected = in_order([np.flatnonzero(label == one) for one in np.unique(label)])
            found = group_pairs(400, *pairs_of(similarity, threshold), threshold, vectors=vectors)
            assert found == expected
            assert len(found) > 10


class TestRule:
    def test_a_chain_is_split_where_its_ends_are_unlike(self) -> None:
        pairs, scores = np.array([[0, 1], [1, 2]]), np.array([0.7, 0.6])
        assert group_pairs(3, pairs, scores, 0.5) == [(0, 1)]
        long = np.stack([np.arange(99), np.arange(1, 100)], 1)
        assert max(map(len, group_pairs(100, long, np.full(99, 0.6), 0.5))) == 2

    def test_one_weak_pair_does_not_split_a_group(self) -> None:
        pairs = np.array([[0, 1], [0, 2], [1, 2], [0, 3], [1, 3]])
        scores = np.array([0.8, 0.8, 0.8, 0.7, 0.7])  # 2 and 3 are not given
        assert group_pairs(4, pairs, scores, 0.45) == [(0, 1, 2, 3)]
        assert group_pairs(4, pairs, scores, 0.45, missing=-math.inf) == [(0, 1, 2)]

    @settings(deadline=None, max_examples=40)
    @given(faces())
    def test_holds_in_every_group_and_between_no_two(self, drawn: tuple[NDArray[np.float32], float]) -> None:
        vectors, threshold = drawn
        similarity = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
        groups = group_pairs(len(vectors), *pairs_of(similarity, threshold), threshold, vectors=vectors)
        items = [item for group in groups for item in group]
        assert len(items) == len(set(items))
        for group in groups:
            i, j = np.triu_indices(len(group), 1)
            assert similarity[np.ix_(group, group)][i, j].mean() >= threshold - 1e-6
        alone = [(item,) for item in range(len(vectors)) if item not in items]
        for a, b in itertools.combinations(groups + alone, 2):
            assert similarity[np.ix_(a, b)].mean() < threshold + 1e-6

    @settings(deadline=None, max_examples=40)
    @given(faces(), st.randoms(use_true_random=False))
    def test_neither_order_nor_numbering_matters(
        self, drawn: tuple[NDArray[np.float32], float], random: Any
    ) -> None:
        vectors, threshold = drawn
        similarity = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
        pairs, scores = pairs_of(similarity, threshold)
        expected = group_pairs(len(vectors), pairs, scores, threshold)
        order = np.array(random.sample(range(len(pairs)), len(pairs)), int)
        assert group_pairs(len(vectors), pairs[order, ::-1], scores[order], threshold) == expected
        new = np.array(random.sample(range(len(vectors)), len(vectors)), int)
        renumbered = group_pairs(len(vectors), new[pairs], scores, threshold)
        assert renumbered == in_order([new[list(group)] for group in expected])

    def test_a_score_at_the_threshold_counts(self) -> None:
        pairs = np.array([[0, 1], [0, 2], [1, 2]])
        assert group_pairs(3, pairs, np.full(3, 0.1), 0.1) == [(0, 1, 2)]
        assert group_pairs(3, pairs, np.full(3, 0.1), 0.1001) == []

    def test_of_a_pair_given_twice_the_lowest_score_counts(self) -> None:
        pairs, scores = np.array([[0, 1], [1, 0]]), np.array([0.4, 0.9])
        assert group_pairs(2, pairs, scores, 0.5) == []
        assert group_pairs(2, pairs, scores, 0.3) == [(0, 1)]

    def test_nothing_to_group(self) -> None:
        nothing = np.empty((0, 2), np.int64), np.empty(0)
        assert group_pairs(0, *nothing, 0.5) == []
        assert group_pairs(5, *nothing, 0.5, vectors=np.eye(5), cannot_link=np.array([[0, 1]])) == []

    def test_the_largest_come_first(self) -> None:
        pairs = np.array([[7, 8], [0, 9], [2, 3], [2, 4], [3, 4]])
        assert group_pairs(10, pairs, np.ones(5), 0.5) == [(2, 3, 4), (0, 9), (7, 8)]


class TestScale:
    """Seconds of processor time, generous: what is quadratic in the wrong place takes minutes."""

    def test_many_small_groups(self) -> None:
        rng = np.random.default_rng(0)
        i, j = np.triu_indices(10, 1)
        pairs = (np.stack([i, j], 1)[None] + 10 * np.arange(2000)[:, None, None]).reshape(-1, 2)
        noise = rng.choice(20_000, (5000, 2))
        noise = noise[noise[:, 0] // 10 != noise[:, 1] // 10]
        both = rng.permutation(20_000)[np.concatenate([pairs, noise])]
        scores = np.concatenate([rng.uniform(0.6, 0.9, len(pairs)), rng.uniform(0.5, 0.6, len(noise))])
        start = time.process_time()
        groups = group_pairs(20_000, both, scores, 0.5)
        assert time.process_time() - start < 5
        assert [len(group) for group in groups] == [10] * 2000

    def test_copies_and_a_face_that_all_resemble_most(self) -> None:
        i, j = np.triu_indices(400, 1)
        pairs = np.stack([i, j], 1)
        start = time.process_time()
        for scores in (np.ones(len(pairs)), 0.9 - 0.3 * (i + j) / 800):
            assert group_pairs(400, pairs, scores, 0.5) == [tuple(range(400))]
        assert time.process_time() - start < 5

    @pytest.mark.slow
    def test_a_hundred_thousand_items_and_a_million_pairs(self) -> None:
        rng = np.random.default_rng(0)
        pairs = rng.choice(100_000, (1_000_000, 2))
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]  # one component, all but a few items
        start = time.process_time()
        groups = group_pairs(100_000, pairs, rng.uniform(0.5, 0.9, len(pairs)), 0.5)
        assert time.process_time() - start < 60
        assert sum(map(len, groups)) > 50_000


class TestInputs:
    @pytest.mark.parametrize(
        ("pairs", "scores", "extra", "message"),
        [
            ([[0, 0]], [0.9], {}, r"pairs\[0\] is \[0, 0\]"),
            ([[0, 1], [0, 3]], [0.9, 0.9], {}, r"pairs\[1\] is \[0, 3\]"),
            ([[0, -1]], [0.9], {}, r"pairs\[0\] is \[0, -1\]"),
            ([[0, 1, 2]], [0.9], {}, r"pairs is int64 of shape \(1, 3\)"),
            ([[0.0, 1.0]], [0.9], {}, "pairs is float64"),
            ([[0, 1]], [math.nan], {}, "scores"),
            ([[0, 1]], [0.9, 0.9], {}, "scores"),
            ([[0, 1]], [0.9], {"missing": 0.5}, "missing is 0.5"),
            ([[0, 1]], [0.9], {"vectors": np.eye(2)}, r"vectors has shape \(2, 2\)"),
            ([[0, 1]], [0.9], {"cannot_link": np.array([[1, 1]])}, r"cannot_link\[0\]"),
        ],
    )
    def test_bad_ones_are_named(self, pairs: Any, scores: Any, extra: dict[str, Any], message: str) -> None:
        with pytest.raises(SettingError, match=message) as caught:
            group_pairs(3, np.array(pairs), np.array(scores), 0.5, **extra)
        assert "\n" not in str(caught.value)

    def test_are_left_as_they_were(self) -> None:
        vectors, pairs = unit(np.ones((3, 4))), np.array([[0, 1], [1, 2]])
        before = vectors.copy()
        assert group_pairs(3, pairs, np.ones(2), 0.5, vectors=vectors) == [(0, 1, 2)]
        np.testing.assert_array_equal(vectors, before)
