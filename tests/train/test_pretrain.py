"""Whole small runs of the recipes without labels: learnt from made-up pictures, interrupted, opened again."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import objective_run
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from side_by_side import exit_codes

import facekit.models
from facekit import FaceRecognition
from facekit.checkpoint import ModelConfig, load_checkpoint, save_checkpoint
from facekit.errors import FacekitError, SettingError, TrainingError
from facekit.models.faceresnet import FaceResNet
from facekit.train.__main__ import main
from facekit.train.config import DataSettings, OptimSettings, RunSettings
from facekit.train.data import read_listing
from facekit.train.loop import fit
from facekit.train.network import NetworkSettings
from facekit.train.recipe import Recipe, Step
from facekit.train.recipes import bregman, simclr, swav, vcl
from facekit.train.settings import from_json, portable
from facekit.train.views import ViewSettings

_PICTURES = 40


def _pattern(rng: np.random.Generator) -> Image.Image:
    pixels = rng.uniform(0, 255, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, some of them in folders inside it, of which nothing is known."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    (folder / "more").mkdir()
    for number in range(_PICTURES):
        _pattern(rng).save(folder / ("more" if number % 4 == 0 else "") / f"{number:02d}.png")
    return folder


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(**sizes: Any) -> FaceResNet:
        small = {"widths": (16, 32), "depths": (1, 1), "stem_width": 16, "embedding_dim": 32}
        return FaceResNet(**(sizes or small))

    known = MappingProxyType({**facekit.models.ARCHITECTURES, "faceresnet": build})
    monkeypatch.setattr(facekit.models, "ARCHITECTURES", known)


def _shared(data: Path, out: Path, *, epochs: int = 2) -> dict[str, Any]:
    return {
        "data": DataSettings(data=data, heldout=0.1),
        "run": RunSettings(out=out, epochs=epochs, batch_size=12, device="cpu", precision="fp32"),
        "optim": OptimSettings(lr=3e-3),
        "network": NetworkSettings(architecture="faceresnet", size=32, resolution=48),
    }


def _simclr(data: Path, out: Path, **how: Any) -> Recipe:
    return simclr.build_recipe(simclr.SimCLRSettings(**_shared(data, out, **how)))


def _first_head(data: Path, out: Path, **how: Any) -> Recipe:
    return simclr.build_recipe(simclr.SimCLRSettings(head="v1", **_shared(data, out, **how)))


def _vcl(data: Path, out: Path, **how: Any) -> Recipe:
    return vcl.build_recipe(vcl.VCLSettings(**_shared(data, out, **how)))


def _beta(data: Path, out: Path, **how: Any) -> Recipe:
    settings = vcl.VCLSettings(beta=True, squared=True, distance="imagenet", **_shared(data, out, **how))
    return vcl.build_recipe(settings)


def _bregman(data: Path, out: Path, **how: Any) -> Recipe:
    settings = bregman.BregmanSettings(subnetworks=7, hidden=16, **_shared(data, out, **how))
    return bregman.build_recipe(settings)


def _swav(data: Path, out: Path, **how: Any) -> Recipe:
    settings = swav.SwAVSettings(
        prototypes=9, queue=24, small_views=2, small_size=16, **_shared(data, out, **how)
    )
    return swav.build_recipe(settings)


_ALL = {
    "simclr": (_simclr, set()),
    "simclr v1": (_first_head, set()),
    "vcl": (_vcl, {"contrast", "distance", "norm", "mean_sigma"}),
    "vcl beta": (_beta, {"contrast", "distance", "norm", "mean_sigma"}),
    "bregman": (_bregman, {"nt_xent", "bregman", "balance", "active"}),
    "swav": (_swav, {"assignment_entropy"}),
}


def _events(out: Path, kind: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def _settings_of(out: Path) -> tuple[RunSettings, OptimSettings]:
    shared = _shared(out, out)
    return shared["run"], shared["optim"]


@pytest.mark.parametrize("name", _ALL)
def test_a_run_ends_in_a_checkpoint_and_says_how_the_views_lie(
    name: str, pictures: Path, tmp_path: Path
) -> None:
    build, own = _ALL[name]
    run, optim = _settings_of(tmp_path / "run")
    folder = fit(build(pictures, tmp_path / "run"), run, optim)
    epochs = _events(tmp_path / "run", "epoch")
    assert len(epochs) == 2
    watched = {"loss", "chance", "alignment", "uniformity", "effective_rank", "heldout_uniformity"}
    assert watched | own <= set(epochs[0])
    assert all(
        np.isfinite(value) for epoch in epochs for value in epoch.values() if not isinstance(value, str)
    )
    checkpoint = load_checkpoint(folder)
    assert checkpoint.config.input_size == 32
    assert checkpoint.config.recipe["name"] == name.split()[0]
    assert checkpoint.config.embedding_dim == 32
    assert (folder / "head.safetensors").exists() == (name == "bregman")


def test_a_checkpoint_opens_for_recognition(pictures: Path, tmp_path: Path) -> None:
    run, optim = _settings_of(tmp_path / "run")
    folder = fit(_simclr(pictures, tmp_path / "run"), run, optim)
    astronaut = Path(facekit.__file__).parent / "pictures" / "astronaut.jpg"
    faces = FaceRecognition(folder, device="cpu").extract_embedding(astronaut)
    assert faces.shape == (32,)


def test_the_loss_falls_far_below_that_of_knowing_nothing(pictures: Path, tmp_path: Path) -> None:
    shared = _shared(pictures, tmp_path / "run", epochs=30)
    gentle = ViewSettings(area=(0.8, 1.0), brightness=0.1, contrast=0.1, saturation=0.1, hue=0.0, grey=0.0)
    settings = simclr.SimCLRSettings(views=gentle, temperature=0.2, **shared)
    fit(simclr.build_recipe(settings), shared["run"], shared["optim"])
    epochs = _events(tmp_path / "run", "epoch")
    assert epochs[-1]["loss"] < 0.5 * epochs[-1]["chance"]
    assert epochs[0]["loss"] > 0.7 * epochs[0]["chance"]


@pytest.mark.parametrize("build", [_swav, _beta], ids=["swav", "vcl beta"])
def test_an_interrupted_run_takes_the_same_path(
    build: Callable[..., Recipe], pictures: Path, tmp_path: Path
) -> None:
    run, optim = _settings_of(tmp_path / "whole")
    whole = fit(build(pictures, tmp_path / "whole"), run, optim)
    run, optim = _settings_of(tmp_path / "parts")
    recipe, steps = build(pictures, tmp_path / "parts"), 0

    def step(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 3:
            signal.raise_signal(signal.SIGTERM)
        return recipe.step(*arguments)

    interrupted = Recipe(**{name: getattr(recipe, name) for name in Recipe.__slots__} | {"step": step})
    with pytest.raises(KeyboardInterrupt):
        fit(interrupted, run, optim)
    resumed = fit(build(pictures, tmp_path / "parts"), run, optim)
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_head_of_bregman_is_kept_for_neighbours(pictures: Path, tmp_path: Path) -> None:
    run, optim = _settings_of(tmp_path / "run")
    recipe = _bregman(pictures, tmp_path / "run")
    folder = fit(recipe, run, optim)
    kept = load_file(folder / "head.safetensors")
    trained = recipe.modules.state_dict()
    heads = {name for name in trained if not name.startswith("backbone.")}
    assert set(kept) == heads | {"temperature", "sigma"}
    assert all(torch.equal(kept[name], trained[name]) for name in heads)
    assert kept["sigma"].item() == pytest.approx(0.9)


def test_pictures_that_are_compared_are_not_taken_apart(pictures: Path, tmp_path: Path) -> None:
    shared = _shared(pictures, tmp_path / "run")
    run = RunSettings(out=tmp_path / "run", batch_size=12, micro_batch=6, device="cpu")
    recipe = simclr.build_recipe(simclr.SimCLRSettings(**{**shared, "run": run}))
    with pytest.raises(SettingError, match=r"micro_batch=6.*--batch-size"):
        fit(recipe, run, shared["optim"])


def test_without_memory_for_a_batch_a_line_says_what_to_do(pictures: Path, tmp_path: Path) -> None:
    run, optim = _settings_of(tmp_path / "run")
    recipe = _simclr(pictures, tmp_path / "run")

    def step(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    short = Recipe(**{name: getattr(recipe, name) for name in Recipe.__slots__} | {"step": step})
    with pytest.raises(TrainingError, match=r"12 pictures.*--batch-size"):
        fit(short, run, optim)


def test_of_all_pictures_some_are_held_out(pictures: Path) -> None:
    training, aside = read_listing(DataSettings(data=pictures, heldout=0.1), labelled=False)
    # ten of the pictures are in one folder, which stays together; the others are one by one
    assert int(training.source.known.sum()) == 10
    assert len(training) + len(aside) == _PICTURES
    assert 0 < len(aside) < _PICTURES / 2


def test_a_list_needs_no_identities(pictures: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("path\n" + "".join(f"{p.name}\n" for p in sorted(pictures.glob("*.png"))))
    settings = DataSettings(data=table, images=pictures, heldout=0.2)
    training, aside = read_listing(settings, labelled=False)
    assert (len(training), len(aside)) == (24, 6)
    assert not training.source.known.any()
    with pytest.raises(TrainingError, match="path and identity"):
        read_listing(settings)


def test_pictures_of_one_folder_are_enough(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "unlabelled").symlink_to(pictures / "more")
    training, aside = read_listing(DataSettings(data=pictures / "more"), labelled=False)
    assert len(training) + len(aside) == 10


@pytest.mark.parametrize(
    ("recipe", "preset", "shown"),
    [
        ("simclr", "cifar10", '"stem": "full"'),
        ("simclr", "stl10", '"size": 96'),
        ("vcl", "published", '"beta": true'),
        ("bregman", "cifar10", '"subnetworks": 100'),
        ("bregman", "stl10", '"size": 96'),
        ("swav", "published", '"prototypes": 3000'),
    ],
)
def test_presets_are_settings_and_flags_go_first(
    recipe: str, preset: str, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [recipe, "--preset", preset, "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main([*command, "--print-config"]) == 0
    assert shown in capsys.readouterr().out
    assert main([*command, "--epochs", "7", "--print-config"]) == 0
    text = capsys.readouterr().out
    assert json.loads(text)["settings"]["run"]["epochs"] == 7
    file = tmp_path / "run.json"
    file.write_text(text)
    assert main([recipe, "--config", str(file), "--print-config"]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["simclr", "--preset", "imagenet"], "preset=imagenet: this recipe has cifar10, stl10"),
        (["convrec", "--preset", "cifar10"], "preset=cifar10: this recipe has none"),
        (["simclr", "--temperature", "0"], "temperature=0"),
        (["simclr", "--architecture", "resnet10t", "--stem", "full"], "stem=full: resnet10t"),
        (["swav", "--size", "32", "--small-size", "48"], "small_size=48: give at most --size 32"),
        (["swav", "--queue", "100", "--batch-size", "64"], "queue=100: give a multiple of batch_size=64"),
        (["swav", "--queue", "2000000000000"], "queue=2000000000000: give 1000000 or fewer"),
        (["bregman", "--subnetworks", "0"], "subnetworks=0"),
        (["bregman", "--subnetworks", "10000", "--hidden", "8192"], "subnetworks x hidden=81920000"),
        (["simclr", "--brightness", "1e39"], "brightness=1e+39: give a relative change of 0 ... 1000"),
        (
            ["simclr", "--architecture", "iresnet50", "--size", "32", "--batch-size", "4"],
            "32 pixels: IResNet takes no pictures",
        ),
        (
            ["swav", "--architecture", "iresnet50", "--batch-size", "4"],
            "48 pixels: IResNet takes no pictures of that size",
        ),
        (["vcl", "--sigma", "nan"], "sigma=nan"),
    ],
)
def test_bad_settings_say_what_to_give(
    arguments: list[str], said: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([*arguments, "--data", str(pictures), "--out", str(tmp_path / "run")])
    except SystemExit as ended:  # what the flags' parser refuses by itself
        code = ended.code
    assert code == 2
    assert said in " ".join(re.sub(r"[│╭╰─╮╯]", " ", capsys.readouterr().err).split())


def test_two_processes_ask_what_one_asks(tmp_path: Path) -> None:
    assert exit_codes(2, objective_run.main, tmp_path) == [0, 0]
    of_two = torch.load(tmp_path / "found.pt", weights_only=True)
    for recipe in objective_run.RECIPES:
        of_one = objective_run.found(recipe)
        torch.testing.assert_close(of_two[recipe]["loss"], of_one["loss"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(of_two[recipe]["gradient"], of_one["gradient"], rtol=1e-4, atol=1e-6)


def test_no_checkpoint_of_another_network_to_start_from(pictures: Path, tmp_path: Path) -> None:
    shared = _shared(pictures, tmp_path / "run")
    network = NetworkSettings(architecture="resnet10t", init=str(tmp_path), size=32, resolution=48)
    with pytest.raises(FacekitError):
        simclr.build_recipe(simclr.SimCLRSettings(**{**shared, "network": network}))


def test_stems_of_a_start_are_its_own(pictures: Path, tmp_path: Path) -> None:
    shared = _shared(pictures, tmp_path / "run")
    folder = tmp_path / "half"
    grey = (127.5, 127.5, 127.5)
    config = ModelConfig(
        architecture="resnet18",
        embedding_dim=512,
        input_size=32,
        color="rgb",
        mean=grey,
        std=grey,
        sizes={"stem": "half"},
    )
    save_checkpoint(folder, facekit.models.build("resnet18", stem="half"), config)
    how = {"architecture": "resnet18", "init": str(folder), "size": 32, "resolution": 48}
    lars = OptimSettings(optimizer="lars", lr=1.2)
    for stem in ("half", None):
        network = NetworkSettings(stem=stem, **how)
        recipe = simclr.build_recipe(simclr.SimCLRSettings(**{**shared, "optim": lars, "network": network}))
        assert {group["name"]: group["lr"] for group in recipe.groups} == {"trained": 0.12, "fresh": 1.2}
    network = NetworkSettings(stem="full", **how)
    with pytest.raises(SettingError, match=r"stem=full: .*half has another; leave it out"):
        simclr.build_recipe(simclr.SimCLRSettings(**{**shared, "network": network}))


def test_a_broken_picture_that_is_held_out_is_left_out_and_reported(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = sorted(pictures.glob("*.png"))
    (tmp_path / "broken.png").write_bytes(paths[0].read_bytes()[:90])
    rows = [f"{path},train" for path in paths[:20]] + [f"{path},heldout" for path in paths[20:23]]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["path,split", *rows, f"{tmp_path / 'broken.png'},heldout"]))
    shared = _shared(pictures, tmp_path / "run")
    shared["data"] = DataSettings(data=table, images=Path("/"))
    recipe = simclr.build_recipe(simclr.SimCLRSettings(**shared))
    assert "; 3 others are held out" in recipe.notes[0]
    assert re.search(r"left out: .*broken\.png: damaged or cut short", caplog.text)
    recipe.modules.eval()
    assert all(np.isfinite(value) for value in recipe.evaluate(Step(1, 0.5, 1.0)).values.values())


def test_schedules_are_those_of_the_settings(pictures: Path, tmp_path: Path) -> None:
    shared = _shared(pictures, tmp_path / "run")
    shared["optim"] = OptimSettings(schedule="warm-restarts")
    recipe = simclr.build_recipe(simclr.SimCLRSettings(**shared))
    assert recipe.lr_factor(Step(0, 0.0, 0.0)) == recipe.lr_factor(Step(30, 0.5, 10.0)) == 1.0
    assert recipe.lr_factor(Step(15, 0.25, 5.0)) == pytest.approx(0.5)


def test_one_held_out_picture_leaves_no_figure_without_a_number(pictures: Path, tmp_path: Path) -> None:
    shared = _shared(pictures, tmp_path / "run")
    shared["data"] = DataSettings(data=pictures, heldout=1 / _PICTURES)
    recipe = simclr.build_recipe(simclr.SimCLRSettings(**shared))
    assert "; 1 others are held out" in recipe.notes[0]
    recipe.modules.eval()
    scores = recipe.evaluate(Step(1, 0.5, 1.0)).values
    assert all(np.isfinite(value) for value in scores.values())
    assert scores["effective_rank"] > 1


def test_features_that_are_no_numbers_end_a_run_in_one_line(pictures: Path, tmp_path: Path) -> None:
    """The last step of an epoch may be the one after which nothing is a number."""
    shared = _shared(pictures, tmp_path / "run", epochs=6)
    shared["optim"] = OptimSettings(optimizer="lars", lr=1e6, clip=np.inf)
    shared["run"] = dataclasses.replace(shared["run"], batch_size=24)
    recipe = simclr.build_recipe(simclr.SimCLRSettings(**shared))
    with pytest.raises(TrainingError, match="lower --lr"):
        fit(recipe, shared["run"], shared["optim"])
    recipe.modules.eval()
    with torch.no_grad():
        next(recipe.modules.parameters()).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"features are no longer numbers after step 3: .*lower --lr"):
        recipe.evaluate(Step(3, 0.5, 3.0))


@pytest.mark.parametrize("first", ["adamw", "lars"])
def test_a_run_does_not_go_on_with_another_optimizer(
    first: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, optim = _settings_of(tmp_path / "run")
    optim = dataclasses.replace(optim, optimizer=first)
    fit(_simclr(pictures, tmp_path / "run"), run, optim)
    other = dataclasses.replace(optim, optimizer="lars" if first == "adamw" else "adamw")
    with pytest.raises(TrainingError, match=r"of a run with another optimizer; .*give another --out"):
        fit(_simclr(pictures, tmp_path / "run"), run, other)


def test_a_checkpoint_does_not_say_where_its_start_lay(pictures: Path, tmp_path: Path) -> None:
    network = NetworkSettings(init=str(tmp_path / "home" / "start"))
    settings = simclr.SimCLRSettings(**{**_shared(pictures, tmp_path / "run"), "network": network})
    assert portable(settings)["network"]["init"] == "start"
    hub = NetworkSettings(init="owner/name")
    assert portable(dataclasses.replace(settings, network=hub))["network"]["init"] == "owner/name"


def test_settings_left_out_of_a_file_are_those_of_the_recipe(pictures: Path, tmp_path: Path) -> None:
    table = {"data": {"data": "d"}, "run": {"out": "o"}, "optim": {"lr": 0.5}, "views": {"flip": 0}}
    file = tmp_path / "few.json"
    file.write_text(json.dumps({"recipe": "simclr", "settings": table}))
    settings = from_json(file, "simclr", simclr.SimCLRSettings)
    default = simclr.SimCLRSettings(data=DataSettings(data=Path("d")), run=RunSettings(out=Path("o")))
    assert settings.optim == dataclasses.replace(default.optim, lr=0.5)
    assert settings.views == dataclasses.replace(default.views, flip=0.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x,path\n1,00.png\n1\n", "line 3: says no path"),
        ("path,identity\n,somebody\n", "line 2: says no path"),
        ("path,identity\n\n\n,somebody\n", "line 4: says no path"),
        (
            "path;identity\na.png;b\n",
            r"the column path, separated by commas, in UTF-8; it has \['path;identity'\]",
        ),
        ("path\n", "names no pictures"),
    ],
)
def test_lists_of_nothing_are_refused(text: str, said: str, tmp_path: Path) -> None:
    table = tmp_path / "few.csv"
    table.write_text(text)
    with pytest.raises(TrainingError, match=said):
        read_listing(DataSettings(data=table), labelled=False)


def test_clusters_are_the_same_under_autocast() -> None:
    """Their softness divides the cosines by 0.05: bfloat16 ones would be off by a tenth."""
    assigned = []
    for lower in (False, True):
        torch.manual_seed(0)
        shared = {"data": DataSettings(data=Path()), "run": RunSettings(out=Path(), batch_size=16)}
        clusters = swav._Clusters(swav.SwAVSettings(prototypes=8, **shared), 16)
        views = [F.normalize(torch.randn(16, 128)) for _ in range(2)]
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            assigned.append(torch.cat(clusters._assign(views, Step(0, 0.5, 0.0))))
    assert torch.equal(*assigned)


def test_a_run_that_goes_on_says_what_is_another(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    shared = ["--data", str(pictures), "--out", str(tmp_path / "run"), "--architecture", "faceresnet"]
    shared += ["--size", "32", "--resolution", "48", "--batch-size", "12", "--device", "cpu"]
    caplog.set_level("INFO")
    assert main(["simclr", *shared, "--epochs", "1"]) == 0
    assert "goes on" not in caplog.text
    kept = (tmp_path / "run" / "run.json").read_text()
    assert main(["vcl", *shared, "--epochs", "1"]) == 2
    assert "holds a run of simclr, not of vcl" in capsys.readouterr().err
    assert (tmp_path / "run" / "run.json").read_text() == kept
    assert main(["simclr", *shared, "--epochs", "1", "--temperature", "0.3", "--save-minutes", "9"]) == 0
    assert [line for line in caplog.messages if line.startswith("goes on")] == [
        "goes on with temperature=0.3, which was 0.1"
    ]
