"""The network that is probed, from wherever it is, as squares of pictures see it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.checkpoint import ModelConfig, OnnxModel, load_checkpoint
from facekit.errors import SettingError
from facekit.models import build

__all__ = ["PIXELS", "SCRATCH", "Backbone", "Sees", "look", "open_backbone"]

Sees = Literal["vector", "map"]
PIXELS, SCRATCH = "pixels", "scratch:"
_SIDE = 32  # pixels; what raw pictures are compared at
_AT_ONCE = {"cpu": 64, "cuda": 512}
_PIXEL_MEAN = (127.5, 127.5, 127.5)
_PIXEL_STD = (127.5, 127.5, 127.5)


class Backbone:
    """A network and what it takes to feed it; holds no pictures.

    Args:
        source: where it is from, for messages.
        network: (n, 3, s, s) float, normalised -> (n, d) float, and perhaps ``feature_map``.
        config: its preprocessing; ``input_size`` is the side of the pictures.
        device: where it runs.

    Attributes:
        network: on the device, in eval mode.
        config: as given, with the width that the network turned out to have.
        vector: length d of its vectors.
        map: (c, h, w) of the last stage; None where there is no such thing.

    Raises:
        SettingError: the network does not take pictures of this size.
    """

    def __init__(
        self, source: str, network: nn.Module | OnnxModel, config: ModelConfig, device: torch.device
    ) -> None:
        if isinstance(network, nn.Module):
            network = network.eval().to(device).to(memory_format=torch.channels_last)
        self.source, self.network, self.device = source, network, device
        self.map: tuple[int, ...] | None = None
        black = torch.zeros(2, 3, config.input_size, config.input_size, dtype=torch.uint8)
        self.config = config
        try:
            self.vector = int(self.features(black, "vector").shape[1])
            if hasattr(network, "feature_map"):
                self.map = tuple(self.features(black, "map").shape[1:])
        except RuntimeError as error:
            raise SettingError(
                f"size={config.input_size}: {source} takes no pictures of so many pixels "
                f"({str(error).splitlines()[0]}); give another --size, or none"
            ) from error
        self.config = replace(config, embedding_dim=self.vector)

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return self.config.input_size

    @property
    def drawn(self) -> bool:
        """Whether its weights come from a seed."""
        return self.source.startswith(SCRATCH)

    @property
    def learns(self) -> bool:
        """Whether it has weights that could be fine-tuned."""
        return isinstance(self.network, nn.Module) and any(True for _ in self.network.parameters())

    def channels(self, sees: Sees) -> int:
        """What a head gets: d of the vectors, or c of the maps.

        Raises:
            SettingError: the network has no maps.
        """
        if sees == "vector":
            return self.vector
        if self.map is None:
            raise SettingError(f"{self.source}: has no map of features, which this task looks at")
        return self.map[0]

    def normalised(self, pictures: Tensor) -> Tensor:
        """What the network is fed, of (n, 3, s, s) RGB pictures in [0, 255]."""
        x = pictures.to(self.device).float()
        if self.config.color == "bgr":
            x = x.flip(1)
        mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (self.config.mean, self.config.std))
        return ((x - mean) / std).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()  # no inference mode: heads learn from these
    def features(self, pictures: Tensor, sees: Sees) -> Tensor:
        """(n, d) or (n, c, h, w) float32 on the CPU, of (n, 3, s, s) uint8 pictures."""
        parts = torch.split(pictures, _AT_ONCE.get(self.device.type, 64))
        return torch.cat([look(self.network, self.normalised(part), sees).float().cpu() for part in parts])


def look(network: nn.Module | OnnxModel, x: Tensor, sees: Sees) -> Tensor:
    """The vectors or maps of a network's input."""
    features: Tensor = getattr(network, "feature_map" if sees == "map" else "__call__")(x)
    return features


def open_backbone(source: str, *, size: int | None, seed: int, device: torch.device) -> Backbone:
    """The network that a source names.

    Args:
        source: a checkpoint (folder, file, or name on the Hub); ``scratch:ARCHITECTURE``, perhaps with
            ``,NAME=VALUE`` of its sizes, for random weights; ``pixels`` for no network at all.
        size: side of its pictures in pixels; None for what a checkpoint says.
        seed: of random weights.
        device: where it is to run.

    Raises:
        SettingError: no such architecture, or a size that does not fit, or none where it is needed.
        CheckpointError: no usable checkpoint.
    """
    if source != PIXELS and not source.startswith(SCRATCH):
        found = load_checkpoint(source)
        config = replace(found.config, input_size=size or found.config.input_size)
        network = found.model.on(device) if isinstance(found.model, OnnxModel) else found.model
        return Backbone(source, network, config, device)
    if size is None:
        raise SettingError(f"{source}: the size of its pictures is not known; give --size")
    if source == PIXELS:
        return Backbone(source, _Pixels(), _config(source, PIXELS, size), device)
    architecture, *given = source.removeprefix(SCRATCH).split(",")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(architecture, **dict(_size(source, item) for item in given))
    return Backbone(source, network, _config(source, architecture, size), device)


class _Pixels(nn.Module):
    """The picture itself, small and without its mean: what every network has to beat."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] > _SIDE:
            x = F.interpolate(x, (_SIDE, _SIDE), mode="area")
        return F.normalize(x.flatten(1) - x.flatten(1).mean(1, keepdim=True))


def _config(source: str, architecture: str, size: int) -> ModelConfig:
    return ModelConfig(
        architecture=architecture,
        embedding_dim=1,  # measured as soon as it runs
        input_size=size,
        color="rgb",
        mean=_PIXEL_MEAN,
        std=_PIXEL_STD,
        fingerprint=source,
    )


def _size(source: str, item: str) -> tuple[str, str | int]:
    name, sign, value = item.partition("=")
    if not sign or not name.isidentifier():
        raise SettingError(f"{source}: {item!r} is no size; write NAME=VALUE, such as stem=full")
    return name, int(value) if value.isdecimal() else value
