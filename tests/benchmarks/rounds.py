"""What the benchmarks of training speed share: contenders that take turns in one process, round by round.

So whatever else the machine does meets them alike, and of each round the ratios count.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from facekit.embed import resolve_device, resolve_precision
from facekit.train.config import OptimSettings, RunSettings
from facekit.train.loop import fit
from facekit.train.recipe import Recipe

__all__ = ["UNUSED", "Bare", "autocast", "machine", "make_pictures", "now", "ratios", "spread", "take_turns"]

UNUSED = 2  # epochs of fit(): the first warms up, and the last ends with the state being saved


class Bare:
    """The network by itself on inputs that lie ready: forward and backward, and AdamW's step if asked for.

    Args:
        network: on the device of the inputs.
        inputs: (n, 3, s, s) float each; those of one size together.
        optimiser: whether its step counts.
    """

    def __init__(self, network: nn.Module, inputs: Sequence[Tensor], *, optimiser: bool = False) -> None:
        self.network = network.to(memory_format=torch.channels_last).train()
        self.optimiser = torch.optim.AdamW(network.parameters(), fused=True) if optimiser else None
        self.inputs = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
        self.device = inputs[0].device

    def __call__(self, steps: int) -> float:
        began = now(self.device)
        for _ in range(steps):
            self.network.zero_grad(set_to_none=True)
            with autocast(self.device):
                outputs = [self.network(x) for x in self.inputs]
            torch.stack([y.float().square().mean() for y in outputs]).sum().backward()
            if self.optimiser is not None:
                self.optimiser.step()
        return now(self.device) - began


def take_turns(
    recipe: Recipe,
    run: RunSettings,
    optim: OptimSettings,
    others: Mapping[str, Callable[[int], float]],
) -> dict[str, list[float]]:
    """Seconds of each contender in each round; ``facekit`` is fit() itself, of which a round is an epoch.

    Args:
        recipe: of as many steps an epoch as the others take in a round.
        run: of :data:`UNUSED` epochs more than there are rounds.
        optim: of fit().
        others: by name; steps -> seconds.
    """
    device = resolve_device(run.device)
    seconds: dict[str, list[float]] = {name: [] for name in [*others, "facekit"]}

    def batches(epoch: int, skip: int) -> Iterator[tuple[Tensor, ...]]:
        if epoch < run.epochs - 1:
            for name, contender in others.items():
                seconds[name].append(contender(recipe.steps_per_epoch))
        began = now(device)
        yield from recipe.batches(epoch, skip)
        seconds["facekit"].append(now(device) - began)

    fit(replace(recipe, batches=batches), run, optim)
    return {name: own[1 : run.epochs - 1] for name, own in seconds.items()}


def autocast(device: torch.device) -> torch.autocast:
    """The precision that facekit takes by itself on a device."""
    dtype = resolve_precision("auto", device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def now(device: torch.device) -> float:
    """Seconds, once the device has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def make_pictures(folder: Path, count: int, *, size: int, people: int) -> NDArray[np.uint8]:
    """Noise of a face's size as PNG files, in one folder a person; and the same as (count, size, size, 3)."""
    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    for number, picture in enumerate(pictures):
        person = folder / f"p{number % people:05}"
        person.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(person / f"{number}.png", compress_level=0)
    return pictures


def machine(device: torch.device) -> str:
    """What it was measured on."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = platform.processor() or platform.machine()
        known = Path("/proc/cpuinfo")
        lines = known.read_text(encoding="utf-8").splitlines() if known.is_file() else []
        name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), name)
    cores, threads = os.cpu_count(), torch.get_num_threads()
    precision = str(resolve_precision("auto", device)).removeprefix("torch.")
    return f"{name}, {cores} cores, {threads} threads, {precision}, torch {torch.__version__}"


def ratios(longer: Sequence[float], shorter: Sequence[float]) -> list[float]:
    """How many times as long the one took as the other, round by round."""
    return [a / b for a, b in zip(longer, shorter, strict=True)]


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median, lowest and highest."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} ... {high:.{digits}f})"
