"""The processes that train one network together: which of them this is, and what they tell each other.

Outside of ``torchrun`` there is one process, and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from facekit.embed import resolve_device
from facekit.errors import TrainingError

__all__ = [
    "average",
    "barrier",
    "beside",
    "gathered",
    "highest",
    "joined",
    "rank",
    "same",
    "synchronized",
    "total",
    "world",
]

_PATIENCE = timedelta(hours=12)  # while the first one embeds pictures; torchrun ends those left behind
_LEFT = ("closed by peer", "reset by peer", "remote process exited")  # gloo, either way, and NCCL
_BUCKET = 1 << 24  # numbers that are averaged at once


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that ``torchrun`` started, if it did; on CUDA each takes the GPU of its number.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` ...

    Raises:
        DeviceError: the device is not there.
        TrainingError: this one waited for another, which ended; that one has said why.
    """
    if "LOCAL_RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    on_gpu = resolve_device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    try:
        yield
    except RuntimeError as error:
        if not any(told in str(error) for told in _LEFT):
            raise
        raise TrainingError(f"process {rank()}: another one of the run ended, and says why") from error
    finally:
        dist.destroy_process_group()


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _several() else 1


def rank() -> int:
    """The number of this one; 0 is the one that talks."""
    return dist.get_rank() if _several() else 0


def beside() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if _several() else 1


def barrier() -> None:
    """Wait until all have come here."""
    if _several():
        dist.all_reduce(torch.zeros(()))  # on the CPU: it must not wait for a GPU's other work


def highest(number: int) -> int:
    """The highest of the numbers that they say."""
    if not _several():
        return number
    said = torch.tensor(number)
    dist.all_reduce(said, dist.ReduceOp.MAX)
    return int(said)


def same(tensors: Sequence[Tensor]) -> None:
    """Give all of them the tensors of the first, in place."""
    if _several():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def total(value: Tensor) -> Tensor:
    """The sum over all of them."""
    if _several():
        value = value.clone()
        dist.all_reduce(value)
    return value


def synchronized(modules: nn.ModuleDict, device: torch.device) -> nn.ModuleDict:
    """The modules, with batch norms over the pictures of all processes; on a CPU each keeps to its own."""
    if world() == 1 or device.type != "cuda":  # gloo has none
        return modules
    converted: nn.ModuleDict = nn.SyncBatchNorm.convert_sync_batchnorm(modules)  # type: ignore[no-untyped-call]  # torch has no types
    return converted


def average(tensors: Sequence[Tensor]) -> None:
    """Replace floating tensors by their mean over the processes, in place, many at a time."""
    if not _several():
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        dist.all_reduce(flat)
        flat /= world()
        for tensor, part in zip(bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def gathered(part: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The rows of all processes, in their order; in one process, ``part`` itself.

    Backward, the gradients that all have of the whole are summed, and each gets those of its own rows.
    All must go backward, and in the same order where several are gathered.

    Args:
        part: (n, ...) of any type; its shape is alike in all.
        group: the processes; None for all.
    """
    if not _several() or dist.get_world_size(group) == 1:
        return part
    whole: Tensor = _Gather.apply(part, group)
    return whole


class _Gather(torch.autograd.Function):
    """:func:`gathered` of several."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, part, group)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_whole: Tensor) -> tuple[Tensor, None]:
        total = by_whole.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)  # gloo's reduce_scatter came only lately
        return total.chunk(dist.get_world_size(ctx.group))[dist.get_rank(ctx.group)], None


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
