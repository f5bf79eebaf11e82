"""Tar shards as Python's own tarfile and GNU tar write them, by hand, and damaged."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facekit.errors import FacekitError, TrainingError
from facekit.train.config import DataSettings
from facekit.train.data import read_listing
from facekit.train.sources.shards import open_shards

_LONG = "folder/" * 30 + "key.seg.jpg"


def _tar(path: Path, files: Mapping[str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1e9 + 0.5  # a broken second, as webdataset gives
            archive.addfile(member, io.BytesIO(content))
    return path


def _rows(*shards: Path) -> list[tuple[str, bytes]]:
    source = open_shards(shards)
    return [(source.people[int(who)], source.read(row).getvalue()) for row, who in enumerate(source.person)]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_pictures_and_people_of_several_shards(tmp_path: Path, kind: int) -> None:
    first = {
        "a/0.jpg": b"one",
        "a/0.cls": b"10",
        "a/0.json": b"{}",
        "a/1.cls": b" 9\n",
        "a/1.jpg": b"2" * 600,
    }
    second = {_LONG: b"three", _LONG.replace("seg.jpg", "cls"): b"10", "README": b"no sample", ".x.jpg": b""}
    shards = _tar(tmp_path / "0.tar", first, kind), _tar(tmp_path / "1.tar", second, kind)
    assert _rows(*shards) == [("10", b"one"), ("9", b"2" * 600), ("10", b"three")]
    assert open_shards(shards).people == ("9", "10")


def test_header_made_by_hand(tmp_path: Path) -> None:
    """POSIX.1-2017, pax, table 4-14: fields at these places, numbers in octal, blocks of 512 bytes."""

    def member(name: bytes, content: bytes, prefix: bytes) -> bytes:
        head = bytearray(512)
        for at, field in [(0, name), (124, b"%011o\0" % len(content)), (156, b"0"), (257, b"ustar\00000")]:
            head[at : at + len(field)] = field
        head[345 : 345 + len(prefix)] = prefix
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        return bytes(head) + content + bytes(-len(content) % 512)

    path = tmp_path / "x.tar"
    path.write_bytes(member(b"k.png", b"abc", b"p") + member(b"k.cls", b"4", b"p") + bytes(1024))
    assert _rows(path) == [("4", b"abc")]


def test_archive_without_an_end_mark_is_read_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _tar(tmp_path / "x.tar", {"0.jpg": b"one", "0.cls": b"1"}, tarfile.USTAR_FORMAT)
    path.write_bytes(path.read_bytes()[: 4 * 512])
    assert _rows(path) == [("1", b"one")]
    assert "end mark" in caplog.text


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"0.jpg": b"x", "1.cls": b"1"}, r"'0' has a picture and no \.cls"),
        ({"0.jpg": b"x", "0.cls": b"Ann"}, "not a person's number"),
        ({"0.jpg": b"x", "0.png": b"x", "0.cls": b"1"}, "two pictures"),
    ],
)
def test_shards_of_another_layout_are_refused(tmp_path: Path, files: dict[str, bytes], reason: str) -> None:
    with pytest.raises(TrainingError, match=reason):
        open_shards([_tar(tmp_path / "x.tar", files)])


def test_where_no_labels_are_needed_each_picture_without_one_is_a_person_by_itself(tmp_path: Path) -> None:
    first = _tar(tmp_path / "0.tar", {"0.jpg": b"one", "1.jpg": b"two", "2.jpg": b"three", "2.cls": b"7"})
    second = _tar(tmp_path / "1.tar", {"0.jpg": b"four", "1.cls": b"7", "1.jpg": b"five"})
    source = open_shards([first, second], labelled=False)
    found = [source.read(row).getvalue() for row in range(5)]
    assert found == [b"one", b"two", b"three", b"four", b"five"]
    assert len(source.people) == len(set(source.people)) == 4
    assert source.person[2] == source.person[4]
    assert [source.people[int(who)] for who in source.person] == ["-1", "-2", "7", "-4", "7"]
    assert source.known.tolist() == [False, False, True, False, True]
    with pytest.raises(TrainingError, match=r"'0' has a picture and no \.cls"):
        open_shards([first, second])


@pytest.mark.parametrize("folder", [False, True])
def test_recipes_without_labels_take_shards_without_them(folder: bool, tmp_path: Path) -> None:
    shard = _tar(tmp_path / "0.tar", {f"{number:02d}.jpg": b"x" for number in range(20)})
    settings = DataSettings(data=tmp_path if folder else shard, heldout=0.25)
    training, aside = read_listing(settings, labelled=False)
    assert (len(training), len(aside), aside.classes) == (15, 5, 5)
    with pytest.raises(TrainingError, match=r"no \.cls beside it"):
        read_listing(settings)


@pytest.mark.parametrize("content", [b"\x1f\x8b" * 400, b"x", b"x" * 2000])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(TrainingError, match=r"x\.tar: "):
        open_shards([tmp_path / "x.tar"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damage_never_gives_anything_but_our_errors(tmp_path: Path, data: st.DataObject) -> None:
    """The checksum is set right after the damage, or nothing behind it would be reached."""
    path = _tar(tmp_path / "x.tar", {"0.jpg": b"one", "0.cls": b"1", _LONG: b"x"}, tarfile.GNU_FORMAT)
    content = bytearray(path.read_bytes()[: 12 * 512])
    for at in data.draw(st.lists(st.integers(0, 500), min_size=1, max_size=4)):
        block = 512 * data.draw(st.integers(0, 11))
        content[block + at] = data.draw(st.integers(0, 255))
        content[block + 148 : block + 156] = b" " * 8
        content[block + 148 : block + 156] = b"%06o\0 " % sum(content[block : block + 512])
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    try:
        source = open_shards([path])
        for row in range(len(source.person)):
            source.read(row)
    except FacekitError as error:
        message = str(error)
        assert len(message.splitlines()) == 1
