"""What a run writes: read back by JSON and by TensorBoard, after interruptions too."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from facekit.errors import TrainingError
from facekit.train.log import RunLog, read_log

pytestmark = pytest.mark.usefixtures("whole_runs")


def start(folder: Path, *, done: int = 0) -> RunLog:
    return RunLog(folder, total=100, done=done, images_per_step=8)


def steps(log: RunLog, first: int, end: int, **values: float) -> None:
    for step in range(first, end):
        log.record("step", step=step, loss=float(step), **values)
        log.advance({"loss": float(step)})


def lines(folder: Path) -> list[dict[str, Any]]:
    """By a reader that is as strict as JSON itself."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    text = (folder / "log.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def earlier(folder: Path) -> None:
    """TensorBoard reads its files in the order of their names, which begin with the second they are of."""
    for file in (folder / "tensorboard").iterdir():
        file.rename(file.with_name(f"events.out.tfevents.0000000001.{file.name.split('.', 4)[-1]}"))


def test_numbers_reach_tensorboard_at_their_steps(tmp_path: Path) -> None:
    with start(tmp_path) as log:
        steps(log, 0, 3, **{"lr/backbone": 0.5, "lr_1": 0.25})
        log.record("epoch", epoch=1, step=3, loss=1.5, **{"tar@far=0.001": 0.75})
        log.record("scores", epoch=1, genuine=(0, 2), impostor=(3, 1))
    assert scalars(tmp_path) == {
        "step/loss": [(0, 0.0), (1, 1.0), (2, 2.0)],
        "step/lr/backbone": [(0, 0.5), (1, 0.5), (2, 0.5)],
        "step/lr_1": [(0, 0.25), (1, 0.25), (2, 0.25)],
        "epoch/loss": [(2, 1.5)],
        "epoch/tar@far=0.001": [(2, 0.75)],
    }
    assert lines(tmp_path)[-1]["genuine"] == [0, 2]


def test_a_resumed_run_says_no_step_twice(tmp_path: Path) -> None:
    with start(tmp_path) as log:
        steps(log, 0, 4)
        log.record("epoch", epoch=1, step=4, loss=1.0)
        steps(log, 4, 8)
        log.record("epoch", epoch=2, step=8, loss=2.0)
        log.record("scores", epoch=2, genuine=[1], impostor=[1])
    earlier(tmp_path)
    with start(tmp_path, done=6) as log:
        kept = lines(tmp_path)
        steps(log, 6, 8)
        log.record("epoch", epoch=2, step=8, loss=3.0)
    assert [(line["event"], line["step"]) for line in kept] == [
        *(("step", step) for step in range(4)),
        ("epoch", 4),
        ("step", 4),
        ("step", 5),
    ]
    assert [line["step"] for line in lines(tmp_path) if line["event"] == "step"] == list(range(8))
    assert scalars(tmp_path) == {
        "step/loss": [(step, float(step)) for step in range(8)],
        "epoch/loss": [(3, 1.0), (7, 3.0)],
    }


def test_an_epoch_that_ended_where_the_run_goes_on_stays(tmp_path: Path) -> None:
    with start(tmp_path) as log:
        steps(log, 0, 4)
        log.record("epoch", epoch=1, step=4, loss=1.0)
        log.record("scores", epoch=1, genuine=[1], impostor=[1])
        before = lines(tmp_path)
        steps(log, 4, 5)
    earlier(tmp_path)
    with start(tmp_path, done=4) as log:
        assert lines(tmp_path) == before
        steps(log, 4, 5)
    assert scalars(tmp_path)["epoch/loss"] == [(3, 1.0)]
    assert [step for step, _ in scalars(tmp_path)["step/loss"]] == [0, 1, 2, 3, 4]


def test_a_run_that_starts_over_starts_a_new_log(tmp_path: Path) -> None:
    with start(tmp_path) as log:
        log.record("scores", genuine=[1], impostor=[1])
        steps(log, 0, 3)
    start(tmp_path).__exit__(None, None, None)
    assert (tmp_path / "log.jsonl").read_text() == ""


def test_a_half_written_line_is_dropped(tmp_path: Path) -> None:
    with start(tmp_path) as log:
        steps(log, 0, 2)
    whole = (tmp_path / "log.jsonl").read_bytes()
    (tmp_path / "log.jsonl").write_bytes(whole + whole[: len(whole) // 4])
    assert [record["step"] for record in read_log(tmp_path / "log.jsonl")] == [0, 1]
    with start(tmp_path, done=2) as log:
        steps(log, 2, 3)
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize("line", [b"\0" * 50, b"[1]", b"3", b"{}", b'"event"', b"[" * 100_000, b"\xff{"])
def test_what_is_no_record_is_left_out(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(line + b'\n{"event": "step", "step": 1}\n' + line)
    assert list(read_log(path)) == [{"event": "step", "step": 1}]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null(tmp_path: Path, value: float) -> None:
    with start(tmp_path) as log:
        log.record("step", step=0, loss=value)
        log.record("scores", genuine=[1.0, value])
    assert [lines(tmp_path)[0]["loss"], lines(tmp_path)[1]["genuine"]] == [None, [1.0, None]]


def test_null_takes_the_place_of_nan_in_an_old_log(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(
        '{"event": "step", "step": 0, "loss": NaN, "more": {"a": Infinity}}\n'
    )
    start(tmp_path, done=5).__exit__(None, None, None)
    assert lines(tmp_path) == [{"event": "step", "step": 0, "loss": None, "more": {"a": None}}]


def test_a_cut_that_fails_leaves_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start(tmp_path) as log:
        steps(log, 0, 3)
    before = (tmp_path / "log.jsonl").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TrainingError, match=r"log\.jsonl: cannot be written .*No space left"):
        start(tmp_path, done=1)
    assert (tmp_path / "log.jsonl").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_without_tensorboard_one_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with start(tmp_path) as log:
        steps(log, 0, 2)
    said = capsys.readouterr().err
    assert said.count("pip install 'facekit-torch[train]'") == 1
    assert len(lines(tmp_path)) == 2
    assert not (tmp_path / "tensorboard").exists()


def test_the_bar_shows_images_a_second_and_the_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with start(tmp_path, done=40) as log:
        steps(log, 40, 50)
        log.say("a line")
    said = capsys.readouterr().err
    last = said.replace("\n", "\r").rstrip("\r").split("\r")[-1]
    assert "step 50/100" in last
    assert "50%" in last
    assert "images/s" in last
    assert "left" in last
    assert "loss=49" in last
    assert "a line\n" in said


def test_without_a_folder_nothing_is_said_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with RunLog(None, total=10, done=0, images_per_step=8) as log:
        steps(log, 0, 3)
        log.say("a line")
    assert capsys.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
