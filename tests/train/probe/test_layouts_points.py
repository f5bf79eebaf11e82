"""Points: the schemes' mirrors on faces drawn from what the schemes say, and squares around faces."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from facekit.errors import TrainingError
from facekit.train.probe.layouts.points import SCHEMES, in_square, square_around


def _arc(
    centre: tuple[float, float], radii: tuple[float, float], start: float, end: float, count: int
) -> NDArray:
    """Points of an ellipse, from one angle to another in degrees; 0 is to the right, 90 down."""
    angles = np.radians(np.linspace(start, end, count))
    return np.stack([centre[0] + radii[0] * np.cos(angles), centre[1] + radii[1] * np.sin(angles)], axis=1)


def _mirrored(points: NDArray) -> NDArray:
    return points * [-1, 1]


def _five() -> NDArray:
    return np.array([[-3, 0], [3, 0], [0, 3], [-2, 5], [2, 5]], float)


def _multi_pie() -> NDArray:
    """The jaw from the left ear over the chin; brows and eyes from left to right, eyes then back along the
    lower lid; the nose downwards and across; lips from the left corner, clockwise."""
    jaw = _arc((0, 0), (8, 10), 180, 0, 17)
    brow = _arc((-3.5, -3), (2.5, 1), 180, 360, 5)
    nose = np.stack([np.zeros(4), np.linspace(0, 3, 4)], axis=1)
    nostrils = _arc((0, 3.5), (1.5, 0.5), 180, 0, 5)
    eye = _arc((-3.5, 0), (1.5, 0.6), 180, 480, 6)
    outer, inner = _arc((0, 6), (3, 1.5), 180, 510, 12), _arc((0, 6), (2.5, 0.5), 180, 495, 8)
    right_eye = _mirrored(eye)[[3, 2, 1, 0, 5, 4]]
    return np.concatenate([jaw, brow, _mirrored(brow)[::-1], nose, nostrils, eye, right_eye, outer, inner])


def _wflw() -> NDArray:
    """As Multi-PIE, with 33 points of the jaw, closed brows, eyes of eight points, and pupils in the end."""
    jaw = _arc((0, 0), (8, 10), 180, 0, 33)
    brow = np.concatenate(
        [_arc((-3.5, -3), (2.5, 1), 180, 360, 5), _arc((-3.5, -3), (2.3, 0.5), 360, 190, 4)]
    )
    right_brow = _mirrored(brow)[[4, 3, 2, 1, 0, 8, 7, 6, 5]]
    nose = np.stack([np.zeros(4), np.linspace(0, 3, 4)], axis=1)
    nostrils = _arc((0, 3.5), (1.5, 0.5), 180, 0, 5)
    eye = _arc((-3.5, 0), (1.5, 0.6), 180, 495, 8)
    right_eye = _mirrored(eye)[[4, 3, 2, 1, 0, 7, 6, 5]]
    outer, inner = _arc((0, 6), (3, 1.5), 180, 510, 12), _arc((0, 6), (2.5, 0.5), 180, 495, 8)
    pupils = np.array([[-3.5, 0], [3.5, 0]])
    return np.concatenate([jaw, brow, right_brow, nose, nostrils, eye, right_eye, outer, inner, pupils])


def _cofw() -> NDArray:
    """Brow ends outside, then inside; brows above and below; eyes alike, then pupils; nose; lips; chin."""
    pairs: Iterator[tuple[float, float]] = iter([(-6, -3), (-2, -3), (-4, -4), (-4, -3), (-5, 0), (-2.5, 0)])
    outer, inner, above, below, eye, corner = (np.array(pair) for pair in pairs)
    lid, under, pupil, nostril, mouth = (np.array(p) for p in [(-4, -1), (-4, 1), (-4, 0), (-1, 3), (-3, 6)])
    middle = [np.array((0, y)) for y in (2.5, 4, 5, 5.5, 6.5, 7, 10)]
    both = lambda *points: [side for point in points for side in (point, _mirrored(point))]  # noqa: E731 - a name for one formula
    brows = [*both(outer, inner), above, below, _mirrored(above), _mirrored(below)]
    eyes = [*both(eye, corner), lid, under, _mirrored(lid), _mirrored(under), *both(pupil)]
    return np.array([*brows, *eyes, *both(nostril), *middle[:2], *both(mouth), *middle[2:]])


@pytest.mark.parametrize("draw", [_five, _cofw, _multi_pie, _wflw])
def test_a_symmetric_face_is_its_own_mirror(draw: Callable[[], NDArray]) -> None:
    face = draw()
    mirror = list(SCHEMES[len(face)].mirror)
    np.testing.assert_allclose(_mirrored(face)[mirror], face, atol=1e-9)
    assert len({tuple(point) for point in face.round(6)}) == len(face)  # else a wrong number would not show


@pytest.mark.parametrize("draw", [_cofw, _multi_pie, _wflw])
def test_errors_are_measured_in_the_distance_of_the_outer_eye_corners(draw: Callable[[], NDArray]) -> None:
    face = draw()
    left, right = face[list(SCHEMES[len(face)].interocular)]
    eyes = face[(np.abs(face[:, 1]) <= 0.01) & (np.abs(face[:, 0]) < 7) & (face[:, 0] != 0)]
    assert left.tolist() == eyes[eyes[:, 0].argmin()].tolist()
    assert right.tolist() == eyes[eyes[:, 0].argmax()].tolist()


def test_square_has_the_centre_and_a_quarter_more_than_the_longer_side() -> None:
    assert square_around((10, 20, 30, 60), "there") == (-5, 15, 45, 65)
    assert square_around((10, 20, 30, 60), "there", larger=1) == (0, 20, 40, 60)
    assert square_around([(10, 20), (15, 60), (30, 40)], "there") == (-5, 15, 45, 65)


@pytest.mark.parametrize("points", [(3, 3, 3, 3), (0, 0, 1e30, 1), (0, 0, float("nan"), 1)])
def test_no_square_around_nothing(points: tuple[float, ...]) -> None:
    with pytest.raises(TrainingError, match="there: a face from"):
        square_around(points, "there")


def test_points_in_units_of_the_square() -> None:
    square = square_around((10, 20, 30, 60), "there")
    assert in_square([[-5, 15], [45, 65], [20, 40]], square).tolist() == [[0, 0], [1, 1], [0.5, 0.5]]
    assert in_square([[20, 40, 5]], square)[0].tolist() == pytest.approx([0.5, 0.5, 0.1])
