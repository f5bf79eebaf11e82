"""What the command line says where something goes wrong: code 2, one line, nothing that steers a terminal."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from facekit.checkpoint import load_checkpoint, save_checkpoint
from facekit.cli import demo, gallery, main

Out = pytest.CaptureFixture[str]


@pytest.fixture
def tiny(tiny_checkpoint: Path) -> list[str]:
    return ["--checkpoint", str(tiny_checkpoint), "--device", "cpu"]


def error_of(captured: Any) -> str:
    """The one line that is on stderr, and nothing but it anywhere."""
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return str(line)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "a.gallery"), "a.gallery: No space left on device"),
        (OSError("broken"), "OSError: broken"),
        (MemoryError(), "out of memory; use smaller pictures, or fewer at a time"),
        (RuntimeError("two\nlines"), "RuntimeError: two lines"),
    ],
)
def test_no_error_reads_as_different_people(
    monkeypatch: pytest.MonkeyPatch, capsys: Out, error: Exception, line: str
) -> None:
    def fail(path: str) -> None:
        raise error

    monkeypatch.setattr(gallery.Gallery, "load", fail)
    assert main(["gallery", "info", "a.gallery"]) == 2
    assert error_of(capsys.readouterr()) == f"error: {line}"


@pytest.mark.parametrize("command", [["embed", "--out", "a.npz"], ["gallery", "search", "--gallery", "a"]])
def test_pictures_are_asked_for(command: list[str], capsys: Out) -> None:
    assert main(command) == 2
    assert "PICTURE: none given" in error_of(capsys.readouterr())


def test_a_place_for_the_result_is_looked_for_before_the_work(tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "folder.npz").mkdir()
    nowhere = ["--checkpoint", "never read"]
    for command in (["embed", "a.jpg"], ["gallery", "build", "people"]):
        assert main([*command, "--out", str(tmp_path / "folder.npz"), *nowhere]) == 2
        assert "is a folder; name a file" in error_of(capsys.readouterr())
        assert main([*command, "--out", str(tmp_path / "no" / "a.npz"), *nowhere]) == 2
        assert "is in no existing folder" in error_of(capsys.readouterr())


def test_a_place_under_a_file_or_too_long_is_one_line(
    pictures: Path, tmp_path: Path, tiny: list[str], capsys: Out
) -> None:
    out = str(tmp_path / ("x" * 300 + ".npz"))
    assert main(["embed", str(pictures / "people/P001/studio_portrait.jpg"), "--out", out, *tiny]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {out}: cannot be written (File name too long)"


def test_names_of_files_do_not_steer_the_terminal(
    pictures: Path, tmp_path: Path, tiny: list[str], capsys: Out
) -> None:
    people = tmp_path / "people\x1b[31m"
    people.mkdir()
    shutil.copy(pictures / "people/P001/studio_portrait.jpg", people / "Ann\x1b[2J.jpg")
    (people / "cut\r.jpg").write_bytes(b"")
    out = str(tmp_path / "a\x07.gallery")
    assert main(["gallery", "build", str(people), "--out", out, *tiny]) == 0
    assert main(["gallery", "info", out]) == 0
    search = ["gallery", "search", str(people), "--gallery", out, "--threshold", "0.5", *tiny]
    assert main(search) == 0
    assert main(["embed", str(people), "--out", str(tmp_path / "a.npz"), *tiny]) == 0
    assert main(["gallery", "info", "no\x1b[2J"]) == 2
    captured = capsys.readouterr()
    assert all(line.isprintable() for line in (captured.out + captured.err).split("\n"))
    assert "Ann\\x1b[2J" in captured.out


def test_what_a_checkpoint_says_does_not_steer_the_terminal(
    tiny_checkpoint: Path, tmp_path: Path, capsys: Out
) -> None:
    loaded = load_checkpoint(tiny_checkpoint)
    assert isinstance(loaded.model, torch.nn.Module)
    says = replace(loaded.config, license="MIT\x1b[2J", recipe={"name\x07": "a\nb"})
    save_checkpoint(tmp_path / "says", loaded.model, says)
    assert main(["model", "info", str(tmp_path / "says")]) == 0
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "MIT\\x1b[2J" in shown
    assert main(["model", "info", str(tmp_path / "says"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["license"] == "MIT\x1b[2J"


def test_a_demo_without_room_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    def full(*args: Any) -> None:
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device")] * 9)

    monkeypatch.setattr(demo.shutil, "copytree", full)
    monkeypatch.setattr(demo.Demo, "__call__", lambda self: demo._find_repeated(None, 0.5))
    assert main(["demo"]) == 2
    assert "has no room for a few pictures" in error_of(capsys.readouterr())
