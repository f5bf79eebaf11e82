"""Two losses that are joined by the ratio of their running means."""

from __future__ import annotations

import pytest
import torch

from facekit.train.losses import LossRatio


def test_it_is_the_formula_with_exponential_means() -> None:
    generator = torch.Generator().manual_seed(0)
    known, told = torch.rand(2, 30, generator=generator, dtype=torch.float64) * torch.tensor([[20.0], [3.0]])
    joint = LossRatio(alpha=0.7)
    for step in range(30):
        loss, ratio = joint(known[step].float(), told[step].float())
        weights = 0.99 ** torch.arange(step, -1, -1, dtype=torch.float64)
        means = [float((weights * losses[: step + 1]).sum() / weights.sum()) for losses in (known, told)]
        assert float(ratio) == pytest.approx(means[0] / means[1], rel=1e-4)
        expected = (float(known[step]) + 0.7 * means[0] / means[1] * float(told[step])) / 1.7
        assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_of_two_losses_that_are_alike_it_is_either() -> None:
    joint = LossRatio(alpha=2.0)
    for loss in torch.linspace(5.0, 1.0, 10):
        both, ratio = joint(loss, loss.clone())
        assert float(ratio) == pytest.approx(1.0)
        assert float(both) == pytest.approx(float(loss))


def test_gradients_flow_through_the_losses_and_not_through_their_means() -> None:
    joint = LossRatio(alpha=1.0)
    known, told = (torch.tensor(value, requires_grad=True) for value in (6.0, 2.0))
    loss, _ = joint(known, told)
    loss.backward()
    assert (float(known.grad), float(told.grad)) == pytest.approx((0.5, 0.5 * 6.0 / 2.0))


def test_the_means_are_saved_and_stay_in_evaluation() -> None:
    joint = LossRatio(alpha=1.0)
    joint(torch.tensor(6.0), torch.tensor(2.0))
    other = LossRatio(alpha=1.0)
    other.load_state_dict(joint.state_dict())
    _, ratio = other.eval()(torch.tensor(100.0), torch.tensor(1.0))
    assert float(ratio) == pytest.approx(3.0)


@pytest.mark.parametrize("broken", [(6.0, torch.inf), (torch.nan, 2.0)])
def test_a_step_that_overflowed_leaves_no_trace(broken: tuple[float, float]) -> None:
    joint = LossRatio(alpha=1.0)
    joint(torch.tensor(6.0), torch.tensor(2.0))
    loss, ratio = joint(*map(torch.tensor, broken))
    assert not loss.isfinite()  # the scaler has to see it
    assert float(ratio) == pytest.approx(3.0)
    assert float(joint(torch.tensor(6.0), torch.tensor(2.0))[1]) == pytest.approx(3.0)


def test_a_loss_that_is_nothing_divides_by_nothing() -> None:
    loss, _ = LossRatio(alpha=1.0)(torch.tensor(6.0), torch.tensor(0.0))
    assert float(loss) == 3.0
