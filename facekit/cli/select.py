"""``facekit data select``: of too many pictures those that help a target, and each frame once."""

from __future__ import annotations

import codecs
import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from facekit.cli.console import count, print_json, say
from facekit.cli.embedded import EmbeddedRows, embed_rows
from facekit.cli.options import Folder, Model
from facekit.encode import FaceEncoder
from facekit.errors import SettingError
from facekit.likeness import Classifier, Clusters, fit_classifier, fit_clusters
from facekit.policy import FacePolicy
from facekit.selection import best, find_repeats, within_quota
from facekit.train.data import open_source
from facekit.train.sources import Source
from facekit.train.sources.files import FileSource
from facekit.trash import shown
from facekit.wholefile import replacing

__all__ = ["Select"]

_SELECTED, _EXCLUDE, _EMBEDDED = "selected.csv", "exclude.csv", "embedded"
_SAMPLE = 10_000  # vectors of the target, and as many others, are enough to learn what it is like
_SKIPS = 10  # lines about pictures that are no use
_REPEATS = "near-duplicate of "


@dataclass(frozen=True)
class Select:
    """Chooses which pictures to learn from: those like a target's, some of each person, no near-duplicates.

    Writes selected.csv, which training takes with --data and --images, and exclude.csv, which it takes with
    --exclude: all other pictures, and why. Nothing is moved or deleted. The embeddings stay in FOLDER, so
    that what is stopped goes on, and another choice takes seconds.

    Attributes:
        people: What training reads: a folder, a CSV of path and perhaps identity, .rec, .tar.
        out: The folder of the lists, made if need be.
        target: A sample of what it is for, in any of these forms; a few hundred pictures do.
        keep: The share of the usable pictures to keep, those most like the target; 0.5 if not given.
        method: How likeness is judged: by centres of the target's pictures and of these, or by a
            classifier that tells them apart.
        per_person: Keep so many pictures of a person at most, those most like the target; without one,
            the best by quality.
        near_duplicates: Of a person's pictures that are as alike as this, -1 to 1, keep only the best by
            quality; pictures of nobody known are one pile.
        images: Where the paths of the CSV start, if not beside it.
        faces: Which face counts where a picture has several.
        aligned: The pictures are aligned square crops, as training takes them; nothing is searched in them.
        json: Print one JSON document.
    """

    people: Folder
    out: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = "selection"
    target: str | None = None
    keep: float | None = None
    method: Literal["cluster", "classifier"] = "cluster"
    per_person: int | None = None
    near_duplicates: float | None = None
    images: str | None = None
    faces: FacePolicy = "largest"
    aligned: bool = False
    model: Model = field(default_factory=Model)
    json: bool = False

    def __call__(self) -> int:
        self._check()
        images = None if self.images is None else Path(self.images)
        source = open_source(Path(self.people), images, labelled=False)
        target = None if self.target is None else open_source(Path(self.target), labelled=False)
        out = _folder(self.out)
        encoder = self.model.recognition().encoder
        like = None
        if target is not None:
            like = self._embed(encoder, target, _sample(len(target.person)), "target")
        rows, groups = _in_order(source)
        found = self._embed(encoder, source, rows, "source")
        scores = found.quality if like is None else self._scores(like, found)
        chosen = _Choice(source, rows, groups, found, scores)
        self._choose(chosen)
        _write(out / _SELECTED, chosen.selected())
        _write(out / _EXCLUDE, chosen.excluded())
        self._tell(out, encoder.checkpoint_fingerprint, chosen)
        return 0

    def _check(self) -> None:
        """Raises SettingError for what cannot be meant."""
        if self.target is None and self.per_person is None and self.near_duplicates is None:
            raise SettingError("--target, --per-person, --near-duplicates: none given; say what to choose by")
        if self.keep is not None and self.target is None:
            raise SettingError(f"--keep: {self.keep} is the share most like a target; give --target, too")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise SettingError(f"--keep: {self.keep} must be a share above 0, up to 1")
        if self.per_person is not None and self.per_person < 1:
            raise SettingError(f"--per-person: {self.per_person} must be 1 or more")
        if self.near_duplicates is not None and not -1 <= self.near_duplicates <= 1:
            raise SettingError(f"--near-duplicates: {self.near_duplicates} must be a similarity, -1 to 1")

    def _embed(
        self, encoder: FaceEncoder, source: Source, rows: NDArray[np.int64], what: str
    ) -> EmbeddedRows:
        if not len(rows):
            raise SettingError(f"{source.root}: names no pictures to choose by or from; give others")
        folder = Path(self.out) / _EMBEDDED / what
        return embed_rows(
            encoder, source, rows.tolist(), folder, faces=self.faces, aligned=self.aligned, what=what
        )

    def _scores(self, target: EmbeddedRows, found: EmbeddedRows) -> NDArray[np.float32]:
        """(n,) how much each picture is like the target; NaN where it is no use."""
        theirs = target.take(np.flatnonzero(~np.isnan(target.quality)))
        usable = np.flatnonzero(~np.isnan(found.quality))
        ours = found.take(usable[_sample(len(usable))])
        fit: Callable[..., Clusters | Classifier]
        fit = fit_clusters if self.method == "cluster" else fit_classifier
        model = fit(theirs, ours)
        scores = np.concatenate([model.score(found[block]) for block in found.blocks()])
        return np.where(np.isnan(found.quality), np.float32(np.nan), scores)

    def _choose(self, chosen: _Choice) -> None:
        usable = int(chosen.left.sum())
        if self.near_duplicates is not None:
            repeats = find_repeats(chosen.found, chosen.groups, chosen.found.quality, self.near_duplicates)
            chosen.leave_out(repeats >= 0, lambda place: f"{_REPEATS}{chosen.name(repeats[place])}")
        if self.per_person is not None:
            people = chosen.source.person.numpy()[chosen.rows]
            stays = within_quota(chosen.scores, people, self.per_person, chosen.left)
            chosen.leave_out(~stays, lambda _: f"more than {self.per_person} of this person")
        if self.target is not None:
            share = 0.5 if self.keep is None else self.keep
            stays = best(chosen.scores, max(1, round(share * usable)), chosen.left)
            chosen.leave_out(~stays, lambda _: "less like the target")

    def _tell(self, out: Path, fingerprint: str, chosen: _Choice) -> None:
        why = Counter(
            "near-duplicate" if reason.startswith(_REPEATS) else reason for reason in chosen.reasons
        )
        selected = why.pop("", 0)
        problems = chosen.found.problems
        if self.json:
            print_json(
                {
                    "list": str(out / _SELECTED),
                    "exclude": str(out / _EXCLUDE),
                    "images": str(chosen.source.root),
                    "checkpoint": fingerprint,
                    "pictures": len(chosen.rows),
                    "selected": selected,
                    "left_out": dict(why),
                    "skipped": {chosen.name(place): text for place, (_, text) in problems.items()},
                }
            )
            return
        for _, text in islice(problems.values(), _SKIPS):
            say(f"skipped: {shown(text)}")
        if len(problems) > _SKIPS:
            say(f"skipped: {len(problems) - _SKIPS:,} more pictures")
        print(shown(f"{self.people}: {selected:,} of {count(len(chosen.rows), 'picture')} selected"))
        for reason, number in why.most_common():
            print(f"  {number:,} left out: {reason}")
        if isinstance(chosen.source, FileSource):
            print(shown(f"  train with --data {out / _SELECTED} --images {chosen.source.root}"))
        else:
            print(shown(f"  train with --data {self.people} --exclude {out / _EXCLUDE}"))


class _Choice:
    """Pictures in the order in which they are embedded, and why each is left out: an empty reason stays."""

    def __init__(
        self,
        source: Source,
        rows: NDArray[np.int64],
        groups: NDArray[np.int64],
        found: EmbeddedRows,
        scores: NDArray[np.float32],
    ) -> None:
        self.source, self.rows, self.groups, self.found, self.scores = source, rows, groups, found, scores
        self.left = ~np.isnan(found.quality)
        self.reasons = [""] * len(rows)
        for place, (kind, _) in found.problems.items():
            self.reasons[place] = kind

    def name(self, place: int) -> str:
        """What lists call the picture."""
        return self.source.name(int(self.rows[place]))

    def leave_out(self, gone: NDArray[np.bool_], reason: Callable[[int], str]) -> None:
        """Drops pictures that are not yet dropped."""
        for place in np.flatnonzero(self.left & gone).tolist():
            self.reasons[place] = reason(place)
        self.left &= ~gone

    def selected(self) -> Iterator[tuple[str, ...]]:
        """A header, then a row a picture in the order of the source; what is held out stays as it is."""
        source = self.source
        place = np.full(len(source.person), -1)  # of those that are held out
        place[self.rows] = np.arange(len(self.rows))
        labelled, split = bool((self.groups >= 0).any()), source.heldout is not None
        yield "path", *(["identity"] if labelled else []), *(["split"] if split else []), "score"
        for row, at in enumerate(place.tolist()):
            if at >= 0 and self.reasons[at]:
                continue
            line = [source.name(row)]
            if labelled:
                line.append(_whose(source, row))
            if split:
                line.append("heldout" if at < 0 else "train")
            yield *line, "" if at < 0 else f"{self.scores[at]:.6g}"

    def excluded(self) -> Iterator[tuple[str, ...]]:
        """A header, then a row for each picture that is left out, in the order of the source."""
        yield "path", "reason"
        for place in np.argsort(self.rows).tolist():
            if self.reasons[place]:
                yield self.name(place), self.reasons[place]


def _in_order(source: Source) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows to choose from and their groups: a person's pictures follow each other, -1 is nobody known."""
    known = np.array([bool(_whose(source, row)) for row in range(len(source.person))], bool)
    groups = np.where(known, source.person.numpy(), -1)
    free = np.ones(len(groups), bool) if source.heldout is None else ~source.heldout.numpy()
    rows = np.flatnonzero(free)
    rows = rows[np.argsort(groups[rows], kind="stable")]
    return rows, groups[rows]


def _whose(source: Source, row: int) -> str:
    """The person of a row; empty where the source says none and lets each picture be one by itself."""
    person = source.people[int(source.person[row])]
    return "" if os.path.normpath(person) == source.name(row) else person


def _sample(number: int) -> NDArray[np.int64]:
    """So many of 0 ... number - 1, rising; always the same ones."""
    if number <= _SAMPLE:
        return np.arange(number)
    return np.sort(np.random.default_rng(0).choice(number, _SAMPLE, replace=False))


def _folder(out: str) -> Path:
    """The folder of the lists, there before the work begins.

    Raises:
        SettingError: it cannot be one.
    """
    try:
        Path(out).mkdir(exist_ok=True)
        (Path(out) / _EMBEDDED).mkdir(exist_ok=True)
    except OSError as error:
        problem = error.strerror or error
        raise SettingError(
            f"--out: {out!r} cannot be made ({problem}); name a folder in an existing one"
        ) from error
    return Path(out)


def _write(file: Path, rows: Iterable[Sequence[str]]) -> None:
    """Writes a CSV, all or nothing."""
    try:
        with replacing(file, private=True) as stream:
            text: Any = codecs.getwriter("utf-8")(stream, "surrogateescape")
            csv.writer(text, lineterminator="\n").writerows(rows)
    except OSError as error:
        raise SettingError(f"{file}: cannot be written ({error.strerror or error})") from error
