"""Whom a pile shows: groups that are found, named, given to known people, or left out."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from facekit.errors import TrainingError
from facekit.train import pseudo_identities
from facekit.train.pseudo_identities import KnownPeople, find_identities, mean_vectors

_DIM = 32


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def _faces(centres: NDArray[np.floating], sizes: list[int], spread: float = 0.08) -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    return _unit(np.repeat(centres, sizes, axis=0) + spread * rng.normal(size=(sum(sizes), _DIM)))


@pytest.fixture
def centres() -> NDArray[np.float32]:
    return _unit(np.random.default_rng(0).normal(size=(8, _DIM)))


def _known(centres: NDArray[np.floating], names: str = "", heldout: str = "") -> KnownPeople:
    whose = np.repeat(np.arange(len(names)), 4)
    means = mean_vectors(_faces(centres[: len(names)], [4] * len(names)), whose, len(names))
    return KnownPeople(tuple(names), means, np.array([name in heldout for name in names], bool))


def test_each_group_is_one_person_and_small_ones_are_nobody(centres: NDArray[np.float32]) -> None:
    sizes = [6, 5, 4, 3, 2, 1]
    order = np.random.default_rng(2).permutation(sum(sizes))
    truth = np.repeat(np.arange(6), sizes)[order]
    vectors = _faces(centres[:6], sizes)[order]
    found = find_identities(vectors, 0.5, least=3, people=_known(centres))
    assert found.names == tuple(f"pseudo-{number:06d}" for number in (1, 2, 3, 4))
    assert np.array_equal(found.labels, np.where(truth < 4, truth, -1))
    assert (found.known, found.heldout) == (0, 0)
    two = find_identities(vectors, 0.5, least=2, people=_known(centres))
    assert np.array_equal(two.labels, np.where(truth < 5, truth, -1))


def test_known_people_keep_their_names_and_held_out_ones_stay_out(centres: NDArray[np.float32]) -> None:
    sizes = [5, 4, 6, 3]
    vectors, truth = _faces(centres[:4], sizes), np.repeat(np.arange(4), sizes)
    found = find_identities(vectors, 0.5, least=3, people=_known(centres, names="ab", heldout="b"))
    assert found.names == ("pseudo-000001", "a", "pseudo-000002")
    assert np.array_equal(found.labels, np.array([1, -1, 0, 2])[truth])
    assert (found.known, found.heldout) == (1, 4)


def test_two_groups_of_one_known_person_are_one(centres: NDArray[np.float32]) -> None:
    """Two looks of a person, whose own pictures lie between them."""
    looks = _unit(np.stack([centres[0] + centres[1], centres[0] - centres[1]]))
    vectors = np.concatenate([_faces(looks, [4, 4], 0.02), _faces(centres[2:4], [3, 3])])
    people = KnownPeople(("a",), _faces(centres[:1], [1], 0.0), np.zeros(1, bool))
    alone = find_identities(vectors, 0.6, least=3, people=_known(centres))
    assert len(alone.names) == 4
    found = find_identities(vectors, 0.6, least=3, people=people)
    assert found.names[0] == "a"
    assert np.array_equal(found.labels, [0] * 8 + [1] * 3 + [2] * 3)
    assert found.known == 1


@pytest.mark.parametrize("threshold", [0.2, 0.4, 0.6])
def test_a_group_is_a_person_by_the_mean_of_all_pairs_across(threshold: float) -> None:
    """The oracle scores every pair of a group's and a person's pictures."""
    rng = np.random.default_rng(3)
    centres = _unit(rng.normal(size=(6, _DIM)))
    near = _unit(centres + 0.15 * rng.normal(size=centres.shape))
    vectors, theirs = _faces(centres, [5] * 6), _faces(near, [4] * 6, 0.12)
    whose = np.repeat(np.arange(6), 4)
    people = KnownPeople(tuple("abcdef"), mean_vectors(theirs, whose, 6), np.zeros(6, bool))
    found = find_identities(vectors, threshold, least=2, people=people)
    alone = find_identities(vectors, threshold, least=2, people=_known(centres))
    for label in range(len(alone.names)):
        group = np.flatnonzero(alone.labels == label)
        scores = [float((vectors[group] @ theirs[whose == person].T).mean()) for person in range(6)]
        best = int(np.argmax(scores))
        expected = "abcdef"[best] if scores[best] >= threshold else "pseudo"
        assert {found.names[found.labels[row]][:6] for row in group} == {expected}


def test_new_people_take_no_name_that_somebody_has(centres: NDArray[np.float32]) -> None:
    """As when the labels are those of an earlier round."""
    people = KnownPeople(("pseudo-000001",), centres[7:], np.zeros(1, bool))
    found = find_identities(_faces(centres[:2], [3, 3]), 0.5, least=3, people=people)
    assert found.names == ("pseudo-000002", "pseudo-000003")


@pytest.mark.parametrize(("sizes", "people"), [([1] * 6, 0), ([6], 1)])
def test_a_pile_in_which_nothing_groups_is_refused(
    centres: NDArray[np.float32], sizes: list[int], people: int
) -> None:
    vectors = _faces(centres[: len(sizes)], sizes)
    with pytest.raises(
        TrainingError, match=rf"threshold=0.5: {people} people with 3 pictures .* --threshold"
    ):
        find_identities(vectors, 0.5, least=3, people=_known(centres))


def test_more_pairs_than_fit_are_refused(
    centres: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = _faces(centres[:2], [5, 5])
    alike = sum(float(a @ b) >= 0.5 for a, b in combinations(vectors, 2))
    assert alike == 20
    monkeypatch.setattr(pseudo_identities, "_MOST_PAIRS", alike)
    find_identities(vectors, 0.5, least=3, people=_known(centres))
    monkeypatch.setattr(pseudo_identities, "_MOST_PAIRS", alike - 1)
    with pytest.raises(TrainingError, match="more than 19 pairs of the pile reach it"):
        find_identities(vectors, 0.5, least=3, people=_known(centres))


def test_means_are_those_of_each_class() -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    means = mean_vectors(vectors, np.array([2, 0, 2, 2]), 4)
    assert np.allclose(means, [vectors[1], [0, 0, 0], vectors[[0, 2, 3]].mean(0), [0, 0, 0]])
