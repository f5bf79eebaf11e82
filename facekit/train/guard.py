"""What tells that a run does not learn: a loss that is no number, that runs away, or that stays at chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from facekit.errors import TrainingError

__all__ = ["Guard"]

_RUNAWAY = 2.0  # times the loss of a network that knows nothing, or of this one when it began
_PATIENCE = 5  # looks in a row
_STUCK = 0.95  # of the loss of a network that knows nothing
_GRACE = 0.4  # share of the run in which a network may not have learnt anything yet


class Guard:
    """Watches the metrics of a run.

    Args:
        state: where the run's states are saved, for the messages.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._first: float | None = None
        self._bad = 0
        self._warned = False

    def check(self, metrics: Mapping[str, float], step: int) -> None:
        """Look at a step.

        Args:
            metrics: ``loss``, ``gradient_norm`` if known, and ``chance``, the loss of a network that knows
                nothing, if there is such.
            step: its number.

        Raises:
            TrainingError: the loss is no longer a number, or has run away.
        """
        loss = metrics["loss"]
        if not math.isfinite(loss):
            raise TrainingError(self.diverged(f"the loss is {loss}", step))
        chance = metrics.get("chance", 0.0)
        if chance <= 0:
            return
        ratio = loss / chance
        self._first = ratio if self._first is None else self._first
        self._bad = self._bad + 1 if ratio > _RUNAWAY * max(1.0, self._first) else 0
        if self._bad == _PATIENCE:
            what = f"the loss has run away to {loss:.3g}, where knowing nothing costs {chance:.3g},"
            raise TrainingError(self.diverged(what, step))

    def warning(self, means: Mapping[str, float], progress: float) -> str | None:
        """What to say after an epoch, once a run, where nothing has been learnt.

        Args:
            means: of the metrics, over the epoch.
            progress: share of the run that is done.
        """
        chance = means.get("chance", 0.0)
        if self._warned or chance <= 0 or progress < _GRACE or means["loss"] < _STUCK * chance:
            return None
        self._warned = True
        return (
            f"the loss, {means['loss']:.3g}, is that of a network that tells nothing apart ({chance:.3g}): "
            "lower --lr; with a margin, lower it or start with the progressive one, and look at the labels"
        )

    def diverged(self, what: str, step: int) -> str:
        """The message for a run that cannot go on."""
        kept = (
            f"{self._state} holds the last good state"
            if self._state.is_dir() and any(self._state.iterdir())
            else "no state had been saved yet"
        )
        return f"{what} at step {step}: lower --lr, and with a margin also --scale or --margin; {kept}"
