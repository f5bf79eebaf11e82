"""``facekit data select``: of faces in colour and grey those like a sample, quotas, and copies."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekit.cli import embedded, main
from facekit.errors import SettingError
from facekit.train.config import DataSettings
from facekit.train.convert import convert_pictures
from facekit.train.data import read_listing
from facekit.vectorfile import read_vectors, write_vectors

Out = pytest.CaptureFixture[str]
PEOPLE = ("P001", "P003", "P005", "P006", "P008")


def _faces(pictures: Path, shot: str) -> list[tuple[str, Image.Image]]:
    """Square cuts of the middle of each person's picture, in several places."""
    found = []
    for person in PEOPLE:
        with Image.open(pictures / "people" / person / f"{shot}.jpg") as picture:
            side = min(picture.size) // 2
            for number in range(4):
                left = (picture.width - side) // 2 + 7 * (number - 2)
                box = (left, 20 + 5 * number, left + side, 20 + 5 * number + side)
                found.append((f"{person}/{number}", picture.convert("RGB").resize((112, 112), box=box)))
    return found


def _dim(face: Image.Image) -> Image.Image:
    """Grey and dark."""
    return face.convert("L").point([level // 3 for level in range(256)])


@pytest.fixture(scope="module")
def people(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five people with four faces in colour and four in grey each; one file is broken."""
    folder = tmp_path_factory.mktemp("select") / "people"
    for name, face in _faces(pictures, "studio_portrait"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        face.save(folder / f"{name}-colour.png")
        _dim(face.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).save(folder / f"{name}-grey.png")
    (folder / "P003" / "broken.png").write_bytes(b"\x89PNG half a picture")
    return folder


@pytest.fixture(scope="module")
def grey(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other pictures of the people, grey, in no folders of people."""
    folder = tmp_path_factory.mktemp("grey")
    for name, face in _faces(pictures, "amateur_selfie"):
        _dim(face).save(folder / f"{name.replace('/', '-')}.png")
    return folder


@pytest.fixture
def model(tiny_checkpoint: Path) -> list[str]:
    return ["--checkpoint", str(tiny_checkpoint), "--device", "cpu"]


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _names(listing: object) -> set[str]:
    return {listing.source.name(row) for row in listing.rows.tolist()}


@pytest.mark.parametrize("method", ["cluster", "classifier"])
def test_what_is_like_the_target_stays(
    people: Path, grey: Path, model: list[str], tmp_path: Path, capsys: Out, method: str
) -> None:
    command = ["data", "select", str(people), "--target", str(grey), "--aligned", "--method", method, *model]
    assert main([*command, "--out", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["pictures"], told["selected"]) == (41, 20)
    assert told["left_out"] == {"less like the target": 20, "unreadable": 1}
    assert list(told["skipped"]) == ["P003/broken.png"]
    selected, excluded = _rows(tmp_path / "selected.csv"), _rows(tmp_path / "exclude.csv")
    assert sum(row["path"].endswith("grey.png") for row in selected) >= 18
    reasons = {row["path"]: row["reason"] for row in excluded}
    assert reasons.pop("P003/broken.png") == "unreadable"
    assert set(reasons.values()) == {"less like the target"}
    worst = min(float(row["score"]) for row in selected)
    assert main([*command, "--out", str(tmp_path), "--keep", "1"]) == 0
    scores = {row["path"]: float(row["score"]) for row in _rows(tmp_path / "selected.csv")}
    assert len(scores) == 40
    assert all(scores[path] <= worst for path in reasons)


def test_pictures_of_the_target_that_are_no_use_are_told(
    people: Path, grey: Path, model: list[str], tmp_path: Path, capsys: Out
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    shutil.copy(grey / "P001-0.png", target)
    (target / "no.png").write_text("no picture")
    command = ["data", "select", str(people), "--target", str(target), "--aligned", *model]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "target: 1 of 2 pictures usable"
    assert lines[1].startswith("skipped: ")
    assert "no.png" in lines[1]
    assert main([*command, "--out", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["target"]
    assert (told["pictures"], told["usable"], list(told["skipped"])) == (2, 1, ["no.png"])


def test_what_the_target_holds_out_does_not_choose(
    people: Path, grey: Path, model: list[str], tmp_path: Path, capsys: Out
) -> None:
    names = [f"P001-{number}.png" for number in range(4)]
    lines = [f"{name},ann,{'heldout' if number else 'train'}" for number, name in enumerate(names)]
    (tmp_path / "index.csv").write_text("\n".join(["path,identity,split", *lines]))
    for name in names:
        shutil.copy(grey / name, tmp_path)
    target = ["--target", str(tmp_path / "index.csv"), "--out", str(tmp_path / "out"), "--json"]
    assert main(["data", "select", str(people), "--aligned", *target, *model]) == 0
    assert json.loads(capsys.readouterr().out)["target"]["pictures"] == 1


def test_training_takes_both_lists(
    people: Path, grey: Path, model: list[str], tmp_path: Path, capsys: Out
) -> None:
    command = ["data", "select", str(people), "--target", str(grey), "--aligned", *model]
    assert main([*command, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "20 of 41 pictures selected" in printed.out
    assert "skipped: " in printed.err
    chosen = {row["path"]: row["identity"] for row in _rows(tmp_path / "selected.csv")}
    listed, _ = read_listing(DataSettings(data=tmp_path / "selected.csv", images=people, heldout=0))
    assert _names(listed) == set(chosen)
    assert {listed.source.people[int(listed.source.person[row])] for row in listed.rows} == set(
        chosen.values()
    )
    left, _ = read_listing(DataSettings(data=people, heldout=0, exclude=tmp_path / "exclude.csv"))
    assert _names(left) == set(chosen)


def test_unlabelled_pictures_are_one_pile(
    people: Path, grey: Path, model: list[str], tmp_path: Path, capsys: Out
) -> None:
    shutil.copy(grey / "P001-0.png", grey / "copy of P001.png")
    command = ["data", "select", str(grey), "--aligned", "--near-duplicates", "0.99999", *model]
    assert main([*command, "--out", str(tmp_path)]) == 0
    (grey / "copy of P001.png").unlink()
    assert _rows(tmp_path / "exclude.csv") == [
        {"path": "copy of P001.png", "reason": "near-duplicate of P001-0.png"}
    ]
    rows = _rows(tmp_path / "selected.csv")
    assert set(rows[0]) == {"path", "score"}
    settings = DataSettings(data=tmp_path / "selected.csv", images=grey, heldout=0)
    assert len(read_listing(settings, labelled=False)[0]) == len(rows) == 20


@pytest.mark.parametrize("kind", ["shard", "absolute paths", "links"])
def test_pictures_of_nobody_known_are_one_pile_in_any_source(
    grey: Path, model: list[str], tmp_path: Path, capsys: Out, kind: str
) -> None:
    names = ["P001-0.png", "P003-0.png", "P005-0.png", "copy.png"]
    for name in names:
        shutil.copy(grey / name.replace("copy", "P001-0"), tmp_path / name)
    data = tmp_path / "index.csv"
    if kind == "shard":
        data = tmp_path / "x.tar"
        with tarfile.open(data, "w") as archive:
            for name in names:
                archive.add(tmp_path / name, name)
    elif kind == "links":
        for name in names:
            (tmp_path / f"link to {name}").symlink_to(tmp_path / name)
        data.write_text("\n".join(["path", *(f"link to {name}" for name in names)]))
    else:
        data.write_text("\n".join(["path", *(str(tmp_path / name) for name in names)]))
    command = ["data", "select", str(data), "--aligned", "--near-duplicates", "1", *model]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    (repeat,) = _rows(tmp_path / "out" / "exclude.csv")
    assert repeat["reason"].startswith("near-duplicate of ")
    rows = _rows(tmp_path / "out" / "selected.csv")
    assert [set(row) for row in rows] == [{"path", "score"}] * 3


def test_a_picture_that_is_listed_twice_counts_once(
    grey: Path, model: list[str], tmp_path: Path, capsys: Out
) -> None:
    names = ["P001-0.png", "P003-0.png", "P001-0.png", "./P003-0.png"]
    (tmp_path / "index.csv").write_text("\n".join(["path", *names]))
    command = ["data", "select", str(tmp_path / "index.csv"), "--images", str(grey), "--aligned", *model]
    assert main([*command, "--near-duplicates", "1", "--out", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["pictures"], told["selected"], told["left_out"]) == (2, 2, {})
    assert [row["path"] for row in _rows(tmp_path / "out" / "selected.csv")] == names[:2]
    assert _rows(tmp_path / "out" / "exclude.csv") == []


def test_what_is_excluded_takes_no_place(people: Path, model: list[str], tmp_path: Path, capsys: Out) -> None:
    command = ["data", "select", str(people), "--aligned", "--per-person", "1", "--json", *model]
    assert main([*command, "--out", str(tmp_path / "all")]) == 0
    best = [row["path"] for row in _rows(tmp_path / "all" / "selected.csv")]
    (tmp_path / "audit.csv").write_text(f"path,reason\n{best[0]},mislabelled\n{best[1]},\ngone.png,\n")
    capsys.readouterr()
    assert main([*command, "--exclude", str(tmp_path / "audit.csv"), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "audit.csv: 1 of 3 rows name no picture" in printed.err
    told = json.loads(printed.out)
    assert (told["pictures"], told["selected"], told["left_out"]["excluded"]) == (41, 5, 2)
    chosen = [row["path"] for row in _rows(tmp_path / "out" / "selected.csv")]
    assert not set(best[:2]) & set(chosen)
    assert {name.split("/")[0] for name in chosen} == set(PEOPLE)
    reasons = {row["path"]: row["reason"] for row in _rows(tmp_path / "out" / "exclude.csv")}
    assert (reasons[best[0]], reasons[best[1]]) == ("mislabelled", "excluded")


def test_names_with_a_line_end_are_one_row(
    people: Path, model: list[str], tmp_path: Path, capsys: Out
) -> None:
    for number in range(2):
        shutil.copy(people / "P001" / f"{number}-grey.png", tmp_path / f"{number}\r.png")
    command = ["data", "select", str(tmp_path), "--aligned", "--near-duplicates", "-1", *model]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    rows = [*_rows(tmp_path / "out" / "selected.csv"), *_rows(tmp_path / "out" / "exclude.csv")]
    assert sorted(row["path"] for row in rows) == ["0\r.png", "1\r.png"]
    assert (tmp_path / "out" / "selected.csv").read_bytes().count(b"\n") == 2


def test_quotas_and_copies_need_no_target(
    people: Path, model: list[str], tmp_path: Path, capsys: Out
) -> None:
    command = ["data", "select", str(people), "--aligned", "--per-person", "3", "--json", *model]
    assert main([*command, "--near-duplicates", "1", "--out", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == {
        "more than 3 of this person": 25,
        "unreadable": 1,
    }
    rows = _rows(tmp_path / "selected.csv")
    assert np.unique([row["identity"] for row in rows], return_counts=True)[1].tolist() == [3] * 5
    assert main([*command[:-5], *model, "--near-duplicates", "-1", "--out", str(tmp_path)]) == 0
    best = {row["identity"]: float(row["score"]) for row in _rows(tmp_path / "selected.csv")}
    assert sorted(best) == list(PEOPLE)  # one each: near-duplicates are sought within a person alone
    assert all(best[row["identity"]] >= float(row["score"]) for row in rows)


def test_a_target_that_leaves_nothing_out_is_told(
    people: Path, grey: Path, model: list[str], tmp_path: Path, capsys: Out
) -> None:
    command = ["data", "select", str(people), "--target", str(grey), "--aligned", "--per-person", "1", *model]
    assert main([*command, "--out", str(tmp_path)]) == 0
    said = "--target: leaves nothing out, since 5 of 40 usable pictures are left, and 20 would stay; lower"
    assert said in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path), "--keep", "0.05"]) == 0
    assert "leaves nothing out" not in capsys.readouterr().err
    assert len(_rows(tmp_path / "selected.csv")) == 2


def test_heldout_pictures_stay_as_they_are(
    people: Path, grey: Path, model: list[str], tmp_path: Path, capsys: Out
) -> None:
    lines = ["path,identity,split"]
    lines += [f"P001/{n}-{c}.png,ann,train" for n in range(4) for c in ("colour", "grey")]
    lines += [f"P005/{n}-colour.png,bea,heldout" for n in range(4)]
    (tmp_path / "index.csv").write_text("\n".join(lines))
    command = ["data", "select", str(tmp_path / "index.csv"), "--images", str(people), "--aligned", *model]
    assert main([*command, "--target", str(grey), "--out", str(tmp_path / "out")]) == 0
    rows = _rows(tmp_path / "out" / "selected.csv")
    assert [row["split"] for row in rows] == ["train"] * 4 + ["heldout"] * 4
    assert all((row["score"] == "") == (row["split"] == "heldout") for row in rows)


@pytest.mark.parametrize("suffix", [".rec", ".tar"])
def test_archives_are_trained_on_with_exclude(
    people: Path, grey: Path, model: list[str], tmp_path: Path, capsys: Out, suffix: str
) -> None:
    archive = tmp_path / f"train{suffix}"
    (tmp_path / "broken.csv").write_text("path\nP003/broken.png\n")
    convert_pictures(people, archive, exclude=tmp_path / "broken.csv")
    command = ["data", "select", str(archive), "--target", str(grey), "--aligned", *model]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert f"--data {archive} --exclude" in capsys.readouterr().out
    settings = DataSettings(data=archive, heldout=0, exclude=tmp_path / "out" / "exclude.csv")
    left, _ = read_listing(settings)
    assert _names(left) == {row["path"] for row in _rows(tmp_path / "out" / "selected.csv")}
    assert len(left) == 20


def test_another_archive_of_the_same_name_is_embedded_anew(
    people: Path, model: list[str], tmp_path: Path, capsys: Out
) -> None:
    archive = tmp_path / "x.tar"
    command = ["data", "select", str(archive), "--per-person", "1", "--aligned", *model]
    command += ["--out", str(tmp_path / "out")]
    found = []
    for hue in ("colour", "grey"):
        with tarfile.open(archive, "w") as shard:
            member = tarfile.TarInfo("0.png")
            content = (people / "P001" / f"0-{hue}.png").read_bytes()
            member.size = 40_000  # the same place and length
            shard.addfile(member, io.BytesIO(content.ljust(member.size, b"\0")))
        assert main(command) == 0
        found.append(read_vectors(tmp_path / "out" / "embedded" / "source" / "000000.vectors")[0].copy())
    assert not np.array_equal(*found)


def test_vectors_of_another_command_are_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_BLOCK", 2)
    vectors = np.eye(4, dtype=np.float32)
    files = [(tmp_path / str(number), {"pictures": f"of block {number}"}) for number in range(2)]
    for number, (file, about) in enumerate(files):
        write_vectors(file, vectors[2 * number : 2 * number + 2], None, about)
    read = []
    monkeypatch.setattr(embedded, "read_vectors", lambda file: read.append(file) or read_vectors(file))
    rows = embedded.EmbeddedRows(files, 4, np.zeros(4, np.float32), {})
    assert np.array_equal(np.concatenate([rows[at : at + 1] for at in range(4)]), vectors)
    assert len(read) == 2  # each file is opened once, however many slices of it are asked for
    write_vectors(files[0][0], vectors[2:], None, {"pictures": "of another command"})
    assert np.array_equal(rows[2:], vectors[2:])
    with pytest.raises(SettingError, match="another command has written it anew"):
        rows[:1]


def test_stopped_work_goes_on(
    people: Path, model: list[str], tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_BLOCK", 10)
    real, asked = embedded._embed, []

    def embed(*arguments: object) -> object:
        asked.append(list(arguments[2]))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(embedded, "_embed", embed)
    command = ["data", "select", str(people), "--aligned", "--per-person", "2", *model]
    assert main([*command, "--out", str(tmp_path)]) == 130
    assert not (tmp_path / "selected.csv").exists()
    assert main([*command, "--out", str(tmp_path)]) == 0
    first = (tmp_path / "selected.csv").read_text()
    assert [len(rows) for rows in asked] == [10, 10, 10, 10, 10, 1]  # of five blocks the third was lost
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert len(asked) == 6
    (people / "P003" / "broken.png").write_bytes(b"another")  # what has changed is looked at again
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert len(asked) == 7
    monkeypatch.setattr(embedded, "_BLOCK", 2048)
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    assert (tmp_path / "whole" / "selected.csv").read_text() == first
    damaged = tmp_path / "embedded" / "source" / "000000.vectors"
    damaged.write_bytes(damaged.read_bytes()[:-7])
    monkeypatch.setattr(embedded, "_BLOCK", 10)
    assert main([*command, "--out", str(tmp_path)]) == 2
    assert "damaged; delete it" in capsys.readouterr().err


def test_faces_are_looked_for_in_photographs(
    pictures: Path, model: list[str], tmp_path: Path, capsys: Out
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(pictures / "people" / "P001" / "studio_portrait.jpg", folder / "a.jpg")
    with Image.open(folder / "a.jpg") as photo:
        photo.save(folder / "b.jpg", quality=90)
    shutil.copy(pictures / "people" / "P005" / "studio_portrait.jpg", folder / "c.jpg")
    Image.new("RGB", (300, 200), "gray").save(folder / "wall.png")
    command = ["data", "select", str(folder), "--near-duplicates", "0.97", "--json", *model]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["left_out"] == {"near-duplicate": 1, "no face": 1}
    reasons = {row["path"]: row["reason"] for row in _rows(tmp_path / "out" / "exclude.csv")}
    assert reasons.pop("wall.png") == "no face"
    assert reasons in ({"a.jpg": "near-duplicate of b.jpg"}, {"b.jpg": "near-duplicate of a.jpg"})


def test_bad_requests_are_one_line(people: Path, model: list[str], tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "none.csv").write_text("path,identity\n")
    for extra, problem in [
        ([], "--target, --per-person, --near-duplicates: none given"),
        (["--keep", "0.5", "--per-person", "2"], "--keep: 0.5"),
        (["--keep", "0", "--target", str(people)], "--keep: 0.0"),
        (["--keep", "nan", "--target", str(people)], "--keep: nan"),
        (["--per-person", "0"], "--per-person: 0"),
        (["--per-person", "2", "--method", "cluster"], "--method: cluster"),
        (["--per-person", "2", "--images", str(people)], "leave --images out"),
        (["--near-duplicates", "95"], "--near-duplicates: 95.0"),
        (["--near-duplicates", "nan"], "--near-duplicates: nan"),
        (["--per-person", "2", "--out", str(tmp_path / "file")], "--out"),
        (["--per-person", "2", "--out", str(tmp_path / "no" / "where")], "--out"),
        (["--target", str(tmp_path / "nowhere")], "nowhere"),
        (["--target", str(tmp_path / "none.csv")], f"--target: {tmp_path / 'none.csv'} names no pictures"),
    ]:
        out = [] if "--out" in extra else ["--out", str(tmp_path / "out")]
        assert main(["data", "select", str(people), "--aligned", *extra, *out, *model]) == 2
        printed = capsys.readouterr()
        assert problem in printed.err
        assert printed.err.count("\n") == 1
    assert not (tmp_path / "out" / "selected.csv").exists()
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.png").write_text("no picture")
    command = ["data", "select", str(tmp_path / "words"), "--per-person", "2", "--aligned", *model]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "no face in any of 1 pictures" in capsys.readouterr().err


def test_what_is_read_or_of_another_command_is_not_written_over(
    people: Path, model: list[str], tmp_path: Path, capsys: Out
) -> None:
    inputs = {"selected.csv": "path\n0-grey.png\n", "exclude.csv": "path,reason\n0-grey.png,mislabelled\n"}
    for name, content in inputs.items():
        (tmp_path / name).write_text(content)
    images = ["--images", str(people / "P001"), "--aligned", "--per-person", "1", "--out", str(tmp_path)]
    chosen = str(tmp_path / "selected.csv")
    (tmp_path / "index.csv").write_text("path\n0-grey.png\n1-grey.png\n")
    command = ["data", "select", str(tmp_path / "index.csv"), *images, *model]
    for wrong, problem in [
        (["data", "select", chosen, *images, *model], "selected.csv: is read, and would be written over"),
        ([*command, "--target", chosen], "selected.csv: is read"),
        ([*command, "--exclude", str(tmp_path / "exclude.csv")], "exclude.csv: is read"),
    ]:
        assert main(wrong) == 2
        assert problem in capsys.readouterr().err
    audited = "path,reason,person,own,suggestion,similarity\n"
    (tmp_path / "exclude.csv").write_text(audited)
    assert main(command) == 2
    assert "exclude.csv: is there, with other columns" in capsys.readouterr().err
    assert (tmp_path / "exclude.csv").read_text() == audited
    assert (tmp_path / "selected.csv").read_text() == inputs["selected.csv"]
    (tmp_path / "exclude.csv").unlink()
    assert main(command) == 2
    assert "selected.csv: is there, with other columns than path, identity, score" in capsys.readouterr().err
    assert (tmp_path / "selected.csv").read_text() == inputs["selected.csv"]
    (tmp_path / "selected.csv").unlink()
    assert main(command) == 0
    assert main(command) == 0  # its own
