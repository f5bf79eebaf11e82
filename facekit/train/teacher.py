"""What a student is to imitate: a network that looks on, or embeddings that were made before."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from facekit.checkpoint import load_checkpoint
from facekit.embed import Embedder
from facekit.errors import SettingError, TrainingError
from facekit.train import processes
from facekit.train.data import Crops, Listing, hash_pictures
from facekit.train.stream import Stream
from facekit.wholefile import replacing

__all__ = ["embeddings_of_pictures", "open_teacher", "stored_embeddings"]

_log = logging.getLogger(__name__)


def open_teacher(source: str, dim: int, device: torch.device) -> Embedder:
    """The network to imitate.

    Args:
        source: checkpoint folder, file or Hub name.
        dim: length of the student's embeddings.
        device: where it runs.

    Raises:
        SettingError: its embeddings are of another length.
    """
    teacher = Embedder(load_checkpoint(source), device=device)
    _require_length(source, teacher.dim, dim)
    return teacher


def embeddings_of_pictures(teacher: Embedder, crops: Crops | Stream, stored: Path) -> Tensor:
    """(n, d) float32: the teacher's mean embedding of each crop and its mirror, made once a run.

    Args:
        teacher: who embeds.
        crops: the n pictures.
        stored: the file that keeps them.

    Raises:
        TrainingError: the file cannot be written or read.
    """
    content = hash_pictures(crops.pictures) if isinstance(crops, Crops) else f"{len(crops)} streamed"
    key = f"{teacher.config.fingerprint} {content}"
    if processes.rank() == 0 and _key(stored) != key:
        targets = torch.zeros(len(crops), teacher.dim)
        order = torch.split(torch.arange(len(crops)), 64)
        for pictures, _, rows in tqdm(crops.batches(order), "teacher", len(order), unit="batch"):
            targets[rows] = F.normalize(teacher.embed(pictures) + teacher.embed(pictures.flip(3)))
        _keep(stored, targets, key)
    processes.barrier()
    with safe_open(stored, "pt") as file:
        kept: Tensor = file.get_tensor("targets")
    return kept


def stored_embeddings(file: str, listing: Listing, crops: Crops | Stream, dim: int) -> Tensor:
    """(n, d) float32 of unit length: what ``facekit embed --aligned --out FILE.npz`` wrote of each crop.

    Several faces of a picture count as their mean.

    Args:
        file: the ``.npz``.
        listing: what the crops were read from.
        crops: the n pictures.
        dim: length of the student's embeddings.

    Raises:
        SettingError: not such a file, of another length, or without some of the pictures.
    """
    try:
        with np.load(file, allow_pickle=False) as table:
            vectors, names = table["embeddings"].astype(np.float32), table["pictures"]
        where = {os.path.realpath(name): row for row, name in enumerate(np.unique(names))}
        place = np.unique(names, return_inverse=True)[1].reshape(-1)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise SettingError(
            f"distill={file}: not a file of `facekit embed --out FILE.npz` ({error})"
        ) from error
    _require_length(file, vectors.shape[1], dim)
    sums = torch.zeros(len(where), dim).index_add_(0, torch.from_numpy(place), torch.from_numpy(vectors))
    read = listing.rows[crops.rows] if isinstance(crops, Crops) else listing.rows
    wanted = [listing.source.name(row) for row in read.tolist()]
    rows = [where.get(os.path.realpath(listing.source.root / name), -1) for name in wanted]
    missing = rows.count(-1)
    if missing:
        name = wanted[rows.index(-1)]
        raise SettingError(f"distill={file}: says nothing of {missing} of the pictures, as {name}; embed all")
    return F.normalize(sums)[torch.tensor(rows)]


def _require_length(source: str, found: int, dim: int) -> None:
    if found != dim:
        raise SettingError(
            f"distill={source}: embeds to {found} numbers and the student to {dim}; "
            "give a teacher with as many"
        )


def _key(stored: Path) -> str | None:
    """Of what the file keeps embeddings; None where it is not there or not whole."""
    if not stored.exists():
        return None
    try:
        with safe_open(stored, "pt") as file:
            return dict(file.metadata() or {}).get("key")
    except (OSError, SafetensorError) as error:
        _log.warning("%s: made anew (%s)", stored, error)
        return None


def _keep(stored: Path, targets: Tensor, key: str) -> None:
    try:
        stored.parent.mkdir(parents=True, exist_ok=True)
        with replacing(stored) as file:
            file.write(save({"targets": targets}, {"key": key}))
    except OSError as error:
        raise TrainingError(f"{stored}: cannot be written ({error}); free space") from error
