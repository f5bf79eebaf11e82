"""Lists of pictures that training leaves out: by path, by place in an archive; hostile lists."""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekit.errors import TrainingError
from facekit.train.config import DataSettings
from facekit.train.data import load_crops, open_source, read_listing
from facekit.train.sources.recordio import write_records

_PEOPLE, _EACH = 4, 3


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same twelve pictures as a folder, a CSV and records."""
    root = tmp_path_factory.mktemp("sources")
    pictures = []
    for person in range(_PEOPLE):
        (root / "folder" / f"p{person}").mkdir(parents=True)
        for number in range(_EACH):
            file = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), 10 * person + number, np.uint8)).save(file, "png")
            (root / "folder" / f"p{person}" / f"{number}.png").write_bytes(file.getvalue())
            pictures.append((person, file.getvalue()))
    write_records(root / "x.rec", pictures)
    rows = [f"p{who}/{number}.png,p{who}" for who in range(_PEOPLE) for number in range(_EACH)]
    (root / "folder" / "x.csv").write_text("path,identity\n" + "\n".join(rows))
    return {"folder": root / "folder", "csv": root / "folder" / "x.csv", "rec": root / "x.rec"}


def _names(data: Path, table: Path | None, heldout: float = 0) -> tuple[set[str], set[str]]:
    train, held = read_listing(DataSettings(data=data, heldout=heldout, exclude=table))
    names = [{part.source.name(row) for row in part.rows.tolist()} for part in (train, held)]
    return names[0], names[1]


def _table(folder: Path, *lines: str) -> Path:
    path = folder / "exclude.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("kind", ["folder", "csv", "rec"])
def test_what_a_source_calls_its_pictures_leaves_them_out(
    sources: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    source = open_source(sources[kind])
    every = {source.name(row) for row in range(len(source.person))}
    gone = {source.name(0), source.name(7)}
    rows = [f'"{name}",because' for name in sorted(gone)]
    train, _ = _names(sources[kind], _table(tmp_path, "path,reason", *rows))
    assert len(every) == _PEOPLE * _EACH
    assert train == every - gone


def test_names_of_pictures(sources: dict[str, Path]) -> None:
    assert open_source(sources["folder"]).name(4) == "p1/1.png"
    assert open_source(sources["csv"]).name(4) == "p1/1.png"
    assert open_source(sources["rec"]).name(4) == "x.rec, record 5"


def test_paths_in_full_and_by_detours_are_the_same(sources: dict[str, Path], tmp_path: Path) -> None:
    full = (sources["folder"] / "p0" / "0.png").resolve()
    table = _table(tmp_path, "path", str(full), "p1/../p1/./1.png", "p1/1.png")
    train, _ = _names(sources["folder"], table)
    assert len(train) == _PEOPLE * _EACH - 2


def test_a_person_without_pictures_is_no_class(sources: dict[str, Path], tmp_path: Path) -> None:
    table = _table(tmp_path, "path", *(f"p2/{number}.png" for number in range(_EACH)))
    train, _ = read_listing(DataSettings(data=sources["folder"], heldout=0, exclude=table))
    assert train.classes == _PEOPLE - 1
    assert sorted(set(train.labels.tolist())) == [0, 1, 2]


def test_who_is_kept_aside_stays_aside(sources: dict[str, Path], tmp_path: Path) -> None:
    before = _names(sources["folder"], None, heldout=0.5)
    table = _table(tmp_path, "path", *(f"p0/{number}.png" for number in range(_EACH)), "p3/0.png")
    after = _names(sources["folder"], table, heldout=0.5)
    gone = {"p0/0.png", "p0/1.png", "p0/2.png", "p3/0.png"}
    assert before[0]
    assert before[1]
    assert after == (before[0] - gone, before[1] - gone)


def test_rows_that_name_nothing_are_counted(
    sources: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "facekit")
    train, _ = _names(sources["folder"], _table(tmp_path, "path", "p0/0.png", "p0/7.png", "nobody/0.png"))
    assert len(train) == _PEOPLE * _EACH - 1
    assert "2 of 3 rows name no picture" in caplog.text
    assert "1 of 12 pictures are left out" in caplog.text


def test_a_list_of_nothing_leaves_nothing_out(sources: dict[str, Path], tmp_path: Path) -> None:
    train, _ = _names(sources["folder"], _table(tmp_path, "path,reason"))
    assert len(train) == _PEOPLE * _EACH


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["picture", "p0/0.png"], "column path"),
        ([""], "column path"),
        (["path", "../x.rec"], "line 2: '../x.rec' names nothing"),
        (["path", "p0/0.png", "/etc/passwd"], "line 3: '/etc/passwd' names nothing"),
        (["reason,path", "mislabelled"], "line 2: '' names nothing"),
        (["path", "p9/0.png"], "1 of 1 rows name no picture"),
        (["path", "p0/\0.png"], "not a readable CSV"),
        (["path", '"' + "x" * 200_000 + '"'], "not a readable CSV"),
    ],
)
def test_hostile_lists(sources: dict[str, Path], tmp_path: Path, lines: list[str], problem: str) -> None:
    with pytest.raises(TrainingError, match=r"exclude\.csv") as caught:
        _names(sources["folder"], _table(tmp_path, *lines))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are text")
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """A list that a command wrote of such files is one that training reads."""
    name = os.fsdecode(b"caf\xe9.png")
    for picture in (name, "milk.png", "tea.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / picture)
    table = tmp_path / "selected.csv"
    table.write_bytes(os.fsencode(f"path,identity\n{name},a\nmilk.png,b\ntea.png,c\n"))
    exclude = _table(tmp_path, "path", "tea.png")
    train, _ = read_listing(DataSettings(data=table, heldout=0, exclude=exclude))
    assert [train.source.name(row) for row in train.rows.tolist()] == [name, "milk.png"]
    assert load_crops(train, 8, progress=False).pictures.shape == (2, 3, 8, 8)


@pytest.mark.skipif(sys.platform == "win32", reason="links want rights there")
def test_a_link_to_itself_is_a_picture_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("milk.png", "tea.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "loop.png").symlink_to("loop.png")
    table = tmp_path / "people.csv"
    table.write_text("path,identity\nmilk.png, b\nloop.png,b\ntea.png,c \n")
    train, _ = read_listing(DataSettings(data=table, heldout=0, exclude=_table(tmp_path, "path", "loop.png")))
    assert [train.source.name(row) for row in train.rows.tolist()] == ["milk.png", "tea.png"]
    train, _ = read_listing(DataSettings(data=table, heldout=0))
    assert train.source.people == ["b", "c"]
    assert len(load_crops(train, 8, progress=False)) == 2


def test_a_list_that_is_not_there(sources: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"not a readable CSV file \(.*\); give one with the column path"):
        _names(sources["folder"], tmp_path / "none.csv")
