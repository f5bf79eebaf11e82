"""Where training pictures lie, one file a format: an index is read up front, and a picture when asked for."""

from __future__ import annotations

from facekit.train.sources.files import open_csv, open_folder
from facekit.train.sources.recordio import open_records, write_records
from facekit.train.sources.shards import open_shards, write_shard
from facekit.train.sources.source import Source

__all__ = [
    "Source",
    "open_csv",
    "open_folder",
    "open_records",
    "open_shards",
    "write_records",
    "write_shard",
]
