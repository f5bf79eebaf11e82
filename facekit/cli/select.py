"""``facekit data select``: of too many pictures those that help a target, and each frame once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from facekit.cli.choice import COLUMNS, SELECTED_COLUMNS, Choice, Pictures, free_rows, groups_of
from facekit.cli.console import count, print_json, say
from facekit.cli.embedded import embed_rows
from facekit.cli.options import Folder, Model
from facekit.cli.outputs import check_columns, check_outputs, output_folder, write_list
from facekit.encode import FaceEncoder
from facekit.errors import SettingError
from facekit.likeness import Classifier, Clusters, fit_classifier, fit_clusters
from facekit.policy import FacePolicy
from facekit.selection import best, find_repeats, within_quota
from facekit.train.data import open_source
from facekit.train.exclude import reasons_of_exclusion
from facekit.train.sources import Source
from facekit.train.sources.files import FileSource
from facekit.trash import shown

__all__ = ["Select"]

_SELECTED, _EXCLUDE, _EMBEDDED = "selected.csv", "exclude.csv", "embedded"
_SAMPLE = 10_000  # vectors of the target, and as many others, are enough to learn what it is like


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
        method: How likeness is judged: by a classifier that tells the target's pictures from these, or by
            centres of both; classifier if not given.
        per_person: Keep so many pictures of a person at most, those most like the target; without one,
            the best by quality.
        near_duplicates: Of a person's pictures that are as alike as this, -1 to 1, keep only the best by
            quality; pictures of nobody known are one pile.
        exclude: A CSV whose column path names pictures to leave out, such as the exclude.csv of an audit.
        images: Where the paths of the CSV start, if not beside it.
        faces: Which face counts where a picture has several.
        aligned: The pictures are aligned square crops, as training takes them; nothing is searched in them.
        json: Print one JSON document.
    """

    people: Folder
    out: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = "selection"
    target: str | None = None
    keep: float | None = None
    method: Literal["classifier", "cluster"] | None = None
    per_person: int | None = None
    near_duplicates: float | None = None
    exclude: str | None = None
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
        reasons, warning = [""] * len(source.person), ""
        if self.exclude is not None:
            reasons, warning = reasons_of_exclusion(source, Path(self.exclude))
            if warning:
                say(shown(warning))
        with output_folder(self.out) as out, output_folder(str(out / _EMBEDDED)):
            check_outputs((out / _SELECTED, out / _EXCLUDE), (self.people, self.target, self.exclude))
            check_columns(out / _EXCLUDE, COLUMNS)
            check_columns(out / _SELECTED, *SELECTED_COLUMNS)
            encoder = self.model.recognition().encoder
            sample = None
            if target is not None:
                sample = self._embed(encoder, target, _sample(free_rows(target)), "target")
            free, groups = free_rows(source), groups_of(source)
            rows = free[[not reasons[row] for row in free.tolist()]]
            rows = rows[np.argsort(groups[rows], kind="stable")]  # a person's follow each other
            found = self._embed(encoder, source, rows, "source")
            scores = found.vectors.quality if sample is None else self._scores(sample, found)
            choice = Choice(found, groups[rows], scores, reasons, len(free) - len(rows))
            self._choose(choice)
            write_list(out / _SELECTED, choice.selected())
            write_list(out / _EXCLUDE, choice.excluded())
            self._tell(out, encoder.checkpoint_fingerprint, choice, sample)
        return 0

    def _check(self) -> None:
        """Raises SettingError for what cannot be meant."""
        if self.target is None and self.per_person is None and self.near_duplicates is None:
            raise SettingError("--target, --per-person, --near-duplicates: none given; say what to choose by")
        if self.keep is not None and self.target is None:
            raise SettingError(f"--keep: {self.keep} is the share most like a target; give --target, too")
        if self.method is not None and self.target is None:
            raise SettingError(f"--method: {self.method} judges likeness to a target; give --target, too")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise SettingError(f"--keep: {self.keep} must be a share above 0, up to 1")
        if self.per_person is not None and self.per_person < 1:
            raise SettingError(f"--per-person: {self.per_person} must be 1 or more")
        if self.near_duplicates is not None and not -1 <= self.near_duplicates <= 1:
            raise SettingError(f"--near-duplicates: {self.near_duplicates} must be a similarity, -1 to 1")

    def _embed(self, encoder: FaceEncoder, source: Source, rows: NDArray[np.int64], what: str) -> Pictures:
        if not len(rows):
            given = self.people if what == "source" else f"--target: {self.target}"
            raise SettingError(f"{given} names no pictures, or all are held out or excluded; give others")
        folder = Path(self.out) / _EMBEDDED / what
        vectors = embed_rows(
            encoder, source, rows.tolist(), folder, faces=self.faces, aligned=self.aligned, what=what
        )
        return Pictures(source, rows, vectors)

    def _scores(self, target: Pictures, found: Pictures) -> NDArray[np.float32]:
        """(n,) how much each picture is like the target; NaN where it is no use."""
        ours = found.vectors
        fit: Callable[..., Clusters | Classifier]
        fit = fit_clusters if self.method == "cluster" else fit_classifier
        model = fit(target.vectors.take(target.usable()), ours.take(_sample(found.usable())))
        scores = np.concatenate([model.score(ours[block]) for block in ours.blocks()])
        return np.where(np.isnan(ours.quality), np.float32(np.nan), scores)

    def _choose(self, choice: Choice) -> None:
        usable = int(choice.left.sum())
        if self.near_duplicates is not None:
            vectors = choice.pictures.vectors
            choice.leave_out_repeats(
                find_repeats(vectors, choice.groups, vectors.quality, self.near_duplicates)
            )
        if self.per_person is not None:
            stays = within_quota(choice.scores, choice.people(), self.per_person, choice.left)
            choice.leave_out(~stays, f"more than {self.per_person} of this person")
        if self.target is not None:
            share, before = 0.5 if self.keep is None else self.keep, int(choice.left.sum())
            most = max(1, round(share * usable))
            if before <= most and share < 1:
                say(
                    f"--target: leaves nothing out, since {before:,} of {count(usable, 'usable picture')}"
                    f" are left, and {most:,} would stay; lower --keep"
                )
            stays = best(choice.scores, most, choice.left)
            choice.leave_out(~stays, "less like the target")

    def _tell(self, out: Path, fingerprint: str, choice: Choice, sample: Pictures | None) -> None:
        pictures = choice.pictures
        left_out = choice.left_out()
        selected = int(choice.left.sum())
        total = selected + sum(left_out.values())
        if self.json:
            print_json(
                {
                    "list": str(out / _SELECTED),
                    "exclude": str(out / _EXCLUDE),
                    "images": str(pictures.source.root),
                    "checkpoint": fingerprint,
                    "pictures": total,
                    "selected": selected,
                    "left_out": left_out,
                    "skipped": pictures.skipped(),
                    "target": None if sample is None else sample.document(),
                }
            )
            return
        if sample is not None and len(sample.usable()) < len(sample):
            say(f"target: {len(sample.usable()):,} of {count(len(sample), 'picture')} usable")
            sample.tell_skipped()
        pictures.tell_skipped()
        print(shown(f"{self.people}: {selected:,} of {count(total, 'picture')} selected"))
        for reason, number in left_out.most_common():
            print(f"  {number:,} left out: {reason}")
        if isinstance(pictures.source, FileSource):
            print(shown(f"  train with --data {out / _SELECTED} --images {pictures.source.root}"))
        else:
            print(shown(f"  train with --data {self.people} --exclude {out / _EXCLUDE}"))


def _sample(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Enough of them, in their order; always the same ones."""
    if len(rows) <= _SAMPLE:
        return rows
    return rows[np.sort(np.random.default_rng(0).choice(len(rows), _SAMPLE, replace=False))]
