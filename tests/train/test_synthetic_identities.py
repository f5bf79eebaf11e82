"""Whether the recipes learn who is on a picture: made-up people, and others whom the network has never seen.

A person is a face-like oval, the same for all, with eight blobs whose places, sizes and colours are that
person's. Each of their pictures of 32 px is turned by up to 25 degrees, scaled, shifted, lit from a side,
brightened and noisy. The recipes learn 200 people of 10 pictures; everything is measured on 100 others of 6.

Beside them stand the two baselines that no report should lack, raw pixels and the network before it learns.
Area under the curve of all pairs of the unseen, with seed 0, 12 epochs, 45 seconds of one core each: random
weights 0.70, simclr 0.90, vcl 0.85, vcl with beta 0.92, bregman 0.91.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import facekit.models
from facekit.evaluate import roc_of_people
from facekit.models.faceresnet import FaceResNet
from facekit.train.config import DataSettings, OptimSettings, RunSettings
from facekit.train.loop import fit
from facekit.train.network import NetworkSettings
from facekit.train.recipe import Recipe, Step
from facekit.train.recipes import bregman, simclr, vcl

_SIDE = 32  # pixels
_LEARNT, _UNSEEN = (200, 10), (100, 6)  # people, pictures of each
_SKIN, _WALL = (0.65, 0.5, 0.42), (0.25, 0.3, 0.35)
_WITHOUT_LABELS: Mapping[str, tuple[Any, Callable[[Any], Recipe], dict[str, Any]]] = {
    "simclr": (simclr.SimCLRSettings, simclr.build_recipe, {}),
    "vcl": (vcl.VCLSettings, vcl.build_recipe, {}),
    "vcl-beta": (vcl.VCLSettings, vcl.build_recipe, {"beta": True}),
    "bregman": (bregman.BregmanSettings, bregman.build_recipe, {}),
}


def draw_people(people: int, each: int, *, seed: int) -> Iterator[NDArray[np.uint8]]:
    """The pictures of one person after the other, (each, 32, 32, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:_SIDE, 0:_SIDE] * (2 / (_SIDE - 1)) - 1
    for _ in range(people):
        places, colours = rng.uniform(-0.6, 0.6, (8, 2)), rng.uniform(-0.45, 0.45, (8, 3))
        radii = rng.uniform(0.1, 0.22, 8)

        def draw(low: float, high: float) -> NDArray[np.float64]:
            return rng.uniform(low, high, (each, 1, 1))

        angle, scale = np.radians(draw(-25, 25)), draw(0.85, 1.15)
        u = (np.cos(angle) * x + np.sin(angle) * y) / scale + draw(-0.15, 0.15)
        v = (np.cos(angle) * y - np.sin(angle) * x) / scale + draw(-0.15, 0.15)
        inside = (1 / (1 + np.exp(12 * ((u / 0.75) ** 2 + (v / 0.95) ** 2 - 1))))[..., None]
        distances = (u[..., None] - places[:, 0]) ** 2 + (v[..., None] - places[:, 1]) ** 2
        face = np.array(_SKIN) + np.exp(-distances / (2 * radii**2)) @ colours
        picture = inside * face + (1 - inside) * np.array(_WALL)
        side = draw(0, 2 * np.pi)
        light = draw(0.8, 1.2) * (1 + draw(0, 0.25) * (np.cos(side) * x + np.sin(side) * y))
        picture = picture * light[..., None] + draw(-0.08, 0.08)[..., None]
        noisy = picture + rng.normal(0, 0.04, picture.shape)
        yield (255 * noisy.clip(0, 1)).round().astype(np.uint8)


def write_people(folder: Path, learnt: tuple[int, int], unseen: tuple[int, int]) -> Path:
    """PNG files of them, and the CSV that says who is learnt."""
    rows = ["path,identity,split"]
    for seed, (split, (people, each)) in enumerate({"train": learnt, "heldout": unseen}.items()):
        for person, pictures in enumerate(draw_people(people, each, seed=seed)):
            for number, picture in enumerate(pictures):
                name = f"{split}{person:03d}-{number}.png"
                Image.fromarray(picture).save(folder / name)
                rows.append(f"{name},{split}{person:03d},{split}")
    (folder / "index.csv").write_text("\n".join(rows))
    return folder / "index.csv"


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"), _LEARNT, _UNSEEN)


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """faceresnet with 0.4 million weights, on one thread, which is all that it can use."""

    def build(**sizes: Any) -> FaceResNet:
        small = {"widths": (32, 64, 128), "depths": (1, 1, 1), "stem_width": 32, "embedding_dim": 128}
        return FaceResNet(**(sizes or small))

    known = MappingProxyType({**facekit.models.ARCHITECTURES, "faceresnet": build})
    monkeypatch.setattr(facekit.models, "ARCHITECTURES", known)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run_settings(out: Path, *, epochs: int, batch_size: int = 128, seed: int = 0) -> RunSettings:
    return RunSettings(
        out=out, epochs=epochs, batch_size=batch_size, seed=seed, device="cpu", precision="fp32"
    )


def pretrain(method: str, data: Path, run: RunSettings) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """What the recipe measures on the unseen people before the first step, and after the last."""
    settings, build, how = _WITHOUT_LABELS[method]
    chosen = settings(
        data=DataSettings(data=data),
        run=run,
        network=NetworkSettings(architecture="faceresnet", size=_SIDE, resolution=_SIDE),
        optim=OptimSettings(lr=3e-3, weight_decay=1e-2, warmup=0.05),
        **how,
    )
    recipe = build(chosen)
    recipe.modules.eval()
    before = recipe.evaluate(Step(0, 0.0, 0.0)).values
    fit(recipe, chosen.run, chosen.optim)
    return before, last_epoch(run.out)


def last_epoch(out: Path) -> dict[str, float]:
    """Means over the last epoch, and what was measured at its end."""
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "epoch"][-1]


def auc_of_pixels(data: Path) -> float:
    """Of the unseen people, by the cosine of their centred pixels."""
    files = sorted(data.parent.glob("heldout*.png"))
    pixels = np.stack([np.asarray(Image.open(file), np.float32).reshape(-1) for file in files])
    pixels -= pixels.mean(0)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    return roc_of_people(pixels, [file.name.partition("-")[0] for file in files]).auc


def test_people_are_drawn_who_can_be_told_apart_and_are_not_trivial(tmp_path: Path) -> None:
    table = write_people(tmp_path, (2, 3), (40, 4))
    assert len(table.read_text().splitlines()) == 1 + 2 * 3 + 40 * 4
    assert 0.6 < auc_of_pixels(table) < 0.95


@pytest.mark.slow
@pytest.mark.parametrize("method", _WITHOUT_LABELS)
def test_unseen_people_are_told_apart_without_labels(method: str, people: Path, tmp_path: Path) -> None:
    """Far better than by random weights, without collapse; by NT-Xent, the default, better than by pixels."""
    before, after = pretrain(method, people, run_settings(tmp_path / "run", epochs=12))
    assert after["auc"] > before["auc"] + 0.12
    assert after["effective_rank"] > 40
    if method == "simclr":
        assert after["auc"] > auc_of_pixels(people) + 0.03
