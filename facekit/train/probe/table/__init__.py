"""Finished probes, side by side."""

from __future__ import annotations

from facekit.train.probe.table.cell import MODES, Cell, Key, Mode, read_cells, write_cell
from facekit.train.probe.table.picture import draw_table
from facekit.train.probe.table.table import Column, Entry, Row, Table, make_table
from facekit.train.probe.table.text import to_json, to_markdown

__all__ = [
    "MODES",
    "Cell",
    "Column",
    "Entry",
    "Key",
    "Mode",
    "Row",
    "Table",
    "draw_table",
    "make_table",
    "read_cells",
    "to_json",
    "to_markdown",
    "write_cell",
]
