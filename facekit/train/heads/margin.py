"""The head of margin losses: one centre for each identity."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.errors import SettingError, TrainingError
from facekit.train import processes
from facekit.train.losses import centre_softmax

__all__ = ["MarginHead"]

_BLOCK = 4096  # centres that are drawn at a time


class MarginHead(nn.Module):
    """One centre for each identity, compared by cosine with a margin; processes may share the centres out.

    With several processes each holds the rows of its own part of the centres, split as ``torch.chunk`` and
    DTensor's ``Shard(0)`` do; a part may be empty. Every process gives its own part of the batch, and the
    embeddings of all meet the centres of all.

    Gradients, for a loop that averages those of the backbone over the processes: the gradient of
    ``weight`` is that of the loss, exact, and must not be averaged. The gradient of a process's own
    embeddings is the number of processes times that of the loss, so that the backbone's average is that of
    the loss.

    Computes in float32 under autocast: at scale 64 a bfloat16 cosine is off by up to half a unit of
    logit.

    A ``sample_rate`` below 1 compares, in training, with the centres of the people in the batch and with
    others drawn at random; those left out get no gradient, though an optimiser's momentum may still move
    them. The draw depends on torch's CPU generator and on the number of processes.

    Source: An et al. 2021, "Partial FC: training 10 million identities on a single machine".

    Args:
        dim: length of the embeddings.
        classes: number of identities, of all processes together.
        sample_rate: share of a process's centres that a step compares with, in (0, 1]; more where the
            batch has more people.
        group: the processes that share the centres; None for all of ``torch.distributed``, or for one
            where that is not initialised.

    Attributes:
        weight: (rows, dim) float32, the centres that are here. As a whole they depend on torch's CPU
            generator alone, which must be seeded alike in all processes.
        first: class of the first row of ``weight``.
        classes: number of identities, of all processes together.

    Raises:
        SettingError: ``sample_rate`` is not in (0, 1].
    """

    def __init__(
        self, dim: int, classes: int, *, sample_rate: float = 1.0, group: dist.ProcessGroup | None = None
    ) -> None:
        super().__init__()
        if not 0 < sample_rate <= 1:
            raise SettingError(f"sample_rate={sample_rate}: give a share in (0, 1]; 1 compares with everyone")
        together = dist.is_available() and dist.is_initialized()
        self.classes = classes
        self.sample_rate = sample_rate
        self._group = group
        self._world = dist.get_world_size(group) if together else 1
        self._rank = dist.get_rank(group) if together else 0
        share = math.ceil(classes / self._world)
        self.first = min(self._rank * share, classes)
        rows = min(self.first + share, classes) - self.first
        self.weight = nn.Parameter(_draw(dim, classes, self.first, rows))

    def forward(
        self, embeddings: Tensor, labels: Tensor, *, scale: float, margin: float, cosine_margin: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """The loss, and the mean cosine between embeddings and the centres of their own identity.

        Both are means over the batches of all processes, and the same in all.

        Args:
            embeddings: (n, dim) float, any length; n alike in all processes.
            labels: (n,) int64, in 0 ... classes - 1.
            scale: s of the logits.
            margin: m2 in radians, added to the angle (ArcFace).
            cosine_margin: m3, subtracted from the cosine (CosFace).

        Raises:
            TrainingError: with several processes, their batches differ in size or a label is out of range.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            unit = F.normalize(embeddings.float())
            if self._world > 1:
                self._check(labels)
                unit = unit + (self._world - 1) * (unit - unit.detach())  # the gradient times their number
                unit = processes.gathered(unit, self._group)
                labels = processes.gathered(labels, self._group)
            centres, rows, columns = self._compared(labels)
            return centre_softmax(
                unit,
                centres.float(),
                (rows, columns),
                scale=scale,
                margin=margin,
                cosine_margin=cosine_margin,
                group=self._group,
                sharded=self._world > 1,
            )

    def _compared(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The centres of this step, and which cosine with them, by row and column, is a target."""
        if self._world > 1:
            own = labels - self.first
            rows = ((own >= 0) & (own < len(self.weight))).nonzero()[:, 0]
            columns = own[rows]
        else:
            rows, columns = torch.arange(len(labels), device=labels.device), labels
        if self.sample_rate == 1 or not self.training:
            return self.weight, rows, columns
        sample = self._sample(columns)
        return self.weight.index_select(0, sample), rows, torch.searchsorted(sample, columns)

    def _sample(self, wanted: Tensor) -> Tensor:
        """Sorted rows of ``weight``: those that are wanted, and others at random."""
        seed = int(torch.randint(2**62, ())) + self._rank
        chance = torch.rand(
            len(self.weight),
            device=self.weight.device,
            generator=torch.Generator(self.weight.device).manual_seed(seed),
        )
        chance[wanted] = 1.0  # above all others
        count = max(math.ceil(self.sample_rate * len(self.weight)), int((chance == 1.0).sum()))
        return chance.topk(count, sorted=False).indices.sort().values

    def _check(self, labels: Tensor) -> None:
        """Compare batches before anything of their size is sent, since that would wait for ever."""
        n = len(labels)
        low, high = labels.aminmax() if n else (labels.new_zeros(()), labels.new_zeros(()))
        extremes = torch.stack([labels.new_tensor(n), labels.new_tensor(-n), high, -low])
        dist.all_reduce(extremes, dist.ReduceOp.MAX, self._group)
        most, least, highest, lowest = extremes.tolist()
        if most != -least:
            raise TrainingError(
                f"batches of {-least} to {most} faces in the {self._world} processes: "
                "give every process as many; drop the last ones of an epoch"
            )
        if -lowest < 0 or highest >= self.classes:
            raise TrainingError(
                f"labels {-lowest} ... {highest} for {self.classes} people: number them from 0 without gaps"
            )


def _draw(dim: int, classes: int, first: int, rows: int) -> Tensor:
    """Rows ``first`` ... of a (classes, dim) matrix of N(0, 0.01), the same however it is split.

    Every process draws all of it, a block at a time, and keeps its own.
    """
    part = torch.empty(rows, dim)
    for start in range(0, classes, _BLOCK):
        block = nn.init.normal_(torch.empty(min(_BLOCK, classes - start), dim), std=0.01)
        low, high = max(first, start), min(first + rows, start + len(block))
        if low < high:
            part[low - first : high - first] = block[low - start : high - start]
    return part
