"""Contrastive losses against double loops, published values, bounds, and their own in several processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from side_by_side import START
from torch import Tensor
from torch.multiprocessing import start_processes

from facekit.train import processes
from facekit.train.losses import (
    balance_loss,
    beta_nt_xent,
    bregman_divergence,
    bregman_nt_xent,
    chance_level,
    nt_xent,
)

Loss = Callable[[Tensor, Tensor], Tensor]
PUBLISHED = {"temperature": 0.07, "beta": 0.005, "sigma": 0.5}
LOSSES: dict[str, Loss] = {
    "cosine": partial(nt_xent, temperature=0.2),
    "beta": partial(beta_nt_xent, **PUBLISHED),
    "beta, squared": partial(beta_nt_xent, temperature=0.1, beta=0.1, sigma=0.7, squared=True),
    "bregman": partial(bregman_nt_xent, temperature=0.3, sigma=0.9),
}

SHARED = [*LOSSES, "balance"]
"""What is the same in any number of processes."""


def views(n: int, dim: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two views of each of n pictures, not very alike, of any length."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(n, dim, generator=generator)
    return first, first + 2 * torch.randn(n, dim, generator=generator)


def published_logit(a: Tensor, b: Tensor, *, squared: bool, temperature: float, beta: float, sigma: float):
    """As published, constant and all; its 128 is the number of dimensions."""
    distance = torch.linalg.vector_norm(F.normalize(a, dim=0) - F.normalize(b, dim=0))
    distance = distance**2 if squared else distance
    height = (2 * math.pi * sigma**2) ** (-len(a) * beta)
    kernel = torch.exp(-beta * distance / (2 * sigma**2))
    return (1 + beta) / beta * (height * kernel - 1) / temperature


def bregman_logit(a: Tensor, b: Tensor) -> Tensor:
    divergence = max(a) - a[int(b.argmax())]
    return torch.exp(-divergence / (2 * 0.9**2)) / 0.3


LOGITS: dict[str, Loss] = {
    "cosine": lambda a, b: F.cosine_similarity(a, b, dim=0) / 0.2,
    "beta": partial(published_logit, squared=False, **PUBLISHED),
    "beta, squared": partial(published_logit, squared=True, temperature=0.1, beta=0.1, sigma=0.7),
    "bregman": bregman_logit,
}


def as_loops(first: Tensor, second: Tensor, logit: Loss) -> Tensor:
    """The mean over all views of -ln(exp(own other view) / sum of exp(all others)), in float64."""
    x = torch.cat([first, second]).double()
    n = len(first)
    losses = []
    for i, anchor in enumerate(x):
        logits = {j: logit(anchor, other) for j, other in enumerate(x) if j != i}
        losses.append(torch.stack(list(logits.values())).logsumexp(0) - logits[(i + n) % (2 * n)])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_equal_the_formula_written_as_loops(name: str) -> None:
    first, second = (x.requires_grad_() for x in views(7))
    found, wanted = LOSSES[name](first, second), as_loops(first, second, LOGITS[name])
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    inputs = (first, second)
    for ours, loops in zip(
        torch.autograd.grad(found, inputs), torch.autograd.grad(wanted, inputs), strict=True
    ):
        torch.testing.assert_close(ours, loops, rtol=1e-3, atol=1e-5 * float(loops.abs().max()))


def test_two_orthogonal_pictures_give_the_known_value() -> None:
    found = nt_xent(torch.eye(2), torch.eye(2), temperature=0.5)
    assert found.item() == pytest.approx(math.log(1 + 2 * math.exp(-2)), rel=1e-6)
    assert found.item() == pytest.approx(0.23954, abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_it_does_not_matter_which_view_is_first(name: str) -> None:
    first, second = views(9)
    assert LOSSES[name](first, second).item() == pytest.approx(LOSSES[name](second, first).item(), rel=1e-6)


@pytest.mark.parametrize("name", ["cosine", "beta", "beta, squared"])
def test_lengths_do_not_count(name: str) -> None:
    first, second = views(9)
    lengths = torch.logspace(-2, 2, 9)[:, None]
    found = LOSSES[name](lengths * first, second / lengths)
    assert found.item() == pytest.approx(LOSSES[name](first, second).item(), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_one_picture_leaves_nothing_to_confuse(name: str) -> None:
    assert LOSSES[name](*views(1)).item() == 0.0


@pytest.mark.parametrize(
    "loss",
    [partial(nt_xent, temperature=7.0), partial(beta_nt_xent, temperature=7.0, beta=0.005, sigma=0.5)],
    ids=["cosine", "beta"],
)
def test_high_temperatures_bring_random_vectors_to_chance(loss: Loss) -> None:
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.randn(64, 128, generator=generator) for _ in range(2))
    assert loss(first, second).item() == pytest.approx(chance_level(128), rel=0.05)


def test_a_collapse_is_at_chance() -> None:
    same = torch.ones(8, 4)
    for loss in LOSSES.values():
        assert loss(same, same).item() == pytest.approx(chance_level(16), rel=1e-6)
    assert chance_level(512) == pytest.approx(6.24, abs=0.005)


def test_small_betas_give_nt_xent_of_the_negative_distance() -> None:
    first, second = views(8)
    found = beta_nt_xent(first, second, temperature=0.5, beta=1e-5, sigma=0.6)

    def logit(a: Tensor, b: Tensor) -> Tensor:
        return -torch.dist(F.normalize(a, dim=0), F.normalize(b, dim=0)) / (2 * 0.6**2 * 0.5)

    assert found.item() == pytest.approx(as_loops(first, second, logit).item(), rel=0.01)


def test_published_settings_fall_off_by_21_5_for_each_unit_of_distance() -> None:
    """Three unit vectors in 128 dimensions: the loss is the logarithm of a ratio of two kernels."""
    angle = 0.02  # so small that the kernel is a straight line
    first, second = torch.zeros(2, 128), torch.zeros(2, 128)
    first[:, 0], second[:, 0] = 1.0, 1.0
    second[1, :2] = torch.tensor([math.cos(angle), math.sin(angle)])
    x = torch.cat([first, second])
    found = as_loops(first, second, lambda a, b: -21.5 * torch.dist(a, b))
    assert beta_nt_xent(*x.chunk(2), **PUBLISHED).item() == pytest.approx(found.item(), rel=2e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_where_views_coincide(name: str) -> None:
    for pictures in (views(6)[0], torch.ones(6, 16)):
        first, second = pictures.clone().requires_grad_(), pictures.clone().requires_grad_()
        LOSSES[name](first, second).backward()
        assert torch.isfinite(first.grad).all()
        assert torch.isfinite(second.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_the_same_under_autocast(name: str, dtype: torch.dtype) -> None:
    first, second = views(32, dim=128)
    wanted = LOSSES[name](first, second)
    with torch.autocast("cpu", dtype):
        found = LOSSES[name](first, second)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), abs=1e-6)
    half = [x.to(dtype) for x in (first, second)]
    assert LOSSES[name](*half).item() == LOSSES[name](*(x.float() for x in half)).item()


def subnetworks(n: int, count: int, seed: int = 1) -> Tensor:
    return torch.randn(n, count, generator=torch.Generator().manual_seed(seed))


def test_divergences_equal_the_loop() -> None:
    u, v = subnetworks(5, 4), subnetworks(7, 4, seed=2)
    found = bregman_divergence(u, v).tolist()
    for i, of_one in enumerate(u.tolist()):
        for j, of_other in enumerate(v.tolist()):
            wanted = max(of_one) - of_one[of_other.index(max(of_other))]
            assert found[i][j] == pytest.approx(wanted, abs=1e-6)


def test_a_divergence_is_at_least_0_is_0_from_itself_and_may_differ_either_way() -> None:
    u = subnetworks(20, 8)
    divergence = bregman_divergence(u, u)
    assert (divergence >= 0).all()
    assert torch.equal(divergence.diagonal(), torch.zeros(20))
    assert not torch.allclose(divergence, divergence.T)
    winner = u.argmax(1)
    assert torch.equal(divergence == 0, winner[:, None] == winner)


def test_one_subnetwork_knows_nothing() -> None:
    u, v = subnetworks(16, 1), subnetworks(16, 1, seed=2)
    assert torch.equal(bregman_divergence(u, v), torch.zeros(16, 16))
    found = bregman_nt_xent(u, v, temperature=0.5, sigma=0.9)
    assert found.item() == pytest.approx(math.log(2 * 16 - 1), rel=1e-6)


def test_the_order_of_subnetworks_does_not_count() -> None:
    u, v = subnetworks(16, 9), subnetworks(16, 9, seed=2)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    found = LOSSES["bregman"](u[:, order], v[:, order])
    assert found.item() == pytest.approx(LOSSES["bregman"](u, v).item(), rel=1e-6)


def test_the_gradient_reaches_winners_alone() -> None:
    u = subnetworks(16, 9)
    u[:, [2, 5]] -= 100.0
    u.requires_grad_()
    LOSSES["bregman"](*u.chunk(2)).backward()
    assert torch.equal(u.grad[:, [2, 5]], torch.zeros(16, 2))
    assert sorted(u.grad.abs().sum(0).nonzero()[:, 0].tolist()) == sorted(u.argmax(1).unique().tolist())


@pytest.mark.parametrize(("temperature", "least"), [(0.5, 4.25), (0.1, 0.023)])
def test_the_similarity_of_a_divergence_bounds_the_loss(temperature: float, least: float) -> None:
    u = 1000 * torch.eye(256)
    found = bregman_nt_xent(u, u, temperature=temperature, sigma=0.9).item()
    assert found == pytest.approx(math.log1p(510 * math.exp(-1 / temperature)), rel=1e-4)
    assert found == pytest.approx(least, abs=0.005)


def test_balance_is_how_far_the_mean_softmax_is_from_even() -> None:
    u = subnetworks(20, 5)
    spread = u.var(0).sqrt().mean()
    mean = torch.stack([torch.exp(row / spread) / torch.exp(row / spread).sum() for row in u]).mean(0)
    wanted = math.log(5) + (mean * mean.log()).sum().item()
    assert balance_loss(u).item() == pytest.approx(wanted, rel=1e-4)
    assert balance_loss(7 * u - 3).item() == pytest.approx(wanted, rel=1e-4)


def test_balance_is_0_where_all_win_alike_and_ln_k_where_one_does() -> None:
    assert balance_loss(torch.eye(6)).item() == pytest.approx(0.0, abs=1e-6)
    one = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    one[:, 2] += 1000.0
    one.requires_grad_()
    loss = balance_loss(one)
    assert loss.item() == pytest.approx(math.log(6))
    loss.backward()
    assert torch.isfinite(one.grad).all()
    assert balance_loss(torch.ones(4, 6)).item() == pytest.approx(0.0, abs=1e-6)


def test_balance_lifts_the_subnetworks_that_never_win() -> None:
    u = subnetworks(64, 6)
    u[:, 3] -= 5.0
    u.requires_grad_()
    balance_loss(u).backward()
    assert u.argmax(1).ne(3).all()
    assert (u.grad[:, 3] < 0).all()


def step(name: str, rank: int, world: int) -> dict[str, Any]:
    """The loss of one process's part of a batch of six pictures, and its gradient of a shared layer."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(16, 12)
    first, second = (layer(x.chunk(world)[rank]) for x in views(6))
    loss = balance_loss(torch.cat([first, second])) if name == "balance" else LOSSES[name](first, second)
    loss.backward()
    return {"loss": loss.detach(), "gradient": layer.weight.grad}


def work(rank: int, world: int, folder: str) -> None:
    """What each process does; the results go into a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    results: dict[str, Any] = {name: step(name, rank, world) for name in SHARED}
    part = (torch.arange(6).view(3, 2) + 10.0 * rank).T.requires_grad_()  # (2, 3), not contiguous
    whole = processes.gathered(part)
    (whole * torch.arange(12.0).view(4, 3) * (rank + 1)).sum().backward()
    results["whole"], results["by part"] = whole.detach(), part.grad
    results["numbers"] = processes.gathered(torch.tensor([rank, 7]))
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = Path(tmp_path_factory.mktemp("processes"))
    start_processes(work, (2, str(folder)), nprocs=2, start_method=START)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", SHARED)
def test_means_over_two_processes_are_those_of_one_with_the_whole_batch(
    results: list[dict[str, Any]], name: str
) -> None:
    whole, parts = step(name, 0, 1), [part[name] for part in results]
    assert torch.stack([part["loss"] for part in parts]).mean().item() == pytest.approx(
        whole["loss"].item(), abs=1e-6
    )
    mean = torch.stack([part["gradient"] for part in parts]).mean(0)
    torch.testing.assert_close(
        mean, whole["gradient"], rtol=1e-4, atol=1e-5 * float(whole["gradient"].abs().max())
    )


def test_rows_are_gathered_in_order_and_gradients_are_summed(results: list[dict[str, Any]]) -> None:
    own = torch.arange(6.0).view(3, 2).T
    factors = torch.arange(12.0).view(4, 3)
    for rank, part in enumerate(results):
        assert torch.equal(part["whole"], torch.cat([own, own + 10]))
        assert torch.equal(part["by part"], 3 * factors.chunk(2)[rank])
        assert part["numbers"].tolist() == [0, 7, 1, 7]


def test_one_process_gathers_what_it_has() -> None:
    part = torch.ones(2, 3)
    assert processes.gathered(part) is part
