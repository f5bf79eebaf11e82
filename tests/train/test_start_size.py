"""Runs without labels that begin with smaller views: what the network sees when, and what is refused."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import start_size_run
import torch
from PIL import Image
from safetensors.torch import load_file
from side_by_side import exit_codes
from start_size_run import ARCHITECTURES, watched

import facekit.models
from facekit.checkpoint import load_checkpoint
from facekit.errors import SettingError
from facekit.train import pretrain
from facekit.train.__main__ import main
from facekit.train.config import DataSettings, OptimSettings, RunSettings
from facekit.train.loop import fit
from facekit.train.network import NetworkSettings
from facekit.train.people import MarginSettings
from facekit.train.recipe import Recipe, Step
from facekit.train.recipes import bregman, simclr, swav, vcl

_STEPS = 3  # an epoch


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of which nothing is known."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels = rng.uniform(0, 255, (6, 6, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facekit.models, "ARCHITECTURES", ARCHITECTURES)


def _shared(data: Path, out: Path, epochs: int, **network: Any) -> dict[str, Any]:
    return {
        "data": DataSettings(data=data, heldout=0.1),
        "run": RunSettings(out=out, epochs=epochs, batch_size=12, device="cpu", precision="fp32"),
        "optim": OptimSettings(lr=3e-3),
        "network": NetworkSettings(architecture="faceresnet", size=32, resolution=48, **network),
    }


def _ran(recipe: Recipe, settings: dict[str, Any]) -> Path:
    return fit(recipe, settings["run"], settings["optim"])


def _simclr(data: Path, out: Path, *, epochs: int = 2, **network: Any) -> tuple[Recipe, dict[str, Any]]:
    shared = _shared(data, out, epochs, **network)
    return simclr.build_recipe(simclr.SimCLRSettings(**shared)), shared


def test_views_are_small_until_the_share_and_then_full(pictures: Path, tmp_path: Path) -> None:
    """Looks, too, are as large as the views that come next."""
    recipe, settings = _simclr(pictures, tmp_path / "run", epochs=4, start_size=16, start_share=0.75)
    assert "views: 2 of 16 px until 75 % of the run, then 2 of 32 px; 4 others" in recipe.notes[0]
    seen = watched(recipe)
    folder = _ran(recipe, settings)
    early, late = [(True, 16)] * _STEPS, [(True, 32)] * _STEPS
    assert seen == [*early, (False, 16), *early, (False, 16), *early, (False, 32), *late, (False, 32)]
    config = load_checkpoint(folder).config
    assert config.input_size == 32
    assert config.recipe["settings"]["network"]["start_size"] == 16


def test_half_of_the_learning_rate_is_left_for_the_full_size(pictures: Path, tmp_path: Path) -> None:
    small, _ = _simclr(pictures, tmp_path / "run", start_size=16, start_share=0.9)
    never, _ = _simclr(pictures, tmp_path / "run")
    found = [[recipe.lr_factor(Step(0, at, 0.0)) for at in (0.9, 1.0)] for recipe in (small, never)]
    assert found == [pytest.approx([0.5, 0]), pytest.approx([0.025, 0], abs=0.001)]


@pytest.mark.parametrize(
    ("build", "kind", "more"),
    [
        (vcl.build_recipe, vcl.VCLSettings, {}),
        (bregman.build_recipe, bregman.BregmanSettings, {"subnetworks": 3, "hidden": 4}),
    ],
)
def test_every_recipe_has_it(
    build: Any, kind: Any, more: dict[str, Any], pictures: Path, tmp_path: Path
) -> None:
    recipe = build(kind(**_shared(pictures, tmp_path / "run", 1, start_size=24, start_share=0.5), **more))
    seen = watched(recipe)
    batch = next(recipe.batches(0, 0))
    recipe.modules.train()
    for progress in (0.0, 0.49, 0.5, 1.0):
        recipe.step(batch, Step(0, progress, 0.0))
    assert [side for _, side in seen] == [24, 24, 32, 32]


@pytest.mark.parametrize(("small", "early"), [(24, 18), (20, 16)])  # a third less; no less than 16
def test_small_views_shrink_alike(small: int, early: int, pictures: Path, tmp_path: Path) -> None:
    settings = swav.SwAVSettings(
        prototypes=5, small_size=small, **_shared(pictures, tmp_path / "run", 1, start_size=24)
    )
    recipe = swav.build_recipe(settings)
    seen = watched(recipe)
    batch = next(recipe.batches(0, 0))
    recipe.modules.train()
    for progress in (0.0, 0.9):
        recipe.step(batch, Step(0, progress, 0.0))
    assert [side for _, side in seen] == [24, early, 32, small]
    assert f"2 of 24 px + 4 of {early} px until 90 % of the run" in recipe.notes[0]


def test_without_it_nothing_changes(pictures: Path, tmp_path: Path) -> None:
    plain, _ = _simclr(pictures, tmp_path / "plain")
    seen = watched(plain)
    assert "views: 2 of 32 px; 4 others" in plain.notes[0]
    never, _ = _simclr(pictures, tmp_path / "never", start_size=16, start_share=0.0)
    losses = []
    for recipe in (plain, never):
        torch.manual_seed(0)
        recipe.modules.train()
        losses.append(recipe.step(next(recipe.batches(0, 0)), Step(0, 0.0, 0.0))["loss"])
    assert seen == [(True, 32)]
    assert losses[0] == losses[1]


def test_an_interrupted_run_takes_the_same_path(pictures: Path, tmp_path: Path) -> None:
    """Small at step 2, after which it is interrupted, and full from step 5 on."""
    how = {"start_size": 16, "start_share": 0.6}
    whole = _ran(*_simclr(pictures, tmp_path / "whole", **how))
    recipe, settings = _simclr(pictures, tmp_path / "parts", **how)
    steps = 0

    def step(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 2:
            signal.raise_signal(signal.SIGTERM)
        return recipe.step(*arguments)

    interrupted = Recipe(**{name: getattr(recipe, name) for name in Recipe.__slots__} | {"step": step})
    with pytest.raises(KeyboardInterrupt):
        _ran(interrupted, settings)
    resumed = _ran(*_simclr(pictures, tmp_path / "parts", **how))
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_all_processes_see_the_same_sizes(pictures: Path, tmp_path: Path) -> None:
    assert exit_codes(2, start_size_run.main, pictures, tmp_path) == [0, 0]
    first, second = (json.loads((tmp_path / f"sizes-{rank}.json").read_text()) for rank in range(2))
    steps = [side for learnt, side in first if learnt]
    assert steps == [16] * _STEPS + [32] * _STEPS
    assert steps == [side for _, side in second]  # only the first one looks


@pytest.mark.parametrize(
    ("size", "share", "said"), [(64, 1.0, r"share in \[0, 1\)"), (None, 0.7, "does nothing")]
)
def test_recipes_that_know_people_refuse_the_same(size: int | None, share: float, said: str) -> None:
    with pytest.raises(SettingError, match=f"start_share={share}: .*{said}"):
        MarginSettings(
            data=DataSettings(data=Path()), run=RunSettings(out=Path()), start_size=size, start_share=share
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--start-size", "112"], "start_size=112: give less than --size"),
        (["--start-size", "8"], "start_size=8: give pixels in 16 ... 512"),
        (["--start-size", "1024"], "start_size=1024: give pixels in 16 ... 512"),
        (
            ["--start-size", "64", "--start-share", "1"],
            "start_share=1.0: give a share in [0, 1), since the end",
        ),
        (["--start-size", "64", "--start-share", "nan"], "start_share=nan: give a share in [0, 1)"),
        (["--start-share", "0.5"], "start_share=0.5: does nothing without --start-size"),
    ],
)
def test_bad_values_say_what_to_give(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simclr", *arguments, "--data", str(tmp_path), "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert said in " ".join(re.sub(r"[│╭╰─╮╯]", " ", capsys.readouterr().err).split())


def test_a_size_that_the_network_does_not_take_is_refused_before_anything_is_decoded(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "open_crops", lambda *_, **__: pytest.fail("decodes"))
    shared = _shared(pictures, tmp_path / "run", 1)
    network = NetworkSettings(architecture="iresnet50", size=112, start_size=64)
    with pytest.raises(
        SettingError, match=r"^start_size=64: 64 pixels: IResNet takes no pictures of that size"
    ) as caught:
        simclr.build_recipe(simclr.SimCLRSettings(**{**shared, "network": network}))
    assert "\n" not in str(caught.value)
