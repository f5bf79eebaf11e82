"""Telling people apart who were not learnt from: an embedding and a softmax with a margin."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from facekit.errors import EvaluationError
from facekit.train.losses import margin_softmax
from facekit.train.probe.examples import TEST, VALIDATION, Examples
from facekit.train.probe.metrics import Metric, pair_scores
from facekit.train.probe.tasks.known import scored

__all__ = ["Identities"]

_DIM = 256
_SCALE, _MARGIN = 30.0, 0.2  # mild ones: with few labels a hard margin leaves most pictures unlearnt
_FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
_MAIN = (1e-3, 1e-2, 1e-1)  # by the first that the splits have enough pairs for
_ACCEPTS = 10  # pairs that a rate must mean: one that hangs on fewer says more about these


class Identities:
    """Embeddings, of which pairs of one person are alike; scored over all pairs of people.

    Loss: CosFace (Wang et al. 2018) with s = 30 and m = 0.2.

    Args:
        examples: with the task ``identities``.
        rows: (k,) int64, of the training split, whose labels may be looked at.

    Attributes:
        people: the names of those, in the order of the head's centres.

    Raises:
        EvaluationError: a test split without a pair of one person or without one of two.
    """

    sees: Literal["vector", "map"] = "vector"

    def __init__(self, examples: Examples, rows: Tensor) -> None:
        self._examples = examples
        people = torch.unique(examples.targets[rows])
        self.people = tuple(examples.names[person] for person in people.tolist())
        self._column = torch.full((int(examples.targets.max()) + 1,), -1).scatter(
            0, people, torch.arange(len(people))
        )
        pairs = _impostor_pairs(examples, TEST)
        if not pairs:
            raise EvaluationError(
                f"{examples.name}: the test pictures need two people at least, and two pictures of one"
            )
        self._fars = tuple(far for far in _FARS if far * pairs >= _ACCEPTS)
        left_out = ", ".join(f"{far:g}" for far in _FARS if far not in self._fars)
        self.notes = (f"too few test pairs for FAR {left_out}",) if left_out else ()
        fewest = min(pairs, _impostor_pairs(examples, VALIDATION))
        rates = [Metric(f"tar@far={far:g}", percent=True) for far in self._fars]
        others = [*rates, Metric("auc", percent=True), Metric("eer", higher_is_better=False, percent=True)]
        choice = next((f"tar@far={far:g}" for far in _MAIN if far * fewest >= _ACCEPTS), "auc")
        self.metrics = tuple(sorted(others, key=lambda metric: metric.name != choice))

    def head(self, channels: int, side: int) -> nn.Module:
        """(n, channels) -> cosines to people (n, people) in training, else embeddings (n, 256)."""
        return _Embedding(channels, len(self.people))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the cosines, made harder for the own person."""
        columns = self._column.to(targets.device)[targets]
        return margin_softmax(outputs, columns, scale=_SCALE, margin=0.0, cosine_margin=_MARGIN)

    def scores(self, outputs: Tensor, rows: Tensor) -> dict[str, float]:
        """TAR at FAR, area under the curve and equal error rate over all pairs."""
        values, people = scored(self._examples, outputs, rows)
        pairs = _count_impostors(people)
        fars = tuple(far for far in self._fars if far * pairs >= _ACCEPTS)
        return pair_scores(values, people, fars)

    def mirrored(self, targets: Tensor) -> Tensor:
        """The same."""
        return targets


class _Embedding(nn.Module):
    """Linear - BN, as wide as the field's embeddings; BN, since features above 0 are all alike by cosine."""

    def __init__(self, channels: int, people: int) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, _DIM, bias=False)
        self.bn = nn.BatchNorm1d(_DIM)
        self.centres = nn.Parameter(torch.randn(people, _DIM) * 0.01)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            embeddings: Tensor = self.bn(self.embed(features.float()))
            if not self.training:
                return embeddings
            return F.linear(F.normalize(embeddings), F.normalize(self.centres))


def _impostor_pairs(examples: Examples, split: int) -> int:
    """0 where there is no pair of one person to compare them with."""
    people = examples.targets[examples.rows(split)].numpy()
    return _count_impostors(people) if len(np.unique(people)) < len(people) else 0


def _count_impostors(people: NDArray[np.int64]) -> int:
    counts = np.unique(people, return_counts=True)[1].astype(np.int64)
    return int((counts.sum() ** 2 - (counts**2).sum()) // 2)
