"""Whose pictures are listed, from each kind of source, and what counts as new."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facekit.enrolment import Enrolment, Sample, Skipped, changes, list_enrolments
from facekit.errors import ImageError, MultipleFacesError, NoFaceError, SettingError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def listed(people: object) -> list[tuple[str, str]]:
    return [item.sample.key for item in list_enrolments(people)]


def test_a_folder_of_people_and_loose_pictures(tmp_path: Path) -> None:
    touch(
        tmp_path, "Ann/1.jpg", "Ann/2020/2.JPG", "Bob/1.png", "Cid.jpeg", "Cid.png", "Ann/notes.txt", ".x.jpg"
    )
    assert listed(tmp_path) == listed(str(tmp_path))
    assert listed(tmp_path) == [
        ("Ann", "Ann/1.jpg"),
        ("Ann", "Ann/2020/2.JPG"),
        ("Bob", "Bob/1.png"),
        ("Cid", "Cid.jpeg"),
        ("Cid", "Cid.png"),
    ]
    assert [Path(str(item.image)).is_file() for item in list_enrolments(tmp_path)] == [True] * 5


@pytest.mark.parametrize("headings", ["", "path,person\n", "\ufeffPath, Person \n"])
def test_a_csv(tmp_path: Path, headings: str) -> None:
    rows = 'a/1.jpg,Ann\n\n"b, c.jpg", Bob \na/1.jpg,Ann\n/abs.jpg,Cid\n'
    (tmp_path / "people.CSV").write_text(headings + rows, encoding="utf-8")
    found = list_enrolments(tmp_path / "people.CSV")
    assert [item.sample.key for item in found] == [
        ("Ann", "a/1.jpg"),
        ("Bob", "b, c.jpg"),
        ("Cid", "/abs.jpg"),
    ]
    assert [item.image for item in found] == [tmp_path / "a/1.jpg", tmp_path / "b, c.jpg", Path("/abs.jpg")]


def test_columns_of_a_csv_go_by_their_headings(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("id,person,path\n1,Ann,a.jpg\n")
    assert listed(tmp_path / "people.csv") == [("Ann", "a.jpg")]


def test_bad_csvs(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    for content in ("a.jpg,Ann\nb.jpg\n", "a.jpg,Ann\n,Bob\n"):
        path.write_text(content)
        with pytest.raises(SettingError, match=r"people\.csv: row 2 is not path,person") as caught:
            list_enrolments(path)
        assert caught.value.path == str(path)
    for content in ("path;person\na.jpg;Ann\n", "a.jpg\tAnn\n"):
        path.write_text(content)
        with pytest.raises(SettingError, match="row 1 is not path,person; separate the columns by a comma"):
            list_enrolments(path)
    path.write_bytes(b"a.jpg,\xff\xfe\n")
    with pytest.raises(SettingError, match="save it as UTF-8"):
        list_enrolments(path)
    for content in ("", "\n", "path,person\n"):
        path.write_text(content)
        with pytest.raises(SettingError, match=r"people\.csv: lists no pictures"):
            list_enrolments(path)


def test_a_mapping(tmp_path: Path) -> None:
    touch(tmp_path, "Ann/1.jpg", "b.jpg")
    array = np.zeros((4, 5, 3), np.uint8)
    people = {"Ann": tmp_path / "Ann", "Bob": [str(tmp_path / "b.jpg"), array], "Cid": b"bytes"}
    found = list_enrolments(people)
    assert [item.sample.person for item in found] == ["Ann", "Bob", "Bob", "Cid"]
    assert [bool(item.sample.stamp) for item in found] == [True, True, False, False]
    assert re.fullmatch("<array 4x5x3 [0-9a-f]{16}>", found[2].sample.source)
    assert found[2].image is array
    assert list_enrolments({}) == list_enrolments({"Ann": []}) == []


@pytest.mark.parametrize("person", [7, None, "", b"Ann"])
def test_names_are_text(person: object) -> None:
    with pytest.raises(SettingError, match=rf"people: {re.escape(repr(person))} is no name"):
        list_enrolments({"Ann": "a.jpg", person: "b.jpg"})


def test_pictures_in_memory_are_told_apart_by_their_content() -> None:
    def keys() -> list[tuple[str, str]]:
        arrays = [np.full((4, 5, 3), value, np.uint8) for value in (1, 2)]
        others = [make(array) for array in arrays for make in (torch.from_numpy, Image.fromarray, bytes)]
        return listed({"Ann": [*arrays, *others, *map(io.BytesIO, (b"a", b"b"))]})

    assert len(set(keys())) == 10
    assert keys() == keys()
    assert listed({"Ann": [torch.zeros(3, 4, 5, dtype=torch.bfloat16), io.BufferedReader(io.BytesIO())]})


def test_a_file_that_cannot_be_looked_at_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.jpg", "secret.jpg")
    stat = Path.stat

    def refuse(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if "secret" in os.fspath(path):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(Path, "stat", refuse)  # root may look at everything, so chmod proves nothing
    people = {"Ann": [tmp_path / "a.jpg", tmp_path / "secret.jpg", "x" * 5000 + ".jpg", "nul\0.jpg"]}
    assert [bool(item.sample.stamp) for item in list_enrolments(people)] == [True, False, False, False]


def test_what_is_none_of_these(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="people: a folder, CSV or mapping expected; got int"):
        list_enrolments(3)
    with pytest.raises(ImageError, match="no such folder"):
        list_enrolments(tmp_path / "none.csv")
    with pytest.raises(ImageError, match="holds no pictures"):
        list_enrolments(tmp_path)
    touch(tmp_path, "a.jpg")
    with pytest.raises(ImageError, match="is a file, not a folder"):
        list_enrolments(tmp_path / "a.jpg")


def test_stamps_change_with_size_and_time(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    (first,) = list_enrolments(tmp_path)
    assert first.sample.stamp
    os.utime(tmp_path / "a.jpg", ns=(0, 1))
    (second,) = list_enrolments(tmp_path)
    (tmp_path / "a.jpg").write_text("longer content")
    os.utime(tmp_path / "a.jpg", ns=(0, 1))
    (third,) = list_enrolments(tmp_path)
    assert len({item.sample.stamp for item in (first, second, third)}) == 3


def test_changes() -> None:
    def item(person: str, stamp: str = "1") -> Enrolment:
        return Enrolment(Sample(person, f"{person}.jpg", stamp), f"{person}.jpg")

    found = [
        item("same"),
        item("changed", "2"),
        item("new"),
        item("array", ""),
        item("no face"),
        item("broken"),
    ]
    stored = [
        Sample("same", "same.jpg", "1"),
        Sample("changed", "changed.jpg", "1"),
        Sample("array", "array.jpg"),
        Sample("gone", "gone.jpg", "1"),
        Sample("by hand"),
        Skipped("no face", "no face.jpg", "", "", "1"),
        Skipped("broken", "broken.jpg", "", "", ""),
        Skipped("broken and gone", "broken and gone.jpg", "", "", ""),
    ]
    fresh, vanished = changes(found, stored)
    assert [item.sample.person for item in fresh] == ["changed", "new", "array", "broken"]
    assert {person for person, _ in vanished} == {"gone", "broken and gone"}


def test_only_what_was_seen_is_not_tried_again() -> None:
    item = Enrolment(Sample("Ann", "a.jpg", "1"), "a.jpg")
    for error in (NoFaceError("a.jpg: no face"), MultipleFacesError("a.jpg: 2 faces")):
        assert item.skipped(error) == Skipped("Ann", "a.jpg", str(error), type(error).__name__, "1")
    assert item.skipped(ImageError("a.jpg: cut")).stamp == ""
