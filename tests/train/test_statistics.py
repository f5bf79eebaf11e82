"""Statistics of embeddings against loops, closed forms and the cases that they tell apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facekit.train import statistics
from facekit.train.statistics import alignment, assignment_entropy, effective_rank, uniformity


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_alignment_is_the_mean_squared_distance_of_unit_vectors() -> None:
    first = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    second = torch.tensor([[5.0, 0.0], [4.0, 0.0], [-1.0, 0.0]])
    assert alignment(first, second).item() == pytest.approx((0 + 2 + 4) / 3)


@pytest.mark.parametrize("rows", [1024, 7])
def test_uniformity_is_the_published_formula(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_ROWS", rows)
    x = random(30, 5)
    wanted = torch.pdist(F.normalize(x)).square().mul(-2).exp().mean().log()
    assert uniformity(x).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_uniformity_of_a_collapse_is_0_and_of_many_dimensions_near_minus_4() -> None:
    assert uniformity(torch.ones(50, 8)).item() == pytest.approx(0.0, abs=1e-6)
    assert uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).item() == pytest.approx(-8.0)
    # E exp(4 cos) for cosines of variance 1/d
    assert uniformity(random(400, 512)).item() == pytest.approx(-4 + 8 / 512, abs=0.01)


def test_effective_rank_is_exp_of_the_entropy_of_the_singular_values() -> None:
    x = random(40, 6) @ random(6, 6, seed=1)
    values = np.linalg.svd((x - x.mean(0)).double().numpy(), compute_uv=False)
    shares = values / values.sum()
    wanted = math.exp(-sum(share * math.log(share) for share in shares))
    assert effective_rank(x).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_counts_even_directions(rank: int) -> None:
    """Both ends of ``rank`` axes, far from the origin."""
    axes = torch.eye(16)[:rank]
    assert effective_rank(torch.cat([axes, -axes]) + 5.0).item() == pytest.approx(rank, rel=1e-3)


def test_a_collapse_has_no_rank_for_its_rounding() -> None:
    x = random(1, 64).expand(200, -1) * (1 + 1e-7 * random(200, 64, seed=1))
    assert effective_rank(x).item() == pytest.approx(1.0)
    assert effective_rank(torch.zeros(5, 3)).item() == pytest.approx(1.0)


def test_assignments_to_all_have_the_largest_entropy_and_to_one_none() -> None:
    assert assignment_entropy(torch.eye(6)).item() == pytest.approx(math.log(6))
    assert assignment_entropy(torch.eye(6)[:1].expand(9, -1)).item() == 0.0
    q = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    wanted = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert assignment_entropy(q).item() == pytest.approx(wanted)


def test_results_are_float32_scalars_without_a_gradient() -> None:
    x = random(8, 4).bfloat16().requires_grad_()
    for found in (alignment(x, x), uniformity(x), effective_rank(x), assignment_entropy(x.softmax(1))):
        assert found.shape == ()
        assert found.dtype == torch.float32
        assert not found.requires_grad


def test_autocast_changes_nothing() -> None:
    x = random(64, 32)
    wanted = uniformity(x), effective_rank(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = uniformity(x), effective_rank(x)
    assert [value.item() for value in found] == pytest.approx([value.item() for value in wanted], rel=1e-6)
