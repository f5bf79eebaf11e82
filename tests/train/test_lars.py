"""LARS against its formula written as a loop, timm's where they agree, and its exceptions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from timm.optim.lars import Lars
from torch import nn

from facekit.train.lars import LARS


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))


def give_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def as_a_loop(model: nn.Module, rates: list[float], *, decay: float, trust: float) -> list[torch.Tensor]:
    """The weights after a step at each rate, in float64."""
    weights = [p.detach().double() for p in model.parameters()]
    momenta = [torch.zeros_like(w) for w in weights]
    for seed, lr in enumerate(rates):
        give_gradients(model, seed)
        for i, parameter in enumerate(model.parameters()):
            gradient, ratio = parameter.grad.double(), 1.0
            if parameter.ndim > 1:
                gradient = gradient + decay * weights[i]
                ratio = trust * float(weights[i].norm()) / float(gradient.norm())
            momenta[i] = 0.9 * momenta[i] + lr * ratio * gradient
            weights[i] = weights[i] - momenta[i]
    return weights


def test_steps_are_those_of_the_formula_while_the_rate_changes() -> None:
    rates = [1.0, 3.0, 0.5]
    wanted = as_a_loop(network(), rates, decay=0.1, trust=0.02)
    model = network()
    optimizer = LARS(model.parameters(), weight_decay=0.1, trust=0.02)
    for seed, lr in enumerate(rates):
        optimizer.param_groups[0]["lr"] = lr
        give_gradients(model, seed)
        optimizer.step()
    for found, weight in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(found.detach().double(), weight, rtol=1e-5, atol=1e-6)


def test_without_decay_and_at_one_rate_matrices_move_as_in_timm() -> None:
    ours, theirs = nn.Linear(9, 7, bias=False), nn.Linear(9, 7, bias=False)
    theirs.load_state_dict(ours.state_dict())
    optimizers = (
        LARS(ours.parameters(), lr=2.0, weight_decay=0.0),
        Lars(theirs.parameters(), lr=2.0, momentum=0.9, always_adapt=True),
    )
    for seed in range(4):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            give_gradients(model, seed)
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_biases_and_norms_move_as_in_sgd() -> None:
    model = network()
    twin = copy.deepcopy(model)
    give_gradients(model, 0)
    give_gradients(twin, 0)
    LARS(model.parameters(), lr=0.1, weight_decay=0.5).step()
    torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9).step()
    for ours, plain in zip(model.parameters(), twin.parameters(), strict=True):
        if ours.ndim > 1:
            assert not torch.allclose(ours, plain)
        else:
            torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("zero", ["weight", "gradient"])
def test_a_norm_of_0_takes_the_rate_as_it_is(zero: str) -> None:
    weight = nn.Parameter(torch.zeros(2, 2) if zero == "weight" else torch.ones(2, 2))
    weight.grad = torch.zeros(2, 2) if zero == "gradient" else torch.ones(2, 2)
    before = weight.detach().clone()
    LARS([weight], lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close(weight.detach(), before - 0.1 * weight.grad)


def test_groups_have_rates_of_their_own_and_what_has_no_gradient_stays() -> None:
    first, second, third = (nn.Parameter(torch.ones(3)) for _ in range(3))
    groups: list[dict[str, Any]] = [{"params": [first, third], "lr": 1.0}, {"params": [second], "lr": 0.0}]
    first.grad = second.grad = torch.ones(3)
    optimizer = LARS(groups)
    optimizer.step()
    assert [p.detach()[0].item() for p in (first, second, third)] == [0.0, 1.0, 1.0]
    assert third not in optimizer.state


def test_a_saved_state_is_tensors_and_goes_on_where_it_was() -> None:
    model = network()
    optimizer = LARS(model.parameters(), lr=1.0)
    give_gradients(model, 0)
    optimizer.step()
    twin = copy.deepcopy(model)
    resumed = LARS(twin.parameters(), lr=1.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for values in optimizer.state_dict()["state"].values():
        assert all(isinstance(value, torch.Tensor) for value in values.values())
    for one, other in ((model, optimizer), (twin, resumed)):
        give_gradients(one, 1)
        other.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_closure_computes_the_loss_first() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = LARS([weight], lr=0.5)

    def closure() -> float:
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert weight.item() == 0.0
