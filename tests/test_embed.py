"""Crops to unit vectors: the arithmetic against a plain reference, devices, precisions, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import facekit.embed
from facekit.checkpoint import Checkpoint, ModelConfig, load_checkpoint
from facekit.embed import Embedder, fold_batch_norms, resolve_device, resolve_precision
from facekit.errors import CheckpointError, DeviceError, SettingError
from facekit.models import build

CPU = torch.device("cpu")


def lively(model: nn.Module) -> nn.Module:
    """A network whose batch norms do something."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor, (low, high) in (
                (module.weight, (0.5, 1.0)),
                (module.bias, (-0.3, 0.3)),
                (module.running_mean, (-0.3, 0.3)),
                (module.running_var, (0.5, 1.5)),
            ):
                assert tensor is not None
                nn.init.uniform_(tensor, low, high)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
    return model.eval()


@pytest.fixture
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="module")
def crops() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (11, 3, 14, 14), generator=generator, dtype=torch.uint8)
    return F.interpolate(small.float(), (112, 112), mode="bilinear").round().to(torch.uint8)


def with_config(checkpoint: Checkpoint, **changes: object) -> Checkpoint:
    return Checkpoint(checkpoint.model, replace(checkpoint.config, **changes))


@torch.no_grad()
def reference(checkpoint: Checkpoint, crops: Tensor) -> Tensor:
    """What embed() promises, one crop at a time, with the network as it was loaded."""
    config, rows = checkpoint.config, []
    for crop in crops:
        x = crop[None].float()
        if config.input_size != 112:
            x = F.interpolate(x, (config.input_size,) * 2, mode="bilinear", antialias=True)
        x = x[:, [2, 1, 0]] if config.color == "bgr" else x
        x = torch.stack([(x[0, c] - config.mean[c]) / config.std[c] for c in range(3)])[None]
        vector = checkpoint.model(x)
        if config.flip_average:
            vector = (vector + checkpoint.model(torch.flip(x, [3]))) / 2
        rows.append(vector[0] / vector[0].norm())
    return torch.stack(rows)


# --- arithmetic -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"color": "bgr", "mean": (10.0, 20.0, 30.0), "std": (40.0, 50.0, 60.0)},
        {"flip_average": True},
        {"flip_average": True, "color": "bgr"},
    ],
)
@pytest.mark.parametrize("batch_size", ["auto", 1, 4])
def test_embeddings_are_the_networks_of_the_prepared_crops(
    checkpoint: Checkpoint, crops: Tensor, changes: dict[str, object], batch_size: int | str
) -> None:
    changed = with_config(checkpoint, **changes)
    embedder = Embedder(changed, device="cpu", precision="fp32", batch_size=batch_size)
    got = embedder.embed(crops)
    assert (got.shape, got.dtype, got.device) == ((11, embedder.dim), torch.float32, CPU)
    torch.testing.assert_close(got, reference(changed, crops), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.norm(dim=1), torch.ones(11))


@pytest.mark.parametrize("side", [64, 160])
def test_crops_are_resized_to_what_the_network_takes(crops: Tensor, side: int) -> None:
    model = lively(build("convrec", backbone="resnet18", embedding_dim=16))
    config = ModelConfig("convrec", 16, side, "rgb", (127.5,) * 3, (128.0,) * 3)
    made = Checkpoint(model, config)
    got = Embedder(made, device="cpu", precision="fp32").embed(crops[:3])
    torch.testing.assert_close(got, reference(made, crops[:3]), rtol=1e-4, atol=1e-5)


def test_no_crops_give_no_vectors(checkpoint: Checkpoint) -> None:
    embedder = Embedder(checkpoint, device="cpu")
    assert embedder.embed(torch.empty(0, 3, 112, 112, dtype=torch.uint8)).shape == (0, embedder.dim)


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(3, 112, 112, dtype=torch.uint8),
        torch.zeros(1, 112, 112, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 112, 112),
        torch.full((1, 3, 112, 112), float("nan")),
        torch.zeros(1, 3, 96, 96, dtype=torch.uint8),
        torch.zeros(1, 1, 112, 112, dtype=torch.uint8),
    ],
)
def test_only_uint8_crops_of_112_are_taken(checkpoint: Checkpoint, bad: Tensor) -> None:
    with pytest.raises(SettingError, match=r"\(n, 3, 112, 112\) uint8"):
        Embedder(checkpoint, device="cpu").embed(bad)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_vectors_without_a_direction_are_an_error(
    checkpoint: Checkpoint, crops: Tensor, value: float
) -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :64] * 0 + value

    broken = Checkpoint(Constant(), checkpoint.config)
    with pytest.raises(CheckpointError, match="without a finite length"):
        Embedder(broken, device="cpu", precision="fp32").embed(crops)


def test_threads_share_an_embedder(checkpoint: Checkpoint, crops: Tensor) -> None:
    embedder = Embedder(checkpoint, device="cpu", precision="fp32", batch_size=4)
    expected = embedder.embed(crops)
    parts = [crops[[index]] for index in range(len(crops))] * 3
    with ThreadPoolExecutor(4) as pool:
        got = torch.cat(list(pool.map(embedder.embed, parts)))
    torch.testing.assert_close(got, expected.repeat(3, 1), rtol=1e-4, atol=1e-5)


def test_the_checkpoints_own_model_stays_as_it_was(checkpoint: Checkpoint, crops: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    Embedder(checkpoint, device="cpu").embed(crops)
    after = checkpoint.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "many", True])
def test_bad_batch_sizes_are_named(checkpoint: Checkpoint, batch_size: int | str) -> None:
    with pytest.raises(SettingError, match="batch_size"):
        Embedder(checkpoint, device="cpu", batch_size=batch_size)


# --- folding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "left"),  # norms that follow a pooling, a sum or the input's end cannot be folded
    [
        ("faceresnet", 0),
        ("resnet10t", 0),
        ("resnet50", 0),
        ("vgg11_bn", 0),
        ("convrec", 1),
        ("inception_resnet_v1", 0),
        ("iresnet18", 9),
    ],
)
def test_folded_networks_give_the_same_numbers(name: str, left: int) -> None:
    model = lively(build(name))
    folded = fold_batch_norms(model)
    norms = [module for module in folded.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    assert len(norms) == left
    x = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        got, expected = F.normalize(folded(x)), F.normalize(model(x))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_a_layer_used_twice_is_not_folded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.bn = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.bn(self.conv(x)) + self.conv(x + 1)
            return out

    model = lively(Twice())
    x = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(fold_batch_norms(model)(x), model(x))


# --- devices ----------------------------------------------------------------------------------------------


def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_auto_takes_the_best_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    no_cuda(monkeypatch)
    assert resolve_device("auto") == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1", torch.device("cuda"), "mps"])
def test_what_is_not_there_is_an_error_and_never_the_cpu(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint, device: str | torch.device
) -> None:
    no_cuda(monkeypatch)
    with pytest.raises(DeviceError, match="device="):
        resolve_device(device)
    with pytest.raises(DeviceError, match="device="):
        Embedder(checkpoint, device=device)


def test_a_card_that_is_not_there_names_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match="cuda:1"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("device", ["gpu", "", "cuda:x", "meta", "xpu", -1, None])
def test_what_is_no_device_is_named(device: str) -> None:
    with pytest.raises(SettingError, match="device"):
        resolve_device(device)


# --- precision --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("native", [True, False])
def test_bf16_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert resolve_precision("auto", CPU) == (torch.bfloat16 if native else torch.float32)
    assert resolve_precision("fp32", CPU) == torch.float32
    if native:
        assert resolve_precision("bf16", CPU) == torch.bfloat16
    else:
        with pytest.raises(DeviceError, match="bf16"):
            resolve_precision("bf16", CPU)


def test_bf16_is_not_assumed_where_torch_cannot_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for flag in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, flag, raising=False)
    assert resolve_precision("auto", CPU) == torch.float32


@pytest.mark.parametrize(
    ("precision", "error"), [("fp16", DeviceError), ("half", SettingError), (None, SettingError)]
)
def test_other_precisions_are_named(precision: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="precision"):
        resolve_precision(precision, CPU)


@pytest.mark.parametrize(("capability", "dtype"), [((9, 0), torch.bfloat16), ((7, 5), torch.float32)])
def test_old_cards_compute_in_fp32(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    assert resolve_precision("auto", torch.device("cuda", 0)) == dtype
    assert resolve_precision("fp16", torch.device("cuda", 0)) == torch.float16


needs_bf16 = pytest.mark.skipif(not facekit.embed._has_bf16(CPU), reason="this processor has no bf16")


@needs_bf16
def test_bf16_does_not_change_similarities(checkpoint: Checkpoint, crops: Tensor) -> None:
    full = Embedder(checkpoint, device="cpu", precision="fp32").embed(crops)
    fast = Embedder(checkpoint, device="cpu", precision="bf16").embed(crops)
    assert not torch.equal(full, fast)
    assert float((full @ full.T - fast @ fast.T).abs().max()) <= 0.01


@needs_bf16
@pytest.mark.parametrize("name", ["resnet10t", "convrec", "inception_resnet_v1", "iresnet18"])
def test_every_kind_of_layer_has_a_place_in_bf16(name: str, crops: Tensor) -> None:
    model = lively(build(name))
    config = ModelConfig(name, 512, 112, "rgb", (127.5,) * 3, (127.5,) * 3, flip_average=True)
    full = Embedder(Checkpoint(model, config), device="cpu", precision="fp32").embed(crops[:2])
    fast = Embedder(Checkpoint(model, config), device="cpu", precision="bf16").embed(crops[:2])
    assert float((full * fast).sum(dim=1).min()) > 0.999


def test_stems_and_heads_stay_in_fp32() -> None:
    model = facekit.embed._reduce_precision(fold_batch_norms(build("convrec")), torch.bfloat16)
    assert model.backbone.conv1.weight.dtype == torch.float32
    assert model.backbone.layer2.get_submodule("0.conv2").weight.dtype == torch.bfloat16
    assert model.fc.weight.dtype == model.bn_in.weight.dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_cuda_gives_what_the_cpu_gives(checkpoint: Checkpoint, crops: Tensor, precision: str) -> None:
    full = Embedder(checkpoint, device="cpu", precision="fp32").embed(crops)
    fast = Embedder(checkpoint, device="cuda", precision=precision).embed(crops)
    assert float((full @ full.T - fast @ fast.T).abs().max()) <= (1e-3 if precision == "fp32" else 0.01)
