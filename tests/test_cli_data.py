"""``facekit data``: a report about made-up people of whom some are wrong, and files made of them."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekit.cli import main
from facekit.errors import TrainingError
from facekit.train.config import DataSettings
from facekit.train.convert import convert_pictures
from facekit.train.data import open_source, read_listing

Out = pytest.CaptureFixture[str]
PEOPLE, EACH = 40, 4


def _write(path: Path, person: int, shot: int) -> None:
    """A picture of stripes: each person has colours of their own, which each shot disturbs a little."""
    rng = np.random.default_rng(person)
    stripes = rng.integers(0, 256, (7, 7, 3))
    noise = np.random.default_rng((person, shot)).integers(-12, 13, (7, 7, 3))
    picture = np.clip(stripes + noise, 0, 255).astype(np.uint8).repeat(16, 0).repeat(16, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 people with 4 pictures each; one picture of p03 lies with p08, and p00 has a second name."""
    folder = tmp_path_factory.mktemp("audit") / "people"
    for person in range(PEOPLE):
        for shot in range(EACH):
            _write(folder / f"p{person:02}" / f"{shot}.png", person, shot)
    shutil.move(folder / "p03" / "1.png", folder / "p08" / "moved.png")
    for shot in (5, 6):
        _write(folder / "<b>second" / f"{shot}.png", 0, shot)
    (folder / "p01" / "broken.png").write_bytes(b"\x89PNG half a picture")
    return folder


@pytest.fixture
def model(tiny_checkpoint: Path) -> list[str]:
    return ["--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--aligned"]


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_audit_finds_what_is_wrong(people: Path, model: list[str], tmp_path: Path, capsys: Out) -> None:
    out = tmp_path / "report"
    assert main(["data", "audit", str(people), "--out", str(out), *model]) == 0
    rows = _rows(out / "exclude.csv")
    found = {(row["path"], row["reason"], row["suggestion"]) for row in rows}
    assert ("p08/moved.png", "mislabelled", "p03") in found
    assert {path for path, reason, _ in found if reason == "two names"} == {
        "<b>second/5.png",
        "<b>second/6.png",
    }
    printed = capsys.readouterr()
    assert "broken.png" in printed.err
    assert "to leave out" in printed.out
    assert sorted(path.name for path in out.iterdir()) == ["exclude.csv", "index.html"]
    assert len(list(people.rglob("*.png"))) == PEOPLE * EACH + 3  # nothing is moved or deleted


def test_the_page_opens_offline_and_names_do_no_harm(
    people: Path, model: list[str], tmp_path: Path, capsys: Out
) -> None:
    assert main(["data", "audit", str(people), "--out", str(tmp_path), *model]) == 0
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "&lt;b&gt;second" in page
    assert not re.search(r"https?://|<script|<link", page)
    assert page.count("data:image/jpeg;base64,") >= 3


def test_the_page_shows_the_worst_and_the_list_has_all(
    people: Path, model: list[str], tmp_path: Path, capsys: Out
) -> None:
    assert main(["data", "audit", str(people), "--out", str(tmp_path), "--top", "0", "--json", *model]) == 0
    told = json.loads(capsys.readouterr().out)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "of which 0 are shown" in page
    assert "<img" not in page
    assert len(told["exclude"]) == len(_rows(tmp_path / "exclude.csv")) > 0
    assert list(told["skipped"]) == ["p01/broken.png"]


def test_people_of_the_evaluation_set(people: Path, model: list[str], tmp_path: Path, capsys: Out) -> None:
    _write(tmp_path / "test" / "somebody" / "0.png", 20, 77)
    _write(tmp_path / "test" / "nobody" / "0.png", 1000, 0)
    command = ["data", "audit", str(people), "--against", str(tmp_path / "test"), "--json", *model]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    rows = [row for row in json.loads(capsys.readouterr().out)["exclude"] if row["reason"] == "overlap"]
    assert [(row["path"], row["suggestion"]) for row in rows] == [
        (f"p20/{shot}.png", "somebody") for shot in range(EACH)
    ]


def test_training_takes_the_list(people: Path, model: list[str], tmp_path: Path, capsys: Out) -> None:
    assert main(["data", "audit", str(people), "--out", str(tmp_path), *model]) == 0
    train, _ = read_listing(DataSettings(data=people, heldout=0, exclude=tmp_path / "exclude.csv"))
    left = {train.source.name(row) for row in train.rows.tolist()}
    assert "p08/moved.png" not in left
    assert len(left) == PEOPLE * EACH + 3 - len(_rows(tmp_path / "exclude.csv"))


def test_errors_are_one_line(people: Path, model: list[str], tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "file").touch()
    for extra, problem in [
        (["--out", str(tmp_path / "file")], "--out"),
        (["--out", str(tmp_path / "no" / "where")], "--out"),
        (["--out", str(tmp_path), "--top", "-1"], "--top"),
        (["--out", str(tmp_path), "--clean", "0.5"], "--clean: 0.5 is a limit for losses"),
        (["--out", str(tmp_path), "--against", str(tmp_path / "none")], "none"),
    ]:
        assert main(["data", "audit", str(people), *extra, *model]) == 2
        assert problem in capsys.readouterr().err
    assert not (tmp_path / "exclude.csv").exists()


def _contents(data: Path) -> list[tuple[int, bytes]]:
    source = open_source(data)
    read = [source.read(row) for row in range(len(source.person))]
    content = [item.read_bytes() if isinstance(item, Path) else item.getvalue() for item in read]
    return list(zip(source.person.tolist(), content, strict=True))


@pytest.mark.parametrize("suffix", [".rec", ".tar"])
def test_what_is_converted_reads_back(people: Path, tmp_path: Path, suffix: str, capsys: Out) -> None:
    out = tmp_path / f"train{suffix}"
    assert main(["data", "convert", str(people), str(out)]) == 0
    source, made = open_source(people), open_source(out)
    assert sorted(_contents(out)) == sorted(_contents(people))
    names = _rows(tmp_path / "train.csv")
    assert [int(row["number"]) for row in names] == [
        int(made.people[who]) for who in made.person.tolist()
    ]  # in the file's order
    assert {int(row["number"]): row["person"] for row in names} == dict(enumerate(source.people))
    assert [(people / row["path"]).read_bytes() for row in names] == [
        content for _, content in _contents(out)
    ]
    kinds = {".rec": {"train.rec", "train.idx", "train.csv"}, ".tar": {"train.tar", "train.csv"}}
    assert {path.name for path in tmp_path.iterdir()} == kinds[suffix]


def test_a_csv_keeps_its_split_and_a_list_leaves_out(people: Path, tmp_path: Path) -> None:
    table = tmp_path / "index.csv"
    table.write_text("path,identity,split\np01/0.png,a,train\np01/1.png,a,train\np02/0.png,b,heldout\n")
    (tmp_path / "gone.csv").write_text("path\np01/0.png\n")
    done = convert_pictures(table, tmp_path / "x.rec", images=people, exclude=tmp_path / "gone.csv")
    assert (done.pictures, done.people, done.skipped) == (2, 2, [])
    rows = [tuple(row.values()) for row in _rows(done.names)]
    assert rows == [("0", "a", "train", "p01/1.png"), ("1", "b", "heldout", "p02/0.png")]


def test_what_is_no_picture_is_left_out_and_told(tmp_path: Path, capsys: Out) -> None:
    _write(tmp_path / "people" / "a" / "0.png", 0, 0)
    (tmp_path / "people" / "a" / "1.png").touch()
    assert main(["data", "convert", str(tmp_path / "people"), str(tmp_path / "x.tar")]) == 0
    assert "1.png: 0 bytes" in capsys.readouterr().err
    assert len(open_source(tmp_path / "x.tar").person) == 1


@pytest.mark.parametrize("suffix", [".rec", ".tar"])
def test_interrupted_writing_leaves_nothing(
    people: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    real, calls = Path.read_bytes, 0

    def read(path: Path) -> bytes:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert main(["data", "convert", str(people), str(tmp_path / f"x{suffix}")]) == 130
    assert list(tmp_path.iterdir()) == []


def test_conversions_that_cannot_be(people: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"must end with \.rec or \.tar"):
        convert_pictures(people, tmp_path / "x.zip")
    with pytest.raises(TrainingError, match="is no CSV, whose paths alone start at images="):
        convert_pictures(people, tmp_path / "x.rec", images=people)
    with pytest.raises(TrainingError, match="cannot be written"):
        convert_pictures(people, tmp_path / "no" / "x.rec")
    (tmp_path / "x.csv").write_text("path,identity\n0.png,a\n")
    for exclude in (None, tmp_path / "x.csv"):  # nor a file that nobody named
        with pytest.raises(TrainingError, match="would replace"):
            convert_pictures(people, tmp_path / "x.rec", exclude=exclude)
    with pytest.raises(TrainingError, match="would replace"):
        convert_pictures(tmp_path / "x.csv", tmp_path / "x.rec")
    (tmp_path / "z.csv").mkdir()
    with pytest.raises(TrainingError, match="would replace"):
        convert_pictures(people, tmp_path / "z.rec")
    (tmp_path / "z.csv").rmdir()
    with pytest.raises(TrainingError, match=r"x\.csv: leaves out all 1 pictures"):
        convert_pictures(tmp_path / "x.csv", tmp_path / "y.tar", exclude=tmp_path / "x.csv")
    with pytest.raises(TrainingError, match="none of the pictures can be read"):
        convert_pictures(tmp_path / "x.csv", tmp_path / "y.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv"]
