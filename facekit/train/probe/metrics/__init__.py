"""The field's figures for face tasks: arrays in, numbers out."""

from __future__ import annotations

from facekit.train.probe.metrics.metric import Metric

__all__ = ["Metric"]
