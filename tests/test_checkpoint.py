"""The checkpoint folder: what it says, that it round-trips, and that it is written whole or not at all."""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from facekit.checkpoint import Calibration, ModelConfig, convert_checkpoint, load_checkpoint, save_checkpoint
from facekit.checkpoint import folder as folder_module
from facekit.checkpoint.folder import fill
from facekit.errors import CalibrationError, CheckpointError, SettingError
from facekit.models import build

TABLE = Calibration("held-out people", 100_000, 5_000, {1e-1: 0.1, 1e-2: 0.2, 1e-3: 0.3, 1e-4: 0.5})
SIZES: dict[str, Any] = {"widths": [8, 16], "depths": [1, 1], "stem_width": 8, "embedding_dim": 8}
CONFIG = ModelConfig(
    architecture="faceresnet",
    embedding_dim=8,
    input_size=112,
    color="rgb",
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    sizes=SIZES,
    flip_average=True,
    threshold=0.3,
    calibration=TABLE,
    recipe={"name": "test", "epochs": 3, "phases": [1, 2]},
    license="Apache-2.0",
)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return build("faceresnet", **SIZES).eval()


def same_tensors(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- Calibration ------------------------------------------------------------------------------------------


def test_thresholds_are_looked_up_and_interpolated_in_the_logarithm_of_the_rate() -> None:
    assert TABLE.threshold_at(1e-3) == 0.3
    assert TABLE.threshold_at(10**-2.5) == pytest.approx(0.25)
    assert TABLE.threshold_at(10**-3.25) == pytest.approx(0.35)


@pytest.mark.parametrize("far", [0.5, 1e-5, 0.0, -1.0, float("nan")])
def test_rates_that_were_not_measured_are_refused_with_those_that_were(far: float) -> None:
    with pytest.raises(CalibrationError, match=r"0\.1, 0\.01, 0\.001, 0\.0001"):
        TABLE.threshold_at(far)


@given(st.floats(-4, -1))
def test_far_at_inverts_threshold_at(exponent: float) -> None:
    far = min(max(10**exponent, 1e-4), 1e-1)
    assert TABLE.far_at(TABLE.threshold_at(far)) == pytest.approx(far)


def test_far_at_says_nothing_outside_the_table() -> None:
    assert TABLE.far_at(0.05) is None
    assert TABLE.far_at(0.51) is None
    assert TABLE.far_at(0.5) == 1e-4


def test_a_table_of_one_row_knows_one_rate() -> None:
    table = Calibration("x", 10, 10, {0.01: 0.4})
    assert table.threshold_at(0.01) == 0.4
    assert table.far_at(0.4) == 0.01


def test_equal_thresholds_stand_for_the_larger_rate() -> None:
    table = Calibration("x", 10, 10, {0.1: 0.4, 0.01: 0.4})
    assert table.far_at(0.4) == 0.1
    assert table.threshold_at(0.05) == 0.4


@pytest.mark.parametrize(
    "thresholds",
    [
        {},
        {0.1: 0.5, 0.01: 0.4},
        {1.0: 0.1},
        {0.0: 0.1},
        {0.1: 1.5},
        {0.1: float("nan")},
        {"x": 0.1},
        [0.1],
        None,
    ],
)
def test_tables_that_cannot_be_are_refused(thresholds: Any) -> None:
    with pytest.raises(CheckpointError, match=r"calibration\.thresholds"):
        Calibration("x", 1, 1, thresholds)


# --- ModelConfig ------------------------------------------------------------------------------------------


def test_config_round_trips_through_json() -> None:
    assert ModelConfig.from_json(CONFIG.to_json()) == CONFIG
    bare = ModelConfig("resnet18", 512, 112, "bgr", (0, 0, 0), (1, 1, 1))
    assert ModelConfig.from_json(bare.to_json()) == bare


def test_config_copies_and_pickles() -> None:
    assert copy.deepcopy(CONFIG) == CONFIG
    assert pickle.loads(pickle.dumps(CONFIG)) == CONFIG


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architecture", 5),
        ("embedding_dim", 0),
        ("embedding_dim", True),
        ("embedding_dim", 512.0),
        ("input_size", 100_000),
        ("color", "RGB"),
        ("mean", [0.5, 0.5]),
        ("mean", [0, 0, float("inf")]),
        ("std", [1, 1, 0]),
        ("template", "ffhq"),
        ("flip_average", 1),
        ("threshold", 2.0),
        ("threshold", "0.5"),
        ("sizes", []),
        ("sizes", {"depths": [10**9]}),
        ("recipe", {"model": object()}),
        ("calibration", {"data": "x"}),
        ("calibration", "none"),
        ("license", None),
        ("fingerprint", None),
    ],
)
def test_bad_values_are_named(field: str, value: Any) -> None:
    values = CONFIG.to_dict() | {field: value}
    with pytest.raises(CheckpointError, match=field) as caught:
        ModelConfig.from_dict(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ('{"version": 1', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "no table"),
        ('{"version": 2}', "version: 2"),
        ('{"architectur": "resnet50"}', "architectur"),
        ('{"architecture": "resnet50"}', "color is missing"),
    ],
)
def test_other_files_are_not_taken_for_configs(text: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        ModelConfig.from_json(text, path="some/config.json")
    assert str(caught.value).startswith("some/config.json: ")
    assert caught.value.path == "some/config.json"


# --- folder -----------------------------------------------------------------------------------------------


def test_saved_is_loaded_bit_for_bit(model: nn.Module, tmp_path: Path) -> None:
    written = save_checkpoint(tmp_path / "a" / "b", model, CONFIG)
    loaded = load_checkpoint(tmp_path / "a" / "b")
    assert loaded.config == written == replace(CONFIG, fingerprint=written.fingerprint)
    assert same_tensors(loaded.model, model)
    assert not loaded.model.training
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["b"]
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_text_and_the_weight_file_itself_name_the_folder_too(model: nn.Module, tmp_path: Path) -> None:
    save_checkpoint(str(tmp_path / "a"), model, CONFIG)
    assert same_tensors(load_checkpoint(str(tmp_path / "a")).model, model)
    assert same_tensors(load_checkpoint(tmp_path / "a" / "model.safetensors").model, model)


def test_half_precision_is_half_the_file_and_keeps_its_fingerprint(model: nn.Module, tmp_path: Path) -> None:
    full, half = tmp_path / "full", tmp_path / "half"
    save_checkpoint(full, model, CONFIG)
    written = save_checkpoint(half, model, CONFIG, half=True)
    size = [(folder / "model.safetensors").stat().st_size for folder in (full, half)]
    assert size[1] < 0.6 * size[0]
    loaded = load_checkpoint(half)
    assert next(loaded.model.parameters()).dtype == torch.float32
    assert save_checkpoint(tmp_path / "again", loaded.model, loaded.config).fingerprint == written.fingerprint


def test_fingerprint_stands_for_weights_and_preprocessing_only(model: nn.Module, tmp_path: Path) -> None:
    def of(config: ModelConfig, network: nn.Module = model) -> str:
        return save_checkpoint(tmp_path / "x", network, config).fingerprint

    first = of(CONFIG)
    assert first.startswith("faceresnet-")
    assert len(first.rpartition("-")[2]) == 12
    assert of(replace(CONFIG, threshold=0.4, calibration=None, recipe={}, license="?")) == first
    for change in ({"color": "bgr"}, {"mean": (0, 0, 0)}, {"std": (1, 1, 2)}, {"flip_average": False}):
        assert of(replace(CONFIG, **change)) != first
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    assert of(CONFIG, other) != first
    trained = copy.deepcopy(model)
    for module in trained.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked += 7
    assert of(CONFIG, trained) == first


def test_replacing_keeps_what_else_is_in_the_folder(model: nn.Module, tmp_path: Path) -> None:
    target = tmp_path / "model"
    save_checkpoint(target, model, CONFIG)
    (target / "README.md").write_text("card")
    (target / "plots").mkdir()
    (target / "plots" / "roc.svg").write_text("<svg/>")
    save_checkpoint(target, model, replace(CONFIG, threshold=0.4))
    assert load_checkpoint(target).config.threshold == 0.4
    assert (target / "README.md").read_text() == "card"
    assert (target / "plots" / "roc.svg").read_text() == "<svg/>"


@pytest.mark.parametrize("exchange", [True, False])
def test_replacing_works_with_and_without_an_atomic_exchange(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(folder_module, "_exchange", lambda a, b: False)
    for threshold in (0.1, 0.2):
        save_checkpoint(tmp_path / "x", model, replace(CONFIG, threshold=threshold))
    assert load_checkpoint(tmp_path / "x").config.threshold == 0.2
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("step", ["save_file", "_flush", "_swap"])
def test_a_full_disk_leaves_the_old_checkpoint_or_nothing(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool, step: str
) -> None:
    if old:
        save_checkpoint(tmp_path / "x", model, CONFIG)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(
        "safetensors.torch.save_file" if step == "save_file" else f"{folder_module.__name__}.{step}", full
    )
    with pytest.raises(CheckpointError, match="No space left") as caught:
        save_checkpoint(tmp_path / "x", model, replace(CONFIG, threshold=0.9))
    assert caught.value.path == str(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == (["x"] if old else [])
    if old:
        assert load_checkpoint(tmp_path / "x").config.threshold == CONFIG.threshold


def test_a_really_full_disk_reads_the_same(model: nn.Module, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, before[1]))
        with pytest.raises(CheckpointError, match="cannot be written"):
            save_checkpoint(tmp_path / "x", model, CONFIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_only_checkpoint_folders_are_replaced(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="not a checkpoint folder"):
        save_checkpoint(tmp_path / "photos", model, CONFIG)
    assert (tmp_path / "photos" / "me.jpg").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="file"):
        save_checkpoint(tmp_path / "file", model, CONFIG)
    (tmp_path / "empty").mkdir()
    save_checkpoint(tmp_path / "empty", model, CONFIG)


def test_what_could_not_be_loaded_is_not_saved(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="do not fit"):
        save_checkpoint(tmp_path / "x", model, replace(CONFIG, sizes=SIZES | {"embedding_dim": 9}))
    with pytest.raises(CheckpointError, match="embedding_dim: 9"):
        save_checkpoint(tmp_path / "x", model, replace(CONFIG, embedding_dim=9))
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.fc.weight[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"fc\.weight is not finite"):
        save_checkpoint(tmp_path / "x", broken, CONFIG)
    with torch.no_grad():
        broken.fc.weight[0, 0] = 1e6
    with pytest.raises(CheckpointError, match="float16"):
        save_checkpoint(tmp_path / "x", broken, CONFIG, half=True)
    assert list(tmp_path.iterdir()) == []


def spoil(path: Path, how: str) -> None:
    """Damage one file of a checkpoint folder."""
    weights, config = path / "model.safetensors", path / "config.json"
    data = weights.read_bytes()
    header_length = struct.unpack("<Q", data[:8])[0]
    if how == "no weights":
        weights.unlink()
    elif how == "no config":
        config.unlink()
    elif how == "empty":
        weights.write_bytes(b"")
    elif how == "half":
        weights.write_bytes(data[: len(data) // 2])
    elif how == "one bit":
        weights.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
    elif how == "header of an exabyte":
        weights.write_bytes(struct.pack("<Q", 1 << 60) + data[8:])
    elif how == "tensor of an exabyte":
        header = json.loads(data[8 : 8 + header_length])
        header[max(header, key=len)] |= {"shape": [1 << 30, 1 << 30]}
        text = json.dumps(header).encode()
        weights.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + header_length :])
    elif how == "offsets outside":
        header = json.loads(data[8 : 8 + header_length])
        header[max(header, key=len)] |= {"shape": [1 << 40], "data_offsets": [0, 1 << 42]}
        text = json.dumps(header).encode()
        weights.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + header_length :])
    elif how == "other preprocessing":
        config.write_text(config.read_text().replace('"rgb"', '"bgr"'))
    elif how == "other architecture":
        config.write_text(config.read_text().replace('"faceresnet"', '"iresnet50"'))
    elif how == "other sizes":
        config.write_text(config.read_text().replace('"embedding_dim": 8', '"embedding_dim": 16'))
    elif how == "binary config":
        config.write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize(
    "how",
    [
        "no weights",
        "no config",
        "empty",
        "half",
        "one bit",
        "header of an exabyte",
        "tensor of an exabyte",
        "offsets outside",
        "other preprocessing",
        "other architecture",
        "other sizes",
        "binary config",
    ],
)
def test_damaged_checkpoints_are_refused_in_one_line(model: nn.Module, tmp_path: Path, how: str) -> None:
    save_checkpoint(tmp_path / "x", model, CONFIG)
    spoil(tmp_path / "x", how)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "x")
    assert str(tmp_path / "x") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda tensor: tensor.long(), r"fc\.weight is torch\.int64 instead of torch\.float32"),
        (lambda tensor: tensor.cfloat(), r"fc\.weight is torch\.complex64 instead of torch\.float32"),
        (lambda tensor: tensor / 0, r"fc\.weight is not finite"),
    ],
)
def test_weights_that_are_no_real_numbers_are_named(
    model: nn.Module, change: Callable[[torch.Tensor], torch.Tensor], problem: str
) -> None:
    state = model.state_dict()
    with pytest.raises(CheckpointError, match=f"x: .*{problem}") as caught:
        fill(CONFIG, state | {"fc.weight": change(state["fc.weight"])}, path="x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "sizes",
    [
        {"depths": [8192, 1, 1, 1], "widths": [8192] * 4},
        {"depths": [8192] * 4, "widths": [8] * 4},
    ],
)
def test_a_network_beyond_all_bounds_is_not_built(sizes: dict[str, Any]) -> None:
    config = replace(CONFIG, sizes=sizes)
    with pytest.raises(CheckpointError, match="do not fit, for more than 1,000,000,000 weights"):
        fill(config, {}, path="x")


def test_another_architectures_tensors_are_listed(model: nn.Module, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x", model, CONFIG)
    spoil(tmp_path / "x", "other sizes")
    with pytest.raises(CheckpointError, match=r"weight is \(8, \d+\) instead of \(16, \d+\)"):
        load_checkpoint(tmp_path / "x")


def test_loading_spends_no_random_numbers(model: nn.Module, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x", model, CONFIG)
    before: Tensor = torch.get_rng_state()
    load_checkpoint(tmp_path / "x")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loaded_model_does_not_depend_on_its_file(model: nn.Module, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x", model, CONFIG)
    loaded = load_checkpoint(tmp_path / "x")
    with (tmp_path / "x" / "model.safetensors").open("r+b") as file:
        file.truncate(0)
    assert same_tensors(loaded.model, model)


# --- what load_checkpoint takes ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nowhere.pth", "missing/model.onnx", "a/b/c", "/no/such/folder", "x" * 300])
def test_what_is_neither_a_path_nor_a_hub_name_is_said_so(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"no such file|cannot be read"):
        load_checkpoint(name)
    with pytest.raises(CheckpointError, match=r"no such file|cannot be read"):
        load_checkpoint(Path(name))


def test_a_path_object_is_never_a_hub_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(Path("owner/name"))


def test_a_revision_needs_the_hub(model: nn.Module, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x", model, CONFIG)
    with pytest.raises(SettingError, match="revision"):
        load_checkpoint(tmp_path / "x", revision="v1")


def test_folders_without_weights_or_with_several_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_checkpoint(tmp_path)
    for name in ("a.pth", "b.onnx"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"a\.pth, b\.onnx"):
        load_checkpoint(tmp_path)


def test_convert_changes_what_its_user_knows_better(model: nn.Module, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x", model, CONFIG)
    written = convert_checkpoint(tmp_path / "x", tmp_path / "y", half=True, color="bgr", license="MIT")
    assert (written.color, written.license) == ("bgr", "MIT")
    assert load_checkpoint(tmp_path / "y").config == written
    with pytest.raises(SettingError, match="colour"):
        convert_checkpoint(tmp_path / "x", tmp_path / "z", colour="bgr")
    with pytest.raises(CheckpointError, match="color"):
        convert_checkpoint(tmp_path / "x", tmp_path / "z", color="blue")
    assert not (tmp_path / "z").exists()
