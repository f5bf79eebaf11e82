"""Few labels of many: of each class its share, of people whole ones, and always the same for a seed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from facekit.errors import SettingError
from facekit.train.probe.examples import TRAIN, Examples, Picture, TaskName
from facekit.train.probe.subsets import Labels, choose_labels, digest


def examples(targets: Tensor, task: TaskName, split: Tensor | None = None) -> Examples:
    split = torch.zeros(len(targets), dtype=torch.uint8) if split is None else split
    return Examples("made", task, (), [Picture(Path("none"))] * len(targets), targets, split)


def classes(*counts: int) -> Examples:
    """Classes of so many pictures each, shuffled."""
    targets = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    targets = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(5))]
    return examples(targets, "classes")


@pytest.mark.parametrize("fraction", [0.003, 0.01, 0.1, 0.33, 0.9])
def test_each_class_gives_its_share_and_at_least_one(fraction: float) -> None:
    made = classes(1000, 300, 37, 3)
    rows = choose_labels(made, Labels(fraction), seed=1)
    counts = torch.bincount(made.targets[rows], minlength=4)
    assert int(counts.min()) >= 1
    exact = fraction * torch.tensor([1000, 300, 37, 3])
    assert bool(((counts - exact).abs() <= 1).all())
    assert len(rows) == max(round(fraction * 1340), int(exact.floor().clamp_min(1).sum()))
    assert bool((rows.diff() > 0).all())


def test_a_seed_fixes_the_choice_and_another_chooses_others() -> None:
    made = classes(400, 400)
    first, again, other = (choose_labels(made, Labels(0.1), seed=seed) for seed in (3, 3, 4))
    assert first.equal(again)
    assert not first.equal(other)
    assert len(first) == len(other) == 80
    assert digest(first) == digest(again) != digest(other)


def test_of_one_seed_fewer_labels_are_among_the_more() -> None:
    people = examples(torch.arange(60).repeat_interleave(3), "identities")
    for made in (classes(300, 90, 11), people, examples(torch.zeros(200, 2), "affect")):
        chosen = [set(choose_labels(made, Labels(f), seed=2).tolist()) for f in (0.01, 0.1, 0.3, 1.0)]
        assert all(less < more for less, more in pairwise(chosen))


def test_over_seeds_every_row_is_chosen_equally_often() -> None:
    made = classes(60, 20)
    counts = torch.zeros(80)
    for seed in range(300):
        counts[choose_labels(made, Labels(0.25), seed=seed)] += 1
    assert float((counts / 300 - 0.25).abs().max()) < 0.12  # 4.8 standard deviations


def test_of_people_whole_ones_are_chosen() -> None:
    made = examples(torch.arange(50).repeat_interleave(6) * 3, "identities")
    rows = choose_labels(made, Labels(0.1), seed=0)
    people, counts = made.targets[rows].unique(return_counts=True)
    assert len(people) == 5
    assert counts.tolist() == [6] * 5
    assert len(made.targets[choose_labels(made, Labels(0.001), seed=0)].unique()) == 2


@pytest.mark.parametrize("task", ["attributes", "landmarks", "affect", "action_units", "reconstruction"])
def test_elsewhere_rows_are_drawn(task: TaskName) -> None:
    made = examples(torch.zeros(200, 2), task)
    assert len(choose_labels(made, Labels(0.1), seed=0)) == 20
    assert len(choose_labels(made, Labels(0.001), seed=0)) == 1


def test_only_the_training_split_is_used() -> None:
    split = (torch.arange(90) % 3).to(torch.uint8)
    made = examples(torch.zeros(90, 2), "attributes", split)
    for labels in (Labels(0.5), Labels(1.0), Labels(first=7)):
        rows = choose_labels(made, labels, seed=0)
        assert bool((made.split[rows] == TRAIN).all())
    assert choose_labels(made, Labels(first=3), seed=9).tolist() == [0, 3, 6]
    assert choose_labels(made, Labels(), seed=9).equal(made.rows(TRAIN))


def test_how_tables_say_it() -> None:
    assert [str(Labels(share)) for share in (0.01, 0.005, 0.1, 1.0)] == ["1 %", "0.5 %", "10 %", "100 %"]
    assert str(Labels(first=1627)) == "first 1627"
    assert [labels.drawn for labels in (Labels(0.5), Labels(), Labels(first=4))] == [True, False, False]


def test_what_cannot_be_asked_for() -> None:
    for fraction in (0.0, -0.1, 1.01, float("nan")):
        with pytest.raises(SettingError, match="fraction="):
            Labels(fraction)
    with pytest.raises(SettingError, match="first=0"):
        Labels(first=0)
    with pytest.raises(SettingError, match="first=51: made has 50 pictures to train on"):
        choose_labels(classes(25, 25), Labels(first=51), seed=0)
    nothing = examples(torch.zeros(5, dtype=torch.int64), "classes", torch.full((5,), 2, dtype=torch.uint8))
    with pytest.raises(SettingError, match="no pictures to train on"):
        choose_labels(nothing, Labels(), seed=0)
