"""Bars for people at a terminal, and nothing in a file."""

from __future__ import annotations

import io
from pathlib import Path

import made
import pytest
import torch

from facekit.train.probe.backbone import open_backbone
from facekit.train.probe.examples import TRAIN
from facekit.train.probe.features import Features
from facekit.train.probe.finetuning import FineTuneSettings, fine_tune
from facekit.train.probe.tasks import task_of


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("place", "rank", "shown"),
    [(_Terminal, "0", True), (_Terminal, "1", False), (io.StringIO, "0", False)],
    ids=["terminal", "another process", "file"],
)
def test_what_takes_minutes_shows_how_far_it_is(
    place: type[io.StringIO], rank: str, shown: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = made.classes(tmp_path / "set", (3, 2, 2))
    backbone = open_backbone(str(made.tiny_checkpoint(tmp_path / "net")), size=None, seed=0, device=made.CPU)
    rows = examples.rows(TRAIN)
    stderr = place()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setenv("RANK", rank)
    Features(backbone, examples, "vector").of(torch.arange(14))
    assert ("features of stripes" in stderr.getvalue()) is shown
    assert ("/14 [" in stderr.getvalue()) is shown
    settings = FineTuneSettings(least_steps=2, epochs=1, batch_size=6)
    fine_tune(backbone, task_of(examples, rows), examples, rows, settings, seed=0)
    assert ("learning" in stderr.getvalue()) is shown
    assert bool(stderr.getvalue()) is shown
