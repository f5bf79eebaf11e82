"""The networks: modules and nothing else, found by the explicit name of their architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import nn

from facekit.errors import SettingError
from facekit.models.convrec import ConvRec
from facekit.models.faceresnet import FaceResNet
from facekit.models.inception_resnet import InceptionResnetV1
from facekit.models.iresnet import IResNet
from facekit.models.resnet import ResNet, resnet10t, resnet18, resnet34, resnet50
from facekit.models.vgg import VGG11BN

__all__ = [
    "ARCHITECTURES",
    "VGG11BN",
    "ConvRec",
    "FaceResNet",
    "IResNet",
    "InceptionResnetV1",
    "ResNet",
    "build",
]

ARCHITECTURES: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "resnet10t": resnet10t,
        "resnet18": resnet18,
        "resnet34": resnet34,
        "resnet50": resnet50,
        "vgg11_bn": VGG11BN,
        "convrec": ConvRec,
        "inception_resnet_v1": InceptionResnetV1,
        "iresnet18": partial(IResNet, (2, 2, 2, 2)),
        "iresnet34": partial(IResNet, (3, 4, 6, 3)),
        "iresnet50": partial(IResNet, (3, 4, 14, 3)),
        "iresnet100": partial(IResNet, (3, 13, 30, 3)),
        "faceresnet": FaceResNet,
    }
)
"""Name -> builder. The names are explicit because "r50" means two networks: torchvision's ``resnet50``
(2.2 GFLOP at 112 px) and insightface's ``iresnet50`` (12.6 GFLOP)."""


def build(architecture: str, **sizes: Any) -> nn.Module:
    """A new network with random weights.

    Args:
        architecture: a key of :data:`ARCHITECTURES`.
        **sizes: its builder's keyword arguments, such as ``embedding_dim``.

    Returns:
        A module that maps (n, 3, s, s) float, normalised, to (n, d) float, not of unit length.

    Raises:
        SettingError: the name is not known, or the architecture has no such size.
    """
    if architecture not in ARCHITECTURES:
        raise SettingError(
            f"architecture: {architecture!r} is not known; use one of {', '.join(sorted(ARCHITECTURES))}"
        )
    try:
        return ARCHITECTURES[architecture](**sizes)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise SettingError(f"sizes of {architecture}: {sizes} do not fit, {error}") from None
