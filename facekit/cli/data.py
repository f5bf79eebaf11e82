"""``facekit data convert``: a set of training pictures as one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from facekit.cli.console import count, print_json, say
from facekit.cli.options import Folder
from facekit.train.convert import convert_pictures
from facekit.trash import shown

__all__ = ["Convert"]

_SKIPS = 10  # lines about pictures that cannot be read


@dataclass(frozen=True)
class Convert:
    """Writes pictures of people into one file: RecordIO (.rec with .idx), or .tar in WebDataset's layout.

    The files are copied as they are, not decoded. People become numbers; a CSV beside the file says whose.

    Attributes:
        people: A folder with a folder a person, or a CSV of path and identity.
        out: The file to write, .rec or .tar.
        images: Where the paths of the CSV start, if not beside it.
        exclude: CSV of pictures to leave out, as facekit data audit writes it.
        json: Print one JSON document.
    """

    people: Folder
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    images: str | None = None
    exclude: str | None = None
    json: bool = False

    def __call__(self) -> int:
        done = convert_pictures(
            Path(self.people),
            Path(self.out),
            images=None if self.images is None else Path(self.images),
            exclude=None if self.exclude is None else Path(self.exclude),
        )
        if self.json:
            print_json(
                {
                    "file": self.out,
                    "names": str(done.names),
                    "pictures": done.pictures,
                    "people": done.people,
                    "skipped": done.skipped,
                    "warning": done.warning or None,
                }
            )
            return 0
        if done.warning:
            say(shown(done.warning))
        for reason in done.skipped[:_SKIPS]:
            say(f"skipped: {shown(reason)}")
        if len(done.skipped) > _SKIPS:
            say(f"skipped: {len(done.skipped) - _SKIPS:,} more pictures")
        what = f"{count(done.pictures, 'picture')} of {count(done.people, 'person', 'people')}"
        print(shown(f"{self.out}: {what}; {done.names} says whose"))
        return 0
