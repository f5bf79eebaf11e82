"""Runs of several processes: the same learning curve as one, and taken up by another number of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import linear_run
import pytest
from PIL import Image
from side_by_side import environments, exit_codes, started

from facekit.errors import SettingError
from facekit.train import processes
from facekit.train.config import OptimSettings
from facekit.train.loop import fit
from facekit.train.state import saved_step

_STEPS = 21


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


@pytest.mark.parametrize(
    ("stop", "then"),
    [(10, 1), pytest.param(10, 3, marks=pytest.mark.slow), pytest.param(7, 2, marks=pytest.mark.slow)],
)
def test_two_save_and_others_go_on(stop: int, then: int, alone: dict[int, float], tmp_path: Path) -> None:
    """A state of two processes, in the middle of the second epoch or before it, goes on with one or three.

    The means of the epoch that was interrupted are those of all of its steps.
    """
    assert exit_codes(2, linear_run.main, tmp_path, stop) == [130, 130]
    assert [path.name for path in (tmp_path / "state").iterdir()] == [f"{stop:09d}"]
    if then == 1:
        fit(linear_run.build(), linear_run.run(tmp_path), OptimSettings())  # to start another takes seconds
    else:
        assert exit_codes(then, linear_run.main, tmp_path) == [0] * then
    assert _losses(tmp_path) == pytest.approx(alone, rel=1e-4)
    assert [path.name for path in (tmp_path / "state").iterdir()] == [f"{_STEPS:09d}"]


def test_a_killed_run_loses_the_steps_since_its_last_save_and_no_more(
    alone: dict[int, float], tmp_path: Path
) -> None:
    (process,) = started(1, linear_run.main, tmp_path, 0, 0.05)
    try:
        while (saved_step(tmp_path / "state") or 0) < 9:
            process.join(timeout=0.01)
            assert process.is_alive(), f"ended with {process.exitcode} before it was killed"
    finally:
        process.kill()
        process.join()
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


@pytest.mark.slow
def test_what_one_process_says_is_not_buried_under_the_traces_of_those_that_waited_for_it(
    tmp_path: Path,
) -> None:
    """The first cannot write the run's settings; the second finds out when it wants its weights."""
    for person in ("a", "b", "c"):
        (tmp_path / person).mkdir()
        for number in range(2):
            Image.new("RGB", (24, 24), (80 * number, 9, 9)).save(tmp_path / person / f"{number}.png")
    (tmp_path / "file").write_bytes(b"")
    flags = f"--data {tmp_path} --out {tmp_path / 'file'} --batch-size 4 --size 16 --device cpu"
    program = ["-m", "facekit.train", "convrec", "--architecture", "faceresnet", *flags.split()]
    both = [
        subprocess.Popen(
            [sys.executable, *program], env={**os.environ, **where}, stderr=subprocess.PIPE, text=True
        )
        for where in environments(2)
    ]
    said, echo = (process.communicate(timeout=120)[1] for process in both)
    assert [process.returncode for process in both] == [2, 2]
    assert f"error: {tmp_path / 'file'}: cannot be made" in said
    assert echo.splitlines()[-1] == "error: process 1: another one of the run ended, and says why"
    assert "Traceback" not in said + echo


def test_a_batch_that_cannot_be_shared_evenly_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "world", lambda: 5)
    with pytest.raises(SettingError, match="batch_size=12: give a multiple of the 5"):
        fit(linear_run.build(), linear_run.run(tmp_path), OptimSettings())
