"""Faces found: what facenet-pytorch finds, whatever else is in the batch, and none where there is none."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from PIL import Image
from torch import Tensor

from facekit.detect import FaceDetector
from facekit.detect import weights as weights_module
from facekit.errors import CheckpointError, SettingError
from facekit.face import Detection

Found = list[tuple[Detection, ...]]


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


@pytest.fixture(scope="module")
def people(pictures: Path) -> list[Tensor]:
    names = ["astronaut.jpg", "loose/many_faces.jpg", "loose/unknown_2.jpg", "people/P001/amateur_selfie.jpg"]
    return [picture(pictures / name) for name in names]


def picture(source: Path | io.BytesIO) -> Tensor:
    with Image.open(source) as image:
        return torch.from_numpy(np.array(image.convert("RGB")))


def zipped(path: Path, count: int | None = None) -> list[Tensor]:
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if n.lower().endswith((".jpg", ".jpeg", ".png")))
        step = max(1, len(names) // count) if count else 1
        return [picture(io.BytesIO(archive.read(name))) for name in names[::step][:count]]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    shared = float(sides.prod())
    return shared / float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)


def compare(images: list[Tensor], found: Found, *, min_face: int = 40) -> tuple[int, int, int]:
    """How many faces facenet-pytorch finds, a picture at a time; how many of them we find; our extras."""
    theirs = MTCNN(min_face_size=min_face, keep_all=True, device="cpu")
    total = matched = extras = 0
    for image, faces in zip(images, found, strict=True):
        boxes, _, points = theirs.detect(image.numpy(), landmarks=True)
        left = list(faces)
        for box, landmarks in (
            [] if boxes is None else zip(boxes.astype(float), points.astype(float), strict=True)
        ):
            total += 1
            best = max(left, key=lambda face: iou(face.box, box), default=None)
            if best is None or iou(best.box, box) < 0.9:
                continue
            allowed = max(1.5, 0.02 * float((box[2:] - box[:2]).max()))
            if np.linalg.norm(best.landmarks - landmarks, axis=1).max() <= allowed:
                matched += 1
                left = [face for face in left if face is not best]
        extras += len(left)
    return total, matched, extras


def same(a: tuple[Detection, ...], b: tuple[Detection, ...], tolerance: float = 0.0) -> bool:
    return len(a) == len(b) and all(
        np.abs(x.box - y.box).max() <= tolerance
        and np.abs(x.landmarks - y.landmarks).max() <= tolerance
        and abs(x.confidence - y.confidence) <= tolerance
        for x, y in zip(a, b, strict=True)
    )


def test_finds_what_facenet_pytorch_finds(detector: FaceDetector, people: list[Tensor]) -> None:
    total, matched, extras = compare(people, detector.detect(people))
    assert total >= 8
    assert (matched, extras) == (total, 0)


def test_other_settings_find_what_facenet_pytorch_finds(people: list[Tensor]) -> None:
    total, matched, extras = compare(people[:1], FaceDetector(min_face=25).detect(people[:1]), min_face=25)
    assert total >= 1
    assert (matched, extras) == (total, 0)


def test_a_sample_of_real_pictures(detector: FaceDetector, shared: Path) -> None:
    images = [*zipped(shared / "photos/mixed.zip", 8), *zipped(shared / "lfw/images.zip", 30)]
    total, matched, extras = compare(images, detector.detect(images))
    assert total >= 30
    assert matched >= 0.995 * total
    assert extras <= 0.005 * total


@pytest.mark.slow
def test_all_real_pictures(detector: FaceDetector, shared: Path) -> None:
    images = [*zipped(shared / "photos/mixed.zip"), *zipped(shared / "photos/people.zip")]
    images += zipped(shared / "lfw/images.zip", 600)
    total, matched, extras = compare(images, detector.detect(images))
    print(f"{matched} of {total} faces matched, {extras} extras")
    assert matched >= 0.995 * total
    assert extras <= 0.005 * total


def test_detections_are_well_formed(detector: FaceDetector, people: list[Tensor]) -> None:
    faces = detector.detect(people)[1]
    assert len(faces) >= 5
    assert [face.confidence for face in faces] == sorted((face.confidence for face in faces), reverse=True)
    for face in faces:
        assert face.box.dtype == face.landmarks.dtype == np.float32
        assert face.box.shape == (4,)
        assert face.landmarks.shape == (5, 2)
        assert 0.7 < face.confidence <= 1
        left_eye, right_eye, _, left_mouth, right_mouth = face.landmarks
        assert left_eye[0] < right_eye[0]
        assert left_eye[1] < left_mouth[1]
        assert left_mouth[0] < right_mouth[0]


def test_a_picture_is_searched_alike_in_any_company(detector: FaceDetector, people: list[Tensor]) -> None:
    alone = [detector.detect([image])[0] for image in people]
    together = detector.detect(people)
    reversed_ = detector.detect(people[::-1])[::-1]
    crowd = detector.detect([*people, torch.zeros(5, 3, 3, dtype=torch.uint8), *people])
    for i, faces in enumerate(alone):
        assert same(faces, together[i])
        assert same(faces, reversed_[i])
        assert same(faces, crowd[i])
        assert same(faces, crowd[len(people) + 1 + i])


def test_threads_share_a_detector(detector: FaceDetector, people: list[Tensor]) -> None:
    expected = detector.detect(people)
    with ThreadPoolExecutor(3) as threads:
        for found in threads.map(detector.detect, [people] * 3):
            assert all(map(same, found, expected))


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (39, 500), (20, 10_000), (10_000, 20), (0, 7), (41, 43)])
def test_small_and_long_pictures_hold_no_faces(detector: FaceDetector, shape: tuple[int, int]) -> None:
    assert detector.detect([torch.full((*shape, 3), 90, dtype=torch.uint8)]) == [()]


def test_no_faces(detector: FaceDetector) -> None:
    noise = torch.randint(
        0, 256, (300, 400, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    black = torch.zeros(200, 200, 3, dtype=torch.uint8)
    assert detector.detect([black, noise, 255 - black]) == [(), (), ()]
    assert detector.detect([]) == []


@pytest.mark.parametrize(
    "image", [torch.zeros(3, 50, 50, dtype=torch.uint8), torch.zeros(50, 50, 3), torch.zeros(50, 50).byte()]
)
def test_other_tensors_are_refused(detector: FaceDetector, image: Tensor) -> None:
    with pytest.raises(SettingError, match="uint8"):
        detector.detect([image])


def test_settings_are_checked() -> None:
    with pytest.raises(SettingError, match="min_face is 5"):
        FaceDetector(min_face=5)
    with pytest.raises(SettingError, match="thresholds"):
        FaceDetector(thresholds=(0.6, 0.7, 1.5))


def test_fingerprint_names_weights_and_settings(detector: FaceDetector) -> None:
    assert detector.fingerprint == FaceDetector().fingerprint
    assert detector.fingerprint.startswith("mtcnn-")
    assert len({detector.fingerprint, FaceDetector(min_face=20).fingerprint}) == 2


def test_missing_weights_name_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights_module, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install 'facenet-pytorch"):
        FaceDetector()
    monkeypatch.setattr(weights_module, "_folder", lambda: tmp_path)
    with pytest.raises(CheckpointError, match=r"pnet\.pt.*pip install"):
        FaceDetector()
    (tmp_path / "pnet.pt").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match=r"pnet\.pt.*pip install"):
        FaceDetector()


def test_the_detector_imports_neither_facenet_pytorch_nor_torchvision() -> None:
    script = (
        "import sys, torch; from facekit.detect import FaceDetector;"
        "FaceDetector().detect([torch.zeros(60, 60, 3, dtype=torch.uint8)]);"
        "print(sorted({'facenet_pytorch', 'torchvision', 'scipy', 'cv2'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert run.stdout.strip() == "[]"


@pytest.mark.gpu
def test_cuda_finds_what_the_cpu_finds(detector: FaceDetector, people: list[Tensor]) -> None:
    found = FaceDetector("cuda").detect([image.cuda() for image in people])
    for ours, expected in zip(found, detector.detect(people), strict=True):
        assert len(ours) == len(expected)
        for face in expected:
            assert max(iou(face.box, other.box) for other in ours) > 0.9
