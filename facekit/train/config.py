"""What every run shares: its data, its optimiser, its place and length."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from facekit.errors import SettingError

__all__ = ["DataSettings", "OptimSettings", "RunSettings", "require", "require_start"]

_MOST_EPOCHS = 1_000_000
_SEEDS = 1 << 40  # the order of the pictures comes from an int64 that is a million times as high


def require(condition: bool, name: str, value: object, remedy: str) -> None:
    """Refuse a setting that does not hold what is asked of it; what is no number holds nothing.

    Raises:
        SettingError: naming the setting, its value and the remedy.
    """
    if not condition:
        raise SettingError(f"{name}={value}: {remedy}")


def require_start(size: int | None, share: float, *, full: int, usual: float) -> None:
    """Refuse a share of the run with smaller pictures that is all of it, or that has no such pictures.

    Args:
        size: of the pictures, ``start_size``.
        full: ``size``, of those of the rest.
        share: ``start_share``.
        usual: what it is if not given.

    Raises:
        SettingError: naming the setting, its value and the remedy.
    """
    remedy = "give a share in [0, 1), since the end of the run is what stays"
    require(0 <= share < 1, "start_share", share, remedy)
    smaller = "give less than --size, or leave it out"
    require(size is None or size < full, "start_size", size, smaller)
    if size is None and share != usual:
        raise SettingError(f"start_share={share}: does nothing without --start-size; give it, too")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """Which pictures are learnt from."""

    data: Path
    """Folder with one folder of aligned face crops a person (where no labels are needed, with pictures in any
    folders or none); a CSV file with the columns path, identity and, if you like, split (train or heldout),
    with paths relative to it; MXNet RecordIO (.rec with .idx); or a .tar in WebDataset's layout (.cls holds
    the person's number, and may be missing where no labels are needed), or a folder of them."""
    images: Path | None = None
    """Where the paths of the CSV start, if not beside it."""
    exclude: Path | None = None
    """CSV whose column path names pictures to leave out, such as `facekit data audit` writes: paths from the
    folder on, or from where those of the CSV start. What lies in an archive is named as messages do, from
    the name of the file on: "train.rec, record 17" or "0.tar, byte 512"."""
    heldout: float = 0.04
    """Share of the people kept aside for validation where the data names no split; about 20,000 pictures at
    most."""
    keep_gb: float = 8.0
    """Decoded pictures that take so many gigabytes or less are kept in memory (8: 212,000 pictures); more are
    decoded anew in each epoch. 0 keeps none."""
    workers: int | None = None
    """Processes that decode what is not kept; if not given, one a core, 16 at most, for each of torchrun's
    processes its share."""

    def __post_init__(self) -> None:
        require(0.0 <= self.heldout < 1.0, "heldout", self.heldout, "give a share in [0, 1)")
        require(self.keep_gb >= 0, "keep_gb", self.keep_gb, "give gigabytes, 0 or more")
        most = 4 * (os.cpu_count() or 1)
        fits = self.workers is None or 0 <= self.workers <= most
        require(fits, "workers", self.workers, f"give 0 ... {most}, four a core; each takes half a gigabyte")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimSettings:
    """The optimiser and its learning rate."""

    optimizer: Literal["adamw", "lars"] = "adamw"
    """LARS (You et al. 2017) is for contrastive learning with thousands of pictures a batch."""
    lr: float = 1e-3
    """Learning rate of everything that starts from random weights."""
    backbone_lr: float | None = None
    """Learning rate of a backbone that starts from --init; if not given, a tenth of --lr, or for c2d all of
    it."""
    weight_decay: float = 5e-4
    """Decoupled decay of matrices and kernels."""
    schedule: Literal["cosine", "warm-restarts"] = "cosine"
    """One cosine down to 0, or the published warm restarts (T_0=10, T_mult=2), which end at half the rate."""
    warmup: float = 0.02
    """Share of the run in which the cosine's learning rate rises from 0."""
    clip: float = 5.0
    """Largest norm of the gradient."""

    def __post_init__(self) -> None:
        for name, value in (("lr", self.lr), ("backbone_lr", self.trained_lr)):
            require(0 < value < math.inf, name, value, "give a number above 0")
        require(self.clip > 0, "clip", self.clip, "give a number above 0; inf does not clip")
        require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "give 0 or more")
        require(0 <= self.warmup < 1, "warmup", self.warmup, "give a share of the run in [0, 1)")

    @property
    def trained_lr(self) -> float:
        """Learning rate of what comes trained: in proportion to the other, whose scale the optimiser sets."""
        return self.lr / 10 if self.backbone_lr is None else self.backbone_lr


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """Where a run lives, how long it is, and on what it runs."""

    out: Path
    """Folder of the run. A run that was interrupted goes on where it was when started again here."""
    epochs: int = 50
    """Passes over the training pictures."""
    batch_size: int = 256
    """Pictures a step, over all processes."""
    micro_batch: int | None = None
    """Pictures that a process takes through the network at once; a step adds up the gradients of so many
    parts. If not given, all of its share, and half of that whenever memory runs out."""
    seed: int = 0
    """Of weights, order and augmentation."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the network and its projection heads; losses, and heads that hold people or clusters, are always
    fp32."""
    save_minutes: float = 5.0
    """At most this much work is lost by an interruption."""

    def __post_init__(self) -> None:
        require(0 < self.epochs <= _MOST_EPOCHS, "epochs", self.epochs, f"give 1 ... {_MOST_EPOCHS}")
        require(abs(self.seed) < _SEEDS, "seed", self.seed, f"give a whole number below {_SEEDS}")
        require(self.batch_size > 1, "batch_size", self.batch_size, "give 2 or more: batch norm needs them")
        require(
            self.micro_batch is None or self.micro_batch > 1,
            "micro_batch",
            self.micro_batch,
            "give 2 or more",
        )
        require(self.save_minutes > 0, "save_minutes", self.save_minutes, "give minutes above 0")
