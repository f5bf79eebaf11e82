"""States of runs: written whole or not at all, and read without running anything that they name."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
from pathlib import Path
from traceback import StackSummary

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from facekit.errors import TrainingError
from facekit.train.state import claimed, load_state, saved_step, write_state


def _tensors() -> dict[str, Tensor]:
    return {
        "modules.w": torch.arange(12.0).view(4, 3),
        "modules.half": torch.ones(3, dtype=torch.bfloat16),
        "modules.w@exp_avg": torch.full((4, 3), 0.5),
        "modules.w@step": torch.tensor(7.0),
        "run.total": torch.tensor(100),
    }


def _blank() -> dict[str, Tensor]:
    return {name: torch.zeros_like(t) for name, t in _tensors().items() if "@" not in name}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_state(tmp_path / "state", 5, _tensors(), sharded={})
    write_state(tmp_path / "state", 9, _tensors(), sharded={})
    assert saved_step(tmp_path / "state") == 9
    assert len(list((tmp_path / "state").iterdir())) == 1
    read = load_state(tmp_path / "state", 9, _blank(), sharded={})
    assert read.keys() == _tensors().keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in _tensors().items())


def test_nothing_saved_yet(tmp_path: Path) -> None:
    assert saved_step(tmp_path / "state") is None
    (tmp_path / "state" / "000000003.partial").mkdir(parents=True)
    assert saved_step(tmp_path / "state") is None


def test_a_write_that_fails_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "state"
    write_state(folder, 5, _tensors(), sharded={})

    def full(*_: object, storage_writer: FileSystemWriter, **__: object) -> None:
        (Path(storage_writer.path) / "__0_0.distcp").write_bytes(b"as far as it went")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("facekit.train.state.save", full)
    with pytest.raises(TrainingError, match="No space left"):
        write_state(folder, 6, _tensors(), sharded={})
    assert [path.name for path in folder.iterdir()] == ["000000005"]
    assert load_state(folder, 5, _blank(), sharded={})["run.total"] == 100
    monkeypatch.undo()
    write_state(folder, 6, _tensors(), sharded={})
    assert [path.name for path in folder.iterdir()] == ["000000006"]


def test_what_a_killed_run_left_goes_before_the_next_is_written(tmp_path: Path) -> None:
    left = tmp_path / "000000007.partial"
    left.mkdir()
    (left / "__0_0.distcp").write_bytes(b"half")
    write_state(tmp_path, 6, _tensors(), sharded={})
    assert [path.name for path in tmp_path.iterdir()] == ["000000006"]


def test_an_interruption_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch wraps Ctrl-C as it does errors; nobody should be told to leave a good state behind."""
    write_state(tmp_path, 5, _tensors(), sharded={})

    def interrupted(*_: object, **__: object) -> None:
        raise CheckpointException("", {0: (KeyboardInterrupt(), StackSummary())})

    monkeypatch.setattr("facekit.train.state.load", interrupted)
    monkeypatch.setattr("facekit.train.state.save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_state(tmp_path, 5, _blank(), sharded={})
    with pytest.raises(KeyboardInterrupt):
        write_state(tmp_path, 6, _tensors(), sharded={})
    assert [path.name for path in tmp_path.iterdir()] == ["000000005"]


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be locked there")
def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "first"
    with claimed(out), pytest.raises(TrainingError, match=f"^{out}: another run goes on there"), claimed(out):
        pytest.fail("both are in it")
    with claimed(out):
        assert list(out.iterdir()) == []


def test_a_place_that_no_run_can_have_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    wrong = pytest.raises(TrainingError, match=f"^{tmp_path / 'file'}: cannot be .*another --out")
    with wrong, claimed(tmp_path / "file"):
        pytest.fail("it is a file")


@pytest.mark.parametrize(
    "known",
    [
        {"modules.w": torch.zeros(5, 3)},
        {"modules.other": torch.zeros(3)},
        {"modules.half": torch.zeros(3)},  # and w@... belong to nothing
    ],
)
def test_the_state_of_another_network_is_refused(tmp_path: Path, known: dict[str, Tensor]) -> None:
    write_state(tmp_path, 5, _tensors(), sharded={})
    with pytest.raises(TrainingError, match="another --out") as caught:
        load_state(tmp_path, 5, known, sharded={})
    assert "\n" not in str(caught.value)


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('owned', 'w')",)


def test_a_hostile_state_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_state(tmp_path / "state", 5, _tensors(), sharded={})
    contents = tmp_path / "state" / "000000005" / ".metadata"
    contents.write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(TrainingError, match=r"names builtins\.eval"):
        load_state(tmp_path / "state", 5, _blank(), sharded={})
    assert not (tmp_path / "owned").exists()


def test_a_state_reads_no_files_of_other_folders(tmp_path: Path) -> None:
    write_state(tmp_path / "state", 5, _tensors(), sharded={})
    contents = tmp_path / "state" / "000000005" / ".metadata"
    original = contents.read_bytes()
    assert b"__0_0.distcp" in original
    contents.write_bytes(original.replace(b"__0_0.distcp", b"../x0.distcp"))
    with pytest.raises(TrainingError, match="another folder"):
        load_state(tmp_path / "state", 5, _blank(), sharded={})


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_damaged_state_is_one_line(tmp_path: Path, cut: int) -> None:
    write_state(tmp_path, 5, _tensors(), sharded={})
    for name in (".metadata", "__0_0.distcp"):
        path = tmp_path / "000000005" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:cut])
        with pytest.raises(TrainingError, match="another --out") as caught:
            load_state(tmp_path, 5, _blank(), sharded={})
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)
    assert pickletools.genops(io.BytesIO(whole)) is not None
