"""The page of a run: from any log a picture of the same size, which shows what the log says."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from facekit.errors import MissingExtraError, TrainingError
from facekit.train import page
from facekit.train.page import write_page

SIZE = (1800, 1020)
PANELS = ("loss", "rate", "margin", "cosine", "tar", "scores")


def records(steps: int = 60, epochs: int = 3) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {
            "event": "step",
            "step": step,
            "loss": 9 - step / 20 + (step % 3) / 5,
            "chance": 8.0,
            "margin": step / 200,
            "scale": 10 + step / 2,
            "target_cosine": step / 100,
            "lr/backbone": 0.1 / (step + 1),
            "lr/head": 0.2 / (step + 1),
        }
        for step in range(steps)
    ]
    for epoch in range(1, epochs + 1):
        rates = {"tar@far=0.01": 0.5 + epoch / 10, "tar@far=0.001": 0.2 + epoch / 10}
        found.append({"event": "epoch", "epoch": epoch, "step": steps * epoch // epochs, **rates})
    bins = np.linspace(-1, 1, 200)
    sides = {name: (1000 * np.exp(-((bins - at) ** 2) * 50)).astype(int).tolist() for name, at in SIDES}
    return [*found, {"event": "scores", **sides}]


SIDES = (("genuine", 0.6), ("impostor", 0.0))


def drawn(folder: Path, log: list[dict[str, Any]]) -> NDArray[np.uint8]:
    """The page of this log, (h, w, 3)."""
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log))
    path = write_page(folder)
    assert path == folder / "page.png"
    assert sorted(file.name for file in folder.iterdir()) == ["log.jsonl", "page.png"]
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("PNG", SIZE)
        return np.asarray(picture.convert("RGB"))


def ink(picture: NDArray[np.uint8], panel: str) -> int:
    """Coloured pixels of a panel: of its lines, not of its text and grid, which are grey."""
    row, column = divmod(PANELS.index(panel), 3)
    top, (left, right) = 60 + 480 * row, ((0, 590), (590, 1160), (1160, 1800))[column]
    part = picture[top : top + 480, left:right].astype(int)
    return int((np.ptp(part, axis=2) > 60).sum())


def without(log: list[dict[str, Any]], gone: Callable[[str], bool]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if not gone(name)} for record in log]


def test_each_panel_shows_its_part_of_the_log(tmp_path: Path) -> None:
    whole = drawn(tmp_path, records())
    parts = {
        "loss": lambda name: name in ("loss", "chance"),
        "rate": lambda name: name.startswith("lr/"),
        "margin": lambda name: name in ("margin", "scale"),
        "cosine": lambda name: name == "target_cosine",
        "tar": lambda name: name.startswith("tar@"),
        "scores": lambda name: name == "genuine",
    }
    for panel, gone in parts.items():
        less = drawn(tmp_path, without(records(), gone))
        assert {name for name in PANELS if ink(less, name) == 0} == {panel}, panel
        assert ink(whole, panel) > 500, panel


def test_a_page_is_the_same_each_time(tmp_path: Path) -> None:
    first = drawn(tmp_path, records())
    assert np.array_equal(first, drawn(tmp_path, records()))


def test_other_held_out_scores_make_another_page(tmp_path: Path) -> None:
    log = records()
    first = drawn(tmp_path, log)
    log[-1]["genuine"] = log[-1]["genuine"][::-1]
    second = drawn(tmp_path, log)
    assert not np.array_equal(first[540:, 1200:], second[540:, 1200:])
    assert np.array_equal(first[60:540], second[60:540])


@pytest.mark.parametrize(
    ("steps", "epochs"), [(0, 0), (1, 0), (1, 1), (2, 1), (3000, 60)], ids=lambda number: str(number)
)
def test_short_and_long_runs(tmp_path: Path, steps: int, epochs: int) -> None:
    picture = drawn(tmp_path, records(steps, epochs) if steps else [])
    assert [ink(picture, name) > 0 for name in PANELS] == [*[steps > 0] * 4, epochs > 0, steps > 0]


def test_odd_values_are_left_out(tmp_path: Path) -> None:
    odd = [math.nan, math.inf, None, "x", [1], 1e300, 10**400, {}]
    log = records(20, 1)
    log[20:20] = [{"event": "step", "step": 19, "loss": value, "margin": value} for value in odd]
    log += [{"event": "step", "step": value, "loss": 1.0} for value in odd]
    log += [{"event": "epoch", "epoch": value, "tar@far=0.01": 0.5} for value in odd]
    log += [
        {"event": "epoch", "epoch": 1, "tar@far=x": 0.5, "tar@far=nan": 0.5, "tar@far=0.01": value}
        for value in odd[:-1]
    ]
    log += [{"event": "epoch", "epoch": 1, "tar@far=0.01": 0.6, "tar@far=0.001": 0.3}]
    plain = [*records(20, 1)[:20], records(20, 1)[-1], log[-1]]
    assert np.array_equal(drawn(tmp_path, log), drawn(tmp_path, plain))


@pytest.mark.parametrize("counts", [[], [0, 0], [-1, 2], [None, 2], "ab", None, 3, [math.nan]])
def test_counts_that_are_none_are_not_drawn(tmp_path: Path, counts: object) -> None:
    log = [*records(), {"event": "scores", "genuine": counts, "impostor": [1, 2]}]
    assert ink(drawn(tmp_path, log), "scores") == 0


def test_a_log_of_before_is_drawn(tmp_path: Path) -> None:
    log = [{"event": "step", "step": 20 * n, "lr_factor": 1 / (n + 1), "loss": 1 / (n + 1)} for n in range(9)]
    picture = drawn(tmp_path, [*log, {"event": "epoch", "epoch": 1, "tar@far=0.1": 0.9}])
    assert [name for name in PANELS if ink(picture, name)] == ["loss", "rate", "tar"]


@pytest.mark.parametrize("name", ["a $run$ of $x_2$", "лица 顔", "a\nb"])
def test_any_name_of_a_folder(tmp_path: Path, name: str) -> None:
    drawn(tmp_path / name, records(5, 1))


def test_a_thinned_line_keeps_means_and_extremes() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=123_457)
    values[70_001] = 99.0
    curve = page._Curve()
    for x, y in enumerate(values):
        curve.add(x, y)
    x, mean, low, high = curve.points()
    assert page._POINTS <= len(x) <= 2 * page._POINTS
    length = 64  # the smallest power of two at which no more than 2000 runs are made of 123457 values
    blocks = [values[at : at + length] for at in range(0, len(values), length)]
    assert np.allclose(mean, [block.mean() for block in blocks])
    assert np.array_equal(low, [block.min() for block in blocks])
    assert np.array_equal(high, [block.max() for block in blocks])
    assert np.allclose(x, [at * length + (len(block) - 1) / 2 for at, block in enumerate(blocks)])


def test_smoothing_keeps_a_constant_and_a_mean() -> None:
    assert np.allclose(page._smooth(np.full(500, 3.0)), 3.0)
    ramp = np.arange(500.0)
    assert np.allclose(page._smooth(ramp)[20:-20], ramp[20:-20])
    assert np.array_equal(page._smooth(ramp[:20]), ramp[:20])


def test_without_matplotlib_one_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"^Drawing .* pip install 'facekit-torch\[train\]'$"):
        write_page(tmp_path)


def test_a_folder_without_a_log(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"log\.jsonl: cannot be read \(No such file.*give the folder of a run"
    ):
        write_page(tmp_path)


def test_a_page_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(tmp_path, records(5, 1))
    before = (tmp_path / "page.png").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TrainingError, match=r"page\.png: cannot be written \(No space left"):
        write_page(tmp_path)
    assert (tmp_path / "page.png").read_bytes() == before
    assert not (tmp_path / "page.png.partial").exists()
