"""Heads: what stands on an embedding while it is trained, and is thrown away afterwards."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.train.losses import margin_softmax

__all__ = ["MarginHead"]


class MarginHead(nn.Module):
    """One centre for each identity, compared by cosine with an angular margin.

    Computes in float32 under autocast: at scale 64 a bfloat16 cosine is off by up to half a unit of
    logit.

    Args:
        dim: length of the embeddings.
        classes: number of identities.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, dim))
        nn.init.normal_(self.weight, std=0.01)

    def forward(
        self, embeddings: Tensor, labels: Tensor, *, scale: float, margin: float
    ) -> tuple[Tensor, Tensor]:
        """The loss, and the mean cosine between embeddings and the centres of their own identity.

        Args:
            embeddings: (n, dim) float, any length.
            labels: (n,) int64.
            scale: s of the logits.
            margin: m in radians.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = F.normalize(embeddings.float()) @ F.normalize(self.weight.float()).T
            loss = margin_softmax(cosines, labels, scale=scale, margin=margin)
        return loss, cosines.detach().gather(1, labels[:, None]).mean()
