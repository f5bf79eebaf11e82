"""Pictures on disk -> batches: whose they are, who is kept aside, and crops that are decoded once."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from facekit.errors import ImageError, TrainingError
from facekit.image import load_image
from facekit.prefetch import map_ahead
from facekit.train.config import DataSettings
from facekit.train.exclude import excluded_rows
from facekit.train.sources import Source, open_csv, open_folder, open_records, open_shards

__all__ = [
    "Crops",
    "Listing",
    "decode_crop",
    "hash_pictures",
    "load_crops",
    "open_source",
    "read_listing",
    "shuffled_rows",
]

_log = logging.getLogger(__name__)

_MAX_PIXELS = 1 << 24  # of a picture before it is shrunk: 48 MiB each in every worker
_HELDOUT = 20_000  # pictures kept aside at most where the data names no split: they stay in memory


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """Pictures of a source and whose they are, before anything is decoded.

    Attributes:
        source: where they lie.
        rows: (n,) int64, which of the source's.
        labels: (n,) int64, 0 ... classes - 1.
        classes: number of identities.
    """

    source: Source
    rows: Tensor
    labels: Tensor
    classes: int

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """Decoded crops and their labels.

    Attributes:
        pictures: (n, 3, size, size) uint8, RGB.
        labels: (n,) int64, 0 ... classes - 1.
        classes: number of identities.
        rows: (n,) int64, which of the listing's pictures these are.
    """

    pictures: Tensor
    labels: Tensor
    classes: int
    rows: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(pictures, labels, numbers of the crops) for each tensor of such numbers."""
        return ((self.pictures[rows], self.labels[rows], rows) for rows in order)


def read_listing(settings: DataSettings, *, labelled: bool = True) -> tuple[Listing, Listing]:
    """Read who is where. What ``settings.exclude`` names is in neither part, and moves nobody between them.

    Args:
        settings: where, and what to keep aside.
        labelled: whether it has to be known who is on the pictures. If not, a folder may hold pictures in any
            folders or none, a CSV needs no identities, a shard no ``.cls``, and all may be of one person; a
            picture of which nothing is known counts as a person by itself.

    Returns:
        (training, held-out): no identity stands in both.

    Raises:
        ImageError: no such folder, or no pictures in it.
        TrainingError: nothing found, or data that cannot be understood.
    """
    source = open_source(settings.data, settings.images, labelled=labelled)
    if not len(source.person):
        raise TrainingError(f"{settings.data}: names no pictures; give other --data")
    held = source.heldout
    if held is None:
        share = min(settings.heldout, _HELDOUT / max(1, len(source.person)))
        aside = _every_nth(len(source.people), share)
        held = torch.isin(source.person, torch.tensor(aside, dtype=torch.int64))
    kept = torch.ones_like(held) if settings.exclude is None else ~excluded_rows(source, settings.exclude)
    train, heldout = _listing(source, ~held & kept), _listing(source, held & kept)
    if not len(train):
        raise TrainingError(f"{settings.data}: all pictures are kept aside or excluded; lower --heldout")
    if labelled and train.classes < 2:
        raise TrainingError(f"{settings.data}: {train.classes} people to train on; at least 2 are needed")
    both = source.person[~held][torch.isin(source.person[~held], source.person[held])]
    if labelled and len(both):
        name = source.people[int(both.min())]
        raise TrainingError(f"{settings.data}: {name!r} is in both splits; split by identity")
    return train, heldout


def open_source(data: Path, images: Path | None = None, *, labelled: bool = True) -> Source:
    """The pictures in a folder of people, a CSV, a ``.rec`` or ``.tar`` file, or a folder of ``.tar`` files.

    Args:
        data: where they lie.
        images: where the paths of a CSV start, if not beside it.
        labelled: as for :func:`read_listing`.

    Raises:
        ImageError: no such folder, or no pictures in it.
        TrainingError: data that cannot be understood, or ``images`` for what is no CSV.
    """
    if images is not None and (data.is_dir() or data.suffix in (".rec", ".tar")):
        raise TrainingError(f"{data}: is no CSV, whose paths alone start at --images; leave --images out")
    if data.is_dir():
        shards = sorted(path for path in data.glob("*.tar") if path.is_file() and not path.is_symlink())
        if shards:
            return open_shards(shards, labelled=labelled)
        return open_folder(data, labelled=labelled)
    if data.suffix == ".rec":
        return open_records(data)
    if data.suffix == ".tar":
        return open_shards([data], labelled=labelled)
    return open_csv(data, images, labelled=labelled)


def _every_nth(people: int, share: float) -> list[int]:
    count = round(people * share)
    return np.linspace(0, people - 1, count).astype(int).tolist() if count else []


def _listing(source: Source, chosen: Tensor) -> Listing:
    rows = chosen.nonzero()[:, 0]
    people, labels = np.unique(source.person[rows].numpy(), return_inverse=True)
    return Listing(source, rows, torch.from_numpy(labels), len(people))


def decode_crop(source: Source, row: int, size: int) -> Tensor:
    """One picture as (3, size, size) uint8; one of another size is resized.

    Raises:
        ImageError: it cannot be read, or is not square, as an aligned face would be.
    """
    picture = torch.from_numpy(load_image(source.read(row), max_pixels=_MAX_PIXELS)).permute(2, 0, 1)
    height, width = picture.shape[1:]
    if height != width:
        name = source.name(row)
        raise ImageError(
            f"{name}: {width} x {height} is no aligned face crop; facekit data align makes them",
            path=name,
        )
    if picture.shape[1:] != (size, size):
        resized = torch.nn.functional.interpolate(
            picture[None].float(), (size, size), mode="bilinear", antialias=True, align_corners=False
        )
        picture = resized[0].round().clamp(0, 255).to(torch.uint8)
    return picture


def load_crops(listing: Listing, size: int = 112, *, progress: bool = True) -> Crops:
    """Decode a listing into memory; what cannot be read is left out and reported once.

    Crops of another size are resized. 10,000 crops of 112 x 112 take 376 MB.

    Raises:
        TrainingError: none of the pictures can be read.
    """

    def decode(row: int) -> Tensor | ImageError:
        try:
            return decode_crop(listing.source, row, size)
        except ImageError as error:
            return error

    pictures = torch.empty(len(listing), 3, size, size, dtype=torch.uint8)
    kept: list[int] = []
    decoded = map_ahead(decode, listing.rows.tolist(), workers=os.cpu_count() or 1, window=1024)
    for number, picture in enumerate(tqdm(decoded, "decoding", len(listing), disable=not progress)):
        if isinstance(picture, ImageError):
            _log.warning("left out: %s", picture)
            continue
        pictures[len(kept)] = picture
        kept.append(number)
    if len(listing) and not kept:
        raise TrainingError(f"none of the {len(listing)} pictures can be read; the last warning says why")
    people, labels = np.unique(listing.labels[kept].numpy(), return_inverse=True)
    return Crops(
        pictures[: len(kept)], torch.from_numpy(labels), len(people), torch.tensor(kept, dtype=torch.int64)
    )


def shuffled_rows(count: int, batch_size: int, *, seed: int, epoch: int) -> Sequence[Tensor]:
    """The rows of each batch of one epoch, (b,) int64, in an order that seed and epoch fix.

    The last, partial batch is left out, as batch norm wants equal ones; each epoch leaves out others.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(count, generator=generator)
    return torch.split(order[: count - count % batch_size], batch_size)


def hash_pictures(pictures: Tensor) -> str:
    """A name for exactly these pictures in this order, to recognise what was derived from them."""
    return hashlib.sha256(pictures.contiguous().numpy().data).hexdigest()[:16]
