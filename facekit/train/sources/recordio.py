"""MXNet's RecordIO, ``.rec`` with ``.idx``, in which face sets of millions of pictures are handed on.

A record is the magic number, a word of three bits that say which part it is and 29 bits of length, the data,
and zeros up to a multiple of four bytes. Data that holds the magic number at such a multiple is cut there
into parts, and the reader puts it back (dmlc-core, recordio.h and recordio.cc).

The data of a picture are flag (uint32), label (float32), id and id2 (uint64), then ``flag`` labels (float32)
that stand for the one, then the encoded picture (mxnet/recordio.py). insightface labels a picture with
(person, aligned) and adds records without a picture: key 0 with the range of the keys that follow, one for
each person, which hold the range of that person's pictures (insightface, face2rec2.py). All of it is
little-endian. The index has a line for each record: its key, a tab, where it starts.
"""

from __future__ import annotations

import logging
import mmap
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facekit.errors import ImageError, TrainingError
from facekit.train.sources.source import MAX_BYTES, NamedBytes
from facekit.wholefile import replacing

__all__ = ["RecordSource", "decode_record", "encode_record", "open_records", "write_records"]

_log = logging.getLogger(__name__)

_MAGIC = struct.pack("<I", 0xCED7230A)
_HEADER = struct.Struct("<IfQQ")
_LENGTH = (1 << 29) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_EXACT = 1 << 24  # float32 counts no further


@dataclass(frozen=True, slots=True, eq=False)
class RecordSource:
    """The records of one file that hold a picture.

    Attributes:
        path: the ``.rec`` file.
        people: labels as text, in the order of the numbers.
        person: (n,) int64, index of ``people``.
        keys: (n,) int64, as the index calls them, rising.
        offsets: (n,) int64, where each record starts.
        heldout: always None.
    """

    path: Path
    people: Sequence[str]
    person: Tensor
    keys: Tensor
    offsets: Tensor
    heldout: None = None

    @property
    def root(self) -> Path:
        return self.path.parent

    @property
    def known(self) -> Tensor:
        """All are: each record has its person's number."""
        return torch.ones(len(self.person), dtype=torch.bool)

    def file(self, row: int) -> Path:
        """The one file."""
        return self.path

    def name(self, row: int) -> str:
        """``train.rec, record 17``: the file and the key."""
        return f"{self.path.name}, record {int(self.keys[row])}"

    def read(self, row: int) -> NamedBytes:
        """The encoded picture of a row.

        Raises:
            ImageError: the file cannot be read there, or holds no such record.
        """
        name = f"{self.path}, record {int(self.keys[row])}"
        try:
            with self.path.open("rb") as file:
                file.seek(int(self.offsets[row]))
                data = decode_record(file)
            return NamedBytes(data[_content_at(data) :], name)
        except (OSError, ValueError) as error:
            raise ImageError(f"{name}: {error}; copy the file anew or leave it out", path=name) from error


def open_records(path: Path) -> RecordSource:
    """Find the pictures of a file and whose they are, by the heads of all records.

    Without ``.idx`` beside it, the file is walked from record to record. A few damaged records are reported
    and left out.

    Raises:
        TrainingError: not such a file, an index of another file, or labels that are not people's numbers.
    """
    try:
        keys, offsets = _index(path)
        labels, picture = _heads(path, offsets)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: cannot be read as RecordIO ({error}); copy it anew") from error
    known = (labels >= 0) & (labels <= _EXACT) & (labels % 1 == 0)
    bad = [
        f"{path}, record {key}: no picture with a person's number at byte {at} (label {label:g})"
        for key, at, label in zip(
            *(table[picture & ~known] for table in (keys, offsets, labels)), strict=True
        )
    ]
    if len(bad) > max(10, len(keys) // 100):
        raise TrainingError(
            f"{bad[0]}, as in {len(bad)} of {len(keys)} records; is the .idx of another file?"
        )
    for line in bad:
        _log.warning("left out: %s", line)
    kept = picture & known
    numbers, person = np.unique(labels[kept].astype(np.int64), return_inverse=True)
    tables = [torch.from_numpy(table) for table in (person, keys[kept], offsets[kept])]
    return RecordSource(path, tuple(map(str, numbers)), tables[0], tables[1], tables[2])


def write_records(path: Path, pictures: Iterable[tuple[int, bytes]]) -> None:
    """Write ``.rec`` and ``.idx`` in insightface's layout; either both are there in the end, or none.

    Args:
        path: of the ``.rec`` file.
        pictures: (person, encoded picture); the pictures of a person follow each other.

    Raises:
        TrainingError: a person returns after another one, a picture is too large, there are more records
            than labels can count, or the files cannot be written.
    """
    try:
        with replacing(path.with_suffix(".idx")) as index, replacing(path) as records:
            for key, data in _layout(path, pictures):
                index.write(b"%d\t%d\n" % (key, records.tell()))
                records.write(encode_record(data))
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written ({error}); free space or give another place"
        ) from error


def encode_record(data: bytes) -> bytes:
    """``data`` as one record: framed, cut at the magic number, padded."""
    cuts = [match.start() for match in re.finditer(re.escape(_MAGIC), data) if match.start() % 4 == 0]
    spans = list(zip([0, *(cut + 4 for cut in cuts)], [*cuts, len(data)], strict=True))
    kinds = [_FIRST, *[_MIDDLE] * (len(cuts) - 1), _LAST] if cuts else [_WHOLE]
    record = []
    for kind, (start, end) in zip(kinds, spans, strict=True):
        word = struct.pack("<I", kind << 29 | end - start)
        record += [_MAGIC, word, data[start:end], bytes(-(end - start) % 4)]
    return b"".join(record)


def decode_record(file: IO[bytes]) -> bytes:
    """The data of the record at which ``file`` stands.

    Raises:
        ValueError: there is none, it is cut short, or it claims more than a picture may have.
    """
    parts: list[bytes] = []
    held = 0
    while True:
        head = file.read(8)
        if len(head) < 8 or head[:4] != _MAGIC:
            raise ValueError("cut short" if len(head) < 8 else "no record starts here")
        (word,) = struct.unpack("<I", head[4:])
        kind, length = word >> 29, word & _LENGTH
        if kind not in ((_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)):
            raise ValueError(f"part {kind} of a record where it cannot be")
        held += length
        if held > MAX_BYTES:
            raise ValueError(f"claims {held} bytes, more than {MAX_BYTES}")
        data = file.read(length + -length % 4)
        if len(data) < length:
            raise ValueError("cut short")
        parts.append(data[:length])
        if kind in (_WHOLE, _LAST):
            return _MAGIC.join(parts)


def _layout(path: Path, pictures: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """(key, data) of each record, in the order in which insightface writes them."""
    ranges: dict[int, tuple[int, int]] = {}
    key, last = 1, None
    for key, (person, picture) in enumerate(pictures, start=1):
        if person != last and person in ranges:
            raise TrainingError(
                f"{path}: person {person} returns at picture {key}; sort the pictures by person"
            )
        if not 0 <= person <= _EXACT or len(picture) > MAX_BYTES - 32:
            raise TrainingError(
                f"{path}: picture {key} of person {person} has {len(picture)} bytes; "
                f"give persons in 0 ... {_EXACT} and pictures of at most {MAX_BYTES - 32} bytes"
            )
        last = person
        ranges[person] = ranges.get(person, (key, key))[0], key + 1
        yield key, _pack((person, 1), key, picture)
    first = key + 1 if ranges else 1
    if first + len(ranges) > _EXACT:
        raise TrainingError(
            f"{path}: {first + len(ranges)} records; labels count to {_EXACT}, write several files"
        )
    yield 0, _pack((first, first + len(ranges)), 0, b"")
    for key, span in enumerate(ranges.values(), start=first):
        yield key, _pack(span, key, b"")


def _pack(labels: tuple[int, int], number: int, content: bytes) -> bytes:
    return _HEADER.pack(len(labels), 0.0, number, 0) + struct.pack(f"<{len(labels)}f", *labels) + content


def _content_at(data: bytes) -> int:
    """Where the picture starts, behind the header and its labels."""
    if len(data) < _HEADER.size:
        raise ValueError(f"{len(data)} bytes hold no header")
    at = _HEADER.size + 4 * int.from_bytes(data[:4], "little")
    if at >= len(data):
        raise ValueError("holds labels and no picture")
    return at


def _index(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keys, rising, and where their records start."""
    beside = path.with_suffix(".idx")
    if beside.exists():
        if not beside.read_bytes().strip():
            raise ValueError(f"{beside.name} is empty")
        table = np.loadtxt(beside, dtype=np.int64, delimiter="\t", ndmin=2, comments=None)
        if table.shape[1] != 2:
            raise ValueError(f"{beside.name} has {table.shape[1]} columns, not key and offset")
        keys, first = np.unique(table[:, 0], return_index=True)
        return keys, table[first, 1]
    offsets = np.fromiter(_walk(path), dtype=np.int64)
    return np.arange(len(offsets)), offsets


def _walk(path: Path) -> Iterator[int]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = 0
        while at < len(content):
            head = content[at : at + 8]
            word = int.from_bytes(head[4:], "little")
            end = at + 8 + (word & _LENGTH)
            if len(head) < 8 or head[:4] != _MAGIC or end > len(content):
                raise ValueError(f"no whole record at byte {at}")
            if word >> 29 in (_WHOLE, _FIRST):
                yield at
            at = end + -end % 4


def _heads(path: Path, offsets: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The first label of each record, nan where none can be read; and whether a picture should follow."""
    size = path.stat().st_size // 4
    if not len(offsets) or not size:
        raise ValueError("no records")
    words = np.memmap(path, "<u4", mode="r", shape=(size,))
    at = offsets // 4
    there = (offsets >= 0) & (offsets % 4 == 0) & (at + 2 + _HEADER.size // 4 <= size)
    at[~there] = 0
    there &= words[at] == int.from_bytes(_MAGIC, "little")
    at[~there] = 0
    length, flag = (words[np.minimum(at + more, size - 1)].astype(np.int64) for more in (1, 2))
    kind, length = length >> 29, length & _LENGTH
    header = _HEADER.size + 4 * flag
    label_at = np.where(flag > 0, at + 2 + _HEADER.size // 4, at + 3)
    there &= (label_at < size) & ((kind == _FIRST) | ((kind == _WHOLE) & (header <= length)))
    labels = words[np.where(there, label_at, 0)].view("<f4")
    return np.where(there, labels, np.nan), ~(there & (kind == _WHOLE) & (header == length))
