"""lightly's losses, heads and transforms in the loop of its examples: a yardstick of training speed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Sequence
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss, SwaVLoss
from lightly.models.modules import SwaVPrototypes
from lightly.models.modules.heads import SimCLRProjectionHead, SwaVProjectionHead
from lightly.transforms import SimCLRTransform, SwaVTransform
from PIL import Image
from rounds import autocast, now
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from facekit.embed import resolve_device
from facekit.train.recipes.swav import SwAVSettings
from facekit.train.start import start_network
from facekit.train.views import ViewSettings

__all__ = ["LightlyApart"]

_PROJECTED = 128  # numbers that the heads give, as facekit's do


class _SimCLR(nn.Module):
    """Views of a batch -> loss, as in lightly's example of SimCLR."""

    def __init__(self, backbone: nn.Module, dim: int, temperature: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = SimCLRProjectionHead(dim, dim, _PROJECTED, num_layers=3)
        self.criterion = NTXentLoss(temperature)

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        loss: Tensor = self.criterion(*(self.projection(self.backbone(view)) for view in views))
        return loss


class _SwaV(nn.Module):
    """Views of a batch -> loss, as in lightly's example of SwaV."""

    def __init__(self, backbone: nn.Module, dim: int, settings: SwAVSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = SwaVProjectionHead(dim, dim, _PROJECTED)
        self.prototypes = SwaVPrototypes(_PROJECTED, settings.prototypes)
        self.criterion = SwaVLoss(settings.temperature, settings.iterations, settings.epsilon)

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        self.prototypes.normalize()
        features = [F.normalize(self.projection(self.backbone(view)), dim=1) for view in views]
        scores = [self.prototypes(z) for z in features]
        loss: Tensor = self.criterion(scores[:2], scores[2:])
        return loss


class _Views(Dataset[list[Tensor]]):
    """Decoded pictures -> their views."""

    def __init__(self, pictures: Sequence[Image.Image], transform: Callable[[Image.Image], Any]) -> None:
        self.pictures, self.transform = pictures, transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> list[Tensor]:
        views: list[Tensor] = self.transform(self.pictures[row])
        return views


class LightlyApart:
    """lightly's loop in a process of its own, whose memory is managed as Python starts it.

    Args:
        settings: of a recipe: SwAV's for lightly's SwaV, any other for its SimCLR; network, views, optimiser
            and batch size are taken from them.
        paths: of the pictures; each round shows as many as it has steps.
        workers: of the DataLoader; None tries no, half and all of the cores' number, and keeps the fastest.

    Attributes:
        workers: how many it has.
    """

    def __init__(self, settings: Any, paths: Sequence[Path], workers: int | None) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._pipe, other = spawning.Pipe()
        threads = torch.get_num_threads()
        self._process = spawning.Process(target=_serve, args=(other, settings, paths, workers, threads))
        self._process.start()
        other.close()
        self.workers: int = self._pipe.recv()

    def __call__(self, steps: int) -> float:
        """Seconds of some steps, from when the workers are as far ahead as they will be at the end."""
        self._pipe.send(steps)
        seconds: float = self._pipe.recv()
        return seconds

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, settings: Any, paths: Sequence[Path], workers: int | None, threads: int) -> None:
    torch.set_num_threads(threads)
    side = settings.network.resolution
    loop = _Loop(settings, [Image.open(path).convert("RGB").resize((side, side)) for path in paths], workers)
    pipe.send(loop.workers)
    with contextlib.suppress(EOFError):  # the other end was closed
        while True:
            pipe.send(loop(pipe.recv()))


class _Loop:
    """lightly's parts in the loop that its examples show.

    Args:
        settings: of a recipe: SwAV's for lightly's SwaV, any other for its SimCLR; network, views, optimiser
            and batch size are taken from them.
        pictures: decoded; each round shows as many as it has steps.
        workers: of the DataLoader; None tries no, half and all of the cores' number, and keeps the fastest.
    """

    def __init__(self, settings: Any, pictures: Sequence[Image.Image], workers: int | None) -> None:
        network = settings.network
        self.device, self.batch = resolve_device(settings.run.device), settings.run.batch_size
        start = start_network(network.architecture, "random", size=network.size, sizes=network.sizes)
        if isinstance(settings, SwAVSettings):
            model: nn.Module = _SwaV(start.model, start.dim, settings)
        else:
            model = _SimCLR(start.model, start.dim, settings.temperature)
        self.model = model.to(self.device).train()
        self.pictures = _Views(pictures, _transform(settings))
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=settings.optim.lr,
            weight_decay=settings.optim.weight_decay,
            fused=True,
        )
        self.workers = self._best_workers(len(pictures) // self.batch) if workers is None else workers

    def _best_workers(self, steps: int) -> int:
        cores = os.cpu_count() or 1
        least = cores // 2 if self.device.type == "cuda" else 0
        seconds = {}
        for self.workers in sorted({least, cores // 2, cores}):
            seconds[self.workers] = self(steps)
        return min(seconds, key=lambda workers: seconds[workers])

    def __call__(self, steps: int) -> float:
        """Seconds of some steps, from when the workers are as far ahead as they will be at the end."""
        ahead = max(1, self.workers)
        loader = DataLoader(
            self.pictures,
            self.batch,
            sampler=RandomSampler(self.pictures, num_samples=(ahead + steps + ahead) * self.batch),
            drop_last=True,
            num_workers=self.workers,
            prefetch_factor=1 if self.workers else None,
            pin_memory=self.device.type == "cuda",
        )
        began = 0.0
        for number, batch in enumerate(islice(loader, ahead + steps)):
            views = [view.to(self.device, non_blocking=True) for view in batch]
            with autocast(self.device):
                loss = self.model(views)
            loss.backward()
            self.optimiser.step()
            self.optimiser.zero_grad()
            if number == ahead - 1:
                began = now(self.device)
        return now(self.device) - began


def _transform(settings: Any) -> Callable[[Image.Image], Any]:
    """lightly's views of the number, size and strength that a recipe's settings have."""
    views: ViewSettings = settings.views
    shared: dict[str, Any] = {
        "hf_prob": views.flip,
        "cj_prob": views.jitter,
        "cj_bright": views.brightness,
        "cj_contrast": views.contrast,
        "cj_sat": views.saturation,
        "cj_hue": views.hue,
        "random_gray_scale": views.grey,
        "gaussian_blur": views.blur,
        "sigmas": views.blur_sigma,
        "normalize": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }
    if not isinstance(settings, SwAVSettings):
        return SimCLRTransform(input_size=settings.network.size, min_scale=views.area[0], **shared)
    return SwaVTransform(
        crop_sizes=(settings.network.size, settings.small_size),
        crop_counts=(2, settings.small_views),
        crop_min_scales=(views.area[0], settings.small_area[0]),
        crop_max_scales=(views.area[1], settings.small_area[1]),
        **shared,
    )
