"""What an audit found, by whatever it judged: for the page, the list, the terminal and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facekit.cli.audit_page import Section

__all__ = ["COLUMNS", "SKIPS", "Outcome"]

COLUMNS = ("path", "reason", "person", "own", "suggestion", "similarity")
"""Of the list of pictures to leave out."""

SKIPS = 10
"""Lines about pictures that are no use; more are counted."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Findings, the most certain of each kind first.

    Attributes:
        about: what was judged: so many pictures of so many people.
        judge: by what: a checkpoint, a file.
        how: a line on how that judges, for the page.
        columns: of the list.
        rows: of the list, each picture to leave out once.
        sections: of the page.
        told: what was found, a line a kind.
        notes: what could not be judged, a line each.
        document: what JSON says besides the list and the names of the files.
    """

    about: str
    judge: str
    how: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    sections: Sequence[Section]
    told: Sequence[str]
    notes: Sequence[str]
    document: Mapping[str, Any]
