"""The examples run as they are, on the pictures that ship."""

from __future__ import annotations

import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from facekit.checkpoint import Calibration, load_checkpoint, save_checkpoint

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def checkpoints(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two that differ, with thresholds."""
    folder = tmp_path_factory.mktemp("checkpoints")
    loaded = load_checkpoint(tiny_checkpoint)
    assert isinstance(loaded.model, torch.nn.Module)
    table = Calibration("nobody", 1000, 1000, {1e-1: 0.9, 1e-3: 0.99})
    config = replace(loaded.config, threshold=0.95, calibration=table)
    save_checkpoint(folder / "a", loaded.model, config)
    save_checkpoint(folder / "b", loaded.model, replace(config, flip_average=True, calibration=None))
    return [str(folder / "a"), str(folder / "b")]


def run(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_verify_faces(
    checkpoints: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("verify_faces.py", checkpoints[:1], monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert "similarity" in lines[0]
    assert "threshold 0.990" in lines[1]
    assert "similar enough for me" in lines[2]


def test_build_gallery(
    checkpoints: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("build_gallery.py", checkpoints[:1], monkeypatch)
    out = capsys.readouterr().out
    assert out.startswith("5 people, 15 pictures")
    assert len(out.splitlines()) == 1 + 7 + 3  # one face a picture; of many, three


def test_find_duplicates(
    checkpoints: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pictures: Path,
    tmp_path: Path,
) -> None:
    """On one picture that is there twice, which even a network that knows nobody can tell."""
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(pictures / "people" / "P001" / "studio_portrait.jpg", tmp_path / name)
    run("find_duplicates.py", [checkpoints[0], str(tmp_path)], monkeypatch)
    out = capsys.readouterr().out
    assert "2 pictures, similarity 1.000 to 1.000" in out
    assert "pictures to go: 1" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.jpg"]


def test_upgrade_model(
    checkpoints: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pictures: Path,
) -> None:
    people = pictures / "people" / "P001"
    run("upgrade_model.py", [*checkpoints, str(people)], monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert "people.gallery: made by checkpoint faceresnet-" in lines[0]
    assert len(lines) == 1 + 3 + 1
