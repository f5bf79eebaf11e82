"""Losses against loops, closed forms and the published law of the first loss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from facekit.train.heads import MarginHead
from facekit.train.losses import (
    centre_softmax,
    cosine_distillation,
    expected_initial_loss,
    margin_logits,
    margin_softmax,
    with_margins,
)


def _cosines(n: int, classes: int, dim: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = F.normalize(torch.randn(n, dim, generator=generator))
    return x @ F.normalize(torch.randn(classes, dim, generator=generator)).T


SETS = [(10.0, 0.0, 0.0), (30.0, 0.35, 0.0), (64.0, 0.5, 0.0), (64.0, 0.0, 0.4), (64.0, 0.3, 0.2)]
"""Scale, margin of the angle, margin of the cosine: softmax, ArcFace, CosFace, combined."""


def _as_a_loop(cosines: torch.Tensor, labels: torch.Tensor, scale: float, m2: float, m3: float) -> float:
    losses = []
    for row, label in zip(cosines.double().tolist(), labels.tolist(), strict=True):
        angle = math.acos(row[label])
        target = (math.cos(angle + m2) if angle + m2 <= math.pi else row[label] - m2 * math.sin(m2)) - m3
        logits = [scale * (target if j == label else value) for j, value in enumerate(row)]
        top = max(logits)
        losses.append(top + math.log(sum(math.exp(v - top) for v in logits)) - logits[label])
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("scale", "margin", "cosine_margin"), SETS)
def test_margin_softmax_equals_the_formula_written_as_a_loop(
    scale: float, margin: float, cosine_margin: float
) -> None:
    cosines, labels = _cosines(6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    cosines[0, 0] = -0.99  # past pi with every margin of the angle
    got = margin_softmax(cosines, labels, scale=scale, margin=margin, cosine_margin=cosine_margin)
    assert got.item() == pytest.approx(_as_a_loop(cosines, labels, scale, margin, cosine_margin), rel=1e-5)


def test_no_margin_is_plain_softmax_of_scaled_cosines() -> None:
    cosines, labels = _cosines(8, 7), torch.arange(7).repeat(2)[:8]
    got = margin_softmax(cosines, labels, scale=16.0, margin=0.0)
    assert torch.equal(got, F.cross_entropy(16.0 * cosines, labels))


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 0.8), st.floats(0, 0.5))
def test_target_logit_rises_with_the_cosine_everywhere(a: float, b: float, m2: float, m3: float) -> None:
    low, high = sorted((a, b))
    cosines, labels = torch.tensor([[low, 0.0], [high, 0.0]]), torch.tensor([0, 0])
    target = margin_logits(cosines, labels, scale=64.0, margin=m2, cosine_margin=m3)[:, 0]
    assert target[1] >= target[0] - 64 * 1e-5


@given(st.floats(-1, 1), st.floats(0, math.pi / 2), st.floats(0, 1))
def test_margins_make_it_harder_and_stay_within_what_they_promise(
    cosine: float, m2: float, m3: float
) -> None:
    value = with_margins(torch.tensor(cosine, dtype=torch.float64), margin=m2, cosine_margin=m3).item()
    assert -1 - m2 * math.sin(m2) - m3 - 1e-9 <= value <= min(1, cosine + 2e-6) - m3 + 1e-9


@pytest.mark.parametrize(("margin", "cosine_margin"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.4), (0.3, 0.2)])
@pytest.mark.parametrize("cosine", [1.0, -1.0])
def test_gradient_is_finite_at_the_ends_of_the_cosine(
    cosine: float, margin: float, cosine_margin: float
) -> None:
    cosines = torch.tensor([[cosine, 0.0]], requires_grad=True)
    margins = {"scale": 64.0, "margin": margin, "cosine_margin": cosine_margin}
    margin_softmax(cosines, torch.tensor([0]), **margins).backward()
    assert torch.isfinite(cosines.grad).all()
    centres = torch.tensor([[2.0, 0.0], [0.0, 3.0]], requires_grad=True)
    embeddings = torch.tensor([[cosine, 0.0]], requires_grad=True)
    loss, _ = centre_softmax(embeddings, centres, (torch.tensor([0]), torch.tensor([0])), **margins)
    loss.backward()
    assert torch.isfinite(embeddings.grad).all()
    assert torch.isfinite(centres.grad).all()


def test_a_face_opposite_to_its_centre_is_still_pulled_towards_it() -> None:
    cosines = torch.tensor([[-1.0, 0.0]], requires_grad=True)
    margin_softmax(cosines, torch.tensor([0]), scale=64.0, margin=0.5).backward()
    assert cosines.grad[0, 0].item() == pytest.approx(-64.0)


def _vectors(n: int, classes: int, dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    embeddings = F.normalize(torch.randn(n, dim, generator=generator, dtype=torch.float64))
    centres = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    return embeddings, centres, torch.randint(classes, (n,), generator=generator)


@pytest.mark.parametrize(("scale", "margin", "cosine_margin"), SETS)
def test_centre_softmax_equals_the_loop_and_its_gradient_finite_differences(
    scale: float, margin: float, cosine_margin: float
) -> None:
    embeddings, centres, labels = _vectors(5, 6, 4)
    centres[labels[0]] = -embeddings[0] + 0.1  # past pi with a margin of the angle

    def loss(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        targets = (torch.arange(5), labels)
        return centre_softmax(x, w, targets, scale=scale, margin=margin, cosine_margin=cosine_margin)[0]

    cosines = embeddings @ F.normalize(centres).T
    wanted = _as_a_loop(cosines, labels, scale, margin, cosine_margin)
    assert loss(embeddings, centres).item() == pytest.approx(wanted, rel=1e-12)
    inputs = ((0.99 * embeddings).requires_grad_(), centres.requires_grad_())
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-7, atol=1e-5)


def test_centre_softmax_overwrites_nothing_and_may_go_backward_twice() -> None:
    embeddings, centres, labels = _vectors(5, 6, 4)
    before = embeddings.clone(), centres.clone()
    centres.requires_grad_()
    loss, _ = centre_softmax(embeddings, centres, (torch.arange(5), labels), scale=64.0, margin=0.5)
    (first,) = torch.autograd.grad(loss, centres, retain_graph=True)
    (second,) = torch.autograd.grad(3 * loss, centres)
    torch.testing.assert_close(3 * first, second)
    assert torch.equal(embeddings, before[0])
    assert torch.equal(centres, before[1])


@pytest.mark.parametrize("classes", [100, 5000])
@pytest.mark.parametrize(("scale", "margin", "cosine_margin"), [(45.0, 0.35, 0.0), *SETS])
def test_first_loss_follows_the_law(classes: int, scale: float, margin: float, cosine_margin: float) -> None:
    torch.manual_seed(0)
    head, margins = MarginHead(512, classes), {"margin": margin, "cosine_margin": cosine_margin}
    loss, _ = head(torch.randn(256, 512), torch.randint(classes, (256,)), scale=scale, **margins)
    assert loss.item() == pytest.approx(expected_initial_loss(classes, 512, scale=scale, **margins), rel=0.03)


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
