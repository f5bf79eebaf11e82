"""The divergence that a network learnt beside its features, as a similarity of nearest neighbours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.checkpoint.folder import read_safetensors
from facekit.errors import CheckpointError, SettingError
from facekit.train.heads import BregmanSubnetworks, ProjectionHead
from facekit.train.losses import bregman_divergence

__all__ = ["Divergence", "open_divergence"]

_HEAD = "head.safetensors"
_AT_ONCE = 1024  # pictures through the head at a time


class Divergence(nn.Module):
    r"""How alike pictures are to the convex function that was learnt: :math:`\exp(-D/2\sigma^2)`.

    Source: Rezaei et al. 2021, "Deep Bregman divergence for contrastive learning of visual representations".

    Args:
        projection: (n, d) features -> (n, p).
        subnetworks: (n, p) of unit length -> (n, K).
        sigma: σ > 0.
    """

    def __init__(self, projection: nn.Module, subnetworks: nn.Module, sigma: float) -> None:
        super().__init__()
        self.projection, self.subnetworks, self.sigma = projection, subnetworks, sigma

    @torch.no_grad()
    def pieces(self, features: Tensor) -> Tensor:
        """(n, K) float32 outputs of the sub-networks, of (n, d) features."""
        parts = torch.split(features, _AT_ONCE)
        return torch.cat([self.subnetworks(F.normalize(self.projection(part))) for part in parts])

    def similarity(self, queries: Tensor, bank: Tensor) -> Tensor:
        """(q, n) in (0, 1]: how little (q, K) pieces diverge from (n, K) others."""
        return torch.exp(bregman_divergence(queries, bank) / (-2 * self.sigma**2))


def open_divergence(source: str) -> Divergence:
    """The head in a checkpoint's folder, in eval mode on the CPU.

    Raises:
        SettingError: the source is no such folder.
        CheckpointError: the file is damaged, or holds something else.
    """
    path = Path(source) / _HEAD
    if not path.is_file():
        raise SettingError(
            f"divergence=bregman: {path} is not there; give a checkpoint of the recipe bregman, or cosine"
        )
    state = read_safetensors(path)
    try:
        projection, subnetworks = _of("projection.", state), _of("subnetworks.", state)
        out, dim = projection["net.3.weight"].shape
        count, wide, hidden = subnetworks["hidden_weight"].shape
        sigma = float(state["sigma"])
        if wide != out or not (0 < sigma < math.inf):
            raise ValueError(f"vectors of {out} for sub-networks of {wide}, sigma={sigma}")
        head = Divergence(
            ProjectionHead(dim, version="bregman", out=out), BregmanSubnetworks(wide, count, hidden), sigma
        )
        head.projection.load_state_dict(projection)
        head.subnetworks.load_state_dict(subnetworks)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path}: not the head of the recipe bregman ({reason}); copy it again", path=str(path)
        ) from error
    return head.eval()


def _of(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
