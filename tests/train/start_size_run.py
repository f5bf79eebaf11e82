"""One of several processes of a run that begins with smaller views.

Writes the sizes that its network was shown in sizes-RANK.json.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from bare_run import only_learn
from torch import Tensor, nn

import facekit.models
from facekit.models.faceresnet import FaceResNet
from facekit.models.iresnet import IResNet
from facekit.train import processes
from facekit.train.config import DataSettings, RunSettings
from facekit.train.loop import fit
from facekit.train.network import NetworkSettings
from facekit.train.recipe import Recipe
from facekit.train.recipes import simclr

Seen = list[tuple[bool, int]]  # whether it was learnt from, and its side in pixels

SMALL = {
    "faceresnet": partial(FaceResNet, widths=(8, 16), depths=(1, 1), stem_width=8, embedding_dim=16),
    "iresnet50": partial(IResNet, (1, 1, 1, 1), embedding_dim=8),
}
ARCHITECTURES = MappingProxyType({**facekit.models.ARCHITECTURES, **SMALL})


def watched(recipe: Recipe) -> Seen:
    """What the network is shown from now on."""
    seen: Seen = []

    def note(network: nn.Module, shown: tuple[Tensor, ...], _: Any) -> None:
        assert shown[0].is_contiguous(memory_format=torch.channels_last)
        seen.append((network.training, shown[0].shape[-1]))

    recipe.modules["backbone"].register_forward_hook(note)
    return seen


def main(pictures: Path, folder: Path) -> None:
    only_learn()
    facekit.models.ARCHITECTURES = ARCHITECTURES
    with processes.joined("cpu"):
        run = RunSettings(out=folder / "run", epochs=2, batch_size=12, device="cpu", precision="fp32")
        network = NetworkSettings(
            architecture="faceresnet", size=32, start_size=16, start_share=0.5, resolution=48
        )
        data = DataSettings(data=pictures, heldout=0.1)
        settings = simclr.SimCLRSettings(data=data, run=run, network=network)
        recipe = simclr.build_recipe(settings)
        seen = watched(recipe)
        fit(recipe, run, settings.optim)
        (folder / f"sizes-{processes.rank()}.json").write_text(json.dumps(seen))
