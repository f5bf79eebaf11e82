"""Photographs of people become the crops that training takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facekit.align import align_faces
from facekit.cli.align import Align
from facekit.detect import FaceDetector
from facekit.errors import ImageError, SettingError
from facekit.image import load_image
from facekit.train.config import DataSettings
from facekit.train.data import load_crops, read_listing


@pytest.fixture
def people(pictures: Path, tmp_path: Path) -> Path:
    """Two people with a photograph each, one without a face, one that is broken."""
    folder = tmp_path / "people"
    for person in ("P001", "P005"):
        (folder / person).mkdir(parents=True)
        shutil.copy(pictures / "people" / person / "studio_portrait.jpg", folder / person / "portrait.jpg")
    Image.new("RGB", (300, 200), "gray").save(folder / "P001" / "wall.png")
    (folder / "P005" / "broken.jpg").write_bytes(b"no picture")
    return folder


def test_crops_are_what_the_pipeline_sees(people: Path, tmp_path: Path) -> None:
    assert Align(str(people), str(tmp_path / "crops"), device="cpu")() == 0
    made = sorted(
        path.relative_to(tmp_path / "crops").as_posix() for path in (tmp_path / "crops").rglob("*.*")
    )
    assert made == ["P001/portrait.jpg.png", "P005/portrait.jpg.png"]
    photo = torch.from_numpy(load_image(people / "P001" / "portrait.jpg"))
    found = max(FaceDetector("cpu").detect([photo])[0], key=lambda face: face.size)
    expected = align_faces([photo], [0], torch.from_numpy(found.landmarks)[None])[0].permute(1, 2, 0).numpy()
    assert np.array_equal(load_image(tmp_path / "crops" / made[0]), expected)
    settings = DataSettings(data=tmp_path / "crops", heldout=0)
    crops = load_crops(read_listing(settings)[0], progress=False)
    assert crops.pictures.shape == (2, 3, 112, 112)


def test_a_second_call_goes_on_and_tells_what_was_left_out(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    align = Align(str(people), str(tmp_path / "crops"), device="cpu", json=True)
    align()
    first = json.loads(capsys.readouterr().out)
    assert (first["made"], first["there"]) == (2, 0)
    assert sorted(Path(path).name for path in first["skipped"]) == ["broken.jpg", "wall.png"]
    assert any("no face found" in reason for reason in first["skipped"].values())
    (tmp_path / "crops" / "P005" / "portrait.jpg.png").unlink()
    align()
    second = json.loads(capsys.readouterr().out)
    assert (second["made"], second["there"]) == (1, 1)


def test_a_name_that_is_too_long_stops_nobody_else(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = people / "P001" / f"{'a' * 245}.jpg"
    (people / "P001" / "portrait.jpg").rename(long)
    assert Align(str(people), str(tmp_path / "crops"), device="cpu", json=True)() == 0
    told = json.loads(capsys.readouterr().out)
    assert told["made"] == 1
    assert "rename the picture" in told["skipped"][str(long)]


def test_bad_requests_are_one_line(people: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="choose one face"):
        Align(str(people), str(tmp_path / "crops"), faces="all")()
    with pytest.raises(ImageError):
        Align(str(tmp_path / "nowhere"), str(tmp_path / "crops"))()
    for inside in (people, people / "crops"):  # crops are no photographs, the next call would think so
        with pytest.raises(SettingError, match="give a folder outside"):
            Align(str(people), str(inside))()
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="cannot be written"):
        Align(str(people), str(tmp_path / "file"), device="cpu")()
