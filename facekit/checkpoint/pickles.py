"""Files of ``torch.save`` as flat tables of tensors, read without running what they may contain."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facekit.errors import CheckpointError

__all__ = ["read_pickle"]


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Every tensor in the file but scalars, under its dotted name through all tables it is nested in.

    Only tensors and plain values are accepted (``torch.load(weights_only=True)``).

    Raises:
        CheckpointError: not a file of ``torch.save``, cut short, one that wants to import something, or one
            with tensors larger than what it stores of them.
    """
    try:
        zipped = _checked_zip(path)
        payload = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # hostile bytes raise anything: KeyError, EOFError, UnicodeDecodeError, ...
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: {_reason(path, error)}", path=str(path)) from None
    tensors: dict[str, Tensor] = {}
    _flatten(payload, "", tensors, set())
    for name, tensor in tensors.items():
        # A view that repeats few stored numbers can claim any size at all.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            shape = tuple(tensor.shape)
            raise CheckpointError(f"{path}: {name} claims {shape}, the file holds less", path=str(path))
    return tensors


def _checked_zip(path: Path) -> bool:
    """Whether the file is a zip archive, as torch.save writes; raise where it unpacks to more than itself."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return False
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
            programs = [name for name in archive.namelist() if name.endswith("/constants.pkl")]
    if unpacked > path.stat().st_size:
        raise CheckpointError(f"{path}: unpacks to {unpacked} bytes, more than the file has", path=str(path))
    if programs:
        raise CheckpointError(
            f"{path}: is a TorchScript program, not weights; save its state_dict() with torch.save",
            path=str(path),
        )
    return True


def _flatten(value: Any, name: str, tensors: dict[str, Tensor], seen: set[int]) -> None:
    """Add the tensors under ``value`` to ``tensors``; each table once, because they may hold each other."""
    if isinstance(value, Tensor):
        usable = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        if usable and value.ndim and not value.is_complex():
            tensors[name] = value.detach()
    elif isinstance(value, Mapping) and id(value) not in seen:
        seen.add(id(value))
        for key, item in value.items():
            _flatten(item, f"{name}.{key}" if name else str(key), tensors, seen)


def _reason(path: Path, error: Exception) -> str:
    """One line on why ``torch.load`` did not like the file."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
    name = wanted[1] if wanted else _first_global(path)
    if name is not None:
        return (
            f"refused, it holds more than weights: to open it {name} would have to be imported and run;"
            " if you trust its maker, save its state_dict alone with torch.save"
        )
    return f"not a file of torch.save, or cut short ({type(error).__name__})"


def _first_global(path: Path) -> str | None:
    """What a bare pickle would import first, read without importing it; None where that is nothing."""
    texts: list[str] = []
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(io.BytesIO(file.read(1 << 20))):
                if opcode.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if opcode.name == "STACK_GLOBAL":
                    return ".".join(texts[-2:])
                if isinstance(argument, str):
                    texts.append(argument)
    except Exception:  # not a pickle at all
        return None
    return None
