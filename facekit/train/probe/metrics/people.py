"""How well embeddings tell all pairs of people's pictures apart, by evaluation's own curves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekit.evaluate import roc_of_people

__all__ = ["pair_scores"]


def pair_scores(
    embeddings: NDArray[np.floating[Any]], people: NDArray[np.integer[Any]], fars: tuple[float, ...]
) -> dict[str, float]:
    """``tar@far=...``, ``auc`` and ``eer`` over all pairs of the pictures.

    Args:
        embeddings: (n, d), any length but 0.
        people: (n,) whose each is.
        fars: false accept rates, each of at least one pair.

    Raises:
        EvaluationError: no pair of one person or none of two, too few for a rate, or an embedding of 0.
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    units = (embeddings / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    curve = roc_of_people(units, people)
    rates = {f"tar@far={far:g}": curve.tar_at_far(far) for far in fars}
    return {**rates, "auc": curve.auc, "eer": curve.eer}
