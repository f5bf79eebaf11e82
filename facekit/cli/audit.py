"""``facekit data audit``: what is wrong with a set of training pictures, as a page and a list."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from facekit.cli.audit_faces import audit_faces
from facekit.cli.audit_losses import audit_losses
from facekit.cli.audit_outcome import COLUMNS, Outcome
from facekit.cli.audit_page import audit_page
from facekit.cli.console import count, print_json, say
from facekit.cli.options import Folder, Model
from facekit.cli.outputs import check_columns, check_outputs, output_folder, write_list
from facekit.errors import SettingError
from facekit.policy import FacePolicy
from facekit.train.data import open_source
from facekit.train.sources import Source
from facekit.trash import shown
from facekit.wholefile import replacing

__all__ = ["Audit"]

_LIST, _PAGE = "exclude.csv", "index.html"


@dataclass(frozen=True)
class Audit:
    """Finds mislabelled pictures, people under two names, and people of an evaluation set.

    Writes a page with the most certain findings, index.html, and exclude.csv, which training takes with
    --exclude. Nothing is moved or deleted. With --losses it judges by those, and needs no checkpoint.

    Attributes:
        people: What training reads: a folder with a folder a person, a CSV of path and identity, .rec, .tar.
        out: The folder of the report, made if need be.
        against: An evaluation set, in any of these forms: who of it is among the people?
        losses: A CSV with the columns path and loss, and perhaps suggestion, such as the losses.csv of recipe
            c2d: pictures of high loss are doubted, and no faces are embedded.
        clean: With --losses: a picture is doubted if its label is right with a lower probability; 0.5 if not
            given.
        images: Where the paths of the CSV start, if not beside it.
        top: How many findings of a kind the page shows; the list has all.
        faces: Which face counts where a picture has several.
        aligned: The pictures are aligned square crops, as training takes them; nothing is searched in them.
        json: Print one JSON document.
    """

    people: Folder
    out: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = "audit"
    against: str | None = None
    losses: str | None = None
    clean: float | None = None
    images: str | None = None
    top: int = 200
    faces: FacePolicy = "largest"
    aligned: bool = False
    model: Model = field(default_factory=Model)
    json: bool = False

    def __call__(self) -> int:
        self._check()
        source = open_source(Path(self.people), None if self.images is None else Path(self.images))
        other = None if self.against is None else open_source(Path(self.against))
        with output_folder(self.out) as out:
            check_outputs((out / _LIST, out / _PAGE), (self.people, self.against, self.losses))
            check_columns(out / _LIST, COLUMNS, (*COLUMNS, "loss", "clean"))
            outcome = self._judge(source, other)
            write_list(out / _LIST, [outcome.columns, *outcome.rows])
            lines = [f"{outcome.about}, by {outcome.judge}", outcome.how]
            _write(out / _PAGE, audit_page(f"Audit of {self.people}", lines, outcome.sections, source))
            self._tell(out, outcome)
        return 0

    def _judge(self, source: Source, other: Source | None) -> Outcome:
        if self.losses is not None:
            limit = 0.5 if self.clean is None else self.clean
            return audit_losses(source, Path(self.losses), limit=limit, top=self.top)
        return audit_faces(
            source,
            self.model.recognition(),
            policy=self.faces,
            aligned=self.aligned,
            against=None if other is None or self.against is None else (self.against, other),
            top=self.top,
        )

    def _check(self) -> None:
        if self.top < 0:
            raise SettingError(f"--top: {self.top} must be 0 or more")
        if self.clean is not None and not 0 <= self.clean <= 1:
            raise SettingError(f"--clean: {self.clean} must be a probability, 0 to 1")
        if self.clean is not None and self.losses is None:
            raise SettingError(f"--clean: {self.clean} is a limit for losses; give --losses, too")
        if self.losses is not None and self.against is not None:
            raise SettingError(
                "--losses with --against: losses say nothing about other people; audit twice, once with each"
            )
        given = {
            "--aligned": self.aligned,
            "--faces": self.faces != "largest",
            "--checkpoint": self.model.checkpoint is not None,
        }
        for flag in (flag for flag, there in given.items() if there and self.losses is not None):
            raise SettingError(f"{flag} with --losses: no faces are looked at; leave it out")

    def _tell(self, out: Path, outcome: Outcome) -> None:
        if self.json:
            rows = [dict(zip(outcome.columns, row, strict=True)) for row in outcome.rows]
            files = {"page": str(out / _PAGE), "list": str(out / _LIST)}
            print_json({**files, **outcome.document, "exclude": rows})
            return
        for note in outcome.notes:
            say(shown(note))
        print(shown(f"{self.people}: {outcome.about}"))
        for line in outcome.told:
            print(shown(f"  {line}"))
        left_out = count(len(outcome.rows), "picture")
        print(shown(f"  look at {out / _PAGE}; {out / _LIST} lists {left_out} to leave out"))


def _write(file: Path, text: str) -> None:
    """Writes a file, all or nothing."""
    try:
        with replacing(file, private=True) as stream:
            stream.write(text.encode(errors="surrogateescape"))
    except OSError as error:
        raise SettingError(f"{file}: cannot be written ({error.strerror or error})") from error
