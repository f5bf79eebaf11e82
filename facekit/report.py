"""What people look at: faces marked in a picture, and several such pictures on one sheet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as pil
from PIL import ImageDraw, ImageFont

from facekit.errors import SettingError
from facekit.face import Detection, Face, Image
from facekit.wholefile import replacing

__all__ = ["ACCENT", "NO", "YES", "Mark", "Panel", "contact_sheet", "draw_faces", "save_picture"]

ACCENT, YES, NO = "#38bdf8", "#4ade80", "#fb923c"
"""Colours of a mark: a face, one that is known or matches, one that is not or does not. They are told apart
with every common kind of colour blindness."""

_PAPER, _INK = "#0f172a", "#f8fafc"
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_SMALLEST_FONT = 9  # pixels that can still be read
_LANDMARK = 0.018  # radius of a landmark's dot, as a share of the face


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """A face to be pointed at.

    Attributes:
        face: its box and landmarks are drawn.
        label: what is written on its box, such as a name and a similarity.
        color: of box and label, anything that Pillow knows as a colour.
    """

    face: Detection | Face
    label: str = ""
    color: str = ACCENT


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """A picture of a contact sheet.

    Attributes:
        image: (h, w, 3) uint8, RGB.
        title: a line below it.
        marks: its faces, in pixels of ``image``.
    """

    image: Image
    title: str = ""
    marks: tuple[Mark, ...] = ()


def draw_faces(image: Image, marks: Sequence[Mark], *, font_size: int | None = None) -> Image:
    """A copy of a picture with boxes, landmarks and labels; lines and letters grow with the picture.

    Args:
        image: (h, w, 3) uint8, RGB.
        marks: may reach over the border; labels are moved inside.
        font_size: of the labels in pixels.

    Returns:
        (h, w, 3) uint8, RGB.
    """
    canvas = pil.fromarray(image)
    _draw_marks(canvas, marks, 1.0, font_size or max(_SMALLEST_FONT, round(min(canvas.size) / 28)))
    return np.asarray(canvas).copy()


def contact_sheet(panels: Sequence[Panel], *, columns: int = 4, side: int = 320) -> Image:
    """Pictures of any size side by side, each shrunk or enlarged to its cell, with its faces and its title.

    Args:
        panels: row by row.
        columns: pictures in a row.
        side: of a picture's cell, in pixels; a row is as high as its highest picture.

    Returns:
        (h, w, 3) uint8, RGB.

    Raises:
        SettingError: no panels, or a sheet without columns or size.
    """
    if not panels or columns < 1 or side < 1:
        raise SettingError(f"panels, columns, side: {len(panels)}, {columns}, {side} must all be at least 1")
    gap, font_size = max(2, side // 20), max(_SMALLEST_FONT, side // 20)
    pictures = [_fitted(panel, side, font_size) for panel in panels]
    starts = range(0, len(panels), columns)
    heights = [max(picture.height for picture in pictures[start : start + columns]) for start in starts]
    width = min(columns, len(panels)) * (side + gap) + gap
    sheet = pil.new("RGB", (width, sum(heights) + len(heights) * (gap + 2 * font_size) + gap), _PAPER)
    draw, font = ImageDraw.Draw(sheet), _font(font_size)
    bottom = 0
    for start, height in zip(starts, heights, strict=True):
        bottom += gap + height
        for column, index in enumerate(range(start, min(start + columns, len(panels)))):
            middle, picture = gap + column * (side + gap) + side // 2, pictures[index]
            sheet.paste(picture, (middle - picture.width // 2, bottom - picture.height))
            title = _shortened(panels[index].title, font, side)
            draw.text((middle, bottom + font_size), title, _INK, font, anchor="mm")
        bottom += 2 * font_size
    return np.asarray(sheet).copy()


def save_picture(image: Image, path: str | os.PathLike[str]) -> None:
    """Writes a picture, all or nothing; its suffix says the format: PNG, JPEG or WebP.

    Raises:
        SettingError: another suffix, or a place that cannot be written.
    """
    place = Path(path)
    kind = _FORMATS.get(place.suffix.lower())
    if kind is None:
        raise SettingError(f"{place}: a picture is written as one of {' '.join(_FORMATS)}")
    try:
        with replacing(place) as file:
            pil.fromarray(image).save(file, kind)
    except OSError as error:
        raise SettingError(f"{place}: cannot be written ({error.strerror or error})") from error


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # with a size, Pillow gives no other
    return font


def _fitted(panel: Panel, side: int, font_size: int) -> pil.Image:
    """The panel's picture, its longer side as long as the cell, with its marks."""
    picture = pil.fromarray(panel.image)
    scale = side / max(picture.size)
    size = tuple(max(1, round(length * scale)) for length in picture.size)
    picture = picture.resize((size[0], size[1]), pil.Resampling.LANCZOS)
    _draw_marks(picture, panel.marks, scale, font_size)
    return picture


def _draw_marks(canvas: pil.Image, marks: Sequence[Mark], scale: float, font_size: int) -> None:
    """All boxes first, so that no label is covered by one."""
    draw = ImageDraw.Draw(canvas)
    for mark in marks:
        _draw_face(draw, mark, scale, max(1, font_size // 7))
    for mark in marks:
        if mark.label:
            letters = min(font_size, max(_SMALLEST_FONT, round(mark.face.size * scale / 4)))
            _draw_label(draw, canvas.size, mark, scale, _font(letters))


def _draw_face(draw: ImageDraw.ImageDraw, mark: Mark, scale: float, width: int) -> None:
    left, top, right, bottom = (float(value) * scale for value in mark.face.box)
    draw.rounded_rectangle((left, top, right, bottom), 3 * width, outline=mark.color, width=width)
    radius = max(1.0, mark.face.size * scale * _LANDMARK)
    for x, y in mark.face.landmarks * scale:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), mark.color)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    canvas: tuple[int, int],
    mark: Mark,
    scale: float,
    font: ImageFont.FreeTypeFont,
) -> None:
    """A label sits on the box; where there is no room, inside it."""
    left, top = (float(value) * scale for value in mark.face.box[:2])
    pad = font.size / 4
    width, height = font.getlength(mark.label) + 2 * pad, font.size + 2 * pad
    x = min(max(0.0, left), max(0.0, canvas[0] - width))
    y = min(max(0.0, top - height), max(0.0, canvas[1] - height))
    draw.rounded_rectangle((x, y, x + width, y + height), pad, mark.color)
    draw.text((x + pad, y + height / 2), mark.label, _PAPER, font, anchor="lm")


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, its end replaced by dots where it is too long."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
