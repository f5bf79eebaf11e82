"""An audit by faces: pictures that do not look like their person, and people who look like one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facekit.audit import Doubt, Limits, Resemblance, audit_labels, find_resemblances
from facekit.checkpoint import ModelConfig
from facekit.cli.audit_outcome import COLUMNS, SKIPS, Outcome
from facekit.cli.audit_page import Finding, Section
from facekit.cli.console import count
from facekit.cli.embedded import SourcePictures
from facekit.encode import FaceEncoder
from facekit.errors import FacekitError, NoFaceError
from facekit.policy import FacePolicy
from facekit.recognition import FaceRecognition
from facekit.train.sources import Source

__all__ = ["audit_faces"]


def audit_faces(
    source: Source,
    recognition: FaceRecognition,
    *,
    policy: FacePolicy,
    aligned: bool,
    against: tuple[str, Source] | None,
    top: int,
) -> Outcome:
    """Embeds all pictures and judges their labels by how alike the faces are.

    Args:
        source: the pictures.
        recognition: with which network.
        policy: which face counts where a picture has several.
        aligned: the pictures are crops; nothing is searched in them.
        against: an evaluation set and what it is called; who of it is among the people?
        top: how many findings of a kind the page shows.

    Raises:
        NoFaceError: no face in any picture.
        EvaluationError: too few people to judge.
    """
    faces = _embed(recognition.encoder, source, policy, aligned)
    found = audit_labels(faces.vectors, faces.labels, limits=_fallback(recognition.config))
    overlap: tuple[Resemblance, ...] = ()
    if against is not None:
        theirs = _embed(recognition.encoder, against[1], policy, aligned)
        overlap = find_resemblances(
            faces.vectors, faces.labels, theirs.vectors, theirs.labels, threshold=found.limits.names
        )
    other = None if against is None else against[1]
    report = _Report(source, faces, found.doubts, found.two_names, overlap, other)
    told = [
        f"{count(len(found.doubts), 'picture')} under a wrong name, it seems",
        f"{count(len(found.two_names), 'pair')} of names that seem to be one person",
    ]
    if against is not None:
        told.append(f"{count(len(overlap), 'person', 'people')} who seem to be in {against[0]}")
    notes = [f"skipped: {reason}" for _, reason in faces.skipped[:SKIPS]]
    if len(faces.skipped) > SKIPS:
        notes.append(f"skipped: {len(faces.skipped) - SKIPS:,} more pictures")
    return Outcome(
        about=f"{count(len(faces.rows), 'picture')} of {count(len(source.people), 'person', 'people')}",
        judge=recognition.config.fingerprint,
        how=_limits_in_words(found.limits),
        columns=COLUMNS,
        rows=list(report.rows()),
        sections=report.sections(top),
        told=told,
        notes=notes,
        document={
            "mislabelled": len(found.doubts),
            "two_names": len(found.two_names),
            "overlap": len(overlap),
            "limits": {name: getattr(found.limits, name) for name in found.limits.__slots__},
            "skipped": dict(faces.skipped),
        },
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Faces:
    """The pictures of a source in which a face was found: rows (m,), vectors (m, d), labels (m,)."""

    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    labels: NDArray[np.int64]
    skipped: list[tuple[str, str]]


def _embed(encoder: FaceEncoder, source: Source, policy: FacePolicy, aligned: bool) -> _Faces:
    """One face of each picture.

    Raises:
        NoFaceError: there is none in any.
    """
    pictures = SourcePictures(source, range(len(source.person)))
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
