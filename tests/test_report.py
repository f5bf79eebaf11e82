"""Marks lie where the faces are, and what is written is whole."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facekit.errors import SettingError
from facekit.face import Detection
from facekit.report import ACCENT, NO, YES, Mark, Panel, contact_sheet, draw_faces, save_picture

PAPER = (15, 23, 42)


def face(left: float, top: float, right: float, bottom: float) -> Detection:
    box = np.array([left, top, right, bottom], np.float32)
    shares = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)
    return Detection(box, box[:2] + shares * (box[2:] - box[:2]), 0.99)


def grey(width: int = 200, height: int = 100) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def has(image: np.ndarray, color: str) -> np.ndarray:
    """Where a picture has a colour."""
    return (image == np.array(rgb(color))).all(axis=2)


def test_the_box_and_the_landmarks_are_drawn_where_they_are() -> None:
    found = face(50, 20, 110, 80)
    drawn = has(draw_faces(grey(), [Mark(found, color=YES)]), YES)
    rows, columns = np.nonzero(drawn)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 80, 50, 110)
    assert all(drawn[round(float(y)), round(float(x))] for x, y in found.landmarks)
    assert not drawn[30, 60]  # inside the box, away from the landmarks


def test_the_picture_that_was_given_is_not_drawn_upon() -> None:
    image = grey()
    drawn = draw_faces(image, [Mark(face(50, 20, 110, 80), "Ada")])
    assert (image == 128).all()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert drawn.flags.writeable


def test_each_mark_has_its_colour_and_a_label_takes_room_above_the_box() -> None:
    marks = [Mark(face(10, 40, 60, 90), "Ada 0.71", YES), Mark(face(120, 40, 170, 90), color=NO)]
    drawn = draw_faces(grey(), marks)
    assert has(drawn, YES)[:40].sum() > 100
    assert not has(drawn, NO)[:39].any()
    assert not has(drawn, ACCENT).any()


@pytest.mark.parametrize(
    "box", [(-30, -30, 40, 40), (180, 80, 260, 160), (-70, 20, -10, 80), (0, 0, 200, 99)]
)
def test_labels_stay_inside_the_picture(box: tuple[int, int, int, int]) -> None:
    """As much ink is seen as in the middle of a large picture."""

    def ink(image: np.ndarray, at: Detection) -> int:
        drawn = draw_faces(image, [Mark(at, "somebody 0.71")], font_size=12)
        return int((drawn.max(axis=2) < 100).sum())

    expected = ink(grey(600, 600), face(300, 300, 360, 360))
    assert expected > 50
    assert ink(grey(), face(*box)) == pytest.approx(expected, rel=0.2)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-300, 300), min_size=4, max_size=4),
    st.integers(1, 80),
    st.integers(1, 80),
    st.text(max_size=8),
)
def test_any_box_in_any_picture_with_any_label(box: list[float], width: int, height: int, label: str) -> None:
    left, right = sorted(box[:2])
    top, bottom = sorted(box[2:])
    image = draw_faces(grey(width, height), [Mark(face(left, top, right, bottom), label)])
    assert image.shape == (height, width, 3)


def test_a_contact_sheet_holds_every_picture_at_the_size_of_its_cell() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    shapes = [(10, 20), (300, 150), (60, 60)]
    panels = [
        Panel(np.full((*shape, 3), colour, np.uint8), f"number {i}")
        for i, (shape, colour) in enumerate(zip(shapes, colours, strict=True))
    ]
    sheet = contact_sheet(panels, columns=2, side=80)
    for colour, shape in zip(colours, [(40, 80), (80, 40), (80, 80)], strict=True):
        rows, columns = np.nonzero((sheet == np.array(colour)).all(axis=2))
        assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == shape
    assert (sheet[0] == np.array(PAPER)).all()


def test_marks_shrink_with_their_picture() -> None:
    panel = Panel(grey(400, 400), marks=(Mark(face(100, 100, 300, 300)),))
    sheet = has(contact_sheet([panel], side=100), ACCENT)
    rows, columns = np.nonzero(sheet)
    assert abs(int(rows.max() - rows.min()) - 50) <= 1
    assert abs(int(columns.max() - columns.min()) - 50) <= 1


def test_a_title_that_is_too_long_is_cut() -> None:
    short, long = (contact_sheet([Panel(grey(), title)], side=100) for title in ("name", "name" * 50))
    assert long.shape == short.shape
    ink = (long[-30:] != np.array(PAPER)).any(axis=2)
    assert ink.any()
    assert not ink[:, :2].any()
    assert not ink[:, -2:].any()


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(SettingError, match="at least 1"):
        contact_sheet([])


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.webp", "WEBP")])
def test_pictures_are_written_in_the_format_of_their_name(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_text("what was there")
    save_picture(grey(), tmp_path / name)
    with Image.open(tmp_path / name) as picture:
        assert picture.format == kind
        assert np.abs(np.asarray(picture).astype(int) - grey()).max() <= 2
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_a_picture_that_cannot_be_written_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a.png"
    place.write_text("what was there")

    def full(self: Image.Image, file: IO[bytes], kind: str) -> None:
        file.write(b"half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(SettingError, match=r"a\.png: cannot be written \(No space left on device\)"):
        save_picture(grey(), place)
    assert place.read_text() == "what was there"
    assert [item.name for item in tmp_path.iterdir()] == ["a.png"]


def test_bad_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"a\.bmp: a picture is written as one of \.png"):
        save_picture(grey(), tmp_path / "a.bmp")
    with pytest.raises(SettingError, match="cannot be written"):
        save_picture(grey(), tmp_path / "nowhere" / "a.png")
