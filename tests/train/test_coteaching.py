"""A step of two networks against DivideMix written out in loops, its edges, and two processes against one."""

from __future__ import annotations

import math
from pathlib import Path

import coteaching_run
import pytest
import torch
import torch.nn.functional as F
from side_by_side import exit_codes
from torch import Tensor, nn

from facekit.train.coteaching import Classifier, Coteaching, learn_all
from facekit.train.heads import CosineClasses, LinearClasses

_N, _CLASSES, _SIDE = 6, 4, 4
_PRIOR = torch.tensor([0.4, 0.3, 0.2, 0.1])


def _networks(kind: str) -> list[Classifier]:
    torch.manual_seed(0)

    def one() -> Classifier:
        head = (
            LinearClasses(8, _CLASSES)
            if kind == "softmax"
            else CosineClasses(8, _CLASSES, scale=10.0, margin=0.25)
        )
        return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * _SIDE**2, 8)), head, _PRIOR)

    return [one(), one()]


def _batch(seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    views = torch.randn(2 * _N, 3, _SIDE, _SIDE, generator=generator)
    clean = torch.rand(_N, 2, generator=generator)
    believed = torch.tensor([[1, 0], [1, 1], [0, 0], [0, 1], [1, 0], [0, 0]], dtype=torch.bool)
    return views, torch.tensor([0, 1, 2, 3, 0, 1]), clean, believed


def _written_out(networks: list[Classifier], kind: str, weight: float, temperature: float) -> float:
    """The published loss of both networks, picture by picture, with the draws in the order of the code."""
    views, labels, clean, believed = _batch()

    def probabilities(network: Classifier, x: Tensor) -> list[float]:
        return torch.softmax(network(x[None])[0], 0).tolist()

    def sharp(p: list[float]) -> list[float]:
        powers = [value ** (1 / temperature) for value in p]
        return [value / sum(powers) for value in powers]

    torch.manual_seed(7)
    total = 0.0
    for place, network in enumerate(networks):
        targets = []
        for row in range(2 * _N):
            n = row % _N
            own = [probabilities(network, views[n + k * _N]) for k in (0, 1)]
            both = [probabilities(net, views[n + k * _N]) for net in networks for k in (0, 1)]
            if believed[n, place]:
                w = float(clean[n, place])
                blended = [
                    w * (c == int(labels[n])) + (1 - w) * sum(p[c] for p in own) / 2 for c in range(_CLASSES)
                ]
            else:
                blended = [sum(p[c] for p in both) / 4 for c in range(_CLASSES)]
            targets.append(sharp(blended))
        drawn = float(torch.distributions.Beta(4.0, 4.0).sample())
        share, partner = max(drawn, 1 - drawn), torch.randperm(2 * _N).tolist()
        of_labels, of_guesses, mean = [], [], [0.0] * _CLASSES
        for row in range(2 * _N):
            mixed = share * views[row] + (1 - share) * views[partner[row]]
            pairs = zip(targets[row], targets[partner[row]], strict=True)
            target = [share * a + (1 - share) * b for a, b in pairs]
            logits = network(mixed[None])[0].tolist()
            p = torch.softmax(torch.tensor(logits), 0).tolist()
            mean = [m + value / (2 * _N) for m, value in zip(mean, p, strict=True)]
            if believed[row % _N, place]:
                if kind == "margin":
                    logits = [z - 10 * 0.25 * t for z, t in zip(logits, target, strict=True)]
                log_sum = math.log(sum(math.exp(z) for z in logits))
                of_labels.append(-sum(t * (z - log_sum) for z, t in zip(logits, target, strict=True)))
            else:
                of_guesses.append(sum((a - b) ** 2 for a, b in zip(p, target, strict=True)) / _CLASSES)
        forgotten = sum(q * math.log(q / m) for q, m in zip(_PRIOR.tolist(), mean, strict=True))
        total += sum(of_labels) / len(of_labels) + weight * sum(of_guesses) / len(of_guesses) + forgotten
    return total


@pytest.mark.parametrize("kind", ["softmax", "margin"])
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_a_step_is_dividemix_written_out(kind: str, temperature: float) -> None:
    networks = _networks(kind)
    wanted = _written_out(networks, kind, 5.0, temperature)
    torch.manual_seed(7)
    found = Coteaching(_PRIOR, temperature=temperature, mixup=4.0)(networks, *_batch(), weight=5.0)
    assert found["loss"].item() == pytest.approx(wanted, rel=1e-4)
    assert found["loss"].requires_grad


def test_what_both_believe_is_learnt_and_nothing_flows_into_the_guesses() -> None:
    """The targets are constants: the gradient of one network's loss leaves the other one alone."""
    networks = _networks("softmax")
    step = Coteaching(_PRIOR, temperature=0.5, mixup=4.0)
    views, labels, clean, believed = _batch()
    before = [p.detach().clone() for p in networks[1].parameters()]
    guessed = torch.zeros_like(believed)
    guessed[:, 0] = believed[:, 0]
    guessed[:, 1] = True  # so that only the first network learns guesses
    loss = step(networks, views, labels, clean, guessed, weight=1e6)["loss"]
    loss.backward()
    sizes = [max(float(p.grad.abs().max()) for p in network.parameters()) for network in networks]
    assert sizes[0] > 100 * sizes[1]
    assert all(torch.equal(a, b) for a, b in zip(before, networks[1].parameters(), strict=True))


@pytest.mark.parametrize("all_believed", [False, True])
def test_a_batch_of_one_kind_only_has_a_loss(all_believed: bool) -> None:
    networks = _networks("softmax")
    views, labels, clean, believed = _batch()
    one_kind = torch.full_like(believed, all_believed)
    found = Coteaching(_PRIOR, temperature=0.5, mixup=4.0)(
        networks, views, labels, clean, one_kind, weight=5.0
    )
    assert all(torch.as_tensor(value).isfinite() for value in found.values())
    assert float(found["guess_loss" if all_believed else "label_loss"]) == 0
    found["loss"].backward()
    assert all(p.grad.isfinite().all() for network in networks for p in network.parameters())


def test_chance_is_the_loss_of_networks_to_which_all_classes_are_alike() -> None:
    networks = _networks("softmax")
    for network in networks:
        nn.init.zeros_(network.head.weight)
        nn.init.zeros_(network.head.bias)
    even = torch.full((_CLASSES,), 1 / _CLASSES)
    found = Coteaching(even, temperature=0.5, mixup=4.0)(networks, *_batch(), weight=5.0)
    assert found["loss"].item() == pytest.approx(float(found["chance"]), rel=1e-5)


def test_losses_are_float32_under_autocast() -> None:
    found = []
    for lower in (False, True):
        torch.manual_seed(0)
        heads = [LinearClasses(3 * _SIDE**2, _CLASSES) for _ in range(2)]
        networks = [Classifier(nn.Flatten(), head, _PRIOR) for head in heads]
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            step = Coteaching(_PRIOR, temperature=0.5, mixup=4.0)(networks, *_batch(), weight=5.0)
        found.append(torch.stack([torch.as_tensor(value).detach() for value in step.values()]))
    assert torch.equal(*found)


def test_all_parameters_get_a_gradient_under_autocast() -> None:
    def backbone() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 8))

    networks = [Classifier(backbone(), LinearClasses(8, _CLASSES), _PRIOR) for _ in range(2)]
    with torch.autocast("cpu", torch.bfloat16):
        found = Coteaching(_PRIOR, temperature=0.5, mixup=4.0)(networks, *_batch(), weight=5.0)
    torch.as_tensor(found["loss"]).backward()
    assert all(p.grad is not None and p.grad.any() for network in networks for p in network.parameters())


def test_with_many_classes_the_mean_prediction_is_remembered() -> None:
    few = Classifier(nn.Identity(), LinearClasses(4, 2), torch.tensor([0.9, 0.1]))
    logits = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(few.remember(logits), logits.softmax(1).mean(0))
    prior = torch.full((100,), 0.01)
    many = Classifier(nn.Identity(), LinearClasses(4, 100), prior)
    logits = torch.randn(8, 100, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pace = 8 / 200
    for _ in range(2):
        wanted = pace * logits.softmax(1).mean(0) + (1 - pace) * many.mean_prediction
        torch.testing.assert_close(many.remember(logits), wanted)
    assert not many.mean_prediction.requires_grad
    assert float(many.mean_prediction.sum()) == pytest.approx(1, rel=1e-5)


def test_the_warm_up_is_cross_entropy_of_a_view_each() -> None:
    networks = _networks("margin")
    views, labels, *_ = _batch()
    found = learn_all(networks, views, labels, keep_unsure=False)
    logits = [network(part) for network, part in zip(networks, (views[:_N], views[_N:]), strict=True)]
    torch.testing.assert_close(found["loss"], sum(F.cross_entropy(z, labels) for z in logits))
    assert found["chance"] == pytest.approx(2 * math.log(_CLASSES))
    unsure = learn_all(networks, views, labels, keep_unsure=True)
    entropy = sum(torch.distributions.Categorical(logits=z).entropy().mean() for z in logits)
    torch.testing.assert_close(unsure["loss"], found["loss"] - entropy)
    assert unsure["chance"] == 0


def test_two_processes_ask_what_one_asks(tmp_path: Path) -> None:
    assert exit_codes(2, coteaching_run.main, tmp_path) == [0, 0]
    of_two, of_one = torch.load(tmp_path / "found.pt", weights_only=True), coteaching_run.found()
    for name, wanted in of_one.items():
        torch.testing.assert_close(of_two[name], wanted, rtol=1e-4, atol=1e-6, msg=name)
    assert of_one["seen"].all()
