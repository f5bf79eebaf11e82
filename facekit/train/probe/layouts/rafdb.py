"""RAF-DB, basic: 15,339 aligned pictures of 100 x 100 in seven classes.

Li, Deng, Du, "Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression Recognition in the
Wild", CVPR 2017. The split is in the names of the pictures.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from facekit.errors import TrainingError
from facekit.train.probe.examples import TEST, TRAIN, Examples, Picture, TaskName
from facekit.train.probe.layouts.classes import Labelled, class_examples
from facekit.train.probe.layouts.files import Folder, first_existing, read_lines, whole_number
from facekit.train.probe.layouts.layout import Layout, choose_task

__all__ = ["LAYOUT"]

_NAMES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
_LIST = "EmoLabel/list_patition_label.txt"  # sic


def _root(path: Path) -> Path | None:
    found = first_existing(path, _LIST, f"basic/{_LIST}")
    return found.parent.parent if found else None


def _read(path: Path, task: TaskName | None) -> Examples:
    choose_task(path, task, "classes")
    root = _root(path)
    if root is None:
        raise TrainingError(f"{path}: holds no {_LIST}; give the folder in which EmoLabel/ lies")
    folder, rows = Folder(root / "Image" / "aligned"), []
    for where, words in read_lines(root / _LIST):
        if len(words) != 2 or not words[0].startswith(("train", "test")):
            raise TrainingError(
                f"{where}: expected train_NNNNN.jpg or test_NNNN.jpg and a class; unpack it anew"
            )
        name = PurePosixPath(words[0])
        file = folder.file(str(name.with_name(f"{name.stem}_aligned{name.suffix}")), where)
        split = TRAIN if words[0].startswith("train") else TEST
        label = whole_number(words[1], range(1, len(_NAMES) + 1), where) - 1
        rows.append(Labelled(Picture(file), label, split))
    return class_examples("RAF-DB", _NAMES, rows)


LAYOUT = Layout(
    "raf-db",
    "EmoLabel/list_patition_label.txt beside Image/aligned/",
    lambda path: _root(path) is not None,
    _read,
)
