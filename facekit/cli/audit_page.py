"""The page of an audit: one HTML file with small pictures inside, which opens offline."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image as pil

from facekit.errors import ImageError
from facekit.image import load_image
from facekit.train.sources import Source

__all__ = ["Finding", "Section", "audit_page"]

_SIDE = 96  # of a picture in pixels, about 3 KB each

_STYLE = """
body { font: 15px system-ui, sans-serif; margin: 2rem; background: #0f172a; color: #f8fafc }
figure { display: inline-block; width: 108px; margin: 4px; vertical-align: top }
figcaption { font-size: 11px; overflow-wrap: anywhere }
img, .none { width: 96px; height: 96px; object-fit: contain; background: #1e293b }
.none { display: inline-block }
article { display: inline-block; margin: 6px; padding: 6px; background: #1e293b; border-radius: 8px;
  max-width: 360px; vertical-align: top }
p { margin: 4px }
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, in one line, and the pictures that show it.

    Attributes:
        text: the line.
        pictures: (row of the source, what is written below it).
    """

    text: str
    pictures: Sequence[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Section:
    """Findings of one kind, the most certain first.

    Attributes:
        title: the kind.
        remedy: what to do about it.
        findings: those that are shown.
        total: how many there are.
    """

    title: str
    remedy: str
    findings: Sequence[Finding]
    total: int


def audit_page(title: str, lines: Sequence[str], sections: Sequence[Section], source: Source) -> str:
    """The page as text.

    Args:
        title: of the page.
        lines: what was audited, and how.
        sections: one a kind of finding.
        source: where the pictures lie; one that cannot be read is an empty square.
    """
    body = [f"<h1>{_text(title)}</h1>", *(f"<p>{_text(line)}</p>" for line in lines)]
    for section in sections:
        more = (
            f", of which {len(section.findings):,} are shown" if section.total > len(section.findings) else ""
        )
        body.append(f"<h2>{_text(section.title)}: {section.total:,}{more}</h2><p>{_text(section.remedy)}</p>")
        for finding in section.findings:
            figures = "".join(_figure(source, row, caption) for row, caption in finding.pictures)
            body.append(f"<article><p>{_text(finding.text)}</p>{figures}</article>")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = '<meta charset="utf-8"><meta name="robots" content="noindex">'
    head += f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    head += f"<title>{_text(title)}</title><style>{_STYLE}</style>"
    return f"<!doctype html>\n<html><head>{head}</head>\n<body>{chr(10).join(body)}\n</body></html>\n"


def _text(text: str) -> str:
    """Names of files need not be text, and must not become part of the page."""
    return escape(text.encode("utf-8", "backslashreplace").decode())


def _figure(source: Source, row: int, caption: str) -> str:
    return f"<figure>{_thumbnail(source, row)}<figcaption>{_text(caption)}</figcaption></figure>"


def _thumbnail(source: Source, row: int) -> str:
    try:
        picture = pil.fromarray(np.ascontiguousarray(load_image(source.read(row))))
    except ImageError:
        return '<span class="none"></span>'
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'
