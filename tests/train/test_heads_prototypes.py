"""Prototypes: unit rows after each step, and the gradients that training expects."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from facekit.train.heads import Prototypes


def unit(n: int, dim: int = 16) -> torch.Tensor:
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(0)))


def test_scores_are_cosines_and_rows_have_length_1_after_every_step() -> None:
    head, x = Prototypes(16, 7), unit(5)
    optimizer = torch.optim.SGD(head.parameters(), lr=3.0)
    for _ in range(3):
        loss = head(x).square().sum()
        torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(7))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert (head.weight.norm(dim=1) - 1).abs().max() > 0.01
    wanted = F.cosine_similarity(x[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(x), wanted)


def test_evaluation_gives_cosines_and_leaves_the_weight_alone() -> None:
    head, x = Prototypes(16, 7).eval(), unit(5)
    head.weight.data.mul_(2)
    before = head.weight.detach().clone()
    torch.testing.assert_close(head(x), F.cosine_similarity(x[:, None], head.weight[None], dim=2))
    assert torch.equal(head.weight, before)


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_prototypes_get_no_gradient_and_samples_do(frozen: bool) -> None:
    head, x = Prototypes(16, 7), unit(5).requires_grad_()
    scores = head(x, frozen=frozen)
    scores.sum().backward()
    torch.testing.assert_close(x.grad, head.weight.detach().sum(0).expand(5, -1))
    assert (head.weight.grad is None) == frozen
    if not frozen:
        torch.testing.assert_close(head.weight.grad, x.detach().sum(0).expand(7, -1))


def test_two_calls_of_one_step_go_backward_together() -> None:
    head, x = Prototypes(16, 7), unit(6).requires_grad_()
    together = head(x).square().sum()
    (wanted,) = torch.autograd.grad(together, head.weight)
    first, second = head(x[:4]), head(x[4:])
    (first.square().sum() + second.square().sum()).backward()
    torch.testing.assert_close(head.weight.grad, wanted)


def test_scores_are_float32_under_autocast() -> None:
    head, x = Prototypes(16, 7), unit(5)
    wanted = head(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(x)
    torch.testing.assert_close(found, wanted)
