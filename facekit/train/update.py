"""One step of a run: gradients, in parts that fit the memory and over all processes, and what they change."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from facekit.errors import SettingError, TrainingError
from facekit.train import processes
from facekit.train.recipe import Recipe, Step

__all__ = ["Update"]


class Update:
    """Forward, backward, average over the processes, clip, apply.

    A step is one batch, however many parts it takes: their gradients add up to those of the whole, apart
    from batch norms, which see a part at a time.

    Args:
        recipe: its modules are on ``device``.
        optimizer: over the recipe's groups.
        dtype: of the network under autocast.
        clip: largest norm of the gradient, over all parameters.
        micro_batch: pictures at once; None for all, and fewer whenever memory runs out.
        seed: of the run.
    """

    def __init__(
        self,
        recipe: Recipe,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        dtype: torch.dtype,
        clip: float,
        micro_batch: int | None,
        seed: int,
    ) -> None:
        self._recipe, self._optimizer, self._clip = recipe, optimizer, clip
        self._device, self._dtype, self._seed = device, dtype, seed
        if micro_batch is not None and not recipe.divisible:
            raise SettingError(
                f"micro_batch={micro_batch}: this recipe compares the pictures of a batch with each other, "
                "so that parts of it are another loss; leave it out, and give a smaller --batch-size"
            )
        self._micro_batch, self._adapts = micro_batch, micro_batch is None
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.said: list[str] = []
        """What the run should be told, since it was last emptied."""

    def __call__(self, batch: tuple[Tensor, ...], at: Step) -> dict[str, Any]:
        """Take one step.

        Returns:
            The recipe's metrics, their means over the parts as tensors or floats, and ``gradient_norm``
            before it is clipped.

        Raises:
            TrainingError: not even two pictures fit into memory, or a batch that has to stay whole.
        """
        batch = tuple(part.to(self._device, non_blocking=True) for part in batch)
        short_of_memory: str | None = None
        while True:
            if short_of_memory is not None:  # here, where the failed attempt's tensors are gone
                self._halve(len(batch[0]), short_of_memory)
            try:
                metrics = self._gradients(batch, at)
                break
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                short_of_memory = str(error)
        norm = metrics["gradient_norm"] = self._clipped()
        if self._device.type != "cpu" or norm.isfinite():  # else the weights stay as they are
            self.scaler.step(self._optimizer)
            self.scaler.update()
        return metrics

    def _gradients(self, batch: tuple[Tensor, ...], at: Step) -> dict[str, Any]:
        self._optimizer.zero_grad(set_to_none=True)
        size = len(batch[0])
        parts = _parts(size, self._micro_batch or size)
        sums: dict[str, Any] = {}
        for turn, part in enumerate(zip(*(torch.tensor_split(t, parts) for t in batch), strict=True)):
            torch.manual_seed(hash((self._seed, at.number, processes.rank(), turn)) & (2**63 - 1))
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                metrics = self._recipe.step(part, at)
            share = len(part[0]) / size
            torch.autograd.backward(self.scaler.scale(torch.as_tensor(metrics["loss"]) * share))
            for name, value in metrics.items():
                number = value.detach() if isinstance(value, Tensor) else value
                sums[name] = sums.get(name, 0.0) + share * number
        return sums

    def _clipped(self) -> Tensor:
        """Average and clip the gradients; their norm before."""
        shared, own = self._with_gradient()
        processes.average(shared)
        squares = _squares(shared, self._device) + processes.total(_squares(own, self._device))
        norm = squares.sqrt() / self.scaler.get_scale()
        factor = (self._clip / (norm + 1e-6)).clamp(max=1.0)
        # Where it overflowed in one process, all must leave the step out.
        factor = torch.where(norm.isfinite(), factor, math.nan)
        torch._foreach_mul_([*shared, *own], factor)
        return norm

    def _with_gradient(self) -> tuple[list[Tensor], list[Tensor]]:
        """The gradients of what all processes have alike, and of what each has its own rows of."""
        shared: list[Tensor] = []
        own: list[Tensor] = []
        for name, parameter in self._recipe.modules.named_parameters():
            if parameter.grad is not None:
                (own if name in self._recipe.sharded else shared).append(parameter.grad)
        return shared, own

    def _halve(self, size: int, reason: str) -> None:
        if not self._recipe.divisible:
            raise TrainingError(
                f"a batch of {size} pictures a process: out of memory ({reason.splitlines()[0]}); "
                "give a smaller --batch-size, or more processes"
            )
        now = min(self._micro_batch or size, size)
        fewer = max(2, now // 2)
        if not self._adapts or processes.world() > 1 or now == fewer:
            smaller = "give a smaller --size, or use a smaller network"
            remedy = f"give --micro-batch {fewer}" if now > fewer else smaller
            raise TrainingError(
                f"{now} pictures at a time: out of memory ({reason.splitlines()[0]}); {remedy}"
            )
        self._optimizer.zero_grad(set_to_none=True)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._micro_batch = fewer
        self.said.append(f"out of memory: from here on {fewer} pictures at a time, with the same batch size")


def _parts(size: int, most: int) -> int:
    """Into how many parts a batch goes: batch norm needs two pictures in each."""
    return max(1, min(math.ceil(size / most), size // 2))


def _squares(gradients: list[Tensor], device: torch.device) -> Tensor:
    """The sum of the squares of all numbers."""
    if not gradients:
        return torch.zeros((), device=device)
    return torch.stack([norm.float() for norm in torch._foreach_norm(gradients)]).square().sum()


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
