"""The field's figures for face tasks: arrays in, numbers out."""

from __future__ import annotations

from facekit.train.probe.metrics.agreement import ccc, icc, mse, pcc, rmse, sagr
from facekit.train.probe.metrics.classification import (
    accuracy,
    attribute_accuracy,
    attribute_f1,
    macro_f1,
)
from facekit.train.probe.metrics.metric import Metric
from facekit.train.probe.metrics.people import pair_scores
from facekit.train.probe.metrics.points import (
    absolute_yaw,
    box_error,
    ced_auc,
    failure_rate,
    interocular_error,
)

__all__ = [
    "Metric",
    "absolute_yaw",
    "accuracy",
    "attribute_accuracy",
    "attribute_f1",
    "box_error",
    "ccc",
    "ced_auc",
    "failure_rate",
    "icc",
    "interocular_error",
    "macro_f1",
    "mse",
    "pair_scores",
    "pcc",
    "rmse",
    "sagr",
]
