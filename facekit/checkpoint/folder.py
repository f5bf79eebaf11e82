"""A checkpoint folder, model.safetensors and config.json, to and from a model."""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from facekit.checkpoint.config import ModelConfig
from facekit.checkpoint.onnx import OnnxModel
from facekit.errors import CheckpointError, SettingError
from facekit.models import build

__all__ = [
    "Checkpoint",
    "blank",
    "fill",
    "fingerprint",
    "is_counter",
    "read_folder",
    "read_safetensors",
    "save_checkpoint",
]

WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A network and all that it takes to use it.

    Attributes:
        model: (n, 3, s, s) float, normalised -> (n, d) float, not of unit length; in eval mode, on the CPU.
        config: preprocessing, thresholds, origin and fingerprint.
    """

    model: nn.Module | OnnxModel
    config: ModelConfig


def fingerprint(state: Mapping[str, Tensor], config: ModelConfig) -> str:
    """``architecture-`` and 12 hex digits that stand for what the checkpoint computes.

    SHA-256 over names, shapes and values of the tensors, floating ones as float32 so that storage in
    half precision does not matter beyond its rounding, and over architecture, sizes and preprocessing.
    Thresholds, recipe, licence and the counters of batch norms may change without changing it.
    """
    digest = hashlib.sha256()
    how = [config.architecture, dict(config.sizes), config.embedding_dim, config.input_size, config.color]
    how += [config.mean, config.std, config.template, config.flip_average]
    digest.update(json.dumps(how, sort_keys=True).encode())
    for name in sorted(name for name in state if not is_counter(name)):
        tensor = state[name].detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).numpy().data)
    return f"{config.architecture}-{digest.hexdigest()[:12]}"


def is_counter(name: str) -> bool:
    """Whether a tensor only counts a batch norm's training steps, which inference never reads."""
    return name.rpartition(".")[2] == "num_batches_tracked"


def read_folder(folder: Path) -> Checkpoint:
    """The checkpoint in a folder that :func:`save_checkpoint` wrote.

    Raises:
        CheckpointError: a file is missing, cut short or changed, or the weights do not fit the config.
    """
    config_path, weights_path = folder / CONFIG, folder / WEIGHTS
    config = ModelConfig.read(config_path)
    state = read_safetensors(weights_path)
    model = fill(config, state, path=str(weights_path))
    measured = fingerprint(state, config)
    if measured != config.fingerprint:
        raise CheckpointError(
            f"{folder}: weights and config do not belong together (fingerprint {measured}, config.json says"
            f" {config.fingerprint or 'nothing'}); copy both files again, or save with save_checkpoint",
            path=str(folder),
        )
    return Checkpoint(model, config)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; floating ones as float32.

    Raises:
        CheckpointError: the file is missing, cut short, or its header lies about the rest.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})", path=str(path)) from None
    # Copied, because the file is mapped into memory, where it could change or shrink under our feet.
    return {
        name: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        for name, tensor in state.items()
    }


_MOST_WEIGHTS, _MOST_TENSORS = 1_000_000_000, 20_000  # ten times what the largest network here has


class _Unfilled(TorchFunctionMode):
    """Within it, the initialisation of weights leaves memory untouched and spends no random numbers.

    A network beyond all bounds, of sizes that are each within theirs, is an error before it takes memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights = self.tensors = 0

    def count(self, shape: tuple[Any, ...]) -> None:
        self.tensors += 1
        self.weights += math.prod(shape[0] if shape and isinstance(shape[0], (tuple, list)) else shape)
        if self.weights > _MOST_WEIGHTS or self.tensors > _MOST_TENSORS:
            raise SettingError(f"for more than {_MOST_WEIGHTS:,} weights or {_MOST_TENSORS:,} tensors follow")

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.empty, torch.zeros, torch.ones):
            self.count(args)
        if getattr(func, "__module__", None) == nn.init.__name__ or func in (Tensor.normal_, Tensor.uniform_):
            return kwargs.get("tensor", args[0] if args else None)
        return func(*args, **kwargs)


def blank(architecture: str, sizes: Mapping[str, Any]) -> nn.Module:
    """A network whose weights are still to come, in milliseconds.

    (The meta device would do the same, but its first use imports a second's worth of modules.)

    Raises:
        SettingError: no such architecture or sizes.
    """
    with _Unfilled():
        return build(architecture, **sizes)


def fill(config: ModelConfig, state: Mapping[str, Tensor], *, path: str) -> nn.Module:
    """The architecture of ``config`` with exactly the tensors of ``state`` (counters may lack), in eval mode.

    Raises:
        CheckpointError: no such architecture, names, shapes or kinds of number differ, or a weight is not
            finite.
    """
    try:
        model = blank(config.architecture, config.sizes)
    except SettingError as error:
        raise CheckpointError(f"{path}: {error}", path=path) from None
    expected = model.state_dict()
    state = {
        name: torch.zeros_like(v, device="cpu") for name, v in expected.items() if is_counter(name)
    } | dict(state)
    wrong = [f"{name} is missing" for name in expected if name not in state]
    wrong += [f"{name} is not part of {config.architecture}" for name in state if name not in expected]
    wrong += [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    wrong += [
        f"{name} is {state[name].dtype} instead of {tensor.dtype}"
        for name, tensor in expected.items()
        if name in state and state[name].is_floating_point() != tensor.is_floating_point()
    ]
    if wrong:
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise CheckpointError(
            f"{path}: {len(wrong)} tensors do not fit {config.architecture}: {'; '.join(wrong[:10])}{more}",
            path=path,
        )
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: {name} is not finite; copy the file again", path=path)
    model.load_state_dict(state, assign=True)
    return model.eval()


def save_checkpoint(
    folder: str | Path, model: nn.Module, config: ModelConfig, *, half: bool = False
) -> ModelConfig:
    """Write ``model.safetensors`` and ``config.json``, both or neither.

    They are written and flushed in a folder beside the target, which then takes its name; a checkpoint
    that is already there stays whole until that moment.

    Args:
        folder: the checkpoint folder, made if need be.
        model: its weights are written, in the precision that they have.
        config: its fingerprint is ignored and measured anew.
        half: store floating tensors as float16: half the file, rounded to 11 bits.

    Returns:
        The config as written, with its fingerprint.

    Raises:
        CheckpointError: the folder cannot be written, or holds something else than a checkpoint; weights
            that are not finite (in float16, where that was asked for), or do not fit ``config``.
    """
    folder = Path(folder).absolute()
    state = _storable(model, half=half, path=str(folder))
    _try_out(fill(config, state, path=str(folder)), config, path=str(folder))
    config = replace(config, fingerprint=fingerprint(state, config))
    if folder.exists() and not _is_checkpoint_or_empty(folder):
        raise CheckpointError(f"{folder}: not a checkpoint folder; name a new or empty one", path=str(folder))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            fresh, old = Path(scratch, "new"), Path(scratch, "old")
            _write(fresh, state, config)
            _swap(fresh, folder, old)
            _flush(folder.parent)
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        raise CheckpointError(f"{folder}: cannot be written ({error})", path=str(folder)) from None
    return config


@torch.no_grad()
def _try_out(model: nn.Module, config: ModelConfig, *, path: str) -> None:
    """Raise unless pictures of the config's size give embeddings of the config's length."""
    try:
        shape = tuple(model.float()(torch.zeros(1, 3, config.input_size, config.input_size)).shape)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path}: input_size: {config.input_size} does not fit ({reason})", path=path
        ) from None
    if shape != (1, config.embedding_dim):
        raise CheckpointError(
            f"{path}: embedding_dim: {config.embedding_dim}, but a picture gives {shape}", path=path
        )


def _storable(model: nn.Module, *, half: bool, path: str) -> dict[str, Tensor]:
    """The model's tensors as they will be stored; each owns its memory, as safetensors asks."""
    state = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu()
        tensor = tensor.half() if half and tensor.is_floating_point() else tensor
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{path}: {name} is not finite{' in float16' if half else ''}; nothing was written", path=path
            )
        state[name] = tensor.clone(memory_format=torch.contiguous_format)
    return state


def _is_checkpoint_or_empty(folder: Path) -> bool:
    return folder.is_dir() and ((folder / CONFIG).is_file() or not any(folder.iterdir()))


def _write(folder: Path, state: dict[str, Tensor], config: ModelConfig) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(config.to_json(), encoding="utf-8")
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # safetensors lets only the owner read
    for path in (folder / WEIGHTS, folder / CONFIG, folder):
        _flush(path)


def _swap(fresh: Path, folder: Path, old: Path) -> None:
    """Give ``fresh`` the name ``folder``; what bore that name is left inside the scratch folder."""
    if not folder.exists():
        fresh.rename(folder)
        return
    for kept in folder.iterdir():  # a model card or an evaluation beside the weights is not ours to drop
        if kept.name not in (WEIGHTS, CONFIG):
            _copy(kept, fresh / kept.name)
    if _exchange(fresh, folder):
        return
    folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        old.rename(folder)
        raise


def _exchange(a: Path, b: Path) -> bool:
    """Swap the names of two folders in one step; False where the system cannot (only Linux can)."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, TypeError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def _flush(path: Path) -> None:
    """Ask the system to put a file or folder on the disk; systems that cannot open folders skip those."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
