"""Schedules at their knots, and what decays."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facekit.train.config import OptimSettings
from facekit.train.optim import cosine, decay_groups, progressive_margin, warm_restarts


def test_cosine_rises_and_falls() -> None:
    assert cosine(0.0, warmup=0.1) == 0.0
    assert cosine(0.05, warmup=0.1) == pytest.approx(0.5)
    assert cosine(0.1, warmup=0.1) == pytest.approx(1.0)
    assert cosine(0.55, warmup=0.1) == pytest.approx(0.5)
    assert cosine(1.0, warmup=0.1) == pytest.approx(0.0)


@given(
    progress=st.floats(0, 1), warmup=st.floats(0, 0.4), turn=st.floats(0, 0.5), later=st.floats(0.71, 0.99)
)
def test_a_turn_changes_the_cosine_only_where_it_is_later_than_its_middle(
    progress: float, warmup: float, turn: float, later: float
) -> None:
    plain = 0.5 + 0.5 * math.cos(math.pi * (progress - warmup) / (1 - warmup))
    expected = progress / warmup if progress < warmup else plain
    assert cosine(progress, warmup=warmup, turn=turn) == pytest.approx(expected, abs=1e-12)
    late = cosine(progress, warmup=warmup, turn=later)
    assert expected - 1e-12 <= late <= 1
    assert cosine(later, warmup=warmup, turn=later) == pytest.approx(0.5)
    assert cosine(1.0, warmup=warmup, turn=later) == pytest.approx(0.0)
    if progress >= warmup:
        assert cosine(min(1.0, progress + 0.01), warmup=warmup, turn=later) <= late + 1e-12


def test_warm_restarts_are_those_of_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10, T_mult=2)
    for epoch in range(50):
        assert warm_restarts(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        reference.step()


def test_published_restarts_end_in_the_middle_of_a_cycle() -> None:
    assert warm_restarts(49) == pytest.approx(0.54, abs=0.005)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0, (10, 0)), (0.16, (30, 0)), (0.4, (45, 0.35)), (0.7, (54.5, 0.425)), (1, (64, 0.5))],
)
def test_margin_passes_through_its_knots(progress: float, expected: tuple[float, float]) -> None:
    assert progressive_margin(progress) == pytest.approx(expected)


@given(st.floats(0, 1), st.floats(0, 1))
def test_margin_and_scale_never_fall(a: float, b: float) -> None:
    low, high = progressive_margin(min(a, b)), progressive_margin(max(a, b))
    assert low[0] <= high[0] + 1e-9
    assert low[1] <= high[1] + 1e-9


def test_other_final_values_stretch_the_schedule() -> None:
    assert progressive_margin(1.0, scale=30.0, margin=0.2) == pytest.approx((30.0, 0.2))


def test_what_comes_trained_learns_at_a_tenth_of_the_rate_whatever_the_optimiser() -> None:
    """1e-4 is much under AdamW, and next to nothing beside LARS' rate of 1."""
    assert OptimSettings().trained_lr == 1e-4
    assert OptimSettings(optimizer="lars", lr=1.0).trained_lr == 0.1
    assert OptimSettings(optimizer="lars", lr=1.0, backbone_lr=1e-4).trained_lr == 1e-4


def test_biases_and_norms_do_not_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    decayed, plain = decay_groups("all", model.parameters(), lr=0.1, weight_decay=0.5)
    assert {decayed["name"], plain["name"]} == {"all"}
    assert [p.shape for p in decayed["params"]] == [(3, 4)]
    assert len(plain["params"]) == 3
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)
