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
        "head": {"dtype": torch.float16, "device": torch.device("cpu")},
    }
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
        "head": {
            "dtype": torch.float16,
            "device": torch.device("cpu"),
            "weight": nn.Parameter(torch.zeros(1)),
        },
    }
    del payload["head"]["weight"]
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
