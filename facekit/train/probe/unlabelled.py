"""Pictures of which nothing is known: what each epoch draws of them, and the pseudo-labels that it learns."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from facekit.errors import TrainingError
from facekit.train import processes
from facekit.train.data import Crops, Listing
from facekit.train.losses.pseudo import NOT_SURE
from facekit.train.pile import open_pile
from facekit.train.probe.examples import Examples
from facekit.train.stream import Stream

__all__ = ["Unlabelled", "list_unlabelled"]

_log = logging.getLogger(__name__)


def list_unlabelled(data: Path, labelled: Examples) -> Listing:
    """The pictures of a pile, without those that are in a labelled set.

    Those of its test split would flatter the figures, and of the others more is known.

    Args:
        data: as :func:`~facekit.train.pile.open_pile` takes it.
        labelled: the set, with all its splits.

    Raises:
        ImageError: no such folder, or no pictures in it.
        TrainingError: data that cannot be understood, or nothing is left.
    """
    pile = open_pile(data, {os.path.realpath(picture.path) for picture in labelled.pictures})
    if pile.labelled:
        _log.info("%s: %d pictures are left out, as a labelled set has them", data, pile.labelled)
    return Listing(pile.source, pile.rows, torch.zeros_like(pile.rows), 1)


class Unlabelled(nn.Module):
    """The pictures, and pseudo-labels of those that an epoch draws; these are saved with the run.

    All pictures have their turn before one comes again, in an order that the seed fixes.

    Args:
        crops: the pictures.
        steps: in an epoch.
        batch_size: pictures a step, over all processes.
        columns: labels of a picture; None for one class each.
        seed: of the order.
    """

    codes: Tensor
    size: Tensor  # number of pictures when the codes were made
    learnt: Tensor  # number of sure labels in all epochs that counted

    def __init__(
        self, crops: Crops | Stream, *, steps: int, batch_size: int, columns: int | None, seed: int
    ) -> None:
        super().__init__()
        self._crops, self._steps, self._batch_size, self._seed = crops, steps, batch_size, seed
        shape = (steps, batch_size) if columns is None else (steps, batch_size, columns)
        self.register_buffer("codes", torch.full(shape, NOT_SURE, dtype=torch.int32))
        self.register_buffer("size", torch.tensor(len(crops)))
        self.register_buffer("learnt", torch.tensor(0))

    def __len__(self) -> int:
        return len(self._crops)

    def order(self, epoch: int) -> Sequence[Tensor]:
        """Which pictures each batch of an epoch has, (batch_size,) int64 each."""
        wanted = self._steps * self._batch_size
        turn, start = divmod(epoch * wanted, len(self))
        parts: list[Tensor] = []
        while wanted > 0:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + turn)
            part = torch.randperm(len(self), generator=generator)[start : start + wanted]
            parts.append(part)
            turn, start, wanted = turn + 1, 0, wanted - len(part)
        return torch.split(torch.cat(parts), self._batch_size)

    def relabel(self, epoch: int, label: Callable[[Tensor], Tensor], *, counts: bool) -> None:
        """Make the labels of an epoch; each process makes a part, and has all.

        Args:
            epoch: its number.
            label: (n, 3, s, s) uint8 pictures -> (n, ...) int32 labels, :data:`NOT_SURE` or above.
            counts: whether these labels have any weight in the epoch.
        """
        own = slice(processes.rank(), None, processes.world())
        made = torch.zeros_like(self.codes, device="cpu")  # of the others' pictures, which are added up
        for step, (pictures, _, _) in enumerate(
            self._crops.batches([rows[own] for rows in self.order(epoch)])
        ):
            made[step, own] = label(pictures).cpu() - NOT_SURE
        self.codes.copy_(processes.total(made) + NOT_SURE)
        self.size.fill_(len(self))
        if counts:
            self.learnt += (self.codes != NOT_SURE).sum()

    def is_sure(self) -> bool:
        """Whether the labels that were made last are sure of anything."""
        return bool((self.codes != NOT_SURE).any())

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(pictures, targets of a task) of this process; what is not sure is NaN, or a class of -1.

        Raises:
            TrainingError: other pictures than those of which the labels were made, before the run stopped.
        """
        if int(self.size) != len(self):
            raise TrainingError(
                f"unlabelled: {len(self)} pictures, and {int(self.size)} when this epoch began: go on with "
                "the same ones, --keep-gb and number of processes (streaming counts unreadable ones, too)"
            )
        own = slice(processes.rank(), None, processes.world())
        order = [rows[own] for rows in self.order(epoch)[skip:]]
        for step, (pictures, _, _) in enumerate(self._crops.batches(order), skip):
            codes = self.codes[step, own].cpu()
            if codes.ndim == 1:
                yield pictures, codes.long()
            else:
                yield pictures, torch.where(codes == NOT_SURE, torch.nan, codes.float())
