"""Which of the faces in a picture count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

import numpy as np

from facekit.errors import MultipleFacesError, SettingError
from facekit.face import Detection, Face

__all__ = ["FacePolicy", "check_policy", "select_faces", "several_faces"]

FacePolicy = Literal["all", "largest", "center_largest", "highest_score", "error"]
"""Which faces of a picture count: all; the largest; the largest near the centre (by its area less twice the
squared distance of the centres, as facenet-pytorch has it); the most confident; or an error if several."""

_Found = TypeVar("_Found", Detection, Face)


def select_faces(
    faces: Sequence[_Found], policy: FacePolicy, size: tuple[int, int], *, name: str = "the picture"
) -> tuple[_Found, ...]:
    """Applies a policy to the faces of one picture.

    Args:
        faces: in any order, which is kept.
        policy: see :data:`FacePolicy`.
        size: (height, width) of the picture.
        name: of the picture, for the error.

    Returns:
        All faces for ``"all"``, else at most one; empty where there is none.

    Raises:
        MultipleFacesError: several faces, and the policy is ``"error"``.
        SettingError: the policy is not known.
    """
    check_policy(policy)
    if policy == "error" and len(faces) > 1:
        raise several_faces(len(faces), name)
    if policy in ("all", "error") or not faces:
        return tuple(faces)
    centre = np.array([size[1], size[0]]) / 2

    def rank(face: _Found) -> float:
        if policy == "highest_score":
            return face.confidence
        if policy == "largest":
            return face.size
        offset = (face.box[:2] + face.box[2:]) / 2 - centre
        return face.size**2 - 2.0 * float(offset @ offset)

    return (max(faces, key=rank),)


def check_policy(policy: str) -> None:
    """Raises SettingError where the policy is not known."""
    if policy not in get_args(FacePolicy):
        names = ", ".join(map(repr, get_args(FacePolicy)))
        raise SettingError(f"faces: {policy!r} is not one of {names}")


def several_faces(count: int, name: str) -> MultipleFacesError:
    """The error for a picture that was to show one face."""
    remedy = "choose one by faces='largest', or crop the picture"
    return MultipleFacesError(f"{name}: {count} faces where one is expected; {remedy}", path=name)
