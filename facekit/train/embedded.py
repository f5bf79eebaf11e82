"""What a network makes of listed pictures, in files, so that a long pass goes on where it was stopped."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from facekit.embed import Embedder
from facekit.errors import GalleryError, ImageError, TrainingError
from facekit.prefetch import map_ahead
from facekit.train import processes
from facekit.train.data import decode_crop
from facekit.train.sources import Source
from facekit.train.sources.source import pictures_digest
from facekit.vectorfile import read_vectors, write_vectors

__all__ = ["embed_pictures", "read_embedded"]

_log = logging.getLogger(__name__)

_CROP = 112  # pixels; what an embedder takes
_PART = 8192  # pictures of a file; with 512 numbers each, 17 MB
_AT_ONCE = 64


def embed_pictures(network: Embedder, source: Source, rows: Tensor, folder: Path) -> list[Path]:
    """Embed pictures as the network's checkpoint says, so that its thresholds hold; all processes share them.

    What cannot be read is left out and reported.

    Args:
        network: who embeds.
        source: where the pictures lie.
        rows: (n,) int64, which of them.
        folder: of the files, 8,192 pictures each; those that are there are not made again, unless files of
            the pictures have changed.

    Returns:
        The files, for :func:`read_embedded` in whichever process needs them.

    Raises:
        TrainingError: the folder cannot be made.
        GalleryError: a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be made ({error}); give another --out") from error
    parts = torch.split(rows, _PART)
    files = [folder / f"{number:06d}.safetensors" for number in range(len(parts))]
    own = slice(processes.rank(), None, processes.world())
    with tqdm(
        total=sum(map(len, parts[own])), desc=folder.name, unit=" pictures", disable=processes.rank() > 0
    ) as bar:
        for part, file in zip(parts[own], files[own], strict=True):
            key = f"{network.config.fingerprint} {pictures_digest(source, part.tolist())}"
            if _key(file) == key:
                bar.update(len(part))
            else:
                _embed_part(network, source, part, file, key, bar)
    processes.barrier()
    return files


def read_embedded(files: Sequence[Path]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What :func:`embed_pictures` wrote, of all pictures.

    Returns:
        (m, d) float32 of unit length, and (m,) int64, ascending: which of the rows they are of.

    Raises:
        TrainingError: none of the pictures could be read.
        GalleryError: a file cannot be read.
    """
    read = [read_vectors(file)[:2] for file in files]
    places = np.concatenate(
        [number * _PART + np.array(table, np.int64) for number, (_, table) in enumerate(read)]
    )
    if not len(places):
        raise TrainingError(f"{files[0].parent}: no picture can be read; the last warning says why")
    return np.concatenate([vectors for vectors, _ in read]), places


def _embed_part(
    network: Embedder, source: Source, rows: Tensor, file: Path, key: str, bar: tqdm[None]
) -> None:
    def decode(row: int) -> Tensor | ImageError:
        try:
            return decode_crop(source, row, _CROP)
        except ImageError as error:
            return error

    cores = max(1, (os.cpu_count() or 1) // processes.beside())
    decoded = map_ahead(decode, rows.tolist(), workers=cores, window=4 * _AT_ONCE)
    vectors, places = [torch.empty(0, network.dim)], []
    for numbered in _batched(enumerate(decoded)):
        crops = []
        for place, crop in numbered:
            if isinstance(crop, ImageError):
                _log.warning("left out: %s", crop)
                continue
            crops.append(crop)
            places.append(place)
        if crops:
            vectors.append(network.embed(torch.stack(crops)))
        bar.update(len(numbered))
    write_vectors(file, torch.cat(vectors).numpy(), places, {"key": key})


def _batched(
    items: Iterator[tuple[int, Tensor | ImageError]],
) -> Iterator[list[tuple[int, Tensor | ImageError]]]:
    while batch := list(islice(items, _AT_ONCE)):
        yield batch


def _key(file: Path) -> str | None:
    """Of what a file holds the embeddings; None where it is not there or not whole."""
    if not file.exists():
        return None
    try:
        return read_vectors(file)[2].get("key")
    except GalleryError as error:
        _log.warning("%s: made anew (%s)", file, error)
        return None
