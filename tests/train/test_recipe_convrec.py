"""One whole small run: learnt from pictures of made-up people, interrupted, resumed, opened for inference."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import facekit.models
from facekit.checkpoint import load_checkpoint
from facekit.embed import Embedder
from facekit.errors import SettingError, TrainingError
from facekit.models.faceresnet import FaceResNet
from facekit.train import start as start_module
from facekit.train import teacher
from facekit.train.__main__ import main
from facekit.train.augment import Augmentation
from facekit.train.config import DataSettings, OptimSettings, RunSettings
from facekit.train.data import load_crops, read_listing
from facekit.train.loop import fit
from facekit.train.recipe import Scores, Step
from facekit.train.recipes import convrec
from facekit.train.recipes.convrec import ConvRecSettings, build_recipe

_PEOPLE, _EACH = 12, 6


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve 'people', each a pattern of blobs, six noisy pictures each."""
    folder = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(0)
    for person in range(_PEOPLE):
        pattern = rng.uniform(0, 255, (7, 7, 3))
        (folder / f"p{person:02d}").mkdir()
        for number in range(_EACH):
            noisy = np.clip(pattern + rng.normal(0, 20, pattern.shape), 0, 255).astype(np.uint8)
            picture = Image.fromarray(noisy).resize((112, 112), Image.Resampling.BICUBIC)
            picture.save(folder / f"p{person:02d}" / f"{number}.png")
    return folder


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(**sizes: Any) -> FaceResNet:
        # widths below 16 crash in torch 2.15's oneDNN (backward of a 1x1 convolution with stride 2)
        small = {"widths": (16, 32), "depths": (1, 1), "stem_width": 16, "embedding_dim": 32}
        return FaceResNet(**(sizes or small))

    known = MappingProxyType({**facekit.models.ARCHITECTURES, "faceresnet": build})
    monkeypatch.setattr(facekit.models, "ARCHITECTURES", known)


def _settings(people: Path, out: Path, *, epochs: int = 3, **more: object) -> ConvRecSettings:
    return ConvRecSettings(
        data=DataSettings(data=people, heldout=0.25),
        run=RunSettings(out=out, epochs=epochs, batch_size=9, device="cpu", precision="fp32"),
        optim=OptimSettings(lr=5e-3),
        architecture="faceresnet",
        **more,
    )


def _train(settings: ConvRecSettings) -> Path:
    return fit(build_recipe(settings), settings.run, settings.optim)


def _events(out: Path, kind: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


@pytest.mark.usefixtures("whole_runs")
def test_run_learns_and_opens_for_inference(people: Path, tmp_path: Path) -> None:
    settings = _settings(people, tmp_path / "run", epochs=8, start_size=56, start_share=0.5)
    checkpoint = load_checkpoint(_train(settings))
    assert checkpoint.config.recipe["name"] == "convrec"
    assert checkpoint.config.calibration is not None
    assert checkpoint.config.calibration.impostor_pairs == 3 * _EACH * _EACH
    assert (settings.run.out / "page.png").exists()
    assert any((settings.run.out / "tensorboard").iterdir())
    epochs = _events(settings.run.out, "epoch")
    assert len(epochs) == 8
    assert epochs[-1]["tar@far=0.1"] > 0.75  # by chance 0.1
    vectors = Embedder(checkpoint, device="cpu", precision="fp32").embed(
        load_crops(read_listing(settings.data)[1], progress=False).pictures
    )
    assert vectors.shape == (3 * _EACH, 32)


def test_resumed_run_ends_where_an_uninterrupted_one_does(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_checkpoint(_train(_settings(people, tmp_path / "whole", size=56)))
    settings = _settings(people, tmp_path / "parts", size=56)
    recipe = build_recipe(settings)
    step, calls = recipe.step, 0

    def interrupted(batch: object, at: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 9:  # in the middle of the second epoch
            signal.raise_signal(signal.SIGINT)
        return step(batch, at)

    object.__setattr__(recipe, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, settings.run, settings.optim)
    resumed = load_checkpoint(_train(settings))
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, rtol=0, atol=1e-5, msg=name)


def test_student_imitates_its_teacher(people: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    build_recipe(_settings(people, tmp_path / "run")).export(teacher, Scores({}))
    for view, mixtures in (("same", 0.5), ("picture", 0.0)):
        out = tmp_path / f"{view} {mixtures}"
        how = {"distill": str(teacher), "distill_view": view, "mixtures": mixtures, "margin_weight": 0.0}
        _train(_settings(people, out, epochs=6, size=56, **how))
        steps = _events(out, "step")
        assert steps[-1]["teacher_loss"] < 0.6 * steps[0]["teacher_loss"], out


@pytest.mark.parametrize("view", ["same", "picture"])
def test_of_mixtures_the_margin_head_learns_nothing(people: Path, tmp_path: Path, view: str) -> None:
    build_recipe(_settings(people, tmp_path / "run")).export(tmp_path / "teacher", Scores({}))
    how = {"distill": str(tmp_path / "teacher"), "distill_view": view, "mixtures": 0.5}
    plain = Augmentation(flip=0).scaled(0)
    recipe = build_recipe(_settings(people, tmp_path / "run", augment=plain, **how))
    seen: dict[str, Any] = {}
    recipe.modules["backbone"].register_forward_hook(lambda _, x, y: seen.update(x=x[0], y=y))
    recipe.modules["head"].register_forward_pre_hook(lambda _, args: seen.update(head=args))
    pictures, labels, *_ = batch = next(recipe.batches(0))
    metrics = recipe.step(batch, Step(0, 0.0, 0.0))
    mixed = len(pictures) // 2
    changed = (seen["x"] * 127.5 + 127.5 - pictures).abs().amax((1, 2, 3)) > 1
    assert changed.tolist() == [True] * mixed + [False] * (len(pictures) - mixed)
    assert torch.equal(seen["head"][0], seen["y"][mixed:])
    assert torch.equal(seen["head"][1], labels[mixed:])
    assert {"loss", "teacher_loss", "margin_loss", "target_cosine"} <= metrics.keys()


@pytest.mark.parametrize(("mixtures", "teacher"), [(0.5, None), (1.0, "x"), (-0.1, "x")])
def test_mixtures_that_cannot_be_are_refused(people: Path, mixtures: float, teacher: str | None) -> None:
    with pytest.raises(SettingError, match=f"mixtures={mixtures}"):
        _settings(people, people, mixtures=mixtures, distill=teacher)


def test_a_batch_is_never_all_mixtures(people: Path, tmp_path: Path) -> None:
    build_recipe(_settings(people, tmp_path / "run")).export(tmp_path / "teacher", Scores({}))
    settings = _settings(people, tmp_path / "run", mixtures=0.99, distill=str(tmp_path / "teacher"))
    recipe = build_recipe(settings)
    assert recipe.step(next(recipe.batches(0)), Step(0, 0.0, 0.0))["loss"].isfinite()


def test_a_checkpoint_names_no_folders_of_its_maker(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tmp_path / "runs" / "first"
    build_recipe(_settings(people, tmp_path / "run")).export(start, Scores({}))
    for module in (teacher, start_module):
        monkeypatch.setattr(module, "load_checkpoint", lambda source: load_checkpoint(start))
    monkeypatch.chdir(tmp_path)
    for source, shown in {str(start): "first", "runs/first": "first", "owner/name": "owner/name"}.items():
        settings = _settings(people, tmp_path / "run", init=str(start), distill=source)
        build_recipe(settings).export(tmp_path / "out", Scores({}))
        written = (tmp_path / "out" / "config.json").read_text()
        recorded = json.loads(written)["recipe"]["settings"]
        assert (recorded["init"], recorded["distill"]) == ("first", shown)
        assert recorded["data"]["data"] == people.name
        assert str(tmp_path.parent) not in written


def test_nan_stops_the_run_and_keeps_the_last_good_state(people: Path, tmp_path: Path) -> None:
    settings = _settings(people, tmp_path / "run")
    recipe = build_recipe(settings)
    weight = next(recipe.modules.parameters())
    object.__setattr__(recipe, "step", lambda batch, at: {"loss": weight.sum() * torch.nan})
    with pytest.raises(TrainingError, match="lower --lr"):
        fit(recipe, settings.run, settings.optim)
    assert not (settings.run.out / "checkpoint").exists()


def test_state_of_another_run_is_refused(people: Path, tmp_path: Path) -> None:
    _train(_settings(people, tmp_path / "run", epochs=1))
    with pytest.raises(TrainingError, match="another --out"):
        _train(_settings(people, tmp_path / "run", epochs=2))


def test_teacher_of_another_width_is_refused(people: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(SettingError, match="distill="):
        build_recipe(_settings(people, tmp_path / "run", distill=str(tiny_checkpoint)))


def test_nothing_to_learn_from_is_refused(people: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="nothing to learn"):
        _settings(people, tmp_path, margin_weight=0.0)


def test_broken_picture_is_left_out(people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for person in ("a", "b"):
        (tmp_path / person).mkdir()
        for number in range(2):
            source = people / "p00" / f"{number}.png"
            (tmp_path / person / f"{number}.png").write_bytes(source.read_bytes())
    (tmp_path / "a" / "broken.png").write_bytes(b"no picture")
    crops = load_crops(read_listing(DataSettings(data=tmp_path, heldout=0))[0], progress=False)
    assert len(crops) == 4
    assert "broken.png" in caplog.text


def test_csv_with_splits(people: Path, tmp_path: Path) -> None:
    rows = [f"p{p:02d}/0.png,p{p:02d},{'heldout' if p > 8 else 'train'}" for p in range(_PEOPLE)]
    (tmp_path / "index.csv").write_text("path,identity,split\n" + "\n".join(rows))
    train, heldout = read_listing(DataSettings(data=tmp_path / "index.csv", images=people))
    assert (len(train), len(heldout)) == (9, 3)
    (tmp_path / "other.csv").write_text("path,identity,split\np00/0.png,p00,train\np01/0.png,p01,test\n")
    with pytest.raises(TrainingError, match="line 3: split 'test'; give train or heldout"):
        read_listing(DataSettings(data=tmp_path / "other.csv", images=people))
    (tmp_path / "bad.csv").write_text("path,identity\n../../etc/passwd,x\n")
    with pytest.raises(TrainingError, match="line 2"):
        read_listing(DataSettings(data=tmp_path / "bad.csv", images=people))


def test_command_line_says_what_is_wrong_in_one_line(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convrec", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    assert main([]) == 2


def _weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_what_comes_trained_is_frozen_in_the_first_phase_and_learns_slower_afterwards(
    people: Path, tmp_path: Path
) -> None:
    build_recipe(_settings(people, tmp_path / "run")).export(tmp_path / "first", Scores({}))
    settings = _settings(people, tmp_path / "second", init=str(tmp_path / "first"))
    recipe = build_recipe(settings)
    rates = {group["name"]: group["lr"] for group in recipe.groups}
    assert rates == {"trained": settings.optim.trained_lr, "fresh": settings.optim.lr}
    backbone = recipe.modules["backbone"]
    batch = next(recipe.batches(0, 0))
    before = _weights(backbone)
    for progress, frozen in ((0.0, True), (0.15, True), (0.17, False)):
        recipe.modules.train()
        recipe.modules.zero_grad()
        loss = recipe.step(batch, Step(0, progress, 0.0))["loss"]
        loss.backward()
        assert all((parameter.grad is None) == frozen for parameter in backbone.parameters())
        assert recipe.modules["head"].weight.grad is not None
        same = [torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items()]
        assert all(same) == frozen  # batch norms count and average what they see


def test_the_three_phases_in_numbers(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strengths: list[float] = []
    monkeypatch.setattr(
        convrec, "augment", lambda pictures, how, generator: strengths.append(how.rotation) or pictures
    )
    recipe = build_recipe(_settings(people, tmp_path, cosine_margin=0.2))
    batch = next(recipe.batches(0, 0))
    seen = {p: recipe.step(batch, Step(0, p, 0.0)) for p in (0.0, 0.16, 0.40, 1.0)}
    numbers = {p: [m[name] for name in ("scale", "margin", "cosine_margin")] for p, m in seen.items()}
    assert numbers[0.0] == pytest.approx([10.0, 0.0, 0.0])
    assert numbers[0.16] == pytest.approx([30.0, 0.0, 0.0])
    assert numbers[0.40] == pytest.approx([45.0, 0.35, 0.14])
    assert numbers[1.0] == pytest.approx([64.0, 0.5, 0.2])
    assert strengths == pytest.approx([3.0, 3.0, 6.0, 6.0])


def test_a_constant_margin_starts_at_its_final_value(people: Path, tmp_path: Path) -> None:
    recipe = build_recipe(_settings(people, tmp_path, margin_schedule="constant", scale=30.0, margin=0.3))
    metrics = recipe.step(next(recipe.batches(0, 0)), Step(0, 0.0, 0.0))
    assert (metrics["scale"], metrics["margin"]) == (30.0, 0.3)


def test_the_first_loss_is_the_one_that_was_foretold(people: Path, tmp_path: Path) -> None:
    for schedule, scale in (("progressive", 64.0), ("constant", 10.0)):
        how = {"margin_schedule": schedule, "scale": scale}
        recipe = build_recipe(_settings(people, tmp_path, **how))
        told = float(re.search(r"expected first margin loss: ([\d.]+)", " ".join(recipe.notes))[1])
        losses = [
            float(recipe.step(batch, Step(0, 0.0, 0.0))["margin_loss"].detach())
            for epoch in range(4)
            for batch in recipe.batches(epoch, 0)
        ]
        assert np.mean(losses) == pytest.approx(told, rel=0.25)


def test_too_few_held_out_people_give_a_checkpoint_without_thresholds(people: Path, tmp_path: Path) -> None:
    settings = _settings(people, tmp_path, epochs=1)
    settings = dataclasses.replace(settings, data=DataSettings(data=people, heldout=0.1))
    recipe = build_recipe(settings)
    assert "the checkpoint will have none" in " ".join(recipe.notes)
    config = load_checkpoint(_train(settings)).config
    assert (config.calibration, config.threshold) == (None, None)


def test_warm_restarts_are_the_published_ones(people: Path, tmp_path: Path) -> None:
    settings = _settings(people, tmp_path)
    settings = dataclasses.replace(settings, optim=OptimSettings(schedule="warm-restarts"))
    factor = build_recipe(settings).lr_factor
    epochs = [factor(Step(0, epoch / 50, epoch)) for epoch in (0.0, 9.999, 10.0, 29.999, 30.0, 49.0)]
    assert epochs == pytest.approx([1, 0, 1, 0, 1, 0.54], abs=5e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_run_on_cuda_learns_as_on_the_cpu(people: Path, tmp_path: Path, precision: str) -> None:
    settings = _settings(people, tmp_path, epochs=8)
    run = dataclasses.replace(settings.run, device="cuda", precision=precision)
    checkpoint = load_checkpoint(_train(dataclasses.replace(settings, run=run)))
    assert checkpoint.config.calibration is not None
    assert _events(tmp_path, "epoch")[-1]["tar@far=0.1"] > 0.9
