"""Face embedders in ONNX files, called like our own networks."""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facekit.checkpoint.config import Calibration, ModelConfig
from facekit.errors import CheckpointError, DeviceError, MissingExtraError

__all__ = ["KNOWN_FILES", "OnnxModel", "file_digest", "load_onnx"]

_Array = NDArray[Any]


def _calibration(thresholds: Mapping[float, float]) -> Calibration:
    """What was measured with a published file, on the pictures that the shipped checkpoint is measured on."""
    return Calibration(
        data="all pairs of 4,857 aligned pictures of 250 people (CelebA, PubFig83, Glint360k sample), who may"
        " have been among the training data",
        impostor_pairs=11_689_518,
        genuine_pairs=103_278,
        thresholds=thresholds,
    )


_SFACE = ModelConfig(
    architecture="onnx",
    embedding_dim=128,
    input_size=112,
    color="rgb",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    threshold=0.3776,
    calibration=_calibration({1e-1: 0.21393, 1e-2: 0.30811, 1e-3: 0.3776, 1e-4: 0.434}),
    recipe={"name": "SFace", "source": "https://huggingface.co/opencv/face_recognition_sface"},
    license="Apache-2.0",
)
_EDGEFACE = ModelConfig(
    architecture="onnx",
    embedding_dim=512,
    input_size=112,
    color="rgb",
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
    threshold=0.34588,
    calibration=_calibration({1e-1: 0.15257, 1e-2: 0.26409, 1e-3: 0.34588, 1e-4: 0.41143}),
    recipe={"name": "EdgeFace-S (gamma 0.5)", "source": "https://github.com/otroshi/edgeface"},
    license="BSD-3-Clause",
)

KNOWN_FILES: Mapping[str, ModelConfig] = {
    # face_recognition_sface_2021dec.onnx; OpenCV's FaceRecognizerSF feeds it RGB, unscaled
    "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79": _SFACE,
    # edgeface_s_gamma_05.onnx
    "9fd80dbbb5a839698631df655cdfcd7d9ae9270f801642ab99cf97be685d6a16": _EDGEFACE,
}
"""SHA-256 of a published file -> how to use it."""


class OnnxModel:
    """An ONNX graph as a function of a batch; safe to share between threads.

    Args:
        path: the ``.onnx`` file.
        input_size: side s of the square input in pixels.
        device: ``cpu`` or a CUDA device; the latter needs onnxruntime's CUDA provider.

    Shapes: (n, 3, s, s) float32, normalised -> (n, ``embedding_dim``) float32, not of unit length.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        CheckpointError: not an ONNX graph, or not one from pictures to vectors.
        DeviceError: onnxruntime cannot run on ``device``.
    """

    def __init__(
        self, path: str | Path, *, input_size: int = 112, device: str | torch.device = "cpu"
    ) -> None:
        self.path = Path(path)
        self.input_size = input_size
        self.device = torch.device(device)
        self._session = _open_session(self.path, self.device)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            shapes = [list(item.shape) for item in inputs]
            raise _not_an_embedder(self.path, f"its inputs are {shapes}, not one (n, 3, s, s)")
        self._input = inputs[0].name
        sample = np.linspace(-1, 1, 2 * 3 * input_size**2, dtype=np.float32)
        pair = sample.reshape(2, 3, input_size, input_size)
        singles = self._run_each(pair)
        if singles.ndim != 2 or len(singles) != 2:
            raise _not_an_embedder(self.path, f"two pictures give an array of shape {singles.shape}")
        self.embedding_dim = int(singles.shape[1])
        self.batches = self._gives(pair, singles)
        if not self.batches and self.device.type == "cpu":
            # Small graphs gain little from threads inside them; pictures side by side use every core.
            self._session = _open_session(self.path, self.device, threads=1)

    def _gives(self, batch: _Array, singles: _Array) -> bool:
        """Whether a batch gives what its pictures give one by one; what graphs declare is often untrue."""
        try:
            together = self._run(batch)
        except CheckpointError:
            return False
        return together.shape == singles.shape and np.allclose(together, singles, rtol=1e-3, atol=1e-4)

    def _run(self, batch: _Array) -> _Array:
        try:
            vectors = np.asarray(self._session.run(None, {self._input: batch})[0])
        except Exception as error:  # onnxruntime's classes share no base but Exception
            raise _not_an_embedder(self.path, f"input {batch.shape} fails ({_line(error)})") from None
        if vectors.dtype.kind != "f":
            raise _not_an_embedder(self.path, f"it gives {vectors.dtype}, not floating-point numbers")
        return vectors

    def _run_each(self, batch: _Array) -> _Array:
        """A batch picture by picture, on the CPU several at a time."""
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        with ThreadPoolExecutor(threads) as pool:
            return np.concatenate(list(pool.map(self._run, np.split(batch, len(batch)))))

    def __call__(self, x: Tensor) -> Tensor:
        """(n, 3, s, s) float on any device -> (n, d) float32 on the CPU."""
        batch = np.ascontiguousarray(x.detach().cpu().float().numpy())
        if not len(batch):
            return torch.empty(0, self.embedding_dim)
        vectors = self._run(batch) if self.batches else self._run_each(batch)
        return torch.from_numpy(vectors).float()

    def on(self, device: torch.device) -> OnnxModel:
        """This graph on ``device``."""
        if device == self.device:
            return self
        return OnnxModel(self.path, input_size=self.input_size, device=device)


def load_onnx(path: Path) -> tuple[OnnxModel, ModelConfig]:
    """The graph in ``path`` and how to use it: ``config.json`` beside it, else :data:`KNOWN_FILES`.

    Raises:
        CheckpointError: neither says how, or what it says does not fit the graph.
        MissingExtraError: onnxruntime is not installed.
    """
    beside = path.with_name("config.json")
    digest = file_digest(path)
    if beside.is_file():
        config = ModelConfig.read(beside)
    elif digest in KNOWN_FILES:
        config = KNOWN_FILES[digest]
    else:
        raise CheckpointError(f"{path}: how to feed it is not known; {_example(beside)}", path=str(path))
    if config.architecture != "onnx":
        raise CheckpointError(
            f"{beside}: architecture: {config.architecture!r} must be 'onnx'", path=str(beside)
        )
    model = OnnxModel(path, input_size=config.input_size)
    if model.embedding_dim != config.embedding_dim:
        raise CheckpointError(
            f"{path}: embedding_dim is {model.embedding_dim}, its config says {config.embedding_dim}",
            path=str(path),
        )
    digests = [digest, *(file_digest(file) for file in _files_beside(path))]
    return model, replace(config, fingerprint=_fingerprint(" ".join(digests), config))


def _fingerprint(digest: str, config: ModelConfig) -> str:
    how = json.dumps([digest, config.input_size, config.color, config.mean, config.std, config.flip_average])
    return f"onnx-{hashlib.sha256(how.encode()).hexdigest()[:12]}"


def _files_beside(path: Path) -> list[Path]:
    """The files in which a graph keeps weights that are not in the graph's own file, sorted.

    A tensor names its file in an entry ``{key: "location", value: name}``. Protobuf writes the two fields one
    after the other, so that entries are found without parsing all that may surround them; bytes that only
    look like one count where a file of that name exists, and then do no harm.
    """
    entry = re.compile(rb"\x0a\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x7f])", re.DOTALL)
    names = set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as graph:
        for found in entry.finditer(graph):
            low, *high = found[1]
            length = low if not high else (low & 0x7F) | high[0] << 7  # a varint
            names.add(graph[found.end() : found.end() + length])
    texts = sorted(name.decode(errors="surrogateescape") for name in names if b"\0" not in name)
    return [path.parent / text for text in texts if (path.parent / text).is_file()]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _example(beside: Path) -> str:
    example = {
        "architecture": "onnx",
        "embedding_dim": 512,
        "input_size": 112,
        "color": "rgb",
        "mean": [127.5] * 3,
        "std": [127.5] * 3,
    }
    return f"write {beside} with its values, like {json.dumps(example)}"


def _open_session(path: Path, device: torch.device, threads: int | None = None) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "onnx", f"Running {path}") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; exporters leave a warning for every tensor
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Threads that spin between two calls take the cores from the detector's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = _providers(onnxruntime, device)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's classes share no base but Exception
        raise CheckpointError(f"{path}: not a usable ONNX file ({_line(error)})", path=str(path)) from None
    if device.type == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise DeviceError(f"device: onnxruntime cannot use {device} (see its log); use device='cpu'")
    return session


def _providers(onnxruntime: Any, device: torch.device) -> list[Any]:
    if device.type == "cpu":
        return ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return [("CUDAExecutionProvider", {"device_id": device.index or 0}), "CPUExecutionProvider"]
    raise DeviceError(
        f"device: {device} cannot run an ONNX checkpoint here; use device='cpu'"
        + (", or pip install onnxruntime-gpu in place of onnxruntime" if device.type == "cuda" else "")
    )


def _not_an_embedder(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path}: not a face embedder, {why}", path=str(path))


def _line(error: Exception) -> str:
    """The first line of a foreign error, cut short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
