"""Quality falls with blur, distance, a turned head and the detector's doubt, and with nothing else."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from facekit.quality import FaceQuality, face_quality

TEMPLATE = torch.tensor([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]])


@pytest.fixture(scope="module")
def crop(pictures: Path) -> Image.Image:
    """A roughly aligned face: eyes and mouth of the portrait at the places of the template."""
    with Image.open(pictures / "people" / "P001" / "studio_portrait.jpg") as picture:
        return picture.convert("RGB").resize((112, 112), Image.Resampling.LANCZOS, (130, 85, 470, 425))


def tensor(crop: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None]


def measure(
    crop: Image.Image,
    landmarks: torch.Tensor = TEMPLATE,
    confidence: float = 0.99,
    size: float = 120.0,
) -> FaceQuality:
    return face_quality(tensor(crop), landmarks[None], torch.tensor([confidence]), torch.tensor([size]))


def test_a_good_face_scores_high_in_every_part(crop: Image.Image) -> None:
    quality = measure(crop)
    assert quality.score.item() > 0.75
    for part in (quality.sharpness, quality.size, quality.pose, quality.confidence, quality.score):
        assert part.dtype == torch.float32
        assert part.shape == (1,)
        assert 0.6 < part.item() <= 1


def test_blur_lowers_it_step_by_step(crop: Image.Image) -> None:
    scores = [measure(crop.filter(ImageFilter.GaussianBlur(r))).score.item() for r in (0, 0.5, 1, 2, 3, 5)]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < 0.6 * scores[0]


def test_a_face_enlarged_from_few_pixels_is_not_sharp(crop: Image.Image) -> None:
    sharp = [
        measure(crop.resize((n, n)).resize((112, 112), Image.Resampling.BICUBIC)).sharpness.item()
        for n in (112, 64, 40, 20)
    ]
    assert sharp == sorted(sharp, reverse=True)
    assert sharp[-1] < 0.5 * sharp[0]


def test_noise_does_not_pass_for_detail(crop: Image.Image) -> None:
    blurred = np.asarray(crop.filter(ImageFilter.GaussianBlur(3))).astype(float)
    noisy = blurred + np.random.default_rng(0).normal(0, 6, blurred.shape)
    noisy_crop = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    assert measure(noisy_crop).sharpness.item() < 0.6 * measure(crop).sharpness.item()


def test_dim_light_costs_little(crop: Image.Image) -> None:
    dim = crop.point(lambda value: 0.4 * value + 20)
    assert measure(dim).sharpness.item() == pytest.approx(measure(crop).sharpness.item(), abs=0.02)


@given(st.floats(1, 4000), st.floats(1.01, 4))
def test_smaller_is_worse(size: float, factor: float) -> None:
    flat = Image.new("RGB", (24, 24))
    large, small = measure(flat, size=size).size.item(), measure(flat, size=size / factor).size.item()
    assert 0 < small <= large <= 1
    assert large == pytest.approx(1 - 2 ** (-size / 64), abs=1e-6)


def turned(yaw: float, pitch: float, roll: float, scale: float = 50.0) -> torch.Tensor:
    """Five points of a plain head (the nose stands out of the plane of the others), as a camera sees it."""
    x = [-0.5, 0.5, 0.0, -0.4, 0.4]
    y = [-0.6, -0.6, 0.0, 0.6, 0.6]
    z = [0.0, 0.0, 0.5, 0.0, 0.0]
    points = torch.tensor([x, y, z], dtype=torch.float64)

    def rotation(angle: float, a: int, b: int) -> torch.Tensor:
        matrix = torch.eye(3, dtype=torch.float64)
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        matrix[a, a] = matrix[b, b] = c
        matrix[a, b], matrix[b, a] = -s, s
        return matrix

    seen = rotation(roll, 0, 1) @ rotation(pitch, 1, 2) @ rotation(yaw, 0, 2) @ points
    return (seen[:2].T * scale + 300).float()


def pose(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> float:
    return measure(Image.new("RGB", (24, 24)), turned(yaw, pitch, roll)).pose.item()


def test_turning_and_nodding_lower_it_step_by_step() -> None:
    for axis in ("yaw", "pitch"):
        for sign in (-1, 1):
            scores = [pose(**{axis: sign * angle}) for angle in (0, 10, 20, 30, 45)]
            assert scores == sorted(scores, reverse=True)
            assert scores[0] == pytest.approx(1, abs=1e-6)
            assert scores[-1] < 0.5
    assert pose(yaw=80) == pytest.approx(0, abs=1e-6)


@given(st.floats(-180, 180), st.floats(-30, 30), st.floats(-20, 20))
def test_a_tilted_head_costs_nothing(roll: float, yaw: float, pitch: float) -> None:
    assert pose(yaw, pitch, roll) == pytest.approx(pose(yaw, pitch), abs=1e-3)


def test_confidence_counts(crop: Image.Image) -> None:
    assert measure(crop, confidence=0.7).score < measure(crop, confidence=0.99).score
    assert measure(crop, confidence=0.0).score.item() == 0


def test_the_score_is_the_geometric_mean(crop: Image.Image) -> None:
    quality = measure(crop, turned(20, 5, 3), 0.8, 60.0)
    parts = [part.item() for part in (quality.sharpness, quality.size, quality.pose, quality.confidence)]
    assert quality.score.item() == pytest.approx(math.prod(parts) ** 0.25)


def test_a_face_is_measured_alike_in_any_batch(crop: Image.Image) -> None:
    pictures = [crop, crop.filter(ImageFilter.GaussianBlur(2)), crop.rotate(9)]
    crops = torch.cat([tensor(picture) for picture in pictures])
    landmarks = torch.stack([turned(0, 0, 0), turned(20, 0, 5), turned(-30, 9, 0)])
    confidences, sizes = torch.tensor([0.9, 0.8, 1.0]), torch.tensor([50.0, 90.0, 300.0])
    together = face_quality(crops, landmarks, confidences, sizes).score
    for i in range(3):
        alone = face_quality(crops[[i]], landmarks[[i]], confidences[[i]], sizes[[i]]).score
        assert alone.item() == pytest.approx(together[i].item(), abs=1e-6)


def test_degenerate_input_stays_in_range() -> None:
    nothing = face_quality(
        torch.zeros(0, 3, 112, 112, dtype=torch.uint8), torch.zeros(0, 5, 2), torch.zeros(0), torch.zeros(0)
    )
    assert nothing.score.shape == (0,)
    flat = measure(Image.new("RGB", (112, 112)), torch.zeros(5, 2), 1.0, 0.0)
    assert flat.score.item() == 0
    assert math.isfinite(flat.pose.item())
