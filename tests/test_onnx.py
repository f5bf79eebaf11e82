"""ONNX embedders: the graph's own arithmetic, its batch axis, and how a file says what it wants to be fed."""

from __future__ import annotations

import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facekit.checkpoint import ModelConfig, OnnxModel, convert_checkpoint, load_checkpoint
from facekit.checkpoint import onnx as onnx_module
from facekit.embed import Embedder
from facekit.errors import CheckpointError, DeviceError, MissingExtraError
from facekit.recognition import FaceRecognition

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIDE, DIM = 112, 6
BESIDE = {
    "architecture": "onnx",
    "embedding_dim": DIM,
    "input_size": SIDE,
    "color": "rgb",
    "mean": [127.5, 127.5, 127.5],
    "std": [127.5, 127.5, 127.5],
}


def write_graph(
    path: Path, *, batch: int | str = "n", baked: bool = False, side: int = SIDE
) -> np.ndarray[Any, Any]:
    """A graph that averages 16 x 16 blocks and multiplies by a matrix, which is returned.

    ``batch`` is what the input declares; ``baked`` writes a batch of one into the graph itself.
    """
    from onnx import TensorProto, helper, numpy_helper

    blocks = (side // 16) ** 2
    matrix = np.random.default_rng(0).normal(size=(3 * blocks, DIM)).astype(np.float32)
    shape = np.array([1 if baked else -1, 3 * blocks], dtype=np.int64)
    nodes = [
        helper.make_node("AveragePool", ["x"], ["pooled"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Reshape", ["pooled", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "embedder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, DIM])],
        [numpy_helper.from_array(matrix, "matrix"), numpy_helper.from_array(shape, "shape")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return matrix


def expected(matrix: np.ndarray[Any, Any], x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(x, 16).flatten(1) @ torch.from_numpy(matrix)


@pytest.mark.parametrize(
    ("batch", "baked", "batches"),
    [("n", False, True), (1, False, False), ("n", True, False), (1, True, False)],
)
def test_any_batch_gives_what_its_pictures_give(
    tmp_path: Path, batch: int | str, baked: bool, batches: bool
) -> None:
    matrix = write_graph(tmp_path / "a.onnx", batch=batch, baked=baked)
    model = OnnxModel(tmp_path / "a.onnx")
    assert (model.batches, model.embedding_dim) == (batches, DIM)
    for count in (0, 1, 3):
        x = torch.randn(count, 3, SIDE, SIDE)
        torch.testing.assert_close(model(x), expected(matrix, x), rtol=1e-4, atol=1e-4)


def test_a_config_beside_the_file_says_how_to_feed_it(tmp_path: Path) -> None:
    matrix = write_graph(tmp_path / "a.onnx")
    (tmp_path / "config.json").write_text(json.dumps(BESIDE | {"color": "bgr", "threshold": 0.3}))
    checkpoint = load_checkpoint(tmp_path / "a.onnx")
    assert checkpoint.config.threshold == 0.3
    assert checkpoint.config.fingerprint.startswith("onnx-")
    assert load_checkpoint(tmp_path).config == checkpoint.config
    crops = torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8)
    vectors = expected(matrix, (crops.float().flip(1) - 127.5) / 127.5)
    embedder = Embedder(checkpoint, device="cpu")
    torch.testing.assert_close(
        embedder.embed(crops), torch.nn.functional.normalize(vectors), rtol=1e-4, atol=1e-5
    )


def test_the_fingerprint_is_of_the_file_and_of_how_it_is_fed(tmp_path: Path) -> None:
    write_graph(tmp_path / "a.onnx")
    prints = set()
    for change in ({}, {"color": "bgr"}, {"std": [1, 1, 1]}, {"threshold": 0.5}, {"recipe": {"name": "x"}}):
        (tmp_path / "config.json").write_text(json.dumps(BESIDE | change))
        prints.add(load_checkpoint(tmp_path / "a.onnx").config.fingerprint)
    assert len(prints) == 3


def test_the_fingerprint_is_of_weights_beside_the_graph_too(tmp_path: Path) -> None:
    write_graph(tmp_path / "whole.onnx")
    onnx.save_model(
        onnx.load(tmp_path / "whole.onnx"),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=1024,
    )
    (tmp_path / "config.json").write_text(json.dumps(BESIDE))
    first = load_checkpoint(tmp_path / "m.onnx").config.fingerprint
    assert load_checkpoint(tmp_path / "m.onnx").config.fingerprint == first
    (tmp_path / "beside.bin").write_bytes(b"of no matter")
    assert load_checkpoint(tmp_path / "m.onnx").config.fingerprint == first
    data = bytearray((tmp_path / "w.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "w.bin").write_bytes(data)
    assert load_checkpoint(tmp_path / "m.onnx").config.fingerprint != first


def test_a_config_that_is_not_text_is_one_line(tmp_path: Path) -> None:
    write_graph(tmp_path / "a.onnx")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read") as caught:
        load_checkpoint(tmp_path / "a.onnx")
    assert "\n" not in str(caught.value)


def test_a_graph_that_gives_text_is_no_embedder(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    texts = helper.make_tensor("texts", TensorProto.STRING, [1, 2], [b"a", b"b"])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["texts"], ["y"])],
        "labels",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [1, 2])],
        [texts],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(CheckpointError, match="gives object, not floating-point numbers"):
        OnnxModel(tmp_path / "a.onnx")


def test_an_unknown_file_says_what_to_write(tmp_path: Path) -> None:
    write_graph(tmp_path / "a.onnx")
    with pytest.raises(CheckpointError, match=r"write .*config\.json") as caught:
        load_checkpoint(tmp_path / "a.onnx")
    message = str(caught.value)
    example = json.loads(message[message.index("{") :])
    (tmp_path / "config.json").write_text(json.dumps(example | {"embedding_dim": DIM}))
    assert load_checkpoint(tmp_path / "a.onnx").config.embedding_dim == DIM


def test_a_known_file_needs_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_graph(tmp_path / "a.onnx")
    digest = hashlib.sha256((tmp_path / "a.onnx").read_bytes()).hexdigest()
    monkeypatch.setattr(onnx_module, "KNOWN_FILES", {digest: ModelConfig.from_dict(BESIDE)})
    assert load_checkpoint(tmp_path / "a.onnx").config.mean == (127.5,) * 3


@pytest.mark.parametrize("config", onnx_module.KNOWN_FILES.values(), ids=lambda config: config.recipe["name"])
def test_a_known_file_verifies_by_its_own_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: ModelConfig
) -> None:
    write_graph(tmp_path / "a.onnx")
    digest = hashlib.sha256((tmp_path / "a.onnx").read_bytes()).hexdigest()
    monkeypatch.setattr(onnx_module, "KNOWN_FILES", {digest: replace(config, embedding_dim=DIM)})
    crop = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    fr = FaceRecognition(tmp_path / "a.onnx", device="cpu")
    for far in (1e-1, 1e-2, 1e-3, 1e-4):
        assert fr.verify_faces(crop, crop, far=far, aligned=True).far == far
    verdict = fr.verify_faces(crop, crop, aligned=True)
    assert (verdict.is_same, verdict.far, verdict.threshold) == (True, 1e-3, config.threshold)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding_dim": 512}, "embedding_dim"),
        ({"architecture": "resnet50"}, "must be 'onnx'"),
        ({"input_size": 96}, "not a face embedder"),
        ({"mean": None}, "mean"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_graph(tmp_path / "a.onnx")
    (tmp_path / "config.json").write_text(json.dumps(BESIDE | change))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(tmp_path / "a.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["empty", "text", "half", "picture"])
def test_broken_files_are_refused_in_one_line(
    tmp_path: Path, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.onnx"
    write_graph(path)
    data = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "text": b"hello", "half": data[: len(data) // 2], "picture": b"\xff\xd8" * 9}[how]
    )
    (tmp_path / "config.json").write_text(json.dumps(BESIDE))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_detector_is_not_an_embedder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, SIDE, SIDE]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "detector", ends[:1], ends[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
        tmp_path / "a.onnx",
    )
    with pytest.raises(CheckpointError, match="not a face embedder"):
        OnnxModel(tmp_path / "a.onnx")
    assert capfd.readouterr() == ("", "")


def test_threads_share_a_model(tmp_path: Path) -> None:
    matrix = write_graph(tmp_path / "a.onnx", batch=1)
    model = OnnxModel(tmp_path / "a.onnx")
    batches = [torch.randn(3, 3, SIDE, SIDE) for _ in range(16)]
    with ThreadPoolExecutor(4) as pool:
        for batch, got in zip(batches, pool.map(model, batches), strict=True):
            torch.testing.assert_close(got, expected(matrix, batch), rtol=1e-4, atol=1e-4)


def test_pictures_side_by_side_are_what_they_are_alone_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_graph(tmp_path / "a.onnx", batch=1)
    model = OnnxModel(tmp_path / "a.onnx")
    x = torch.randn(40, 3, SIDE, SIDE)
    singles = torch.cat([model(picture[None]) for picture in x])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert torch.equal(model(x), singles)
    with ThreadPoolExecutor(2) as pool:
        there, back = pool.map(model, [x, x.flip(0)])
    assert torch.equal(there, singles)
    assert torch.equal(back, singles.flip(0))


def test_devices_that_onnxruntime_lacks_are_refused(tmp_path: Path) -> None:
    import onnxruntime

    write_graph(tmp_path / "a.onnx")
    with pytest.raises(DeviceError, match="mps"):
        OnnxModel(tmp_path / "a.onnx", device="mps")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(DeviceError, match="onnxruntime-gpu"):
            OnnxModel(tmp_path / "a.onnx").on(torch.device("cuda", 0))


@pytest.mark.parametrize("device", ["auto", "mps"])
def test_only_auto_leaves_a_graph_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    write_graph(tmp_path / "a.onnx")
    (tmp_path / "config.json").write_text(json.dumps(BESIDE))
    checkpoint = load_checkpoint(tmp_path / "a.onnx")
    monkeypatch.setattr(
        "facekit.embed.resolve_device", lambda name: torch.device("meta")
    )  # one without a provider
    if device == "auto":
        assert Embedder(checkpoint, device=device)._model is checkpoint.model
    else:
        with pytest.raises(DeviceError, match="meta"):
            Embedder(checkpoint, device=device)


def test_a_graph_has_its_own_precision(tmp_path: Path) -> None:
    write_graph(tmp_path / "a.onnx")
    (tmp_path / "config.json").write_text(json.dumps(BESIDE))
    checkpoint = load_checkpoint(tmp_path / "a.onnx")
    Embedder(checkpoint, device="cpu", precision="fp32")
    with pytest.raises(DeviceError, match="bf16"):
        Embedder(checkpoint, device="cpu", precision="bf16")


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_graph(tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"facekit-torch\[onnx\]"):
        OnnxModel(tmp_path / "a.onnx")


def test_a_graph_is_not_converted(tmp_path: Path) -> None:
    write_graph(tmp_path / "a.onnx")
    (tmp_path / "config.json").write_text(json.dumps(BESIDE))
    with pytest.raises(CheckpointError, match="ONNX"):
        convert_checkpoint(tmp_path / "a.onnx", tmp_path / "out")


def test_known_files_are_what_is_published() -> None:
    for digest, config in onnx_module.KNOWN_FILES.items():
        assert len(digest) == 64
        assert config.architecture == "onnx"
        assert config.license != "unknown"
