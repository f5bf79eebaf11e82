"""A run in its folder: kept from others, its settings beside it; found again where it is finished."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol, TypeVar

from facekit.errors import TrainingError
from facekit.train import processes
from facekit.train.config import OptimSettings, RunSettings
from facekit.train.recipe import Recipe
from facekit.train.settings import changes, to_json
from facekit.wholefile import replacing

__all__ = ["CONFIG", "require_data", "train", "train_once"]

CONFIG = "run.json"
"""The settings of a run, in its folder."""

_DATA = "data.sha256"  # beside them, where runs are compared
_ALIKE = "what is compared has to be alike: give another --out"

_log = logging.getLogger(__name__)


class _Runnable(Protocol):
    @property
    def run(self) -> RunSettings: ...
    @property
    def optim(self) -> OptimSettings: ...


_Settings = TypeVar("_Settings", bound=_Runnable)


def train(name: str, settings: _Settings, build: Callable[[_Settings], Recipe]) -> Path:
    """Run a recipe to its end, from its start or from where it was interrupted; all processes call this.

    Args:
        name: of the recipe.
        settings: of the run, whose folder they name.
        build: settings -> recipe.

    Returns:
        The folder of the finished checkpoint.
    """
    from facekit.train.loop import fit  # here: torch's checkpoints take seconds to import
    from facekit.train.state import claimed, saved_step

    out, first = settings.run.out, processes.rank() == 0
    place: AbstractContextManager[None] = claimed(out) if first else nullcontext()
    with place:
        kept, text = out / CONFIG, to_json(name, settings)
        if kept.exists() and saved_step(out / "state") is not None:
            for line in changes(kept, text):
                _log.info(line)
        recipe = build(settings)
        if first:
            _keep(kept, text)
        return fit(recipe, settings.run, settings.optim)


def train_once(
    name: str, settings: _Settings, build: Callable[[_Settings], Recipe], *, learnt: Callable[[], str]
) -> Path:
    """:func:`train`, for a run that another one needs first: nothing is done where it is finished.

    Args:
        name: of the recipe.
        settings: of the run, whose folder they name.
        build: settings -> recipe.
        learnt: gives a digest of the pictures and labels; the first process alone asks for it, since times of
            files may differ elsewhere.

    Raises:
        TrainingError: it began with other settings or data, so that nothing could be compared with what it
            made.
    """
    from facekit.train.state import saved_step

    out = settings.run.out
    checkpoint, kept = out / "checkpoint", out / CONFIG
    changed = changes(kept, to_json(name, settings)) if kept.is_file() else []
    if changed and saved_step(out / "state") is not None:
        raise TrainingError(f"{out}: {changed[0]}; {_ALIKE}")
    same = require_data(out, learnt)
    finished = (checkpoint / "config.json").is_file() and kept.is_file() and not changed and same
    if processes.highest(int(not finished)):  # all are of one mind, whoever looked first
        _log.info("%s: %s", out, "goes on" if kept.is_file() else "begins")
        return train(name, settings, build)
    _log.info("%s: is finished", out)
    return checkpoint


def require_data(out: Path, learnt: Callable[[], str]) -> bool:
    """Note beside a run what it learns from; all processes call this, for runs that are compared.

    Args:
        out: the run's folder.
        learnt: as for :func:`train_once`.

    Returns:
        Whether nothing else was noted there.

    Raises:
        TrainingError: the run began with other data.
    """
    from facekit.train.state import saved_step

    data, first = out / _DATA, processes.rank() == 0
    digest = learnt() if first else ""
    other = processes.highest(int(first and data.is_file() and data.read_bytes() != digest.encode()))
    if other and saved_step(out / "state") is not None:
        raise TrainingError(
            f"{out}: learnt from other pictures, labels or splits than there are now; {_ALIKE}"
        )
    if first:
        _keep(data, digest)
    return not other


def _keep(file: Path, text: str) -> None:
    """Write the settings beside the run, whole or not at all."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as stream:
            stream.write(text.encode())
    except OSError as error:
        raise TrainingError(f"{file}: cannot be written ({error}); give another --out") from error
