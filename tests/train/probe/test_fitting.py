"""Heads on frozen features against scikit-learn; whole networks that learn what frozen ones do not see."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from facekit.checkpoint import ModelConfig
from facekit.errors import SettingError, TrainingError
from facekit.train.probe import finetuning
from facekit.train.probe.backbone import Backbone, open_backbone
from facekit.train.probe.examples import TEST, TRAIN, VALIDATION, Examples, Picture
from facekit.train.probe.features import Features
from facekit.train.probe.finetuning import FineTuneSettings, Labelled, Tuning, fine_tune
from facekit.train.probe.fitting import Plan, judged, learn
from facekit.train.probe.frozen import LinearSettings, fit_head
from facekit.train.probe.tasks import task_of
from facekit.train.recipe import Recipe, Scores, Step
from facekit.train.views import ViewSettings

UNKNOWN = math.nan


# ---------------------------------------------------------------- steps


def line(scores: list[float], loss: float = 1.0) -> Recipe:
    """One weight that grows by the learning rate in each step, and is judged as the list says."""
    weight = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(weight.weight)
    judgements = iter(scores)

    def batches(epoch: int, skip: int) -> Iterator[tuple[Tensor, ...]]:
        yield (torch.ones(2, 1),)
        yield (torch.ones(2, 1),)

    def step(batch: tuple[Tensor, ...], at: Step) -> dict[str, Tensor | float]:
        return {"loss": loss - weight(batch[0]).mean()}

    return Recipe(
        modules=nn.ModuleDict({"head": weight}),
        groups=[{"name": "all", "params": [weight.weight], "lr": 0.5, "weight_decay": 0.0}],
        steps_per_epoch=2,
        batches=batches,
        lr_factor=lambda at: 1.0,
        step=step,
        evaluate=lambda at: Scores({"score": next(judgements)}),
        export=lambda folder, scores: None,
    )


def plan(steps: int, looks: int) -> Plan:
    return Plan(steps, looks, 0, made.CPU, torch.float32)


def test_the_modules_are_left_as_they_were_at_the_best_look() -> None:
    recipe = line([0.1, 0.8, 0.8, -math.inf])
    looks = learn(recipe, plan(8, 4))
    assert [look.at for look in looks] == [2, 4, 6, 8]
    assert [look.score for look in looks] == [0.1, 0.8, 0.8, -math.inf]
    assert float(recipe.modules["head"].weight.detach()) == pytest.approx(4 * 0.5, rel=1e-4)
    assert looks[1].loss == pytest.approx(1.0 - (1.0 + 1.5) / 2, rel=1e-4)
    assert not recipe.modules.training


def test_looks_are_spread_over_the_steps_and_the_last_is_at_the_end() -> None:
    assert [look.at for look in learn(line([0.0] * 9), plan(7, 3))] == [3, 5, 7]
    assert [look.at for look in learn(line([-math.inf]), plan(1, 1))] == [1]


def test_a_loss_that_is_no_number_is_an_error() -> None:
    with pytest.raises(TrainingError, match="the loss is nan at step 3; give a lower learning rate"):
        learn(line([0.0] * 9, loss=math.nan), plan(8, 2))


# ---------------------------------------------------------------- frozen


def known_features(
    vectors: Tensor, mirrored: Tensor, targets: Tensor, split: Tensor, **what: Any
) -> tuple[Features, Examples]:
    """Features that nobody has to compute."""
    pictures = [Picture(Path("none"))] * len(vectors)
    examples = Examples("made", pictures=pictures, targets=targets, split=split, **what)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, vectors.shape[1]))
    config = ModelConfig("made", 1, 8, "rgb", (0.0,) * 3, (1.0,) * 3)
    features = Features(Backbone("made", network, config, made.CPU), examples, "vector")
    features._kept[0].copy_(vectors)
    features._kept[1].copy_(mirrored)
    features._known[:] = True
    return features, examples


def clusters(count: int, classes: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features of pictures and of their mirror images, in scales far apart, and classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, 6, generator=generator)
    scales = torch.tensor([1.0, 100.0, 0.01, 5.0, 1.0, 1.0])
    both = [centres[labels] + noise * torch.randn(count, 6, generator=generator) for _ in range(2)]
    return both[0] * scales + 7, both[1] * scales + 7, labels


def thirds(count: int) -> Tensor:
    return (torch.arange(count) // 8 % 3).to(torch.uint8)


@pytest.mark.parametrize("decay", [0.3, 0.003])
def test_a_linear_head_is_scikit_learns(decay: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    vectors, mirrored, labels = clusters(240, 4, 1.0)
    features, examples = known_features(
        vectors, mirrored, labels, thirds(240), task="classes", names=tuple("abcd")
    )
    rows, wanted = examples.rows(TRAIN), examples.rows(TEST)
    task = task_of(examples, rows)
    fitted = fit_head(features, task, rows, LinearSettings(decays=(decay,)), seed=0)
    mean, deviation = vectors[rows].mean(0), vectors[rows].std(0, correction=0)
    x = ((torch.cat([vectors[rows], mirrored[rows]]) - mean) / deviation).numpy()
    oracle = linear_model.LogisticRegression(C=1 / (len(x) * decay), tol=1e-8, max_iter=5000)
    oracle.fit(x, labels[rows].repeat(2).numpy())
    expected = oracle.predict_proba(((vectors[wanted] - mean) / deviation).numpy())
    got = fitted.outputs(wanted).softmax(1)
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-3)


def test_validation_chooses_the_weight_decay_and_the_seed_nothing() -> None:
    vectors, mirrored, labels = clusters(96, 3, 1.5, seed=1)
    junk = torch.randn(96, 40, generator=torch.Generator().manual_seed(0))
    features, examples = known_features(
        torch.cat([vectors, junk], 1),
        torch.cat([mirrored, junk], 1),
        labels,
        thirds(96),
        task="classes",
        names=tuple("abc"),
    )
    rows, judges = examples.rows(TRAIN), examples.rows(VALIDATION)
    task = task_of(examples, rows)
    fitted = fit_head(features, task, rows, LinearSettings(), seed=0)
    scores = [look.score for look in fitted.looks]
    assert fitted.best.score == max(scores) == scores[fitted.looks.index(fitted.best)]
    assert scores.index(fitted.best.score) == fitted.looks.index(fitted.best)
    assert judged(task, fitted.outputs(judges), judges).values["score"] == fitted.best.score
    assert [look.at for look in fitted.looks] == sorted((look.at for look in fitted.looks), reverse=True)
    again = fit_head(features, task, rows, LinearSettings(), seed=1)
    assert again.outputs(judges).equal(fitted.outputs(judges))


def test_attributes_that_nobody_knows_are_not_learnt_from() -> None:
    vectors, mirrored, labels = clusters(120, 2, 0.3)
    targets = torch.stack([labels, 1 - labels], 1).float()
    spoilt = targets.clone()
    spoilt[torch.arange(120) // 2 % 4 > 0, 0] = UNKNOWN
    features, examples = known_features(
        vectors, mirrored, spoilt, thirds(120), task="attributes", names=("a", "b")
    )
    rows, wanted = examples.rows(TRAIN), examples.rows(TEST)
    outputs = fit_head(features, task_of(examples, rows), rows, LinearSettings(), seed=0).outputs(wanted)
    assert (outputs > 0).float().equal(targets[wanted])


def test_people_are_told_apart_by_what_the_head_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    people = torch.arange(240) // 6
    told = torch.randn(40, 4, generator=generator)[people]
    vectors = torch.cat([told + 0.3 * torch.randn(240, 4, generator=generator)] * 2, 1)
    vectors[:, 4:] = 3 * torch.randn(240, 4, generator=generator)
    split = torch.where(people < 24, TRAIN, torch.where(people < 32, VALIDATION, TEST)).to(torch.uint8)
    features, examples = known_features(
        vectors, vectors, people, split, task="identities", names=tuple(map(str, range(40)))
    )
    rows, wanted = examples.rows(TRAIN), examples.rows(TEST)
    task = task_of(examples, rows)
    fitted = fit_head(features, task, rows, LinearSettings(head_steps=60, head_lr=1e-2), seed=3)
    raw = task.scores(vectors[wanted], wanted)["auc"]
    assert task.scores(fitted.outputs(wanted), wanted)["auc"] > max(0.8, raw + 0.2)
    first, again = (fit_head(features, task, rows, LinearSettings(head_steps=3), seed=3) for _ in range(2))
    assert first.looks == again.looks
    assert first.outputs(wanted).equal(again.outputs(wanted))


def test_heads_on_maps_learn_from_maps(tmp_path: Path) -> None:
    examples = dots(tmp_path, 24)
    backbone = open_backbone(str(made.tiny_checkpoint(tmp_path / "net")), size=32, seed=0, device=made.CPU)
    rows, wanted = examples.rows(TRAIN), examples.rows(TEST)
    task = task_of(examples, rows)
    features = Features(backbone, examples, "map")
    fitted = fit_head(features, task, rows, LinearSettings(head_steps=3), seed=0)
    assert features.of(rows).dtype == torch.float16
    assert fitted.outputs(wanted).shape == (len(wanted), 2, 2)
    assert [look.at for look in fitted.looks] == [1, 2, 3]
    with pytest.raises(SettingError, match="pixels: has no map of features"):
        Features(open_backbone("pixels", size=32, seed=0, device=made.CPU), examples, "map")


# ---------------------------------------------------------------- fine-tuned


def dots(folder: Path, count: int, mirror: tuple[int, ...] = (1, 0)) -> Examples:
    """A red dot on the left and a blue one on the right, in black."""
    generator = np.random.default_rng(0)
    pictures, targets = [], []
    for number in range(count):
        pixels = np.zeros((32, 32, 3), np.uint8)
        places = generator.integers([[2, 2], [18, 2]], [[12, 30], [28, 30]])
        for (x, y), colour in zip(places, ((255, 0, 0), (0, 0, 255)), strict=True):
            pixels[y : y + 2, x : x + 2] = colour
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        pictures.append(Picture(folder / f"{number}.png"))
        targets.append((places + 1) / 32)
    return Examples(
        "dots",
        "landmarks",
        ("red", "blue"),
        pictures,
        torch.tensor(np.array(targets), dtype=torch.float32),
        (torch.arange(count) // 4 % 3).to(torch.uint8),
        mirror=mirror,
    )


def test_all_layers_learn_what_a_frozen_network_does_not_see(tmp_path: Path) -> None:
    examples = made.classes(tmp_path / "set", (40, 20, 40))
    source = made.tiny_checkpoint(tmp_path / "net", blind=0.97)
    backbone = open_backbone(str(source), size=None, seed=0, device=made.CPU)
    before = {name: value.clone() for name, value in backbone.network.state_dict().items()}
    rows, wanted = examples.rows(TRAIN), examples.rows(TEST)
    task = task_of(examples, rows)
    views = replace(FineTuneSettings().views, jitter=0.0)
    settings = FineTuneSettings(least_steps=80, epochs=4, batch_size=40, lr=3e-3, views=views)

    def accuracy(outputs: Tensor) -> float:
        return task.scores(outputs, wanted)["accuracy"]

    frozen = fit_head(Features(backbone, examples, "vector"), task, rows, LinearSettings(), seed=0)
    tuned = fine_tune(backbone, task, examples, rows, settings, seed=0)
    assert accuracy(tuned.outputs(wanted)) > max(0.9, accuracy(frozen.outputs(wanted)) + 0.1)
    assert [look.at for look in tuned.looks] == [20, 40, 60, 80]
    assert tuned.best.score == max(look.score for look in tuned.looks)
    after = backbone.network.state_dict()
    assert all(value.equal(after[name]) for name, value in before.items())


def test_a_seed_fixes_the_course_and_another_takes_another(tmp_path: Path) -> None:
    examples = made.classes(tmp_path / "set", (6, 3, 3))
    backbone = open_backbone(str(made.tiny_checkpoint(tmp_path / "net")), size=None, seed=0, device=made.CPU)
    rows, settings = examples.rows(TRAIN), FineTuneSettings(least_steps=3, epochs=1, batch_size=5)
    task = task_of(examples, rows)
    first, again, other = (fine_tune(backbone, task, examples, rows, settings, seed=s) for s in (1, 1, 2))
    assert first.outputs(rows).equal(again.outputs(rows))
    assert first.looks == again.looks
    assert not torch.allclose(first.outputs(rows), other.outputs(rows))
    assert [look.at for look in first.looks] == [3]


def test_pictures_are_tested_as_those_were_that_chose(tmp_path: Path) -> None:
    """Decoded to another size than the network's, and shrunk from there."""
    examples = made.classes(tmp_path / "set", (3, 3, 3))
    backbone = open_backbone(str(made.tiny_checkpoint(tmp_path / "net")), size=None, seed=0, device=made.CPU)
    rows, judges = examples.rows(TRAIN), examples.rows(VALIDATION)
    labelled = Labelled.of(examples, rows, made.SIZE + 4)
    tuning = Tuning(
        backbone, task_of(examples, rows), labelled, FineTuneSettings().views, batch_size=4, seed=0
    )
    chose = tuning.told(labelled.seen.at(torch.arange(len(judges))))
    assert tuning.outputs(judges).equal(chose)


@pytest.mark.parametrize("known", [True, False])
def test_points_move_with_the_mirrored_picture(
    tmp_path: Path, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = dots(tmp_path, 24, mirror=(1, 0) if known else ())
    examples = replace(examples, interocular=(0, 1))
    rows = examples.rows(TRAIN)
    seen: list[tuple[Tensor, Tensor]] = []
    settings: list[ViewSettings] = []

    class Watching(type(task_of(examples, rows))):
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            seen.append((shown[-1], targets))
            return super().loss(outputs, targets)

    shown: list[Tensor] = []
    draw = finetuning.random_views

    def views(pictures: Tensor, how: ViewSettings, **more: Any) -> Tensor:
        settings.append(how)
        shown.append(pictures)
        return draw(pictures, how, **more)

    monkeypatch.setattr(finetuning, "random_views", views)
    backbone = open_backbone(str(made.tiny_checkpoint(tmp_path / "net")), size=32, seed=0, device=made.CPU)
    how = FineTuneSettings(least_steps=4, epochs=1, batch_size=8)
    fine_tune(backbone, Watching(examples), examples, rows, how, seed=0)
    assert {(s.area, s.aspect, s.flip) for s in settings} == {((1.0, 1.0), 1.0, 0.0)}
    turned = 0
    for pictures, targets in seen:
        for picture, points in zip(pictures, targets, strict=True):
            left, right = ((32 * points - 1).round().long()).tolist()
            turned += bool(picture[2, left[1], left[0]])  # the left one is blue
            assert picture.sum(0)[left[1], left[0]] == picture.sum(0)[right[1], right[0]] == 255
            assert left[0] < 16 <= right[0]
    assert (8 <= turned <= 24) if known else turned == 0


def test_what_cannot_be_fine_tuned(tmp_path: Path) -> None:
    examples = made.classes(tmp_path / "set", (2, 2, 2))
    rows = examples.rows(TRAIN)
    task = task_of(examples, rows)
    pixels = open_backbone("pixels", size=16, seed=0, device=made.CPU)
    with pytest.raises(SettingError, match="pixels: has no weights that could learn"):
        fine_tune(pixels, task, examples, rows, FineTuneSettings(), seed=0)
    network = open_backbone(str(made.tiny_checkpoint(tmp_path / "net")), size=None, seed=0, device=made.CPU)
    with pytest.raises(TrainingError, match="stripes: 1 pictures to learn from; batch norm needs two"):
        fine_tune(network, task, examples, rows[:1], FineTuneSettings(), seed=0)


def test_settings_that_nothing_could_be_learnt_by() -> None:
    for bad in (
        {"epochs": 0},
        {"least_steps": 0},
        {"batch_size": 1},
        {"lr": 0.0},
        {"lr": math.inf},
        {"weight_decay": -1.0},
    ):
        with pytest.raises(SettingError, match=f"{next(iter(bad))}="):
            FineTuneSettings(**bad)
    for bad in ({"decays": ()}, {"decays": (-1.0,)}, {"head_steps": 0}, {"head_lr": math.nan}):
        with pytest.raises(SettingError, match=f"{next(iter(bad))}="):
            LinearSettings(**bad)
