"""A step in parts is the step as a whole; where memory runs out, the parts get smaller."""

from __future__ import annotations

from typing import Any

import linear_run
import pytest
import torch
from torch import Tensor

from facekit.errors import TrainingError
from facekit.train.recipe import Recipe, Step
from facekit.train.update import Update

_START = Step(0, 0.0, 0.0)


def _update(recipe: Recipe, **settings: Any) -> Update:
    optimizer = torch.optim.SGD(recipe.groups)
    how = {"device": torch.device("cpu"), "dtype": torch.float32, "clip": 1e9, "micro_batch": None, "seed": 0}
    return Update(recipe, optimizer, **{**how, **settings})


def _stepped(**settings: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights after a step, and its metrics."""
    recipe = linear_run.build()
    metrics = _update(recipe, **settings)(next(recipe.batches(0, 0)), _START)
    return recipe.modules.state_dict(), {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize("micro_batch", [2, 4, 5, 7, 100])
def test_parts_add_up_to_the_whole(micro_batch: int) -> None:
    whole, metrics = _stepped()
    parts, others = _stepped(micro_batch=micro_batch)
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-5, atol=1e-6)
    assert others == pytest.approx(metrics, rel=1e-4)


def test_the_gradient_is_clipped_over_all_parameters() -> None:
    recipe = linear_run.build()
    before = {name: weight.clone() for name, weight in recipe.modules.state_dict().items()}
    for group in recipe.groups:
        group |= {"lr": 0.1, "weight_decay": 0.0}
    norm = float(_update(recipe, clip=0.01)(next(recipe.batches(0, 0)), _START)["gradient_norm"])
    change = [recipe.modules.state_dict()[name] - weight for name, weight in before.items()]
    assert norm > 0.01
    assert float(torch.cat([part.flatten() for part in change]).norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)


def _with_memory_for(recipe: Recipe, most: int) -> list[int]:
    """Let a step fail with more pictures; the sizes that were tried."""
    tried: list[int] = []
    step = recipe.step

    def limited(batch: tuple[Tensor, ...], at: Step) -> Any:
        tried.append(len(batch[0]))
        if len(batch[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return step(batch, at)

    object.__setattr__(recipe, "step", limited)
    return tried


def test_where_memory_runs_out_the_parts_are_halved_and_the_step_is_the_same() -> None:
    whole, _ = _stepped()
    recipe = linear_run.build()
    tried = _with_memory_for(recipe, 4)
    update = _update(recipe)
    update(next(recipe.batches(0, 0)), _START)
    assert tried == [12, 6, 3, 3, 3, 3]
    assert update.said == [
        "out of memory: from here on 6 pictures at a time, with the same batch size",
        "out of memory: from here on 3 pictures at a time, with the same batch size",
    ]
    for name, weight in whole.items():
        torch.testing.assert_close(recipe.modules.state_dict()[name], weight, rtol=1e-5, atol=1e-6)
    tried.clear()
    update(next(recipe.batches(0, 1)), _START)
    assert tried == [3, 3, 3, 3]


@pytest.mark.parametrize(("micro_batch", "remedy"), [(None, "smaller network"), (8, "--micro-batch 4")])
def test_what_cannot_be_made_to_fit_is_one_line(micro_batch: int | None, remedy: str) -> None:
    recipe = linear_run.build()
    _with_memory_for(recipe, 1)
    with pytest.raises(TrainingError, match=remedy) as caught:
        _update(recipe, micro_batch=micro_batch)(next(recipe.batches(0, 0)), _START)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(
        "2 pictures at a time" if micro_batch is None else "8 pictures at a time"
    )
    if micro_batch is None:  # probes end here, which have no such flag
        assert "give a smaller --size" in str(caught.value)
        assert "micro" not in str(caught.value)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    recipe = linear_run.build()
    object.__setattr__(recipe, "step", lambda batch, at: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _update(recipe)(next(recipe.batches(0, 0)), _START)


def test_a_gradient_that_is_no_number_changes_no_weight() -> None:
    recipe = linear_run.build()
    before = {name: weight.clone() for name, weight in recipe.modules.state_dict().items()}
    weight = recipe.modules["backbone"].weight
    object.__setattr__(recipe, "step", lambda batch, at: {"loss": weight.sum() * torch.nan})
    _update(recipe)(next(recipe.batches(0, 0)), _START)
    assert all(torch.equal(recipe.modules.state_dict()[name], value) for name, value in before.items())
