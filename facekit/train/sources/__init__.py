"""Where training pictures lie, one file a format: an index is read up front, and a picture when asked for."""

from __future__ import annotations

from facekit.train.sources.source import Source

__all__ = ["Source"]
