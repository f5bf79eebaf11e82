"""Scores and thresholds of held-out people, against one large product."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from facekit.evaluate import roc
from facekit.train.validate import calibrate, heldout_curve, heldout_scores, impostor_pairs


def embedded(people: int, pictures: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(people).repeat_interleave(pictures)
    vectors = torch.randn(people, 32, generator=generator)[labels]
    vectors += 1.2 * torch.randn(vectors.shape, generator=generator)
    return torch.nn.functional.normalize(vectors), labels


def test_scores_and_thresholds_are_those_of_all_pairs() -> None:
    vectors, labels = embedded(50, 4)
    i, j = np.triu_indices(200, 1)
    scores = (vectors.double() @ vectors.double().T).numpy()[i, j]
    same = (labels[i] == labels[j]).numpy()
    exact, curve = roc(scores[same], scores[~same]), heldout_curve(vectors, labels)
    assert curve is not None
    found, table = heldout_scores(curve), calibrate(curve, "some people")
    assert list(table.thresholds) == [0.1, 0.01, 0.001]  # 19,600 impostor pairs
    assert (table.genuine_pairs, table.impostor_pairs, table.data) == (300, 19_600, "some people")
    for far, threshold in table.thresholds.items():
        assert threshold == pytest.approx(exact.threshold_at_far(far), abs=1e-4)
        assert np.mean(scores[~same] >= threshold + 2**-15) <= far
        assert found.values[f"tar@far={far:g}"] == pytest.approx(exact.tar_at_far(far), abs=4e-3)
    assert (sum(found.genuine), sum(found.impostor)) == (300, 19_600)


@pytest.mark.parametrize(("people", "pictures"), [(1, 20), (20, 1), (7, 2)])
def test_of_too_few_pairs_there_is_no_curve(people: int, pictures: int) -> None:
    vectors, labels = embedded(people, pictures)
    assert heldout_curve(vectors, labels) is None
    assert impostor_pairs(labels) == people * (people - 1) // 2 * pictures**2
