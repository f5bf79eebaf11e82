"""One file of vectors: round trips, damage, full disks, and a process killed in the middle."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import facekit
from facekit.errors import GalleryError
from facekit.vectorfile import read_vectors, write_vectors

TABLE = {"people": ["Ann", "Bée", "\udcff"], "rows": [[0, 1.5, None]]}
FRESH_PATH = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)


def rows(count: int, dim: int = 8) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, dim)).astype(np.float32)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "a.gallery"
    write_vectors(path, rows(20), TABLE, {"format": "test"})
    return path


@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (20, 8), (40_000, 3)])
def test_round_trip(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = tmp_path / "a.gallery"
    write_vectors(str(path), rows(*shape), TABLE, {"format": "test", "who": "Zoë"})
    vectors, table, metadata = read_vectors(str(path))
    assert (vectors.dtype, vectors.shape) == (np.float32, shape)
    assert np.array_equal(vectors, rows(*shape))
    assert (table, metadata) == (TABLE, {"format": "test", "who": "Zoë"})


def test_vectors_stay_in_the_file(stored: Path) -> None:
    vectors, _, _ = read_vectors(stored)
    assert isinstance(vectors, np.memmap)
    assert vectors.offset % 64 == 0
    assert not vectors.flags.writeable


def test_other_tools_can_open_it(stored: Path) -> None:
    tensors = load_file(stored)
    assert np.array_equal(tensors["vectors"], rows(20))
    assert json.loads(tensors["table"].tobytes()) == TABLE


def test_writing_over_what_is_mapped(stored: Path) -> None:
    vectors, table, metadata = read_vectors(stored)
    write_vectors(stored, vectors, table, metadata)
    again, _, _ = read_vectors(stored)
    write_vectors(stored, rows(3), None, {})
    assert np.array_equal(vectors, rows(20))
    assert np.array_equal(again, rows(20))
    assert len(read_vectors(stored)[0]) == 3


def test_a_new_file_is_private_and_an_old_one_keeps_its_mode(stored: Path) -> None:
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    stored.chmod(0o644)
    write_vectors(stored, rows(1), None, {})
    assert stat.S_IMODE(stored.stat().st_mode) == 0o644


def test_a_link_keeps_pointing(stored: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(stored)
    write_vectors(link, rows(2), None, {})
    assert link.is_symlink()
    assert len(read_vectors(stored)[0]) == 2


# ---------------------------------------------------------------- damage


def assert_refused(path: Path, problem: str = ".") -> None:
    with pytest.raises(GalleryError, match=problem) as caught:
        read_vectors(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 300
    assert caught.value.path == str(path)


@FRESH_PATH
@given(share=st.floats(0, 1, exclude_max=True))
def test_cut_anywhere(stored: Path, share: float) -> None:
    content = stored.read_bytes()
    cut = stored.with_name("cut")
    cut.write_bytes(content[: int(share * len(content))])
    assert_refused(cut)


def test_cut_in_half_says_what_is_missing(stored: Path) -> None:
    content = stored.read_bytes()
    stored.write_bytes(content[: len(content) // 2])
    assert_refused(stored, "bytes are missing.*restore a copy, or build it again")


@FRESH_PATH
@given(garbage=st.binary(max_size=200), valid_length=st.booleans())
def test_garbage(tmp_path: Path, garbage: bytes, valid_length: bool) -> None:
    path = tmp_path / "garbage"
    path.write_bytes((len(garbage).to_bytes(8, "little") if valid_length else b"") + garbage)
    assert_refused(path)


ENTRY = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}
LIES: dict[str, Any] = {
    "list": [],
    "no metadata": {"vectors": ENTRY},
    "metadata of numbers": {"__metadata__": {"a": 1}},
    "metadata list": {"__metadata__": ["a"]},
    "huge": {"vectors": {**ENTRY, "shape": [10**15, 10**15]}},
    "negative": {"vectors": {**ENTRY, "shape": [-1, -2]}},
    "fractions": {"vectors": {**ENTRY, "shape": [1.0, 2]}},
    "truth": {"vectors": {**ENTRY, "shape": [True, 2]}},
    "three axes": {"vectors": {**ENTRY, "shape": [1, 1, 2]}},
    "half precision": {"vectors": {**ENTRY, "dtype": "F16"}},
    "overlap": {"table": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]}},
    "a third": {"more": {"dtype": "U8", "shape": [0], "data_offsets": [12, 12]}},
}


def write_header(path: Path, changes: Any, data: bytes = b"\0" * 8 + b"null") -> None:
    table = {"dtype": "U8", "shape": [4], "data_offsets": [8, 12]}
    header = {"__metadata__": {}, "vectors": ENTRY, "table": table}
    text = json.dumps({**header, **changes} if isinstance(changes, dict) else changes).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_the_header_by_hand_is_valid_without_lies(tmp_path: Path) -> None:
    write_header(tmp_path / "a", {})
    assert read_vectors(tmp_path / "a")[0].tolist() == [[0, 0]]


@pytest.mark.parametrize("lie", LIES)
def test_lying_headers(tmp_path: Path, lie: str) -> None:
    write_header(tmp_path / "a", LIES[lie])
    if lie == "no metadata":
        content = (tmp_path / "a").read_bytes().replace(b"__metadata__", b"__metafake__")
        (tmp_path / "a").write_bytes(content)
    assert_refused(tmp_path / "a")


@pytest.mark.parametrize("data", [b"\0" * 8 + b"nul}", b"\0" * 8 + b"\xff\xfe\xfd\xfc", b"\0" * 8 + b"null."])
def test_a_damaged_table_or_a_tail(tmp_path: Path, data: bytes) -> None:
    write_header(tmp_path / "a", {}, data)
    assert_refused(tmp_path / "a")


def test_deeply_nested_json(tmp_path: Path) -> None:
    deep = b"[" * 60_000
    (tmp_path / "a").write_bytes(len(deep).to_bytes(8, "little") + deep)
    assert_refused(tmp_path / "a")


def test_a_huge_header_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    assert_refused(tmp_path / "a", "its first bytes are no header")


def test_someone_elses_safetensors(tmp_path: Path) -> None:
    save_file({"weight": rows(2)}, tmp_path / "model.safetensors")
    assert_refused(tmp_path / "model.safetensors", "not a readable gallery")


def test_missing_folder_unreadable(tmp_path: Path, stored: Path) -> None:
    assert_refused(tmp_path / "none", "No such file")
    assert_refused(tmp_path, "cannot be read")
    if os.name == "posix" and os.geteuid() != 0:
        stored.chmod(0)
        assert_refused(stored, "Permission denied")


# ---------------------------------------------------------------- writing that fails


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace", "shutil.copymode"])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool, step: str
) -> None:
    path = tmp_path / "a.gallery"
    if old:
        write_vectors(path, rows(3), TABLE, {})
    elif step == "shutil.copymode":
        pytest.skip("nothing to copy it from")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(step, full)
    with pytest.raises(GalleryError, match=r"No space left.*what was there is unchanged") as caught:
        write_vectors(path, rows(9), TABLE, {})
    monkeypatch.undo()
    assert caught.value.path == str(path)
    assert [item.name for item in tmp_path.iterdir()] == (["a.gallery"] if old else [])
    if old:
        assert len(read_vectors(path)[0]) == 3


def test_a_really_full_disk(stored: Path) -> None:
    resource = pytest.importorskip("resource")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
        with pytest.raises(GalleryError, match="cannot be written"):
            write_vectors(stored, rows(40_000), TABLE, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [item.name for item in stored.parent.iterdir()] == ["a.gallery"]
    assert np.array_equal(read_vectors(stored)[0], rows(20))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="No such file or directory"):
        write_vectors(tmp_path / "none" / "a.gallery", rows(1), None, {})
    with pytest.raises(GalleryError, match="cannot be written"):
        write_vectors(tmp_path, rows(1), None, {})
    (tmp_path / "file").touch()
    for name in ("file/a.gallery", "nul\0.gallery", "x" * 300):
        with pytest.raises(GalleryError, match="cannot be written") as caught:
            write_vectors(tmp_path / name, rows(1), None, {})
        assert caught.value.path == str(tmp_path / name)


@pytest.mark.skipif(os.name != "posix", reason="needs kill -9")
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_kill_in_the_middle_of_saving(stored: Path, step: str) -> None:
    """The child stops within the step and says so; then it is killed."""
    script = f"""
import os, pathlib, sys, types
import numpy as np
sys.modules["facekit"] = types.ModuleType("facekit")  # the package without what it imports: no torch
sys.modules["facekit"].__path__ = [{str(Path(facekit.__file__).parent)!r}]
from facekit import vectorfile

def stop(*args):
    print("middle", flush=True)
    sys.stdin.read()

def half(vectors, table, metadata, blocks=vectorfile._blocks):
    for block in blocks(vectors, table, metadata):
        yield block[: len(block) // 2]
        stop()

if {step!r} == "write":
    vectorfile._blocks = half
elif {step!r} == "fsync":
    os.fsync = stop
else:
    pathlib.Path.replace = stop
vectorfile.write_vectors(sys.argv[1], np.ones((50_000, 8), np.float32), None, {{}})
"""
    command = [sys.executable, "-c", script, str(stored)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"middle\n"
        child.kill()
    assert child.returncode == -signal.SIGKILL
    left = [item for item in stored.parent.iterdir() if item != stored]
    assert [item.suffix for item in left] == [".part"]
    assert np.array_equal(read_vectors(stored)[0], rows(20))
    write_vectors(stored, rows(4), None, {})  # and it can be saved again
    assert len(read_vectors(stored)[0]) == 4
