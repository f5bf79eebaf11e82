"""One of several processes that ask the same of their parts of a batch.

Batch norms have seen what they will see, so that every picture counts by itself. Writes the loss and the
gradient of a weight of the head into the folder, for each recipe.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from facekit.train import processes
from facekit.train.config import DataSettings, RunSettings
from facekit.train.pretrain import Objective
from facekit.train.recipe import Step
from facekit.train.recipes import bregman, simclr, swav

PICTURES, DIM = 8, 16
RECIPES = ("simclr", "bregman", "swav")


def build(recipe: str) -> Objective:
    torch.manual_seed(0)
    shared = {"data": DataSettings(data=Path()), "run": RunSettings(out=Path(), batch_size=PICTURES)}
    if recipe == "swav":
        settings = swav.SwAVSettings(prototypes=6, queue=PICTURES, queue_from=0.0, **shared)
        return swav._Clusters(settings, DIM)
    if recipe == "bregman":
        return bregman._Divergence(bregman.BregmanSettings(subnetworks=5, hidden=8, **shared), DIM)
    return simclr._Contrast(simclr.SimCLRSettings(**shared), DIM)


def found(recipe: str) -> dict[str, Tensor]:
    """The loss of a second step, and the gradient of the head's first weight, over all processes."""
    objective = build(recipe)
    objective.modules.eval()
    generator = torch.Generator().manual_seed(1)
    own = slice(processes.rank(), None, processes.world())
    for _ in range(2):  # the second step finds a queue
        features = [torch.randn(PICTURES, DIM, generator=generator)[own] for _ in range(3)]
        metrics = objective(features if recipe == "swav" else features[:2], Step(0, 0.5, 0.0))
    loss = metrics["loss"]
    assert isinstance(loss, Tensor)
    loss.backward()
    gradient = next(iter(objective.modules.parameters())).grad
    assert gradient is not None
    mean = loss.detach().clone()
    processes.average([gradient, mean])
    return {"loss": mean, "gradient": gradient}


def main(folder: Path) -> None:
    with processes.joined("cpu"):
        all_found = {recipe: found(recipe) for recipe in RECIPES}
        if processes.rank() == 0:
            torch.save(all_found, folder / "found.pt")
