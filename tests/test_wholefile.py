"""Files that are there whole or as they were."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from facekit.wholefile import replacing


def _write(path: Path, content: bytes, **how: bool) -> None:
    with replacing(path, **how) as file:
        file.write(content)


def _fail(path: Path, error: type[BaseException]) -> None:
    with replacing(path) as file:
        file.write(b"half of the n")
        raise error


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_new_file_and_one_that_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x"
    _write(path, b"one")
    path.chmod(0o640)
    with path.open("rb") as before:
        _write(path, b"two")
        assert before.read() == b"one"
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert _names(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, ZeroDivisionError])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(error):
        _fail(path, error)
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["x"]


def test_nothing_is_under_the_name_before_the_end(tmp_path: Path) -> None:
    with replacing(tmp_path / "x") as file:
        file.write(b"all")
        file.flush()
        assert not (tmp_path / "x").exists()
        (part,) = _names(tmp_path)
        assert part.startswith(".x.")
    assert (tmp_path / "x").read_bytes() == b"all"


def test_private_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    _write(tmp_path / "x", b"faces", private=True)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "there" / "real")
    _write(tmp_path / "link", b"new")
    assert (tmp_path / "there" / "real").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()


def test_places_that_cannot_be_are_errors(tmp_path: Path) -> None:
    for path, error in [(tmp_path / "no" / "x", OSError), (tmp_path, OSError), (Path("a\0b"), ValueError)]:
        with pytest.raises(error):
            _write(path, b"")
    assert _names(tmp_path) == []
