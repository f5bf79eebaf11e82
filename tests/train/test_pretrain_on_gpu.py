"""The recipes without labels on a GPU: the draws, losses and gradients that they have on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facekit.train.config import DataSettings, RunSettings
from facekit.train.network import NetworkSettings
from facekit.train.optim import build_optimizer
from facekit.train.pretrain import FACE_VIEWS, SMALL_VIEWS
from facekit.train.recipe import Recipe, Step
from facekit.train.recipes import bregman, simclr, swav, vcl
from facekit.train.update import Update
from facekit.train.views import ViewSettings, random_views

pytestmark = pytest.mark.gpu

PICTURES, SIZE = 24, 32

RECIPES: dict[str, tuple[Callable[..., Any], Callable[[Any], Recipe], dict[str, Any]]] = {
    "simclr": (simclr.SimCLRSettings, simclr.build_recipe, {}),
    "vcl": (vcl.VCLSettings, vcl.build_recipe, {}),
    "vcl-beta": (vcl.VCLSettings, vcl.build_recipe, {"beta": True}),
    "bregman": (bregman.BregmanSettings, bregman.build_recipe, {}),
    "swav": (swav.SwAVSettings, swav.build_recipe, {"small_size": 16, "prototypes": 30}),
}


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Smooth pictures, no two alike."""
    draw = np.random.default_rng(0)
    folder = tmp_path / "faces"
    folder.mkdir()
    for number in range(PICTURES):
        coarse = Image.fromarray(draw.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
    return folder


def step(name: str, faces: Path, device: str) -> dict[str, float]:
    """The metrics of a run's first step, and the norm of its gradient."""
    kind, build, more = RECIPES[name]
    recipe = build(
        kind(
            data=DataSettings(data=faces, heldout=0.0),
            run=RunSettings(out=faces.parent / device, batch_size=PICTURES, device=device, precision="fp32"),
            network=NetworkSettings(size=SIZE, resolution=SIZE),
            **more,
        )
    )
    if name == "bregman":  # dropout is drawn where the features are
        recipe.modules["subnetworks"].dropout = 0.0
    recipe.modules.to(device).train()
    update = Update(
        recipe,
        build_optimizer("adamw", recipe.groups, torch.device(device)),
        device=torch.device(device),
        dtype=torch.float32,
        clip=math.inf,
        micro_batch=None,
        seed=0,
    )
    metrics = update(next(recipe.batches(0, 0)), Step(0, 0.5, 0.5))
    return {what: float(value) for what, value in metrics.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_is_that_of_the_cpu(name: str, faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    wanted, found = (step(name, faces, device) for device in ("cpu", "cuda"))
    assert found.pop("gradient_norm") == pytest.approx(wanted.pop("gradient_norm"), rel=5e-3)
    assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("size", [24, 64])
@pytest.mark.parametrize("settings", [ViewSettings(), FACE_VIEWS, SMALL_VIEWS])
def test_views_are_those_of_the_cpu(settings: ViewSettings, size: int) -> None:
    draw = torch.Generator().manual_seed(1)
    pictures = torch.randint(0, 256, (300, 3, 40, 40), dtype=torch.uint8, generator=draw)
    views, states = [], []
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(2)
        views.append(random_views(pictures.to(device), settings, size=size, generator=generator))
        states.append(generator.get_state())
    assert views[1].device.type == "cuda"
    torch.testing.assert_close(views[1].cpu(), views[0], atol=1e-4, rtol=0)
    assert torch.equal(*states)
