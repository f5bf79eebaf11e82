"""Pictures that are left out of training, by a list of their names."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from facekit.errors import TrainingError
from facekit.train.listed import read_list
from facekit.train.sources import Source

__all__ = ["EXCLUDED", "excluded_rows", "reasons_of_exclusion"]

EXCLUDED = "excluded"
"""The reason of a list that gives none."""

_log = logging.getLogger(__name__)


def excluded_rows(source: Source, table: Path) -> Tensor:
    """Which pictures of a source a list leaves out, as :func:`reasons_of_exclusion` reads it.

    Returns:
        (n,) bool.

    Raises:
        TrainingError: not such a list.
    """
    reasons, stray = reasons_of_exclusion(source, table)
    if stray:
        _log.warning("%s", stray)
    gone = torch.tensor([bool(reason) for reason in reasons], dtype=torch.bool)
    _log.info("%s: %d of %d pictures are left out", table, int(gone.sum()), len(gone))
    return gone


def reasons_of_exclusion(source: Source, table: Path) -> tuple[list[str], str]:
    """For each picture of a source why a CSV leaves it out: its column ``reason``; empty where it does not.

    The column ``path`` names a picture by its path, from the source's ``root`` on or in full; one in an
    archive as messages name it, from the name of the file on (``train.rec, record 17``; ``0.tar, byte 512``).
    Nothing is opened under these names.

    Returns:
        The reasons, and a line about rows that name no picture of the source; empty where all do.

    Raises:
        TrainingError: not such a file, a path that leads out of ``root``, or rows of which not one names a
            picture.
    """
    listed = read_list(table, source.root.resolve())
    reasons = {row.name: row.cells.get("reason") or EXCLUDED for row in listed}
    names = [source.name(row) for row in range(len(source.person))] if reasons else []
    missing, stray = reasons.keys() - names, ""
    if missing:
        told = f"{len(missing)} of {len(reasons)} rows name no picture in {source.root}, as {min(missing)!r}"
        if len(missing) == len(reasons):
            raise TrainingError(f"{table}: {told}; the paths must start there")
        stray = f"{table}: {told}"
    return [reasons.get(name, "") for name in names] or [""] * len(source.person), stray
