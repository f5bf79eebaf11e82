"""Pictures that are left out of training, by a list of their names."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from facekit.errors import TrainingError
from facekit.train.listed import read_list
from facekit.train.sources import Source

__all__ = ["excluded_rows"]

_log = logging.getLogger(__name__)


def excluded_rows(source: Source, table: Path) -> Tensor:
    """Which pictures of a source a CSV names in its column ``path``; its other columns say why, to people.

    A picture is named by its path, from the source's ``root`` on or in full; one in an archive as messages
    name it, from the name of the file on (``train.rec, record 17``; ``0.tar, byte 512``). Nothing is opened
    under these names. Rows that name no picture of the source are counted in one warning.

    Returns:
        (n,) bool.

    Raises:
        TrainingError: not such a file, a path that leads out of ``root``, or rows of which not one names a
            picture.
    """
    wanted = {listed.name for listed in read_list(table, source.root.resolve())}
    names = [source.name(row) for row in range(len(source.person))] if wanted else []
    missing = wanted.difference(names)
    if missing:
        told = f"{len(missing)} of {len(wanted)} rows name no picture in {source.root}, as {min(missing)!r}"
        if len(missing) == len(wanted):
            raise TrainingError(f"{table}: {told}; the paths must start there")
        _log.warning("%s: %s", table, told)
    hit = torch.tensor([name in wanted for name in names] or [False] * len(source.person), dtype=torch.bool)
    _log.info("%s: %d of %d pictures are left out", table, int(hit.sum()), len(hit))
    return hit
