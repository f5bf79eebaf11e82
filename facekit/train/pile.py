"""Pictures without labels, and the list of whom a teacher finds on them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facekit.embed import Embedder
from facekit.errors import TrainingError
from facekit.threshold import Threshold
from facekit.train import processes
from facekit.train.data import Listing, open_source
from facekit.train.embedded import embed_pictures, read_embedded
from facekit.train.pseudo_identities import KnownPeople, PseudoIdentities, find_identities, mean_vectors
from facekit.train.sources import Source
from facekit.train.sources.files import FileSource
from facekit.train.sources.source import pictures_digest
from facekit.wholefile import replacing

__all__ = ["Pile", "labels_digest", "open_pile", "picture_places", "pseudo_listing"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Pile:
    """Pictures of which nothing is known.

    Attributes:
        source: where they lie.
        rows: (n,) int64, which of the source's: those that are not labelled, each picture once.
        labelled: how many others of the source's are.
    """

    source: Source
    rows: Tensor
    labelled: int


def open_pile(unlabelled: Path, labelled: Collection[str]) -> Pile:
    """The pictures of a pile, without those that are labelled: held-out ones would flatter the figures.

    Args:
        unlabelled: a folder, a CSV, or an archive, as training data are; what it says of people is ignored.
        labelled: where all labelled pictures lie, as :func:`picture_places` says it.

    Raises:
        ImageError: no such folder, or no pictures in it.
        TrainingError: data that cannot be understood, or no picture that is not labelled.
    """
    source = open_source(unlabelled, labelled=False)
    rows = {place: row for row, place in reversed([*enumerate(picture_places(source))])}  # the first of each
    if not rows:
        raise TrainingError(f"unlabelled={unlabelled}: names no pictures; give others")
    fresh = sorted(row for place, row in rows.items() if place not in labelled)
    if not fresh:
        raise TrainingError(
            f"unlabelled={unlabelled}: all of its {len(rows)} pictures are among the labelled ones, too; "
            "give pictures beyond those of --data"
        )
    if len(fresh) == len(rows) and not isinstance(source, FileSource):
        _log.warning("%s: an archive, of which nobody can tell whether it has labelled pictures", unlabelled)
    return Pile(source, torch.tensor(fresh), len(rows) - len(fresh))


def picture_places(source: Source) -> Iterator[str]:
    """Where each picture lies: its file, or its place in an archive; below the root there are no links."""
    root = source.root.resolve()
    return (f"{root}/{source.name(row)}" for row in range(len(source.person)))


def pseudo_listing(
    teacher: Embedder,
    threshold: Threshold,
    pile: Pile,
    labelled: tuple[Listing, Listing],
    out: Path,
    *,
    least: int,
) -> tuple[Listing, str]:
    """Whom a teacher finds on a pile: ``pseudo.csv``, with the columns path and identity.

    All processes call this. Beside the list, ``pseudo.json`` says what it was made of; where that is the
    same, it is found again, with all that people have changed in it; else it stays as
    ``pseudo-before-1.csv``. ``embedded/`` keeps the teacher's embeddings.

    Args:
        teacher: who embeds.
        threshold: mean similarity of one person's pictures.
        pile: where to look.
        labelled: the labelled pictures, those to learn from and those that are held out.
        out: folder of the run.
        least: pictures of the smallest group that counts.

    Returns:
        The pictures that have an identity, and a line about them.

    Raises:
        TrainingError: fewer than two people are found, or a file cannot be read or written.
    """
    rows = torch.cat([part.rows for part in labelled])
    source = labelled[0].source
    table, beside = out / "pseudo.csv", out / "pseudo.json"
    made_of: dict[str, Any] = {}
    if processes.rank() == 0:  # times of files may differ elsewhere
        made_of = {
            "teacher": teacher.config.fingerprint,
            "pile": pictures_digest(pile.source, pile.rows.tolist()),
            "labelled": pictures_digest(source, rows.tolist()),
            "people": labels_digest(labelled),
            "threshold": threshold.similarity,
            "least": least,
        }
    stands = table.exists() and _read(beside).get("made_of") == made_of
    if processes.highest(int(processes.rank() == 0 and not stands)):
        unknown = embed_pictures(teacher, pile.source, pile.rows, out / "embedded" / "pile")
        known = embed_pictures(teacher, source, rows, out / "embedded" / "labelled")
        if processes.rank() == 0:
            vectors, places = read_embedded(unknown)
            people = _people(*read_embedded(known), labelled)
            found = find_identities(vectors, threshold.similarity, least=least, people=people)
            _set_aside(table)
            _write(table, _rows(pile, places, found))
            unreadable = len(pile.rows) - len(places)
            told = {"unreadable": unreadable, "far": threshold.far, **_told(pile, found)}
            _write(beside, json.dumps({"made_of": made_of, **told}, indent=2) + "\n")
    processes.barrier()
    listing = _listing(table, pile)
    return listing, _line(_read(beside), listing)


def labels_digest(labelled: tuple[Listing, Listing]) -> str:
    """Stands for labelled pictures, for whose the labels say they are, and for who is held out."""
    digest = hashlib.sha256()
    for part in labelled:
        digest.update(pictures_digest(part.source, part.rows.tolist(), times=False).encode())
        for row in part.rows.tolist():
            person = part.source.people[int(part.source.person[row])]
            digest.update(person.encode(errors="surrogateescape") + b"\0")
        digest.update(b"\0")
    return digest.hexdigest()


def _set_aside(table: Path) -> None:
    """Keep a list of something else, which people may have worked on."""
    if table.exists():
        places = (table.with_name(f"pseudo-before-{number}.csv") for number in count(1))
        before = next(place for place in places if not place.exists())
        table.replace(before)
        _log.warning("%s: was made of other pictures or settings; it is now %s", table, before.name)


def _people(vectors: Any, places: Any, labelled: tuple[Listing, Listing]) -> KnownPeople:
    """The people of the labelled pictures that could be read, and what the teacher makes of them."""
    person = labelled[0].source.person[torch.cat([part.rows for part in labelled])].numpy()[places]
    learnt = len(labelled[0])
    numbers, whose = np.unique(person, return_inverse=True)
    heldout = np.zeros(len(numbers), bool)
    heldout[whose[places >= learnt]] = True
    names = tuple(labelled[0].source.people[number] for number in numbers.tolist())
    return KnownPeople(names, mean_vectors(vectors, whose, len(numbers)), heldout)


def _rows(pile: Pile, places: Any, found: PseudoIdentities) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "identity"])
    for place, label in zip(places.tolist(), found.labels.tolist(), strict=True):
        if label >= 0:
            writer.writerow([pile.source.name(int(pile.rows[place])), found.names[label]])
    return text.getvalue()


def _told(pile: Pile, found: PseudoIdentities) -> dict[str, int]:
    return {
        "pictures": len(pile.rows),
        "labelled": pile.labelled,
        "people": len(found.names),
        "known_people": found.known,
        "named": int((found.labels >= 0).sum()),
        "like_heldout": found.heldout,
    }


def _line(told: dict[str, Any], listing: Listing) -> str:
    """What is worth knowing of the pile, for people; those have perhaps taken lines out of the list."""
    of = told["made_of"]
    rate = "" if told["far"] is None else f" (false accept rate {told['far']:.3g})"
    left = told["pictures"] - told["named"]
    kept = ""
    if (len(listing), listing.classes) != (told["named"], told["people"]):
        kept = f"; left in pseudo.csv are {len(listing)}, of {listing.classes} people"
    return (
        f"pile: {told['pictures']} pictures, and {told['labelled']} that are labelled; at similarity"
        f" {of['threshold']:.3f}{rate} {told['named']} of them show"
        f" {told['people']} people, {told['known_people']} of whom are known; {left} are left out:"
        f" {told['like_heldout']} resemble people who are held out, {told['unreadable']} cannot be read, the"
        f" others are in groups below {of['least']}{kept}"
    )


def _listing(table: Path, pile: Pile) -> Listing:
    """The pictures that the table names; people may have taken lines out of it."""
    number = {pile.source.name(row): row for row in pile.rows.tolist()}
    whose: dict[int, str] = {}
    try:
        with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            for row in csv.DictReader(file):
                place, name = number[row["path"]], row["identity"]
                if not name or whose.setdefault(place, name) != name:
                    raise ValueError(f"{row['path']}: has {'two identities' if name else 'no identity'}")
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise TrainingError(
            f"{table}: not a list of this pile's pictures ({error}); mend or delete it"
        ) from error
    people, labels = np.unique([*whose.values()], return_inverse=True)
    if len(people) < 2:
        raise TrainingError(f"{table}: names {len(people)} people; at least 2 are needed; mend or delete it")
    return Listing(pile.source, torch.tensor([*whose]), torch.from_numpy(labels), len(people))


def _read(file: Path) -> dict[str, Any]:
    """What a file says that was written here; nothing where it is another, or not there."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _write(file: Path, text: str) -> None:
    try:
        with replacing(file, private=True) as stream:
            stream.write(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise TrainingError(f"{file}: cannot be written ({error}); free space") from error
