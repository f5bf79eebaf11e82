"""``facekit data audit --losses``: a report about pictures whose losses are high."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekit.cli import main
from facekit.label_noise import clean_probability
from facekit.train.config import DataSettings
from facekit.train.data import read_listing
from facekit.train.sources.recordio import write_records

Out = pytest.CaptureFixture[str]
PEOPLE, EACH = 6, 5
WRONG = {"p1/2.png": 5.5, "p4/0.png": 6.5, "p4/3.png": 4.5}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("losses") / "people"
    for person in range(PEOPLE):
        (folder / f"p{person}").mkdir(parents=True)
        for shot in range(EACH):
            picture = Image.fromarray(np.full((8, 8, 3), 30 * person + shot, np.uint8))
            picture.save(folder / f"p{person}" / f"{shot}.png")
    return folder


def _losses() -> dict[str, float]:
    """Of all pictures: high for three, low for the others, lowest for the first of each person."""
    every = [f"p{person}/{shot}.png" for person in range(PEOPLE) for shot in range(EACH)]
    return {name: WRONG.get(name, 0.1 + 0.07 * (number % EACH)) for number, name in enumerate(every)}


def _table(folder: Path, *lines: str, header: str = "path,loss") -> Path:
    path = folder / "losses.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def _whole(folder: Path) -> Path:
    """As training writes it: the label, and for one picture another that fits better."""
    better = {"p1/2.png": "p5", "p4/0.png": "p4"}
    rows = [f"{name},{name[:2]},{loss},0.5,{better.get(name, '')}" for name, loss in _losses().items()]
    return _table(folder, *rows, header="path,label,loss,clean,suggestion")


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_high_losses_are_doubted(people: Path, tmp_path: Path, capsys: Out) -> None:
    out = tmp_path / "report"
    assert main(["data", "audit", str(people), "--losses", str(_whole(tmp_path)), "--out", str(out)]) == 0
    rows = _rows(out / "exclude.csv")
    clean = dict(zip(_losses(), clean_probability(list(_losses().values())), strict=True))
    assert [row["path"] for row in rows] == ["p4/0.png", "p1/2.png", "p4/3.png"]  # the highest first
    assert rows[1] == {
        "path": "p1/2.png",
        "reason": "high loss",
        "person": "p1",
        "own": "",
        "suggestion": "p5",
        "similarity": "",
        "loss": "5.5",
        "clean": f"{clean['p1/2.png']:.4f}",
    }
    assert rows[0]["suggestion"] == ""  # of the label that it has
    printed = capsys.readouterr()
    assert "30 pictures of 6 people" in printed.out
    assert "3 pictures of high loss" in printed.out
    assert printed.err == ""
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "losses of two kinds: 90% about 0.243, 10% about 5.5" in page
    assert "p1? loss 5.5, right with 0.00; rather p5" in page
    assert (
        page.count("data:image/jpeg;base64,") == 2 + 3 + 2
    )  # itself, its person's best, the suggested one's


def test_json_and_how_many_are_shown(people: Path, tmp_path: Path, capsys: Out) -> None:
    command = ["data", "audit", str(people), "--losses", str(_whole(tmp_path)), "--out", str(tmp_path)]
    assert main([*command, "--json", "--top", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["high_loss"], told["without_loss"], told["unknown"]) == (3, 0, 0)
    assert told["mixture"]["shares"] == pytest.approx([0.9, 0.1])
    assert told["separation"] > 2
    assert told["exclude"] == _rows(tmp_path / "exclude.csv")
    assert "of which 1 are shown" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_the_limit_decides(people: Path, tmp_path: Path, capsys: Out) -> None:
    command = ["data", "audit", str(people), "--losses", str(_whole(tmp_path)), "--out", str(tmp_path)]
    for limit, doubted in [("0", 0), ("0.5", 3), ("1", 3)]:
        assert main([*command, "--clean", limit]) == 0
        assert len(_rows(tmp_path / "exclude.csv")) >= doubted
    assert main([*command, "--clean", "0"]) == 0
    assert _rows(tmp_path / "exclude.csv") == []


def test_of_a_picture_on_several_lines_the_highest_loss_counts(people: Path, tmp_path: Path) -> None:
    """As a run has them whose data name a picture twice."""
    losses = [f"{name},{loss}" for name, loss in _losses().items()]
    table = _table(tmp_path, "p4/../p4/0.png,0.1", *losses, "p1/2.png,0.1")
    assert main(["data", "audit", str(people), "--losses", str(table), "--out", str(tmp_path)]) == 0
    rows = _rows(tmp_path / "exclude.csv")
    assert {row["path"]: float(row["loss"]) for row in rows} == WRONG


def test_training_takes_the_list(people: Path, tmp_path: Path, capsys: Out) -> None:
    assert (
        main(["data", "audit", str(people), "--losses", str(_whole(tmp_path)), "--out", str(tmp_path)]) == 0
    )
    train, _ = read_listing(DataSettings(data=people, heldout=0, exclude=tmp_path / "exclude.csv"))
    left = {train.source.name(row) for row in train.rows.tolist()}
    assert left == set(_losses()) - set(WRONG)


def test_pictures_without_a_loss_and_losses_without_a_picture(
    people: Path, tmp_path: Path, capsys: Out
) -> None:
    rows = [f"{name},{loss}" for name, loss in _losses().items() if not name.startswith("p0/")]
    table = _table(tmp_path, *rows, "p9/0.png,3", f"{(people / 'p0' / '0.png').resolve()},0.2")
    assert main(["data", "audit", str(people), "--losses", str(table), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "4 pictures without a loss" in printed.err
    assert f"1 line of {table} of no picture" in printed.err
    assert "26 pictures of 6 people" in printed.out
    assert len(_rows(tmp_path / "exclude.csv")) == 3
    assert "4 pictures without a loss" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_one_heap_is_told(people: Path, tmp_path: Path, capsys: Out) -> None:
    quantiles = np.random.default_rng(0).normal(3, 1, PEOPLE * EACH)
    rows = [f"{name},{loss}" for name, loss in zip(_losses(), quantiles, strict=True)]
    command = ["data", "audit", str(people), "--losses", str(_table(tmp_path, *rows)), "--out", str(tmp_path)]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main(command) == 0
    assert ("one heap rather than two" in capsys.readouterr().err) == (told["separation"] < 2)
    assert (
        main([*command[:-1], str(tmp_path), "--losses", str(_table(tmp_path, *(f"{n},1" for n in WRONG)))])
        == 0
    )
    assert "0 pictures of high loss" in capsys.readouterr().out
    assert "tell nothing about labels" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_pictures_in_an_archive(people: Path, tmp_path: Path, capsys: Out) -> None:
    write_records(
        tmp_path / "x.rec",
        [(int(name[1]), (people / name).read_bytes()) for name in _losses()],
    )
    rows = [f'"x.rec, record {key}",{loss}' for key, loss in enumerate(_losses().values(), start=1)]
    table = _table(tmp_path, *rows)
    command = ["data", "audit", str(tmp_path / "x.rec"), "--losses", str(table), "--out", str(tmp_path / "a")]
    assert main(command) == 0
    assert len(_rows(tmp_path / "a" / "exclude.csv")) == 3


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["path,other", "p0/0.png,1"], "losses.csv: needs a header with the columns path and loss"),
        (["path,loss", "p0/0.png,low"], "line 2: loss 'low' is no finite number"),
        (["path,loss", "p0/0.png"], "line 2: loss '' is no finite number"),
        (["path,loss", "p0/0.png,nan"], "line 2: loss 'nan' is no finite number"),
        (["path,loss", "p0/0.png,1", "p0/1.png,-inf"], "line 3: loss '-inf' is no finite number"),
        (["path,loss", "../x.png,1"], "line 2: '../x.png' names nothing"),
        (["path,loss", "p9/0.png,1", "p9/1.png,1"], "none of 2 lines names a picture"),
        (["path,loss"], "none of 0 lines names a picture"),
    ],
)
def test_hostile_losses(people: Path, tmp_path: Path, lines: list[str], problem: str, capsys: Out) -> None:
    table = _table(tmp_path, *lines[1:], header=lines[0])
    assert main(["data", "audit", str(people), "--losses", str(table), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1
    assert not (tmp_path / "exclude.csv").exists()


def test_what_is_read_or_of_another_command_is_not_written_over(
    people: Path, tmp_path: Path, capsys: Out
) -> None:
    table = _whole(tmp_path)
    command = ["data", "audit", str(people), "--out", str(tmp_path), "--losses"]
    (tmp_path / "index.html").write_bytes(table.read_bytes())
    assert main([*command, str(tmp_path / "index.html")]) == 2
    assert "index.html: is read, and would be written over" in capsys.readouterr().err
    (tmp_path / "exclude.csv").write_text('"path","reason"\n')
    assert main([*command, str(table)]) == 2
    assert "exclude.csv: is there, with other columns" in capsys.readouterr().err
    assert (tmp_path / "exclude.csv").read_text() == '"path","reason"\n'
    (tmp_path / "exclude.csv").write_text("path,reason,person,own,suggestion,similarity\n")
    assert main([*command, str(table)]) == 0
    assert main([*command, str(table)]) == 0  # its own


def test_an_error_leaves_no_new_folder(people: Path, tmp_path: Path, capsys: Out) -> None:
    table = _table(tmp_path, "p0/0.png,low")
    for name in ("new", "there"):
        (tmp_path / "there").mkdir(exist_ok=True)
        out = str(tmp_path / name)
        assert main(["data", "audit", str(people), "--losses", str(table), "--out", out]) == 2
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "there").is_dir()


def test_a_name_with_a_line_end_is_one_row(tmp_path: Path, capsys: Out) -> None:
    for person in range(2):
        (tmp_path / "people" / f"p{person}").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "people" / f"p{person}" / "0\r.png")
    table = _table(tmp_path, '"p0/0\r.png",1', '"p1/0\r.png",9')
    command = ["data", "audit", str(tmp_path / "people"), "--losses", str(table), "--clean", "1"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert [row["path"] for row in _rows(tmp_path / "exclude.csv")] == ["p1/0\r.png"]


def test_options_that_cannot_be(people: Path, tmp_path: Path, capsys: Out) -> None:
    command = ["data", "audit", str(people), "--losses", str(_whole(tmp_path)), "--out", str(tmp_path)]
    for extra, problem in [
        (["--against", str(people)], "--losses with --against"),
        (["--clean", "1.5"], "--clean: 1.5"),
        (["--clean", "nan"], "--clean: nan"),
        (["--aligned"], "--aligned with --losses"),
        (["--faces", "all"], "--faces with --losses"),
        (["--checkpoint", str(tmp_path / "none")], "--checkpoint with --losses"),
        (["--images", str(people)], "leave --images out"),
    ]:
        assert main([*command, *extra]) == 2
        assert problem in capsys.readouterr().err
    assert not (tmp_path / "exclude.csv").exists()
