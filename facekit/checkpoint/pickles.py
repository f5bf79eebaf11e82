"""Files of ``torch.save`` as flat tables of tensors, read without running what they may contain."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from facekit.errors import CheckpointError

__all__ = ["read_pickle"]

# What a table of tensors and plain values is made of. torch.load(weights_only=True) would call much more,
# such as bytearray, with which a file of a kilobyte takes any amount of memory.
_ALLOWED = re.compile(
    r"collections\.OrderedDict|(__builtin__|builtins)\.set"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\.(cuda\.)?(Half|BFloat16|Float|Double|Byte|Char|Short|Int|Long|Bool|Complex\w+)Storage"
    r"|torch\.(Size|device|bool|u?int\d+|b?float\d+|complex\d+)"
)
_PICKLES = 5  # of an old file: a magic number, the version, the system, the tables, the names of the storages
_DEEPEST = 100  # tables in tables


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Every tensor in the file but scalars, under its dotted name through all tables it is nested in.

    Only tensors and plain values are accepted: what the file would import is read, and compared with a short
    list of names, before ``torch.load(weights_only=True)`` runs.

    Raises:
        CheckpointError: not a file of ``torch.save``, cut short, one that wants to import something, one with
            tensors larger than what it stores of them, or with tables nested without end.
    """
    try:
        zipped = _checked_zip(path)
        _check_imports(path, zipped=zipped)
        payload = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # hostile bytes raise anything: KeyError, EOFError, UnicodeDecodeError, ...
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: {_reason(error)}", path=str(path)) from None
    tensors: dict[str, Tensor] = {}
    try:
        _flatten(payload, "", tensors, set(), _DEEPEST)
    except RecursionError:
        problem = f"its tables are nested more than {_DEEPEST} deep; save its state_dict alone"
        raise CheckpointError(f"{path}: {problem}", path=str(path)) from None
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


def _check_imports(path: Path, *, zipped: bool) -> None:
    """Raise where a pickle in the file would import what a table of tensors does not need."""
    with path.open("rb") as file:
        if not zipped:
            for _ in range(_PICKLES):
                _check_pickle(file, path)
                if not file.peek(1):
                    return  # of a bare pickle there is only one, and torch.load says what it thinks of it
            return
        with zipfile.ZipFile(file) as archive:
            for item in archive.infolist():
                if item.filename.endswith(".pkl"):
                    _check_pickle(io.BytesIO(archive.read(item)), path)


def _check_pickle(file: IO[bytes], path: Path) -> None:
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            name = str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":  # torch.save writes none; the names may be others than these
            name = ".".join(texts[-2:])
        elif isinstance(argument, str):
            texts = [*texts[-1:], argument]
            continue
        else:
            continue
        if opcode.name != "GLOBAL" or not _ALLOWED.fullmatch(name):
            raise CheckpointError(
                f"{path}: refused, it holds more than weights: to open it {name} would have to be imported"
                " and run; if you trust its maker, save its state_dict alone with torch.save",
                path=str(path),
            )


def _flatten(value: Any, name: str, tensors: dict[str, Tensor], seen: set[int], deeper: int) -> None:
    """Add the tensors under ``value`` to ``tensors``; each table once, because they may hold each other."""
    if isinstance(value, Tensor):
        usable = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        if usable and value.ndim and not value.is_complex():
            tensors[name] = value.detach()
    elif isinstance(value, Mapping) and id(value) not in seen:
        if not deeper:
            raise RecursionError
        seen.add(id(value))
        for key, item in value.items():
            _flatten(item, f"{name}.{key}" if name else str(key), tensors, seen, deeper - 1)


def _reason(error: Exception) -> str:
    """One line on why ``torch.load`` did not like the file."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    return f"not a file of torch.save, or cut short ({type(error).__name__})"
