"""An evaluation as one HTML page: figures, charts, and the pairs that are told most wrong, as pictures."""

from __future__ import annotations

import base64
import io
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import torch
from PIL import Image as pil

from facekit.align import align_faces
from facekit.cli.charts import det_chart, roc_chart, score_chart
from facekit.cli.console import count
from facekit.cli.evaluation import Evaluation, figures, group_rows
from facekit.errors import FacekitError, SettingError
from facekit.evaluate import HardPair, VerificationReport
from facekit.image import load_image
from facekit.trash import shown
from facekit.wholefile import replacing

__all__ = ["check_page", "write_page"]

_LOST = 100  # pictures without a face that are named

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#0f172a;background:#f8fafc;max-width:1180px;margin:2rem auto;
padding:0 1.5rem}
h1{font-size:1.6rem;margin-bottom:.2rem;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:2.2rem 0 .5rem}
p{max-width:75ch;margin:.3rem 0}.quiet{color:#475569;font-size:.9rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.93rem}
td,th{padding:.22rem .9rem .22rem 0;text-align:left;border-bottom:1px solid #e2e8f0;overflow-wrap:anywhere}
.charts,.pairs{display:flex;flex-wrap:wrap;gap:1rem}.charts figure{flex:1 1 340px;max-width:560px}
figure{margin:0;background:#fff;border:1px solid #e2e8f0;border-radius:8px;padding:.7rem}
.pairs figure{width:246px}.pairs img,.none{width:112px;height:112px;border-radius:4px;vertical-align:top}
.none{display:inline-block;background:#e2e8f0;color:#475569;font-size:.8rem;overflow:hidden}
.pairs img+img,.none+img,img+.none{margin-left:6px}
figcaption{font-size:.78rem;line-height:1.35;overflow-wrap:anywhere;margin-top:.4rem}b{font-size:.95rem}
svg{width:100%;height:auto;display:block}
"""


def check_page(path: str) -> None:
    """Makes sure, before the work begins, that a page can be written there.

    Raises:
        SettingError: no such folder, a folder itself, or a place where nothing can be written.
    """
    place = Path(path)
    trial = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part") if place.name else place
    if not os.path.isdir(Path(path).absolute().parent):
        raise SettingError(f"--html: {path!r} is in no existing folder; make it first")
    if os.path.isdir(path):
        raise SettingError(f"--html: {path!r} is a folder; name a file")
    try:
        with trial.open("xb"):
            trial.unlink()
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error


def write_page(path: str, found: Evaluation, crops: Mapping[Path, bytes]) -> None:
    """Writes the page, all or nothing; a new file is for its owner alone, for it shows faces.

    Args:
        path: where to.
        found: what it tells.
        crops: those of the pictures that are no files.

    Raises:
        SettingError: it cannot be written.
    """
    try:
        with replacing(path, private=True) as file:
            file.write(_page(found, crops).encode())
    except (OSError, ValueError) as error:  # ValueError: no name of a file, as with a NUL in it
        raise _unwritable(path, error) from error


def _unwritable(path: str, error: Exception) -> SettingError:
    reason = getattr(error, "strerror", None) or error
    return SettingError(f"--html: {path!r} cannot be written ({reason}); name another file")


def _page(found: Evaluation, crops: Mapping[Path, bytes]) -> str:
    run, report = found.run, found.report
    kind = "pairs of a list" if isinstance(report, VerificationReport) else "all pairs of a folder of people"
    limit = None if found.limit is None else found.limit.similarity
    known = report.intervals
    title = f"facekit evaluate: {_safe(run.compared)}"
    sections = [
        f"<h1>{_safe(run.compared)}</h1>",
        f'<p class="quiet">{kind}, by {_safe(run.checkpoint)}.',
        "This page shows faces: mind who may see it.</p>",
        "<h2>Figures</h2>",
        _table(("", "", "interval"), figures(found)),
        '<p class="quiet">'
        + (
            "No intervals: too little is known about whom the pictures show, or the people are too few."
            if known is None
            else f"Intervals hold the figure in {known.confidence:.0%} of tests with {known.people:,} other"
            " people; where there is none, too few pairs or people are told wrong to say."
        )
        + "</p>",
        '<div class="charts">',
        f"<figure>{roc_chart(found.curve, {} if known is None else known.tar_at_far)}</figure>",
        f"<figure>{det_chart(found.curve)}</figure>",
        f"<figure>{score_chart(found.curve, limit)}</figure>",
        "</div>",
        *_groups(found),
        *_hardest("Worst false accepts", "two people, and most alike", found, found.false_accepts, crops),
        *_hardest("Worst false rejects", "one person, and least alike", found, found.false_rejects, crops),
        *_lost(found.lost),
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width"><meta name="robots" content="noindex">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def _groups(found: Evaluation) -> list[str]:
    if found.groups is None or found.limit is None:
        return []
    headings, *rows = group_rows(found.groups)
    rest = f" {count(found.ungrouped, 'picture')} of no group." if found.ungrouped else ""
    return [
        "<h2>Groups</h2>",
        _table(headings, rows),
        f'<p class="quiet">At one threshold for all, {found.limit.similarity:.4f}. A pair counts where both'
        f" pictures are of the group.{rest}</p>",
    ]


def _hardest(
    title: str, kind: str, found: Evaluation, pairs: Sequence[HardPair], crops: Mapping[Path, bytes]
) -> list[str]:
    if not pairs:
        return []
    figures = []
    for pair in pairs:
        sides = [found.pictures[number] for number in (pair.a, pair.b)]
        images = "".join(_thumbnail(path, found, crops) for path in sides)
        names = "<br>".join(_safe(str(path)) for path in sides)
        figures.append(
            f"<figure>{images}<figcaption><b>{pair.score:.4f}</b><br>{names}</figcaption></figure>"
        )
    one = "one of each two people" if kind.startswith("two") else "one of each person"
    return [
        f"<h2>{title}</h2>",
        f'<p class="quiet">Labelled as {kind}; {one}. Some of them may be labelled wrong.</p>',
        f'<div class="pairs">{"".join(figures)}</div>',
    ]


def _lost(lost: Mapping[str, str]) -> list[str]:
    if not lost:
        return []
    rows = list(lost.items())[:_LOST]
    more = f'<p class="quiet">and {len(lost) - _LOST:,} more</p>' if len(lost) > _LOST else ""
    return ["<h2>Pictures without a face</h2>", _table(("picture", "why"), rows), more]


def _thumbnail(path: Path, found: Evaluation, crops: Mapping[Path, bytes]) -> str:
    """The crop that the network saw, as JPEG inside the page."""
    try:
        image = torch.from_numpy(load_image(crops.get(path, path)))
    except FacekitError:
        return '<span class="none">cannot be read any more</span>'
    landmarks = torch.from_numpy(np.asarray(found.faces[path].landmarks))[None]
    crop = align_faces([image], [0], landmarks)[0].permute(1, 2, 0).numpy()
    file = io.BytesIO()
    pil.fromarray(crop).save(file, "JPEG", quality=85)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{_safe(cell)}</th>" for cell in headings)
    body = "".join("<tr>" + "".join(f"<td>{_safe(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _safe(text: str) -> str:
    """Text of anybody's choice as nothing but text."""
    return escape(shown(text))
