"""Pseudo-labels against a loop, and their weight against the paper's equation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facekit.train.losses.pseudo import NOT_SURE, ramp_up, sure_attributes, sure_classes

numbers = st.floats(-12, 12, width=32)
thresholds = st.floats(0.5, 0.999)


@given(st.lists(numbers, min_size=6, max_size=6), thresholds)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_attributes_one_by_one(logits: list[float], threshold: float) -> None:
    found = sure_attributes(torch.tensor(logits).view(2, 3), threshold).flatten().tolist()
    for logit, label in zip(logits, found, strict=True):
        chance = 1 / (1 + math.exp(-logit))
        if abs(max(chance, 1 - chance) - threshold) < 1e-5:
            continue
        sure = max(chance, 1 - chance) >= threshold
        assert label == ((chance >= 0.5) if sure else NOT_SURE)


@given(st.lists(numbers, min_size=12, max_size=12), thresholds)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_classes_by_the_highest(logits: list[float], threshold: float) -> None:
    found = sure_classes(torch.tensor(logits).view(3, 4), threshold).tolist()
    for row, label in enumerate(found):
        powers = [math.exp(value) for value in logits[4 * row : 4 * row + 4]]
        highest = max(powers) / sum(powers)
        if abs(highest - threshold) < 1e-5:
            continue
        assert label == (powers.index(max(powers)) if highest >= threshold else NOT_SURE)


def test_half_precision_is_compared_in_full() -> None:
    logits = torch.tensor([[2.9], [3.0]], dtype=torch.bfloat16)
    assert sure_attributes(logits, 0.95).tolist() == [[NOT_SURE], [1]]
    assert sure_attributes(-logits, 0.95).tolist() == [[NOT_SURE], [0]]
    assert sure_classes(torch.zeros(1, 2), 0.5).dtype == torch.int32


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0.0), (0.1, 0.0), (0.35, 0.5), (0.6, 1.0), (1.0, 1.0)]
)
def test_the_weight_rises_between_two_moments(progress: float, expected: float) -> None:
    assert ramp_up(progress, 0.1, 0.6) == pytest.approx(expected)


def test_a_ramp_without_length_is_a_step() -> None:
    assert [ramp_up(progress, 0.5, 0.5) for progress in (0.0, 0.49, 0.5, 1.0)] == [0, 0, 1, 1]
    assert ramp_up(0.0, 0.0, 0.0) == 1
