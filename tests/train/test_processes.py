"""Runs of several processes: the same learning curve as one, and taken up by another number of them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import linear_run
import pytest

from facekit.errors import SettingError
from facekit.train import processes
from facekit.train.config import OptimSettings
from facekit.train.loop import fit
from facekit.train.state import saved_step

_SCRIPT = Path(__file__).with_name("linear_run.py")
_STEPS = 21


def _start(world: int, out: Path, *, stop: int = 0, pace: float = 0.0) -> list[subprocess.Popen[bytes]]:
    """The processes of a run, started as ``torchrun`` does."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(world):
        where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
        environment = {**os.environ, **{k: str(v) for k, v in where.items()}, "MASTER_ADDR": "localhost"}
        arguments = [sys.executable, str(_SCRIPT), str(out), str(stop), str(pace)]
        started.append(subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL))
    return started


def _run(world: int, out: Path, **how: float) -> list[int]:
    """Their exit codes."""
    return [process.wait(timeout=120) for process in _start(world, out, **how)]  # type: ignore[arg-type]


def _losses(out: Path) -> dict[int, float]:
    """Mean loss of each epoch; what stands in the log twice must agree."""
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {record["epoch"]: record["loss"] for record in records if record["event"] == "epoch"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    out = tmp_path_factory.mktemp("alone")
    fit(linear_run.build(), linear_run.run(out), OptimSettings())
    losses = _losses(out)
    assert losses[3] < 0.7 * losses[1]
    return losses


@pytest.mark.parametrize(("stop", "then"), [(10, 1), (10, 3), (7, 2)])
def test_two_save_and_others_go_on(stop: int, then: int, alone: dict[int, float], tmp_path: Path) -> None:
    """A state of two processes, in the middle of the second epoch or before it, goes on with one or three.

    The means of the epoch that was interrupted are those of all of its steps.
    """
    assert _run(2, tmp_path, stop=stop) == [130, 130]
    assert [path.name for path in (tmp_path / "state").iterdir()] == [f"{stop:09d}"]
    assert _run(then, tmp_path) == [0] * then
    assert _losses(tmp_path) == pytest.approx(alone, rel=1e-4)
    assert [path.name for path in (tmp_path / "state").iterdir()] == [f"{_STEPS:09d}"]


def test_a_killed_run_loses_the_steps_since_its_last_save_and_no_more(
    alone: dict[int, float], tmp_path: Path
) -> None:
    (process,) = _start(1, tmp_path, pace=0.05)
    try:
        while (saved_step(tmp_path / "state") or 0) < 9:
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"ended with {process.wait(timeout=0.01)} before it was killed")
    finally:
        process.kill()
        process.wait()
    kept = saved_step(tmp_path / "state")
    assert kept is not None
    assert kept < _STEPS
    recipe = linear_run.build()
    begun: list[int] = []
    step = recipe.step
    object.__setattr__(recipe, "step", lambda batch, at: begun.append(at.number) or step(batch, at))
    fit(recipe, linear_run.run(tmp_path), OptimSettings())
    assert begun == list(range(kept, _STEPS))
    assert _losses(tmp_path) == pytest.approx(alone, rel=1e-6)


def test_a_batch_that_cannot_be_shared_evenly_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "world", lambda: 5)
    with pytest.raises(SettingError, match="batch_size=12: give a multiple of the 5"):
        fit(linear_run.build(), linear_run.run(tmp_path), OptimSettings())
