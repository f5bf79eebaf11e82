"""Pictures on disk -> batches: aligned crops of people, decoded once and kept in memory as uint8."""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from facekit.errors import ImageError, TrainingError
from facekit.image import find_images, load_image
from facekit.train.config import DataSettings

__all__ = ["Crops", "Listing", "hash_pictures", "load_crops", "read_listing", "shuffled_rows"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listing:
    """Paths with the identity of each, before anything is decoded."""

    paths: tuple[Path, ...]
    identities: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """Decoded crops and their labels.

    Attributes:
        pictures: (n, 3, size, size) uint8, RGB.
        labels: (n,) int64, 0 ... classes - 1.
        classes: number of identities.
    """

    pictures: Tensor
    labels: Tensor
    classes: int

    def __len__(self) -> int:
        return len(self.labels)


def read_listing(settings: DataSettings) -> tuple[Listing, Listing]:
    """Read who is where.

    Returns:
        (training, held-out): no identity stands in both.

    Raises:
        TrainingError: nothing found, or a row that cannot be understood.
    """
    if settings.data.is_dir():
        rows = [(path, path.parent.name, "") for path in find_images(settings.data)]
        if any(path.parent == settings.data for path, _, _ in rows):
            raise TrainingError(
                f"{settings.data}: pictures outside any person's folder; make one folder a person"
            )
    else:
        rows = _read_csv(settings)
    named_split = any(split for _, _, split in rows)
    people = sorted({identity for _, identity, _ in rows})
    aside = set(_every_nth(people, settings.heldout)) if not named_split else set()
    held = [split == "heldout" or identity in aside for _, identity, split in rows]
    train = _listing([row for row, out in zip(rows, held, strict=True) if not out])
    heldout = _listing([row for row, out in zip(rows, held, strict=True) if out])
    if len(set(train.identities)) < 2:
        raise TrainingError(
            f"{settings.data}: {len(set(train.identities))} people to train on; at least 2 are needed"
        )
    both = set(train.identities) & set(heldout.identities)
    if both:
        raise TrainingError(f"{settings.data}: {sorted(both)[0]!r} is in both splits; split by identity")
    return train, heldout


def _read_csv(settings: DataSettings) -> list[tuple[Path, str, str]]:
    root = (settings.images or settings.data.parent).resolve()
    try:
        with settings.data.open(newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"{settings.data}: not a readable CSV file or folder ({error})") from error
    if not table or not {"path", "identity"} <= set(table[0]):
        raise TrainingError(f"{settings.data}: needs a header with the columns path and identity, and rows")
    rows = []
    for number, row in enumerate(table, start=2):
        path = (root / (row["path"] or "")).resolve()
        if not path.is_relative_to(root):
            raise TrainingError(f"{settings.data}, line {number}: {row['path']!r} leads out of {root}")
        rows.append((path, row["identity"], row.get("split") or ""))
    return rows


def _every_nth(people: Sequence[str], share: float) -> list[str]:
    count = round(len(people) * share)
    return [people[i] for i in np.linspace(0, len(people) - 1, count).astype(int)] if count else []


def _listing(rows: Sequence[tuple[Path, str, str]]) -> Listing:
    return Listing(tuple(row[0] for row in rows), tuple(row[1] for row in rows))


def load_crops(listing: Listing, size: int = 112, *, progress: bool = True) -> Crops:
    """Decode a listing into memory; what cannot be read is left out and reported once.

    Crops of another size are resized. 10,000 crops of 112 x 112 take 376 MB.

    Raises:
        TrainingError: none of the pictures can be read.
    """

    def decode(path: Path) -> Tensor | ImageError:
        try:
            picture = torch.from_numpy(load_image(path)).permute(2, 0, 1)
        except ImageError as error:
            return error
        if picture.shape[1:] != (size, size):
            resized = torch.nn.functional.interpolate(
                picture[None].float(), (size, size), mode="bilinear", antialias=True, align_corners=False
            )
            picture = resized[0].round().clamp(0, 255).to(torch.uint8)
        return picture

    pictures = torch.empty(len(listing.paths), 3, size, size, dtype=torch.uint8)
    kept: list[str] = []
    with ThreadPoolExecutor() as pool:
        decoded = tqdm(pool.map(decode, listing.paths), "decoding", len(listing.paths), disable=not progress)
        for picture, identity in zip(decoded, listing.identities, strict=True):
            if isinstance(picture, ImageError):
                _log.warning("left out: %s", picture)
                continue
            pictures[len(kept)] = picture
            kept.append(identity)
    if listing.paths and not kept:
        raise TrainingError(
            f"none of the {len(listing.paths)} pictures can be read, the first is {listing.paths[0]}"
        )
    names = {name: label for label, name in enumerate(sorted(set(kept)))}
    labels = torch.tensor([names[identity] for identity in kept], dtype=torch.int64)
    return Crops(pictures[: len(kept)], labels, len(names))


def shuffled_rows(count: int, batch_size: int, *, seed: int, epoch: int) -> Iterator[Tensor]:
    """The rows of each batch of one epoch, (b,) int64, in an order that seed and epoch fix.

    The last, partial batch is left out, as batch norm wants equal ones; each epoch leaves out others.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(count, generator=generator)
    yield from torch.split(order[: count - count % batch_size], batch_size)


def hash_pictures(pictures: Tensor) -> str:
    """A name for exactly these pictures in this order, to recognise what was derived from them."""
    return hashlib.sha256(pictures.contiguous().numpy().data).hexdigest()[:16]
