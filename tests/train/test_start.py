"""What a run starts from: random weights, ImageNet's, or a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models import ResNet50_Weights

from facekit.errors import CheckpointError, SettingError
from facekit.models import build
from facekit.models.convrec import ConvRec
from facekit.train.start import start_network


@pytest.fixture(scope="module")
def imagenet() -> dict[str, Tensor]:
    torch.manual_seed(5)
    return torchvision.models.resnet50().state_dict()


def _holds(trunk: torch.nn.Module | None, state: dict[str, Tensor]) -> bool:
    assert trunk is not None
    return all(torch.equal(tensor, state[name]) for name, tensor in trunk.state_dict().items())


def test_random_weights_come_untrained() -> None:
    start = start_network("faceresnet", None, size=64)
    assert start.trained is None
    assert start.model(torch.zeros(2, 3, 64, 64)).shape == (2, start.dim)


def test_imagenet_is_fetched_for_convrec(
    imagenet: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResNet50_Weights, "get_state_dict", lambda *_, **__: imagenet)
    start = start_network("convrec", None, size=112)
    assert isinstance(start.model, ConvRec)
    assert start.trained is start.model.backbone
    assert _holds(start.trained, imagenet)


@pytest.mark.parametrize("error", [OSError("<urlopen error no network>"), RuntimeError("invalid hash")])
def test_where_imagenet_cannot_be_fetched_the_line_says_what_to_give(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ResNet50_Weights, "get_state_dict", fail)
    with pytest.raises(SettingError, match="--init FILE, a checkpoint, or --init random"):
        start_network("convrec", None, size=112)


def test_torchvisions_own_file_is_taken(imagenet: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(imagenet, tmp_path / "resnet50.pth")
    start = start_network("convrec", str(tmp_path / "resnet50.pth"), size=112)
    assert _holds(start.trained, imagenet)
    with pytest.raises(SettingError, match="fits convrec and resnet50, not faceresnet; give a checkpoint"):
        start_network("faceresnet", str(tmp_path / "resnet50.pth"), size=112)


def test_imagenet_is_not_fetched_for_what_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResNet50_Weights, "get_state_dict", lambda *_, **__: pytest.fail("fetches"))
    with pytest.raises(
        SettingError, match=r"^init=imagenet: .* fits convrec and resnet50, not resnet10t; give"
    ):
        start_network("resnet10t", "imagenet", size=112)


def test_imagenet_is_the_start_of_the_whole_resnet50(
    imagenet: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResNet50_Weights, "get_state_dict", lambda *_, **__: imagenet)
    start = start_network("resnet50", "imagenet", size=64)
    assert start.trained is start.model
    assert _holds(start.model, imagenet)
    assert (start.dim, start.mean[0]) == (2048, 123.675)


def test_a_checkpoint_comes_trained_as_a_whole(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="not convrec"):
        start_network("convrec", str(tiny_checkpoint), size=112)
    with pytest.raises(CheckpointError):
        start_network("convrec", str(tmp_path / "nothing.pth"), size=112)
    start = start_network("faceresnet", str(tiny_checkpoint), size=112)
    assert start.trained is start.model
    assert (start.dim, start.sizes["widths"]) == (64, [8, 16, 16, 32])


def test_pictures_are_scaled_as_the_weights_have_learnt_them(
    imagenet: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(imagenet, tmp_path / "resnet50.pth")
    start = start_network("convrec", str(tmp_path / "resnet50.pth"), size=112)
    assert start.mean == (123.675, 116.28, 103.53)
    assert start_network("faceresnet", None, size=64).mean == (127.5, 127.5, 127.5)


def test_weights_of_vcl_go_on_learning(tmp_path: Path) -> None:
    """Lightning's file, as VCL publishes it: its head is left, its scale of pixels is kept."""
    torch.manual_seed(0)
    network = build("resnet10t")
    state = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    state["projection_head.fc_mu.weight"] = torch.zeros(128, 512)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "vcl.ckpt")
    start = start_network("resnet10t", str(tmp_path / "vcl.ckpt"), size=64)
    assert _holds(start.trained, network.state_dict())
    assert start.std == pytest.approx((58.395, 57.12, 57.375))
