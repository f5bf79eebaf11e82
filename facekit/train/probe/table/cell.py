"""One finished probe: what was tried on what, and its figures, in a file of its own."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from facekit.errors import TrainingError
from facekit.train.probe.examples import TASKS, TaskName
from facekit.train.probe.metrics import Metric
from facekit.wholefile import replacing

__all__ = ["MODES", "Cell", "Key", "Mode", "read_cells", "write_cell"]

Mode = Literal["knn", "linear", "finetune"]
MODES: tuple[Mode, ...] = ("knn", "linear", "finetune")
Key = tuple[str, str, str, str, str, int]
_LARGEST = 1 << 20  # bytes of a file
_NAMED = 100  # characters of its name that people read


@dataclass(frozen=True, slots=True)
class Cell:
    """What one network reached with some labels of one set.

    Attributes:
        method: the network, as tables name it.
        set: the examples, as tables name them.
        task: of the examples.
        mode: how the labels were used.
        labels: how many there were, as tables say it: ``1 %``, ``1627`` ...
        seed: of the choice of the labels and of the head.
        metrics: of the scores, in the order of the columns; the first is the main one.
        scores: on the test split, by the metric's name.
        settings: whatever else it takes to do it again, as JSON values.

    Raises:
        TrainingError: a task or mode that there is not, or metrics and finite scores that do not belong
            together.
    """

    method: str
    set: str
    task: TaskName
    mode: Mode
    labels: str
    seed: int
    metrics: tuple[Metric, ...]
    scores: Mapping[str, float]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise TrainingError(f"task={self.task!r}: there are {', '.join(TASKS)}")
        if self.mode not in MODES:
            raise TrainingError(f"mode={self.mode!r}: there are {', '.join(MODES)}")
        names = [metric.name for metric in self.metrics]
        if not names or set(names) != set(self.scores) or len(set(names)) < len(names):
            raise TrainingError(f"metrics {names} and scores {sorted(self.scores)}: one score for each")
        for name, value in self.scores.items():
            if not math.isfinite(value):
                raise TrainingError(f"{self.method} on {self.set}: {name} is {value}; the probe diverged")

    @property
    def key(self) -> Key:
        """What tells it from others: method, set, task, mode, labels and seed."""
        return (self.method, self.set, self.task, self.mode, self.labels, self.seed)


def write_cell(folder: Path, cell: Cell) -> Path:
    """Write a cell to a file whose name its key fixes, so that it replaces an older one.

    Raises:
        TrainingError: it cannot be written.
    """
    path = folder / _name(cell.key)
    text = json.dumps(asdict(cell), indent=2, allow_nan=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written ({error.strerror or error}); free space and try again"
        ) from error
    return path


def read_cells(folder: Path) -> list[Cell]:
    """All cells of a folder, by the names of their files; none where there is no folder.

    Raises:
        TrainingError: one of the files is not a cell.
    """
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def _read(path: Path) -> Cell:
    try:
        if not path.is_file():
            raise ValueError("no regular file")
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ValueError(f"larger than {_LARGEST:,} bytes")
        return _cell(json.loads(text))
    except (OSError, ValueError, OverflowError, RecursionError, TrainingError) as error:
        raise TrainingError(f"{path}: not a finished probe ({error}); delete it and run again") from error


def _cell(table: Any) -> Cell:
    kinds = {"seed": int, "metrics": list, "scores": dict, "settings": dict}
    names = [field.name for field in fields(Cell)]
    if not isinstance(table, dict) or set(table) != set(names):
        raise ValueError(f"a table of {', '.join(names)} is expected")
    for name in names:
        kind = kinds.get(name, str)
        if type(table[name]) is not kind:
            raise ValueError(f"{name} is no {kind.__name__}")
    metrics = tuple(_metric(metric) for metric in table["metrics"])
    scores = {name: _number(name, value) for name, value in table["scores"].items()}
    return Cell(**{**table, "metrics": metrics, "scores": scores})


def _metric(table: Any) -> Metric:
    kinds = {"name": str, "higher_is_better": bool, "percent": bool}
    if not isinstance(table, dict) or {name: type(value) for name, value in table.items()} != kinds:
        raise ValueError(f"a metric is a table of {', '.join(kinds)}")
    return Metric(**table)


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{name} is no number")
    return float(value)


def _name(key: Key) -> str:
    """A name of a file that people can read, and that no two keys share on any file system."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", "_".join(map(str, key)))[:_NAMED].strip(".-")
    return f"{words}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]}.json"
