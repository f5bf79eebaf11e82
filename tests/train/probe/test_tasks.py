"""Tasks: what all of them promise, and what each loss and figure is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.errors import EvaluationError, TrainingError
from facekit.train.losses import margin_softmax
from facekit.train.probe.examples import TASKS, TEST, TRAIN, VALIDATION, Examples, Picture, TaskName
from facekit.train.probe.fitting import mirrored_targets
from facekit.train.probe.metrics import ccc, icc, pair_scores
from facekit.train.probe.tasks import Task, affect, task_of
from facekit.train.probe.tasks.mirror import mirrored_names

N, CHANNELS, SIDE = 60, 12, 64
ALL_KNOWN = ("identities", "classes")  # whose targets have no gaps
EYES = torch.tensor([[-0.5, -0.3, 0.3], [0.5, -0.3, 0.3], [0.0, 0.1, 0.6], [-0.3, 0.5, 0.4], [0.3, 0.5, 0.4]])


def faces(n: int) -> Tensor:
    """(n, 5, 3): a rough face, bent by two shapes, turned up to 80 degrees, in the picture."""
    generator = torch.Generator().manual_seed(3)
    bends = 0.1 * torch.randn(2, 5, 3, generator=generator)
    shapes = EYES + torch.einsum("nk,kpd->npd", torch.randn(n, 2, generator=generator), bends)
    yaw = torch.linspace(-1.4, 1.4, n)
    cos, sin, zero = yaw.cos(), yaw.sin(), torch.zeros(n)
    turn = torch.stack([cos, zero, sin, zero, zero + 1, zero, -sin, zero, cos], 1).view(n, 3, 3)
    points = shapes @ turn.mT * (0.3 + 0.02 * torch.randn(n, 1, 1, generator=generator))
    return points + 0.5 + 0.02 * torch.randn(n, 1, 3, generator=generator)


def examples_of(task: TaskName, n: int = N) -> Examples:
    """A set whose targets are known but for a tenth, where a task allows it."""
    torch.manual_seed(1)
    split = torch.tensor([TRAIN, TRAIN, TRAIN, VALIDATION, TEST], dtype=torch.uint8).repeat(n // 5)
    names: tuple[str, ...] = ("a", "b", "c")
    targets = torch.rand(n, 3)
    if task == "identities":
        people = torch.arange(n) // 5 % 4 + 4 * split.long()  # four in each split
        return Examples("set", task, tuple(map(str, range(12))), [Picture(Path("x"))] * n, people, split)
    if task == "classes":
        return Examples("set", task, names, [Picture(Path("x"))] * n, torch.arange(n) % 3, split)
    if task == "attributes":
        targets = (targets > 0.5).float()
    elif task == "affect":
        names, targets = ("valence", "arousal"), 2 * torch.rand(n, 2) - 1
    elif task == "action_units":
        targets = 5 * targets
    elif task in ("landmarks", "reconstruction"):
        names = tuple("01234")
        targets = faces(n) if task == "reconstruction" else faces(n)[..., :2]
    targets[torch.rand(targets.shape) < 0.1] = torch.nan
    mirror = (1, 0, 2, 4, 3) if task in ("landmarks", "reconstruction") else ()
    return Examples("set", task, names, [Picture(Path("x"))] * n, targets, split, mirror=mirror)


def seen(task: Task, n: int) -> Tensor:
    """What a head gets."""
    shape = (n, CHANNELS) if task.sees == "vector" else (n, CHANNELS, 2, 2)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.fixture(params=TASKS)
def examples(request: pytest.FixtureRequest) -> Examples:
    return examples_of(request.param)


# ---------------------------------------------------------------- what all tasks promise


def test_head_loss_and_scores_belong_together(examples: Examples) -> None:
    task = task_of(examples)
    torch.manual_seed(0)
    head = task.head(CHANNELS, SIDE)
    train, test = examples.rows(TRAIN), examples.rows(TEST)
    loss = task.loss(head(seen(task, len(train))), examples.targets[train])
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    loss.backward()
    gradients = [parameter.grad for parameter in head.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient is not None and gradient.any() for gradient in gradients)
    head.eval()
    with torch.no_grad():
        outputs = head(seen(task, N))
    scores = task.scores(outputs[test], test)
    assert [*scores] == [*dict.fromkeys([*scores])]
    assert set(scores) == {metric.name for metric in task.metrics}
    assert all(math.isfinite(value) for value in scores.values())
    validation = examples.rows(VALIDATION)
    assert task.metrics[0].name in task.scores(outputs[validation], validation)


def test_perfect_outputs_score_best(examples: Examples) -> None:
    task, rows = task_of(examples), examples.rows(TEST)
    targets = examples.targets[rows]
    if examples.task in ("identities", "classes"):
        outputs = F.one_hot(targets).float()
    elif examples.task == "attributes":
        outputs = targets.nan_to_num() - 0.5
    else:
        outputs = targets.nan_to_num()
    for metric in task.metrics:
        value = task.scores(outputs, rows)[metric.name]
        assert value == pytest.approx(1.0 if metric.higher_is_better else 0.0, abs=1e-6), metric


def test_a_head_learns_what_is_there(examples: Examples) -> None:
    """From features in which the targets are planted, nearly everything."""
    task = task_of(examples)
    torch.manual_seed(0)
    targets = examples.targets[examples.rows(TRAIN)[:12]]
    if task.sees == "vector":
        known = F.one_hot(targets, 12).float() if targets.ndim == 1 else targets.nan_to_num().flatten(1)
        inputs = known @ torch.randn(known.shape[1], CHANNELS * 2)
    else:
        inputs = targets.nan_to_num().flatten(1)[:, :, None, None].expand(-1, -1, 2, 2).contiguous()
    head = task.head(inputs.shape[1], SIDE)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    losses = []
    for _ in range(12 if task.sees == "map" else 60):
        optimizer.zero_grad()
        loss = task.loss(head(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("name", [name for name in TASKS if name not in ALL_KNOWN])
def test_unknown_targets_contribute_exactly_nothing(name: TaskName) -> None:
    examples = examples_of(name)
    task, rows = task_of(examples), examples.rows(TRAIN)
    targets = examples.targets[rows].clone()
    targets[3] = torch.nan
    torch.manual_seed(0)
    head = task.head(CHANNELS, SIDE)
    outputs = head(seen(task, len(rows))).detach().requires_grad_()
    loss = task.loss(outputs, targets)
    (gradient,) = torch.autograd.grad(loss, outputs)
    assert not gradient[3].any()
    assert gradient.isfinite().all()
    changed = outputs.detach().clone()
    changed[3] += 7
    assert task.loss(changed, targets) == loss.detach()


@pytest.mark.parametrize("name", [name for name in TASKS if name not in ALL_KNOWN])
def test_nothing_known_is_no_loss(name: TaskName) -> None:
    examples = examples_of(name)
    task = task_of(examples)
    head = task.head(CHANNELS, SIDE)
    targets = torch.full_like(examples.targets[:6], torch.nan)
    loss = task.loss(head(seen(task, 6)), targets)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in head.parameters())


@pytest.mark.parametrize("name", [name for name in TASKS if name != "affect"])  # agreement is of a batch
def test_parts_of_a_batch_add_up(name: TaskName) -> None:
    examples = examples_of(name)
    task, rows = task_of(examples), examples.rows(TRAIN)[:20]
    torch.manual_seed(0)
    outputs = task.head(CHANNELS, SIDE)(seen(task, 20)).detach()
    targets = examples.targets[rows]
    parts = [
        task.loss(outputs[part], targets[part]) * share
        for part, share in ((slice(0, 5), 0.25), (slice(5, 20), 0.75))
    ]
    assert float(sum(parts)) == pytest.approx(float(task.loss(outputs, targets)), rel=1e-5)


def test_losses_are_exact_under_autocast(examples: Examples) -> None:
    task, rows = task_of(examples), examples.rows(TRAIN)
    torch.manual_seed(0)
    outputs = task.head(CHANNELS, SIDE)(seen(task, len(rows))).detach()
    with torch.autocast("cpu", torch.bfloat16):
        loss = task.loss(outputs, examples.targets[rows])
        mixed = task.head(CHANNELS, SIDE)(seen(task, len(rows)))
        assert task.loss(mixed, examples.targets[rows]).dtype == torch.float32
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(task.loss(outputs, examples.targets[rows])), rel=1e-6)


def test_mirrored_twice_is_the_same(examples: Examples) -> None:
    task = task_of(examples)
    once = task.mirrored(examples.targets)
    torch.testing.assert_close(task.mirrored(once), examples.targets, equal_nan=True)
    points = examples.task in ("landmarks", "reconstruction")
    assert torch.equal(once.nan_to_num(), examples.targets.nan_to_num()) != points


def test_what_cannot_be_scored_is_said(examples: Examples) -> None:
    task, rows = task_of(examples), examples.rows(TEST)
    head = task.head(CHANNELS, SIDE).eval()
    outputs = head(seen(task, len(rows))).detach()
    with pytest.raises(EvaluationError, match="0 rows"):
        task.scores(outputs[:0], rows[:0])
    with pytest.raises(EvaluationError, match="one a row"):
        task.scores(outputs, rows[1:])
    outputs[0] = torch.nan
    with pytest.raises(EvaluationError, match="not finite"):
        task.scores(outputs, rows)


@pytest.mark.parametrize(("split", "word"), [(TRAIN, "to learn from"), (TEST, "test split")])
def test_sets_without_a_split(examples: Examples, split: int, word: str) -> None:
    examples.split[examples.rows(split)] = VALIDATION
    with pytest.raises(TrainingError, match=word):
        task_of(examples)


# ---------------------------------------------------------------- one by one


def test_identities_are_a_margin_softmax_over_the_chosen_people() -> None:
    examples = examples_of("identities")
    rows = ((examples.targets == 1) | (examples.targets == 3)).nonzero()[:, 0]
    task = task_of(examples, rows)
    head = task.head(CHANNELS, SIDE)
    cosines = head(seen(task, len(rows)))
    assert cosines.shape == (len(rows), 2)
    assert cosines.abs().max() <= 1 + 1e-6
    columns = (examples.targets[rows] == 3).long()
    expected = margin_softmax(cosines, columns, scale=30, margin=0, cosine_margin=0.2)
    assert task.loss(cosines, examples.targets[rows]) == expected


def test_identities_are_scored_over_all_pairs() -> None:
    examples = examples_of("identities", 600)
    task, rows = task_of(examples), examples.rows(TEST)
    vectors = torch.randn(len(rows), 8) + 2 * F.one_hot(examples.targets[rows] % 4, 8)
    names = [metric.name for metric in task.metrics]
    # 120 pictures of 4 people: 5400 pairs of two people, of which ten are more than 1e-3
    assert names == ["tar@far=0.01", "tar@far=0.1", "auc", "eer"]
    assert task.notes == ("too few test pairs for FAR 0.001, 0.0001, 1e-05, 1e-06",)
    people = examples.targets[rows].numpy()
    assert task.scores(vectors, rows) == pair_scores(vectors.double().numpy(), people, (0.1, 0.01))


def test_identities_that_nothing_can_be_measured_on() -> None:
    examples = examples_of("identities")
    examples.targets[examples.rows(TEST)] = 9
    with pytest.raises(EvaluationError, match="set: the test pictures need two people"):
        task_of(examples)


def test_few_validation_pairs_choose_by_area() -> None:
    examples = examples_of("identities", 600)
    examples.split[examples.rows(VALIDATION)[4:]] = TRAIN
    assert task_of(examples).metrics[0].name == "auc"


def test_attributes_that_nobody_has_are_left_out_and_named() -> None:
    examples = examples_of("attributes")
    rows = examples.rows(TEST)
    examples.targets[rows, 1] = 0
    task = task_of(examples)
    assert task.notes == ("no test picture has b: left out of macro_f1",)
    outputs = examples.targets[rows].nan_to_num() - 0.5
    outputs[:, 1] = 1
    scores = task.scores(outputs, rows)
    assert scores["macro_f1"] == 1
    known = (~examples.targets[rows].isnan()).sum(0)
    assert scores["accuracy"] == pytest.approx(float((known.sum() - known[1]) / known.sum()))
    examples.targets[rows] = 0
    with pytest.raises(EvaluationError, match="no F1"):
        task.scores(outputs, rows)


def test_attribute_loss() -> None:
    task = task_of(examples_of("attributes"))
    outputs, targets = torch.tensor([[0.5, -1.0], [2.0, 3.0]]), torch.tensor([[1, 0], [torch.nan, 1]])
    expected = sum(math.log1p(math.exp(-x)) for x in (0.5, 1.0, 3.0)) / 4
    assert float(task.loss(outputs, targets)) == pytest.approx(expected)


def test_affect_loss_is_agreement_and_closeness() -> None:
    task = task_of(examples_of("affect"))
    outputs, targets = torch.randn(9, 2), torch.rand(9, 2)
    targets[:4, 1] = torch.nan
    agreement = [
        ccc(outputs[:, 0].numpy(), targets[:, 0].numpy()),
        ccc(outputs[4:, 1].numpy(), targets[4:, 1].numpy()),
    ]
    squares = ((outputs - targets) ** 2).nan_to_num().sum() / 18
    expected = 1 - np.mean(agreement) + float(squares)
    assert float(task.loss(outputs, targets)) == pytest.approx(expected, rel=1e-5)


def test_affect_agreement_is_that_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(examples_of("affect"))
    outputs, targets = torch.randn(10, 2), torch.rand(10, 2)
    whole = task.loss(outputs, targets)
    others = {"outputs": outputs[5:], "targets": targets[5:]}
    turns = iter(("outputs", "targets"))
    monkeypatch.setattr(affect, "gathered", lambda part: torch.cat([part, others[next(turns)]]))
    assert torch.equal(task.loss(outputs[:5], targets[:5]), whole)


def test_one_known_row_has_no_agreement() -> None:
    task = task_of(examples_of("affect"))
    outputs = torch.ones(3, 2, requires_grad=True)
    targets = torch.full((3, 2), torch.nan)
    targets[0] = 0.5
    loss = task.loss(outputs, targets)
    loss.backward()
    assert loss.item() == pytest.approx(2 * 0.25 / 6)
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_affect_scores_the_known() -> None:
    examples = examples_of("affect")
    rows = examples.rows(TEST)
    outputs = torch.randn(len(rows), 2)
    found = task_of(examples).scores(outputs, rows)
    for column, name in enumerate(("valence", "arousal")):
        targets = examples.targets[rows, column]
        known = ~targets.isnan()
        assert found[f"ccc_{name}"] == pytest.approx(
            ccc(outputs[known, column].numpy(), targets[known].numpy())
        )
    assert found["ccc"] == pytest.approx((found["ccc_valence"] + found["ccc_arousal"]) / 2)


def test_action_units_are_clamped_and_those_that_never_change_left_out() -> None:
    examples = examples_of("action_units")
    rows = examples.rows(TEST)
    examples.targets[rows, 2] = 1.0
    task = task_of(examples)
    assert task.notes == ("c never changes in the test pictures: left out of icc",)
    outputs = torch.rand(len(rows), 3) * 8 - 1
    found = task.scores(outputs, rows)
    told, agreement = outputs.double().clamp(0, 5).numpy(), []
    for column in range(2):
        truth = examples.targets[rows, column].numpy()
        known = ~np.isnan(truth)
        agreement.append(icc(np.stack([told[known, column], truth[known]], 1)))
    assert found["icc"] == pytest.approx(np.mean(agreement))
    known = ~examples.targets[rows].isnan()
    off = np.square(told - examples.targets[rows].numpy())
    assert found["mse"] == pytest.approx(np.mean([off[known[:, c], c].mean() for c in range(3)]), rel=1e-5)
    examples.targets[rows] = 1.0
    with pytest.raises(EvaluationError, match="no ICC"):
        task.scores(outputs, rows)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("smile", "bright", "Pale"), (0, 1, 2)),
        (("left", "front", "right"), (2, 1, 0)),
        (("eye_Right", "smile", "eye_Left"), (2, 1, 0)),
        (("left", "front", "other"), None),
    ],
)
def test_sides_change_places_in_a_mirrored_picture(
    names: tuple[str, ...], expected: tuple[int, ...] | None
) -> None:
    assert mirrored_names(names) == expected
    classes = task_of(replace(examples_of("classes"), names=names))
    attributes = task_of(replace(examples_of("attributes"), names=names))
    targets, told = torch.tensor([0, 1, 2, 2]), torch.tensor([[1.0, 0.0, torch.nan]])
    if expected is None:
        assert mirrored_targets(classes, targets) is None
        assert mirrored_targets(attributes, told) is None
        return
    mirrored = classes.mirrored(targets)
    assert mirrored.dtype == torch.int64
    assert mirrored.tolist() == [expected[label] for label in targets]
    torch.testing.assert_close(attributes.mirrored(told), told[:, list(expected)], equal_nan=True)


def test_one_class_is_nothing_to_tell() -> None:
    alone = replace(examples_of("classes"), names=("a",), targets=torch.zeros(N, dtype=torch.int64))
    with pytest.raises(TrainingError, match="1 classes; to tell apart takes two"):
        task_of(alone)


def test_a_set_without_mirror_numbers_has_no_mirrored_points() -> None:
    given = examples_of("landmarks")
    bare = Examples("set", "landmarks", given.names, given.pictures, given.targets, given.split)
    assert task_of(bare).mirrored(bare.targets).isnan().all()


def test_mirrored_points() -> None:
    task = task_of(examples_of("landmarks"))
    points = torch.tensor([[[0.2, 0.3], [0.7, 0.3], [0.4, 0.5], [0.25, 0.8], [0.6, 0.8]]])
    expected = torch.tensor([[[0.3, 0.3], [0.8, 0.3], [0.6, 0.5], [0.4, 0.8], [0.75, 0.8]]])
    torch.testing.assert_close(task.mirrored(points), expected)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (7, 5)])
def test_points_from_maps_of_any_size(shape: tuple[int, int]) -> None:
    task = task_of(examples_of("landmarks"))
    head = task.head(CHANNELS, SIDE)
    maps = torch.randn(3, CHANNELS, *shape)
    assert head(maps).shape == (3, 5, 8 * shape[0], 8 * shape[1])
    points = head.eval()(maps)
    assert points.shape == (3, 5, 2)
    assert points.min() >= 0
    assert points.max() <= 1


def test_landmarks_without_eyes_cannot_be_scored() -> None:
    examples = examples_of("landmarks")
    examples.targets[:, 0] = torch.nan
    rows = examples.rows(TEST)
    with pytest.raises(EvaluationError, match="no picture with known eyes"):
        task_of(examples).scores(torch.rand(len(rows), 5, 2), rows)


def test_reconstruction_averages_over_yaw() -> None:
    examples = examples_of("reconstruction", 100)
    task, rows = task_of(examples), examples.rows(TEST)
    names = [metric.name for metric in task.metrics]
    assert names == ["nme", "nme_0_30", "nme_30_60", "nme_60_90", "nme_2d"]
    outputs = examples.targets[rows].nan_to_num() + torch.tensor([0.0, 0.0, 9.0])  # where z begins is free
    outputs = outputs + 0.01 * torch.randn(outputs.shape)
    found = task.scores(outputs, rows)
    assert found["nme"] == pytest.approx(np.mean([found[name] for name in names[1:4]]))
    assert 0 < found["nme_2d"] < found["nme"] < 0.2


def test_reconstruction_without_a_bin_says_so() -> None:
    examples = examples_of("reconstruction", 100)
    rows = examples.rows(TEST)
    examples.split[rows[:4]] = VALIDATION
    examples.split[rows[-4:]] = VALIDATION
    task = task_of(examples)
    assert task.notes == ("no test picture at 60-90 degrees of yaw",)
    assert "nme_60_90" not in [metric.name for metric in task.metrics]
    assert isinstance(task.head(CHANNELS, SIDE), nn.Module)
