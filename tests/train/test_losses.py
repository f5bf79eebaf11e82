"""Losses against loops, closed forms and the published law of the first loss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from facekit.train.heads import MarginHead
from facekit.train.losses import cosine_distillation, expected_initial_loss, margin_logits, margin_softmax


def _cosines(n: int, classes: int, dim: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = F.normalize(torch.randn(n, dim, generator=generator))
    return x @ F.normalize(torch.randn(classes, dim, generator=generator)).T


@pytest.mark.parametrize(("scale", "margin"), [(10.0, 0.0), (30.0, 0.35), (64.0, 0.5)])
def test_margin_softmax_equals_the_formula_written_as_a_loop(scale: float, margin: float) -> None:
    cosines, labels = _cosines(6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    losses = []
    for row, label in zip(cosines.double().tolist(), labels.tolist(), strict=True):
        angle = math.acos(row[label])
        target = (
            math.cos(angle + margin) if angle + margin <= math.pi else row[label] - margin * math.sin(margin)
        )
        logits = [scale * (target if j == label else value) for j, value in enumerate(row)]
        top = max(logits)
        losses.append(top + math.log(sum(math.exp(v - top) for v in logits)) - logits[label])
    got = margin_softmax(cosines, labels, scale=scale, margin=margin)
    assert got.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_no_margin_is_plain_softmax_of_scaled_cosines() -> None:
    cosines, labels = _cosines(8, 7), torch.arange(7).repeat(2)[:8]
    got = margin_softmax(cosines, labels, scale=16.0, margin=0.0)
    torch.testing.assert_close(got, F.cross_entropy(16.0 * cosines, labels), rtol=1e-4, atol=1e-5)


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0.05, 0.8))
def test_target_logit_rises_with_the_cosine_everywhere(a: float, b: float, margin: float) -> None:
    low, high = sorted((a, b))
    cosines, labels = torch.tensor([[low, 0.0], [high, 0.0]]), torch.tensor([0, 0])
    target = margin_logits(cosines, labels, scale=64.0, margin=margin)[:, 0]
    assert target[1] >= target[0] - 64 * 1e-5


@pytest.mark.parametrize("cosine", [1.0, -1.0])
def test_gradient_is_finite_at_the_ends_of_the_cosine(cosine: float) -> None:
    cosines = torch.tensor([[cosine, 0.0]], requires_grad=True)
    margin_softmax(cosines, torch.tensor([0]), scale=64.0, margin=0.5).backward()
    assert torch.isfinite(cosines.grad).all()


@pytest.mark.parametrize("classes", [100, 5000])
@pytest.mark.parametrize(("scale", "margin"), [(10.0, 0.0), (45.0, 0.35), (64.0, 0.5)])
def test_first_loss_follows_the_law(classes: int, scale: float, margin: float) -> None:
    torch.manual_seed(0)
    head = MarginHead(512, classes)
    loss, _ = head(torch.randn(256, 512), torch.randint(classes, (256,)), scale=scale, margin=margin)
    assert loss.item() == pytest.approx(
        expected_initial_loss(classes, 512, scale=scale, margin=margin), rel=0.03
    )


def test_law_gives_the_published_values() -> None:
    values = [expected_initial_loss(100, 512, scale=s, margin=m) for s, m in [(10, 0), (45, 0.35), (64, 0.5)]]
    assert values == pytest.approx([4.69, 22.0, 39.3], abs=0.05)


def test_head_is_the_same_under_autocast() -> None:
    torch.manual_seed(0)
    head, x, y = MarginHead(64, 10), torch.randn(16, 64), torch.randint(10, (16,))
    plain, _ = head(x, y, scale=64.0, margin=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = head(x, y, scale=64.0, margin=0.5)
    assert cast.item() == pytest.approx(plain.item(), rel=1e-6)


def test_distillation_is_one_minus_the_mean_cosine_and_leaves_the_teacher_alone() -> None:
    student = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]], requires_grad=True)
    teacher = torch.tensor([[5.0, 0.0], [0.0, -1.0], [1.0, 0.0]], requires_grad=True)
    loss = cosine_distillation(student, teacher)
    assert loss.item() == pytest.approx((0.0 + 2.0 + (1 - math.sqrt(0.5))) / 3)
    loss.backward()
    assert teacher.grad is None
