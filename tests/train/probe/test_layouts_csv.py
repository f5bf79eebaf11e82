"""CSV files: each task by its columns, splits and boxes, and lines that cannot be meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layout_sets import brightness_at_points, counts, names, write_picture

from facekit.errors import ImageError, TrainingError
from facekit.train.probe.examples import TEST, TRAIN, VALIDATION, TaskName
from facekit.train.probe.layouts import open_examples


def _table(folder: Path, text: str, name: str = "index.csv") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def test_classes_and_splits(tmp_path: Path) -> None:
    path = _table(
        tmp_path,
        "path,label,split\na.png,sad,train\nsub/b.png,happy,val\nc.png,sad,heldout\nd.png,,test\ne.png,happy,\n",
    )
    examples = open_examples(path)
    assert (examples.task, examples.names, examples.name) == ("classes", ("happy", "sad"), "index")
    assert names(examples) == ["a.png", "b.png", "c.png", "e.png"]
    assert examples.pictures[1].path == tmp_path / "sub" / "b.png"
    assert examples.targets.tolist() == [1, 0, 1, 0]
    assert examples.split.tolist() == [TRAIN, VALIDATION, TEST, TRAIN]


def test_a_folder_stands_for_the_one_table_in_it(tmp_path: Path) -> None:
    _table(tmp_path / "set", "image,label\n" + "".join(f"{n}.png,{n % 2}\n" for n in range(20)))
    _table(tmp_path / "set", "path\na.png\n", "unlabelled.csv")
    assert open_examples(tmp_path / "set").name == "set"
    _table(tmp_path / "set", "path,label\na.png,1\n", "another.csv")
    with pytest.raises(TrainingError, match="no known layout"):
        open_examples(tmp_path / "set")


def test_people_stay_together(tmp_path: Path) -> None:
    lines = [f"{person}_{n}.png,p{person},{person % 2}" for person in range(30) for n in range(4)]
    path = _table(tmp_path, "\n".join(["path,identity,smiling", *lines]))
    with pytest.raises(
        TrainingError, match=f"several tasks; name the task in front, as TASK={path}: identities, att"
    ):
        open_examples(path)
    examples = open_examples(path, task="identities")
    assert counts(examples) == [84, 12, 24]
    attributes = open_examples(path, task="attributes")
    assert attributes.names == ("smiling",)
    people = [{name.partition("_")[0] for name in _named(attributes, part)} for part in range(3)]
    assert people[0].isdisjoint(people[1] | people[2])
    assert people[1].isdisjoint(people[2])


def _named(examples, part: int) -> list[str]:
    return [examples.pictures[row].path.name for row in examples.rows(part)]


def test_attributes_in_one_column(tmp_path: Path) -> None:
    text = "path,split,attributes,source\na.png,train,01,web\nb.png,test,11,web\nc.png,test,,web\n"
    path = _table(tmp_path, text)
    with pytest.raises(TrainingError, match=r"attribute_names\.txt: no such file"):
        open_examples(path)
    (tmp_path / "attribute_names.txt").write_text("Young\nGrey Hair\n")
    examples = open_examples(path)
    assert examples.names == ("Young", "Grey Hair")
    assert examples.targets.tolist() == [[0, 1], [1, 1]]
    path.write_text("path,attributes\na.png,012\n")
    with pytest.raises(TrainingError, match=r"line 2: attributes are 2 times 0 or 1; correct '012'"):
        open_examples(path)


def test_attributes_in_columns_of_their_own_may_be_unknown(tmp_path: Path) -> None:
    text = "path,split,male,age,smiling,empty\na.png,train,0,31,,\nb.png,test,,7,1,\nc.png,test,,9,,\n"
    examples = open_examples(_table(tmp_path, text))
    assert (examples.task, examples.names) == ("attributes", ("male", "smiling"))
    np.testing.assert_array_equal(examples.targets, [[0, np.nan], [np.nan, 1]])


def test_attributes_may_be_written_as_numbers_and_columns_that_are_none_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that keeps blanks among 0 and 1 writes 1.0; one miswritten cell must not hide a column."""
    text = "path,split,male,young,source,smiling\na.png,train,1.0,NA,web,1\nb.png,test,,1,web,0\n"
    examples = open_examples(_table(tmp_path, f"{text}c.png,test,0.0,0,,1\n"))
    assert (examples.task, examples.names) == ("attributes", ("male", "smiling"))
    np.testing.assert_array_equal(examples.targets, [[1, 1], [np.nan, 0], [0, 1]])
    (told,) = [record.getMessage() for record in caplog.records if "not learnt" in record.getMessage()]
    assert told.endswith("not all cells are 0, 1 or blank: young ('NA' in line 2), source ('web' in line 2)")
    minus = _table(tmp_path, "path,split,male\na.png,train,1\nb.png,test,-1\n")
    for task in (None, "attributes"):
        with pytest.raises(
            TrainingError, match=r"no column is of 0, 1 and blanks alone: male \('-1' in line 3\)"
        ):
            open_examples(minus, task=task)


@pytest.mark.parametrize(
    ("task", "columns", "good", "bad"),
    [("affect", "valence,arousal", "-0.5,1", "-2,0"), ("action_units", "AU1,AU12", "0,5", "0,6")],
)
def test_numbers_in_a_range(tmp_path: Path, task: TaskName, columns: str, good: str, bad: str) -> None:
    lines = "".join(f"{n}.png,{good}\n" for n in range(10))
    examples = open_examples(_table(tmp_path, f"path,{columns}\n{lines}b.png,,\n"))
    assert (examples.task, examples.names, len(examples)) == (task, tuple(columns.split(",")), 10)
    assert examples.targets[0].tolist() == [float(value) for value in good.split(",")]
    with pytest.raises(TrainingError, match=rf"line 2: {task} lie in .*; correct '{bad.replace(',', ' ')}'"):
        open_examples(_table(tmp_path, f"path,{columns}\na.png,{bad}\n"))


_FIVE = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")


def test_landmarks_by_name_in_any_order(tmp_path: Path) -> None:
    """The columns name points nose first; the whole picture is the square, or its middle."""
    points = {
        "nose": (20, 15),
        "right_eye": (25, 8),
        "left_eye": (14, 9),
        "right_mouth": (24, 21),
        "left_mouth": (15, 22),
    }
    head = ",".join(f"x_{name},y_{name}" for name in points)
    cells = ",".join(f"{x},{y}" for x, y in points.values())
    for number in range(10):
        write_picture(tmp_path / f"{number}.png", (40, 30), list(points.values()))
    examples = open_examples(
        _table(tmp_path, f"path,{head}\n" + "".join(f"{n}.png,{cells}\n" for n in range(10)))
    )
    assert examples.names == tuple(points)
    assert examples.interocular == (2, 1)
    assert examples.mirror == (0, 2, 1, 4, 3)
    assert examples.targets[0, 0].tolist() == pytest.approx([(20 - 5) / 30, 15 / 30])
    assert (brightness_at_points(examples, 90) > 240).all()


def test_landmarks_in_a_box(tmp_path: Path) -> None:
    """A quarter larger than the box, and square; numbered points follow the scheme of their count."""
    points = [(60, 40), (80, 42), (71, 50), (62, 60), (79, 61)]
    for number in range(10):
        write_picture(tmp_path / f"{number}.png", (120, 100), points)
    head = ",".join(f"x_{n},y_{n}" for n in range(5))
    cells = ",".join(f"{x},{y}" for x, y in points)
    text = f"path,left,top,right,bottom,{head}\n" + "".join(
        f"{n}.png,50,30,90,70,{cells}\n" for n in range(10)
    )
    examples = open_examples(_table(tmp_path, text))
    assert examples.pictures[0].box == (45, 25, 95, 75)
    assert (examples.interocular, examples.mirror) == ((0, 1), (1, 0, 2, 4, 3))
    assert (brightness_at_points(examples) > 240).all()


def test_an_unknown_point_is_nan_and_unnamed_eyes_are_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    write_picture(tmp_path / "b.png")
    text = "path,split,x_left_eye,y_left_eye,x_right_eye,y_right_eye,x_left_ear,y_left_ear\n"
    rows = "a.png,train,4,4,8,4,,\nb.png,test,4,4,8,4,1,2\n"
    examples = open_examples(_table(tmp_path, text + rows))
    assert examples.targets[0].isnan().tolist() == [[False, False], [False, False], [True, True]]
    assert examples.mirror == ()  # nobody says where the left ear is in the mirror
    with pytest.raises(TrainingError, match="name their columns x_left_eye"):
        open_examples(_table(tmp_path, (text + rows).replace("eye", "brow")))
    with pytest.raises(ImageError, match=r"gone\.png"):
        open_examples(_table(tmp_path, text + rows.replace("b.png", "gone.png")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n../a.png,1\n", r"index\.csv, line 2: '../a.png' leads out of"),
        ("path,label\n,1\n", r"line 2: '' names no picture"),
        (
            "path,label,split\na.png,1,dev\n",
            r"line 2: split 'dev' is none of train, validation, valid, val, test, h",
        ),
        ("path,label\na.png\n", r"line 2: 1 cells for 2 columns"),
        ("path,label,label\na.png,1,2\n", r"each column once"),
        ("path,label\na.png,\n", r"no line is filled in label"),
        (
            "path,source\na.png,web\n",
            r"holds no labels for any task, and no column is of 0, 1 and blanks alone: source",
        ),
        ("path,valence,arousal\na.png,0.1,high\n", r"line 2: a number is expected"),
        ("path,label,left,top,right,bottom\na.png,1,5,5,5,5\n", r"line 2: a face from"),
        ("path,label,split\na.png,1,train\nb.png,2,train\n", r"2 pictures, none of them to test with"),
    ],
)
def test_lines_that_cannot_be_meant(tmp_path: Path, text: str, message: str) -> None:
    path = _table(tmp_path, text)
    with pytest.raises(TrainingError, match=message) as error:
        open_examples(path)
    assert "\n" not in str(error.value)


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "index.csv"
    path.write_bytes(b"path,label\na.png,\xff\xfe\n")
    with pytest.raises(TrainingError, match="not a readable CSV file"):
        open_examples(path)
