"""One of several processes that ask two networks the same of their parts.

Without mixing, of which each process has its own. Writes the loss and the gradients into the folder, and
what is said of pictures that the processes look at together.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from facekit.train import processes
from facekit.train.coteaching import Classifier, Coteaching
from facekit.train.data import Crops
from facekit.train.division import judge
from facekit.train.heads import CosineClasses

PICTURES, CLASSES, DIM, SIDE = 8, 3, 6, 4


def networks(prior: Tensor) -> list[Classifier]:
    torch.manual_seed(0)

    def one() -> Classifier:
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, DIM))
        return Classifier(backbone, CosineClasses(DIM, CLASSES, scale=8.0, margin=0.2), prior)

    return [one(), one()]


def found() -> dict[str, Tensor]:
    """The loss and gradients of a second step, and all losses, over all processes."""
    generator = torch.Generator().manual_seed(1)
    prior = torch.tensor([0.5, 0.3, 0.2])
    pair = networks(prior)
    step = Coteaching(prior, temperature=0.5, mixup=4.0)
    step._shares = SimpleNamespace(sample=lambda: torch.tensor(1.0))
    own = slice(processes.rank(), None, processes.world())
    for _ in range(2):  # the second step finds a mean prediction
        views = torch.randn(2, PICTURES, 3, SIDE, SIDE, generator=generator)
        labels = torch.randint(CLASSES, (PICTURES,), generator=generator)
        clean = torch.rand(PICTURES, 2, generator=generator)
        parts = (views[:, own].flatten(0, 1), labels[own], clean[own], clean[own] > 0.4)
        metrics = step(pair, *parts, weight=3.0)
    loss = metrics["loss"]
    assert isinstance(loss, Tensor)
    loss.backward()
    gradients = [parameter.grad for network in pair for parameter in network.parameters()]
    mean = loss.detach().clone()
    processes.average([*(each for each in gradients if each is not None), mean])
    pictures = torch.randint(256, (600, 3, SIDE, SIDE), generator=generator).to(torch.uint8)
    crops = Crops(pictures, torch.arange(600) % CLASSES, CLASSES, torch.arange(600))
    judgement = judge(lambda x: [network(x.float() / 255) for network in pair], crops)
    return {
        "loss": mean,
        "gradients": torch.cat([each.flatten() for each in gradients if each is not None]),
        "remembered": torch.stack([network.mean_prediction for network in pair]),
        "losses": judgement.losses,
        "predicted": judgement.predicted,
        "seen": judgement.seen,
    }


def main(folder: Path) -> None:
    with processes.joined("cpu"):
        of_all = found()
        if processes.rank() == 0:
            torch.save(of_all, folder / "found.pt")
