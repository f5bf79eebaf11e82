"""The Gaussian head: published names, and draws that have the moments and gradients they should."""

from __future__ import annotations

import pytest
import torch

from facekit.train.heads import GaussianHead


def test_parameters_have_the_published_names_and_shapes() -> None:
    shapes = {name: tuple(part.shape) for name, part in GaussianHead(24, 10).named_parameters()}
    assert shapes == {
        "interpreter.0.weight": (24, 24),
        "interpreter.0.bias": (24,),
        "interpreter.1.weight": (24,),
        "interpreter.1.bias": (24,),
        "interpreter.3.weight": (24, 24),
        "interpreter.3.bias": (24,),
        "interpreter.4.weight": (24,),
        "interpreter.4.bias": (24,),
        "fc_mu.weight": (10, 24),
        "fc_mu.bias": (10,),
        "fc_var.weight": (10, 24),
        "fc_var.bias": (10,),
    }


def test_means_and_log_variances_come_of_the_same_hidden_layer() -> None:
    head, x = GaussianHead(24, 10), torch.randn(6, 24)
    mu, log_variance = head(x)
    hidden = head.interpreter(x)
    assert torch.equal(mu, hidden @ head.fc_mu.weight.T + head.fc_mu.bias)
    assert torch.equal(log_variance, hidden @ head.fc_var.weight.T + head.fc_var.bias)
    assert (hidden >= 0).all()


def test_samples_have_their_mean_and_variance() -> None:
    torch.manual_seed(0)
    mu, log_variance = torch.tensor([[-3.0, 0.5]]), torch.tensor([[-2.0, 1.0]])
    drawn = GaussianHead.sample(mu.expand(20_000, 2), log_variance.expand(20_000, 2))
    torch.testing.assert_close(drawn.mean(0), mu[0], rtol=0, atol=0.05)
    torch.testing.assert_close(drawn.var(0).log(), log_variance[0], rtol=0, atol=0.05)


def test_the_gradient_is_that_of_a_reparameterised_draw() -> None:
    mu, log_variance = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    drawn = GaussianHead.sample(mu, log_variance)
    drawn.sum().backward()
    torch.testing.assert_close(mu.grad, torch.ones(5, 3))
    torch.testing.assert_close(log_variance.grad, (drawn - mu).detach() / 2)


def test_the_seed_fixes_the_draw_also_in_half_precision() -> None:
    mu, log_variance = torch.zeros(4, 3), torch.zeros(4, 3)
    torch.manual_seed(7)
    wanted = torch.randn(4, 3)
    torch.manual_seed(7)
    found = GaussianHead.sample(mu.bfloat16(), log_variance.bfloat16())
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)


@pytest.mark.gpu
def test_on_a_gpu_the_draw_is_the_same() -> None:
    mu, log_variance = torch.randn(4, 3), torch.randn(4, 3)
    torch.manual_seed(7)
    wanted = GaussianHead.sample(mu, log_variance)
    torch.manual_seed(7)
    found = GaussianHead.sample(mu.cuda(), log_variance.cuda())
    torch.testing.assert_close(found.cpu(), wanted)
