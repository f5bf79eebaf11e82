"""What one face is, before and after it has been embedded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Box", "Detection", "Embedding", "Face", "Image", "Landmarks"]

Image = NDArray[np.uint8]
"""(height, width, 3) uint8, RGB."""

Box = NDArray[np.float32]
"""(4,) float32: x1, y1, x2, y2 in pixels of the upright picture; may reach over its border."""

Landmarks = NDArray[np.float32]
"""(5, 2) float32: x, y in pixels of left eye, right eye, nose, left and right mouth corner
(left and right as seen in the picture)."""

Embedding = NDArray[np.float32]
"""(d,) float32 of unit length."""


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """A face found in a picture.

    Attributes:
        box: (4,) float32, x1, y1, x2, y2 in pixels.
        landmarks: (5, 2) float32, pixels.
        confidence: the detector's score in [0, 1].
    """

    box: Box
    landmarks: Landmarks
    confidence: float

    @property
    def size(self) -> float:
        """Geometric mean of the box's sides, in pixels."""
        width, height = self.box[2:] - self.box[:2]
        return float(np.sqrt(max(0.0, float(width)) * max(0.0, float(height))))


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A face that has been found, measured and embedded.

    Attributes:
        box: (4,) float32, x1, y1, x2, y2 in pixels of the upright picture.
        landmarks: (5, 2) float32, pixels.
        confidence: the detector's score in [0, 1]; 1 for crops given as ``aligned=True``.
        quality: how usable the face is, in [0, 1] (see :mod:`facekit.quality`).
        embedding: (d,) float32 of unit length.
    """

    box: Box
    landmarks: Landmarks
    confidence: float
    quality: float
    embedding: Embedding

    @property
    def size(self) -> float:
        """Geometric mean of the box's sides, in pixels."""
        width, height = self.box[2:] - self.box[:2]
        return float(np.sqrt(max(0.0, float(width)) * max(0.0, float(height))))

    def to_dict(self) -> dict[str, Any]:
        """The face as plain numbers for JSON, without its embedding."""
        return {
            "box": [round(float(v), 1) for v in self.box],
            "landmarks": [[round(float(v), 1) for v in point] for point in self.landmarks],
            "confidence": round(self.confidence, 4),
            "quality": round(self.quality, 4),
        }
