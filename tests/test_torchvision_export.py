"""Exported backbones: torchvision's networks and detectors load them, and compute what ours compute."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from facekit.checkpoint import (
    ModelConfig,
    TorchvisionBackbone,
    export_torchvision,
    load_checkpoint,
    save_checkpoint,
)
from facekit.cli import main
from facekit.errors import CheckpointError, SettingError
from facekit.models import build

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ModelConfig(
    "resnet18", 512, 64, "rgb", (130.0, 110.0, 90.0), (60.0, 50.0, 40.0), license="Apache-2.0"
)


def checkpoint(folder: Path, architecture: str, **sizes: Any) -> Path:
    """One with random weights, whose batch norms differ from those of a new network, too."""
    torch.manual_seed(0)
    model = build(architecture, **sizes)
    for norm in (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)):
        nn.init.uniform_(norm.weight, 0.2, 0.8)
        nn.init.normal_(norm.bias, std=0.1)
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
        norm.num_batches_tracked.fill_(7)
    dim = int(model.eval()(torch.zeros(1, 3, 64, 64)).shape[1])
    save_checkpoint(folder, model, replace(CONFIG, architecture=architecture, embedding_dim=dim, sizes=sizes))
    return folder


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("checkpoint") / "resnet50", "resnet50")


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("checkpoint") / "resnet18", "resnet18")


def picture(height: int = 96, width: int = 160) -> Tensor:
    """(3, h, w) float in [0, 1]."""
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))


def our_map(source: Path, pixels: Tensor) -> Tensor:
    """What the checkpoint's own network makes of RGB in [0, 1], by the checkpoint's own scaling."""
    loaded = load_checkpoint(source)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (loaded.config.mean, loaded.config.std))
    pixels = pixels.flip(1) if loaded.config.color == "bgr" else pixels
    assert isinstance(loaded.model, nn.Module)
    with torch.no_grad():
        found: Tensor = loaded.model.feature_map((255 * pixels - mean) / std)
    return found


def scaled(pixels: Tensor, about: TorchvisionBackbone) -> Tensor:
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (about.image_mean, about.image_std))
    return (pixels - mean) / std


def assert_same(theirs: Tensor, ours: Tensor) -> None:
    assert ours.std() > 0.1  # or any two maps would be alike
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


def test_torchvisions_detector_sees_what_the_checkpoint_sees(resnet50: Path, tmp_path: Path) -> None:
    about = export_torchvision(resnet50, tmp_path / "backbone.pth")
    state = torch.load(tmp_path / "backbone.pth", weights_only=True)
    detector = fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        image_mean=about.image_mean,
        image_std=about.image_std,
        min_size=96,
    ).eval()
    body = detector.backbone.body
    found = body.load_state_dict(state, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    small = picture()
    with torch.no_grad():
        images, _ = detector.transform([small])
        assert images.tensors.shape == (1, 3, 96, 160)  # neither resized nor padded
        assert_same(body(images.tensors)["3"], our_map(resnet50, small[None]))
        (boxes,) = detector([small])
    assert boxes["boxes"].shape[1] == 4
    assert boxes["boxes"].isfinite().all()


@pytest.mark.parametrize("suffix", [".pth", ".PT", ".safetensors"])
def test_torchvisions_network_lacks_only_its_classifier(resnet18: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"backbone{suffix}"
    about = export_torchvision(resnet18, file)
    state = load_file(file) if suffix == ".safetensors" else torch.load(file, weights_only=True)
    assert type(state) is dict
    network = torchvision.models.get_model(about.architecture, weights=None).eval()
    found = network.load_state_dict(state, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    pixels = picture(64, 64)[None]
    network.fc = nn.Identity()
    with torch.no_grad():
        theirs = network(scaled(pixels, about))
    assert_same(theirs, our_map(resnet18, pixels).mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("resnet18", {"backbone": "resnet18"}), pytest.param("resnet50", {}, marks=pytest.mark.slow)],
)
def test_of_convrec_the_backbone_is_exported(tmp_path: Path, name: str, sizes: dict[str, str]) -> None:
    source = checkpoint(tmp_path / "convrec", "convrec", embedding_dim=16, **sizes)
    about = export_torchvision(source, tmp_path / "backbone.pth")
    assert about.architecture == name
    body = resnet_fpn_backbone(backbone_name=name, weights=None).body.eval()  # of frozen batch norms
    body.load_state_dict(torch.load(tmp_path / "backbone.pth", weights_only=True))
    pixels = picture(64, 64)[None]
    with torch.no_grad():
        assert_same(body(scaled(pixels, about))["3"], our_map(source, pixels))


def test_a_network_of_bgr_is_exported_for_rgb(resnet18: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(resnet18)
    assert isinstance(loaded.model, nn.Module)
    save_checkpoint(tmp_path / "bgr", loaded.model, replace(loaded.config, color="bgr"))
    about = export_torchvision(tmp_path / "bgr", tmp_path / "backbone.pth")
    assert about.image_mean == pytest.approx((90 / 255, 110 / 255, 130 / 255))
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None).body.eval()
    body.load_state_dict(torch.load(tmp_path / "backbone.pth", weights_only=True))
    pixels = picture(64, 64)[None]
    with torch.no_grad():
        assert_same(body(scaled(pixels, about))["3"], our_map(tmp_path / "bgr", pixels))


def test_what_a_detector_must_be_told_lies_beside_the_weights(resnet18: Path, tmp_path: Path) -> None:
    about = export_torchvision(resnet18, tmp_path / "backbone.pth")
    assert about.image_mean == pytest.approx((130 / 255, 110 / 255, 90 / 255))
    assert about.image_std == pytest.approx((60 / 255, 50 / 255, 40 / 255))
    assert (about.license, about.architecture) == ("Apache-2.0", "resnet18")
    assert about.fingerprint == load_checkpoint(resnet18).config.fingerprint
    told = json.loads((tmp_path / "backbone.pth.json").read_text())
    told |= {name: tuple(told[name]) for name in ("image_mean", "image_std")}
    assert TorchvisionBackbone(**told) == about


def test_the_command(resnet18: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "backbone.pth"
    assert main(["model", "export", "--torchvision", str(file), str(resnet18)]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == str(file)
    assert [line.split(None, 1) for line in lines] == [
        ["network", "torchvision.models.resnet18, without fc"],
        ["image_mean", "[0.509804, 0.431373, 0.352941]"],
        ["image_std", "[0.235294, 0.196078, 0.156863]"],
        ["licence", "Apache-2.0"],
    ]
    assert main(["model", "export", str(resnet18), "--torchvision", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"file": str(file), **json.loads((tmp_path / "backbone.pth.json").read_text())}


def test_the_code_in_the_docs_runs(resnet50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "checkpoint-format.md").read_text(encoding="utf-8")
    section = page.partition("## The backbone for torchvision\n")[2].partition("\n## ")[0]
    code = re.findall(r"^```python no-run\n(.*?)^```$", section, re.M | re.S)
    assert len(code) == 2
    monkeypatch.chdir(tmp_path)
    export_torchvision(resnet50, "backbone.pth")
    names: dict[str, Any] = {}
    for block in code:
        exec(block, names)
        detector = names["detector"]
        assert torch.equal(
            detector.backbone.body.conv1.weight, load_checkpoint(resnet50).model.state_dict()["conv1.weight"]
        )
        assert detector.transform.image_mean == pytest.approx([130 / 255, 110 / 255, 90 / 255])


@pytest.mark.parametrize(
    ("architecture", "sizes", "told"),
    [
        (
            "resnet10t",
            {},
            "resnet10t is none of torchvision's ResNets; only resnet18, resnet34",
        ),
        ("faceresnet", {"widths": [16], "depths": [1]}, "faceresnet is none of torchvision's"),
        ("resnet18", {"stem": "half"}, "resnet18 has another first layer than stem=half"),
        (
            "convrec",
            {"backbone": "resnet18", "stem": "full"},
            "resnet18 has another first layer",
        ),
    ],
)
def test_what_torchvision_has_not_is_refused(
    tmp_path: Path, architecture: str, sizes: dict[str, Any], told: str
) -> None:
    source = checkpoint(tmp_path / "checkpoint", architecture, **sizes)
    with pytest.raises(CheckpointError, match=re.escape(f"{source}: ") + ".*" + re.escape(told)) as error:
        export_torchvision(source, tmp_path / "backbone.pth")
    assert "\n" not in str(error.value)
    assert [item.name for item in tmp_path.iterdir()] == ["checkpoint"]


def test_what_cannot_be_written_is_told_and_leaves_nothing(resnet18: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"use .pth, .pt or .safetensors"):
        export_torchvision(resnet18, tmp_path / "backbone.onnx")
    with pytest.raises(CheckpointError, match=r"cannot be written .No such file.*; name a file in a folder"):
        export_torchvision(resnet18, tmp_path / "nowhere" / "backbone.pth")
    (tmp_path / "taken.pth.json").mkdir()
    with pytest.raises(CheckpointError, match=r"taken\.pth: cannot be written"):
        export_torchvision(resnet18, tmp_path / "taken.pth")
    assert [item.name for item in tmp_path.iterdir()] == ["taken.pth.json"]


def test_a_checkpoint_is_never_replaced_by_its_export(resnet18: Path, tmp_path: Path) -> None:
    before = load_checkpoint(resnet18).config
    with pytest.raises(CheckpointError, match="is a checkpoint"):
        export_torchvision(resnet18, resnet18 / "model.safetensors")
    assert load_checkpoint(resnet18).config == before
    (tmp_path / "foreign.pth").write_bytes(b"weights")
    with pytest.raises(CheckpointError, match="is a checkpoint"):
        export_torchvision(tmp_path / "foreign.pth", tmp_path / "foreign.pth")
