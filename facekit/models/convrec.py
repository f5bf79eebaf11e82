"""A backbone and the head that turns its features into an embedding (ConvRec)."""

from __future__ import annotations

from torch import Tensor, nn

from facekit.errors import SettingError
from facekit.models.resnet import ResNet, resnet18, resnet34, resnet50

__all__ = ["ConvRec"]

_BACKBONES = {"resnet18": resnet18, "resnet34": resnet34, "resnet50": resnet50}


class ConvRec(nn.Module):
    """ResNet -> BN -> Dropout -> FC -> BN; the unit length is left to :class:`facekit.embed.Embedder`.

    Args:
        backbone: ``"resnet18"``, ``"resnet34"`` or ``"resnet50"``.
        embedding_dim: length d of the embedding.
        dropout: probability, in training only.
        stem: see :class:`~facekit.models.resnet.ResNet`.

    Shapes: (n, 3, s, s) float, normalised -> (n, d) float, not of unit length.
    """

    def __init__(
        self,
        *,
        backbone: str = "resnet50",
        embedding_dim: int = 512,
        dropout: float = 0.4,
        stem: str = "imagenet",
    ) -> None:
        super().__init__()
        if backbone not in _BACKBONES:
            raise SettingError(f"backbone: {backbone!r} is not one of {', '.join(_BACKBONES)}")
        self.backbone: ResNet = _BACKBONES[backbone](stem=stem)
        self.bn_in = nn.BatchNorm1d(self.backbone.out_dim)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.backbone.out_dim, embedding_dim)
        self.bn_out = nn.BatchNorm1d(embedding_dim)

    def feature_map(self, x: Tensor) -> Tensor:
        """(n, c, h, w): the backbone's last stage."""
        return self.backbone.feature_map(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn_in(self.backbone(x))
        out: Tensor = self.bn_out(self.fc(self.dropout(x)))
        return out
