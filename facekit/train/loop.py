"""fit(): the only training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facekit.embed import resolve_device, resolve_precision
from facekit.errors import TrainingError
from facekit.train.config import OptimSettings, RunSettings
from facekit.train.log import RunLog
from facekit.train.recipe import Recipe, Step
from facekit.train.state import load_state, save_state

__all__ = ["fit"]

_LOG_EVERY = 20  # steps; reading metrics synchronises the device


def fit(recipe: Recipe, run: RunSettings, optim: OptimSettings) -> Path:
    """Train a recipe to its end, from the start or from where ``run.out`` was interrupted.

    The order of the pictures and every random draw depend on the seed and the step alone, so an
    interrupted run takes the same path as one that was not.

    Returns:
        The folder of the finished checkpoint.

    Raises:
        TrainingError: the loss is no longer a number; the last good state is kept.
    """
    device, dtype = resolve_device(run.device), _dtype(run)
    run.out.mkdir(parents=True, exist_ok=True)
    recipe.modules.to(device)
    optimizer = torch.optim.AdamW(recipe.groups, fused=device.type in ("cpu", "cuda"))
    highest = [group["lr"] for group in optimizer.param_groups]
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    total = run.epochs * recipe.steps_per_epoch
    parts: dict[str, Any] = {"modules": recipe.modules, "optimizer": optimizer, "scaler": scaler}
    done = _resume(run.out / "state.pt", parts, total)
    saved = time.monotonic()

    def save() -> None:
        if not all(bool(parameter.isfinite().all()) for parameter in recipe.modules.parameters()):
            raise TrainingError(_diverged("a weight is no longer a number", done, run.out))
        states = {name: part.state_dict() for name, part in parts.items()}
        save_state(run.out / "state.pt", {**states, "done": done, "total": total})

    with RunLog(run.out, total=total, done=done) as log:
        for note in recipe.notes:
            log.say(note)
        try:
            for batch in _batches(recipe, done, run.epochs):
                step = Step(done, done / total, done / recipe.steps_per_epoch)
                factor = recipe.lr_factor(step)
                for group, lr in zip(optimizer.param_groups, highest, strict=True):
                    group["lr"] = lr * factor
                recipe.modules.train()
                batch = tuple(part.to(device, non_blocking=True) for part in batch)
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    metrics = recipe.step(batch, step)
                _update(metrics["loss"], recipe.modules, optimizer, scaler, optim.clip)
                shown = _checked(metrics, done, run.out) if done % _LOG_EVERY == 0 else {}
                if shown:
                    log.record("step", step=done, lr_factor=factor, **shown)
                log.advance(shown)
                done += 1
                if done % recipe.steps_per_epoch == 0:
                    recipe.modules.eval()
                    scores = dict(recipe.evaluate(step))
                    log.record("epoch", epoch=done // recipe.steps_per_epoch, **scores)
                    log.say(f"epoch {done // recipe.steps_per_epoch}: " + _line(scores))
                if time.monotonic() - saved > 60 * run.save_minutes:
                    save()
                    saved = time.monotonic()
        except KeyboardInterrupt:
            save()
            log.say(f"stopped after step {done} of {total}; the same command goes on from here")
            raise
        save()
        recipe.modules.eval()
        last = Step(total, 1.0, float(run.epochs))
        recipe.export(run.out / "checkpoint", dict(recipe.evaluate(last)))
    return run.out / "checkpoint"


def _dtype(run: RunSettings) -> torch.dtype:
    return resolve_precision(run.precision, resolve_device(run.device))


def _resume(path: Path, parts: Mapping[str, Any], total: int) -> int:
    state = load_state(path)
    if state is None:
        return 0
    if state["total"] != total:
        raise TrainingError(
            f"{path}: a run of {state['total']} steps, and now {total} are asked for; "
            "start with its own settings or give another --out"
        )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["done"])


def _batches(recipe: Recipe, done: int, epochs: int) -> Iterator[tuple[Tensor, ...]]:
    first, skip = divmod(done, recipe.steps_per_epoch)
    for epoch in range(first, epochs):
        yield from recipe.batches(epoch, skip if epoch == first else 0)


def _update(
    loss: Tensor,
    modules: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    clip: float,
) -> None:
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(scaler.scale(loss))
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(modules.parameters(), clip)
    scaler.step(optimizer)
    scaler.update()


def _checked(metrics: Mapping[str, Tensor], step: int, out: Path) -> dict[str, float]:
    values = {name: float(value.detach()) for name, value in metrics.items()}
    if not math.isfinite(values["loss"]):
        raise TrainingError(_diverged(f"the loss is {values['loss']}", step, out))
    return values


def _diverged(what: str, step: int, out: Path) -> str:
    return f"{what} at step {step}: lower --lr or --scale; {out / 'state.pt'} holds the last good state"


def _line(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
