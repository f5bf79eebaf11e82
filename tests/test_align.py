"""Alignment against least squares by numpy and a slow warp in float64 that averages densely."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from facekit.align import ARCFACE_TEMPLATE, align_faces, similarity_transforms
from facekit.detect import FaceDetector

TEMPLATE = ARCFACE_TEMPLATE.double().numpy()


def least_squares(landmarks: NDArray[np.float64]) -> NDArray[np.float64]:
    """The similarity by a general solver: unknowns a, b, tx, ty of [[a, -b, tx], [b, a, ty]]."""
    rows, target = [], []
    for (x, y), (u, v) in zip(landmarks, TEMPLATE, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        target += [u, v]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows), np.array(target), rcond=None)[0]
    return np.array([[a, -b, tx], [b, a, ty]])


def slow_warp(image: NDArray[np.uint8], matrix: NDArray[np.float64], size: int = 112) -> NDArray[np.float64]:
    """Each pixel of the crop: the mean over its own area in the picture, of the interpolated picture."""
    inverse = np.linalg.inv(matrix[:, :2])
    shrink = np.sqrt(np.abs(np.linalg.det(inverse)))
    dense = max(1, int(np.ceil(3 * shrink))) if shrink > 1 else 1
    step = (np.arange(size * dense) + 0.5) / dense - 0.5
    u, v = np.meshgrid(step - matrix[0, 2], step - matrix[1, 2])
    height, width, _ = image.shape
    x = inverse[0, 0] * u + inverse[0, 1] * v
    y = inverse[1, 0] * u + inverse[1, 1] * v
    framed = np.zeros((height + 2, width + 2, 3))
    framed[1:-1, 1:-1] = image
    x, y = np.clip(x + 1, 0, width + 1 - 1e-9), np.clip(y + 1, 0, height + 1 - 1e-9)
    i, j = np.floor(y).astype(int), np.floor(x).astype(int)
    fx, fy = (x - j)[..., None], (y - i)[..., None]
    above = framed[i, j] * (1 - fx) + framed[i, j + 1] * fx
    below = framed[i + 1, j] * (1 - fx) + framed[i + 1, j + 1] * fx
    samples = above * (1 - fy) + below * fy
    return samples.reshape(size, dense, size, dense, 3).mean((1, 3))


def placed(turn: complex, shift: complex) -> Tensor:
    """Landmarks of a face whose crop's point w shows the picture's point turn * w + shift."""
    points = turn * (TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]) + shift
    return torch.from_numpy(np.stack([points.real, points.imag], 1))


@pytest.fixture(scope="module")
def astronaut(pictures: Path) -> Tensor:
    with Image.open(pictures / "astronaut.jpg") as image:
        return torch.from_numpy(np.array(image))


@pytest.fixture(scope="module")
def faces(pictures: Path) -> tuple[list[Tensor], list[int], Tensor]:
    """Pictures that ship at several sizes, which picture each face is in, and its landmarks."""
    images = []
    for path in sorted(pictures.glob("people/*/amateur_*.jpg"))[:5]:
        with Image.open(path) as image:
            images.append(torch.from_numpy(np.array(image)))
    with Image.open(pictures / "astronaut.jpg") as image:
        images += [torch.from_numpy(np.array(image.resize((s, s)))) for s in (200, 900, 2000)]
    found = FaceDetector().detect(images)
    index = [i for i, some in enumerate(found) for _ in some]
    return images, index, torch.from_numpy(np.stack([face.landmarks for some in found for face in some]))


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_similarity_is_the_least_squares_one(seed: int) -> None:
    landmarks = np.random.default_rng(seed).uniform(-500, 4000, (3, 5, 2))
    ours = similarity_transforms(torch.from_numpy(landmarks))
    for matrix, points in zip(ours.numpy(), landmarks, strict=True):
        np.testing.assert_allclose(matrix, least_squares(points), atol=1e-7)


def test_similarity_recovers_what_placed_the_template() -> None:
    landmarks = placed(2.5 * np.exp(0.7j), 300 + 40j)[None]
    matrix = similarity_transforms(landmarks)[0]
    back = landmarks[0] @ matrix[:, :2].T + matrix[:, 2]
    torch.testing.assert_close(back, ARCFACE_TEMPLATE.double(), atol=1e-9, rtol=0)
    half = similarity_transforms(landmarks.float(), size=56)[0]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, matrix.float() / 2)


def test_real_faces_match_the_slow_warp(faces: tuple[list[Tensor], list[int], Tensor]) -> None:
    images, index, landmarks = faces
    assert len(index) >= 8
    crops = align_faces(images, index, landmarks)
    errors = []
    for crop, i, points in zip(crops, index, landmarks, strict=True):
        expected = slow_warp(images[i].numpy(), least_squares(points.double().numpy()))
        errors.append(np.abs(crop.permute(1, 2, 0).numpy() - expected).mean())
    assert np.mean(errors) < 0.5
    assert np.max(errors) < 1


@pytest.mark.parametrize("shrink", [0.3, 1.0, 1.1, 1.3, 1.9, 2.4, 3.5])
def test_every_scale_matches_the_slow_warp(astronaut: Tensor, shrink: float) -> None:
    landmarks = placed(shrink * np.exp(0.2j), 120 + 30j)[None]
    crop = align_faces([astronaut], [0], landmarks)[0].permute(1, 2, 0).numpy()
    expected = slow_warp(astronaut.numpy(), similarity_transforms(landmarks)[0].numpy())
    assert np.abs(crop - expected).mean() < 1


def test_large_faces_are_not_aliased() -> None:
    checks = ((torch.arange(3000)[:, None] + torch.arange(3000)) % 2 * 255).byte()
    crop = align_faces(
        [checks[:, :, None].expand(-1, -1, 3)], [0], placed(20 * np.exp(0.1j), 300 + 500j)[None]
    )
    assert crop.float().sub(127.5).abs().max() < 8  # point sampling would give 0 and 255


def test_outside_the_picture_is_black(astronaut: Tensor) -> None:
    white = torch.full((200, 200, 3), 255, dtype=torch.uint8)
    half = align_faces([white], [0], placed(1, -56 - 56j)[None])[0]
    assert (half[:, :56] == 0).all()
    assert (half[:, :, :56] == 0).all()
    assert (half[:, 56:, 56:] == 255).all()
    far = torch.stack([placed(1, 1e6), placed(1, -1e6j), placed(30, -9e4)])
    assert (align_faces([white], [0, 0, 0], far) == 0).all()


def test_faces_do_not_depend_on_their_company(faces: tuple[list[Tensor], list[int], Tensor]) -> None:
    images, index, landmarks = faces
    crops = align_faces(images, index, landmarks)
    for crop, i, points in zip(crops, index, landmarks, strict=True):
        assert torch.equal(align_faces([images[i]], [0], points[None])[0], crop)


def test_no_faces_and_odd_landmarks(astronaut: Tensor) -> None:
    assert align_faces([], [], torch.zeros(0, 5, 2)).shape == (0, 3, 112, 112)
    assert align_faces([astronaut], [], torch.zeros(0, 5, 2), size=64).shape == (0, 3, 64, 64)
    point = torch.full((1, 5, 2), 50.0)
    assert align_faces([astronaut], [0], point).shape == (1, 3, 112, 112)
    assert align_faces([astronaut[:1, :1]], torch.tensor([0]), placed(500, 0)[None]).shape == (1, 3, 112, 112)


def test_other_sizes_scale_the_template(astronaut: Tensor) -> None:
    landmarks = placed(1.9, 100)[None]
    crop = align_faces([astronaut], [0], landmarks, size=224)[0].permute(1, 2, 0).numpy()
    matrix = similarity_transforms(landmarks, size=224)[0].numpy()
    assert np.abs(crop - slow_warp(astronaut.numpy(), matrix, 224)).mean() < 0.5
