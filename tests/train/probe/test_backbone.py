"""Networks from everywhere, fed as their config says."""

from __future__ import annotations

from pathlib import Path

import made
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from facekit.checkpoint import ModelConfig
from facekit.errors import CheckpointError, SettingError
from facekit.train.probe.backbone import Backbone, open_backbone
from facekit.train.probe.features import Features, Squares

PICTURES = torch.randint(
    0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def opened(source: str | Path, size: int | None = None, seed: int = 0) -> Backbone:
    return open_backbone(str(source), size=size, seed=seed, device=made.CPU)


def test_a_checkpoint_is_fed_as_its_config_says(tmp_path: Path) -> None:
    network = made.tiny_network()
    config = ModelConfig("faceresnet", 12, 16, "bgr", (10.0, 20.0, 30.0), (40.0, 50.0, 60.0))
    backbone = Backbone("made", network, config, made.CPU)
    x = PICTURES.flip(1).float()
    x = torch.stack([(x[:, c] - config.mean[c]) / config.std[c] for c in range(3)], 1)
    with torch.no_grad():
        torch.testing.assert_close(backbone.features(PICTURES, "vector"), network(x))
        torch.testing.assert_close(backbone.features(PICTURES, "map"), network.feature_map(x))
    assert (backbone.vector, backbone.map) == (12, (16, 2, 2))
    assert (backbone.channels("vector"), backbone.channels("map")) == (12, 16)
    assert backbone.learns
    assert not backbone.drawn


def test_a_checkpoint_has_its_own_size_or_the_one_that_is_given(tmp_path: Path) -> None:
    folder = made.tiny_checkpoint(tmp_path / "tiny")
    assert opened(folder).size == 16
    assert opened(folder, size=32).size == 32
    assert opened(folder, size=32).map == (16, 4, 4)
    assert opened(folder).config.fingerprint.startswith("faceresnet-")


def test_random_weights_come_from_the_seed_alone() -> None:
    first, again, other = (opened("scratch:resnet10t", 32, seed) for seed in (1, 1, 2))
    assert first.drawn
    pictures = F.interpolate(PICTURES.float(), (32, 32)).to(torch.uint8)
    vectors = [b.features(pictures, "vector") for b in (first, again, other)]
    assert vectors[0].shape == (5, 512)
    assert vectors[0].equal(vectors[1])
    assert not torch.allclose(vectors[0], vectors[2])
    before = torch.random.get_rng_state()
    opened("scratch:resnet10t", 32, 3)
    assert torch.random.get_rng_state().equal(before)


def test_sizes_of_an_architecture_can_be_given() -> None:
    assert opened("scratch:resnet18,stem=full", 32).map == (512, 4, 4)
    assert opened("scratch:faceresnet,embedding_dim=24", 32).vector == 24


def test_pixels_are_small_pictures_without_their_mean() -> None:
    backbone = opened("pixels", 16)
    vectors = backbone.features(PICTURES, "vector")
    flat = PICTURES.float().flatten(1).numpy()
    centred = flat - flat.mean(1, keepdims=True)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    torch.testing.assert_close(vectors, torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
    assert opened("pixels", 64).vector == 3 * 32 * 32
    assert not backbone.learns
    assert not backbone.drawn
    with pytest.raises(SettingError, match="pixels: has no map of features"):
        backbone.channels("map")


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="architecture: 'resnet9' is not known"):
        opened("scratch:resnet9", 32)
    with pytest.raises(SettingError, match="'full' is no size; write NAME=VALUE"):
        opened("scratch:resnet18,full", 32)
    with pytest.raises(SettingError, match=r"sizes of resnet10t: .*do not fit"):
        opened("scratch:resnet10t,depth=3", 32)
    with pytest.raises(SettingError, match="its pictures is not known; give --size"):
        opened("pixels")
    with pytest.raises(SettingError, match=r"size=64: scratch:iresnet18 takes no pictures of so many pixels"):
        opened("scratch:iresnet18", 64)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        opened(tmp_path / "none")


class Counting(nn.Module):
    """A mean of each colour of either half, and how many pictures it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        return torch.cat([x[..., :8].mean((2, 3)), x[..., 8:].mean((2, 3))], 1)


def test_features_are_computed_once_and_of_the_mirror_only_if_asked_for(tmp_path: Path) -> None:
    examples = made.classes(tmp_path, (3, 2, 2))
    network = Counting()
    backbone = Backbone("made", network, opened("pixels", 16).config, made.CPU)
    features, network.seen = Features(backbone, examples, "vector"), 0
    first = features.of(torch.tensor([4, 1]))
    assert network.seen == 2
    assert features.of(torch.tensor([1, 4])).equal(first.flip(0))
    assert network.seen == 2
    both = features.of(torch.tensor([1, 2]), mirrored=True)
    assert network.seen == 2 + 4
    plain = features.of(torch.tensor([1, 2]))
    torch.testing.assert_close(both, torch.cat([plain[:, 3:], plain[:, :3]], 1))
    assert network.seen == 6


def test_squares_are_the_same_whether_they_are_kept_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples, rows = made.classes(tmp_path, (3, 2, 2)), torch.tensor([9, 0, 5])
    kept = Squares(examples, rows, 16)
    monkeypatch.setattr("facekit.train.probe.features._KEPT", 100)
    anew = Squares(examples, rows, 16)
    places = torch.tensor([2, 0])
    assert len(kept) == len(anew) == 3
    assert kept.at(places).equal(anew.at(places))
    generator = np.random.default_rng(0)
    first = torch.from_numpy(made.stripes(0, generator)).permute(2, 0, 1)
    assert kept.at(torch.tensor([1]))[0].equal(first)
