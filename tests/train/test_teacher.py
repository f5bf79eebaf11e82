"""What a student imitates: embeddings of a network that are made once, and embeddings out of a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facekit.checkpoint import load_checkpoint
from facekit.embed import Embedder
from facekit.errors import SettingError
from facekit.train.config import DataSettings
from facekit.train.data import Crops, Listing, load_crops, read_listing
from facekit.train.stream import Stream
from facekit.train.teacher import embeddings_of_pictures, stored_embeddings

_DIM = 64


@pytest.fixture
def people(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for person in "abc":
        (tmp_path / "people" / person).mkdir(parents=True)
        for number in range(4):
            noise = rng.integers(0, 255, (112, 112, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / "people" / person / f"{number}.png")
    (tmp_path / "people" / "a" / "1.png").write_bytes(b"broken")
    return tmp_path / "people"


def _listing(people: Path) -> Listing:
    return read_listing(DataSettings(data=people, heldout=0))[0]


def _embedder(tiny_checkpoint: Path) -> Embedder:
    return Embedder(load_checkpoint(tiny_checkpoint), device="cpu", precision="fp32")


@pytest.mark.parametrize("streamed", [False, True])
def test_embeddings_are_made_once_and_belong_to_their_pictures(
    people: Path, tiny_checkpoint: Path, tmp_path: Path, streamed: bool
) -> None:
    listing, teacher = _listing(people), _embedder(tiny_checkpoint)
    kept = load_crops(listing, progress=False)
    crops: Crops | Stream = Stream(listing, 112, workers=0) if streamed else kept
    targets = embeddings_of_pictures(teacher, crops, tmp_path / "run" / "teacher.safetensors")
    pictures, _, rows = next(crops.batches([torch.arange(len(crops))]))
    both = teacher.embed(pictures) + teacher.embed(pictures.flip(3))
    torch.testing.assert_close(targets[rows], both / both.norm(dim=1, keepdim=True), atol=1e-5, rtol=0)
    teacher.embed = None
    again = embeddings_of_pictures(teacher, crops, tmp_path / "run" / "teacher.safetensors")
    assert torch.equal(again, targets)


def test_a_file_that_was_cut_short_is_made_anew(people: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    crops, teacher = load_crops(_listing(people), progress=False), _embedder(tiny_checkpoint)
    stored = tmp_path / "teacher.safetensors"
    targets = embeddings_of_pictures(teacher, crops, stored).clone()  # it is mapped
    stored.write_bytes(stored.read_bytes()[:40])
    assert torch.equal(embeddings_of_pictures(teacher, crops, stored), targets)


def _write(people: Path, file: Path, **changes: object) -> dict[str, np.ndarray]:
    """Such a file as ``facekit embed`` writes; a random vector for each picture, two for the first."""
    names = sorted(str(path) for path in people.rglob("*.png"))
    names = [names[0], *names]
    vectors = np.random.default_rng(1).normal(size=(len(names), _DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = {"embeddings": vectors, "pictures": np.array(names), **changes}
    np.savez(file, **table)
    return dict(zip(names[1:], vectors[1:], strict=True)) | {names[0]: vectors[:2].mean(0)}


@pytest.mark.parametrize("streamed", [False, True])
def test_embeddings_of_a_file_find_their_pictures(people: Path, tmp_path: Path, streamed: bool) -> None:
    listing = _listing(people)
    expected = _write(people, tmp_path / "x.npz")
    crops: Crops | Stream = (
        Stream(listing, 112, workers=0) if streamed else load_crops(listing, progress=False)
    )
    targets = stored_embeddings(str(tmp_path / "x.npz"), listing, crops, _DIM)
    read = range(len(listing)) if streamed else crops.rows.tolist()
    for target, row in zip(targets, read, strict=True):
        wanted = torch.from_numpy(expected[str(listing.source.read(int(listing.rows[row])))])
        torch.testing.assert_close(target, wanted / wanted.norm(), atol=1e-6, rtol=0)


def test_files_that_cannot_serve_are_named(people: Path, tmp_path: Path) -> None:
    listing = _listing(people)
    crops = load_crops(listing, progress=False)
    file = tmp_path / "x.npz"
    with pytest.raises(SettingError, match="not a file of `facekit embed"):
        stored_embeddings(str(file), listing, crops, _DIM)
    file.write_bytes(b"no file of numpy's")
    with pytest.raises(SettingError, match="not a file of `facekit embed"):
        stored_embeddings(str(file), listing, crops, _DIM)
    _write(people, file)
    with pytest.raises(SettingError, match="64 numbers and the student to 512"):
        stored_embeddings(str(file), listing, crops, 512)
    _write(people, file, pictures=np.array([f"/elsewhere/{number}.png" for number in range(13)]))
    with pytest.raises(SettingError, match=r"says nothing of 11 of the pictures, as a/0\.png"):
        stored_embeddings(str(file), listing, crops, _DIM)
    objects = np.array([{}], dtype=object)
    _write(people, file, pictures=objects)
    with pytest.raises(SettingError, match="not a file of `facekit embed"):
        stored_embeddings(str(file), listing, crops, _DIM)
