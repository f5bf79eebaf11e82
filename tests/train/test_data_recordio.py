"""RecordIO against bytes made by hand from the documented format, against damage, and against itself."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facekit.errors import FacekitError, ImageError, TrainingError
from facekit.train.sources.recordio import decode_record, encode_record, open_records, write_records

_MAGIC = b"\x0a\x23\xd7\xce"  # 0xced7230a, little-endian


def _frame(data: bytes, kind: int = 0) -> bytes:
    """One part of a record, as dmlc-core's recordio.h describes it."""
    return _MAGIC + struct.pack("<I", kind << 29 | len(data)) + data + b"\0" * (-len(data) % 4)


def _mxnet(labels: tuple[float, ...], number: int, content: bytes) -> bytes:
    """mxnet.recordio.pack: one label stands in the header, several stand behind it."""
    if len(labels) == 1:
        return struct.pack("<IfQQ", 0, labels[0], number, 0) + content
    return (
        struct.pack("<IfQQ", len(labels), 0, number, 0) + struct.pack(f"<{len(labels)}f", *labels) + content
    )


def _write(folder: Path, records: dict[int, bytes], *, index: bool = True) -> Path:
    path, lines, content = folder / "train.rec", [], b""
    for key, data in records.items():
        lines.append(f"{key}\t{len(content)}\n")
        content += _frame(data)
    path.write_bytes(content)
    if index:
        path.with_suffix(".idx").write_text("".join(lines))
    return path


_INSIGHTFACE = {
    1: _mxnet((7, 1), 1, b"one"),
    2: _mxnet((7, 1), 2, b"two2"),
    3: _mxnet((9, 1), 3, b"three"),
    0: _mxnet((4, 6), 0, b""),
    4: _mxnet((1, 3), 4, b""),
    5: _mxnet((3, 4), 5, b""),
}


def _rows(path: Path) -> list[tuple[str, bytes]]:
    source = open_records(path)
    return [(source.people[int(who)], source.read(row).getvalue()) for row, who in enumerate(source.person)]


@pytest.mark.parametrize("index", [True, False])
def test_insightface_file_gives_its_pictures_and_no_headers(tmp_path: Path, index: bool) -> None:
    path = _write(tmp_path, _INSIGHTFACE, index=index)
    assert _rows(path) == [("7", b"one"), ("7", b"two2"), ("9", b"three")]


def test_im2rec_file_starts_with_a_picture(tmp_path: Path) -> None:
    """With one label each and no header, as arcface_torch's own instructions make it."""
    path = _write(tmp_path, {0: _mxnet((3.0,), 0, b"a"), 1: _mxnet((0.0,), 1, b"bc")})
    assert _rows(path) == [("3", b"a"), ("0", b"bc")]


def test_writer_gives_exactly_these_bytes(tmp_path: Path) -> None:
    expected = _write(tmp_path, _INSIGHTFACE)
    written = tmp_path / "written.rec"
    write_records(written, [(7, b"one"), (7, b"two2"), (9, b"three")])
    assert written.read_bytes() == expected.read_bytes()
    assert written.with_suffix(".idx").read_bytes() == expected.with_suffix(".idx").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "train.idx", "train.rec", "written.idx", "written.rec",
    ]  # fmt: skip


def test_magic_number_in_the_data_is_cut_out_and_put_back() -> None:
    data = b"abcd" + _MAGIC + _MAGIC + b"x" + _MAGIC  # the last is not at a multiple of four
    parts = _frame(b"abcd", 1) + _frame(b"", 2) + _frame(b"x" + _MAGIC, 3)
    assert encode_record(data) == parts
    assert decode_record(io.BytesIO(parts)) == data
    assert encode_record(_MAGIC) == _frame(b"", 1) + _frame(b"", 3)


@given(st.lists(st.sampled_from([_MAGIC, b"abcd", b"e"]) | st.binary(max_size=9), max_size=9).map(b"".join))
def test_any_data_comes_back(data: bytes) -> None:
    encoded = encode_record(data)
    assert len(encoded) % 4 == 0
    assert decode_record(io.BytesIO(encoded + b"rest")) == data


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cut short"),
        (_frame(b"abcd")[:-1], "cut short"),
        (b"abcd" * 3, "no record"),
        (_frame(b"abcd", 3), "part 3"),
        (_frame(b"", 1) + _frame(b"", 1), "part 1"),
        (_MAGIC + struct.pack("<I", (1 << 29) - 1), "claims 536870911 bytes"),
    ],
)
def test_broken_records_say_why(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_record(io.BytesIO(content))


def test_record_without_its_bytes_is_an_image_error_that_names_it(tmp_path: Path) -> None:
    path = _write(tmp_path, {0: _mxnet((0.0,), 0, b"a" * 40), 1: _mxnet((1.0,), 1, b"b" * 40)})
    path.write_bytes(path.read_bytes()[:-12])
    source = open_records(path)
    with pytest.raises(ImageError, match=r"train\.rec, record 1: cut short"):
        source.read(1)


def test_a_few_damaged_records_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = {key: _mxnet((float(key),), key, b"abcd") for key in range(9)}
    records |= {3: _mxnet((float("nan"),), 3, b"abcd"), 5: struct.pack("<IfQQ", 1 << 31, 5, 5, 0) + b"abcd"}
    source = open_records(_write(tmp_path, records))
    assert source.people == ("0", "1", "2", "4", "6", "7", "8")
    assert [line.split("record ")[1][:1] for line in caplog.messages] == ["3", "5"]


def test_index_of_another_file_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, {key: _mxnet((0.0,), key, b"abcd") for key in range(20)})
    path.with_suffix(".idx").write_text("".join(f"{key}\t{key * 44}\n" for key in range(20)))
    with pytest.raises(TrainingError, match="another file"):
        open_records(path)


@pytest.mark.parametrize("text", ["", "1\n", "1\t2\t3\n", "a\tb\n", "0\t-4\n1\t99999999999\n"])
def test_strange_indices_are_one_error(tmp_path: Path, text: str) -> None:
    path = _write(tmp_path, _INSIGHTFACE)
    path.with_suffix(".idx").write_text(text)
    assert not (source := _one_line(lambda: open_records(path))) or len(source.person) == 0


@pytest.mark.parametrize(
    ("pictures", "reason"),
    [([(1, b"a"), (2, b"b"), (1, b"c")], "sort"), ([(-1, b"a")], "person -1"), ([(1 << 25, b"a")], "0 ...")],
)
def test_writer_refuses_and_leaves_nothing(
    tmp_path: Path, pictures: list[tuple[int, bytes]], reason: str
) -> None:
    with pytest.raises(TrainingError, match=reason):
        write_records(tmp_path / "x.rec", pictures)
    assert not list(tmp_path.iterdir())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), index=st.booleans())
def test_damage_never_gives_anything_but_our_errors(tmp_path: Path, data: st.DataObject, index: bool) -> None:
    path = _write(tmp_path, _INSIGHTFACE)
    content, lines = bytearray(path.read_bytes()), bytearray(path.with_suffix(".idx").read_bytes())
    for damaged in (content, lines):
        for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=3)):
            damaged[at] = data.draw(st.integers(0, 255))
        del damaged[data.draw(st.integers(0, len(damaged)) | st.just(len(damaged))) :]
    path.write_bytes(content)
    path.with_suffix(".idx").write_bytes(lines)
    if not index:
        path.with_suffix(".idx").unlink()
    source = _one_line(lambda: open_records(path))
    for row in range(len(source.person) if source else 0):
        _one_line(partial(source.read, row))


def _one_line(call: Callable[[], Any]) -> Any:
    """What the call returns, or None where it raises one of our errors, which is then one line."""
    try:
        return call()
    except FacekitError as error:
        message = str(error)
    assert "\n" not in message
    return None
