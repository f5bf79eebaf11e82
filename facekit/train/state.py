"""Save and resume a run, with any number of processes: ``torch.distributed.checkpoint``, one folder a save.

A state is a folder of the number of its step. It is written beside its place and takes its name when it is
whole; then the one before goes. What is split over the processes is written in parts and read by those who
need them, so that a run saved by two processes goes on with one or three.
"""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from facekit.errors import TrainingError
from facekit.train import processes
from facekit.wholefile import flush_folder

__all__ = ["claimed", "load_state", "saved_step", "write_state"]

_PARTIAL = ".partial"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make the folder of a run, and keep others out of it as long as this one goes on.

    Raises:
        TrainingError: another run goes on there, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = os.open(folder, os.O_RDONLY) if os.name == "posix" else None
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be made or opened ({error}); give another --out") from error
    try:
        if number is not None:
            _lock(number, folder)
        yield
    finally:
        if number is not None:
            os.close(number)


def _lock(number: int, folder: Path) -> None:
    import fcntl  # here, because Windows has none

    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise TrainingError(
            f"{folder}: another run goes on there; wait for its end or give another --out"
        ) from error
    except OSError:  # a file system that knows no locks
        return


def write_state(
    folder: Path, step: int, tensors: Mapping[str, Tensor], *, sharded: Mapping[str, int]
) -> None:
    """Save the state after ``step`` steps; all processes take part.

    ``folder`` holds either the old state or the new one, whenever the power fails.

    Args:
        folder: of the run's states.
        step: number of steps done.
        tensors: by name.
        sharded: name -> rows in all, of the tensors of which each process has only its own rows.

    Raises:
        TrainingError: it cannot be written.
        KeyboardInterrupt: it was interrupted; the old state stays.
    """
    place = folder / f"{step:09d}"
    if place.exists():
        return
    partial = place.with_name(place.name + _PARTIAL)
    try:
        if processes.rank() == 0:
            _remove_partial(folder)
            partial.mkdir(parents=True)
        processes.barrier()
        with _quiet():
            save(_spread(tensors, sharded), storage_writer=FileSystemWriter(partial))
        if processes.rank() == 0:
            partial.replace(place)
            flush_folder(folder)
            for old in folder.iterdir():
                if old != place and old.name.isdigit():
                    shutil.rmtree(old)
        processes.barrier()
    except (OSError, CheckpointException) as error:
        if processes.rank() == 0:
            _remove_partial(folder)  # it may be what fills the disk
        _pass_on(error)
        raise TrainingError(
            f"{folder}: the run's state cannot be saved ({_reason(error)}); free space and start again"
        ) from error


def saved_step(folder: Path) -> int | None:
    """The number of steps after which the newest state was saved; None where there is none."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=None)


def load_state(
    folder: Path, step: int, known: Mapping[str, Tensor], *, sharded: Mapping[str, int]
) -> dict[str, Tensor]:
    """The tensors of the state that was saved after ``step`` steps; of what is sharded, this process's rows.

    Args:
        folder: of the run's states.
        step: as :func:`saved_step` says.
        known: tensors that must be there; they are filled in place.
        sharded: name -> rows in all, of the tensors of which each process has only its own rows.

    Returns:
        ``known``, and what else the state holds: ``<known name>@<anything>``, which is of the shape of
        the known one, and sharded as it is, or a single number.

    Raises:
        TrainingError: it cannot be read, or is of another network.
    """
    try:
        reader = _Reader(folder / f"{step:09d}")
        entries = reader.read_metadata().state_dict_metadata
        tensors = dict(known)
        for name, entry in entries.items():
            if name not in tensors:
                tensors[name] = _blank(name, entry, known)
        spread = _spread(tensors, sharded)
        for name, tensor in spread.items():
            there = entries.get(name)
            if not isinstance(there, TensorStorageMetadata) or there.size != tensor.shape:
                found = tuple(there.size) if isinstance(there, TensorStorageMetadata) else "nothing"
                raise ValueError(f"{name}: {found}, not {tuple(tensor.shape)}")
        with _quiet():
            load(spread, storage_reader=reader)
    except (OSError, CheckpointException, pickle.UnpicklingError, ValueError, EOFError) as error:
        _pass_on(error)
        raise TrainingError(
            f"{folder}: not a state that this run can go on from ({_reason(error)}); give another --out"
        ) from error
    return tensors


class _Reader(FileSystemReader):
    """Reads a state that may be anybody's: its table of contents is a pickle, which may name nothing else."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata) or not isinstance(metadata.storage_data, dict):
            raise ValueError(".metadata holds something else")
        for info in metadata.storage_data.values():
            if Path(info.relative_path).name != str(info.relative_path):
                raise ValueError(f"names a file of another folder, {info.relative_path}")
        return metadata


class _Unpickler(pickle.Unpickler):
    """Builds what torch writes into ``.metadata``, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = (
            (module == "torch" and (name == "Size" or isinstance(getattr(torch, name, None), torch.dtype)))
            or (module, name) in _ALLOWED
            or (module == "pathlib" and name in ("PosixPath", "WindowsPath", "Path"))
        )
        if not allowed:
            raise pickle.UnpicklingError(f".metadata names {module}.{name}, which is not of a state")
        return super().find_class(module, name)


_METADATA = "torch.distributed.checkpoint.metadata"
_ALLOWED = {
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    *(
        (_METADATA, name)
        for name in (
            "Metadata",
            "MetadataIndex",
            "ChunkStorageMetadata",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ),
}


def _blank(name: str, entry: Any, known: Mapping[str, Tensor]) -> Tensor:
    owner = known.get(name.partition("@")[0])
    if owner is None or not isinstance(entry, TensorStorageMetadata):
        raise ValueError(f"{name}: nothing of this network")
    dtype = entry.properties.dtype
    return torch.zeros_like(owner, dtype=dtype) if entry.size else torch.zeros((), dtype=dtype)


def _spread(tensors: Mapping[str, Tensor], sharded: Mapping[str, int]) -> dict[str, Any]:
    """The tensors, with those that are sharded as parts of a whole."""
    spread: dict[str, Any] = {}
    for name, tensor in tensors.items():
        rows = sharded.get(name.partition("@")[0])
        if rows is None or not tensor.ndim or processes.world() == 1:
            spread[name] = tensor.detach()
            continue
        shape = torch.Size((rows, *tensor.shape[1:]))
        spread[name] = DTensor.from_local(
            tensor.detach(),
            init_device_mesh(tensor.device.type, (processes.world(),)),
            [Shard(0)],
            run_check=False,
            shape=shape,
            stride=torch.empty(shape, device="meta").stride(),
        )
    return spread


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remark that there is only one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is .*unavailable")
        yield


def _remove_partial(folder: Path) -> None:
    """Remove what was not written to its end, by a run that was killed or by this one."""
    for partial in folder.glob(f"*{_PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)


def _pass_on(error: BaseException) -> None:
    """Ctrl-C is none of a state's errors, though torch wraps it into one."""
    wrapped = error.failures.values() if isinstance(error, CheckpointException) else ()
    if any(isinstance(cause, KeyboardInterrupt) for cause, _ in wrapped):
        raise KeyboardInterrupt from error


def _reason(error: BaseException) -> str:
    """An error in one line; of one that torch wraps, the cause."""
    text = str(error).strip()
    return text.splitlines()[-1] if text else type(error).__name__
