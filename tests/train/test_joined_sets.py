"""Several labelled sets as one: unions, what is refused, and that no test picture is learnt from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from facekit.errors import SettingError, TrainingError
from facekit.train.probe.examples import TEST, TRAIN, VALIDATION, Examples, Picture, TaskName
from facekit.train.probe.joined import join_examples, never_known


def a_set(name: str, task: TaskName, names: tuple[str, ...], targets: Tensor) -> Examples:
    split = torch.tensor([TRAIN, VALIDATION, TEST], dtype=torch.uint8)
    pictures = [Picture(Path(f"/{name}/{number}.png")) for number in range(3)]
    return Examples(name, task, names, pictures, targets, split)


def test_attributes_are_the_union_of_the_columns() -> None:
    nan = torch.nan
    one = a_set("one", "attributes", ("smile", "hat"), torch.tensor([[1.0, 0], [0, nan], [1, 1]]))
    other = a_set("other", "attributes", ("beard", "smile"), torch.tensor([[0.0, 1], [1, 1], [nan, 0]]))
    joined = join_examples([one, other])
    assert joined.names == ("smile", "hat", "beard")
    assert joined.name == "one + other"
    expected = [[1, 0, nan], [0, nan, nan], [1, 1, nan], [1, nan, 0], [1, nan, 1], [0, nan, nan]]
    torch.testing.assert_close(joined.targets, torch.tensor(expected), equal_nan=True)
    assert joined.split.tolist() == [TRAIN, VALIDATION, TEST] * 2
    assert [picture.path.parent.name for picture in joined.pictures] == ["one"] * 3 + ["other"] * 3
    assert join_examples([one]) is one


def test_classes_of_the_same_names() -> None:
    one = a_set("one", "classes", ("a", "b"), torch.tensor([0, 1, 0]))
    joined = join_examples([one, a_set("two", "classes", ("a", "b"), torch.tensor([1, 1, 1]))])
    assert joined.targets.tolist() == [0, 1, 0, 1, 1, 1]
    with pytest.raises(SettingError, match=r"data=one, two: their names differ \(b, c\); classes are joined"):
        join_examples([one, a_set("two", "classes", ("a", "c"), torch.tensor([1, 1, 1]))])
    with pytest.raises(SettingError, match=r"their names differ \(in their order\)"):
        join_examples([one, a_set("two", "classes", ("b", "a"), torch.tensor([1, 1, 1]))])


def test_points_of_another_scheme_are_refused() -> None:
    one = a_set("one", "landmarks", ("0", "1"), torch.rand(3, 2, 2))
    other = replace(a_set("two", "landmarks", ("0", "1"), torch.rand(3, 2, 2)), mirror=(1, 0))
    with pytest.raises(SettingError, match="their mirror differ"):
        join_examples([one, other])


def test_tasks_and_people_do_not_mix() -> None:
    one = a_set("one", "attributes", ("a",), torch.ones(3, 1))
    with pytest.raises(SettingError, match="labels for attributes and for classes"):
        join_examples([one, a_set("two", "classes", ("a", "b"), torch.tensor([0, 1, 0]))])
    people = [a_set(name, "identities", ("x",), torch.tensor([0, 0, 0])) for name in ("one", "two")]
    with pytest.raises(SettingError, match="people of two sets are others"):
        join_examples(people)


def test_a_picture_that_one_set_tests_with_is_not_learnt_from_in_another() -> None:
    one = a_set("one", "attributes", ("a",), torch.ones(3, 1))
    other = replace(a_set("two", "attributes", ("b",), torch.ones(3, 1)), pictures=one.pictures[::-1])
    told = r"/one/\d\.png: in the (training|test) split of one, and in the (test|training) split of two"
    with pytest.raises(TrainingError, match=told):
        join_examples([one, other])
    same = replace(a_set("two", "attributes", ("b",), torch.ones(3, 1)), pictures=one.pictures)
    assert len(join_examples([one, same])) == 6
    boxes = [Picture(picture.path, (0, 0, 9, 9)) for picture in one.pictures[::-1]]
    with pytest.raises(TrainingError, match=told):  # other faces of the pictures
        join_examples([one, replace(other, pictures=boxes)])


def test_a_picture_that_one_set_learns_from_does_not_choose_in_another() -> None:
    one = a_set("one", "attributes", ("a",), torch.ones(3, 1))
    places = [one.pictures[place] for place in (1, 0, 2)]
    other = replace(a_set("two", "attributes", ("b",), torch.ones(3, 1)), pictures=places)
    told = "1.png: in the validation split of one, and in the training split of two; name its split alike"
    with pytest.raises(TrainingError, match=told):
        join_examples([one, other])


def test_faces_of_one_picture_may_have_other_parts_in_one_set() -> None:
    one = a_set("one", "attributes", ("a",), torch.ones(3, 1))
    faces = [Picture(Path("/one/0.png"), (0, 0, side, side)) for side in (7, 8, 9)]
    other = a_set("two", "attributes", ("b",), torch.ones(3, 1))
    assert len(join_examples([replace(one, pictures=faces), other])) == 6


def test_what_no_training_picture_says_is_named() -> None:
    nan = torch.nan
    one = a_set("one", "attributes", ("smile", "hat"), torch.tensor([[1.0, nan], [0, 1], [1, 1]]))
    assert never_known(one) == ("of no training picture it is known: hat; it is not learnt",)
    other = a_set("two", "attributes", ("hat",), torch.ones(3, 1))
    assert never_known(join_examples([one, other])) == ()
    assert never_known(a_set("one", "classes", ("a", "b"), torch.tensor([0, 1, 0]))) == ()
