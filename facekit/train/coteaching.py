"""Two networks that teach each other which labels to believe: what they lose in a step.

Both see the same two views of each picture. In the warm-up each learns one of them, with the label as it is.
Later, as in DivideMix, a label that the other network believes is blended with what the network itself
predicts, by how likely it is right; what both predict on average stands for labels that the other one does
not believe. Then all views are mixed in pairs.

Source: Li, Socher & Hoi 2020, "DivideMix: learning with noisy labels as semi-supervised learning",
algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.train import processes
from facekit.train.heads import CosineClasses, LinearClasses
from facekit.train.losses import prior_divergence, sharpen, soft_cross_entropy, soft_squared_error

__all__ = ["Classifier", "Coteaching", "learn_all"]

_FEW = 2  # predictions a class, over which their mean is taken at least

_Metrics = dict[str, Tensor | float]


class Classifier(nn.Module):
    """A backbone and its head; what it predicts on average, as a buffer.

    Args:
        backbone: (n, 3, s, s) float, normalised -> (n, dim) float.
        head: (n, dim) -> (n, classes).
        prior: (classes,), share of each class.

    Attributes:
        mean_prediction: (classes,) float32, sums to 1.
    """

    mean_prediction: Tensor

    def __init__(self, backbone: nn.Module, head: LinearClasses | CosineClasses, prior: Tensor) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.register_buffer("mean_prediction", prior.clone())

    def forward(self, x: Tensor) -> Tensor:
        """(n, classes) float32 logits, without a margin."""
        logits: Tensor = self.head(self.backbone(x).float())
        return logits

    def remember(self, logits: Tensor) -> Tensor:
        """The mean prediction, of the batch of all processes; where classes are many, of earlier ones too.

        Published for 10 and 100 classes is the mean over a batch; where a batch has fewer pictures than there
        are people, that would ask each batch to show everybody.

        Args:
            logits: (n, classes) float32; n alike in all processes.

        Returns:
            (classes,) float32.
        """
        mean = processes.gathered(logits.softmax(1).mean(0, keepdim=True)).mean(0)
        pace = min(1.0, len(logits) * processes.world() / (_FEW * len(mean)))
        mean = pace * mean + (1.0 - pace) * self.mean_prediction
        self.mean_prediction.copy_(mean.detach())
        return mean


def learn_all(
    networks: Sequence[Classifier], views: Tensor, labels: Tensor, *, keep_unsure: bool
) -> _Metrics:
    """Cross-entropy with the labels as they are, without a margin; the sum over the networks.

    Args:
        networks: one or two.
        views: (networks x n, 3, s, s) float, normalised; each network learns n of them.
        labels: (n,) int64.
        keep_unsure: whether to take the entropy of the predictions off the loss. Where one class often has
            the label of another one, networks learn that surely, and all losses would be low.
    """
    losses = []
    for network, view in zip(networks, views.chunk(len(networks)), strict=True):
        logs = network(view).log_softmax(1)
        loss = F.nll_loss(logs, labels)
        losses.append(loss + (logs.exp() * logs).sum(1).mean() if keep_unsure else loss)
    knowing_nothing = 0.0 if keep_unsure else math.log(logs.shape[1])
    return {"loss": torch.stack(losses).sum(), "chance": len(losses) * knowing_nothing}


class Coteaching:
    """The later steps.

    Args:
        prior: (classes,) float32, share of each class among the labels.
        temperature: T in (0, 1], by which targets are made surer.
        mixup: parameter of the Beta distribution of the shares in which views are mixed.
    """

    def __init__(self, prior: Tensor, *, temperature: float, mixup: float) -> None:
        self._prior, self._temperature = prior, temperature
        self._shares = torch.distributions.Beta(mixup, mixup)

    def __call__(
        self,
        networks: Sequence[Classifier],
        views: Tensor,
        labels: Tensor,
        clean: Tensor,
        believed: Tensor,
        *,
        weight: float,
    ) -> _Metrics:
        """The sum over the networks of what they lose: on labels, on guesses, and by forgetting classes.

        Args:
            networks: two.
            views: (2n, 3, s, s) float, normalised: one of all n pictures, then another.
            labels: (n,) int64.
            clean: (n, 2) float32, how likely the label of each picture is right, as each network is told.
            believed: (n, 2) bool, whether it counts.
            weight: of the guesses.

        Returns:
            ``loss``; ``chance``, that of networks to which all classes are alike; and the parts of the loss.
        """
        with torch.no_grad():
            guesses = [network(views).softmax(1).view(2, len(labels), -1).mean(0) for network in networks]
        torch.clear_autocast_cache()  # older torch would learn through its weights, which lack a graph
        guessed = sharpen(torch.stack(guesses).mean(0), temperature=self._temperature)
        given = F.one_hot(labels, len(self._prior)).float()
        sums: _Metrics = {}
        for place, (network, own) in enumerate(zip(networks, guesses, strict=True)):
            trust = clean[:, place, None]
            refined = sharpen(trust * given + (1 - trust) * own, temperature=self._temperature)
            targets = torch.where(believed[:, place, None], refined, guessed)
            found = self._mixed(network, views, targets.repeat(2, 1), believed[:, place].repeat(2), weight)
            sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
        return sums

    def _mixed(
        self, network: Classifier, views: Tensor, targets: Tensor, believed: Tensor, weight: float
    ) -> dict[str, Tensor]:
        """What one network loses on views, each mixed with another; the larger share says how it counts."""
        drawn = float(self._shares.sample())
        share, partner = max(drawn, 1 - drawn), torch.randperm(len(views)).to(views.device)
        views = share * views + (1 - share) * views[partner]
        targets = share * targets + (1 - share) * targets[partner]
        logits = network(views)
        of_labels, of_guesses = _weights(believed), _weights(~believed)

        def losses(logits: Tensor) -> tuple[Tensor, Tensor]:
            labelled = soft_cross_entropy(network.head.harder(logits, targets), targets)
            guessed = soft_squared_error(logits, targets)
            return (of_labels * labelled).sum(), (of_guesses * guessed).sum()  # @ would be 16 bits

        labelled, guessed = losses(logits)
        forgotten = prior_divergence(network.remember(logits), self._prior)
        with torch.no_grad():
            blind = losses(torch.zeros_like(logits))
        return {
            "loss": labelled + weight * guessed + forgotten,
            "chance": blind[0] + weight * blind[1],
            "label_loss": labelled.detach(),
            "guess_loss": guessed.detach(),
            "prior_divergence": forgotten.detach(),
        }


def _weights(chosen: Tensor) -> Tensor:
    """What each of (n,) counts in a mean over the chosen ones of all processes; 0 where there are none."""
    counted = chosen.float()
    return counted * processes.world() / processes.total(counted.sum()).clamp_min(1.0)
