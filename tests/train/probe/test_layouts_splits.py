"""Splits that a set does not name are drawn: the same ones always, of whole people, or of every class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facekit.train.probe.examples import TEST, TRAIN, VALIDATION
from facekit.train.probe.layouts.splits import complete_split


def test_named_splits_stay() -> None:
    named = [TRAIN, VALIDATION, TEST, TRAIN, TEST]
    assert complete_split(named).tolist() == named


def test_only_training_rows_are_drawn_for_validation() -> None:
    named = [TRAIN, TEST] * 500
    split = complete_split(named)
    assert (split[1::2] == TEST).all()
    assert (split[::2] == VALIDATION).sum() == 50
    assert (split[::2] == TEST).sum() == 0


def test_a_fifth_tests_and_a_tenth_of_the_rest_validates() -> None:
    split = complete_split([TRAIN] * 1000)
    assert [(split == part).sum().item() for part in (TRAIN, VALIDATION, TEST)] == [720, 80, 200]
    assert torch.equal(split, complete_split([TRAIN] * 1000))


def test_each_class_gives_its_share() -> None:
    classes = ["many"] * 500 + ["few"] * 10 + ["two"] * 2 + ["one"]
    split = complete_split([TRAIN] * len(classes), classes=classes).numpy()
    of = {name: split[np.array(classes) == name] for name in set(classes)}
    assert (of["many"] == TEST).sum() == 100
    assert (of["many"] == VALIDATION).sum() == 40
    assert (of["few"] == TEST).sum() == 2
    assert (of["two"] == TEST).sum() == 1
    assert (of["one"] == TRAIN).all()


def test_the_order_of_rows_does_not_sort_the_splits() -> None:
    split = complete_split([TRAIN] * 1000)
    assert 60 < (split[:400] == TEST).sum() < 100


@pytest.mark.parametrize("count", [3, 11, 60])
def test_groups_are_never_divided_and_never_all_taken(count: int) -> None:
    generator = np.random.default_rng(count)
    groups = generator.integers(count, size=600).tolist()
    split = complete_split([TRAIN] * len(groups), groups=groups).numpy()
    parts = [set(np.array(groups)[split == part]) for part in (TRAIN, VALIDATION, TEST)]
    assert parts[0].isdisjoint(parts[1] | parts[2])
    assert parts[1].isdisjoint(parts[2])
    assert parts[0]
    assert parts[2]
    if count == 60:
        assert 120 <= (split == TEST).sum() <= 150
        assert 45 <= (split == VALIDATION).sum() <= 75


def test_as_many_people_as_pairs_take() -> None:
    people = [row // 3 for row in range(36)]
    split = complete_split([TRAIN] * 36, groups=people, fewest=2)
    assert [len({people[row] for row in (split == part).nonzero()[:, 0]}) for part in range(3)] == [7, 2, 3]
    few = complete_split([TRAIN] * 9, groups=[row // 3 for row in range(9)], fewest=2)
    assert torch.bincount(few.long()).tolist() == [3, 3, 3]


def test_one_person_alone_is_divided_all_the_same() -> None:
    split = complete_split([TRAIN] * 100, groups=["same"] * 100)
    assert (split == TEST).sum() == 20
