"""DISFA: 27 people who watch a film, 4,845 frames each, with the intensity of 12 action units in 0 ... 5.

Mavadati, Mahoor, Bartlett, Trinh, Cohn, "DISFA: A Spontaneous Facial Action Intensity Database", IEEE T-AC
2013. It names no split; of the three folds of Shao, Liu, Cai, Ma, "Deep Adaptive Attention for Joint Facial
Action Unit Detection and Face Alignment", ECCV 2018, the third is the test split here. The set holds films,
of which the frames must be extracted first; frames that were cropped to the face under the same names will
do, and will do better.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import torch

from facekit.errors import TrainingError
from facekit.image import find_images
from facekit.train.probe.examples import TEST, TRAIN, Examples, Picture, TaskName
from facekit.train.probe.layouts.files import read_lines, whole_number
from facekit.train.probe.layouts.layout import Layout, choose_task
from facekit.train.probe.layouts.splits import complete_split

__all__ = ["LAYOUT"]

_log = logging.getLogger(__name__)

_UNITS = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)
_TEST = {f"SN{number:03d}" for number in (3, 4, 5, 7, 8, 17, 23, 25, 29)}
_LABELS, _FRAMES = "ActionUnit_Labels", "Frames_LeftCamera"


def _read(path: Path, task: TaskName | None) -> Examples:
    choose_task(path, task, "action_units")
    pictures, targets, people = [], [], []
    for folder in sorted(entry for entry in (path / _LABELS).iterdir() if entry.is_dir()):
        intensities, frames = _intensities(folder), _frames(path, folder.name)
        shared = sorted(set(intensities) & set(frames))
        if len(shared) < len(intensities):
            missing = len(intensities) - len(shared)
            _log.warning("%s: %d of %d labelled frames are not there", folder.name, missing, len(intensities))
        pictures += [Picture(frames[number]) for number in shared]
        targets += [intensities[number] for number in shared]
        people += [folder.name] * len(shared)
    return Examples(
        "DISFA",
        "action_units",
        tuple(f"AU{unit}" for unit in _UNITS),
        tuple(pictures),
        torch.tensor(targets, dtype=torch.float32).reshape(-1, len(_UNITS)),
        complete_split([TEST if person in _TEST else TRAIN for person in people], groups=people),
    )


def _intensities(folder: Path) -> dict[int, list[int]]:
    """By the number of the frame, from 1; a file a unit, whose lines are ``frame,intensity``."""
    units = []
    for unit in _UNITS:
        found = {}
        for where, words in read_lines(folder / f"{folder.name}_au{unit}.txt"):
            frame, comma, value = "".join(words).partition(",")
            if not comma:
                raise TrainingError(f"{where}: expected frame,intensity; unpack the labels anew")
            found[whole_number(frame, range(1 << 20), where)] = whole_number(value, range(6), where)
        units.append(found)
    shared = set(units[0]).intersection(*units[1:])
    return {number: [unit[number] for unit in units] for number in sorted(shared)}


def _frames(path: Path, person: str) -> dict[int, Path]:
    """By the number at the end of the name, from 1."""
    folder = path / _FRAMES / person
    if not folder.is_dir():
        film = f"{path}/Videos_LeftCamera/LeftVideo{person}_comp.avi"
        raise TrainingError(
            f"{folder}: no such folder; extract its frames: "
            f"mkdir -p {folder} && ffmpeg -i {film} {folder}/%05d.jpg"
        )
    found = {}
    for picture in find_images(folder):
        number = re.search(r"\d+$", picture.stem)
        if number is None:
            raise TrainingError(f"{picture}: the name of a frame ends in its number, from 1; rename it")
        found[int(number[0])] = picture
    return found


LAYOUT = Layout(
    "disfa",
    "ActionUnit_Labels/SN001/SN001_au1.txt beside frames in Frames_LeftCamera/SN001/00001.jpg",
    lambda path: (path / _LABELS).is_dir(),
    _read,
)
