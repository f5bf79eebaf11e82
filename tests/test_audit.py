"""The audit of labels, on made-up clusters in which it is known what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from facekit.audit import Audit, Limits, audit_labels, find_resemblances
from facekit.errors import EvaluationError

DIM = 128
SMALL = Limits(0.15, 0.25, 0.4, 0.6)


def faces(sizes: list[int], *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """People with so many pictures, alike at about 0.6, strangers at about 0."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    centres = rng.standard_normal((len(sizes), DIM))
    vectors = centres[labels] + 0.8 * rng.standard_normal((len(labels), DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def rows(found: Audit) -> list[int]:
    return sorted(doubt.row for doubt in found.doubts)


def test_nothing_is_wrong_with_clean_labels() -> None:
    found = audit_labels(*faces([6] * 80))
    assert found.doubts == ()
    assert found.two_names == ()


def test_moved_pictures_are_found_and_sent_home() -> None:
    vectors, truth = faces([6] * 80)
    labels = truth.copy()
    moved = np.random.default_rng(1).choice(len(truth), 24, replace=False)
    labels[moved] = (truth[moved] + 7) % 80
    found = audit_labels(vectors, labels)
    assert rows(found) == sorted(moved.tolist())
    assert all(doubt.suggestion == truth[doubt.row] for doubt in found.doubts)
    assert all(doubt.person == labels[doubt.row] for doubt in found.doubts)
    certain = [doubt.other - doubt.own for doubt in found.doubts]
    assert certain == sorted(certain, reverse=True)


def test_similarities_are_those_of_a_plain_loop() -> None:
    vectors, labels = faces([6] * 80)
    labels[0] = 5
    (doubt,) = audit_labels(vectors, labels).doubts

    def like(person: int) -> float:
        centre = vectors[[row for row in np.flatnonzero(labels == person) if row != doubt.row]].sum(0)
        return float(vectors[doubt.row] @ centre / np.linalg.norm(centre))

    assert doubt.own == pytest.approx(like(5), abs=1e-4)
    assert doubt.other == pytest.approx(max(like(person) for person in range(80) if person != 5), abs=1e-4)


def test_of_two_pictures_that_differ_the_one_with_a_home_elsewhere_goes() -> None:
    """A person with one picture got one of another's: only the latter can be placed."""
    vectors, truth = faces([1] * 40 + [6] * 60)
    labels = truth.copy()
    intruder = int(np.flatnonzero(truth == 70)[0])
    labels[intruder] = 3
    found = audit_labels(vectors, labels)
    assert rows(found) == [intruder]
    assert found.doubts[0].suggestion == 70


def test_a_single_picture_is_never_mislabelled_but_may_be_somebody_elses_second_name() -> None:
    vectors, truth = faces([6] * 80)
    labels = truth.copy()
    labels[0] = 80  # a name of its own
    found = audit_labels(vectors, labels)
    assert found.doubts == ()
    assert [(pair.person, pair.other) for pair in found.two_names] == [(80, 0)]


def test_strangers_among_several_pictures_are_nobody_here() -> None:
    """By the limits, 1 of 10 of them goes unnoticed, and some look like somebody by chance."""
    vectors, labels = faces([6] * 80 + [1] * 40)
    strangers = np.flatnonzero(labels >= 80)
    labels[strangers] -= 80
    found = audit_labels(vectors, labels)
    assert set(rows(found)) <= set(strangers.tolist())
    assert 32 <= len(found.doubts) < 40
    assert sum(doubt.suggestion is None for doubt in found.doubts) > 20


def test_one_person_under_two_names() -> None:
    vectors, truth = faces([6] * 80)
    labels = truth.copy()
    labels[np.flatnonzero(truth == 4)[:2]] = 80
    found = audit_labels(vectors, labels)
    assert found.doubts == ()
    assert [(pair.person, pair.other) for pair in found.two_names] == [(80, 4)]  # the smaller first
    assert found.two_names[0].similarity > 0.6


def test_where_everything_is_wrong_one_is_spared() -> None:
    """The name may be that of one of them; it then shows as a second name of that one."""
    vectors, truth = faces([6] * 80)
    labels = truth.copy()
    strays = [int(np.flatnonzero(truth == person)[0]) for person in range(10, 18)]
    labels[strays] = 80
    found = audit_labels(vectors, labels)
    assert len(found.doubts) == len(strays) - 1
    assert set(rows(found)) < set(strays)
    (spared,) = set(strays) - set(rows(found))
    assert [(pair.person, pair.other) for pair in found.two_names] == [(80, truth[spared])]


def test_two_people_are_judged_by_the_limits_that_are_given() -> None:
    vectors, truth = faces([8, 8])
    labels = truth.copy()
    labels[0] = 1
    found = audit_labels(vectors, labels, limits=SMALL)
    assert rows(found) == [0]
    assert found.doubts[0].suggestion == 0
    assert found.limits == SMALL
    with pytest.raises(EvaluationError, match="too few to measure"):
        audit_labels(vectors, labels)


def test_the_order_of_pictures_makes_no_difference() -> None:
    vectors, labels = faces([1, 2, 3, 6] * 25)
    labels = np.where(np.arange(len(labels)) % 17 == 0, (labels + 30) % 100, labels)
    order = np.random.default_rng(2).permutation(len(labels))
    plain, mixed = audit_labels(vectors, labels), audit_labels(vectors[order], labels[order])
    assert rows(plain)
    assert rows(plain) == sorted(int(order[row]) for row in rows(mixed))


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, labels = faces([6] * 80)
    labels[::13] = (labels[::13] + 7) % 80
    whole = audit_labels(vectors, labels)
    monkeypatch.setattr("facekit.audit._BLOCK", 7)
    assert rows(audit_labels(vectors, labels)) == rows(whole) != []


def test_people_who_are_in_another_set() -> None:
    vectors, labels = faces([6] * 20)
    mine, theirs = labels < 12, (labels >= 10) & (np.arange(len(labels)) % 2 == 0)
    mine[(labels >= 10) & theirs] = False
    found = find_resemblances(vectors[mine], labels[mine], vectors[theirs], labels[theirs], threshold=0.6)
    assert sorted((pair.person, pair.other) for pair in found) == [(10, 10), (11, 11)]
    assert found[0].similarity >= found[1].similarity


@pytest.mark.parametrize(
    ("labels", "problem"), [([0, 1], "one label a row"), ([0, 0, 0], "one person"), ([], "one label a row")]
)
def test_labels_that_cannot_be_judged(labels: list[int], problem: str) -> None:
    with pytest.raises(EvaluationError, match=problem):
        audit_labels(np.eye(3, dtype=np.float32), np.array(labels, np.int64), limits=SMALL)
