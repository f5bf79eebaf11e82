"""Self-training as a whole: the run without a pile, whom the teacher finds, the student, and the table."""

from __future__ import annotations

import json
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import facekit.models
from facekit.checkpoint import Calibration, ModelConfig, load_checkpoint
from facekit.errors import SettingError, TrainingError
from facekit.models.faceresnet import FaceResNet
from facekit.train import processes
from facekit.train.comparison import comparison_table
from facekit.train.config import DataSettings, OptimSettings, RunSettings
from facekit.train.data import shuffled_rows
from facekit.train.people import MarginSettings
from facekit.train.recipe import Recipe, Scores, Step
from facekit.train.recipes import convrec, selftrain
from facekit.train.recipes.selftrain import SelfTrainSettings, build_recipe, endless_rows
from facekit.train.run import train

_PEOPLE, _EACH, _NEW = 12, 6, 5


def _draw(folder: Path, person: int, numbers: range) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pattern = np.random.default_rng(person).uniform(0, 255, (7, 7, 3))
    for number in numbers:
        noise = np.random.default_rng(1000 * person + number).normal(0, 20, pattern.shape)
        face = Image.fromarray(np.clip(pattern + noise, 0, 255).astype(np.uint8))
        face.resize((112, 112), Image.Resampling.BICUBIC).save(folder / f"{person}-{number}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """people/: twelve, of whom three are held out; pile/: five others, and more pictures of the second."""
    folder = tmp_path_factory.mktemp("data")
    for person in range(_PEOPLE):
        _draw(folder / "people" / f"p{person:02d}", person, range(_EACH))
    for person in (1, *range(_PEOPLE, _PEOPLE + _NEW)):
        _draw(folder / "pile", person, range(_EACH, 2 * _EACH))
    return folder


class Pixels:
    """Stands for a teacher that knows everybody."""

    dim = 147

    def __init__(self, checkpoint: Any, device: object = None) -> None:
        self.config: ModelConfig = checkpoint.config

    def embed(self, crops: Tensor) -> Tensor:
        small = F.interpolate(crops.float(), (7, 7), mode="area").flatten(1)
        return F.normalize(small - small.mean(1, keepdim=True))


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(**sizes: Any) -> FaceResNet:
        # widths below 16 crash in torch 2.15's oneDNN (backward of a 1x1 convolution with stride 2)
        small = {"widths": (16, 16), "depths": (1, 1), "stem_width": 16, "embedding_dim": 32}
        return FaceResNet(**(sizes or small))

    known = MappingProxyType({**facekit.models.ARCHITECTURES, "faceresnet": build})
    monkeypatch.setattr(facekit.models, "ARCHITECTURES", known)
    monkeypatch.setattr(selftrain, "Embedder", Pixels)


def _settings(data: Path, out: Path, *, heldout: float = 0.25, **more: Any) -> SelfTrainSettings:
    return SelfTrainSettings(
        data=DataSettings(data=data / "people", heldout=heldout),
        unlabelled=data / "pile",
        run=RunSettings(
            out=out, epochs=1, batch_size=more.pop("batch_size", 18), device="cpu", precision="fp32"
        ),
        optim=OptimSettings(lr=5e-3),
        architecture="faceresnet",
        size=32,
        **{"threshold": 0.5, **more},
    )


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that has learnt nothing, for runs that need one."""
    folder = tmp_path_factory.mktemp("teacher") / "checkpoint"
    settings = _settings(data, folder.parent)
    with pytest.MonkeyPatch.context() as patch:
        small_networks.__wrapped__(patch)
        convrec.build_recipe(selftrain._supervised(settings, 54)).export(folder, Scores({}))
    return folder


@pytest.fixture
def untrained(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No supervised run comes first; its settings are kept beside the checkpoint."""
    monkeypatch.setattr(selftrain, "train_once", lambda name, settings, build, **_: teacher)
    return teacher


def test_the_whole_of_it(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    settings = _settings(data, tmp_path / "run")
    checkpoint = train("selftrain", settings, build_recipe)
    out, supervised = tmp_path / "run", tmp_path / "run" / "supervised"
    assert load_checkpoint(checkpoint).config.recipe["name"] == "selftrain"
    assert load_checkpoint(supervised / "checkpoint").config.recipe["name"] == "convrec"
    lines = (out / "pseudo.csv").read_text().splitlines()
    assert Counter(line.split(",")[1] for line in lines[1:]) == {
        "p01": _EACH,
        **{f"pseudo-{number:06d}": _EACH for number in range(1, 1 + _NEW)},
    }
    steps = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    (step,) = [line for line in steps if line["event"] == "step"]
    assert step["ratio"] == pytest.approx(step["margin_loss"] / step["pseudo_loss"], rel=1e-4)
    assert step["loss"] == pytest.approx(step["margin_loss"], rel=1e-4)
    figures = json.loads((out / "table.json").read_text())
    assert list(figures) == ["supervised only", "student"]
    assert {"auc", "eer", "tar@far=0.1"} <= figures["student"].keys()
    table = (out / "table.md").read_text()
    assert table in caplog.text
    assert table.startswith("| held-out people | supervised only | student | gain |")
    caplog.clear()
    again = train("selftrain", settings, build_recipe)  # all is found again
    assert again == checkpoint
    assert f"{supervised}: is finished" in caplog.text
    assert json.loads((out / "table.json").read_text()) == figures
    other = replace(settings, optim=OptimSettings(lr=1e-3))
    with pytest.raises(TrainingError, match=r"supervised: goes on with optim.lr=0.001, .* another --out"):
        train("selftrain", other, build_recipe)


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(
    data: Path, tmp_path: Path, untrained: Path
) -> None:
    how = {"teacher": str(untrained), "batch_size": 12}
    whole = load_checkpoint(train("selftrain", _settings(data, tmp_path / "whole", **how), build_recipe))

    def stopping(settings: SelfTrainSettings) -> Recipe:
        recipe = build_recipe(settings)
        step = recipe.step

        def interrupted(batch: tuple[Tensor, ...], at: Step) -> Any:
            if at.number == 4:
                signal.raise_signal(signal.SIGINT)
            return step(batch, at)

        object.__setattr__(recipe, "step", interrupted)
        return recipe

    settings = _settings(data, tmp_path / "parts", **how)
    with pytest.raises(KeyboardInterrupt):
        train("selftrain", settings, stopping)
    resumed = load_checkpoint(train("selftrain", settings, build_recipe))
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, rtol=0, atol=1e-5, msg=name)
    figures = json.loads((tmp_path / "parts" / "table.json").read_text())
    assert list(figures) == ["teacher", "supervised only", "student"]


def test_each_batch_has_both_in_proportion(data: Path, tmp_path: Path, untrained: Path) -> None:
    recipe = build_recipe(_settings(data, tmp_path, teacher=str(untrained), times=2))
    batches = list(recipe.batches(0, 0))
    assert len(batches) == recipe.steps_per_epoch == 9
    assert {(tuple(pictures.shape), tuple(labels.shape)) for pictures, labels in batches} == {
        ((6, 3, 3, 112, 112), (6, 3))
    }
    labels = torch.cat([labels for _, labels in batches])
    assert torch.bincount(labels[:, 0]).tolist() == [_EACH] * 9  # one pass over the labelled ones
    assert torch.bincount(labels[:, 1:].flatten()).tolist() == [3 * _EACH] * (
        1 + _NEW
    )  # and three over the pile
    later = list(recipe.batches(0, 7))
    assert all(
        torch.equal(a, b)
        for one, two in zip(later, batches[7:], strict=True)
        for a, b in zip(one, two, strict=True)
    )
    assert {name: recipe.modules.get_parameter(name).shape[0] for name in recipe.sharded} == {
        "head.weight": 9,
        "pseudo.weight": 1 + _NEW,
    }
    assert dict(recipe.sharded) == {"head.weight": 9, "pseudo.weight": 1 + _NEW}


def test_each_head_sees_its_own_part(data: Path, tmp_path: Path, untrained: Path) -> None:
    recipe = build_recipe(_settings(data, tmp_path, teacher=str(untrained), times=2, alpha=0.5))
    seen: dict[str, Any] = {}
    for name in ("head", "pseudo"):
        recipe.modules[name].register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args}))
    recipe.modules["backbone"].register_forward_hook(lambda _, x, y: seen.update(made=y))
    pictures, labels = next(recipe.batches(0, 0))
    metrics = recipe.step((pictures, labels), Step(0, 0.5, 0.0))
    made = seen["made"].view(6, 3, -1)
    assert torch.equal(seen["head"][0], made[:, 0])
    assert torch.equal(seen["head"][1], labels[:, 0])
    assert torch.equal(seen["pseudo"][0], made[:, 1:].reshape(12, -1))
    assert torch.equal(seen["pseudo"][1], labels[:, 1:].flatten())
    assert metrics["chance"] == pytest.approx(np.log(9) + metrics["scale"] * np.sin(metrics["margin"]))


def test_rows_without_end_are_passes_one_after_another() -> None:
    order = torch.cat(list(endless_rows(7, 3, range(0, 14), seed=5)))
    assert [sorted(order[start : start + 7].tolist()) for start in range(0, 42, 7)] == [list(range(7))] * 6
    assert len({tuple(order[start : start + 7].tolist()) for start in range(0, 42, 7)}) > 1
    assert torch.equal(torch.cat(list(endless_rows(7, 3, range(5, 9), seed=5))), order[15:27])
    assert torch.cat(list(endless_rows(2, 5, range(3), seed=5))).bincount().tolist() in ([8, 7], [7, 8])
    assert (
        next(iter(endless_rows(7, 7, range(1), seed=5))).tolist()
        == shuffled_rows(7, 7, seed=5, epoch=0)[0].tolist()
    )


@pytest.mark.parametrize(("batch_size", "times", "epochs"), [(18, 1, 2), (54, 1, 2), (54, 2, 3), (27, 2, 3)])
def test_the_supervised_run_has_as_many_steps_and_all_else_alike(
    data: Path, tmp_path: Path, batch_size: int, times: int, epochs: int
) -> None:
    settings = _settings(data, tmp_path, batch_size=batch_size, times=times, margin=0.3, license="mine")
    supervised = selftrain._supervised(settings, 54)
    assert supervised.run.epochs == epochs
    assert supervised.run.epochs * (54 // batch_size) == 54 // (batch_size // (1 + times))
    assert supervised.run.out == tmp_path / "supervised"
    for name in MarginSettings.__dataclass_fields__:
        assert name == "run" or getattr(supervised, name) == getattr(settings, name)


def test_the_table_says_where_there_is_no_gain() -> None:
    figures = {
        "one": {"auc": 0.9, "eer": 0.2, "tar@far=0.1": 0.5},
        "two": {"auc": 0.95, "eer": 0.25, "tar@far=0.1": 0.5},
    }
    assert comparison_table(figures, "one", "two").splitlines() == [
        "| held-out people | one | two | gain |",
        "|---|---|---|---|",
        "| auc | 0.9000 | 0.9500 | +0.0500 |",
        "| eer | 0.2000 | 0.2500 | none (-0.0500) |",
        "| tar@far=0.1 | 0.5000 | 0.5000 | none (0.0000) |",
    ]


def test_the_threshold_is_the_rarest_rate_that_was_measured() -> None:
    triple = (127.5, 127.5, 127.5)
    table = Calibration("x", 10**6, 10**3, {1e-2: 0.3, 1e-3: 0.4, 1e-4: 0.5})
    config = ModelConfig("onnx", 147, 112, "rgb", triple, triple, calibration=table)
    for asked, expected in (({}, 0.5), ({"far": 1e-3}, 0.4), ({"threshold": 0.7}, 0.7)):
        settings = _settings(Path(), Path("run"), **{"threshold": None, **asked})
        assert selftrain._threshold(settings, "teacher", config).similarity == expected
    few = ModelConfig(
        "onnx",
        147,
        112,
        "rgb",
        triple,
        triple,
        calibration=Calibration("x", 500, 10**3, {1e-1: 0.3, 1e-2: 0.4}),
    )
    common = _settings(Path(), Path("run"), threshold=None, far=0.1)
    assert selftrain._threshold(common, "teacher", few).similarity == 0.3
    for asked in ({}, {"far": 1e-2}):
        with pytest.raises(
            SettingError, match=r"teacher=.* 500 pairs of two people, does not tell .* --threshold"
        ):
            selftrain._threshold(_settings(Path(), Path("run"), threshold=None, **asked), "teacher", few)


def test_a_teacher_without_thresholds_is_refused_before_anything_is_trained(
    data: Path, tmp_path: Path, teacher: Path
) -> None:
    with pytest.raises(SettingError, match=r"teacher=.*has no calibration .* give --threshold"):
        build_recipe(_settings(data, tmp_path / "run", teacher=str(teacher), threshold=None))
    with pytest.raises(SettingError, match=r"too few people are held out .* give --threshold"):
        build_recipe(_settings(data, tmp_path / "run", heldout=0.1, threshold=None))
    with pytest.raises(SettingError, match=r"threshold: .* \(108 pairs of two\) .* 0.01 or less; raise"):
        build_recipe(_settings(data, tmp_path / "run", threshold=None))
    with pytest.raises(SettingError, match=r"far=0.05: too few people are held out .* raise --heldout"):
        build_recipe(_settings(data, tmp_path / "run", threshold=None, far=0.05))
    assert not (tmp_path / "run").exists()


def test_a_pile_of_labelled_pictures_is_refused_before_anything_is_trained(
    data: Path, tmp_path: Path
) -> None:
    settings = _settings(data, tmp_path / "run")
    object.__setattr__(settings, "unlabelled", data / "people" / "p03")
    with pytest.raises(TrainingError, match="all of its 6 pictures are among the labelled ones"):
        build_recipe(settings)
    assert not (tmp_path / "run").exists()


def test_a_pile_in_which_nothing_groups_is_refused(data: Path, tmp_path: Path, untrained: Path) -> None:
    with pytest.raises(TrainingError, match=r"threshold=1: 0 people with 3 pictures"):
        build_recipe(_settings(data, tmp_path / "run", threshold=1.0))


def test_processes_that_cannot_share_a_batch_are_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "world", lambda: 2)
    with pytest.raises(SettingError, match=r"batch_size=18: 9 labelled pictures .* give a multiple of 4"):
        build_recipe(_settings(data, tmp_path / "run"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 1.5},
        {"far": 0.0},
        {"far": 0.2},
        {"far": 0.001, "threshold": 0.5},
        {"least": 1},
        {"alpha": 0.0},
        {"times": 0},
        {"times": 3},
        {"mild": 2.0},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        _settings(Path(), Path("run"), **wrong)


def test_a_schedule_by_epochs_is_refused() -> None:
    """The run on labelled pictures alone has as many steps, and so more epochs: rates would differ."""
    with pytest.raises(SettingError, match="schedule=warm-restarts: give cosine"):
        replace(_settings(Path(), Path("run")), optim=OptimSettings(schedule="warm-restarts"))
