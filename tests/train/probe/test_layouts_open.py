"""Recognising layouts: unknown ones, several tasks, splits that cannot be, and paths that lead elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from layout_sets import counts, names, write_picture

from facekit.errors import SettingError, TrainingError
from facekit.train.probe.examples import TEST
from facekit.train.probe.layouts import LAYOUTS, open_examples
from facekit.train.probe.layouts.files import Folder, numbers, read_lines, whole_number


def test_what_is_no_known_layout_is_told_what_they_look_like(tmp_path: Path) -> None:
    write_picture(tmp_path / "loose.png")
    with pytest.raises(
        TrainingError, match=r"is in no known layout.*celeba \(img_align_celeba/.*folder \("
    ) as error:
        open_examples(tmp_path)
    assert all(layout.name in str(error.value) for layout in LAYOUTS)
    assert "\n" not in str(error.value)


def test_bad_names_say_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"layout is 'celebB': choose of auto, celeba, "):
        open_examples(tmp_path, layout="celebB")
    with pytest.raises(SettingError, match=r"task is 'gaze': choose of identities, "):
        open_examples(tmp_path, task="gaze")
    with pytest.raises(TrainingError, match="no such file or folder"):
        open_examples(tmp_path / "missing")


def test_names_of_layouts_are_unique() -> None:
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)


# ---------------------------------------------------------------- folders


def _classes(folder: Path, count: int = 10) -> None:
    for label in ("cold", "warm"):
        for number in range(count):
            write_picture(folder / label / f"{label}{number}.png")


def test_a_folder_of_classes(tmp_path: Path) -> None:
    _classes(tmp_path)
    examples = open_examples(tmp_path, name="weather")
    assert (examples.name, examples.task, examples.names) == ("weather", "classes", ("cold", "warm"))
    assert counts(examples) == [14, 2, 4]
    assert [name.startswith("warm") for name in names(examples)] == examples.targets.bool().tolist()
    assert sorted(examples.targets[examples.split == TEST].tolist()) == [0, 0, 1, 1]
    assert open_examples(tmp_path).name == tmp_path.name


@pytest.mark.parametrize("validation", ["val", "validation", "valid", None])
def test_folders_of_splits(tmp_path: Path, validation: str | None) -> None:
    for part, count in (("train", 20), (validation, 3), ("test", 5)):
        if part:
            _classes(tmp_path / part, count)
    examples = open_examples(tmp_path)
    assert examples.names == ("cold", "warm")
    assert counts(examples) == ([40, 6, 10] if validation else [36, 4, 10])
    assert all("test" in str(examples.pictures[row].path) for row in examples.rows(TEST))


def test_a_class_may_be_called_test_where_the_others_are_no_splits(tmp_path: Path) -> None:
    for label in ("test", "rest"):
        write_picture(tmp_path / label / "a.png")
        write_picture(tmp_path / label / "b.png")
    assert open_examples(tmp_path).names == ("rest", "test")


def test_a_folder_of_people(tmp_path: Path) -> None:
    for person in range(20):
        for number in range(5):
            write_picture(tmp_path / f"p{person}" / f"{number}.png")
    examples = open_examples(tmp_path, task="identities")
    assert (examples.task, len(examples.names)) == ("identities", 20)
    assert counts(examples) == [70, 10, 20]
    with pytest.raises(TrainingError, match="holds no labels for landmarks, only for: classes, identities"):
        open_examples(tmp_path, task="landmarks")


def test_people_in_two_splits_are_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_picture(tmp_path / part / "Ann" / f"{part}.png")
        write_picture(tmp_path / part / part / "other.png")
    with pytest.raises(TrainingError, match="'Ann' is in the test split and in another; split by identity"):
        open_examples(tmp_path, task="identities")


def test_loose_pictures_are_refused(tmp_path: Path) -> None:
    _classes(tmp_path)
    write_picture(tmp_path / "loose.png")
    with pytest.raises(TrainingError, match=r"loose\.png: outside any class's folder"):
        open_examples(tmp_path)


def test_one_picture_is_no_set(tmp_path: Path) -> None:
    write_picture(tmp_path / "only" / "one.png")
    with pytest.raises(TrainingError, match="1 pictures, none of them to test with"):
        open_examples(tmp_path)


# ---------------------------------------------------------------- lists


def test_names_may_not_lead_out_of_a_folder(tmp_path: Path) -> None:
    inside = tmp_path / "set"
    write_picture(inside / "a" / "b.png")
    outside = write_picture(tmp_path / "other" / "c.png")
    (inside / "link.png").symlink_to(outside)
    (inside / "folder").symlink_to(outside.parent)
    (inside / "again.png").symlink_to(inside / "a" / "b.png")
    folder = Folder(inside)
    assert folder.file("a/b.png", "here") == inside / "a" / "b.png"
    assert folder.file("a/../a/b.png", "here").is_file()
    assert folder.file("again.png", "here").is_file()
    for name in ("../other/c.png", str(outside), "a/../../other/c.png", "link.png", "folder/c.png"):
        with pytest.raises(TrainingError, match=r"list, line 3: .* leads out of"):
            folder.file(name, "list, line 3")
    for name in ("", " ", "a\0b", "..", "a/.."):
        with pytest.raises(TrainingError, match=r"list, line 3: .* names no picture"):
            folder.file(name, "list, line 3")


def test_a_set_may_itself_be_reached_by_a_link(tmp_path: Path) -> None:
    write_picture(tmp_path / "set" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert Folder(tmp_path / "link").file("a.png", "here").is_file()


def test_lines_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("a 1\n\nb 2\n")
    assert [(where[-6:], words) for where, words in read_lines(path)] == [
        ("line 1", ["a", "1"]),
        ("line 3", ["b", "2"]),
    ]
    path.write_text("x" * 100_000)
    with pytest.raises(TrainingError, match=r"list\.txt, line 1: longer than"):
        list(read_lines(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TrainingError, match=r"list\.txt: cannot be read as text"):
        list(read_lines(path))


def test_numbers_are_finite_and_whole_ones_in_their_range() -> None:
    assert numbers(["1.5", "-2e3"], "here") == [1.5, -2000]
    assert whole_number("   3.0000000e+00", range(1, 8), "here") == 3
    for words in (["nan"], ["1", "inf"], ["one"], [""]):
        with pytest.raises(TrainingError, match=r"^here: "):
            numbers(words, "here")
    for word in ("8", "0", "2.5", "-1"):
        with pytest.raises(TrainingError, match=f"^here: {word} is none of 1 ... 7"):
            whole_number(word, range(1, 8), "here")
