"""Nearest neighbours: what a frozen network's features say with nothing learnt on top of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from facekit.errors import SettingError
from facekit.train.config import require
from facekit.train.probe.divergence import open_divergence
from facekit.train.probe.examples import TaskName
from facekit.train.probe.features import Features

__all__ = ["VOTED", "NeighbourSettings", "Similarity", "neighbour_outputs", "vote"]

VOTED: Mapping[str, tuple[TaskName, ...]] = {
    "cosine": ("classes", "attributes", "identities"),
    "bregman": ("classes", "attributes"),
}
"""What neighbours tell, by their similarity; that of identities is compared itself."""

Similarity = Callable[[Tensor, Tensor], Tensor]
"""(q, d) and (n, d) -> (q, n): how alike each of the one is to each of the other."""

_AT_ONCE = 1 << 25  # numbers of a block
_LEAST = 1e-6  # share of the votes, of which a logarithm is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourSettings:
    """How the neighbours vote; by default as usual since Wu et al. 2018."""

    neighbours: int = 200
    """How many training pictures vote; all, where there are fewer."""
    temperature: float = 0.1
    """A neighbour's vote weighs exp(similarity / temperature)."""
    divergence: Literal["cosine", "bregman"] = "cosine"
    """Similarity: the cosine of the features, or by the divergence that a checkpoint of the recipe bregman
    learnt beside them."""

    def __post_init__(self) -> None:
        require(self.neighbours > 0, "neighbours", self.neighbours, "give 1 or more")
        require(0 < self.temperature < math.inf, "temperature", self.temperature, "give a number above 0")


def neighbour_outputs(
    features: Features, rows: Tensor, wanted: Tensor, settings: NeighbourSettings
) -> Tensor:
    """What the neighbours say, in the place of a head's outputs.

    Of classes the logarithms of their shares of the votes; of attributes the logits of theirs; of
    identities the features themselves, since it is these that are compared.

    Args:
        features: (n, d) of the set.
        rows: (k,) int64, whose labels are used.
        wanted: (m,) int64, of which is asked.
        settings: how they vote.

    Raises:
        SettingError: a task that neighbours do not vote on.
    """
    examples, device = features.examples, features.backbone.device
    if examples.task not in VOTED[settings.divergence]:
        raise SettingError(f"{examples.name}: nearest neighbours do not tell {examples.task}")
    bank, queries = features.of(rows).to(device), features.of(wanted).to(device)
    targets = examples.targets[rows].to(device)
    similarity: Similarity = _cosine
    if settings.divergence == "bregman":
        head = open_divergence(features.backbone.source).to(device)
        bank, queries, similarity = head.pieces(bank), head.pieces(queries), head.similarity
    else:
        bank, queries = F.normalize(bank), F.normalize(queries)
    if examples.task == "identities":
        return queries.cpu()
    if examples.task == "classes":
        targets = F.one_hot(targets, len(examples.names)).float()
    shares = vote(bank, targets, queries, settings, similarity).cpu()
    return shares.clamp_min(_LEAST).log() if examples.task == "classes" else shares.logit(_LEAST)


def vote(
    bank: Tensor, targets: Tensor, queries: Tensor, settings: NeighbourSettings, similarity: Similarity
) -> Tensor:
    """Weighted means of what the nearest pictures are.

    Source: Wu et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination",
    section 3.4.

    Args:
        bank: (n, d) features of pictures that are known.
        targets: (n, c) float32, NaN where not known.
        queries: (m, d) features.
        settings: number and weights of the neighbours.
        similarity: of features.

    Returns:
        (m, c) float32; 0.5 where nothing is known of any neighbour.
    """
    known = ~targets.isnan()
    values = torch.where(known, targets, 0.0)
    count = min(settings.neighbours, len(bank))
    found = []
    for part in _blocks(queries, max(len(bank), count * targets.shape[1])):
        alike, places = similarity(part, bank).topk(count, dim=1)
        weights = ((alike - alike[:, :1]) / settings.temperature).exp()[:, :, None] * known[places]
        total = weights.sum(1)
        found.append(torch.where(total > 0, (weights * values[places]).sum(1) / total.clamp_min(1e-30), 0.5))
    return torch.cat(found)


def _cosine(queries: Tensor, bank: Tensor) -> Tensor:
    return queries @ bank.T


def _blocks(queries: Tensor, each: int) -> Iterator[Tensor]:
    """Queries, as many at a time as leave room for so many numbers of each."""
    yield from torch.split(queries, max(1, _AT_ONCE // each))
