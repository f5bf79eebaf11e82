"""Losses of Gaussians against the divergences of torch.distributions and the published formulas."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from facekit.train.losses import gaussian_distance, gaussian_norm

VARIANTS: tuple[Literal["faces", "imagenet"], ...] = ("faces", "imagenet")


def gaussians(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 8, generator=generator), torch.randn(5, 8, generator=generator)


def normal(mu: Tensor, log_variance: Tensor) -> Normal:
    return Normal(mu, (log_variance / 2).exp())


def test_the_norm_is_the_mean_divergence_from_the_standard_gaussian() -> None:
    mu, log_variance = gaussians(0)
    wanted = kl_divergence(normal(mu, log_variance), Normal(0.0, 1.0)).mean()
    assert gaussian_norm(mu, log_variance).item() == pytest.approx(wanted.item(), rel=1e-6)
    assert gaussian_norm(torch.zeros(3, 4), torch.zeros(3, 4)).item() == 0.0


def test_distances_are_the_published_ones() -> None:
    (mu0, lv0), (mu1, lv1) = gaussians(1), gaussians(2)
    v0, v1, mm = lv0.exp(), lv1.exp(), (mu0 + mu1) / 2
    squares = (mu0 - mm) ** 2 + (mu1 - mm) ** 2
    vm = (v0 + v1) / 2
    faces = (0.5 * ((2 * vm.log() - lv0 - lv1) + squares / (2 * vm))).mean()
    vm = (v0 * v1).sqrt()
    imagenet = (0.5 * ((vm.log() - lv0) + (vm.log() - lv1)) + 0.25 * squares / vm).mean()
    for variant, wanted in zip(VARIANTS, (faces, imagenet), strict=True):
        found = gaussian_distance(mu0, lv0, mu1, lv1, variant=variant)
        assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_the_logarithms_of_faces_count_twice() -> None:
    """Against half the divergences of both from the Gaussian in the middle, which count them once."""
    (mu, lv0), (_, lv1) = gaussians(1), gaussians(2)
    middle = Normal(mu, ((lv0.exp() + lv1.exp()) / 2).sqrt())
    once = (kl_divergence(normal(mu, lv0), middle) + kl_divergence(normal(mu, lv1), middle)).mean() / 2
    found = gaussian_distance(mu, lv0, mu, lv1, variant="faces")
    assert found.item() == pytest.approx(2 * once.item(), rel=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_gaussians_are_at_0_and_others_above(variant: Literal["faces", "imagenet"]) -> None:
    (mu0, lv0), (mu1, lv1) = gaussians(3), gaussians(4)
    assert gaussian_distance(mu0, lv0, mu0, lv0, variant=variant).item() == pytest.approx(0.0, abs=1e-7)
    there = gaussian_distance(mu0, lv0, mu1, lv1, variant=variant).item()
    assert there > 0.1
    assert gaussian_distance(mu1, lv1, mu0, lv0, variant=variant).item() == pytest.approx(there, rel=1e-6)


def test_variances_alone_cost_nothing_on_imagenet() -> None:
    (mu, lv0), (_, lv1) = gaussians(3), gaussians(4)
    assert gaussian_distance(mu, lv0, mu, lv1, variant="imagenet").item() == pytest.approx(0.0, abs=1e-6)
    assert gaussian_distance(mu, lv0, mu, lv1, variant="faces").item() > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_the_same_under_autocast(dtype: torch.dtype) -> None:
    (mu0, lv0), (mu1, lv1) = ([x.to(dtype) for x in gaussians(seed)] for seed in (1, 2))
    wide = [x.float() for x in (mu0, lv0, mu1, lv1)]
    with torch.autocast("cpu", dtype):
        for variant in VARIANTS:
            found = gaussian_distance(mu0, lv0, mu1, lv1, variant=variant)
            assert found.dtype == torch.float32
            assert found.item() == gaussian_distance(*wide, variant=variant).item()
        assert gaussian_norm(mu0, lv0).item() == gaussian_norm(*wide[:2]).item()
