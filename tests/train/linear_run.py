"""A small whole run, one of the processes that ``torchrun`` would start.

A linear embedder and a margin head learn made-up people; no batch norm, no dropout, so that the number of
processes changes nothing but the order of sums. Stops after ``stop`` steps, as at the end of a cluster's
slot, if that is above 0; takes ``pace`` seconds for a step and saves after each, if that is above 0.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from bare_run import only_learn
from torch import Tensor, nn

from facekit.train import processes
from facekit.train.config import OptimSettings, RunSettings
from facekit.train.data import shuffled_rows
from facekit.train.heads import MarginHead
from facekit.train.loop import fit
from facekit.train.optim import decay_groups
from facekit.train.recipe import Recipe, Scores, Step

CLASSES, EACH, DIM, BATCH, EPOCHS = 7, 12, 16, 12, 3


def build(stop: int = 0, pace: float = 0.0) -> Recipe:
    torch.manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(EACH)
    pictures = torch.randn(CLASSES, 24)[labels] + 0.3 * torch.randn(len(labels), 24)
    modules = nn.ModuleDict({"backbone": nn.Linear(24, DIM), "head": MarginHead(DIM, CLASSES)})

    def batches(epoch: int, skip: int = 0) -> Iterator[tuple[Tensor, ...]]:
        for rows in shuffled_rows(len(labels), BATCH, seed=0, epoch=epoch)[skip:]:
            own = rows[processes.rank() :: processes.world()]
            yield pictures[own], labels[own]

    def step(batch: tuple[Tensor, ...], at: Step) -> dict[str, Tensor | float]:
        if at.number + 1 == stop:
            signal.raise_signal(signal.SIGTERM)
        threading.Event().wait(pace)
        loss, cosine = modules["head"](modules["backbone"](batch[0]), batch[1], scale=16.0, margin=0.2)
        return {"loss": loss, "target_cosine": cosine}

    def export(folder: Path, scores: Scores) -> None:
        folder.mkdir(exist_ok=True)

    return Recipe(
        modules=modules,
        groups=decay_groups("all", modules.parameters(), lr=0.01, weight_decay=0.01),
        steps_per_epoch=len(labels) // BATCH,
        batches=batches,
        lr_factor=lambda at: 1.0 - at.progress,
        step=step,
        evaluate=lambda at: Scores({}),
        export=export,
        sharded={"head.weight": CLASSES},
    )


def run(out: Path, save_minutes: float = 5.0) -> RunSettings:
    return RunSettings(
        out=out,
        epochs=EPOCHS,
        batch_size=BATCH,
        device="cpu",
        precision="fp32",
        save_minutes=save_minutes,
    )


def main(out: Path, stop: int = 0, pace: float = 0.0) -> None:
    settings = run(out, save_minutes=1e-6 if pace else 5.0)
    only_learn()
    with processes.joined("cpu"):
        try:
            fit(build(stop, pace), settings, OptimSettings())
        except KeyboardInterrupt:
            sys.exit(130)
