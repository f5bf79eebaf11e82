"""``facekit evaluate``: what a checkpoint is worth on people's photographs, from file to verdict."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from facekit.checkpoint import Checkpoint
from facekit.cli.console import print_json
from facekit.cli.evaluation import Evaluation, Run
from facekit.cli.evaluation_page import check_page, write_page
from facekit.cli.options import Model, Threshold
from facekit.encode import EncodedImage, FaceEncoder
from facekit.enrolment import list_enrolments
from facekit.errors import EvaluationError, SettingError
from facekit.evaluate import (
    GroupTable,
    Hardest,
    HardPair,
    Pair,
    SearchReport,
    evaluate_pairs,
    evaluate_people,
    evaluate_search,
    group_rates,
    group_rates_of_pairs,
    identities,
    load_bin,
    load_groups,
    load_pairs,
    roc,
)
from facekit.face import Face
from facekit.policy import FacePolicy
from facekit.similarity import cosine
from facekit.threshold import Threshold as Limit
from facekit.threshold import choose_threshold

__all__ = ["Evaluate"]

_HARDEST = 12  # pairs of either kind that are shown


@dataclass(frozen=True)
class Evaluate:
    """How well a checkpoint tells whether two photographs show one person.

    The whole path is measured: decode, detect, choose a face, align, embed, compare. A pair in which a
    picture has no face counts as told to be two people. docs/evaluation.md explains every figure.

    Attributes:
        network: A checkpoint folder, a file or a name on the Hugging Face Hub; the one that ships with
            facekit if not given. The same as --checkpoint.
        pairs: LFW's pairs.txt, or a .csv with the columns a, b, same, and perhaps fold, person_a, person_b,
            or a verification set of insightface (lfw.bin ...), which holds its pictures as aligned crops, or
            a folder with a folder a person, of which all pictures are compared with all.
        images: The folder of the pictures that a list of pairs names: NAME/NAME_0001.jpg or NAME_0001.jpg
            for LFW's file, else as the .csv says; a .bin or a folder of people needs none.
        groups: A .csv with the columns path,group or person,group: errors by group, at one threshold that
            all share; the checkpoint's default unless --threshold or --far say otherwise.
        html: Write a page with charts, and with the pictures that are told most wrong: it shows faces, so
            mind who may see it. It opens offline.
        flip: Whether to average each face with its mirror image; the checkpoint's own setting if not given.
        faces: Which face counts where a picture has several; LFW's people stand in the centre.
        aligned: The pictures are aligned square crops; nothing is searched in them.
        json: Print one JSON document.
    """

    network: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")] = None
    pairs: Annotated[str, tyro.conf.arg(metavar="FILE|FOLDER")] = tyro.MISSING
    images: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    groups: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    html: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    flip: Literal["on", "off"] | None = None
    limit: Threshold = field(default_factory=Threshold)
    faces: FacePolicy = "center_largest"
    aligned: bool = False
    model: Model = field(default_factory=Model)
    json: bool = False

    def __call__(self) -> int:
        if self.html is not None:
            check_page(self.html)
        groups = None if self.groups is None else load_groups(self.groups)
        task = self._task()
        checkpoint = _averaged(self._model().load(), self.flip)
        limit = self._limit(checkpoint)
        encoder = FaceEncoder(
            checkpoint, device=self.model.device, precision=self.model.precision, min_face=self.model.min_face
        )
        began = time.monotonic()
        stream = encoder.stream(
            [task.crops.get(path, path) for path in task.pictures],
            faces=self.faces,
            aligned=self.aligned or bool(task.crops),
            progress=None,
        )
        found, lost = _one_face_each(task.pictures, stream)
        run = Run(
            compared=self.pairs,
            checkpoint=encoder.checkpoint_fingerprint,
            flip_average=checkpoint.config.flip_average,
            device=str(encoder.embedder.device),
            embed_seconds=time.monotonic() - began,
        )
        evaluation = task.evaluate(_Embedded(run, found, lost, groups, limit))
        if self.html is not None:
            write_page(self.html, evaluation, task.crops)
        if self.json:
            print_json(evaluation.to_dict())
        else:
            print(evaluation.to_text())
        return 0

    def _model(self) -> Model:
        if self.network is None:
            return self.model
        if self.model.checkpoint not in (None, self.network):
            raise SettingError(
                f"--checkpoint: {self.model.checkpoint} is not {self.network}; give one of them"
            )
        return replace(self.model, checkpoint=self.network)

    def _limit(self, checkpoint: Checkpoint) -> Limit | None:
        """The threshold that groups share; None where nobody needs one and the checkpoint has none.

        Raises:
            CalibrationError: there is none, and it is needed.
        """
        asked = self.limit.threshold is not None or self.limit.far is not None
        if not asked and self.groups is None and checkpoint.config.threshold is None:
            return None
        return choose_threshold(checkpoint.config, threshold=self.limit.threshold, far=self.limit.far)

    def _task(self) -> _PairList | _PeopleFolder:
        if os.path.isdir(self.pairs):
            if self.images is not None:
                raise SettingError(
                    f"--images: {self.pairs} is a folder of people and holds its pictures itself"
                )
            return _PeopleFolder(self.pairs)
        if not os.path.exists(self.pairs):
            raise SettingError(f"--pairs: {self.pairs!r} is not there; name a list of pairs, or a folder")
        if self.pairs.lower().endswith(".bin"):
            if self.images is not None:
                raise SettingError(f"--images: {self.pairs} holds its pictures itself")
            pairs, crops = load_bin(self.pairs)
            return _PairList(self.pairs, pairs, crops, Path(self.pairs))
        if self.images is None:
            raise SettingError(f"--images: {self.pairs} names pictures; give the folder where they are")
        return _PairList(self.pairs, load_pairs(self.pairs, self.images), {}, Path(self.images))


@dataclass(frozen=True, slots=True, eq=False)
class _Embedded:
    """Pictures with their faces, and what is asked about them.

    Attributes:
        run: how they were embedded.
        faces: picture -> the face that counts.
        lost: picture -> why it has none.
        groups: of the pictures or people; None where nobody asked.
        limit: the threshold that groups share.
    """

    run: Run
    faces: Mapping[Path, Face]
    lost: Mapping[str, str]
    groups: GroupTable | None
    limit: Limit | None

    def groups_of(
        self, pictures: Sequence[Path], folder: Path, people: Sequence[str | None]
    ) -> list[str | None]:
        """The group of each picture; None for none, and for all where nobody asked."""
        if self.groups is None:
            return [None] * len(pictures)
        inside = [picture.relative_to(folder).as_posix() for picture in pictures]
        return self.groups.of(zip(inside, people, strict=True))


class _PairList:
    """The pairs that a file names: the protocol of LFW.

    Args:
        file: that names them.
        pairs: of pictures.
        crops: those of the pictures that are no files.
        folder: where the pictures are.
    """

    def __init__(self, file: str, pairs: list[Pair], crops: Mapping[Path, bytes], folder: Path) -> None:
        self._file, self.pairs, self.crops, self._folder = file, pairs, crops, folder
        numbers: dict[Path, int] = {}
        self._sides = np.array(
            [[numbers.setdefault(path, len(numbers)) for path in pair[:2]] for pair in pairs], np.int64
        ).reshape(-1, 2)
        self.pictures = list(numbers)
        named = {
            path: name for pair in pairs for path, name in zip(pair[:2], pair.people or (), strict=False)
        }
        self._names = [named.get(path) for path in self.pictures]

    def evaluate(self, given: _Embedded) -> Evaluation:
        began = time.monotonic()
        group = np.array(given.groups_of(self.pictures, self._folder, self._names), object)
        scores = np.array(
            [
                float(cosine(given.faces[a].embedding, given.faces[b].embedding))
                if a in given.faces and b in given.faces
                else np.nan
                for a, b in (pair[:2] for pair in self.pairs)
            ]
        )
        same, people = np.array([pair.same for pair in self.pairs]), identities(self.pairs)
        told = np.array_equal(people[:, 0] == people[:, 1], same)
        try:  # pairs without names may contradict each other: then nobody knows whom they show
            report = evaluate_pairs(scores, same, self._folds(), people=people if told else None)
        except EvaluationError as error:
            raise EvaluationError(f"{self._file}: {error}", path=self._file) from error
        known = np.where(np.isnan(scores), -1.0, scores)
        rates = None
        if given.groups is not None and given.limit is not None:
            rates = group_rates_of_pairs(scores, same, people, group[self._sides], given.limit.similarity)
        evaluation = Evaluation(
            run=given.run,
            report=report,
            curve=roc(known[same], known[~same]),
            search=self._search(given.faces),
            limit=given.limit,
            groups=rates,
            ungrouped=group.tolist().count(None),
            false_accepts=self._hardest(scores, ~same, 1),
            false_rejects=self._hardest(scores, same, -1),
            pictures=self.pictures,
            faces=given.faces,
            lost=given.lost,
        )
        return evaluation.timed(time.monotonic() - began)

    def _folds(self) -> list[int] | None:
        """The protocol's own, if it has them."""
        folds = [pair.fold for pair in self.pairs if pair.fold is not None]
        return folds if len(folds) == len(self.pairs) else None

    def _search(self, faces: Mapping[Path, Face]) -> SearchReport | None:
        """How well the people are found; None without names, or with no second picture of anybody."""
        seen = [(path, name) for path, name in zip(self.pictures, self._names, strict=True) if path in faces]
        names = [name for _, name in seen if name is not None]
        if len(names) < len(seen) or len(set(self._names)) < 2 or len(set(names)) in (0, 1, len(names)):
            return None
        return evaluate_search(np.stack([faces[path].embedding for path, _ in seen]), names)

    def _hardest(
        self, scores: NDArray[np.float64], among: NDArray[np.bool_], sign: int
    ) -> Sequence[HardPair]:
        whose = np.zeros(len(self.pictures), np.int64)
        whose[self._sides] = identities(self.pairs)
        hardest = Hardest(whose, _HARDEST, sign=sign)
        hardest.offer(_ScoredList(scores, self._sides), among)
        return hardest.pairs()


@dataclass(frozen=True, slots=True, eq=False)
class _ScoredList:
    """Scores (n,) of pairs, and the numbers (n, 2) of their pictures."""

    scores: NDArray[np.float64]
    sides: NDArray[np.int64]

    def rows(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.sides[at]


class _PeopleFolder:
    """All pairs of a folder of people."""

    crops: Mapping[Path, bytes] = {}

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        samples = {Path(str(item.image)): item.sample.person for item in list_enrolments(folder)}
        self.pictures, self._names = list(samples), list(samples.values())

    def evaluate(self, given: _Embedded) -> Evaluation:
        began = time.monotonic()
        group = given.groups_of(self.pictures, self._folder, self._names)
        seen = [number for number, path in enumerate(self.pictures) if path in given.faces]
        lost = [number for number, path in enumerate(self.pictures) if path not in given.faces]
        if not seen:
            raise EvaluationError(f"{self._folder}: no usable face in any of {len(lost)} pictures")
        vectors = np.stack([given.faces[self.pictures[number]].embedding for number in seen])
        labels = [self._names[number] for number in seen]
        try:
            report = evaluate_people(
                vectors, labels, lost=[self._names[number] for number in lost], hardest=_HARDEST
            )
        except EvaluationError as error:
            remedy = "it should hold a folder for each person, with several pictures of some"
            raise EvaluationError(f"{self._folder}: {error}; {remedy}", path=str(self._folder)) from error
        rates = None
        if given.groups is not None and given.limit is not None:
            rates = group_rates(
                vectors,
                labels,
                [group[number] for number in seen],
                given.limit.similarity,
                lost=[(self._names[number], group[number]) for number in lost],
            )
        evaluation = Evaluation(
            run=given.run,
            report=report,
            curve=report.curve,
            search=report.search,
            limit=given.limit,
            groups=rates,
            ungrouped=group.count(None),
            false_accepts=_numbered(report.false_accepts, seen),
            false_rejects=_numbered(report.false_rejects, seen),
            pictures=self.pictures,
            faces=given.faces,
            lost=given.lost,
        )
        return evaluation.timed(time.monotonic() - began)


def _numbered(pairs: Iterable[HardPair], numbers: Sequence[int]) -> list[HardPair]:
    """Pairs of vectors as pairs of pictures."""
    return [HardPair(numbers[pair.a], numbers[pair.b], pair.score) for pair in pairs]


def _averaged(checkpoint: Checkpoint, flip: Literal["on", "off"] | None) -> Checkpoint:
    """The checkpoint with mirror images averaged or not; its thresholds do not hold for other embeddings."""
    config, wanted = checkpoint.config, flip == "on"
    if flip is None or wanted == config.flip_average:
        return checkpoint
    name = f"{config.fingerprint}{'+' if wanted else '-'}flip"
    other = replace(config, flip_average=wanted, threshold=None, calibration=None, fingerprint=name)
    return replace(checkpoint, config=other)


def _one_face_each(
    paths: Iterable[Path], pictures: Iterable[EncodedImage]
) -> tuple[dict[Path, Face], dict[str, str]]:
    """The faces by picture, and why the others have none.

    Raises:
        EvaluationError: a picture has several faces, and the policy keeps them.
    """
    found: dict[Path, Face] = {}
    lost: dict[str, str] = {}
    for path, picture in zip(paths, pictures, strict=True):
        if len(picture.faces) > 1:
            raise EvaluationError(
                f"{path}: {len(picture.faces)} faces; choose one with --faces, such as center_largest"
            )
        if picture.faces:
            found[path] = picture.faces[0]
        else:
            why = "no face found" if picture.error is None else str(picture.error)
            lost[str(path)] = why.removeprefix(f"{path}: ")
    return found, lost
