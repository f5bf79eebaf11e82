"""``python -m facekit.train finetune``: small runs with and without a pile, interrupted, and bad input."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import facekit.models
from facekit.checkpoint import ModelConfig, load_checkpoint, save_checkpoint
from facekit.errors import SettingError, TrainingError
from facekit.models.faceresnet import FaceResNet
from facekit.train import processes
from facekit.train.__main__ import main
from facekit.train.best import BestMoment
from facekit.train.config import DataSettings, OptimSettings, RunSettings
from facekit.train.data import Crops, Listing
from facekit.train.loop import fit
from facekit.train.network import NetworkSettings
from facekit.train.outputs import write_head
from facekit.train.probe.examples import examples_digest
from facekit.train.probe.table import read_cells
from facekit.train.probe.unlabelled import Unlabelled
from facekit.train.recipe import Recipe, Step
from facekit.train.recipes import finetune
from facekit.train.recipes.finetune import FineTuningSettings, PseudoSettings, build_recipe
from facekit.train.run import train_once
from facekit.train.settings import portable

_DOCS = Path(__file__).parents[2] / "docs" / "few-labels.md"
_SPLITS = ["train"] * 16 + ["validation"] * 4 + ["test"] * 4


@pytest.fixture(autouse=True, scope="module")
def small_runs() -> Iterator[None]:
    def build(**sizes: Any) -> FaceResNet:
        small = {"widths": (8, 16), "depths": (1, 1), "stem_width": 8, "embedding_dim": 12}
        return FaceResNet(**(sizes or small))

    known = MappingProxyType({**facekit.models.ARCHITECTURES, "faceresnet": build})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(facekit.models, "ARCHITECTURES", known)
        yield


def _draw(path: Path, *, warm: int, bright: int, generator: np.random.Generator) -> None:
    tint = np.array([40, 0, -40]) * (1 if warm else -1) + (45 if bright else -45)
    pixels = 128 + tint + generator.normal(0, 15, (16, 16, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of attributes that share one name, one of classes, one of points, and a pile."""
    folder = tmp_path_factory.mktemp("sets")
    generator = np.random.default_rng(0)
    tables: dict[str, list[str]] = {
        "a": ["path,split,warm,bright"],
        "b": ["path,split,bright,cold"],
        "c": ["path,split,label"],
        "f": ["path,split,valence,arousal"],
        "p": ["path,split,x_left_eye,y_left_eye,x_right_eye,y_right_eye"],
    }
    for name, lines in tables.items():
        for number, split in enumerate(_SPLITS):
            warm, bright = number % 2, number // 2 % 2
            path = f"{name}/{number:02d}.png"
            _draw(folder / path, warm=warm, bright=bright, generator=generator)
            said = {
                "a": f"{warm},{bright}",
                "b": f"{bright},{1 - warm}",
                "c": ("cold", "warm")[warm],
                "f": f"{0.4 if warm else -0.4},{0.3 if bright else -0.5}",
                "p": f"{3 + warm},5,{12 - warm},5",
            }
            lines.append(f"{path},{split},{said[name]}")
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    for number in range(20):
        warm, bright = number % 2, number // 2 % 2
        _draw(folder / "pile" / f"{number}.png", warm=warm, bright=bright, generator=generator)
    return folder


def _run(out: Path, *argv: str) -> int:
    common = ["--architecture", "faceresnet", "--size", "16", "--resolution", "16", "--device", "cpu"]
    common += ["--precision", "fp32", "--batch-size", "8", "--epochs", "2", "--lr", "0.003"]
    try:
        return main(["finetune", *common, *argv, "--out", str(out)])
    except SystemExit as ended:  # what the flags' parser refuses by itself
        return int(ended.code or 0)


def _settings(place: Path, out: Path, **more: Any) -> FineTuningSettings:
    return FineTuningSettings(
        data=(f"attributes={place / 'a.csv'}",),
        run=RunSettings(out=out, epochs=2, batch_size=4, device="cpu", precision="fp32"),
        network=NetworkSettings(architecture="faceresnet", size=16, resolution=16),
        **more,
    )


def _with_pile(place: Path, out: Path, **more: Any) -> FineTuningSettings:
    pseudo = PseudoSettings(**{"threshold": 0.5, "ramp": (0.0, 0.5), **more})
    return _settings(place, out, unlabelled=place / "pile", pseudo=pseudo)


def _events(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


# ---------------------------------------------------------------- whole runs


def test_two_sets_that_share_a_name_train_together(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [f"attributes={place / name}.csv" for name in "ab"]
    assert _run(tmp_path, "--data", *sets, "--epochs", "6") == 0
    shown = capsys.readouterr().out
    assert (tmp_path / "table.md").read_text() in shown
    (cell,) = read_cells(tmp_path / "cells")
    assert (cell.set, cell.method, cell.labels) == ("a + b", "supervised", "32")
    assert set(cell.scores) == {"macro_f1", "accuracy"}
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    assert checkpoint.config.recipe["name"] == "finetune"
    assert checkpoint.config.recipe["settings"]["data"] == ["attributes=a.csv", "attributes=b.csv"]
    with safe_open(tmp_path / "head.safetensors", "pt") as file:
        outputs = json.loads(file.metadata()["outputs"])
    assert outputs == {"task": "attributes", "names": ["warm", "bright", "cold"], "sees": "vector"}
    epochs = _events(tmp_path, "epoch")
    best = max(epoch["validation_macro_f1"] for epoch in epochs)
    first = next(epoch for epoch in epochs if epoch["validation_macro_f1"] == best)
    assert cell.settings["chosen"] == {"at": first["step"], "validation": best}


def test_the_lines_of_the_page_give_predictions(place: Path, tmp_path: Path) -> None:
    """Those of the test pictures, as they were measured."""
    assert _run(tmp_path, "--data", f"attributes={place / 'a.csv'}", "--epochs", "2") == 0
    code = re.findall(r"```python\n(.*?)```", _DOCS.read_text(), flags=re.DOTALL)[0]
    found: dict[str, Any] = {}
    exec(code.replace("runs/attributes", str(tmp_path)), found)  # the page's own lines
    tested = [number for number, split in enumerate(_SPLITS) if split == "test"]
    crops = [np.asarray(Image.open(place / "a" / f"{number:02d}.png")) for number in tested]
    told = found["predict"](torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)) > 0
    truth = torch.tensor([[number % 2, number // 2 % 2] for number in tested]) == 1
    (cell,) = read_cells(tmp_path / "cells")
    assert found["names"] == ["warm", "bright"]
    assert float((told == truth).float().mean()) == pytest.approx(cell.scores["accuracy"])


@pytest.mark.parametrize("table", ["c", "p"])
def test_other_tasks(place: Path, tmp_path: Path, table: str) -> None:
    assert _run(tmp_path, "--data", str(place / f"{table}.csv")) == 0
    (cell,) = read_cells(tmp_path / "cells")
    assert cell.task == {"c": "classes", "p": "landmarks"}[table]
    head = load_file(tmp_path / "head.safetensors")
    assert len(head["weight" if table == "c" else "locate.weight"]) == 2


def test_what_comes_trained_learns_at_a_rate_of_its_own(place: Path, tmp_path: Path) -> None:
    grey = (127.5, 127.5, 127.5)
    config = ModelConfig("faceresnet", 12, 16, "rgb", grey, grey)
    save_checkpoint(tmp_path / "start", facekit.models.build("faceresnet"), config)
    settings = _settings(place, tmp_path / "run", optim=OptimSettings(lr=1e-3, backbone_lr=1e-4))
    for init, lr in {None: 1e-3, str(tmp_path / "start"): 1e-4}.items():
        recipe = build_recipe(replace(settings, network=replace(settings.network, init=init)))
        rates = {parameter: group["lr"] for group in recipe.groups for parameter in group["params"]}
        assert {rates[parameter] for parameter in recipe.modules["backbone"].parameters()} == {lr}
        assert {rates[parameter] for parameter in recipe.modules["head"].parameters()} == {1e-3}


def test_affect_compares_the_pictures_of_a_batch_which_is_not_cut(place: Path, tmp_path: Path) -> None:
    settings = replace(_settings(place, tmp_path / "run"), data=(f"affect={place / 'f.csv'}",))
    settings = replace(settings, run=replace(settings.run, micro_batch=2))
    with pytest.raises(SettingError, match="micro_batch=2: this recipe compares the pictures of a batch"):
        fit(build_recipe(settings), settings.run, settings.optim)


def test_with_a_pile_the_run_without_it_stands_beside(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--data", f"classes={place / 'c.csv'}", "--unlabelled", str(place / "pile"))
    words += ("--threshold", "0.6", "--epochs", "3")
    assert _run(tmp_path, *words) == 0
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in table.splitlines() if "finetune" in line]
    assert rows[:2] == ["supervised", "pseudo-labels"]
    document = json.loads((tmp_path / "table.json").read_text())
    alone, both = (read_cells(tmp_path / folder / "cells")[0] for folder in ("supervised", "."))
    assert document["gain"] == pytest.approx(both.scores["accuracy"] - alone.scores["accuracy"])
    assert document["verdict"] in table
    steps = [_events(tmp_path / folder, "epoch")[-1]["step"] for folder in ("supervised", ".")]
    assert steps[0] == steps[1]
    epochs = _events(tmp_path, "epoch")
    assert len(epochs) == 3
    assert all(0 <= epoch["confident"] <= 1 for epoch in epochs)
    assert epochs[0]["pseudo_weight"] < epochs[-1]["pseudo_weight"]
    began = (tmp_path / "supervised" / "log.jsonl").stat().st_mtime_ns
    assert _run(tmp_path, *words) == 0  # all is done: nothing is trained anew
    assert (tmp_path / "supervised" / "log.jsonl").stat().st_mtime_ns == began
    assert (tmp_path / "table.md").read_text() == table
    assert _run(tmp_path, *words, "--weight-decay", "0.5") == 2
    assert "goes on with optim.weight_decay=0.5, which was 0.01; what is compared" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (
            ("--threshold", "0.999999"),
            "as sure as --threshold 0.999999, so nothing was learnt from it; lower",
        ),
        (("--weight", "0"), "by --weight and --ramp nothing of the pile was learnt"),
        (("--threshold", "0.5", "--ramp", "1", "1"), "by --weight and --ramp nothing of the pile was learnt"),
    ],
)
def test_a_pile_that_taught_nothing_is_not_called_a_gain_that_is_nil(
    flags: tuple[str, ...], why: str, place: Path, tmp_path: Path
) -> None:
    words = ("--data", f"classes={place / 'c.csv'}", "--unlabelled", str(place / "pile"))
    assert _run(tmp_path, *words, *flags) == 0
    assert why in json.loads((tmp_path / "table.json").read_text())["verdict"]
    assert why in (tmp_path / "table.md").read_text()
    assert _same(tmp_path / "checkpoint", tmp_path / "supervised" / "checkpoint")


def test_a_run_of_other_labels_is_not_compared_with(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where labels were mended, or pictures came in, after the run without the pile was finished."""
    table = place / "mended.csv"
    table.write_text((place / "c.csv").read_text())
    words = ("--data", f"classes={table}", "--unlabelled", str(place / "pile"))
    assert _run(tmp_path / "run", *words) == 0
    shutil.copytree(tmp_path / "run" / "supervised", tmp_path / "again" / "supervised")
    header, first, second, *others = table.read_text().splitlines()
    label = header.split(",").index("label")
    one, two = first.split(","), second.split(",")
    assert one[label] != two[label]
    one[label], two[label] = two[label], one[label]
    table.write_text("\n".join([header, ",".join(one), ",".join(two), *others]) + "\n")
    assert _run(tmp_path / "again", *words) == 2
    assert "supervised: learnt from other pictures, labels or splits than" in capsys.readouterr().err
    assert not (tmp_path / "again" / "log.jsonl").exists()
    shutil.rmtree(tmp_path / "run" / "supervised")  # it would learn the new labels, and the other run has not
    assert _run(tmp_path / "run", *words) == 2
    assert f"{tmp_path / 'run'}: learnt from other pictures" in capsys.readouterr().err


def test_what_is_learnt_is_known_from_any_folder_and_at_any_time(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(table: str) -> str:
        return examples_digest(finetune._open(replace(_settings(place, tmp_path), data=(table,))))

    in_full = digest(f"classes={place / 'c.csv'}")
    assert in_full != digest(f"attributes={place / 'a.csv'}")
    monkeypatch.chdir(place)
    assert digest("classes=c.csv") == in_full
    picture = place / "c" / "00.png"
    os.utime(picture, (0, 0))
    assert digest("classes=c.csv") == in_full
    content = picture.read_bytes()
    picture.write_bytes(content + b"more")
    assert digest("classes=c.csv") != in_full
    picture.write_bytes(content)


def test_stopping_while_a_run_ends_stops_the_work(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run without the pile is whole, and the next one has not begun."""

    def write(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        write_head(*arguments)

    monkeypatch.setattr(finetune, "write_head", write)
    words = ("--data", f"classes={place / 'c.csv'}", "--unlabelled", str(place / "pile"))
    assert _run(tmp_path, *words) == 130
    assert "stopped; this run is complete" in capsys.readouterr().err
    assert (tmp_path / "supervised" / "checkpoint" / "config.json").exists()
    assert not (tmp_path / "log.jsonl").exists()
    monkeypatch.undo()
    assert _run(tmp_path, *words) == 0


def test_the_head_names_the_people_that_it_has_centres_of(place: Path, tmp_path: Path) -> None:
    """In the folder of the run, for its owner alone: a checkpoint travels."""
    splits = {"cleo": "train", "anna": "test", "dora": "train", "bert": "validation", "emil": "train"}
    splits |= {"adam": "test", "boris": "validation"}
    lines = [
        f"a/{4 * number + each:02d}.png,{split},{name}"
        for number, (name, split) in enumerate(list(splits.items())[:6])
        for each in range(4)
    ]
    table = place / "people.csv"
    table.write_text("\n".join(["path,split,identity", *lines, "b/00.png,validation,boris"]) + "\n")
    settings = replace(_settings(place, tmp_path), data=(str(table),))
    recipe = build_recipe(settings)
    recipe.modules.eval()
    recipe.export(tmp_path / "checkpoint", recipe.evaluate(Step(0, 0.0, 0.0)))
    with safe_open(tmp_path / "head.safetensors", "pt") as file:
        assert json.loads(file.metadata()["outputs"])["names"] == ["cleo", "dora", "emil"]
        assert len(file.get_tensor("centres")) == 3
    assert (tmp_path / "head.safetensors").stat().st_mode & 0o077 == 0
    kept = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    assert kept == ["config.json", "model.safetensors"]
    assert "cleo" not in (tmp_path / "checkpoint" / "config.json").read_text()


def test_what_was_cut_off_while_it_was_written_is_not_finished(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint, by which a run is found again, comes after all else."""
    recipe = build_recipe(_settings(place, tmp_path))
    recipe.modules.eval()
    scores = recipe.evaluate(Step(0, 0.0, 0.0))
    for last in ("write_head", "write_cell", "write_gain"):
        with monkeypatch.context() as patch:
            patch.setattr(finetune, last, lambda *_, **__: signal.raise_signal(signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                recipe.export(tmp_path / "checkpoint", scores)
        assert not (tmp_path / "checkpoint").exists()
    recipe.export(tmp_path / "checkpoint", scores)
    assert read_cells(tmp_path / "cells")


# ---------------------------------------------------------------- the pile


@pytest.fixture(scope="module")
def supervised(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run without a pile, which those with one find in their folders."""
    out = tmp_path_factory.mktemp("alone")
    settings = _settings(place, out)
    train_once("finetune", settings, build_recipe, learnt=lambda: examples_digest(finetune._open(settings)))
    return out


def _beside(supervised: Path, out: Path) -> Path:
    shutil.copytree(supervised, out / "supervised")
    return out


def _same(one: Path, other: Path) -> bool:
    files = ("model.safetensors", "../head.safetensors")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in files)


def test_a_pile_without_weight_changes_nothing(place: Path, supervised: Path, tmp_path: Path) -> None:
    settings = _with_pile(place, _beside(supervised, tmp_path), weight=0.0)
    checkpoint = fit(build_recipe(settings), settings.run, settings.optim)
    assert _same(checkpoint, supervised / "checkpoint")


def test_an_interrupted_run_learns_the_same_pseudo_labels(
    place: Path, supervised: Path, tmp_path: Path
) -> None:
    """Interrupted within the first of two epochs of four steps, at its end, and within the second."""
    settings = _with_pile(place, _beside(supervised, tmp_path / "whole"), threshold=0.51)
    whole = fit(build_recipe(settings), settings.run, settings.optim)
    assert not _same(whole, supervised / "checkpoint")
    settings = _with_pile(place, _beside(supervised, tmp_path / "parts"), threshold=0.51)
    for after in (2, 4, 7):
        recipe = build_recipe(settings)

        def step(batch: Any, at: Step, after: int = after, recipe: Recipe = recipe) -> Any:
            if at.number + 1 == after:
                signal.raise_signal(signal.SIGTERM)
            return recipe.step(batch, at)

        with pytest.raises(KeyboardInterrupt):
            fit(replace(recipe, step=step), settings.run, settings.optim)
    fit(build_recipe(settings), settings.run, settings.optim)
    assert _same(whole, tmp_path / "parts" / "checkpoint")
    one, other = (_events(tmp_path / name, "epoch") for name in ("whole", "parts"))
    assert [epoch["confident"] for epoch in one] == [epoch["confident"] for epoch in other]
    assert any(0 < epoch["confident"] < 1 for epoch in one)


def test_labels_are_those_of_the_network_at_the_start_of_the_epoch(
    place: Path, supervised: Path, tmp_path: Path
) -> None:
    settings = _with_pile(place, _beside(supervised, tmp_path), threshold=0.51)
    recipe = build_recipe(settings)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    batches = recipe.batches

    def watched(epoch: int, skip: int) -> Iterator[tuple[Tensor, ...]]:
        network = {name: value.clone() for name, value in recipe.modules.state_dict().items()}
        for batch in batches(epoch, skip):
            recipe.modules.eval()
            now = recipe.modules.state_dict()
            kept = {name: value.clone() for name, value in now.items()}
            recipe.modules.load_state_dict({**network, "pile.codes": kept["pile.codes"]})
            x = (batch[3].float() - 127.5) / 127.5
            with torch.no_grad():
                chance = recipe.modules["head"](recipe.modules["backbone"](x)).sigmoid()
            recipe.modules.load_state_dict(kept)
            seen.append((chance, batch[4], batch[5]))
            yield batch

    fit(replace(recipe, batches=watched), settings.run, settings.optim)
    assert len(seen) == 8
    for chance, labels, mirrored in seen:
        sure = torch.maximum(chance, 1 - chance) >= 0.51
        expected = torch.where(sure, (chance >= 0.5).float(), torch.nan)
        torch.testing.assert_close(labels, expected, equal_nan=True)
        torch.testing.assert_close(mirrored, labels, equal_nan=True)  # none of the names has a side
    everything = torch.cat([labels.flatten() for _, labels, _ in seen])
    assert 0 < int(everything.isnan().sum()) < len(everything)
    shares = [epoch["confident"] for epoch in _events(tmp_path, "epoch")]
    measured = torch.stack([(~labels.isnan()).float().mean() for _, labels, _ in seen]).view(2, 4).mean(1)
    assert shares == pytest.approx(measured.tolist(), abs=1e-6)


def test_the_pile_is_looked_at_as_large_as_the_views_that_the_network_knows(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "_train_supervised", lambda *_: None)
    network = NetworkSettings(
        architecture="faceresnet", size=24, start_size=16, start_share=0.5, resolution=24
    )
    recipe = build_recipe(replace(_with_pile(place, tmp_path), network=network))
    sides: list[int] = []
    recipe.modules["backbone"].register_forward_pre_hook(lambda _, x: sides.append(x[0].shape[-1]))
    for epoch in (0, 1):
        next(iter(recipe.batches(epoch, 0)))
        assert set(sides) == {(16, 24)[epoch]}
        sides.clear()


def test_the_processes_of_a_machine_share_the_memory_for_the_pile(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[DataSettings] = []
    monkeypatch.setattr(finetune, "_train_supervised", lambda *_: None)
    monkeypatch.setattr(processes, "beside", lambda: 4)
    open_crops = finetune.open_crops

    def opened(listing: Listing, size: int, settings: DataSettings, *, pin: bool) -> Any:
        told.append(settings)
        return open_crops(listing, size, settings, pin=pin)

    monkeypatch.setattr(finetune, "open_crops", opened)
    build_recipe(replace(_with_pile(place, tmp_path), keep_gb=2.0, workers=0))
    assert [(settings.keep_gb, settings.workers) for settings in told] == [(0.5, 0)]
    with pytest.raises(SettingError, match="keep_gb=-1: give gigabytes"):
        FineTuningSettings(data=("a",), run=RunSettings(out=tmp_path), keep_gb=-1)


def test_a_start_size_that_the_network_does_not_take_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Large(FaceResNet):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] < 24:
                raise RuntimeError("too small")
            return super().forward(x)

    small = {"widths": (8, 16), "depths": (1, 1), "stem_width": 8, "embedding_dim": 12}
    known = {**facekit.models.ARCHITECTURES, "faceresnet": lambda **_: Large(**small)}
    monkeypatch.setattr(facekit.models, "ARCHITECTURES", MappingProxyType(known))
    network = NetworkSettings(architecture="faceresnet", size=24, start_size=16, resolution=24)
    with pytest.raises(
        SettingError, match=r"^start_size=16: 16 pixels: Large takes no pictures of that size"
    ):
        build_recipe(replace(_settings(place, tmp_path), network=network))


def _numbered(count: int) -> Crops:
    pictures = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    return Crops(pictures, torch.zeros(count, dtype=torch.int64), 1, torch.arange(count))


def test_every_picture_has_its_turn() -> None:
    pile = Unlabelled(_numbered(10), steps=3, batch_size=4, columns=None, seed=0)
    drawn = torch.cat([rows for epoch in range(5) for rows in pile.order(epoch)])
    assert len(drawn) == 60
    for turn in torch.split(drawn, 10):
        assert sorted(turn.tolist()) == [*range(10)]
    assert not torch.equal(drawn[:10], drawn[10:20])


def test_processes_share_the_work_and_have_the_same_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    def label(pictures: Tensor) -> Tensor:
        number = pictures[:, 0, 0, 0].int()
        return torch.where(number % 3 == 0, -1, number)

    def codes(rank: int, world: int, total: Callable[[Tensor], Tensor]) -> Tensor:
        monkeypatch.setattr(processes, "rank", lambda: rank)
        monkeypatch.setattr(processes, "world", lambda: world)
        monkeypatch.setattr(processes, "total", total)
        pile = Unlabelled(_numbered(10), steps=3, batch_size=4, columns=None, seed=0)
        pile.relabel(2, label, counts=rank == 0)
        assert int(pile.learnt) == (rank == 0) * int((pile.codes != -1).sum())
        for step, (pictures, labels) in enumerate(pile.batches(2, 0)):
            assert torch.equal(pictures[:, 0, 0, 0].long(), pile.order(2)[step][rank::world])
            assert torch.equal(labels, pile.codes[step, rank::world].long())
        return pile.codes.clone()

    parts: list[Tensor] = []
    codes(0, 2, lambda part: parts.append(part) or part)
    both = codes(1, 2, lambda part: parts[0] + part)
    assert torch.equal(both, codes(0, 1, lambda part: part))
    assert (both == -1).any()


def test_labels_of_other_pictures_are_not_learnt() -> None:
    """A file that was added, or one that cannot be read and is not counted any more, moves all places."""
    before, after = (
        Unlabelled(_numbered(count), steps=3, batch_size=4, columns=None, seed=0) for count in (10, 9)
    )
    before.relabel(0, lambda pictures: pictures[:, 0, 0, 0].int(), counts=True)
    after.load_state_dict(before.state_dict())
    with pytest.raises(TrainingError, match="9 pictures, and 10 when this epoch began: go on with the same"):
        next(after.batches(0, 1))
    after.relabel(1, lambda pictures: pictures[:, 0, 0, 0].int(), counts=True)
    for pictures, labels in after.batches(1, 0):
        assert torch.equal(pictures[:, 0, 0, 0].long(), labels)


# ---------------------------------------------------------------- the best moment


def test_the_first_of_the_best_moments_is_kept(tmp_path: Path) -> None:
    best, weight = BestMoment(tmp_path / "out" / "best.safetensors"), nn.Linear(1, 1)

    def look(step: int, score: float) -> None:
        with torch.no_grad():
            weight.weight.fill_(step)
        best.look(weight, step, score)

    for step, score in ((1, -np.inf), (2, 0.5), (3, 0.7), (4, 0.7), (5, 0.6)):
        look(step, float(score))
    assert best.restore(weight) == (3, 0.7)
    assert weight.weight.item() == 3
    look(2, 0.1)  # the steps since the last save are done again: 3 is still to come
    assert best.restore(weight) == (2, 0.1)
    best.forget()
    with pytest.raises(TrainingError, match="is gone"):
        best.restore(weight)
    (tmp_path / "out" / "best.safetensors").write_bytes(b"nothing")
    with pytest.raises(TrainingError, match="not of this run"):
        best.look(weight, 1, 0.0)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("attributes={}/a.csv", "--threshold", "0.4"), "threshold=0.4: give a probability in [0.5, 1)"),
        (("attributes={}/a.csv", "--threshold", "1"), "threshold=1.0: give a probability"),
        (("attributes={}/a.csv", "--weight", "-1"), "weight=-1.0: give 0 or more"),
        (("attributes={}/a.csv", "--ramp", "0.6", "0.1"), "ramp=(0.6, 0.1): give two shares"),
        (("attributes={}/c.csv",), "holds no labels for attributes, only for: classes"),
        (("smiles={}/a.csv",), "'smiles' is no task"),
        (("attributes={}/blank.csv",), "holds no labels for attributes"),
        (("attributes={}/a.csv", "classes={}/c.csv"), "labels for attributes and for classes"),
        (("attributes={}/a.csv", "--batch-size", "17"), "batch_size=17: more than the 16 training pictures"),
        (("attributes={}/a.csv", "--unlabelled", "{}/empty"), "empty"),
        (
            ("attributes={}/a.csv", "--unlabelled", "{}/a"),
            "all of its 24 pictures are among the labelled ones",
        ),
        (("{}/p.csv", "--unlabelled", "{}/pile"), "made of attributes and classes, not of landmarks"),
        (("attributes={}/a.csv", "--init", "{}/other"), "holds resnet10t, not faceresnet"),
        (("attributes={}/a.csv", "--stem", "half"), "stem=half"),
        (("attributes={}/one.csv",), "there is no F1"),
    ],
)
def test_bad_input_gets_a_line(
    argv: tuple[str, ...], said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "empty").mkdir(exist_ok=True)
    text = (place / "a.csv").read_text()
    (place / "blank.csv").write_text(re.sub(r"[01],[01]$", ",", text, flags=re.MULTILINE))
    (place / "one.csv").write_text(re.sub(r"test,[01],[01]$", "test,0,0", text, flags=re.MULTILINE))
    if not (place / "other").exists():
        grey = (127.5, 127.5, 127.5)
        config = ModelConfig("resnet10t", 512, 32, "rgb", grey, grey)
        save_checkpoint(place / "other", facekit.models.build("resnet10t"), config)
    assert _run(tmp_path, "--data", *(word.format(place) for word in argv)) == 2
    assert said in " ".join(re.sub(r"[│╭╰─╮╯]", " ", capsys.readouterr().err).split())
    assert not (tmp_path / "supervised").exists()


def test_settings_come_back_from_their_file(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    assert (
        _run(tmp_path, "--data", "attributes=a.csv", "b.csv", "--unlabelled", "pile", "--print-config") == 0
    )
    text = capsys.readouterr().out
    assert json.loads(text)["settings"]["data"] == [f"attributes={place / 'a.csv'}", str(place / "b.csv")]
    (tmp_path / "run.json").write_text(text)
    assert main(["finetune", "--config", str(tmp_path / "run.json"), "--print-config"]) == 0
    assert capsys.readouterr().out == text
    table = json.loads(text)
    table["settings"]["data"] = "a.csv"
    (tmp_path / "run.json").write_text(json.dumps(table))
    assert main(["finetune", "--config", str(tmp_path / "run.json"), "--print-config"]) == 2
    assert "data: 'a.csv' is no list" in capsys.readouterr().err
    assert portable(_settings(place, tmp_path))["data"] == ["attributes=a.csv"]
