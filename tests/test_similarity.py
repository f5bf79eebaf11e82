from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facekit import similarity
from facekit.errors import SettingError
from facekit.similarity import Index, cosine, pair_blocks, pairs_above, top_k


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    vectors = np.asarray(vectors, np.float64)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def random_unit(n: int, d: int, seed: int = 0) -> NDArray[np.float32]:
    return unit(np.random.default_rng(seed).standard_normal((n, d)))


def all_scores(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float32]:
    return np.clip((a.astype(np.float64) @ b.astype(np.float64).T).astype(np.float32), -1, 1)


def brute_top_k(probes: NDArray[Any], vectors: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    scores = all_scores(probes, vectors)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


def brute_pairs(vectors: NDArray[Any], threshold: float) -> list[tuple[int, int, float]]:
    scores = all_scores(vectors, vectors)
    found = [
        (i, j, float(scores[i, j]))
        for i, j in itertools.combinations(range(len(vectors)), 2)
        if float(scores[i, j]) >= threshold
    ]
    return sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1]))


def as_list(pairs: NDArray[np.int64], scores: NDArray[np.float32]) -> list[tuple[int, int, float]]:
    return [(int(i), int(j), float(s)) for (i, j), s in zip(pairs, scores, strict=True)]


def assert_same_ranking(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])


@st.composite
def crowds(draw: st.DrawFn) -> NDArray[np.float32]:
    """Vectors as hard as faces get: clusters tighter than bfloat16 can tell apart, copies, opposites."""
    n, d = draw(st.integers(1, 150)), draw(st.sampled_from([1, 2, 3, 7, 8, 33, 64]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    centres = rng.standard_normal((draw(st.integers(1, 5)), d))
    spread = draw(st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 1.0]))
    vectors = centres[rng.integers(len(centres), size=n)] + spread * rng.standard_normal((n, d))
    vectors[rng.random(n) < 0.1] *= -1
    copies = rng.random(n) < draw(st.sampled_from([0.0, 0.5]))
    vectors[copies] = vectors[rng.integers(n)]
    return unit(vectors)


@pytest.fixture(params=["bfloat16", "float32"])
def small_tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiles of 32 x 32, so that small sets cross their borders; both candidate precisions."""
    monkeypatch.setattr(similarity, "_SIDE", 32)
    monkeypatch.setattr(similarity, "_GROUP", 4)
    monkeypatch.setattr(similarity, "_rough_dtype", lambda device: getattr(torch, request.param))
    return


class TestCosine:
    def test_is_the_cosine_of_vectors_of_any_length(self) -> None:
        a, b = np.array([[3.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 2.0], [5.0, 5.0]])
        np.testing.assert_array_equal(cosine(a, b), np.float32([0.0, 1.0]))

    def test_broadcasts_and_answers_one_pair_with_one_number(self) -> None:
        a = random_unit(4, 9)
        assert float(cosine(a[0], a[1])) == pytest.approx(float(a[0] @ a[1]), abs=1e-6)
        assert cosine(a[:, None], a[None]).shape == (4, 4)
        assert cosine(a, a[0]).dtype == np.float32

    def test_never_leaves_its_range(self) -> None:
        a = random_unit(200, 3)
        assert cosine(a, a).max() <= 1
        assert cosine(a, -a).min() >= -1

    @pytest.mark.parametrize(
        ("a", "b"),
        [
            (np.zeros(3), np.ones(3)),
            (np.full(3, np.nan), np.ones(3)),
            (np.full(3, np.inf), np.ones(3)),
            (np.ones(3), np.ones(4)),
            (np.float32(1), np.ones(4)),
        ],
    )
    def test_refuses_what_has_no_cosine(self, a: Any, b: Any) -> None:
        with pytest.raises(SettingError, match="cosine"):
            cosine(a, b)


@pytest.mark.usefixtures("small_tiles")
class TestTopK:
    @settings(deadline=None, max_examples=60)
    @given(vectors=crowds(), k=st.integers(1, 20), data=st.data())
    def test_is_the_brute_force_ranking(
        self, vectors: NDArray[np.float32], k: int, data: st.DataObject
    ) -> None:
        chosen = np.array(data.draw(st.lists(st.integers(0, len(vectors) - 1), max_size=40)), int)
        probes = unit(vectors[chosen] + data.draw(st.sampled_from([0, 1e-4, 0.3])))
        expected = brute_top_k(probes, vectors, k)
        assert_same_ranking(top_k(probes, vectors, k), expected)
        assert_same_ranking(Index(vectors).top_k(probes, k), expected)

    def test_finds_more_than_a_tile_holds(self) -> None:
        vectors = random_unit(300, 16)
        assert_same_ranking(top_k(vectors[:70], vectors, 100), brute_top_k(vectors[:70], vectors, 100))

    def test_scores_that_only_rise_from_block_to_block(self) -> None:
        angles = np.linspace(1.5, 0, 400)
        vectors = unit(np.stack([np.cos(angles), np.sin(angles)], 1))
        probe = np.float32([[1, 0]])
        assert_same_ranking(top_k(probe, vectors, 7), brute_top_k(probe, vectors, 7))

    def test_equal_vectors_come_in_order(self) -> None:
        vectors = np.repeat(random_unit(1, 24), 200, 0)
        scores, indices = top_k(vectors[:3], vectors, 5)
        assert indices.tolist() == [[0, 1, 2, 3, 4]] * 3
        assert scores.dtype == np.float32
        assert indices.dtype == np.int64

    def test_k_beyond_the_count_and_empty_sides(self) -> None:
        vectors, none = random_unit(3, 8), np.empty((0, 8), np.float32)
        assert top_k(vectors, vectors, 10)[1].shape == (3, 3)
        for probes, gallery, shape in [
            (none, vectors, (0, 2)),
            (vectors, none, (3, 0)),
            (none, none, (0, 0)),
        ]:
            assert [part.shape for part in top_k(probes, gallery, 2)] == [shape] * 2
            assert [part.shape for part in Index(gallery).top_k(probes, 2)] == [shape] * 2


@pytest.mark.usefixtures("small_tiles")
class TestPairs:
    @settings(deadline=None, max_examples=60)
    @given(vectors=crowds(), data=st.data())
    def test_are_the_brute_force_pairs(self, vectors: NDArray[np.float32], data: st.DataObject) -> None:
        scores = all_scores(vectors, vectors).ravel()  # a threshold that is a score is inclusive
        threshold = data.draw(st.one_of(st.floats(-1, 1), st.sampled_from([float(s) for s in scores])))
        assert as_list(*pairs_above(vectors, threshold)) == brute_pairs(vectors, threshold)

    def test_blocks_hold_the_same_pairs_and_stay_small(self) -> None:
        vectors = np.repeat(random_unit(5, 12), 40, 0)
        blocks = list(pair_blocks(vectors, 0.99))
        assert max(len(scores) for _, scores in blocks) <= 32 * 32
        assert min(len(scores) for _, scores in blocks) > 0
        for pairs, _ in blocks:
            assert pairs.tolist() == sorted(pairs.tolist())
        together = [pair for block in blocks for pair in as_list(*block)]
        assert sorted(together) == sorted(brute_pairs(vectors, 0.99))

    def test_none_found(self) -> None:
        for vectors in (np.empty((0, 4), np.float32), random_unit(1, 4), np.eye(100, dtype=np.float32)):
            pairs, scores = pairs_above(vectors, 0.5)
            assert (pairs.shape, scores.shape) == ((0, 2), (0,))
            assert (pairs.dtype, scores.dtype) == (np.int64, np.float32)

    def test_a_threshold_between_two_float32(self) -> None:
        vectors = unit(np.array([[1.0, 0.0], [0.6, 0.8]]))
        score = float(pairs_above(vectors, 0.5)[1][0])
        assert len(pairs_above(vectors, score)[0]) == 1
        assert len(pairs_above(vectors, float(np.nextafter(score, 2)))[0]) == 0


class TestInputs:
    def test_every_kind_of_array_gives_the_same(self, tmp_path: Path) -> None:
        vectors = random_unit(300, 20).astype(np.float16)
        np.save(tmp_path / "v.npy", vectors)
        expected = brute_top_k(vectors, vectors, 3)
        frozen = vectors.copy()
        frozen.flags.writeable = False
        for same in (
            np.load(tmp_path / "v.npy", mmap_mode="r"),
            frozen,
            np.asfortranarray(vectors),
            vectors[::-1].copy()[::-1],
            vectors.astype(np.float64),
            torch.from_numpy(vectors),
            torch.from_numpy(vectors.astype(np.float32)).requires_grad_(),
        ):
            assert_same_ranking(top_k(same, same, 3), expected)
            assert_same_ranking(Index(same).top_k(vectors, 3), expected)
            assert as_list(*pairs_above(same, 0.6)) == brute_pairs(vectors, 0.6)

    def test_inputs_are_left_as_they_were(self) -> None:
        vectors = random_unit(100, 8)
        before = vectors.copy()
        top_k(vectors, vectors, 3)
        pairs_above(vectors, 0.1)
        np.testing.assert_array_equal(vectors, before)

    def test_bad_rows_are_named(self) -> None:
        for bad, length in [(np.nan, "nan"), (np.inf, "inf"), (0.0, "0"), (7.0, "19.8")]:
            vectors = random_unit(5000, 8)
            vectors[4321] = bad
            for call in (
                lambda v: top_k(random_unit(1, 8), v, 1),
                lambda v: Index(v),
                lambda v: pairs_above(v, 0.5),
            ):
                with pytest.raises(SettingError, match=rf"^vectors\[4321\] has length {length}[^\n]*$"):
                    call(vectors)
            with pytest.raises(SettingError, match=r"probes\[4321\]"):
                top_k(vectors, random_unit(2, 8), 1)

    @pytest.mark.parametrize(
        ("vectors", "message"),
        [
            (np.ones(4, np.float32), r"shape \(4,\)"),
            (np.ones((2, 2, 2), np.float32), r"shape \(2, 2, 2\)"),
            (np.eye(3, dtype=np.int64), "int64"),
            (torch.eye(3, dtype=torch.int32), "int32"),
            (np.array([["a"]]), "U1"),
            ([[1.0]], "list"),
        ],
    )
    def test_bad_arrays(self, vectors: Any, message: str) -> None:
        for call in (lambda: Index(vectors), lambda: top_k(random_unit(1, 3), vectors, 1)):
            with pytest.raises(SettingError, match=message):
                call()

    def test_bad_settings(self) -> None:
        vectors = random_unit(3, 8)
        with pytest.raises(SettingError, match="k is 0"):
            top_k(vectors, vectors, 0)
        with pytest.raises(SettingError, match="4 dimensions and vectors 8"):
            Index(vectors).top_k(random_unit(2, 4), 1)
        with pytest.raises(SettingError, match="threshold is nan"):
            pair_blocks(vectors, float("nan"))


class TestExactness:
    """At the real tile size, where rounding would change the answer if it could."""

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    def test_near_copies_that_bfloat16_cannot_order(
        self, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(similarity, "_rough_dtype", lambda device: dtype)
        rng = np.random.default_rng(3)
        vectors = unit(random_unit(1, 512) + 1e-4 * rng.standard_normal((3000, 512)))
        vectors[rng.integers(0, 3000, 1000)] = vectors[17]
        assert_same_ranking(top_k(vectors[:50], vectors, 10), brute_top_k(vectors[:50], vectors, 10))
        scores = all_scores(vectors, vectors)
        threshold = float(np.partition(scores[np.triu_indices(3000, 1)], -3000)[-3000])
        pairs, found = pairs_above(vectors, threshold)
        i, j = np.triu(scores >= threshold, 1).nonzero()
        assert len(pairs) == len(i)
        order = np.lexsort((j, i, -scores[i, j]))
        np.testing.assert_array_equal(pairs, np.stack([i, j], 1)[order])
        np.testing.assert_array_equal(found, scores[i, j][order])

    def test_rounding_that_conspires(self) -> None:
        # The components lie half way between two bfloat16, so that every error has the same sign, and
        # the probe's are equal: the bound of the error is reached, and the worse vectors look better.
        up, down = (1 + 2**-8 + 2**-18) / 16, (1 + 2**-8 - 2**-18) / 16
        vectors = np.zeros((4096, 256), np.float32)
        vectors[::2, :252] = np.repeat([down, -up], 126)
        vectors[1::2, :252] = np.repeat([up, -down], 126)
        vectors[:, 252] = 0.02 * (-1.0) ** np.arange(4096)  # what makes the even ones better
        vectors[:, 253] = np.sqrt(1 - (vectors.astype(np.float64) ** 2).sum(1))
        probe = np.zeros((1, 256), np.float32)
        probe[0, :252], probe[0, 252] = ((1 - 0.05**2) / 252) ** 0.5, 0.05
        scores = all_scores(probe, vectors)[0]
        rounded = torch.from_numpy(vectors).bfloat16() @ torch.from_numpy(probe[0]).bfloat16()
        assert scores[::2].min() > scores[1::2].max()
        assert rounded[::2].max() < rounded[1::2].min()
        assert_same_ranking(top_k(probe, vectors, 3), brute_top_k(probe, vectors, 3))
        both = np.concatenate([probe, vectors[:2]])
        assert (0, 1, float(scores[0])) in as_list(*pairs_above(both, float(scores[0])))

    def test_a_score_depends_on_its_two_vectors_alone(self) -> None:
        vectors = random_unit(3000, 512)
        pairs, scores = pairs_above(vectors, 0.15)
        again, others = top_k(vectors[pairs[:, 0]], vectors[pairs[:, 1]], 1), []
        for (i, j), score in zip(pairs[:50], scores, strict=False):
            others.append(float(top_k(vectors[j : j + 1], vectors[i : i + 1], 1)[0][0, 0]) == score)
        assert all(others)
        assert np.all(again[0][:, 0] >= scores)

    def test_what_a_product_in_low_precision_would_hide(self) -> None:
        torch.set_float32_matmul_precision("medium")
        try:
            vectors = random_unit(3000, 64)
            assert_same_ranking(top_k(vectors[:64], vectors, 5), brute_top_k(vectors[:64], vectors, 5))
        finally:
            torch.set_float32_matmul_precision("highest")


@pytest.mark.gpu
class TestGPU:
    def test_gives_what_the_cpu_gives(self) -> None:
        rng = np.random.default_rng(1)
        centres = random_unit(3000, 512)
        vectors = unit(centres[rng.integers(0, 3000, 30000)] + 0.04 * rng.standard_normal((30000, 512)))
        vectors[:300] = vectors[300]
        probes = unit(vectors[::100] + 0.02 * rng.standard_normal((300, 512)))
        for given_as in (vectors, torch.from_numpy(vectors).cuda()):
            assert_same_ranking(top_k(probes, given_as, 7, device="cuda"), top_k(probes, vectors, 7))
            index = Index(given_as, device="cuda")
            assert_same_ranking(index.top_k(probes, 7), top_k(probes, vectors, 7))
            assert as_list(*index.pairs_above(0.6)) == as_list(*pairs_above(vectors, 0.6))

    def test_single_probes_and_odd_sizes(self) -> None:
        vectors = random_unit(70001, 130)
        index = Index(vectors, device="cuda")
        for count in (1, 3, 65):
            assert_same_ranking(index.top_k(vectors[:count], 5), brute_top_k(vectors[:count], vectors, 5))
