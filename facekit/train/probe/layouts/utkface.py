"""UTKFace: faces whose names say age, gender and race.

Zhang, Song, Qi, "Age Progression/Regression by Conditional Adversarial Autoencoder", CVPR 2017. Names are
``age_gender_race_date...``, or ``number_age_gender_race`` in copies that renumber them; gender is 0 male,
1 female, as the set labels it. The set names no split.
"""

from __future__ import annotations

import logging
import os
import re
from itertools import islice
from pathlib import Path

import torch

from facekit.image import IMAGE_SUFFIXES, find_images
from facekit.train.probe.examples import TRAIN, Examples, Picture, TaskName
from facekit.train.probe.layouts.layout import Layout, choose_task
from facekit.train.probe.layouts.splits import complete_split

__all__ = ["LAYOUT"]

_log = logging.getLogger(__name__)

_NAME = re.compile(r"\d{1,3}_(?P<gender>[01])_[0-4]_\d{14,}\D|\d+_\d{1,3}_(?P<renumbered>[01])_[0-4]\.")


def _fits(path: Path) -> bool:
    """Most of the first pictures have such names; some of the set's own are incomplete."""
    if not path.is_dir():
        return False
    with os.scandir(path) as entries:
        names = [entry.name for entry in islice(entries, 200)]
    names = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    return 2 * sum(_NAME.match(name) is not None for name in names) > len(names)


def _read(path: Path, task: TaskName | None) -> Examples:
    choose_task(path, task, "attributes")
    found = [(picture, _NAME.match(picture.name)) for picture in find_images(path)]
    known = [(picture, name["gender"] or name["renumbered"]) for picture, name in found if name]
    if len(known) < len(found):
        _log.warning(
            "%s: %d pictures are left out, as their names say no gender", path, len(found) - len(known)
        )
    female = [int(gender) for _, gender in known]
    return Examples(
        "UTKFace",
        "attributes",
        ("female",),
        tuple(Picture(picture) for picture, _ in known),
        torch.tensor(female, dtype=torch.float32)[:, None],
        complete_split([TRAIN] * len(known), classes=female),
    )


LAYOUT = Layout("utkface", "pictures named age_gender_race_date, or number_age_gender_race", _fits, _read)
