"""Projection heads: their layers, and the size that is published."""

from __future__ import annotations

from typing import Literal, get_args

import pytest
import torch
from torch import nn

from facekit.train.heads import ProjectionHead

Version = Literal["v1", "v2", "bregman", "swav"]
LAYERS = {
    "v1": ["Linear+", "ReLU", "Linear+"],
    "v2": ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"],
    "bregman": ["Linear", "BatchNorm1d", "ReLU", "Linear+"],
    "swav": ["Linear+", "BatchNorm1d", "ReLU", "Linear+"],
}


def shown(layer: nn.Module) -> str:
    """Its kind, with a + where a Linear has a bias."""
    biased = isinstance(layer, nn.Linear) and layer.bias is not None
    return type(layer).__name__ + "+" * biased


@pytest.mark.parametrize("version", get_args(Version))
def test_layers_are_those_of_the_paper(version: Version) -> None:
    head = ProjectionHead(24, version=version, out=10)
    assert [shown(layer) for layer in head.net] == LAYERS[version]
    linears = [layer for layer in head.net if isinstance(layer, nn.Linear)]
    widths = [(layer.in_features, layer.out_features) for layer in linears]
    assert widths == [*[(24, 24)] * (len(linears) - 1), (24, 10)]
    assert head(torch.randn(4, 24)).shape == (4, 10)


def test_the_head_for_faces_has_the_published_size_and_names() -> None:
    """4.46 million numbers behind a ResNet-50, in layers 0, 1 and 3 of ``net``."""
    with torch.device("meta"):
        head = ProjectionHead(2048, version="swav")
    assert sum(parameter.numel() for parameter in head.parameters()) == 4_462_720
    assert {name.rpartition(".")[0] for name in head.state_dict()} == {"net.0", "net.1", "net.3"}
