"""How a probe learns in steps, and that validation alone says when it was best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import torch
from torch import Tensor

from facekit.errors import EvaluationError, TrainingError
from facekit.train.probe.progress import progress
from facekit.train.probe.tasks import Task
from facekit.train.recipe import Recipe, Scores, Step
from facekit.train.update import Update

__all__ = ["Fitted", "Look", "Plan", "judged", "learn", "mirrored_targets", "not_exported"]

_CLIP = 5.0  # largest norm of the gradient, as in other runs


@dataclass(frozen=True, slots=True)
class Look:
    """What was found on the way.

    Attributes:
        at: the step, or the weight decay, after which the validation pictures were looked at.
        loss: mean over the training pictures since the last look.
        score: of the task's first metric; higher is better, so that errors are negative.
    """

    at: float
    loss: float
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What labels have made of a network.

    Attributes:
        outputs: rows (k,) int64 of the set -> outputs (k, ...) of the head, on the CPU.
        looks: in their order.
        best: the look that was chosen.
    """

    outputs: Callable[[Tensor], Tensor]
    looks: tuple[Look, ...]
    best: Look


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and on what a probe learns.

    Attributes:
        steps: all of them.
        looks: at the validation pictures, evenly over the steps; the last one is after the last step.
        seed: of what is random in the steps.
        device: where.
        dtype: of the network under autocast.
    """

    steps: int
    looks: int
    seed: int
    device: torch.device
    dtype: torch.dtype


def learn(recipe: Recipe, plan: Plan) -> tuple[Look, ...]:
    """Take the steps; leave the modules, in eval mode, as they were at the best look, the first of equals.

    Args:
        recipe: its ``evaluate`` gives ``"score"``, of which more is better.
        plan: how long.

    Raises:
        TrainingError: the loss is no longer a number, or memory is too small.
    """
    recipe.modules.to(plan.device)
    optimizer = torch.optim.AdamW(recipe.groups, fused=plan.device.type in ("cpu", "cuda"))
    highest = [group["lr"] for group in optimizer.param_groups]
    update = Update(
        recipe,
        optimizer,
        device=plan.device,
        dtype=plan.dtype,
        clip=_CLIP,
        micro_batch=None,
        seed=plan.seed,
    )
    due = {math.ceil(plan.steps * turn / plan.looks) for turn in range(1, plan.looks + 1)}
    looks: list[Look] = []
    best: dict[str, Tensor] = {}
    losses: list[Tensor] = []
    with progress("learning", plan.steps, "steps") as bar:
        for number, batch in enumerate(islice(_batches(recipe), plan.steps)):
            at = Step(number, number / plan.steps, number / recipe.steps_per_epoch)
            for group, lr in zip(optimizer.param_groups, highest, strict=True):
                group["lr"] = lr * recipe.lr_factor(at)
            recipe.modules.train()
            losses.append(torch.as_tensor(update(batch, at)["loss"]))
            bar.update()
            if number + 1 not in due:
                continue
            looks.append(_look(recipe, at, losses))
            losses = []
            if looks[-1].score > max((look.score for look in looks[:-1]), default=-math.inf) or not best:
                best = {name: value.clone() for name, value in recipe.modules.state_dict().items()}
    recipe.modules.load_state_dict(best)
    recipe.modules.eval()
    return tuple(looks)


def _batches(recipe: Recipe) -> Iterator[tuple[Tensor, ...]]:
    for epoch in count():
        yield from recipe.batches(epoch, 0)


def _look(recipe: Recipe, at: Step, losses: list[Tensor]) -> Look:
    loss = float(torch.stack(losses).mean())
    if not math.isfinite(loss):
        raise TrainingError(f"the loss is {loss} at step {at.number}; give a lower learning rate")
    recipe.modules.eval()
    return Look(at.number + 1, loss, recipe.evaluate(at).values["score"])


def judged(task: Task, outputs: Tensor, rows: Tensor) -> Scores:
    """The ``score`` by which models are chosen: the task's first metric, so turned that more is better.

    Args:
        task: which scores.
        outputs: of its head.
        rows: (k,) int64, whose they are.

    Raises:
        EvaluationError: the validation pictures hold nothing that can be scored.
    """
    metric = task.metrics[0]
    try:
        value = task.scores(outputs, rows)[metric.name]
    except EvaluationError as error:
        raise EvaluationError(
            f"{len(rows)} validation pictures, by which models are chosen: {error}"
        ) from error
    value = value if metric.higher_is_better else -value
    return Scores({"score": value if math.isfinite(value) else -math.inf})


def mirrored_targets(task: Task, targets: Tensor) -> Tensor | None:
    """The targets of mirrored pictures; None where nobody can tell them."""
    mirrored = task.mirrored(targets)
    return None if int(mirrored.isnan().sum()) > int(targets.isnan().sum()) else mirrored


def not_exported(folder: Path, scores: Scores) -> None:
    """A probe's network is measured and forgotten; only its scores are kept."""
