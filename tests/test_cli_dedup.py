"""``facekit dedup plan`` before, and where there is nothing to, do the work; the rest is in test_cli.py."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from facekit.checkpoint import Calibration, load_checkpoint, save_checkpoint
from facekit.cli import main
from facekit.removal import RemovalPlan

Out = pytest.CaptureFixture[str]


@pytest.fixture
def photos(pictures: Path, tmp_path: Path) -> Path:
    """A picture three times."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        shutil.copy(pictures / "people/P005/studio_portrait.jpg", folder / name)
    return folder


def plan(folder: Path, out: Path, checkpoint: Path, *more: str) -> int:
    return main(["dedup", "plan", str(folder), "--out", str(out), "--checkpoint", str(checkpoint), *more])


def test_a_photograph_is_not_written_over(photos: Path, tiny_checkpoint: Path, capsys: Out) -> None:
    before = (photos / "a.jpg").read_bytes()
    assert plan(photos, photos / "a.jpg", tiny_checkpoint, "--threshold", "0.9") == 2
    assert "a.jpg: exists, and is not a removal plan" in capsys.readouterr().err
    assert (photos / "a.jpg").read_bytes() == before


def test_what_cannot_be_written_is_said_before_the_work(photos: Path, tmp_path: Path, capsys: Out) -> None:
    """Even before the checkpoint, which is missing, is looked for."""
    assert plan(photos, tmp_path / "no/plan.json", tmp_path / "no checkpoint") == 2
    assert "plan.json: is in no existing folder" in capsys.readouterr().err
    assert plan(photos, photos, tmp_path / "no checkpoint") == 2
    assert "photos: exists, and is not a removal plan" in capsys.readouterr().err


def test_a_folder_of_nothing_usable_is_code_2(tmp_path: Path, tiny_checkpoint: Path, capsys: Out) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"no picture")
    out = tmp_path / "plan.json"
    assert plan(tmp_path / "photos", out, tiny_checkpoint, "--threshold", "0.9") == 2
    assert "photos: no usable face in any of 1 picture; nothing was written" in capsys.readouterr().err
    assert not out.exists()


def test_a_plan_says_how_often_chance_is_expected(
    photos: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: Out
) -> None:
    loaded = load_checkpoint(tiny_checkpoint)
    table = Calibration("planted", 10**6, 10**4, {1e-1: 0.5, 1e-4: 0.9})
    save_checkpoint(tmp_path / "measured", loaded.model, replace(loaded.config, calibration=table))
    for _ in range(2):  # over another plan it is written
        assert plan(photos, tmp_path / "plan.json", tmp_path / "measured") == 0
        expected = "3 pairs of faces compared: up to about 0.0003 of them reach the threshold by chance"
        assert expected in capsys.readouterr().err
    settings = json.loads((tmp_path / "plan.json").read_text())["settings"]
    assert (settings["far"], settings["compared"]) == (1e-4, 3)
    assert len(RemovalPlan.load(tmp_path / "plan.json").removed) == 2
