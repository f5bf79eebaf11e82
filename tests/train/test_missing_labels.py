"""What is not known contributes exactly nothing: to losses, through heads, and to whole batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from facekit.models import build
from facekit.train.probe.examples import TEST, TRAIN, VALIDATION, Examples, Picture, TaskName
from facekit.train.probe.fitting import mirrored_targets
from facekit.train.probe.tasks import Task, task_of

CHANNELS, ROWS, POINTS = 6, 8, 5
NAMES: dict[TaskName, tuple[str, ...]] = {
    "classes": ("left", "front", "right"),
    "attributes": ("a", "b", "c", "d"),
    "affect": ("valence", "arousal"),
    "action_units": ("AU1", "AU2", "AU4"),
    "landmarks": tuple("01234"),
    "reconstruction": tuple("01234"),
}
COLUMNS = ("attributes", "affect", "action_units")


def examples_of(name: TaskName) -> Examples:
    generator = torch.Generator().manual_seed(1)
    count = len(NAMES[name])
    shape = {"landmarks": (ROWS, POINTS, 2), "reconstruction": (ROWS, POINTS, 3)}.get(name, (ROWS, count))
    targets = torch.rand(shape, generator=generator)
    if name == "classes":
        targets = torch.arange(ROWS) % count
    elif name == "attributes":
        targets = targets.round()
    split = torch.tensor([TRAIN] * (ROWS - 2) + [VALIDATION, TEST], dtype=torch.uint8)
    mirror = (1, 0, 2, 4, 3) if len(shape) == 3 else ()
    return Examples("set", name, NAMES[name], [Picture(Path("x"))] * ROWS, targets, split, mirror=mirror)


def hidden(targets: Tensor, mask: Tensor) -> Tensor:
    """The targets, without those of the rows or entries in the mask."""
    if not targets.is_floating_point():
        return torch.where(mask, -1, targets)
    return torch.where(mask.view(mask.shape + (1,) * (targets.ndim - mask.ndim)), torch.nan, targets)


def inputs_of(task: Task) -> Tensor:
    shape = (ROWS, CHANNELS) if task.sees == "vector" else (ROWS, CHANNELS, 2, 2)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def setting(name: TaskName) -> tuple[Examples, Task, torch.nn.Module]:
    examples = examples_of(name)
    task = task_of(examples)
    torch.manual_seed(0)
    return examples, task, task.head(CHANNELS, 64)


masks = st.lists(st.booleans(), min_size=ROWS * 5, max_size=ROWS * 5)


@pytest.mark.parametrize("name", NAMES)
@given(drawn=masks)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_outputs_of_what_is_unknown_have_no_gradient_and_no_say(name: TaskName, drawn: list[bool]) -> None:
    """Each entry by itself, as far as the targets are: an attribute, a point, a class."""
    examples, task, head = setting(name)
    outputs = head(inputs_of(task)).detach()
    wide = torch.tensor(drawn).view(ROWS, 5)
    mask = wide[:, 0] if name == "classes" else wide[:, : examples.targets.shape[1]]
    targets = hidden(examples.targets, mask)
    asked = outputs.clone().requires_grad_()
    loss = task.loss(asked, targets)
    (gradient,) = torch.autograd.grad(loss, asked)
    assert gradient.isfinite().all()
    assert not gradient[mask].any()
    noisy = outputs.clone()
    noisy[mask] += 3 * torch.randn_like(noisy[mask])
    assert torch.equal(task.loss(noisy, targets), loss.detach())
    if mask.all():
        assert loss.item() == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_nothing_is_no_loss_and_no_gradient(name: TaskName) -> None:
    examples, task, head = setting(name)
    inputs = inputs_of(task).requires_grad_()
    loss = task.loss(head(inputs), hidden(examples.targets, torch.ones(ROWS, dtype=torch.bool)))
    loss.backward()
    assert loss.item() == 0
    gradients = [inputs.grad, *(parameter.grad for parameter in head.parameters())]
    assert all(gradient is None or not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("name", ["classes", *COLUMNS])
def test_a_picture_of_which_nothing_is_known_gets_no_gradient_through_the_head(name: TaskName) -> None:
    examples, task, head = setting(name)
    inputs = inputs_of(task).requires_grad_()
    mask = torch.zeros(ROWS, dtype=torch.bool)
    mask[[1, 4]] = True
    task.loss(head(inputs), hidden(examples.targets, mask)).backward()
    assert inputs.grad is not None
    assert not inputs.grad[mask].any()
    assert inputs.grad[~mask].any(1).all()


@pytest.mark.parametrize("name", COLUMNS)
def test_what_no_picture_of_a_batch_says_leaves_its_part_of_the_head_alone(name: TaskName) -> None:
    """But for the decay, which AdamW applies to whatever has a gradient, also one of 0."""
    examples, task, head = setting(name)
    mask = torch.zeros(examples.targets.shape, dtype=torch.bool)
    mask[:, 1] = True
    before = head.weight.detach().clone()
    assert isinstance(before, Tensor)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.1, weight_decay=0.01)
    task.loss(head(inputs_of(task)), hidden(examples.targets, mask)).backward()
    assert not head.weight.grad[1].any()
    assert not head.bias.grad[1].any()
    optimizer.step()
    torch.testing.assert_close(head.weight[1].detach(), before[1] * (1 - 0.1 * 0.01), rtol=1e-6, atol=0)
    assert (head.weight[0] - before[0]).abs().max() > 0.05


def test_a_point_that_no_picture_shows_leaves_its_map_alone() -> None:
    examples, task, head = setting("landmarks")
    mask = torch.zeros(ROWS, POINTS, dtype=torch.bool)
    mask[:, 3] = True
    task.loss(head(inputs_of(task)), hidden(examples.targets, mask)).backward()
    gradient = head.locate.weight.grad
    assert not gradient[3].any()
    assert gradient[[0, 1, 2, 4]].flatten(1).any(1).all()


def test_half_a_point_is_none() -> None:
    """Where x is known and y is not, as in a table with a blank cell."""
    examples, task, head = setting("landmarks")
    outputs = head(inputs_of(task)).detach().requires_grad_()
    targets = examples.targets.clone()
    targets[2, 1, 1] = torch.nan
    (gradient,) = torch.autograd.grad(task.loss(outputs, targets), outputs)
    assert gradient.isfinite().all()
    assert not gradient[2, 1].any()


def test_pictures_of_which_nothing_is_known_still_move_the_batch_norms() -> None:
    """Which is why the pages say so: such a picture is no label, but it is seen."""
    torch.manual_seed(0)
    network = build("faceresnet", widths=(8, 16), depths=(1, 1), stem_width=8, embedding_dim=12).train()
    examples, task, _ = setting("attributes")
    head = task.head(12, 16)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    targets = torch.full_like(examples.targets, torch.nan)
    task.loss(head(network(torch.randn(ROWS, 3, 16, 16))), targets).backward()
    assert not any(p.grad.any() for p in network.parameters() if p.grad is not None)
    moved = [name for name, buffer in network.named_buffers() if not torch.equal(buffer, before[name])]
    assert any(name.endswith("running_mean") for name in moved)


def test_an_unknown_class_stays_unknown_in_the_mirror() -> None:
    examples, task, _ = setting("classes")
    targets = torch.tensor([0, -1, 1, 2])
    assert task.mirrored(targets).tolist() == [2, -1, 1, 0]
    mirrored = mirrored_targets(task, targets)
    assert mirrored is not None
    assert mirrored.dtype == torch.int64
    one_sided = task_of(replace(examples, names=("left", "front", "other")))
    assert mirrored_targets(one_sided, targets) is None
