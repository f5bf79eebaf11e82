"""``facekit evaluate``: what a checkpoint is worth on pairs of photographs, from file to verdict."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from facekit.cli.console import count, print_json, table
from facekit.cli.options import Model
from facekit.encode import EncodedImage
from facekit.errors import EvaluationError, SettingError
from facekit.evaluate import (
    Interval,
    Pair,
    SearchReport,
    VerificationReport,
    evaluate_pairs,
    evaluate_search,
    identities,
    load_bin,
    load_pairs,
)
from facekit.face import Embedding
from facekit.policy import FacePolicy
from facekit.similarity import cosine

__all__ = ["Evaluate"]


@dataclass(frozen=True)
class Evaluate:
    """How well a checkpoint tells whether two photographs show one person, by the protocol of LFW.

    The whole path is measured: decode, detect, choose a face, align, embed, compare. A pair in which a
    picture has no face counts as told to be two people.

    Attributes:
        pairs: LFW's pairs.txt, or a .csv with the columns a, b, same, and perhaps fold, person_a, person_b,
            or a verification set of insightface (lfw.bin ...), which holds its pictures as aligned crops.
        images: The folder of the pictures: NAME/NAME_0001.jpg or NAME_0001.jpg for LFW's file, else as the
            .csv says; a .bin needs none.
        faces: Which face counts where a picture has several; LFW's people stand in the centre.
        aligned: The pictures are aligned square crops; nothing is searched in them.
        json: Print one JSON document.
    """

    pairs: Annotated[str, tyro.conf.arg(metavar="FILE")]
    images: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    faces: FacePolicy = "center_largest"
    aligned: bool = False
    model: Model = field(default_factory=Model)
    json: bool = False

    def __call__(self) -> int:
        pairs, crops = self._pairs()
        encoder = self.model.recognition().encoder
        began = time.monotonic()
        pictures = list(dict.fromkeys(path for pair in pairs for path in (pair.a, pair.b)))
        stream = encoder.stream(
            [crops.get(path, path) for path in pictures],
            faces=self.faces,
            aligned=self.aligned or bool(crops),
            progress=None,
        )
        found, lost = _one_face_each(pictures, stream)
        seconds = time.monotonic() - began
        report = evaluate_pairs(
            _scores(pairs, found), [pair.same for pair in pairs], _folds(pairs), people=identities(pairs)
        )
        search = _search(pairs, found)
        run: dict[str, Any] = {
            "pictures": {"total": len(pictures), "without_face": lost},
            "seconds": round(seconds, 3),
            "device": str(encoder.embedder.device),
            "checkpoint": encoder.checkpoint_fingerprint,
        }
        if self.json:
            print_json({**report.to_dict(), "search": search and search.to_dict(), **run})
        else:
            print(_page(report, search, run))
        return 0

    def _pairs(self) -> tuple[list[Pair], dict[Path, bytes]]:
        """The pairs, and those pictures that are no files."""
        if self.pairs.lower().endswith(".bin"):
            return load_bin(self.pairs)
        if self.images is None:
            raise SettingError(f"--images: {self.pairs} names pictures; give the folder where they are")
        return load_pairs(self.pairs, self.images), {}


def _one_face_each(
    paths: Iterable[Path], pictures: Iterable[EncodedImage]
) -> tuple[dict[Path, Embedding], dict[str, str]]:
    """The embeddings by picture, and why the others have none.

    Raises:
        EvaluationError: a picture has several faces, and the policy keeps them.
    """
    found: dict[Path, Embedding] = {}
    lost: dict[str, str] = {}
    for path, picture in zip(paths, pictures, strict=True):
        if len(picture.faces) > 1:
            raise EvaluationError(
                f"{path}: {len(picture.faces)} faces; choose one with --faces, such as center_largest"
            )
        if picture.faces:
            found[path] = picture.faces[0].embedding
        else:
            lost[str(path)] = "no face found" if picture.error is None else str(picture.error)
    return found, lost


def _scores(pairs: Sequence[Pair], found: dict[Path, Embedding]) -> list[float]:
    """The similarity of each pair; NaN where a picture has no face."""
    return [
        float(cosine(found[pair.a], found[pair.b])) if pair.a in found and pair.b in found else np.nan
        for pair in pairs
    ]


def _folds(pairs: Sequence[Pair]) -> list[int] | None:
    """The protocol's own, if it has them."""
    folds = [pair.fold for pair in pairs if pair.fold is not None]
    return folds if len(folds) == len(pairs) else None


def _search(pairs: Sequence[Pair], found: dict[Path, Embedding]) -> SearchReport | None:
    """How well the people are found; None without names, or with no second picture of anybody."""
    named = {path: name for pair in pairs for path, name in zip(pair[:2], pair.people or (), strict=False)}
    seen = {path: name for path, name in named.items() if path in found}
    if len(set(named.values())) < 2 or len(set(seen.values())) in (0, 1, len(seen)):
        return None
    return evaluate_search(np.stack([found[path] for path in seen]), list(seen.values()))


def _page(report: VerificationReport, search: SearchReport | None, run: dict[str, Any]) -> str:
    total, lost = run["pictures"]["total"], run["pictures"]["without_face"]
    seconds, known = run["seconds"], report.intervals
    rows = [
        (
            "accuracy",
            f"{report.accuracy:.4f} +- {report.standard_error:.4f} ({count(len(report.folds), 'fold')})"
            + _ends(None if known is None else known.accuracy),
        ),
        ("threshold", f"{report.threshold:.4f} (mean of the folds)"),
        ("AUC", f"{report.auc:.4f}{_ends(None if known is None else known.auc)}"),
        ("EER", f"{report.eer:.4f}{_ends(None if known is None else known.eer)}"),
        *(
            (
                f"TAR@FAR={far:g}",
                _rate(tar, 1 / far) + _ends(None if known is None else known.tar_at_far[far]),
            )
            for far, tar in report.tar_at_far.items()
        ),
        *_search_rows(search),
        ("pairs", f"{report.genuine:,} of one person, {report.impostor:,} of two"),
        ("faces", f"in {total - len(lost):,} of {total:,} pictures; {count(report.missing, 'pair')} without"),
        ("time", f"{seconds:.1f} s on {run['device']}, {total / max(seconds, 1e-3):.1f} pictures a second"),
        ("checkpoint", run["checkpoint"]),
    ]
    note = (
        []
        if known is None
        else [f"  [ ]: {known.confidence:.0%} of tests with {known.people:,} other people"]
    )
    return "\n".join(
        [table(rows), *note, *(f"  lost: {name}: {why}" for name, why in list(lost.items())[:10])]
    )


def _search_rows(search: SearchReport | None) -> list[tuple[str, str]]:
    if search is None:
        return []
    size = f"{count(search.probes, 'search', 'searches')} among {search.gallery:,} people"
    rates = search.tpir_at_fpir.items()
    return [
        ("found first", f"{search.rank1:.4f} of {size}"),
        *((f"TPIR@FPIR={fpir:g}", _rate(tpir, 1 / fpir, "searches")) for fpir, tpir in rates),
    ]


def _rate(value: float | None, needed: float, of: str = "pairs of two people") -> str:
    return f"needs at least {needed:,.0f} {of}" if value is None else f"{value:.4f}"


def _ends(interval: Interval) -> str:
    return "" if interval is None else f"  [{interval[0]:.4f}, {interval[1]:.4f}]"
