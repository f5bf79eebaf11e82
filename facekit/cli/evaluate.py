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
from facekit.errors import EvaluationError
from facekit.evaluate import Pair, VerificationReport, evaluate_pairs, load_pairs
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
        pairs: LFW's pairs.txt, or a .csv with the columns a, b, same and perhaps fold.
        images: The folder of the pictures: NAME/NAME_0001.jpg or NAME_0001.jpg for LFW's file, else as the
            .csv says.
        faces: Which face counts where a picture has several; LFW's people stand in the centre.
        aligned: The pictures are aligned square crops; nothing is searched in them.
        json: Print one JSON document.
    """

    pairs: Annotated[str, tyro.conf.arg(metavar="FILE")]
    images: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    faces: FacePolicy = "center_largest"
    aligned: bool = False
    model: Model = field(default_factory=Model)
    json: bool = False

    def __call__(self) -> int:
        pairs = load_pairs(self.pairs, self.images)
        encoder = self.model.recognition().encoder
        began = time.monotonic()
        pictures = list(dict.fromkeys(path for pair in pairs for path in (pair.a, pair.b)))
        stream = encoder.stream(pictures, faces=self.faces, aligned=self.aligned, progress=None)
        found, lost = _one_face_each(stream)
        seconds = time.monotonic() - began
        report = evaluate_pairs(_scores(pairs, found), [pair.same for pair in pairs], _folds(pairs))
        run: dict[str, Any] = {
            "pictures": {"total": len(pictures), "without_face": lost},
            "seconds": round(seconds, 3),
            "device": str(encoder.embedder.device),
            "checkpoint": encoder.checkpoint_fingerprint,
        }
        if self.json:
            print_json({**report.to_dict(), **run})
        else:
            print(_page(report, run))
        return 0


def _one_face_each(pictures: Iterable[EncodedImage]) -> tuple[dict[Path, Embedding], dict[str, str]]:
    """The embeddings by picture, and why the others have none.

    Raises:
        EvaluationError: a picture has several faces, and the policy keeps them.
    """
    found: dict[Path, Embedding] = {}
    lost: dict[str, str] = {}
    for picture in pictures:
        if len(picture.faces) > 1:
            raise EvaluationError(
                f"{picture.name}: {len(picture.faces)} faces; choose one with --faces, such as center_largest"
            )
        if picture.faces:
            found[Path(picture.name)] = picture.faces[0].embedding
        else:
            lost[picture.name] = "no face found" if picture.error is None else str(picture.error)
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


def _page(report: VerificationReport, run: dict[str, Any]) -> str:
    total, lost = run["pictures"]["total"], run["pictures"]["without_face"]
    seconds = run["seconds"]
    rows = [
        (
            "accuracy",
            f"{report.accuracy:.4f} +- {report.standard_error:.4f} ({count(len(report.folds), 'fold')})",
        ),
        ("threshold", f"{report.threshold:.4f} (mean of the folds)"),
        ("AUC", f"{report.auc:.4f}"),
        ("EER", f"{report.eer:.4f}"),
        *((f"TAR@FAR={far:g}", f"{tar:.4f}") for far, tar in report.tar_at_far.items() if tar is not None),
        ("pairs", f"{report.genuine:,} of one person, {report.impostor:,} of two"),
        ("faces", f"in {total - len(lost):,} of {total:,} pictures; {count(report.missing, 'pair')} without"),
        ("time", f"{seconds:.1f} s on {run['device']}, {total / max(seconds, 1e-3):.1f} pictures a second"),
        ("checkpoint", run["checkpoint"]),
    ]
    return "\n".join([table(rows), *(f"  lost: {name}: {why}" for name, why in list(lost.items())[:10])])
