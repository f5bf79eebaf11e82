"""Our networks against torchvision, timm, facenet-pytorch and a plain functional iresnet."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facekit.errors import SettingError
from facekit.models import ARCHITECTURES, build


def made(build_one: Callable[[], nn.Module]) -> nn.Module:
    """A network whose tensors all matter: the norms of a fresh one do nothing."""
    with torch.device("meta"):
        model = build_one()
    model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith(("running_mean", "bias")):
                tensor.uniform_(-0.5, 0.5, generator=generator)
            elif tensor.ndim == 1:
                tensor.uniform_(0.5, 1, generator=generator)
            elif tensor.ndim > 1:
                limit = (3 / tensor[0].numel()) ** 0.5
                tensor.uniform_(-limit, limit, generator=generator)
            else:
                tensor.zero_()
    return model.eval()


@torch.no_grad()
def assert_same(name: str, theirs: nn.Module, *sides: int) -> None:
    """Same names, same shapes, same numbers."""
    with torch.device("meta"):
        ours = build(name).eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    for side in sides:
        x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
        expected, got = theirs(x), ours(x)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("name", "side"), [("resnet18", 112), ("resnet34", 64), ("resnet50", 97)])
def test_resnets_are_torchvisions(name: str, side: int) -> None:
    torchvision = pytest.importorskip("torchvision")
    theirs = made(lambda: torchvision.models.get_model(name, weights=None))
    theirs.fc = nn.Identity()
    assert_same(name, theirs, side)


@pytest.mark.parametrize(
    ("name", "sides"),
    [("resnet10t", (112, 75)), ("vgg11_bn", (64, 256))],  # odd sides; maps below and above 7 x 7
)
def test_vcl_backbones_are_timms(name: str, sides: tuple[int, ...]) -> None:
    timm = pytest.importorskip("timm")
    assert_same(name, made(lambda: timm.create_model(name, num_classes=0)), *sides)


def test_inception_resnet_is_facenet_pytorchs() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        facenet = pytest.importorskip("facenet_pytorch")
        theirs = made(lambda: facenet.InceptionResnetV1(pretrained=None, classify=False))
    with torch.device("meta"):
        ours = build("inception_resnet_v1").eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    x = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        got, expected = F.normalize(ours(x)), theirs(x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def plain_iresnet(state: dict[str, Tensor], x: Tensor, depths: tuple[int, ...]) -> Tensor:
    """arcface_torch's network written out over its state dict."""

    def norm(x: Tensor, name: str) -> Tensor:
        values = [state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *values, training=False, eps=1e-5)

    x = F.prelu(norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1"), state["prelu.weight"])
    for stage, depth in enumerate(depths, start=1):
        for index in range(depth):
            block, stride = f"layer{stage}.{index}", 2 if index == 0 else 1
            out = F.conv2d(norm(x, f"{block}.bn1"), state[f"{block}.conv1.weight"], padding=1)
            out = F.prelu(norm(out, f"{block}.bn2"), state[f"{block}.prelu.weight"])
            out = norm(
                F.conv2d(out, state[f"{block}.conv2.weight"], stride=stride, padding=1), f"{block}.bn3"
            )
            if index == 0:
                x = norm(
                    F.conv2d(x, state[f"{block}.downsample.0.weight"], stride=stride), f"{block}.downsample.1"
                )
            x = x + out
    x = F.linear(norm(x, "bn2").flatten(1), state["fc.weight"], state["fc.bias"])
    return norm(x, "features")


def test_iresnet_is_arcface_torchs() -> None:
    model = made(lambda: build("iresnet18", embedding_dim=64))
    x = torch.randn(2, 3, 112, 112) / 5
    with torch.no_grad():
        expected = plain_iresnet(model.state_dict(), x, (2, 2, 2, 2))
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("name", "millions"),  # as published by torchvision, timm, facenet-pytorch and insightface
    [("iresnet50", 43.59), ("iresnet100", 65.16), ("inception_resnet_v1", 23.48), ("resnet10t", 4.92)],
)
def test_sizes_are_the_published_ones(name: str, millions: float) -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build(name).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


def test_convrec_is_its_backbone_and_head() -> None:
    model = made(lambda: build("convrec", backbone="resnet18", embedding_dim=24, stem="half"))
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        features = model.bn_in(model.backbone(x))
        torch.testing.assert_close(model(x), model.bn_out(F.linear(features, model.fc.weight, model.fc.bias)))
    assert model(x).shape == (3, 24)


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 8), ("half", 16), ("full", 32)])
def test_stems_keep_their_share_of_the_picture(stem: str, side: int) -> None:
    model = build("resnet18", stem=stem)
    maps: list[Tensor] = []
    model.layer1.register_forward_hook(lambda module, args, out: maps.append(out))
    model(torch.randn(2, 3, 32, 32))
    assert maps[0].shape[-1] == side


@pytest.mark.parametrize(
    ("name", "size", "shape"),
    [
        ("resnet10t", 64, (512, 2, 2)),
        ("resnet50", 75, (2048, 3, 3)),
        ("vgg11_bn", 64, (512, 2, 2)),
        ("convrec", 64, (2048, 2, 2)),
        ("faceresnet", 112, (512, 4, 4)),
        ("iresnet18", 112, (512, 7, 7)),
        ("inception_resnet_v1", 160, (1792, 3, 3)),
    ],
)
def test_the_vector_is_made_of_the_feature_map(name: str, size: int, shape: tuple[int, ...]) -> None:
    model = made(lambda: build(name))
    x = torch.randn(2, 3, size, size) / 5
    with torch.no_grad():
        features, vectors = model.feature_map(x), model(x)
        assert features.shape[1:] == shape
        if name.startswith("resnet"):
            torch.testing.assert_close(features.mean((2, 3)), vectors)
        trunk = getattr(model, "backbone", model)
        trunk.feature_map = lambda x: torch.zeros_like(features)
        assert not torch.allclose(model(x), vectors)


def test_training_reaches_every_parameter() -> None:
    model = build("convrec", backbone="resnet18", embedding_dim=8)
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_every_name_builds_and_is_explicit() -> None:
    for name in ARCHITECTURES:
        with torch.device("meta"):
            assert isinstance(build(name), nn.Module)
    assert "r50" not in ARCHITECTURES


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("r50", {}),
        ("resnet50", {"embedding_dim": 3}),
        ("resnet50", {"stem": "wide"}),
        ("convrec", {"backbone": "vgg11_bn"}),
        ("convrec", {"embedding_dim": "many"}),
        ("iresnet50", {"embedding_dim": -1}),
        ("faceresnet", {"widths": [8, 8], "depths": [1]}),
    ],
)
def test_bad_names_and_sizes_are_named(name: str, sizes: dict[str, object]) -> None:
    with pytest.raises(SettingError) as caught:
        build(name, **sizes)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value) or str(next(iter(sizes.values()))) in str(caught.value)
