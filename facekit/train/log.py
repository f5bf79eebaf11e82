"""What a run says while it runs: a progress bar; JSON lines and TensorBoard scalars to look at it later."""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from facekit.errors import MissingExtraError, TrainingError
from facekit.wholefile import replacing

__all__ = ["RunLog", "read_log"]

_BAR = "{desc} {percentage:3.0f}%|{bar}| {rate_fmt}, {remaining} left{postfix}"
_LONGEST = 1 << 20  # bytes of a line; a longer one is no line of ours


class RunLog:
    """Progress bar on stderr, and ``log.jsonl`` and ``tensorboard/`` in the run's folder.

    A run that is resumed appends. What the steps from ``done`` on had written before the interruption is
    dropped, as they are done again.

    Args:
        folder: the run's folder; None for a log that says and writes nothing, as all processes but the
            first of a run have it.
        total: steps of the whole run.
        done: steps done before this start.
        images_per_step: of all processes together.

    Raises:
        TrainingError: the log cannot be written.
    """

    def __init__(self, folder: Path | None, *, total: int, done: int, images_per_step: int) -> None:
        self._folder, self._total, self._done, self._images = folder, total, done, images_per_step
        self._file = self._board = None
        if folder is not None:
            with _writing(folder):
                _rewind(folder / "log.jsonl", done)
                self._file = (folder / "log.jsonl").open("a", encoding="utf-8")
        self._bar = tqdm(
            total=total * images_per_step,
            initial=done * images_per_step,
            desc=f"step {done}/{total}",
            unit=" images",
            bar_format=_BAR,
            smoothing=0.1,
            mininterval=2.0,
            dynamic_ncols=True,
            file=sys.stderr,
            disable=folder is None,
        )
        if folder is not None:
            try:
                self._board = _board(folder / "tensorboard", done)
            except MissingExtraError as error:
                self.say(f"{error}; training goes on without them")

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()
        if self._file is not None:
            self._file.close()

    def advance(self, metrics: Mapping[str, float]) -> None:
        """One step is done; ``metrics``, where there are any, take the place of those on the bar."""
        self._done += 1
        self._bar.set_description_str(f"step {self._done}/{self._total}", refresh=False)
        if metrics:
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()}, refresh=False)
        self._bar.update(self._images)

    def pace(self) -> dict[str, float]:
        """``images_per_second``, of the last steps; nothing before there is such."""
        rate = None if self._folder is None else self._bar.format_dict["rate"]
        return {"images_per_second": round(rate, 1)} if rate else {}

    def record(self, event: str, **values: float | str | Sequence[float]) -> None:
        """Append one line to ``log.jsonl``, and its numbers to TensorBoard as ``<event>/<name>``.

        Args:
            event: ``"step"``, or what came of the steps so far: ``"epoch"``, ``"scores"``.
            values: ``step`` is how many were done, before this one where the event is a step. What is not
                finite becomes null in the line.

        Raises:
            TrainingError: the line cannot be written.
        """
        if self._folder is None or self._file is None:
            return
        record = {"event": event, "time": round(time.time(), 1), **values}
        with _writing(self._folder):
            self._file.write(_line(record))
            self._file.flush()
        end = _end(record)
        if self._board is not None and end is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)) and name not in ("step", "epoch"):
                    self._board.add_scalar(f"{event}/{name}", value, end - 1)

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        if self._folder is not None:
            self._bar.write(text, file=sys.stderr)


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a ``log.jsonl``, one at a time; lines that were half written are left out."""
    with path.open("rb") as file:
        while line := file.readline(_LONGEST):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict) and "event" in record:
                yield record


def _rewind(path: Path, done: int) -> None:
    """Cut the log before the first record that speaks of a step which is not done yet."""
    if not path.exists():
        return
    with replacing(path) as file:
        for record in read_log(path) if done else ():
            end = _end(record)
            if end is not None and end > done:
                break
            file.write(_line(record).encode())


def _end(record: Mapping[str, Any]) -> int | None:
    """How many steps were done after the last one that a record speaks of; None: as the one before it."""
    step = record.get("step")
    return step + (record["event"] == "step") if isinstance(step, int) else None


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(_finite(record), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """NaN and the infinities are not JSON: null stands for them."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _board(folder: Path, done: int) -> Any:
    """TensorBoard's writer; it hides what the steps from ``done`` on wrote earlier."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own imports; nothing that the user can mend
            from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "train", "Writing TensorBoard scalars") from error
    writer: Any = SummaryWriter
    return writer(str(folder), purge_step=done, flush_secs=30)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{folder / 'log.jsonl'}: cannot be written ({error}); free space and start again"
        ) from error
