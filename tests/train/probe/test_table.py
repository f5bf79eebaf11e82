"""Finished probes: their files, what their table says, and its picture."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facekit.errors import TrainingError
from facekit.train.probe.metrics import Metric
from facekit.train.probe.table import (
    Cell,
    Column,
    Row,
    draw_table,
    make_table,
    read_cells,
    to_json,
    to_markdown,
    write_cell,
)

ACCURACY, F1 = Metric("accuracy", percent=True), Metric("macro_f1", percent=True)
NME = Metric("nme", higher_is_better=False, percent=True)


def cell(method: str = "vcl", value: float = 0.5, **changes: Any) -> Cell:
    made = Cell(
        method=method,
        set="fer",
        task="classes",
        mode="linear",
        labels="1 %",
        seed=0,
        metrics=(ACCURACY, F1),
        scores={"accuracy": value, "macro_f1": value / 2},
        settings={"epochs": 3, "nested": {"lr": 0.1}, "list": [1, None]},
    )
    return replace(made, **changes)


# ---------------------------------------------------------------- files


def test_a_cell_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "cells"
    path = write_cell(folder, cell(value=1 / 3))
    assert read_cells(folder) == [cell(value=1 / 3)]
    assert [*folder.iterdir()] == [path]
    assert "vcl" in path.name


def test_a_key_has_one_file(tmp_path: Path) -> None:
    write_cell(tmp_path, cell(value=0.1))
    write_cell(tmp_path, cell(value=0.2))
    assert [found.scores["accuracy"] for found in read_cells(tmp_path)] == [0.2]
    others = [{"seed": 1}, {"labels": "10 %"}, {"mode": "finetune"}, {"set": "raf"}, {"task": "attributes"}]
    for change in others:
        write_cell(tmp_path, cell(**change))
    for name in ("a/b", "a|b", "a b", "../a", "\0", "ü" * 300, "A/b"):
        write_cell(tmp_path, cell(name))
    names = [path.name.lower() for path in tmp_path.iterdir()]
    assert len(set(names)) == 1 + 5 + 7  # also where case is no difference
    assert len(read_cells(tmp_path)) == 13


def test_no_folder_no_cells(tmp_path: Path) -> None:
    assert read_cells(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    "change",
    [
        {"task": "juggling"},
        {"mode": "osmosis"},
        {"metrics": (ACCURACY,)},
        {"metrics": (ACCURACY, ACCURACY)},
        {"metrics": (), "scores": {}},
        {"scores": {"accuracy": float("nan"), "macro_f1": 0.0}},
        {"scores": {"accuracy": float("inf"), "macro_f1": 0.0}},
    ],
)
def test_what_is_no_cell(change: dict[str, Any]) -> None:
    with pytest.raises(TrainingError):
        cell(**change)


GOOD = {
    "method": "m",
    "set": "s",
    "task": "classes",
    "mode": "knn",
    "labels": "1 %",
    "seed": 0,
    "metrics": [{"name": "accuracy", "higher_is_better": True, "percent": True}],
    "scores": {"accuracy": 1},
    "settings": {},
}


def test_a_file_by_hand(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    (found,) = read_cells(tmp_path)
    assert found.scores == {"accuracy": 1.0}
    assert found.metrics == (ACCURACY,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        "[" * 100_000,
        " " * (1 << 20) + json.dumps(GOOD),
        json.dumps({**GOOD, "more": 1}),
        json.dumps({name: value for name, value in GOOD.items() if name != "seed"}),
        json.dumps({**GOOD, "seed": True}),
        json.dumps({**GOOD, "seed": "0"}),
        json.dumps({**GOOD, "method": None}),
        json.dumps({**GOOD, "scores": {"accuracy": "1"}}),
        json.dumps({**GOOD, "scores": {"accuracy": float("nan")}}),
        json.dumps({**GOOD, "scores": {"accuracy": 10**400}}),
        json.dumps({**GOOD, "scores": {"other": 1}}),
        json.dumps({**GOOD, "metrics": ["accuracy"]}),
        json.dumps({**GOOD, "metrics": [{"name": "accuracy"}]}),
        json.dumps({**GOOD, "metrics": [{**GOOD["metrics"][0], "percent": 1}]}),
    ],
    ids=range(18),
)
def test_a_bad_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(TrainingError, match=r"bad\.json: not a finished probe .*; delete it") as raised:
        read_cells(tmp_path)
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------- tables


def test_means_and_deviations() -> None:
    values = [0.4, 0.5, 0.7]
    table = make_table([cell(value=value, seed=seed) for seed, value in enumerate(values)])
    assert table.rows == (Row("vcl", "linear"),)
    entry = table.entries[table.rows[0], Column("fer", "classes", "1 %", ACCURACY)]
    assert entry.mean == pytest.approx(sum(values) / 3)
    assert entry.deviation == pytest.approx(statistics.stdev(values))
    assert entry.seeds == (0, 1, 2)
    (alone,) = {entry.deviation for entry in make_table([cell()]).entries.values()}
    assert alone is None


def test_order_of_rows_and_columns() -> None:
    cells = [
        cell("b", labels="100 %", mode="finetune"),
        cell("b", labels="10 %"),
        cell("a", labels="1 %"),
        cell("a", labels="first 1627", set="celeba"),
        cell("a", labels="2.5 %", mode="knn"),
        cell("a", labels="first 16277", set="celeba"),
    ]
    table = make_table(cells)
    assert [(row.method, row.mode) for row in table.rows] == [
        ("b", "linear"),
        ("b", "finetune"),
        ("a", "knn"),
        ("a", "linear"),
    ]
    assert [(column.set, column.labels) for column in table.main] == [
        ("fer", "1 %"),
        ("fer", "2.5 %"),
        ("fer", "10 %"),
        ("fer", "100 %"),
        ("celeba", "first 1627"),
        ("celeba", "first 16277"),
    ]
    assert {column.metric for column in table.main} == {ACCURACY}
    assert len(table.columns) == 12


def test_best_is_highest_or_lowest_as_shown() -> None:
    higher = make_table([cell("a", 0.50001), cell("b", 0.5), cell("c", 0.4)])
    assert {row.method for row in higher.best(higher.main[0])} == {"a", "b"}  # 50.00 both
    lower = {"metrics": (NME,), "task": "landmarks"}
    cells = [cell("a", scores={"nme": 0.03}, **lower), cell("b", scores={"nme": 0.04}, **lower)]
    table = make_table(cells)
    assert {row.method for row in table.best(table.main[0])} == {"a"}
    alone = make_table([cell("a")])
    assert alone.best(alone.main[0]) == frozenset()


def test_cells_that_cannot_stand_side_by_side() -> None:
    with pytest.raises(TrainingError, match="no finished probes"):
        make_table([])
    with pytest.raises(TrainingError, match=r"vcl on fer \(linear, 1 % of the labels, seed 0\)"):
        make_table([cell(value=0.1), cell(value=0.2)])
    assert make_table([cell(), cell()]).entries == make_table([cell()]).entries


def test_seeds_sets_and_networks_are_the_same_ones() -> None:
    settings = {"data": "d", "network": "n", "epochs": 3, "labels": {"rows": "r"}}
    first = cell(settings=settings)
    same = cell(seed=1, settings={**settings, "labels": {"rows": "s"}, "chosen": {"at": 7}})
    assert make_table([first, same]).entries
    assert make_table([first, cell(mode="finetune", settings={**settings, "epochs": 9})]).entries
    for other, line in (
        (
            cell(seed=1, settings={**settings, "epochs": 4}),
            r"vcl on fer \(linear, .* seeds with settings that differ",
        ),
        (
            cell("simclr", settings={**settings, "data": "e"}),
            "fer: results on pictures or labels that differ",
        ),
        (cell(labels="10 %", settings={**settings, "network": "m"}), "vcl: results of networks that differ"),
    ):
        with pytest.raises(TrainingError, match=line):
            make_table([first, other])


def test_names_that_would_steer_a_terminal(tmp_path: Path) -> None:
    table = make_table([cell("a\x1b[31m\ud800b")])
    assert "a\ufffd[31m\ufffdb" in to_markdown(table)
    draw_table(table, tmp_path / "table.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_cell(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(TrainingError, match="no regular file"):
        read_cells(tmp_path)


# ---------------------------------------------------------------- text and picture


def test_markdown() -> None:
    cells = [cell("good", 0.5 + 0.01 * seed, seed=seed) for seed in range(3)]
    cells += [cell("poor|worse", 0.25), cell("good", labels="10 %", value=0.875)]
    text = to_markdown(make_table(cells))
    lines = [[part.strip() for part in line.strip("|").split(" | ")] for line in text.splitlines()]
    assert lines[0] == ["network", "mode", "fer, 1 %: accuracy, % ↑", "fer, 10 %: accuracy, % ↑"]
    assert lines[2] == ["good", "linear", "**51.00 ± 1.00**", "87.50"]
    assert lines[3] == [r"poor\|worse", "linear", "25.00", ""]
    assert "## fer (classes)" in text
    assert ["1 %", "good", "linear", "**51.00 ± 1.00**", "**25.50 ± 0.50**"] in lines
    assert ["10 %", "good", "linear", "87.50", "43.75"] in lines
    assert "over 3 seeds" in text
    widths = {len(line) for line in text.splitlines()[:4]}
    assert len(widths) == 1  # aligned for those who read it as it is


def test_markdown_says_how_many_seeds_where_they_differ() -> None:
    cells = [cell("a", 0.5 + 0.01 * seed, seed=seed) for seed in range(3)]
    cells += [cell("b", 0.25 + 0.01 * seed, seed=seed) for seed in range(2)]
    text = to_markdown(make_table(cells))
    assert "51.00 ± 1.00 (3)" in text
    assert "25.50 ± 0.71 (2)" in text
    assert "brackets" in text
    assert "One seed each" in to_markdown(make_table(cells[:1]))


def test_json() -> None:
    cells = [cell("a", value, seed=seed) for seed, value in enumerate((0.25, 0.75))] + [cell("b", 0.1)]
    results = json.loads(to_json(make_table(cells)))["results"]
    assert len(results) == 4
    assert results[0] == {
        "method": "a",
        "mode": "linear",
        "set": "fer",
        "task": "classes",
        "labels": "1 %",
        "metric": {"name": "accuracy", "higher_is_better": True, "percent": True},
        "main": True,
        "best": True,
        "mean": 0.5,
        "deviation": pytest.approx(0.5**0.5 / 2),
        "seeds": [0, 1],
    }
    assert [result["main"] for result in results] == [True, True, False, False]


def drawn(path: Path) -> tuple[tuple[int, int], set[int]]:
    """Its size, and the colours of all pixels as 0xRRGGBB."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(np.int64)
    return pixels.shape[:2], set(np.unique(pixels @ [1 << 16, 1 << 8, 1]).tolist())


def test_picture(tmp_path: Path) -> None:
    few = [cell("a", 0.5 + 0.1 * seed, seed=seed) for seed in range(3)] + [cell("$b_", 0.2)]
    small, colours = drawn(draw_table(make_table(few), tmp_path / "new" / "table.png"))
    blue, vermilion = 0x0072B2, 0xD55E00
    assert blue in colours
    assert vermilion not in colours
    more = [*few, cell("a", labels="10 %"), *(cell("a", set=name) for name in ("x", "y", "z"))]
    large, colours = drawn(draw_table(make_table(more), tmp_path / "table.png"))
    assert {blue, vermilion} <= colours
    assert all(new > old for new, old in zip(large, small, strict=True))


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be written"):
        draw_table(make_table([cell()]), tmp_path / "file" / "table.png")
