"""Sinkhorn's assignments and swapped predictions against plain loops, and what they promise."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facekit.train.losses import sinkhorn, swapped_prediction


def scores(n: int, count: int, seed: int = 0, dim: int = 128) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    samples = F.normalize(torch.randn(n, dim, generator=generator))
    return samples @ F.normalize(torch.randn(count, dim, generator=generator)).T


def as_published(cosines: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Exponentials divided by the sums of prototypes and of samples in turn, in float64."""
    q = torch.exp(cosines.double() / epsilon).T
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(1, keepdim=True) * len(q)
        q /= q.sum(0, keepdim=True) * q.shape[1]
    return (q * q.shape[1]).T


@pytest.mark.parametrize(("n", "count"), [(64, 10), (10, 64)])
@pytest.mark.parametrize("iterations", [1, 3])
def test_assignments_equal_the_published_loop(n: int, count: int, iterations: int) -> None:
    found = sinkhorn(scores(n, count), epsilon=0.05, iterations=iterations)
    wanted = as_published(scores(n, count), 0.05, iterations)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [30, 300, 3000])
def test_samples_sum_to_1_and_prototypes_get_about_as_many(count: int) -> None:
    q = sinkhorn(scores(2048, count), epsilon=0.05, iterations=3)
    torch.testing.assert_close(q.sum(1), torch.ones(2048), rtol=0, atol=1e-6)
    masses = q.sum(0) * count / 2048
    assert (masses - 1).abs().max() < 0.02


def test_large_scores_stay_finite() -> None:
    q = sinkhorn(1e4 * scores(16, 5), epsilon=0.05, iterations=3)
    assert torch.isfinite(q).all()
    torch.testing.assert_close(q.sum(1), torch.ones(16))


def test_assignments_have_no_gradient() -> None:
    assert not sinkhorn(scores(8, 4).requires_grad_(), epsilon=0.05, iterations=3).requires_grad


def test_the_prediction_is_swapped() -> None:
    """Two views are assigned, and each is told from the other three by name."""
    views = [scores(6, 5, seed=seed) for seed in range(4)]
    assigned = [sinkhorn(view, epsilon=0.05, iterations=3) for view in views[:2]]
    losses = []
    for i, q in enumerate(assigned):
        for v, view in enumerate(views):
            if v != i:
                shares = torch.softmax(view.double() / 0.1, 1)
                losses.append(-(q * shares.log()).sum(1).mean().item())
    assert len(losses) == 6
    found = swapped_prediction(views, assigned, temperature=0.1)
    assert found.item() == pytest.approx(sum(losses) / 6, rel=1e-5)


def test_the_gradient_reaches_the_scores_alone() -> None:
    views = [scores(6, 5, seed=seed).requires_grad_() for seed in range(2)]
    q = [torch.full((6, 5), 0.2, requires_grad=True) for _ in range(2)]
    swapped_prediction(views, q, temperature=0.1).backward()
    assert all(part.grad is None for part in q)
    assert all(view.grad.abs().sum() > 0 for view in views)


def test_even_scores_are_at_the_logarithm_of_the_count() -> None:
    q = [torch.eye(7)] * 2
    found = swapped_prediction([torch.zeros(7, 7)] * 3, q, temperature=0.1)
    assert found.item() == pytest.approx(math.log(7), rel=1e-6)


def test_they_are_the_same_under_autocast() -> None:
    views = [scores(32, 40, seed=seed).bfloat16() for seed in range(2)]
    wide = [view.float() for view in views]
    q = [sinkhorn(view, epsilon=0.05, iterations=3) for view in wide]
    with torch.autocast("cpu", torch.bfloat16):
        cast = [sinkhorn(view, epsilon=0.05, iterations=3) for view in views]
        found = swapped_prediction(views, cast, temperature=0.1)
    assert found.dtype == torch.float32
    assert found.item() == swapped_prediction(wide, q, temperature=0.1).item()
