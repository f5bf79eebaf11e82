"""CK+: 327 posed sequences of 118 people, from neutral to the peak of one of seven expressions.

Lucey et al., "The Extended Cohn-Kanade Dataset (CK+)", CVPRW 2010. As most do who report on it, the last
three pictures of each labelled sequence are taken, and people are kept apart; the set names no split.
"""

from __future__ import annotations

from pathlib import Path

from facekit.errors import TrainingError
from facekit.image import find_images
from facekit.train.probe.examples import TRAIN, Examples, Picture, TaskName
from facekit.train.probe.layouts.classes import Labelled, class_examples
from facekit.train.probe.layouts.files import first_existing, numbers, read_lines, whole_number
from facekit.train.probe.layouts.layout import Layout, choose_task
from facekit.train.probe.layouts.points import Square, square_around

__all__ = ["LAYOUT"]

_NAMES = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
_PEAK = 3  # pictures


def _places(path: Path) -> tuple[Path, Path] | None:
    """Where pictures and labels lie."""
    pictures = first_existing(
        path, "cohn-kanade-images", "extended-cohn-kanade-images/cohn-kanade-images", "CK+/cohn-kanade-images"
    )
    labels = first_existing(path, "Emotion", "Emotion_labels/Emotion", "CK+/Emotion")
    return (pictures, labels) if pictures and labels else None


def _read(path: Path, task: TaskName | None) -> Examples:
    choose_task(path, task, "classes")
    places = _places(path)
    if places is None:
        raise TrainingError(f"{path}: holds no cohn-kanade-images/ and Emotion/; unpack both there")
    pictures, labels = places
    rows = []
    for file in sorted(labels.glob("S*/*/*_emotion.txt")):
        sequence = file.parent.relative_to(labels)
        lines = list(read_lines(file))
        if len(lines) != 1 or len(lines[0][1]) != 1:
            raise TrainingError(f"{file}: expected one number; unpack the labels anew")
        where, (word,) = lines[0]
        label = whole_number(word, range(1, len(_NAMES) + 1), where) - 1
        for picture in find_images(pictures / sequence)[-_PEAK:]:
            box = _square(labels.parent / "Landmarks" / sequence / f"{picture.stem}_landmarks.txt")
            rows.append(Labelled(Picture(picture, box), label, TRAIN, sequence.parts[0]))
    return class_examples("CK+", _NAMES, rows)


def _square(points: Path) -> Square | None:
    """Around the 68 points, where they were unpacked too: the pictures show head and shoulders."""
    if not points.is_file():
        return None
    return square_around([numbers(words, where) for where, words in read_lines(points)], str(points))


LAYOUT = Layout(
    "ck+",
    "cohn-kanade-images/ beside Emotion/ (and Landmarks/, for tighter crops)",
    lambda path: _places(path) is not None,
    _read,
)
