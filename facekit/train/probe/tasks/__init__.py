"""The face tasks that a representation is tried on, one file each."""

from __future__ import annotations

from facekit.train.probe.tasks.task import Task

__all__ = ["Task"]
