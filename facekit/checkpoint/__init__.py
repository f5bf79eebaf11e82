"""Weights and what it takes to use them, from a folder, a foreign file or the Hub."""

from __future__ import annotations

from facekit.checkpoint.config import Calibration, ModelConfig
from facekit.checkpoint.export import TorchvisionBackbone, export_torchvision
from facekit.checkpoint.folder import Checkpoint, save_checkpoint
from facekit.checkpoint.load import convert_checkpoint, load_checkpoint, push_checkpoint
from facekit.checkpoint.onnx import OnnxModel

__all__ = [
    "Calibration",
    "Checkpoint",
    "ModelConfig",
    "OnnxModel",
    "TorchvisionBackbone",
    "convert_checkpoint",
    "export_torchvision",
    "load_checkpoint",
    "push_checkpoint",
    "save_checkpoint",
]
