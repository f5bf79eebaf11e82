"""Losses that are no numbers, run away, or stay where knowing nothing leaves them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from facekit.errors import TrainingError
from facekit.train.guard import Guard


def test_no_number_stops_and_says_what_to_lower(tmp_path: Path) -> None:
    for loss in (math.nan, math.inf):
        with pytest.raises(TrainingError, match=r"at step 7: lower --lr, .*no state had been saved"):
            Guard(tmp_path / "state").check({"loss": loss}, 7)
    (tmp_path / "state" / "000000005").mkdir(parents=True)
    with pytest.raises(TrainingError, match="state holds the last good state"):
        Guard(tmp_path / "state").check({"loss": math.nan}, 7)


def test_a_loss_that_runs_away_stops_the_run(tmp_path: Path) -> None:
    guard = Guard(tmp_path)
    for step, loss in enumerate([5.0, 4.0, 11.0, 11.0, 11.0, 11.0, 9.0, 11.0, 11.0, 11.0, 11.0]):
        guard.check({"loss": loss, "chance": 5.0}, step)
    with pytest.raises(TrainingError, match="run away to 11, where knowing nothing costs 5"):
        guard.check({"loss": 11.0, "chance": 5.0}, 11)


def test_a_loss_that_starts_high_by_law_and_falls_is_no_reason_to_stop(tmp_path: Path) -> None:
    """With few dimensions and a high scale, random vectors cost more than knowing nothing."""
    guard = Guard(tmp_path)
    for step in range(100):
        guard.check({"loss": 60.0 - 0.5 * step, "chance": 4.6}, step)


def test_a_run_that_learns_nothing_is_warned_of_once(tmp_path: Path) -> None:
    guard = Guard(tmp_path)
    stuck, learns = {"loss": 35.0, "chance": 36.0}, {"loss": 20.0, "chance": 36.0}
    assert guard.warning(stuck, 0.1) is None
    assert guard.warning(learns, 0.6) is None
    assert "tells nothing apart" in str(guard.warning(stuck, 0.6))
    assert guard.warning(stuck, 0.9) is None
    assert Guard(tmp_path).warning({"loss": 3.0}, 0.9) is None
