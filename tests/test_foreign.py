"""Other projects' files: found under any prefix, complete or refused, and never run."""

from __future__ import annotations

import argparse
import codecs
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facekit.checkpoint import Checkpoint, convert_checkpoint, load_checkpoint
from facekit.checkpoint.foreign import adapt
from facekit.errors import CheckpointError
from facekit.models import build

State = dict[str, Tensor]


def weights(architecture: str, prefix: str = "", **sizes: Any) -> State:
    """The state dict of a fresh network, cheap and different in every tensor."""
    with torch.device("meta"):
        state = build(architecture, **sizes).state_dict()
    generator = torch.Generator().manual_seed(len(state))

    def some(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        return torch.rand(tensor.shape, generator=generator) / 50 + 0.01

    return {prefix + name: some(tensor) for name, tensor in state.items()}


def head(prefix: str, names: tuple[str, str, str], dim: int = 512, *, bias: bool = True) -> State:
    """BN(2048), FC(2048 -> dim), BN(dim) under somebody's names."""
    layers = (nn.BatchNorm1d(2048), nn.Linear(2048, dim, bias=bias), nn.BatchNorm1d(dim))
    return {
        f"{prefix}{name}.{leaf}": tensor
        for name, layer in zip(names, layers, strict=True)
        for leaf, tensor in layer.state_dict().items()
    }


@pytest.fixture(scope="module")
def resnet50() -> State:
    return weights("resnet50")


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def loaded(path: Path, payload: Any) -> Checkpoint:
    torch.save(payload, path)
    return load_checkpoint(path)


# --- ConvRec ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrapper", "backbone", "head_prefix", "names"),
    [
        (None, "backbone.", "embedding.", ("0", "2", "3")),
        ("state_dict", "module.backbone.", "module.head.", ("bn1", "fc", "bn2")),
        ("model_state_dict", "module.", "module.", ("bn_input", "fc_embedding", "bn_output")),
        ("model", "encoder.backbone.", "encoder.", ("fc.0", "fc.2", "fc.3")),
        ("embedder", "", "", ("features_bn", "embed", "out_bn")),
    ],
)
def test_convrec_is_found_in_every_wrapping(
    tmp_path: Path,
    resnet50: State,
    wrapper: str | None,
    backbone: str,
    head_prefix: str,
    names: tuple[str, str, str],
) -> None:
    state = prefixed(resnet50, backbone) | head(head_prefix, names)
    state["margin.weight"] = torch.randn(100, 512)
    payload: Any = {wrapper: OrderedDict(state), "epoch": 26, "accuracy": 0.97} if wrapper else state
    checkpoint = loaded(tmp_path / "best_model.pth", payload)
    config = checkpoint.config
    assert (config.architecture, config.embedding_dim, config.input_size) == ("convrec", 512, 112)
    assert (config.threshold, config.calibration) == (0.5, None)
    ours = checkpoint.model.state_dict()
    assert torch.equal(ours["backbone.layer4.2.conv3.weight"], resnet50["layer4.2.conv3.weight"])
    assert torch.equal(ours["fc.weight"], state[f"{head_prefix}{names[1]}.weight"])
    assert len(ours["bn_in.weight"]) == 2048
    assert len(ours["bn_out.weight"]) == 512


def test_convrec_in_parts_with_optimiser_and_class_weights(tmp_path: Path, resnet50: State) -> None:
    payload = {
        "backbone": prefixed(resnet50, "module."),
        "embedding": head("module.", ("0", "2", "3"), dim=128, bias=False),
        "head": {"kernel": torch.randn(128, 5000)},
        "optimizer": {"state": {0: {"exp_avg": torch.randn(2048)}}, "param_groups": [{"lr": 0.1}]},
        "scheduler_state": {"last": torch.tensor(3)},
        "scaler": {"scale": torch.tensor([2.0])},
    }
    config = loaded(tmp_path / "x.pt", payload).config
    assert config.embedding_dim == 128
    assert config.sizes == {"embedding_dim": 128}


def test_a_resnet50_without_a_known_head_is_refused(resnet50: State) -> None:
    with pytest.raises(CheckpointError, match="no head"):
        adapt(resnet50, path="x.pth")
    imagenet = resnet50 | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    with pytest.raises(CheckpointError, match=r"no head.*fc\.weight"):
        adapt(imagenet, path="x.pth")
    two = prefixed(resnet50, "b.") | head("h.", ("0", "1", "2")) | head("g.", ("0", "1", "2"))
    with pytest.raises(CheckpointError, match="more than one head"):
        adapt(two, path="x.pth")


def test_what_has_no_place_is_listed(resnet50: State) -> None:
    state = (
        prefixed(resnet50, "backbone.")
        | head("head.", ("0", "1", "2"))
        | {"gate.weight": torch.zeros(7, 9, 3)}
    )
    with pytest.raises(CheckpointError, match=r"gate\.weight \(7, 9, 3\)"):
        adapt(state, path="x.pth")


# --- VCL, FRL, facenet-pytorch, arcface_torch -------------------------------------------------------------


def vcl(backbone: State, width: int) -> dict[str, Any]:
    """A Lightning checkpoint with the key layout of verimsu/VCL."""
    trunk = nn.Sequential(
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
    )
    projection = {
        f"projection_head.interpreter.{name}": tensor for name, tensor in trunk.state_dict().items()
    }
    for name in ("fc_mu", "fc_var"):
        layer = nn.Linear(width, 128).state_dict()
        projection |= {f"projection_head.{name}.{leaf}": tensor for leaf, tensor in layer.items()}
    return {
        "epoch": 600,
        "global_step": 1,
        "pytorch-lightning_version": "2.2.0",
        "state_dict": prefixed(backbone, "backbone.") | projection,
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "lr_schedulers": [{"last_epoch": 600}],
    }


def test_vcl_keeps_the_backbone_and_drops_the_head(tmp_path: Path) -> None:
    backbone = weights("resnet10t")
    checkpoint = loaded(tmp_path / "last.ckpt", vcl(backbone, 512))
    assert checkpoint.config.architecture == "resnet10t"
    assert (checkpoint.config.embedding_dim, checkpoint.config.input_size) == (512, 128)
    assert checkpoint.config.mean == (123.675, 116.28, 103.53)
    assert all(torch.equal(tensor, backbone[name]) for name, tensor in checkpoint.model.state_dict().items())


def test_vcl_on_vgg_gives_its_real_width() -> None:
    with torch.device("meta"):
        shapes = build("vgg11_bn").state_dict()
    state = {  # of half a gigabyte
        f"state_dict.backbone.{name}": torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
        for name, tensor in shapes.items()
    }
    state["state_dict.projection_head.fc_mu.bias"] = torch.zeros(128)
    assert adapt(state, path="x").config.embedding_dim == 4096


def test_frl_is_told_from_convrec_and_keeps_its_odd_std(tmp_path: Path, resnet50: State) -> None:
    payload = {
        "epoch": 400,
        "state_dict": prefixed(resnet50, "module.base_net.")
        | {
            "module.projection_net.net.0.weight": torch.zeros(2048, 2048),
            "module.projection_net.net.1.running_mean": torch.zeros(2048),
            "module.projection_net.net.3.weight": torch.zeros(128, 2048),
            "module.prototypes.weight": torch.zeros(3000, 128),
        },
        "optimizer": {"state": {}, "param_groups": []},
        "amp": {"loss_scaler0": {"loss_scale": 65536.0}},
    }
    config = loaded(tmp_path / "flr_r50_vgg_face.pth", payload).config
    assert (config.architecture, config.embedding_dim, config.input_size) == ("resnet50", 2048, 224)
    assert [value / 255 for value in config.std] == pytest.approx([0.228, 0.224, 0.225])


def test_facenet_pytorch_drops_its_classifier(tmp_path: Path) -> None:
    state = weights("inception_resnet_v1")
    payload = state | {"logits.weight": torch.zeros(8631, 512), "logits.bias": torch.zeros(8631)}
    config = loaded(tmp_path / "20180402-114759-vggface2.pt", payload).config
    assert (config.architecture, config.input_size, config.std) == ("inception_resnet_v1", 160, (128.0,) * 3)


@pytest.mark.parametrize(("depth", "dim", "side"), [("18", 512, 112), ("34", 256, 112), ("18", 128, 64)])
def test_iresnets_are_told_apart_and_say_their_sizes(depth: str, dim: int, side: int) -> None:
    state = weights(f"iresnet{depth}", "module.", embedding_dim=dim, input_size=side)
    config = adapt(state, path="backbone.pth").config
    assert config.architecture == f"iresnet{depth}"
    assert (config.embedding_dim, config.input_size, config.mean) == (dim, side, (127.5,) * 3)


def test_old_files_without_counters_and_half_precision_load() -> None:
    state = {
        name: tensor.half()
        for name, tensor in weights("iresnet18").items()
        if not name.endswith("num_batches_tracked")
    }
    model = adapt(state, path="x").model
    assert all(tensor.dtype == torch.float32 for tensor in model.parameters())
    assert model.bn1.num_batches_tracked == 0


def test_convert_writes_our_format_and_leaves_calibration_open(tmp_path: Path) -> None:
    torch.save(weights("resnet10t"), tmp_path / "vcl.ckpt")
    written = convert_checkpoint(tmp_path / "vcl.ckpt", tmp_path / "ours", license="MIT")
    assert written.calibration is None
    assert written.recipe["file"] == "vcl.ckpt"
    again = load_checkpoint(tmp_path / "ours")
    assert again.config == written
    first = load_checkpoint(tmp_path / "vcl.ckpt")
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(again.model(x), first.model(x), rtol=0, atol=0)


def test_a_safetensors_file_of_a_known_project_loads_too(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(weights("resnet10t", "backbone."), tmp_path / "vcl.safetensors")
    assert load_checkpoint(tmp_path / "vcl.safetensors").config.architecture == "resnet10t"


# --- nothing loads half -----------------------------------------------------------------------------------


def test_one_missing_tensor_is_named() -> None:
    state = weights("resnet10t")
    del state["layer3.0.conv2.weight"]
    with pytest.raises(CheckpointError, match=r"incomplete resnet10t.*layer3\.0\.conv2\.weight is missing"):
        adapt(state, path="x.pth")


def test_another_shape_is_named() -> None:
    state = weights("resnet10t")
    state["layer3.0.conv2.weight"] = torch.zeros(5, 5)
    with pytest.raises(
        CheckpointError, match=r"layer3\.0\.conv2\.weight is \(5, 5\) instead of \(256, 256, 3, 3\)"
    ):
        adapt(state, path="x.pth")


def test_half_a_network_lists_ten_and_counts_the_rest() -> None:
    state = {name: tensor for name, tensor in weights("iresnet34").items() if not name.startswith("layer3")}
    with pytest.raises(
        CheckpointError, match=r"no network known here, nearest is iresnet.* and \d+ more"
    ) as caught:
        adapt(state, path="x.pth")
    assert str(caught.value).count("is missing") == 10
    assert "\n" not in str(caught.value)


def test_networks_of_others_are_refused() -> None:
    other = nn.Sequential(nn.Conv2d(3, 10, 3), nn.Linear(5, 5)).state_dict()
    with pytest.raises(CheckpointError, match="of no network known here"):
        adapt(other, path="x.pth")
    with pytest.raises(CheckpointError, match="its 0 tensors"):
        adapt({}, path="x.pth")


def test_the_same_network_twice_is_a_question() -> None:
    state = weights("resnet10t", "student.") | weights("resnet10t", "teacher.")
    with pytest.raises(
        CheckpointError, match=r"twice, under '(student|teacher)\.' and '(student|teacher)\.'"
    ):
        adapt(state, path="x.pth")


# --- hostile and broken files -----------------------------------------------------------------------------


class Hostile:
    """Runs a command where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("how", ["zip", "legacy", "bare 2", "bare 5", "renamed"])
def test_hostile_pickles_are_refused_by_name_and_do_not_run(tmp_path: Path, how: str) -> None:
    mark, path = tmp_path / "ran", tmp_path / ("model.onnx.pt" if how == "renamed" else "model.pth")
    payload = {"state_dict": Hostile(mark), "epoch": 3}
    if how.startswith("bare"):
        path.write_bytes(pickle.dumps(payload, protocol=int(how[-1])))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=how != "legacy")
    with pytest.raises(CheckpointError, match=r"(posix|nt)\.mkdir") as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Hostile(mark)))  # the bomb was live
    assert mark.exists()


@pytest.mark.parametrize(
    ("value", "name"),
    [(argparse.Namespace(lr=1), "argparse.Namespace"), (np.float64(0.97), "multiarray.scalar")],
)
def test_harmless_extras_are_refused_by_name_with_the_remedy(tmp_path: Path, value: Any, name: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{name}.*save its state_dict"):
        loaded(tmp_path / "x.pth", {"state_dict": weights("resnet10t"), "extra": value})


class Greedy:
    """Takes memory where it is unpickled, by a name that ``torch.load(weights_only=True)`` calls."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.reduced = call, arguments

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("greedy", "name"),
    [
        (Greedy(bytearray, 1 << 50), r"(builtins|__builtin__)\.bytearray"),
        (Greedy(codecs.encode, "x" * 99, "unicode_escape"), r"_codecs\.encode"),
        (Greedy(torch.UntypedStorage, 1 << 50), r"torch\.storage\.UntypedStorage"),
        (Greedy(torch.FloatTensor, 1 << 50), r"torch\.FloatTensor"),
    ],
)
def test_names_that_take_any_amount_of_memory_are_refused(
    tmp_path: Path, zipped: bool, greedy: Greedy, name: str
) -> None:
    payload = {"state_dict": weights("resnet10t"), "extra": greedy}
    torch.save(payload, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=f"to open it {name} would"):
        load_checkpoint(tmp_path / "x.pth")


def test_an_old_file_with_training_state_is_read(tmp_path: Path) -> None:
    payload = {
        "state_dict": OrderedDict(weights("resnet10t")),
        "hyper_parameters": {
            "lr": 0.1,
            "betas": (0.9, 0.99),
            "name": "a",
            "tags": {"x"},
            "size": torch.Size([3]),
        },
        "head": {"dtype": torch.float16, "device": torch.device("cpu")},
    }
    torch.save(payload, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    assert load_checkpoint(tmp_path / "x.pth").config.architecture == "resnet10t"


def test_tables_nested_without_end_are_refused(tmp_path: Path) -> None:
    payload: dict[str, Any] = dict(weights("resnet10t"))
    for _ in range(200):
        payload = {"a": payload}
    with pytest.raises(CheckpointError, match="nested more than 100 deep"):
        loaded(tmp_path / "x.pth", payload)


@pytest.mark.parametrize(
    "how", ["empty", "text", "picture", "half zip", "half legacy", "zip of nothing", "folder"]
)
def test_broken_files_are_refused_in_one_line(tmp_path: Path, how: str) -> None:
    path = tmp_path / "x.pth"
    if how in ("half zip", "half legacy"):
        torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=how == "half zip")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "zip of nothing":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "x")
    elif how == "folder":
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "text": b"hello\n" * 9, "picture": b"\xff\xd8\xff\xe0" * 9}[how])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_torchscript_program_is_not_weights(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        for name in ("x/data.pkl", "x/constants.pkl", "x/code/__torch__.py", "x/version"):
            archive.writestr(name, "3")
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_checkpoint(tmp_path / "x.pt")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("x/data/0", bytes(50 << 20))
    with pytest.raises(CheckpointError, match="unpacks to"):
        load_checkpoint(tmp_path / "x.pth")


def test_a_view_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    state = weights("resnet10t")
    state["conv1.0.weight"] = torch.zeros(1).expand(1 << 40)
    with pytest.raises(CheckpointError, match=r"conv1\.0\.weight claims \(1099511627776,\)"):
        loaded(tmp_path / "x.pth", state)


def test_tables_that_hold_each_other_are_read_once(tmp_path: Path) -> None:
    state: dict[str, Any] = dict(weights("resnet10t"))
    for index in range(50):
        state[f"self{index}"] = state
    assert loaded(tmp_path / "x.pth", state).config.architecture == "resnet10t"


def test_a_legacy_file_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert data.count(struct.pack("<q", 1000)) == 1  # the storage's own header
    path.write_bytes(data.replace(struct.pack("<q", 1000), struct.pack("<q", 1 << 50)))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    path.write_bytes(data.replace(b"M\xe8\x03", b"\x8a\x07" + struct.pack("<q", 1 << 50)[:7]))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
