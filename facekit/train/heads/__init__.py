"""Heads: what stands on an embedding while it is trained, and is thrown away afterwards."""

from __future__ import annotations

from facekit.train.heads.margin import MarginHead
from facekit.train.heads.projection import ProjectionHead

__all__ = ["MarginHead", "ProjectionHead"]
