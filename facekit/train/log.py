"""What a run says while it runs: a progress bar for people, JSON lines for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

__all__ = ["RunLog"]


class RunLog:
    """Progress bar on stderr and ``log.jsonl`` in the run's folder (appended to by a resumed run).

    Args:
        folder: the run's folder.
        total: steps of the whole run.
        done: steps done before this start.
    """

    def __init__(self, folder: Path, *, total: int, done: int) -> None:
        self._file = (folder / "log.jsonl").open("a", encoding="utf-8")
        self._bar = tqdm(
            total=total, initial=done, unit="step", mininterval=2.0, dynamic_ncols=True, file=sys.stderr
        )

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._file.close()

    def advance(self, metrics: Mapping[str, float]) -> None:
        """One step is done."""
        if metrics:
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()}, refresh=False)
        self._bar.update()

    def record(self, event: str, **values: float | int | str) -> None:
        """Append one line to ``log.jsonl``."""
        line = {"event": event, "time": round(time.time(), 1), **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        self._bar.write(text, file=sys.stderr)
