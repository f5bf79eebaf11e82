"""Finished probes, side by side."""

from __future__ import annotations

from facekit.train.probe.table.cell import MODES, Cell, Key, Mode, read_cells, write_cell

__all__ = ["MODES", "Cell", "Key", "Mode", "read_cells", "write_cell"]
