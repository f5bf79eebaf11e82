"""Losses against soft targets, against plain formulas, torch's own, and the margin loss of hard labels."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facekit.train.losses import (
    margin_softmax,
    prior_divergence,
    sharpen,
    soft_cross_entropy,
    soft_margin_logits,
    soft_squared_error,
)

_N, _CLASSES = 9, 7


def _logits(seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(_N, _CLASSES, generator=torch.Generator().manual_seed(seed))


def _targets(seed: int = 1) -> Tensor:
    return _logits(seed).softmax(1)


def test_soft_cross_entropy_equals_torchs() -> None:
    found = soft_cross_entropy(_logits(), _targets())
    torch.testing.assert_close(found, F.cross_entropy(_logits(), _targets(), reduction="none"))


def test_soft_squared_error_is_the_mean_over_classes() -> None:
    found = soft_squared_error(_logits(), _targets())
    for row, logits, target in zip(found.tolist(), _logits().tolist(), _targets().tolist(), strict=True):
        total = sum(math.exp(z) for z in logits)
        wanted = sum((math.exp(z) / total - t) ** 2 for z, t in zip(logits, target, strict=True)) / _CLASSES
        assert row == pytest.approx(wanted, rel=1e-5)
    surely_wrong = soft_squared_error(100 * F.one_hot(torch.tensor([0]), 4), F.one_hot(torch.tensor([1]), 4))
    assert surely_wrong.item() == pytest.approx(2 / 4)


@pytest.mark.parametrize("margin", [0.0, 0.35])
def test_with_certain_labels_the_soft_margin_is_cosface(margin: float) -> None:
    cosines = torch.rand(_N, _CLASSES, generator=torch.Generator().manual_seed(2)) * 2 - 1
    cosines.requires_grad_()
    labels = torch.arange(_N) % _CLASSES
    hard = F.one_hot(labels, _CLASSES)
    soft = soft_cross_entropy(soft_margin_logits(cosines, hard, scale=30, margin=margin), hard).mean()
    known = margin_softmax(cosines, labels, scale=30, margin=0, cosine_margin=margin)
    torch.testing.assert_close(soft, known)
    torch.testing.assert_close(*(torch.autograd.grad(loss, cosines)[0] for loss in (soft, known)))


def test_each_class_has_its_share_of_the_margin() -> None:
    cosines, targets = _logits().tanh(), _targets()
    found = soft_margin_logits(cosines, targets, scale=16, margin=0.3)
    for row in range(_N):
        for k in range(_CLASSES):
            wanted = 16 * (cosines[row, k].item() - 0.3 * targets[row, k].item())
            assert found[row, k].item() == pytest.approx(wanted, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.1])
def test_sharpened_rows_are_powers_that_sum_to_1(temperature: float) -> None:
    powers = _targets().double() ** (1 / temperature)
    found = sharpen(_targets(), temperature=temperature)
    torch.testing.assert_close(found.double(), powers / powers.sum(1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_certain_rows_stay_certain() -> None:
    certain = F.one_hot(torch.arange(4), 4).float()
    torch.testing.assert_close(sharpen(certain, temperature=0.5), certain)


def test_prior_divergence_equals_torchs_and_is_0_for_the_prior() -> None:
    prior, mean = _targets()[0], _targets()[1]
    torch.testing.assert_close(prior_divergence(mean, prior), F.kl_div(mean.log(), prior, reduction="sum"))
    assert prior_divergence(prior, prior).item() == pytest.approx(0, abs=1e-6)


def test_a_class_that_is_never_predicted_costs_much_and_one_that_is_not_there_nothing() -> None:
    prior, mean = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    assert 10 < prior_divergence(mean, prior).item() < 20


def test_all_are_float32_under_autocast() -> None:
    logits, targets = _logits().bfloat16(), _targets()
    with torch.autocast("cpu", torch.bfloat16):
        found = (
            soft_cross_entropy(logits, targets),
            soft_squared_error(logits, targets),
            soft_margin_logits(logits, targets, scale=30, margin=0.1),
            sharpen(targets.bfloat16(), temperature=0.5),
            prior_divergence(targets[0].bfloat16(), targets[1]),
        )
    assert {each.dtype for each in found} == {torch.float32}
    assert torch.equal(found[0], soft_cross_entropy(logits.float(), targets))
