"""Groups of pictures: by whom they show, never chained, the best first, with their reasons."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekit.duplicates import DuplicatePicture, Duplicates, group_pictures
from facekit.errors import NoFaceError
from facekit.face import Face


def face(degrees: float, quality: float = 0.5, size: float = 100.0) -> Face:
    """A face in a world where people differ by an angle."""
    box = np.array([0, 0, size, size], np.float32)
    embedding = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], np.float32)
    return Face(box, np.zeros((5, 2), np.float32), 1.0, quality, embedding)


def picture(name: str, *faces: Face | float, side: int = 200, modified_ns: int = 0) -> DuplicatePicture:
    all_faces = tuple(one if isinstance(one, Face) else face(one) for one in faces)
    return DuplicatePicture(Path(name), all_faces, (side, side), 1000, modified_ns)


def grouped(*pictures: DuplicatePicture, within: float = 45.0) -> list[set[str]]:
    groups = group_pictures(pictures, float(np.cos(np.radians(within))))
    return [{str(path) for path in group} for group in groups]


def test_pictures_of_one_person_are_a_group() -> None:
    pictures = [picture(f"{i}", angle) for i, angle in enumerate([0, 170, 10, 90, 20, 180])]
    assert grouped(*pictures) == [{"0", "2", "4"}, {"1", "5"}]
    assert grouped() == grouped(picture("only", 0)) == []


def test_chains_are_split() -> None:
    """A is like B and B is like C, but A is not like C."""
    assert grouped(picture("a", 0), picture("b", 39), picture("c", 80)) == [{"a", "b"}]


def test_all_faces_must_pair_off() -> None:
    portrait, other = picture("portrait", 0), picture("other", 5)
    both, both_again = picture("both", 2, 90), picture("both again", 92, 4)
    three = picture("three", 1, 91, 180)
    assert grouped(portrait, both, three, other, both_again) == [
        {"portrait", "other"},
        {"both", "both again"},
    ]


def test_two_faces_of_one_picture_are_two_people() -> None:
    """Twins, who look the same: a picture of both is no picture of one, and repeats itself in no way."""
    assert grouped(picture("twins", 0, 1), picture("one", 0.4)) == []
    assert grouped(picture("twins", 0, 1), picture("again", 1, 0)) == [{"twins", "again"}]


def test_a_pair_is_as_alike_as_its_least_alike_people() -> None:
    (group,) = group_pictures([picture("a", 0, 90), picture("b", 95, 20)], 0.7)
    (score,) = group.scores.values()
    assert score == pytest.approx(np.cos(np.radians(20)), abs=1e-6)


def test_scores_of_all_pairs() -> None:
    angles = {"a": 0.0, "b": 7.0, "c": 19.0, "d": 30.0}
    (group,) = group_pictures([picture(name, angle) for name, angle in angles.items()], 0.8)
    assert set(group.scores) == set(combinations(group, 2))
    for (one, other), score in group.scores.items():
        assert score == pytest.approx(np.cos(np.radians(angles[str(one)] - angles[str(other)])), abs=1e-6)
    assert group.similarity == (min(group.scores.values()), max(group.scores.values()))
    at = [np.cos(np.radians(angles["b"] - angles[str(path)])) for path in group]
    assert group.similarity_to(Path("b")) == pytest.approx(at, abs=1e-6)


def test_the_best_comes_first() -> None:
    pictures = [
        picture("blurred", face(0, quality=0.2)),
        picture("good", face(0, quality=0.8), modified_ns=5),
        picture("good copy", face(0, quality=0.8), modified_ns=9),
        picture("large", face(0, quality=0.8), side=300),
        picture("one bad face", face(0, quality=0.9)),
    ]
    (group,) = group_pictures(pictures, 0.5)
    assert [str(path) for path in group] == ["one bad face", "large", "good", "good copy", "blurred"]
    assert group.keep == group[0]
    (pair,) = group_pictures(
        [picture("a", face(0, 0.9), face(90, 0.1)), picture("b", face(0, 0.3), face(90, 0.3))], 0.5
    )
    assert [str(path) for path in pair] == ["b", "a"]


def test_a_group_is_a_sequence_of_paths() -> None:
    (group,) = group_pictures([picture("a", 0), picture("b", 1), picture("c", 2)], 0.5)
    assert len(group) == 3
    assert list(group) == [Path("a"), Path("b"), Path("c")] == group[:]
    assert Path("b") in group
    assert Path("x") not in group
    assert group[-1] == Path("c")
    assert group[1:] == [Path("b"), Path("c")]


def test_says_why() -> None:
    groups = group_pictures(
        [picture("b", face(0, 0.7, 64)), picture("a\n", face(30, 0.6)), picture("c", 80)], 0.7
    )
    error = NoFaceError("c: no face found", path="c")
    found = Duplicates(Path("photos"), tuple(groups), {Path("c"): error}, 0.7, 1e-3, "largest")
    assert str(found).splitlines() == [
        "photos: 1 group at threshold 0.700 (false accept rate 0.001)",
        "2 pictures, similarity 0.866 to 0.866",
        "  b  quality 0.70, face of 64 px, picture of 200 x 200",
        "  'a\\n'  quality 0.60, face of 100 px, picture of 200 x 200",
        "skipped c: no face found",
    ]
    table = json.loads(json.dumps(found.to_dict()))
    assert table["groups"][0]["similarity"] == [0.866, 0.866]
    assert [one["path"] for one in table["groups"][0]["pictures"]] == ["b", "a\n"]
    assert table["skipped"] == {"c": "c: no face found"}
    assert found[:1] == (found[0],)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.integers(0, 359), max_size=3, min_size=1), max_size=14), st.integers(5, 80))
def test_any_pictures(angles: list[list[int]], within: int) -> None:
    threshold = float(np.cos(np.radians(within)))
    groups = group_pictures([picture(f"{i}", *map(float, each)) for i, each in enumerate(angles)], threshold)
    names = [path for group in groups for path in group]
    assert len(names) == len(set(names))
    assert [len(group) for group in groups] == sorted((len(group) for group in groups), reverse=True)
    for group in groups:
        counts = {len(each.faces) for each in group.pictures}
        assert len(counts) == 1
        if all(len(each) == 1 for each in angles):
            assert np.mean(list(group.scores.values())) >= threshold - 1e-5
