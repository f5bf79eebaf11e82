"""A head on a frozen network: what its features say as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from facekit.train.config import require
from facekit.train.data import shuffled_rows
from facekit.train.optim import cosine, decay_groups
from facekit.train.probe.examples import VALIDATION
from facekit.train.probe.features import Features
from facekit.train.probe.fitting import Fitted, Look, Plan, judged, learn, mirrored_targets, not_exported
from facekit.train.probe.tasks import Task
from facekit.train.recipe import Recipe, Scores, Step

__all__ = ["LinearSettings", "fit_head"]

_ITERATIONS = 60  # of L-BFGS for each weight decay; each starts from the one before
_WORSE = 2  # weight decays in a row, after which weaker ones are not tried
_BATCH, _LOOKS = 128, 10  # of heads that are not linear
_DECAY = 1e-2  # of their weights
_AT_ONCE = 1024  # pictures through a head without gradients


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSettings:
    """How a head learns on a frozen network."""

    decays: tuple[float, ...] = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)
    """Strengths of weight decay that a linear head is fitted with; the validation pictures choose."""
    head_steps: int = 2000
    """Steps of heads that are not linear: those of identities and of points on maps."""
    head_lr: float = 1e-3
    """Highest learning rate of those."""

    def __post_init__(self) -> None:
        valid = bool(self.decays) and all(0 <= decay < math.inf for decay in self.decays)
        require(valid, "decays", self.decays, "give one or several numbers, 0 or more")
        require(self.head_steps > 0, "head_steps", self.head_steps, "give 1 or more")
        require(0 < self.head_lr < math.inf, "head_lr", self.head_lr, "give a number above 0")


def fit_head(features: Features, task: Task, rows: Tensor, settings: LinearSettings, *, seed: int) -> Fitted:
    """Fit a task's head to a frozen network's features of pictures and their mirror images.

    Each feature is brought to mean 0 and variance 1 over the training pictures. A linear head is fitted to
    all pictures at once, by L-BFGS, and so does not depend on a seed; another one learns in steps.

    Args:
        features: of the set.
        task: of the set.
        rows: (k,) int64, whose labels are used.
        settings: how.
        seed: of the head and of the steps.
    """
    backbone, device = features.backbone, features.backbone.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = task.head(backbone.channels(features.sees), backbone.size).to(device)
    scale = _Standard(features.of(rows)).to(device)
    modules = nn.ModuleDict({"scale": scale, "head": head})

    def outputs(wanted: Tensor) -> Tensor:
        return _outputs(modules, features.of(wanted))

    judges = features.examples.rows(VALIDATION)
    pictures, targets = _both(features, task, rows)

    def judge() -> Scores:
        return judged(task, outputs(judges), judges)

    if isinstance(head, nn.Linear):
        looks, best = _sweep(head, scale(pictures.to(device)), targets.to(device), task, settings, judge)
    else:
        plan = Plan(settings.head_steps, _LOOKS, seed, device, torch.float32)
        looks = learn(_recipe(modules, pictures, targets, task, settings, seed, judge), plan)
        best = max(looks, key=lambda look: look.score)
    return Fitted(outputs, looks, best)


class _Standard(nn.Module):
    """Features at mean 0 and variance 1, each channel by itself; what never varies stays 0."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        over = [axis for axis in range(features.ndim) if axis != 1]
        variance, mean = torch.var_mean(features.float(), over, correction=0, keepdim=True)
        deviation = variance.sqrt()
        varies = deviation > 1e-5 * mean.abs()  # else it is rounding
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", torch.where(varies, deviation, 1.0))

    def forward(self, features: Tensor) -> Tensor:
        return (features.float() - self.mean) / self.deviation


def _both(features: Features, task: Task, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Features and targets of the pictures, then those of their mirror images, if these can be told."""
    targets = features.examples.targets[rows]
    mirrored = mirrored_targets(task, targets)
    if mirrored is None:
        return features.of(rows), targets
    reflected = features.of(rows, mirrored=True)
    return torch.cat([features.of(rows), reflected]), torch.cat([targets, mirrored])


@torch.no_grad()
def _outputs(modules: nn.ModuleDict, features: Tensor) -> Tensor:
    modules.eval()
    device = next(modules.parameters()).device
    parts = torch.split(features, _AT_ONCE)
    return torch.cat([modules["head"](modules["scale"](part.to(device))).float().cpu() for part in parts])


def _sweep(
    head: nn.Linear,
    features: Tensor,
    targets: Tensor,
    task: Task,
    settings: LinearSettings,
    judge: Callable[[], Scores],
) -> tuple[tuple[Look, ...], Look]:
    """Fit with ever weaker weight decay; the head is left as it was at the best."""
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    looks: list[Look] = []
    best, state = 0, head.state_dict()
    for decay in sorted(settings.decays, reverse=True):
        loss = _minimise(head, lambda: task.loss(head(features), targets), decay)
        looks.append(Look(decay, loss, judge().values["score"]))
        if len(looks) == 1 or looks[-1].score > looks[best].score:
            best, state = len(looks) - 1, {name: value.clone() for name, value in head.state_dict().items()}
        if len(looks) - 1 - best >= _WORSE:
            break
    head.load_state_dict(state)
    return tuple(looks), looks[best]


def _minimise(head: nn.Linear, loss: Callable[[], Tensor], decay: float) -> float:
    """Let the head minimise the loss and ``decay / 2`` times its squared weights; the loss that is left."""
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=_ITERATIONS, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss() + decay / 2 * head.weight.square().sum()
        torch.autograd.backward(value)
        return value

    minimise: Any = optimizer.step  # which torch leaves without types
    minimise(closure)
    with torch.no_grad():
        return float(loss())


def _recipe(
    modules: nn.ModuleDict,
    features: Tensor,
    targets: Tensor,
    task: Task,
    settings: LinearSettings,
    seed: int,
    judge: Callable[[], Scores],
) -> Recipe:
    """A head that is not linear, learnt in steps."""
    batch = min(_BATCH, len(features))

    def batches(epoch: int, skip: int) -> Iterator[tuple[Tensor, ...]]:
        for places in shuffled_rows(len(features), batch, seed=seed, epoch=epoch)[skip:]:
            yield features[places], targets[places]

    def step(part: tuple[Tensor, ...], at: Step) -> dict[str, Tensor | float]:
        seen, wanted = part
        return {"loss": task.loss(modules["head"](modules["scale"](seen)), wanted)}

    return Recipe(
        modules=modules,
        groups=decay_groups("head", modules.parameters(), lr=settings.head_lr, weight_decay=_DECAY),
        steps_per_epoch=len(features) // batch,
        batches=batches,
        lr_factor=lambda at: cosine(at.progress),
        step=step,
        evaluate=lambda at: judge(),
        export=not_exported,
    )
