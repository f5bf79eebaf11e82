"""Crops that do not fit into memory: decoded anew in each epoch, by processes that work ahead."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from facekit.errors import ImageError, TrainingError
from facekit.train import processes
from facekit.train.config import DataSettings
from facekit.train.data import Crops, Listing, decode_crop, load_crops
from facekit.train.sources import Source

__all__ = ["Stream", "open_crops"]

_log = logging.getLogger(__name__)

_Decoded = tuple[Tensor, list[int], list[tuple[int, str]]]
_AHEAD = 4  # batches that each process works ahead


def open_crops(listing: Listing, size: int, settings: DataSettings, *, pin: bool) -> Crops | Stream:
    """The crops of a listing: in memory where they take at most ``settings.keep_gb``, else streamed.

    Args:
        listing: what to read.
        size: side in pixels.
        settings: what fits into memory, and how many processes decode what does not.
        pin: whether streamed batches go to a GPU.

    Raises:
        TrainingError: none of the pictures can be read.
    """
    if len(listing) * 3 * size * size <= settings.keep_gb * 1e9:
        return load_crops(listing, size)
    cores = (os.cpu_count() or 1) // processes.beside()
    workers = min(16, max(1, cores)) if settings.workers is None else settings.workers
    return Stream(listing, size, workers=workers, pin=pin)


class Stream:
    """Crops of a listing that are read when their turn comes.

    A picture that cannot be read is reported once, and others of its batch stand in for it, so that all
    batches are of one size.

    Args:
        listing: what to read.
        size: side in pixels.
        workers: processes that decode; 0 decodes where the batches are asked for.
        pin: whether the batches go to a GPU.
    """

    def __init__(self, listing: Listing, size: int, *, workers: int, pin: bool = False) -> None:
        self.classes = listing.classes
        self._labels = listing.labels
        self._order: list[list[int]] = []
        self._reported: set[int] = set()
        # Spawned, because a fork of a process with threads or a GPU can hang; kept, because torch takes
        # seconds to import. A generator of its own leaves torch's global one alone.
        self._batches: DataLoader[_Decoded] = DataLoader(
            _Decoder(listing.source, listing.rows, size),
            batch_size=None,
            sampler=self._order,
            collate_fn=_unchanged,
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
            persistent_workers=workers > 0,
            prefetch_factor=_AHEAD if workers else None,
            pin_memory=pin,
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self._labels)

    def batches(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(pictures, labels, numbers of the crops) for each tensor of such numbers.

        Raises:
            TrainingError: of a whole batch nothing can be read, or a process ended.
        """
        for pictures, rows, broken in self._decoded(order):
            if not rows:
                raise TrainingError(f"no picture of a whole batch can be read; {broken[0][1]}")
            yield pictures, self._labels[rows], torch.tensor(rows)

    def readable(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """:meth:`batches`, without those of which nothing can be read: where the pictures are not learnt.

        Raises:
            TrainingError: a process ended.
        """
        for pictures, rows, _ in self._decoded(order):
            if rows:
                yield pictures, self._labels[rows], torch.tensor(rows)

    def _decoded(self, order: Sequence[Tensor]) -> Iterator[_Decoded]:
        """What the processes make of each batch; what they cannot read is reported."""
        self._order[:] = [rows.tolist() for rows in order]
        try:
            for pictures, rows, broken in self._batches:
                for row, reason in broken:
                    if row not in self._reported:
                        self._reported.add(row)
                        _log.warning("left out: %s", reason)
                yield pictures, rows, broken
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            reason = " ".join(str(error).split())
            raise TrainingError(f"{reason}; start again, with fewer --workers if memory is short") from error


class _Decoder(Dataset[_Decoded]):
    """Rows of a batch -> its crops, the rows that they show, and (row, reason) for what cannot be read."""

    def __init__(self, source: Source, rows: Tensor, size: int) -> None:
        self._source, self._rows, self._size = source, rows, size

    def __getitem__(self, batch: list[int]) -> _Decoded:
        pictures: list[Tensor] = []
        read: list[int] = []
        broken: list[tuple[int, str]] = []
        for row in batch:
            try:
                pictures.append(decode_crop(self._source, int(self._rows[row]), self._size))
                read.append(row)
            except ImageError as error:
                broken.append((row, str(error)))
        if not read:
            return torch.empty(0), read, broken
        filled = [place % len(read) for place in range(len(batch))]
        return torch.stack([pictures[place] for place in filled]), [read[place] for place in filled], broken


def _unchanged(batch: Any) -> Any:
    return batch
