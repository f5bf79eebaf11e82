"""Small sets and networks for the tests of probes: stripes that lie or stand, in any colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from facekit.checkpoint import ModelConfig, save_checkpoint
from facekit.models import build
from facekit.train.probe.examples import TEST, TRAIN, VALIDATION, Examples, Picture

SIZE = 16
CPU = torch.device("cpu")
CLASSES = ("lying", "standing")
TINY = {"widths": [8, 16], "depths": [1, 1], "stem_width": 8, "embedding_dim": 12}


def stripes(label: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """(16, 16, 3): stripes of 4 pixels' period, of any phase, around any colour, and noise."""
    phase, middle = generator.integers(4), generator.uniform(80, 175, 3)
    colours = np.stack([middle - 50, middle + 50])
    rows = ((np.arange(SIZE) + phase) // 2 % 2)[:, None].repeat(SIZE, 1)
    pattern = rows.T if label else rows
    picture = colours[pattern] + generator.normal(0, 8, (SIZE, SIZE, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def tinted(label: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """(16, 16, 3): noise, warmer or colder."""
    tint = np.array([30, 0, -30]) * (1 if label else -1)
    return np.clip(128 + tint + generator.normal(0, 25, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)


def write_set(folder: Path, counts: dict[str, int], draw: object = stripes) -> Path:
    """``folder/split/class/N.png``, so many of each class."""
    generator = np.random.default_rng(0)
    for split, count in counts.items():
        for label, name in enumerate(CLASSES):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw(label, generator)).save(place / f"{number}.png")
    return folder


def classes(folder: Path, counts: tuple[int, int, int], draw: object = stripes) -> Examples:
    """The same as examples, without a layout: so many of each class in training, validation and test."""
    names = ("train", "validation", "test")
    write_set(folder, dict(zip(names, counts, strict=True)), draw)
    pictures, targets, split = [], [], []
    for part, name in zip((TRAIN, VALIDATION, TEST), names, strict=True):
        for path in sorted((folder / name).rglob("*.png")):
            pictures.append(Picture(path))
            targets.append(CLASSES.index(path.parent.name))
            split.append(part)
    return Examples(
        "stripes",
        "classes",
        CLASSES,
        pictures,
        torch.tensor(targets),
        torch.tensor(split, dtype=torch.uint8),
    )


def tiny_network(seed: int = 0, blind: float = 0.0) -> nn.Module:
    """A network of a few thousand weights.

    Args:
        seed: of its weights.
        blind: share of its filters that only take a mean, so that it tells colours but no stripes.
    """
    torch.manual_seed(seed)
    network = build("faceresnet", **TINY)
    with torch.no_grad():
        for module in network.modules():
            if blind and isinstance(module, nn.Conv2d):
                flat = module.weight.mean((2, 3), keepdim=True).expand_as(module.weight)
                module.weight.copy_(blind * flat + (1 - blind) * module.weight)
    return network.eval()


def tiny_checkpoint(folder: Path, *, blind: float = 0.0) -> Path:
    """A checkpoint of :func:`tiny_network`."""
    config = ModelConfig("faceresnet", 12, SIZE, "rgb", (127.5,) * 3, (127.5,) * 3, sizes=TINY)
    save_checkpoint(folder, tiny_network(blind=blind), config)
    return folder
