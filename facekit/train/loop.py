"""fit(): the only training loop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facekit.embed import resolve_device, resolve_precision
from facekit.errors import MissingExtraError, SettingError, TrainingError
from facekit.train import processes
from facekit.train.config import OptimSettings, RunSettings
from facekit.train.guard import Guard
from facekit.train.log import RunLog
from facekit.train.optim import build_optimizer
from facekit.train.page import write_page
from facekit.train.recipe import Recipe, Scores, Step
from facekit.train.state import load_state, saved_step, write_state
from facekit.train.update import Update

__all__ = ["fit"]

_LOG_EVERY = 20  # steps; reading metrics synchronises the device
_ON_THE_BAR = ("loss", "target_cosine", "uniformity")
_GO_ON, _SAVE, _STOP = range(3)


def fit(recipe: Recipe, run: RunSettings, optim: OptimSettings) -> Path:
    """Train a recipe to its end, from the start or from where ``run.out`` was interrupted.

    The order of the pictures and every random draw depend on the seed, the step and the process alone, so
    an interrupted run takes the same path as one that was not. Under ``torchrun`` each process calls this.

    Returns:
        The folder of the finished checkpoint.

    Raises:
        TrainingError: the loss is no longer a number, or has run away; the last good state is kept.
        KeyboardInterrupt: it was asked to stop, and has saved its state; or has just come to its end, which
            need not be that of the work.
    """
    device = resolve_device(run.device)
    if run.batch_size % processes.world() or run.batch_size < 2 * processes.world():
        raise SettingError(
            f"batch_size={run.batch_size}: give a multiple of the {processes.world()} processes, "
            "at least two pictures for each"
        )
    trainee = _Trainee(recipe, run, optim, device)
    total = run.epochs * recipe.steps_per_epoch
    done = trainee.resume()
    first = processes.rank() == 0
    with (
        RunLog(run.out if first else None, total=total, done=done, images_per_step=run.batch_size) as log,
        _stop_asked() as stop_asked,
    ):
        for note in recipe.notes:
            log.say(note)
        scores = _train(trainee, done, log, stop_asked)
        if first:
            recipe.modules.eval()
            if scores is None:  # all steps were done before
                scores = recipe.evaluate(Step(total, 1.0, float(run.epochs)))
            recipe.export(run.out / "checkpoint", scores)
            try:
                write_page(run.out)
            except MissingExtraError as error:
                log.say(f"{error}; the run is complete without it")
        if processes.highest(int(stop_asked.is_set())):  # all wait here for the first
            log.say("stopped; this run is complete")
            raise KeyboardInterrupt
    return run.out / "checkpoint"


def _train(trainee: _Trainee, done: int, log: RunLog, stop_asked: threading.Event) -> Scores | None:
    """The steps that are left; the last scores, where there was a step to do."""
    recipe, run = trainee.recipe, trainee.run
    total, saved = trainee.total, time.monotonic()
    means, scores = trainee.means, None
    for batch in _batches(recipe, done, run.epochs):
        at = Step(done, done / total, done / recipe.steps_per_epoch)
        metrics = trainee.step(batch, at)
        means.add(metrics)
        read = done % _LOG_EVERY == 0
        shown = {name: float(value) for name, value in metrics.items()} if read else {}
        if read or trainee.device.type == "cpu":
            trainee.guard.check({"loss": float(metrics["loss"]), **shown}, done)
        if read:
            log.record("step", step=done, **shown, **trainee.learning_rates(), **log.pace())
        for line in trainee.news():
            log.say(line)
        log.advance({name: shown[name] for name in _ON_THE_BAR if name in shown})
        done += 1
        if done % recipe.steps_per_epoch == 0:
            scores = _epoch_ends(trainee, done, log)
            means.clear()
        due = processes.rank() == 0 and time.monotonic() - saved > 60 * run.save_minutes
        what = processes.highest(_STOP if stop_asked.is_set() else _SAVE if due else _GO_ON)
        if what != _GO_ON or done == total:
            trainee.save(done)
            saved = time.monotonic()
        if what == _STOP and done < total:
            log.say(f"stopped after step {done} of {total}; the same command goes on from here")
            raise KeyboardInterrupt
    return scores


def _epoch_ends(trainee: _Trainee, done: int, log: RunLog) -> Scores:
    recipe = trainee.recipe
    epoch, progress = done // recipe.steps_per_epoch, done / trainee.total
    trainee.agree()
    recipe.modules.eval()
    scores = Scores({})
    if processes.rank() == 0:
        scores = recipe.evaluate(Step(done, progress, float(epoch)))
    averages = trainee.means.values()
    log.record("epoch", epoch=epoch, step=done, **averages, **scores.values)
    if scores.genuine:
        log.record("scores", epoch=epoch, genuine=scores.genuine, impostor=scores.impostor)
    log.say(f"epoch {epoch}: " + _line({**averages, **scores.values}))
    warning = trainee.guard.warning(averages, progress)
    if warning:
        log.say(f"warning: {warning}")
    return scores


class _Trainee:
    """All that a run has in memory, and saves."""

    def __init__(self, recipe: Recipe, run: RunSettings, optim: OptimSettings, device: torch.device) -> None:
        self.recipe, self.run, self.device = recipe, run, device
        self.total = run.epochs * recipe.steps_per_epoch
        self.guard = Guard(run.out / "state")
        self.means = _Means()
        recipe.modules.to(device)
        processes.same([t for name, t in recipe.modules.state_dict().items() if name not in recipe.sharded])
        self._optimizer = build_optimizer(optim.optimizer, recipe.groups, device)
        self._is_lars = optim.optimizer == "lars"
        self._highest = [group["lr"] for group in self._optimizer.param_groups]
        self._update = Update(
            recipe,
            self._optimizer,
            device=device,
            dtype=resolve_precision(run.precision, device),
            clip=optim.clip,
            micro_batch=run.micro_batch,
            seed=run.seed,
        )

    def step(self, batch: tuple[Tensor, ...], at: Step) -> dict[str, Any]:
        """One step, at its learning rates."""
        factor = self.recipe.lr_factor(at)
        for group, lr in zip(self._optimizer.param_groups, self._highest, strict=True):
            group["lr"] = lr * factor
        self.recipe.modules.train()
        return self._update(batch, at)

    def learning_rates(self) -> dict[str, float]:
        """Of each group, by name."""
        return {f"lr/{group['name']}": group["lr"] for group in self._optimizer.param_groups}

    def news(self) -> list[str]:
        """What happened in the last step that people should know."""
        said, self._update.said = self._update.said, []
        return said

    def agree(self) -> None:
        """Batch norms have seen other pictures in each process: go on with their mean."""
        processes.average([buffer for buffer in self.recipe.modules.buffers() if buffer.is_floating_point()])

    def save(self, done: int) -> None:
        """Save the state after ``done`` steps."""
        good = all(bool(parameter.isfinite().all()) for parameter in self.recipe.modules.parameters())
        if processes.highest(int(not good)):
            raise TrainingError(self.guard.diverged("a weight is no longer a number", done))
        self.agree()
        tensors = {**self._known(), **self.means.saved()}
        for name, parameter in self.recipe.modules.named_parameters():
            for what, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"modules.{name}@{what}"] = torch.as_tensor(value)
        write_state(self.run.out / "state", done, tensors, sharded=self._sharded())

    def resume(self) -> int:
        """Take up the newest state of the run's folder; the number of steps that it had done."""
        self.run.out.mkdir(parents=True, exist_ok=True)
        folder = self.run.out / "state"
        done = saved_step(folder)
        if done is None:
            return 0
        known = self._known()
        tensors = load_state(folder, done, known, sharded=self._sharded())
        total = int(tensors["run.total"])
        if total != self.total:
            raise TrainingError(
                f"{folder}: of a run of {total} steps, and now {self.total} are asked for; "
                "start with its own settings or give another --out"
            )
        self.means.restore(_of("run.means@", tensors), int(tensors["run.means"]))
        places = {id(parameter): name for name, parameter in self.recipe.modules.named_parameters()}
        state = self._optimizer.state_dict()
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        found = [_of(f"modules.{places[id(parameter)]}@", tensors) for parameter in parameters]
        if any(values and ("momentum" in values) != self._is_lars for values in found):
            raise TrainingError(
                f"{folder}: of a run with another optimizer; "
                "start with its own settings or give another --out"
            )
        state["state"] = {number: values for number, values in enumerate(found) if values}
        self._optimizer.load_state_dict(state)
        if self._update.scaler.is_enabled():
            scale, growth = tensors["run.scaler"].tolist()
            fresh = self._update.scaler.state_dict()
            self._update.scaler.load_state_dict({**fresh, "scale": scale, "_growth_tracker": int(growth)})
        return done

    def _known(self) -> dict[str, Tensor]:
        scaler = self._update.scaler.state_dict()
        return {
            **{f"modules.{name}": tensor for name, tensor in self.recipe.modules.state_dict().items()},
            "run.total": torch.tensor(self.total),
            "run.means": torch.tensor(self.means.count),
            "run.scaler": torch.tensor([scaler.get("scale", 1.0), scaler.get("_growth_tracker", 0)]),
        }

    def _sharded(self) -> dict[str, int]:
        return {f"modules.{name}": rows for name, rows in self.recipe.sharded.items()}


class _Means:
    """Means of metrics since the epoch began, summed where the metrics are."""

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}
        self.count = 0

    def add(self, metrics: Mapping[str, Any]) -> None:
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self.count += 1

    def values(self) -> dict[str, float]:
        """Over the steps, and over all processes."""
        return {name: value / self.count for name, value in self._together().items()}

    def clear(self) -> None:
        """Begin anew."""
        self._sums, self.count = {}, 0

    def saved(self) -> dict[str, Tensor]:
        """What :meth:`restore` goes on from, in any number of processes, beside the count."""
        sums = self._together().items()
        return {f"run.means@{name}": torch.tensor(value, dtype=torch.float64) for name, value in sums}

    def restore(self, sums: Mapping[str, Tensor], count: int) -> None:
        self._sums, self.count = {name: float(value) for name, value in sums.items()}, count

    def _together(self) -> dict[str, float]:
        """The sums, as the mean of what the processes have."""
        sums = torch.tensor([float(value) for value in self._sums.values()], dtype=torch.float64)
        processes.average([sums])
        return dict(zip(self._sums, sums.tolist(), strict=True))


def _of(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _batches(recipe: Recipe, done: int, epochs: int) -> Iterator[tuple[Tensor, ...]]:
    first, skip = divmod(done, recipe.steps_per_epoch)
    for epoch in range(first, epochs):
        yield from recipe.batches(epoch, skip if epoch == first else 0)


@contextmanager
def _stop_asked() -> Iterator[threading.Event]:
    """Set by Ctrl-C and by the end of a cluster's slot, so that the step in progress is finished first.

    A second Ctrl-C stops at once.
    """
    asked = threading.Event()

    def ask(number: int, frame: Any) -> None:
        if asked.is_set() and number == signal.SIGINT and processes.world() == 1:
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield asked
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _line(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
