"""From pictures of any kind to embedded faces: order, errors as results, policies, laziness, batches."""

from __future__ import annotations

import gc
import io
import math
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facekit.checkpoint import load_checkpoint
from facekit.encode import EncodedImage, FaceEncoder
from facekit.errors import FacekitError, ImageError, MultipleFacesError, NoFaceError, SettingError
from facekit.image import find_images, load_image


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Path) -> FaceEncoder:
    return FaceEncoder(load_checkpoint(tiny_checkpoint), device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def everything(encoder: FaceEncoder, pictures: Path) -> dict[str, EncodedImage]:
    """All shipped pictures, encoded at once, by their file names."""
    return {str(Path(one.name).relative_to(pictures)): one for one in encoder.encode(pictures)}


@pytest.fixture
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (9, 112, 112, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("facekit")]


def assert_same_faces(one: EncodedImage, other: EncodedImage, pixels: float = 0.01) -> None:
    assert len(one.faces) == len(other.faces)
    assert one.size == other.size
    for a, b in zip(one.faces, other.faces, strict=True):
        assert np.abs(a.box - b.box).max() <= pixels
        assert np.abs(a.landmarks - b.landmarks).max() <= pixels
        assert a.embedding @ b.embedding > 0.9999
        assert a.quality == pytest.approx(b.quality, abs=1e-3)
        assert a.confidence == pytest.approx(b.confidence, abs=1e-4)


# ---------------------------------------------------------------- what comes out


def test_a_folder_gives_every_picture_in_order(everything: dict[str, EncodedImage], pictures: Path) -> None:
    assert [one.source for one in everything.values()] == find_images(pictures)
    for name, one in everything.items():
        assert one.error is None
        assert one.name == str(one.source)
        assert one.size == load_image(one.source).shape[:2]
        assert len(one.faces) == (16 if name == "loose/many_faces.jpg" else 1)


def test_every_face_is_complete(everything: dict[str, EncodedImage]) -> None:
    for one in everything.values():
        assert [face.confidence for face in one.faces] == sorted(
            (face.confidence for face in one.faces), reverse=True
        )
        for face in one.faces:
            assert (face.box.dtype, face.box.shape) == (np.float32, (4,))
            assert (face.landmarks.dtype, face.landmarks.shape) == (np.float32, (5, 2))
            assert (face.embedding.dtype, face.embedding.shape) == (np.float32, (64,))
            assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)
            assert face.embedding.base is None  # a face that is kept keeps no batch
            assert 0.5 < face.quality < 1
            left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
            assert left_eye[0] < right_eye[0]
            assert left_mouth[0] < right_mouth[0]
            assert left_eye[1] < nose[1] < left_mouth[1]


def test_what_else_is_in_the_batch_does_not_matter(
    encoder: FaceEncoder, everything: dict[str, EncodedImage]
) -> None:
    for name in ("loose/query_1.jpg", "loose/many_faces.jpg", "people/P003/amateur_outdoors.jpg"):
        assert_same_faces(encoder.encode(everything[name].source)[0], everything[name])


def test_every_kind_of_source_gives_the_same_faces(
    encoder: FaceEncoder, everything: dict[str, EncodedImage], pictures: Path
) -> None:
    path = pictures / "loose" / "query_2.jpg"
    array = load_image(path)
    with Image.open(path) as picture, path.open("rb") as stream:
        sources: list[Any] = [str(path), path.read_bytes(), stream, picture, array, torch.from_numpy(array)]
        results = encoder.encode(sources)
    for source, one in zip(sources, results, strict=True):
        assert one.source is source
        assert_same_faces(one, everything["loose/query_2.jpg"])


def test_boxes_are_of_the_upright_picture(
    encoder: FaceEncoder, everything: dict[str, EncodedImage], pictures: Path, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(pictures / "loose" / "query_3.jpg") as picture:
        picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png", exif=exif)
    assert_same_faces(encoder.encode(tmp_path)[0], everything["loose/query_3.jpg"])


def test_a_picture_without_faces_is_no_error(encoder: FaceEncoder, tmp_path: Path) -> None:
    path = tmp_path / "wall.png"
    Image.new("RGB", (200, 150), "white").save(path)
    sources = [path, np.zeros((1, 1, 3), np.uint8), np.zeros((30, 2000, 3), np.uint8)]
    for one in encoder.encode(sources):
        assert one.faces == ()
        assert one.error is None
    one = encoder.encode(path)[0]
    assert one.size == (150, 200)
    with pytest.raises(NoFaceError, match="no face found") as caught:
        one.one_face()
    assert isinstance(caught.value, ValueError)
    assert caught.value.path == str(path)


def test_fingerprints_name_the_network_and_the_detector(encoder: FaceEncoder, tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    assert encoder.checkpoint_fingerprint == checkpoint.config.fingerprint
    other = FaceEncoder(checkpoint, device="cpu", min_face=60)
    assert other.detector_fingerprint != encoder.detector_fingerprint
    assert encoder.detector_fingerprint.startswith("mtcnn-")


# ---------------------------------------------------------------- bad pictures


def test_bad_pictures_are_results_and_stop_nothing(
    encoder: FaceEncoder, everything: dict[str, EncodedImage], pictures: Path, tmp_path: Path
) -> None:
    good = pictures / "loose" / "query_1.jpg"
    (tmp_path / "cut.jpg").write_bytes(good.read_bytes()[:4000])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html>")
    bad: list[Any] = [
        *(tmp_path / name for name in ("cut.jpg", "empty.jpg", "page.jpg", "missing.jpg")),
        *(tmp_path, "https://example.org/a.jpg", b"", None, np.full((9, 9, 3), np.nan)),
        *(torch.zeros(3, 9, 9), io.BytesIO(b"GIF89a")),
    ]
    sources = [good]
    for source in bad:
        sources += [source, good]
    results = encoder.encode(sources)
    assert len(results) == len(sources)
    for source, one in zip(sources, results, strict=True):
        assert one.source is source
        if source is good:
            assert_same_faces(one, everything["loose/query_1.jpg"])
            continue
        assert isinstance(one.error, ImageError)
        assert one.error.path == one.name
        assert str(one.error).startswith(one.name)
        assert (one.faces, one.size) == ((), None)
        with pytest.raises(ImageError):
            one.one_face()


def test_only_bad_pictures(encoder: FaceEncoder, tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"\xff\xd8\xff")
    assert [isinstance(one.error, ImageError) for one in encoder.encode(tmp_path)] == [True] * 3


def test_too_large_a_picture_is_a_result(tiny_checkpoint: Path, pictures: Path) -> None:
    encoder = FaceEncoder(load_checkpoint(tiny_checkpoint), device="cpu", max_pixels=10_000)
    (one,) = encoder.encode(pictures / "astronaut.jpg")
    assert "max_pixels = 10000" in str(one.error)


def test_bad_arguments_are_heard_of_at_once(
    encoder: FaceEncoder, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match="faces: 'biggest'"):
        encoder.stream([], faces="biggest")
    with pytest.raises(SettingError, match="images: pictures or a folder expected; got int"):
        encoder.stream(3)
    with pytest.raises(ImageError, match="holds no pictures"):
        encoder.stream(tmp_path)
    loaded = load_checkpoint(tiny_checkpoint)
    wrong: tuple[Any, ...] = (1, "40", None, True)
    for value in wrong:
        with pytest.raises(SettingError, match=r"min_face is .*: give a number, at least 12 pixels"):
            FaceEncoder(loaded, device="cpu", min_face=value).stream([])
    with pytest.raises(SettingError, match="max_pixels is 'a'"):
        FaceEncoder(loaded, device="cpu", max_pixels="a")


def test_a_name_that_is_too_long_or_empty_is_a_result(encoder: FaceEncoder) -> None:
    for name in ("x" * 5000, "nul\0.jpg", ""):
        (one,) = encoder.encode(name)
        assert isinstance(one.error, ImageError)


def test_nothing_in_nothing_out(encoder: FaceEncoder) -> None:
    assert encoder.encode([]) == []
    assert encoder.encode(iter(())) == []
    assert encoder.encode([], aligned=True) == []


# ---------------------------------------------------------------- which faces


def test_encode_embeds_only_the_chosen(encoder: FaceEncoder, everything: dict[str, EncodedImage]) -> None:
    crowd = everything["loose/many_faces.jpg"]
    (one,) = encoder.encode(crowd.source, faces="largest")
    assert one.one_face().size == pytest.approx(max(face.size for face in crowd.faces), abs=0.01)
    single = everything["astronaut.jpg"].source
    several, alone = encoder.encode([crowd.source, single], faces="error")
    assert isinstance(several.error, MultipleFacesError)
    assert several.error.path == several.name
    assert several.faces == ()
    assert several.size == crowd.size
    assert_same_faces(alone, everything["astronaut.jpg"])
    with pytest.raises(MultipleFacesError, match="16 faces"):
        crowd.one_face()


# ---------------------------------------------------------------- aligned crops


def test_aligned_crops_are_embedded_as_they_are(tiny_checkpoint: Path, crops: np.ndarray) -> None:
    encoder = FaceEncoder(load_checkpoint(tiny_checkpoint), device="cpu", precision="fp32")
    results = encoder.encode(crops, aligned=True)
    expected = encoder.embedder.embed(torch.from_numpy(crops).permute(0, 3, 1, 2)).numpy()
    for one, embedding in zip(results, expected, strict=True):
        face = one.one_face()
        assert face.embedding @ embedding > 0.9999
        assert face.box.tolist() == [0, 0, 112, 112]
        assert face.confidence == 1
        assert one.size == (112, 112)
    assert "detector" not in vars(encoder)


def test_crops_of_other_sizes_are_scaled_antialiased(encoder: FaceEncoder, pictures: Path) -> None:
    with Image.open(pictures / "people" / "P005" / "studio_portrait.jpg") as picture:
        large = picture.crop((130, 30, 466, 366))
    middle = large.resize((112, 112), Image.Resampling.BOX)
    small, big = encoder.encode([middle, large], aligned=True)
    assert small.faces[0].embedding @ big.faces[0].embedding > 0.98
    assert big.faces[0].box.tolist() == [0, 0, 336, 336]
    assert np.allclose(big.faces[0].landmarks, 3 * small.faces[0].landmarks)
    assert big.size == (336, 336)


def test_a_crop_that_is_not_square_is_an_error(encoder: FaceEncoder) -> None:
    results = encoder.encode([np.zeros((112, 96, 3), np.uint8), np.zeros((50, 50), np.uint8)], aligned=True)
    assert "aligned=True expects square crops, got 96 x 112" in str(results[0].error)
    assert results[1].error is None


# ---------------------------------------------------------------- streams


def test_stream_is_lazy_and_may_be_left(encoder: FaceEncoder, crops: np.ndarray) -> None:
    pulled = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal pulled
        while True:
            pulled += 1
            yield crops[pulled % 9]

    stream = encoder.stream(endless(), aligned=True)
    assert pulled == 0
    assert len(list(islice(stream, 150))) == 150
    assert pulled <= 150 + 64 * (torch.get_num_threads() + 4)
    stream.close()


def test_stream_gives_what_encode_gives(encoder: FaceEncoder, crops: np.ndarray) -> None:
    sources = [crops[i % 9] for i in range(200)]
    for one, other in zip(
        encoder.stream(iter(sources), aligned=True), encoder.encode(sources, aligned=True), strict=True
    ):
        assert one.source is other.source
        assert_same_faces(one, other)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_ends_the_threads(
    encoder: FaceEncoder, pictures: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def interrupt(images: Any) -> Any:
        raise error("stop")

    monkeypatch.setattr(encoder.detector, "detect", interrupt)
    with pytest.raises(error, match="stop") as caught:
        encoder.encode(pictures)
    assert caught.tb  # holds the frames, and with them the iterators; the threads are gone all the same
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("facekit")]


@pytest.mark.skipif("backend: OpenMP" not in torch.__config__.parallel_info(), reason="needs OpenMP")
def test_batches_share_the_cores_and_leave_torch_as_it_was(
    encoder: FaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[str, int]] = []

    def look(images: Any) -> Any:
        used.append((threading.current_thread().name, torch.get_num_threads()))
        return [()] * len(images)

    monkeypatch.setattr(encoder.detector, "detect", look)
    picture = np.zeros((1000, 2000, 3), np.uint8)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        encoder.encode([picture])
        assert used == [(threading.current_thread().name, 4)]  # a single batch has all the cores
        used.clear()
        encoder.encode([picture] * 20)
        assert {cores for _, cores in used} == {1}
        assert 1 <= len({name for name, _ in used}) <= 4
        assert torch.get_num_threads() == 4
        with ThreadPoolExecutor(1) as newcomer:
            assert newcomer.submit(torch.get_num_threads).result() == 4
    finally:
        torch.set_num_threads(before)


def test_an_encoder_keeps_no_pictures(encoder: FaceEncoder, crops: np.ndarray) -> None:
    crop = crops[0].copy()
    gone = weakref.ref(crop)
    assert encoder.encode([crop], aligned=True)[0].source is crop
    del crop
    gc.collect()
    assert gone() is None


def test_threads_may_share_an_encoder(encoder: FaceEncoder, everything: dict[str, EncodedImage]) -> None:
    names = ["loose/query_1.jpg", "loose/query_2.jpg", "loose/query_4.jpg", "loose/copy_small.jpg"]
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda name: encoder.encode(everything[name].source), names)
        for name, (one,) in zip(names, results, strict=True):
            assert_same_faces(one, everything[name])


def test_progress_goes_to_stderr_and_only_if_wanted(
    encoder: FaceEncoder, crops: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    encoder.encode(list(crops) * 3, aligned=True)  # stderr is no terminal here
    assert capfd.readouterr() == ("", "")
    encoder.encode(crops, aligned=True, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "9/9" in err


# ---------------------------------------------------------------- elsewhere


@pytest.mark.gpu
def test_the_gpu_finds_the_same(
    tiny_checkpoint: Path, everything: dict[str, EncodedImage], pictures: Path
) -> None:
    encoder = FaceEncoder(load_checkpoint(tiny_checkpoint), device="cuda", precision="fp32")
    for one in encoder.encode(pictures):
        expected = everything[str(Path(one.name).relative_to(pictures))]
        assert len(one.faces) == len(expected.faces)
        for a in one.faces:  # confidences near 1 may swap places
            b = min(expected.faces, key=lambda face: float(np.abs(face.box - a.box).max()))
            assert np.abs(a.box - b.box).max() < 0.5
            assert a.embedding @ b.embedding > 0.999
            assert math.isclose(a.quality, b.quality, abs_tol=0.01)


def test_errors_are_of_the_family() -> None:
    assert issubclass(ImageError, FacekitError)
