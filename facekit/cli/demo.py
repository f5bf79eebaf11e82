"""``facekit demo``: what facekit does, shown on the pictures that it ships."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import tyro

from facekit.cli.console import count, print_json, table
from facekit.cli.options import Model, Threshold
from facekit.deduplication import FaceDeduplication
from facekit.duplicates import Duplicates
from facekit.encode import EncodedImage
from facekit.errors import SettingError
from facekit.gallery import Gallery
from facekit.identify import Identification
from facekit.image import find_images, load_image
from facekit.recognition import FaceRecognition, Verification
from facekit.report import NO, YES, Mark, Panel, contact_sheet, save_picture

__all__ = ["Demo"]

_PICTURES = Path(__file__).parents[1] / "pictures"
_SELFIE = "people/P001/amateur_selfie.jpg"
_OTHERS = ("people/P001/studio_portrait.jpg", "people/P005/amateur_selfie.jpg")

_Answer = tuple[EncodedImage, list[Identification]]


@dataclass(frozen=True)
class Demo:
    """Shows what facekit does, on the pictures that it ships. Needs no network.

    Attributes:
        out: The folder for facekit-demo.png, which shows the faces that were found, and their names.
        json: Print one JSON document.
    """

    out: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = "."
    limit: Threshold = field(default_factory=Threshold)
    model: Model = field(default_factory=Model)
    json: bool = False

    def __call__(self) -> int:
        if not os.path.isdir(self.out):
            raise SettingError(f"--out: {self.out!r} is no existing folder; make it first")
        began = time.monotonic()
        recognition = self.model.recognition()
        verdicts = _verify(recognition, self.limit)
        gallery = recognition.build_gallery(_PICTURES / "people", progress=False)
        answers = _identify(recognition, gallery, verdicts[0].threshold)
        repeated = _find_repeated(self.model.deduplication(), verdicts[0].threshold)
        place = Path(self.out, "facekit-demo.png")
        save_picture(contact_sheet([*_compared(verdicts), *map(_named, answers)], side=300), place)
        if self.json:
            print_json(
                {
                    "verify": [verdict.to_dict() for verdict in verdicts],
                    "gallery": {picture.name: [a.to_dict() for a in found] for picture, found in answers},
                    "dedup": [[path.name for path in group] for group in repeated],
                    "picture": str(place),
                }
            )
            return 0
        print(_page(verdicts, gallery, answers, repeated))
        seconds, device = time.monotonic() - began, recognition.encoder.embedder.device
        print(f"\nBoxes, landmarks and names: {place}")
        print(f"{seconds:.1f} s on {device}, checkpoint {recognition.config.fingerprint}")
        return 0


def _verify(recognition: FaceRecognition, limit: Threshold) -> list[Verification]:
    """One selfie against another picture of the same person, and against somebody else."""
    return [
        recognition.verify_faces(_PICTURES / _SELFIE, _PICTURES / other, limit.threshold, far=limit.far)
        for other in _OTHERS
    ]


def _identify(recognition: FaceRecognition, gallery: Gallery, threshold: float) -> list[_Answer]:
    """All faces of the loose pictures, and who of the gallery they are."""
    pictures = [*find_images(_PICTURES / "loose"), _PICTURES / "astronaut.jpg"]
    answers = []
    for picture in recognition.encode(pictures, progress=False):
        probes = [face.embedding for face in picture.faces]
        found = gallery.identify_many(np.stack(probes), threshold) if probes else []
        answers.append((picture, found))
    return answers


def _find_repeated(deduplication: FaceDeduplication, threshold: float) -> Duplicates:
    """Works on a copy: the installed package is nobody's to change."""
    with TemporaryDirectory() as folder:
        try:
            loose = shutil.copytree(_PICTURES / "loose", Path(folder, "loose"))
        except OSError as error:  # shutil's own holds one for each file
            problem = "has no room for a few pictures, or refuses them"
            raise SettingError(f"{folder}: {problem}; set TMPDIR to another folder") from error
        return deduplication.find_duplicates(loose, threshold, progress=False)


def _page(
    verdicts: Sequence[Verification], gallery: Gallery, answers: Sequence[_Answer], repeated: Duplicates
) -> str:
    selfie, *others = (f"{Path(path).parent.name} {Path(path).stem}" for path in (_SELFIE, *_OTHERS))
    threshold, far = verdicts[0].threshold, verdicts[0].far
    rate = "" if far is None else f", which {far:.2g} of pairs of strangers reach"
    pairs = [
        (f"{selfie}, {other}", "yes" if verdict else "no", f"{verdict.similarity:+.3f}")
        for other, verdict in zip(others, verdicts, strict=True)
    ]
    people = f"{count(len(gallery), 'person', 'people')} in {count(len(gallery.samples), 'picture')}"
    names = [(Path(picture.name).name, *_said(found)) for picture, found in answers]
    groups = [
        (best.name, "repeated by " + ", ".join(path.name for path in rest), f"{group.similarity[0]:+.3f}")
        for group in repeated
        for best, *rest in [group]
    ]
    return "\n".join(
        [
            f"The same person? (threshold {threshold:.3f}{rate})",
            table(pairs),
            f"\nWho is it? (a gallery of {people})",
            table(names),
            f"\nWhich of {len(answers) - 1} loose pictures repeat a person?",
            table(groups) if groups else "  none",
        ]
    )


def _said(found: Sequence[Identification]) -> tuple[str, str]:
    """The names of the faces in a picture, and of a single one how alike it is to whom."""
    if len(found) != 1:
        return ", ".join(f"{n} x {person}" for person, n in Counter(map(str, found)).items()), ""
    answer = found[0]
    nearest = "" if answer or answer.best is None else f" to {answer.best.person}"
    return str(answer), f"{answer.similarity:+.3f}{nearest}"


def _compared(verdicts: Sequence[Verification]) -> list[Panel]:
    """The selfie, and what it was compared with."""
    panels = [Panel(load_image(_PICTURES / _SELFIE), "compared", (Mark(verdicts[0].faces[0]),))]
    for other, verdict in zip(_OTHERS, verdicts, strict=True):
        title, color = ("same person", YES) if verdict else ("different people", NO)
        mark = Mark(verdict.faces[1], f"{verdict.similarity:.2f}", color)
        panels.append(Panel(load_image(_PICTURES / other), title, (mark,)))
    return panels


def _named(answer: _Answer) -> Panel:
    picture, found = answer
    marks = tuple(
        Mark(face, f"{who} {who.similarity:.2f}" if who else str(who), YES if who else NO)
        for face, who in zip(picture.faces, found, strict=True)
    )
    return Panel(load_image(picture.source), Path(picture.name).name, marks)
