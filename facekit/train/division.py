"""Which labels networks believe: what they lose on each picture, divided in two, kept and written."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.errors import TrainingError
from facekit.label_noise import fit_losses
from facekit.train import processes
from facekit.train.data import Crops, Listing
from facekit.train.sources import Source
from facekit.train.stream import Stream
from facekit.wholefile import replacing

__all__ = ["Division", "Judgement", "Labelled", "judge", "known_labels", "write_losses"]

_AT_ONCE = 256
_INSIDE = 1e-5  # how far a threshold stays from the extremes, so that neither part is empty


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """What is said of the pictures that are learnt.

    Attributes:
        source: where they lie.
        rows: (n,) int64, which of the source's.
        labels: (n,) int64, 0 ... classes - 1.
        classes: the names of those.
    """

    source: Source
    rows: Tensor
    labels: Tensor
    classes: Sequence[str]


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What one or two networks say of n pictures.

    Attributes:
        seen: (n,) bool, which could be read.
        losses: (networks, n) float32, cross-entropy with the label; 0 where not seen.
        predicted: (n,) int64, the class that all together think likeliest; 0 where not seen.
    """

    seen: Tensor
    losses: Tensor
    predicted: Tensor

    def clean(self) -> tuple[Tensor, float]:
        """How likely each network thinks each label right, and how far apart the losses of the two kinds are.

        Returns:
            (networks, n) float32 in [0, 1], 0 where not seen; and the mean separation of their mixtures.

        Raises:
            TrainingError: a loss is no number.
        """
        seen = self.losses[:, self.seen]
        if not seen.isfinite().all():
            raise TrainingError("the losses of pictures are no longer numbers: start anew with a lower --lr")
        clean, separation = torch.zeros_like(self.losses), 0.0
        for row, losses in zip(clean, seen.double().numpy(), strict=True):
            mixture = fit_losses(losses)
            row[self.seen] = torch.from_numpy(mixture.clean_probability(losses)).float()
            separation += mixture.separation / len(seen)
        return clean, separation


def known_labels(listing: Listing, crops: Crops | Stream) -> Labelled:
    """What is said of the crops, in their order."""
    rows = listing.rows[crops.rows] if isinstance(crops, Crops) else listing.rows
    labels = crops.labels if isinstance(crops, Crops) else listing.labels
    source = listing.source
    first = np.unique(labels.numpy(), return_index=True)[1]
    people = [source.people[person] for person in source.person[rows[torch.from_numpy(first)]].tolist()]
    return Labelled(source, rows, labels, people)


@torch.inference_mode()
def judge(
    logits: Callable[[Tensor], Sequence[Tensor]],
    crops: Crops | Stream,
    *,
    networks: int = 2,
    shared: bool = True,
) -> Judgement:
    """Look at all pictures as they are, without augmentation. What cannot be read is not seen.

    Args:
        logits: (b, 3, s, s) uint8 -> (b, classes) of each network, which are in evaluation mode.
        crops: the n pictures and their labels.
        networks: how many there are.
        shared: whether all processes take part, each with its share; else this one looks at all.
    """
    found = torch.zeros(networks + 1, len(crops))  # losses, and whether seen
    predicted = torch.zeros(len(crops), dtype=torch.int64)
    order = torch.split(torch.arange(len(crops)), _AT_ONCE)
    if shared:
        order = order[processes.rank() :: processes.world()]
    readable = crops.readable(order) if isinstance(crops, Stream) else crops.batches(order)
    for pictures, labels, rows in readable:
        said = [each.float().log_softmax(1) for each in logits(pictures)]
        for place, each in enumerate(said):
            found[place, rows] = F.nll_loss(each, labels.to(each.device), reduction="none").cpu()
        found[networks, rows] = 1.0
        predicted[rows] = torch.stack(said).exp().mean(0).argmax(1).cpu()
    if shared:
        found, predicted = processes.total(found), processes.total(predicted)
    return Judgement(found[networks] > 0, found[:networks], predicted)


class Division(nn.Module):
    """What an epoch of two networks goes by, as buffers, so that a run goes on in the middle of it.

    Args:
        pictures: how many are learnt.

    Attributes:
        clean: (2, pictures) float32, how likely each network thinks each label right.
        separation: float32, how far apart the losses of right and wrong labels are, in deviations.
    """

    clean: Tensor
    separation: Tensor

    def __init__(self, pictures: int) -> None:
        super().__init__()
        self.register_buffer("clean", torch.ones(2, pictures))
        self.register_buffer("separation", torch.zeros(()))

    def update(self, judgement: Judgement) -> None:
        """Divide anew, alike in all processes."""
        clean, separation = judgement.clean()
        self.clean.copy_(clean)
        self.separation.fill_(separation)
        processes.same([self.clean, self.separation])

    def believed(self, threshold: float) -> Tensor:
        """(2, pictures) bool: which labels each network calls clean; of either kind at least one."""
        least, most = self.clean.amin(1, keepdim=True), self.clean.amax(1, keepdim=True)
        cut = torch.full_like(least, threshold).clamp_min(least + _INSIDE)
        return self.clean > cut.minimum(most - _INSIDE)

    def figures(self, threshold: float) -> dict[str, float]:
        """What shows a collapse: parts that grow together, or networks that agree on all."""
        believed = self.believed(threshold)
        return {
            "clean_share": float(believed.float().mean()),
            "clean_probability": float(self.clean.mean()),
            "separation": float(self.separation),
            "agreement": float((believed[0] == believed[1]).float().mean()),
        }


def write_losses(file: Path, labelled: Labelled, judgement: Judgement, *, threshold: float) -> None:
    """A row a picture: path, label, loss, clean and suggestion, means over the networks.

    The suggestion is what the networks take the picture for, where that is not its label and the label is not
    called clean. A new file is for its owner alone, since it names people.

    Raises:
        TrainingError: the file cannot be written.
    """
    clean = judgement.clean()[0].mean(0)
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(["path", "label", "loss", "clean", "suggestion"])
    columns = (
        labelled.rows,
        labelled.labels,
        judgement.losses.mean(0),
        clean,
        judgement.predicted,
        judgement.seen,
    )
    for row, label, loss, share, predicted, seen in zip(
        *(column.tolist() for column in columns), strict=True
    ):
        if seen:
            other = predicted != label and share <= threshold
            suggestion = labelled.classes[predicted] if other else ""
            path = labelled.source.name(row)
            writer.writerow([path, labelled.classes[label], f"{loss:.6g}", f"{share:.6g}", suggestion])
    try:
        with replacing(file, private=True) as stream:
            stream.write(rows.getvalue().encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise TrainingError(f"{file}: cannot be written ({error}); free space") from error
