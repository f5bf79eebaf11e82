"""Heads: what stands on an embedding while it is trained, and is thrown away afterwards."""

from __future__ import annotations

from facekit.train.heads.bregman import BregmanSubnetworks
from facekit.train.heads.classes import CosineClasses, LinearClasses
from facekit.train.heads.gaussian import GaussianHead
from facekit.train.heads.margin import MarginHead
from facekit.train.heads.projection import ProjectionHead
from facekit.train.heads.prototypes import Prototypes

__all__ = [
    "BregmanSubnetworks",
    "CosineClasses",
    "GaussianHead",
    "LinearClasses",
    "MarginHead",
    "ProjectionHead",
    "Prototypes",
]
