"""Finds faces and their five landmarks: MTCNN over many pictures of different sizes at once."""

from __future__ import annotations

from facekit.detect.cascade import FaceDetector

__all__ = ["FaceDetector"]
