"""Which similarity is asked for: threshold beats far beats the checkpoint's default."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from facekit.checkpoint import Calibration, ModelConfig
from facekit.errors import CalibrationError, SettingError
from facekit.threshold import Threshold, choose_threshold

TABLE = Calibration("pairs", 1000, 1000, {1e-1: 0.2, 1e-2: 0.3, 1e-3: 0.4})
CONFIG = ModelConfig(
    "faceresnet", 8, 112, "rgb", (0, 0, 0), (1, 1, 1), threshold=0.35, calibration=TABLE, fingerprint="net-1"
)


def test_precedence() -> None:
    assert choose_threshold(CONFIG, threshold=0.3, far=1e-3) == Threshold(0.3, 1e-2)
    assert choose_threshold(CONFIG, far=1e-3) == Threshold(0.4, 1e-3)
    assert choose_threshold(CONFIG).similarity == 0.35
    assert choose_threshold(CONFIG).far == pytest.approx(10**-2.5)


def test_a_similarity_outside_the_table_stands_for_no_measured_rate() -> None:
    assert choose_threshold(CONFIG, threshold=0.9) == Threshold(0.9, None)
    assert choose_threshold(CONFIG, threshold=-1) == Threshold(-1.0, None)


def test_without_calibration() -> None:
    bare = replace(CONFIG, calibration=None)
    assert choose_threshold(bare) == Threshold(0.35, None)
    assert choose_threshold(bare, threshold=0.5) == Threshold(0.5, None)
    with pytest.raises(CalibrationError, match="far: net-1 has no calibration; give threshold="):
        choose_threshold(bare, far=1e-3)
    with pytest.raises(CalibrationError, match=r"threshold: net-1 has no default.* give threshold="):
        choose_threshold(replace(bare, threshold=None))


def test_a_rate_that_was_not_measured() -> None:
    with pytest.raises(CalibrationError, match="1e-06 was not measured"):
        choose_threshold(CONFIG, far=1e-6)


@pytest.mark.parametrize("wrong", [1.5, -1.01, math.nan, math.inf, True, "0.5", [0.5]])
def test_what_is_no_similarity(wrong: Any) -> None:
    with pytest.raises(SettingError, match=r"threshold: .* between -1 and 1"):
        choose_threshold(CONFIG, threshold=wrong)


@pytest.mark.parametrize("wrong", ["1e-3", math.nan, -1, 2, True])
def test_what_is_no_rate(wrong: Any) -> None:
    with pytest.raises(SettingError, match=r"far: .* is not a rate; give a number between 0 and 1"):
        choose_threshold(CONFIG, far=wrong)


def test_numbers_of_numpy_are_numbers() -> None:
    assert type(choose_threshold(CONFIG, threshold=np.float32(0.5)).similarity) is float
