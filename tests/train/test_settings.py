"""Settings that are printed, kept beside a run, and start it again."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from facekit.errors import SettingError
from facekit.train.__main__ import main
from facekit.train.augment import Augmentation
from facekit.train.config import DataSettings, OptimSettings, RunSettings
from facekit.train.data import shuffled_rows
from facekit.train.recipes.convrec import ConvRecSettings
from facekit.train.settings import changes, from_json, portable, to_json


def _settings(tmp_path: Path) -> ConvRecSettings:
    return ConvRecSettings(
        data=DataSettings(data=tmp_path / "data", workers=3),
        run=RunSettings(out=tmp_path / "run", epochs=7, micro_batch=16, precision="bf16"),
        optim=OptimSettings(schedule="warm-restarts", lr=2e-3),
        augment=Augmentation(flip=0.25),
        margin=0.3,
        init="owner/name",
        flip_average=True,
    )


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.json"
    path.write_text(text)
    return path


def test_all_settings_come_back(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    kept = _file(tmp_path, to_json("convrec", settings))
    assert from_json(kept, "convrec", ConvRecSettings) == settings


def test_printed_settings_start_the_same_run_from_any_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--data", "faces", "--out", "runs/first", "--margin", "0.35", "--schedule", "warm-restarts"]
    assert main(["convrec", *flags, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    kept = _file(tmp_path, printed)
    monkeypatch.chdir("/")
    assert main(["convrec", "--config", str(kept), "--epochs", "3", "--print-config"]) == 0
    expected = json.loads(printed)
    expected["settings"]["run"]["epochs"] = 3
    assert json.loads(capsys.readouterr().out) == expected
    assert expected["settings"]["data"]["data"] == str(tmp_path / "faces")


def test_a_start_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for init, kept in (
        ("runs/a", str(tmp_path / "runs/a.pth")),
        ("random", "random"),
        ("owner/name", "owner/name"),
    ):
        settings = replace(_settings(tmp_path), init=f"{init}.pth" if init == "runs/a" else init)
        assert json.loads(to_json("convrec", settings))["settings"]["init"] == kept


def test_what_a_file_leaves_out_has_its_default(tmp_path: Path) -> None:
    table = {"data": {"data": "/faces"}, "run": {"out": "/run"}, "margin": 1}
    kept = _file(tmp_path, json.dumps({"recipe": "convrec", "settings": table}))
    data, run = DataSettings(data=Path("/faces")), RunSettings(out=Path("/run"))
    assert from_json(kept, "convrec", ConvRecSettings) == ConvRecSettings(data=data, run=run, margin=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": "64"}, "scale: '64' is no float"),
        ({"flip_average": 1}, "flip_average: 1 is no bool"),
        ({"architecture": "vit"}, "architecture: 'vit' is not one of 'convrec'"),
        ({"marign": 0.5}, "no setting 'marign'"),
        ({"run": {"out": "x", "epochs": 0}}, "epochs=0"),
        ({"run": 3}, "3 where a table"),
        ({"scale": 10**400}, "scale: 10{400} is no float"),
        ({"run": {}}, "out"),
        ({"optim": {"lr": None}}, "lr: None is no float"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    table = json.loads(to_json("convrec", _settings(tmp_path)))
    table["settings"] |= change
    with pytest.raises(SettingError, match=message) as caught:
        from_json(_file(tmp_path, json.dumps(table)), "convrec", ConvRecSettings)
    assert "\n" not in str(caught.value)


def test_without_a_limit_settings_are_json_and_come_back(tmp_path: Path) -> None:
    """Infinity is none of JSON's words; runs of earlier versions wrote it, and go on without a remark."""
    settings = replace(_settings(tmp_path), optim=OptimSettings(clip=math.inf))
    text = to_json("convrec", settings)
    json.loads(text, parse_constant=lambda word: pytest.fail(word))
    assert json.loads(text)["settings"]["optim"]["clip"] == portable(settings)["optim"]["clip"] == "inf"
    assert from_json(_file(tmp_path, text), "convrec", ConvRecSettings) == settings
    earlier = _file(tmp_path, text.replace('"clip": "inf"', '"clip": Infinity'))
    assert from_json(earlier, "convrec", ConvRecSettings) == settings
    assert changes(earlier, text) == []
    assert changes(earlier, text.replace('"inf"', "5.0")) == ["goes on with optim.clip=5.0, which was inf"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"recipe": "convrec"}', '{"recipe": "x", "settings": {}}'])
def test_other_files_are_refused(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convrec", "--config", str(_file(tmp_path, text))]) == 2
    assert capsys.readouterr().err.startswith("error: config=")


def test_portable_settings_survive_a_change(tmp_path: Path) -> None:
    settings = replace(_settings(tmp_path), distill=str(tmp_path / "teacher.npz"))
    assert from_json(_file(tmp_path, to_json("convrec", settings)), "convrec", ConvRecSettings) == settings


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        (OptimSettings, "lr", (0.0, -1.0, math.nan, math.inf)),
        (OptimSettings, "backbone_lr", (0.0, math.inf)),
        (OptimSettings, "weight_decay", (-1.0, math.nan, math.inf)),
        (OptimSettings, "clip", (0.0, math.nan)),
        (RunSettings, "epochs", (0, 10**23)),
        (RunSettings, "seed", (10**26, -(10**26))),
        (Augmentation, "flip", (-0.1, 2.0, math.nan)),
        (Augmentation, "grey", (-0.1, math.nan)),
        (Augmentation, "low_resolution", (5.0, math.nan)),
        (Augmentation, "rotation", (-5.0, math.nan, math.inf)),
        (Augmentation, "zoom", (-0.1, 1.0, math.nan)),
        (Augmentation, "shift", (-0.1, 1e9, math.nan)),
        (Augmentation, "brightness", (-1.0, 100.0, math.nan)),
        (ConvRecSettings, "mild", (-1.0, 2.0, math.nan)),
        (ConvRecSettings, "start_share", (-1.0, 7.0, math.nan)),
        (ConvRecSettings, "scale", (0.0, -5.0, math.nan, math.inf)),
        (ConvRecSettings, "margin", (-1.0, 4.0, math.nan)),
        (ConvRecSettings, "cosine_margin", (-1.0, 2.0, math.nan)),
        (ConvRecSettings, "margin_weight", (-1.0, math.nan, math.inf)),
        (ConvRecSettings, "distill_weight", (-1.0, math.nan, math.inf)),
        (ConvRecSettings, "sample_rate", (0.0, 2.0, math.nan)),
    ],
)
def test_what_no_run_could_go_by_is_refused_by_name(
    tmp_path: Path, kind: Any, name: str, values: tuple[float, ...]
) -> None:
    needed: dict[type, dict[str, Any]] = {
        RunSettings: {"out": tmp_path},
        ConvRecSettings: {"data": DataSettings(data=tmp_path), "run": RunSettings(out=tmp_path)},
    }
    for value in values:
        with pytest.raises(SettingError, match=f"^{name}={re.escape(str(value))}: give "):
            kind(**needed.get(kind, {}), **{name: value})


def test_the_highest_seed_orders_pictures() -> None:
    seed = RunSettings(out=Path(), seed=2**40 - 1).seed
    batches = shuffled_rows(8, 4, seed=seed, epoch=1_000_000)
    assert torch.cat(list(batches)).sort().values.tolist() == list(range(8))
