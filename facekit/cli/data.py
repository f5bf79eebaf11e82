"""``facekit data``: what is wrong with a set of training pictures, and the set as one file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from facekit.audit import Doubt, Limits, Resemblance, audit_labels, find_resemblances
from facekit.checkpoint import ModelConfig
from facekit.cli.audit_page import Finding, Section, audit_page
from facekit.cli.console import count, print_json, say
from facekit.cli.options import Folder, Model
from facekit.encode import FaceEncoder
from facekit.errors import FacekitError, ImageError, NoFaceError, SettingError
from facekit.image import ImageSource
from facekit.policy import FacePolicy
from facekit.train.convert import convert_pictures
from facekit.train.data import open_source
from facekit.train.sources import Source
from facekit.train.sources.source import NamedBytes
from facekit.trash import shown
from facekit.wholefile import replacing

__all__ = ["Audit", "Convert"]

_LIST, _PAGE = "exclude.csv", "index.html"
_COLUMNS = ("path", "reason", "person", "own", "suggestion", "similarity")
_SKIPS = 10  # lines about pictures that are no use


@dataclass(frozen=True)
class Audit:
    """Finds mislabelled pictures, people under two names, and people of an evaluation set.

    Writes a page with the most certain findings, index.html, and exclude.csv, which training takes with
    --exclude. Nothing is moved or deleted.

    Attributes:
        people: What training reads: a folder with a folder a person, a CSV of path and identity, .rec, .tar.
        out: The folder of the report, made if need be.
        against: An evaluation set, in any of these forms: who of it is among the people?
        images: Where the paths of the CSV start, if not beside it.
        top: How many findings of a kind the page shows; the list has all.
        faces: Which face counts where a picture has several.
        aligned: The pictures are aligned square crops, as training takes them; nothing is searched in them.
        json: Print one JSON document.
    """

    people: Folder
    out: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = "audit"
    against: str | None = None
    images: str | None = None
    top: int = 200
    faces: FacePolicy = "largest"
    aligned: bool = False
    model: Model = field(default_factory=Model)
    json: bool = False

    def __call__(self) -> int:
        if self.top < 0:
            raise SettingError(f"--top: {self.top} must be 0 or more")
        source = open_source(Path(self.people), None if self.images is None else Path(self.images))
        other = None if self.against is None else open_source(Path(self.against))
        out = _folder(self.out)
        recognition = self.model.recognition()
        faces = _embed(recognition.encoder, source, self.faces, self.aligned)
        found = audit_labels(faces.vectors, faces.labels, limits=_fallback(recognition.config))
        overlap: tuple[Resemblance, ...] = ()
        if other is not None:
            theirs = _embed(recognition.encoder, other, self.faces, self.aligned)
            overlap = find_resemblances(
                faces.vectors, faces.labels, theirs.vectors, theirs.labels, threshold=found.limits.names
            )
        report = _Report(source, faces, found.doubts, found.two_names, overlap, other)
        rows = list(report.rows())
        _write(out / _LIST, _as_csv(rows))
        about = f"{count(len(faces.rows), 'picture')} of {count(len(source.people), 'person', 'people')}"
        lines = [f"{about}, by {recognition.config.fingerprint}", _limits_in_words(found.limits)]
        _write(out / _PAGE, audit_page(f"Audit of {self.people}", lines, report.sections(self.top), source))
        self._tell(out, about, report, rows, found.limits)
        return 0

    def _tell(
        self, out: Path, about: str, report: _Report, rows: list[tuple[str, ...]], limits: Limits
    ) -> None:
        skipped = report.faces.skipped
        if self.json:
            print_json(
                {
                    "page": str(out / _PAGE),
                    "list": str(out / _LIST),
                    "mislabelled": len(report.doubts),
                    "two_names": len(report.two_names),
                    "overlap": len(report.overlap),
                    "limits": {name: getattr(limits, name) for name in limits.__slots__},
                    "exclude": [dict(zip(_COLUMNS, row, strict=True)) for row in rows],
                    "skipped": dict(skipped),
                }
            )
            return
        for _, reason in skipped[:_SKIPS]:
            say(f"skipped: {shown(reason)}")
        if len(skipped) > _SKIPS:
            say(f"skipped: {len(skipped) - _SKIPS:,} more pictures")
        print(shown(f"{self.people}: {about}"))
        print(f"  {count(len(report.doubts), 'picture')} under a wrong name, it seems")
        print(f"  {count(len(report.two_names), 'pair')} of names that seem to be one person")
        if self.against is not None:
            print(
                shown(f"  {count(len(report.overlap), 'person', 'people')} who seem to be in {self.against}")
            )
        print(
            shown(f"  look at {out / _PAGE}; {out / _LIST} lists {count(len(rows), 'picture')} to leave out")
        )


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
                }
            )
            return 0
        for reason in done.skipped[:_SKIPS]:
            say(f"skipped: {shown(reason)}")
        if len(done.skipped) > _SKIPS:
            say(f"skipped: {len(done.skipped) - _SKIPS:,} more pictures")
        what = f"{count(done.pictures, 'picture')} of {count(done.people, 'person', 'people')}"
        print(shown(f"{self.out}: {what}; {done.names} says whose"))
        return 0


@dataclass(frozen=True, slots=True, eq=False)
class _Faces:
    """The pictures of a source in which a face was found: rows (m,), vectors (m, d), labels (m,)."""

    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    labels: NDArray[np.int64]
    skipped: list[tuple[str, str]]


class _Pictures:
    """The pictures of a source, one after another; one that its archive does not give is empty."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.errors: dict[int, ImageError] = {}

    def __len__(self) -> int:
        return len(self.source.person)

    def __iter__(self) -> Iterator[ImageSource]:
        for row in range(len(self)):
            try:
                yield self.source.read(row)
            except ImageError as error:
                self.errors[row] = error
                yield NamedBytes(b"", self.source.name(row))


def _embed(encoder: FaceEncoder, source: Source, policy: FacePolicy, aligned: bool) -> _Faces:
    """One face of each picture.

    Raises:
        NoFaceError: there is none in any.
    """
    pictures = _Pictures(source)
    vectors = np.empty((len(pictures), encoder.embedder.dim), np.float32)
    rows: list[int] = []
    skipped: list[tuple[str, str]] = []
    stream = encoder.stream(pictures, faces=policy, aligned=aligned, progress=None)
    for row, encoded in enumerate(stream):
        try:
            vectors[len(rows)] = encoded.one_face().embedding
            rows.append(row)
        except FacekitError as error:
            skipped.append((source.name(row), str(pictures.errors.get(row, error))))
    if not rows:
        raise NoFaceError(f"{source.root}: no face in any of {len(pictures):,} pictures; {skipped[0][1]}")
    kept = np.array(rows, np.int64)
    return _Faces(kept, vectors[: len(rows)], source.person.numpy()[kept], skipped)


@dataclass(frozen=True, slots=True, eq=False)
class _Report:
    """The findings, in the words of the source."""

    source: Source
    faces: _Faces
    doubts: Sequence[Doubt]
    two_names: Sequence[Resemblance]
    overlap: Sequence[Resemblance]
    other: Source | None

    def rows(self) -> Iterator[tuple[str, ...]]:
        """A row for each picture to leave out, each once: the columns of the list."""
        people = self.source.people
        told = set()
        for doubt in self.doubts:
            told.add(doubt.row)
            better = "" if doubt.suggestion is None else people[doubt.suggestion]
            name = self.source.name(int(self.faces.rows[doubt.row]))
            yield name, "mislabelled", people[doubt.person], f"{doubt.own}", better, f"{doubt.other}"
        kinds = [("overlap", self.overlap, self.other), ("two names", self.two_names, self.source)]
        for reason, found, there in kinds:
            for pair in found:
                for index in np.flatnonzero(self.faces.labels == pair.person).tolist():
                    if index not in told and there is not None:
                        told.add(index)
                        name = self.source.name(int(self.faces.rows[index]))
                        better = there.people[pair.other]
                        yield name, reason, people[pair.person], "", better, f"{pair.similarity}"

    def sections(self, top: int) -> list[Section]:
        """What the page shows."""
        people = self.source.people
        wrong = []
        for doubt in self.doubts[:top]:
            row = int(self.faces.rows[doubt.row])
            pictures = [(row, self.source.name(row)), *self._example(doubt.person, doubt.row)]
            text = f"{people[doubt.person]}? {doubt.own:+.2f}; looks like nobody here"
            if doubt.suggestion is not None:
                text = f"{people[doubt.person]}? {doubt.own:+.2f}; "
                text += f"more like {people[doubt.suggestion]}: {doubt.other:+.2f}"
                pictures += self._example(doubt.suggestion, doubt.row)
            wrong.append(Finding(text, pictures))
        both = [
            Finding(
                f"{people[pair.person]} and {people[pair.other]}: {pair.similarity:+.2f}",
                [*self._example(pair.person), *self._example(pair.other)],
            )
            for pair in self.two_names[:top]
        ]
        sections = [
            Section("Mislabelled", "Move them to who they are, or leave them out.", wrong, len(self.doubts)),
            Section(
                "One person under two names",
                "Join the folders; the list leaves out the name with fewer pictures.",
                both,
                len(self.two_names),
            ),
        ]
        if self.other is not None:
            known = [
                Finding(
                    f"{people[pair.person]} looks like {self.other.people[pair.other]} there:"
                    f" {pair.similarity:+.2f}",
                    self._example(pair.person),
                )
                for pair in self.overlap[:top]
            ]
            remedy = "Leave these people out, or the evaluation flatters."
            sections.append(Section("In the evaluation set", remedy, known, len(self.overlap)))
        return sections

    def _example(self, person: int, but: int = -1) -> list[tuple[int, str]]:
        """The most typical picture of a person, other than ``but``; none if there is no other."""
        rows = np.flatnonzero(self.faces.labels == person)
        rows = rows[rows != but]
        if not len(rows):
            return []
        vectors = self.faces.vectors[rows]
        row = int(self.faces.rows[rows[int((vectors @ vectors.mean(0)).argmax())]])
        return [(row, self.source.people[person])]


def _limits_in_words(limits: Limits) -> str:
    return (
        f"1 of 10 strangers reaches a similarity of {limits.lone:+.2f}, 1 of 100 {limits.own:+.2f};"
        f" a picture looks like somebody else from {limits.other:+.2f} on,"
        f" two people like one from {limits.names:+.2f} on"
    )


def _fallback(config: ModelConfig) -> Limits | None:
    """The checkpoint's own rates, for sets that are too small to measure any; None where it has none."""
    table = config.calibration
    if table is None or min(table.thresholds) > 1e-4 or max(table.thresholds) < 0.1:
        return None
    return Limits(*(table.threshold_at(far) for far in (0.1, 0.01, 1e-3, 1e-4)))


def _folder(out: str) -> Path:
    """The folder of the report, there before the work begins.

    Raises:
        SettingError: it cannot be one.
    """
    try:
        Path(out).mkdir(exist_ok=True)
    except OSError as error:
        problem = error.strerror or error
        raise SettingError(
            f"--out: {out!r} cannot be made ({problem}); name a folder in an existing one"
        ) from error
    return Path(out)


def _as_csv(rows: Sequence[tuple[Any, ...]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(rows)
    return text.getvalue()


def _write(file: Path, text: str) -> None:
    """Writes a file, all or nothing."""
    try:
        with replacing(file, private=True) as stream:
            stream.write(text.encode(errors="surrogateescape"))
    except OSError as error:
        raise SettingError(f"{file}: cannot be written ({error.strerror or error})") from error
