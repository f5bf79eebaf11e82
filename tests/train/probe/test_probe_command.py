"""``python -m facekit.train probe``: from argv to cells and a table, resumed, shared out, and bad input."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest
import torch
from PIL import Image

from facekit.errors import SettingError
from facekit.train.__main__ import main
from facekit.train.probe.backbone import open_backbone
from facekit.train.probe.command import ProbeSettings, _named, _networks
from facekit.train.probe.examples import Examples, Picture, tasked
from facekit.train.probe.frozen import LinearSettings
from facekit.train.probe.job import Job, Trial, _fingerprint
from facekit.train.probe.layouts import open_examples
from facekit.train.probe.neighbours import NeighbourSettings
from facekit.train.probe.subsets import Labels
from facekit.train.probe.table import read_cells
from facekit.train.probe.tasks import task_of
from facekit.train.probe.work import Network, Work, run_work

CELL = tuple[str, str, str, int]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of pictures and a checkpoint."""
    folder = tmp_path_factory.mktemp("probe")
    made.write_set(folder / "tints", {"train": 12, "validation": 6, "test": 8}, made.tinted)
    made.tiny_checkpoint(folder / "tiny" / "checkpoint")
    return folder


def run(place: Path, out: Path, *argv: str) -> int:
    return main([*argv, "--data", str(place / "tints"), "--out", str(out), "--device", "cpu"])


def cells(out: Path) -> dict[CELL, dict[str, float]]:
    return {(c.method, c.mode, c.labels, c.seed): dict(c.scores) for c in read_cells(out / "cells")}


def test_networks_side_by_side(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = str(place / "tiny" / "checkpoint")
    words = ("probe", "fewshot", tiny, "raw=pixels", "--fraction", "0.5", "1")
    words += ("--seeds", "2", "--epochs", "1", "--least-steps", "1", "--batch-size", "12", "--decays", "0.1")
    assert run(place, tmp_path, *words) == 0
    found = cells(tmp_path)
    seeds = [("50 %", 0), ("50 %", 1), ("100 %", 0)]
    frozen = {(name, "linear", *seed) for name in ("tiny", "raw") for seed in seeds}
    tuned = {("tiny", "finetune", labels, seed) for labels in ("50 %", "100 %") for seed in (0, 1)}
    assert set(found) == frozen | tuned
    assert all(scores["accuracy"] > 0.8 for cell, scores in found.items() if cell in frozen)
    shown = capsys.readouterr().out
    assert (tmp_path / "table.md").read_text() == shown[:-1]
    assert all(name in shown for name in ("tiny", "raw", "finetune", "accuracy"))
    first = [line.split()[1] for line in shown.splitlines() if line.startswith("| ")]
    assert list(dict.fromkeys(first))[2:4] == ["tiny", "raw"]  # as they were named
    assert json.loads((tmp_path / "table.json").read_text())["results"]
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")
    cell = next(c for c in read_cells(tmp_path / "cells") if c.method == "tiny" and c.mode == "finetune")
    assert cell.settings["pictures"] == [24, 12, 16]
    assert (cell.settings["size"], cell.settings["epochs"], cell.settings["chosen"]["at"] <= 2) == (
        16,
        1,
        True,
    )
    assert cell.settings["labels"]["count"] in (12, 24)
    assert cell.settings["network"].startswith("faceresnet-")


def test_what_is_done_is_not_done_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    words = ("probe", "knn", "pixels", "--size", "16", "--fraction", "0.5", "--seeds", "3")
    done: list[tuple[Any, ...]] = []
    finish = Job.run

    def two_at_most(job: Job) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job.key)
        return finish(job)

    monkeypatch.setattr(Job, "run", two_at_most)
    assert run(place, tmp_path, *words) == 130
    assert sorted(cells(tmp_path)) == [("pixels", "knn", "50 %", seed) for seed in (0, 1)]
    before = cells(tmp_path)

    done.clear()
    assert run(place, tmp_path, *words) == 0
    assert [key[-1] for key in done] == [2]
    assert {cell: scores for cell, scores in cells(tmp_path).items() if cell in before} == before

    done.clear()
    assert run(place, tmp_path, *words) == 0
    assert done == []
    assert run(place, tmp_path, *words, "--neighbours", "3") == 130  # another question: all three anew
    assert [key[-1] for key in done] == [0, 1]
    assert "in the place of one with other settings" in caplog.text
    assert "pixels, tints, classes, knn, 50 % of the labels, seed 0: accuracy" in caplog.text


def test_other_pictures_of_the_same_names_are_another_set(place: Path, tmp_path: Path) -> None:
    words = ("probe", "knn", "pixels", "--size", "16")
    assert run(place, tmp_path, *words) == 0
    generator = np.random.default_rng(1)
    for picture in shutil.copytree(place / "tints", tmp_path / "other" / "tints").rglob("*.png"):
        Image.fromarray(generator.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(picture)
    data = ["--data", str(tmp_path / "other" / "tints"), "--out", str(tmp_path), "--device", "cpu"]
    assert main([*words, *data]) == 0
    assert cells(tmp_path)["pixels", "knn", "100 %", 0]["accuracy"] < 0.9
    moved = tmp_path / "moved" / "tints"
    shutil.copytree(place / "tints", moved)
    here, there = open_examples(place / "tints"), open_examples(moved)
    assert _fingerprint(here) == _fingerprint(there) != _fingerprint(open_examples(Path(data[1])))
    boxes = [replace(picture, box=(0, 0, 9, 9)) for picture in here.pictures]
    assert _fingerprint(replace(here, pictures=boxes)) != _fingerprint(here)


def test_what_cannot_be_scored_says_where(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.write_set(tmp_path / "s", {"train": 4, "validation": 2, "test": 2}, made.tinted)
    lines = [
        f"{path.relative_to(tmp_path / 's')},{path.relative_to(tmp_path / 's').parts[0]},{number % 2},0"
        for number, path in enumerate(sorted((tmp_path / "s").rglob("*.png")))
    ]
    lines = [
        line[:-1] + ("0.5" if "valid" in line else str(number / 20)) for number, line in enumerate(lines)
    ]
    (tmp_path / "s" / "list.csv").write_text("\n".join(["path,split,valence,arousal", *lines]))
    words = (
        "probe",
        "linear",
        "pixels",
        "--size",
        "16",
        "--data",
        str(tmp_path / "s"),
        "--out",
        str(tmp_path),
    )
    assert main([*words, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "s (affect): 4 validation pictures, by which models are chosen: " in error


def test_nearest_neighbours_are_the_same_for_every_seed(place: Path, tmp_path: Path) -> None:
    words = ("probe", "knn", "pixels", "--size", "16", "--first", "20")
    assert run(place, tmp_path, *words) == 0
    assert list(cells(tmp_path)) == [("pixels", "knn", "first 20", 0)]


def test_processes_share_the_cells(place: Path, tmp_path: Path) -> None:
    examples = made.classes(tmp_path / "set", (6, 3, 4))

    def share(number: int, of: int, folder: str) -> dict[CELL, dict[str, float]]:
        run_work(
            Work(
                networks=(Network("a", "pixels", 16), Network("b", "scratch:resnet10t", 32)),
                sets=(examples,),
                labels=(Labels(0.5), Labels()),
                modes=(NeighbourSettings(),),
                seeds=2,
                device=made.CPU,
                folder=tmp_path / folder,
                share=(number, of),
            )
        )
        return {(c.method, c.mode, c.labels, c.seed): dict(c.scores) for c in read_cells(tmp_path / folder)}

    whole = share(0, 1, "whole")
    parts = share(0, 3, "0"), share(1, 3, "1"), share(2, 3, "2")
    assert len(whole) == 7
    assert sum(map(len, parts)) == 7
    assert {cell: scores for part in parts for cell, scores in part.items()} == whole


def test_what_cannot_be_done_is_said_and_left_out(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    words = ("probe", "finetune", "pixels", "tiny=" + str(place / "tiny" / "checkpoint"), "--epochs", "1")
    words += ("--least-steps", "1", "--seeds", "1")
    assert run(place, tmp_path, *words) == 0
    assert caplog.text.count("left out: pixels on tints: it has no weights that could be fine-tuned") == 1
    assert list(cells(tmp_path)) == [("tiny", "finetune", "100 %", 0)]
    assert run(place, tmp_path / "other", "probe", "finetune", "pixels") == 2
    assert "error: nothing to do: none of the networks can be probed like this" in capsys.readouterr().err


def job(task: str, source: str, settings: Any) -> Job:
    """A task and a network that may not go together."""
    backbone = open_backbone(source, size=32, seed=0, device=made.CPU)
    targets = torch.rand(6, 5, 2) if task == "landmarks" else torch.rand(6, 2)
    split = torch.tensor([0, 0, 0, 1, 2, 2], dtype=torch.uint8)
    examples = Examples("made", task, ("a", "b"), [Picture(Path("none"))] * 6, targets, split)
    rows = examples.rows(0)
    return Job(Trial("net", backbone, examples), task_of(examples, rows), Labels(), rows, settings, 0)


def test_hindrances() -> None:
    assert job("landmarks", "pixels", LinearSettings()).hindrance() == (
        "net on made: it has no map of features, which landmarks are told from"
    )
    assert job("affect", "pixels", NeighbourSettings()).hindrance() == (
        "net on made: nearest neighbours do not tell affect"
    )
    assert job("affect", "pixels", LinearSettings()).hindrance() is None
    assert not job("affect", "pixels", LinearSettings()).varies()
    assert job("landmarks", "scratch:resnet10t", LinearSettings()).hindrance() is None


def test_the_tables_of_several_folders(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        assert run(place, tmp_path / name, "probe", "knn", f"{name}=pixels", "--size", "16") == 0
    capsys.readouterr()
    both = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(["probe", "table", *both, "--out", str(tmp_path / "both")]) == 0
    shown = capsys.readouterr().out
    assert "| a " in shown
    assert "| b " in shown
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == [
        "table.json",
        "table.md",
        "table.png",
    ]
    assert main(["probe", "table", str(place)]) == 2
    assert "holds no results; give the --out of a probe" in capsys.readouterr().err


def test_names_and_sources(tmp_path: Path) -> None:
    folder = tmp_path / "vcl" / "checkpoint"
    folder.mkdir(parents=True)
    assert _named(str(folder)) == ("vcl", str(folder))
    assert _named(str(folder.parent)) == ("vcl", str(folder.parent))
    assert _named(f"mine={folder}") == ("mine", str(folder))
    assert _named("scratch:resnet18,stem=full") == ("scratch:resnet18,stem=full",) * 2
    assert _named("r18=scratch:resnet18,stem=full") == ("r18", "scratch:resnet18,stem=full")
    assert _named("owner/name") == ("owner/name", "owner/name")
    (tmp_path / "a=b").mkdir()
    assert _named(str(tmp_path / "a=b")) == ("a=b", str(tmp_path / "a=b"))
    assert tasked("landmarks=x/y") == ("landmarks", Path("x/y"))
    assert tasked("x/y") == (None, Path("x/y"))


def test_the_size_of_what_has_none_is_that_of_the_checkpoints(place: Path, tmp_path: Path) -> None:
    def sizes(*networks: str, size: int | None = None) -> list[int | None]:
        what = ProbeSettings(networks=networks, data=("x",), out=tmp_path, size=size)
        return [network.size for network in _networks(what)]

    tiny = str(place / "tiny" / "checkpoint")
    assert sizes("pixels", tiny) == [16, None]
    assert sizes("pixels", "scratch:resnet10t") == [112, 112]
    assert sizes("pixels", tiny, size=32) == [32, 32]


def test_all_networks_are_opened_before_the_first_is_probed(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, tmp_path, "probe", "knn", "pixels", "/none/such.pth", "--size", "16") == 2
    assert "/none/such.pth: no such file or folder" in capsys.readouterr().err
    assert not read_cells(tmp_path / "cells")


def test_a_broken_picture_is_named_with_its_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.write_set(tmp_path / "tints", {"train": 3, "validation": 2, "test": 2}, made.tinted)
    broken = tmp_path / "tints" / "test" / "lying" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    assert run(tmp_path, tmp_path / "out", "probe", "knn", "pixels", "--size", "16") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {broken}: damaged or cut short")
    assert "replace the file (or take it out of tints: " in line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("knn", "pixels", "pixels"), "networks=pixels: two of one name; write NAME=SOURCE"),
        (("knn", "pixels", "--fraction", "2"), "fraction=2.0: give a share of the labels in (0, 1]"),
        (("knn", "pixels", "--first", "99"), "first=99: tints has 24 pictures to train on; ask for fewer"),
        (("knn", "=pixels"), "=pixels: no such file or folder"),
        (("knn", "/none/such.pth"), "/none/such.pth: no such file or folder"),
        (("knn", "scratch:resnet9"), "architecture: 'resnet9' is not known"),
        (("knn", "pixels", "--divergence", "bregman"), "divergence=bregman: pixels/head.safetensors is not"),
    ],
)
def test_bad_input_is_one_line(
    words: tuple[str, ...], line: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, tmp_path, "probe", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert line in error
    assert error.count("\n") == 1
    assert not read_cells(tmp_path / "cells")


def test_bad_sets_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path)]
    assert main(["probe", "knn", "pixels", "--data", "colours=x", *out]) == 2
    assert "data=colours=x: 'colours' is no task; there are identities, classes" in capsys.readouterr().err
    made.classes(tmp_path / "s", (2, 1, 1))
    twice = [str(tmp_path / "s"), str(tmp_path / "s")]
    assert main(["probe", "knn", "pixels", "--data", *twice, *out]) == 2
    assert "two sets are ('s', 'classes')" in capsys.readouterr().err
    assert main(["probe"]) == 2
    assert "facekit.train probe {knn|linear|finetune|fewshot|table}" in capsys.readouterr().err


def test_settings_that_compare_nothing(tmp_path: Path) -> None:
    good: dict[str, Any] = {"networks": ("pixels",), "data": ("x",), "out": tmp_path}
    for bad in ({"networks": ()}, {"data": ()}, {"seeds": 0}, {"size": 0}):
        with pytest.raises(SettingError, match=f"{next(iter(bad))}="):
            ProbeSettings(**{**good, **bad})
