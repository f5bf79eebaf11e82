"""What stays of many pictures: against brute force, with ties, and in windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facekit import selection
from facekit.errors import SettingError
from facekit.selection import best, find_repeats, within_quota

Vectors = NDArray[np.float32]


def _unit(vectors: NDArray[np.float64]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _frames(clips: int, each: int, seed: int, noise: float = 0.1) -> Vectors:
    """Clips of so many frames: unit vectors around one that they share."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clips, 1, 16))
    return _unit((centres + noise * rng.normal(size=(clips, each, 16))).reshape(-1, 16))


def _slowly(vectors: Vectors, groups: NDArray[np.int64], quality: Vectors, limit: float) -> list[bool]:
    """Whether each stays: pair by pair, from the best on."""
    exact = vectors.astype(np.float64)
    stays: list[int] = []
    for row in sorted(range(len(groups)), key=lambda row: (-quality[row], row)):
        others = [other for other in stays if groups[other] == groups[row]]
        if all(np.float32(exact[row] @ exact[other]) < limit for other in others):
            stays.append(row)
    return [row in stays for row in range(len(groups))]


@pytest.mark.parametrize("limit", [-1.0, 0.3, 0.85, 0.9, 0.95, 1.0])
def test_near_duplicates_are_those_of_brute_force(limit: float) -> None:
    vectors = _frames(12, 10, seed=0)
    groups = np.repeat(np.arange(4), 30)
    quality = np.random.default_rng(1).integers(0, 5, 120).astype(np.float32)  # with ties
    repeats = find_repeats(vectors, groups, quality, limit)
    assert (repeats < 0).tolist() == _slowly(vectors, groups, quality, limit)
    gone = np.flatnonzero(repeats >= 0)
    better = repeats[gone]
    assert (repeats[better] == -1).all()
    assert (groups[better] == groups[gone]).all()
    assert (quality[better] >= quality[gone]).all()
    assert ((vectors[better] * vectors[gone]).sum(1) >= limit - 1e-6).all()


def test_equal_vectors_are_as_alike_as_1() -> None:
    once = _frames(200, 1, seed=6)
    repeats = find_repeats(np.concatenate([once, once]), np.zeros(400, np.int64), np.ones(400), 1.0)
    assert ((once.astype(np.float64) ** 2).sum(1).astype(np.float32) < 1).any()
    assert repeats.tolist() == [-1] * 200 + list(range(200))


def test_each_clip_leaves_its_best_frame() -> None:
    vectors = _frames(6, 7, seed=2, noise=0.02)
    quality = np.tile(np.arange(7, dtype=np.float32), 6)
    repeats = find_repeats(vectors, np.zeros(42, np.int64), quality, 0.95)
    assert repeats.reshape(6, 7).tolist() == [[7 * clip + 6] * 6 + [-1] for clip in range(6)]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, groups = _frames(20, 10, seed=3), np.repeat([0, 1], 100)
    quality = np.random.default_rng(3).random(200, np.float32)
    whole = find_repeats(vectors, groups, quality, 0.9)
    monkeypatch.setattr(selection, "_BLOCK", 7)
    assert ((find_repeats(vectors, groups, quality, 0.9) < 0) == (whole < 0)).all()


def test_windows_look_back_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_WINDOW", 10)
    # clip 0 on both sides of the edge; clip 2 again three windows later
    one, two, three = _frames(3, 20, seed=4, noise=0.02).reshape(3, 20, 16)
    vectors = np.concatenate([two[:5], one[:10], three[:15], two[5:15]])
    quality = np.arange(40, dtype=np.float32)
    repeats = find_repeats(vectors, np.zeros(40, np.int64), quality, 0.95)
    assert np.flatnonzero(repeats < 0).tolist() == [4, 9, 19, 39]
    assert (repeats[10:15] == 9).all()  # though they are better
    assert (repeats[20:30] == 19).all()


def test_what_has_no_quality_takes_no_part() -> None:
    vectors = np.concatenate([np.zeros((1, 16), np.float32), np.repeat(_frames(1, 1, seed=5), 3, 0)])
    quality = np.array([np.nan, 0.1, np.nan, 0.2], np.float32)
    assert find_repeats(vectors, np.zeros(4, np.int64), quality, 0.9).tolist() == [-1, 3, -1, -1]


def test_nobody_and_one_picture() -> None:
    for number in (0, 1):
        vectors, quality = np.zeros((number, 4), np.float32), np.zeros(number, np.float32)
        assert find_repeats(vectors, np.zeros(number, np.int64), quality, 0.5).tolist() == [-1] * number


def test_bad_groups_are_refused() -> None:
    vectors, quality = _frames(1, 3, seed=6), np.ones(3, np.float32)
    with pytest.raises(SettingError, match="3 vectors, 2 groups and 3 qualities"):
        find_repeats(vectors, np.zeros(2, np.int64), quality, 0.5)
    with pytest.raises(SettingError, match="sort the pictures by group"):
        find_repeats(vectors, np.array([1, 0, 1]), quality, 0.5)


_PICTURES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 3), st.booleans()), min_size=1, max_size=40
)  # score, with ties; person; whether it counts


@given(_PICTURES, st.integers(0, 45))
@settings(deadline=None)
def test_the_best_are_those_of_a_sort(pictures: list[tuple[int, int, bool]], most: int) -> None:
    scores = np.array([score for score, _, _ in pictures], np.float32)
    among = np.array([counts for _, _, counts in pictures])
    scores[~among] = np.nan
    order = sorted(np.flatnonzero(among).tolist(), key=lambda row: (-scores[row], row))
    assert np.flatnonzero(best(scores, most, among)).tolist() == sorted(order[:most])


@given(_PICTURES, st.integers(1, 5), st.integers(1, 20))
@settings(deadline=None)
def test_quotas_are_those_of_a_count(pictures: list[tuple[int, int, bool]], each: int, most: int) -> None:
    scores = np.array([score for score, _, _ in pictures], np.float32)
    people = np.array([person for _, person, _ in pictures])
    among = np.array([counts for _, _, counts in pictures])
    taken: list[int] = []
    for row in sorted(np.flatnonzero(among).tolist(), key=lambda row: (-scores[row], row)):
        if sum(people[other] == people[row] for other in taken) < each:
            taken.append(row)
    within = within_quota(scores, people, each, among)
    assert np.flatnonzero(within).tolist() == sorted(taken)
    assert np.flatnonzero(best(scores, most, within)).tolist() == sorted(taken[:most])
