"""Which faces count, by every policy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekit.errors import MultipleFacesError, SettingError
from facekit.face import Detection
from facekit.policy import select_faces


def detection(x: float, y: float, side: float, confidence: float) -> Detection:
    box = np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2], np.float32)
    return Detection(box, np.zeros((5, 2), np.float32), confidence)


FACES = [detection(50, 50, 60, 0.8), detection(20, 20, 80, 0.7), detection(90, 10, 40, 0.99)]


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [("all", [0, 1, 2]), ("largest", [1]), ("center_largest", [0]), ("highest_score", [2])],
)
def test_policies(policy: Any, chosen: list[int]) -> None:
    # center_largest: 3600 - 0, 6400 - 2 * 1800, 1600 - 2 * 3200
    assert select_faces(FACES, policy, (100, 100)) == tuple(FACES[i] for i in chosen)


def test_policy_error() -> None:
    with pytest.raises(MultipleFacesError, match=r"a\.jpg: 3 faces where one is expected") as caught:
        select_faces(FACES, "error", (100, 100), name="a.jpg")
    assert caught.value.path == "a.jpg"
    assert select_faces(FACES[:1], "error", (100, 100)) == (FACES[0],)


@given(
    st.lists(st.tuples(*[st.floats(1, 99)] * 3, st.floats(0, 1)), max_size=6),
    st.sampled_from(["largest", "center_largest", "highest_score"]),
)
def test_one_of_the_faces_or_none(values: list[tuple[float, ...]], policy: Any) -> None:
    faces = [detection(*value) for value in values]
    chosen = select_faces(faces, policy, (100, 100))
    assert len(chosen) == min(1, len(faces))
    if policy == "largest" and faces:
        assert chosen[0].size == max(face.size for face in faces)
    if policy == "highest_score" and faces:
        assert chosen[0].confidence == max(face.confidence for face in faces)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(SettingError, match="faces: 'biggest' is not one of 'all', 'largest'"):
        select_faces(FACES, "biggest", (100, 100))
