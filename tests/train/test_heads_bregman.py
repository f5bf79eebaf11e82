"""Sub-networks in one product against the same ones in a loop, whole and in blocks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from facekit.train.heads import BregmanSubnetworks, bregman


def unit(n: int, dim: int = 128) -> torch.Tensor:
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(0)))


def as_networks(head: BregmanSubnetworks) -> list[nn.Sequential]:
    """The sub-networks, each by itself."""
    count, dim, hidden = head.hidden_weight.shape
    biases = head.hidden_bias.view(count, hidden)
    networks = []
    for k in range(count):
        network = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        network[0].weight.data.copy_(head.hidden_weight[k].T)
        network[0].bias.data.copy_(biases[k])
        network[2].weight.data.copy_(head.out_weight[k].T)
        network[2].bias.data.copy_(head.out_bias[k : k + 1])
        networks.append(network)
    return networks


@pytest.mark.parametrize("at_once", [1 << 27, 3 * 9 * 32, 1], ids=["whole", "in blocks", "one by one"])
def test_one_product_equals_a_loop(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bregman, "_AT_ONCE", at_once)
    head, x = BregmanSubnetworks(16, 7, 32, dropout=0.0), unit(9, 16).requires_grad_()
    found = head(x)
    wanted = torch.cat([network(x) for network in as_networks(head)], 1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    (found_slope,) = torch.autograd.grad(found.square().sum(), x)
    (wanted_slope,) = torch.autograd.grad(wanted.square().sum(), x)
    torch.testing.assert_close(found_slope, wanted_slope)


def test_blocks_draw_the_same_dropout_backward_as_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outputs are linear in the last layer: its gradient times itself must give them back."""
    monkeypatch.setattr(bregman, "_AT_ONCE", 4 * 9 * 32)
    head = BregmanSubnetworks(16, 8, 32, dropout=0.5)
    found = head(unit(9, 16)).sum()
    found.backward()
    again = (head.out_weight.grad * head.out_weight).sum() + 9 * head.out_bias.sum()
    torch.testing.assert_close(found, again)


def test_dropout_keeps_the_mean() -> None:
    head, x = BregmanSubnetworks(16, 4, 64, dropout=0.3), unit(5, 16)
    torch.manual_seed(0)
    found = torch.stack([head(x) for _ in range(2000)])
    error = (found.mean(0) - head.eval()(x)) / (found.std(0) / 2000**0.5)
    assert error.abs().max() < 5


def test_dropout_is_for_training() -> None:
    head, x = BregmanSubnetworks(16, 4, 64, dropout=0.5), unit(5, 16)
    assert not torch.equal(head(x), head(x))
    head.eval()
    assert torch.equal(head(x), head(x))


@pytest.mark.parametrize("share", [0.2, 0.5, 1e-6, 0.999])
def test_dropout_leaves_out_its_share(share: float) -> None:
    torch.manual_seed(0)
    kept = bregman._kept(torch.empty(1_000_003), share).float()  # no multiple of the numbers of one draw
    deviation = (share * (1 - share) / len(kept)) ** 0.5
    assert kept.mean().item() == pytest.approx(1 - share, abs=4 * deviation + 2**-16)
    beside = torch.corrcoef(torch.stack([kept[:-1], kept[1:]]))[0, 1]
    assert share < 1e-3 or abs(beside) < 5e-3  # neighbours come from the same draw


def test_they_start_as_linear_layers_do_but_without_an_offset() -> None:
    torch.manual_seed(0)
    head = BregmanSubnetworks(128, 20, 256)
    for weight, inputs in ((head.hidden_weight, 128), (head.out_weight, 256)):
        assert weight.std().item() == pytest.approx((3 * inputs) ** -0.5, rel=0.02)
    torch.testing.assert_close(head.out_weight.sum(1), torch.zeros(20, 1), rtol=0, atol=1e-5)
    assert not head.hidden_bias.any()
    assert not head.out_bias.any()


@pytest.mark.parametrize("seed", range(3))
def test_nearly_all_win_some_vectors_at_the_start(seed: int) -> None:
    """Of those that start as linear layers do, 9 of 100 win any of these, and one of them 9 of 10 vectors."""
    torch.manual_seed(seed)
    winners = BregmanSubnetworks(128, 100, 512).eval()(unit(512)).argmax(1)
    assert len(winners.unique()) >= 90
    assert winners.bincount().max() < 0.1 * 512


def test_outputs_are_float32_under_autocast() -> None:
    head, x = BregmanSubnetworks(128, 6, 64).eval(), unit(5)
    wanted = head(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(x.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, head(x.bfloat16().float()))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-2)


def test_biases_are_vectors_so_that_they_do_not_decay() -> None:
    dims = {name: parameter.ndim for name, parameter in BregmanSubnetworks(8, 3, 4).named_parameters()}
    assert dims == {"hidden_weight": 3, "hidden_bias": 1, "out_weight": 3, "out_bias": 1}
