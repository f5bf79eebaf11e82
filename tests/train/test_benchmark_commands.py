"""The benchmarks ask for runs that the recipes know: every command line is read, and none is run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from facekit.errors import FacekitError
from facekit.train.__main__ import main

_BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
_NOT_RECIPES = ("probe", "page")


def _noisy_labels(plan: str) -> Callable[[Path, bool], None]:
    def run(folder: Path, full: bool) -> None:
        script = import_module("noisy_labels")
        chosen = getattr(script, f"_ALL_{plan}" if full else f"_{plan}")
        script.measure(chosen, folder, folder / "out", init=None, jobs=1)

    return run


def _few_labels(table: str) -> Callable[[Path, bool], None]:
    def run(folder: Path, full: bool) -> None:
        script = import_module("few_labels")
        flags, more = script._length(table, full=full), {"attributes": (1,), "hidden": ()}
        getattr(script, table)(folder, folder, flags, range(1), *more[table])

    return run


def _table(name: str) -> Callable[[Path, bool], None]:
    def run(folder: Path, full: bool) -> None:
        getattr(import_module("pretrain_tables"), name)(folder, folder, full=full, jobs=1)

    return run


def _small_views(folder: Path, full: bool) -> None:
    import_module("low_resolution").quality(folder, folder, full=full)


def _main(name: str) -> Callable[[Path, bool], None]:
    def run(folder: Path, full: bool) -> None:
        import_module(name).main()

    return run


def _pretrain(folder: Path, full: bool) -> None:
    import_module("selecting").pretrain(folder, folder, full, None)


_SCRIPTS = {
    "wrong names": _noisy_labels("FACES"),
    "wrong classes": _noisy_labels("CIFAR10"),
    "few attributes": _few_labels("attributes"),
    "hidden attributes": _few_labels("hidden"),
    "self-training": _main("self_training"),
    "selection": _pretrain,
    "small views": _small_views,
    "pre-training, faces": _table("faces"),
    "pre-training, CIFAR-10": _table("cifar10"),
}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What a script runs, where it finds all data made and no result of a run."""
    found: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        found.append(command)
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.syspath_prepend(_BENCHMARKS)
    tables = import_module("pretrain_tables")
    for sets in ("face_sets", "_cifar_sets"):
        monkeypatch.setattr(tables, sets, lambda *_, **__: tmp_path)
    monkeypatch.setattr(import_module("self_training"), "_sets", lambda *_: (tmp_path, tmp_path))
    selecting = import_module("selecting")
    monkeypatch.setattr(selecting, "_unpack", lambda *_: (tmp_path, []))
    monkeypatch.setattr(selecting, "select", lambda *_: {"a.png"})
    (tmp_path / "attributes.csv").write_text("path,split,Smiling\na.png,train,1\n")
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "attribute_names.txt").write_text("Smiling")
    return found


@pytest.mark.parametrize("full", [False, True], ids=["short", "full"])
@pytest.mark.parametrize("name", _SCRIPTS)
def test_recipes_take_what_benchmarks_ask(
    name: str, full: bool, asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--data", str(tmp_path), "--out", str(tmp_path), *(["--full"] if full else [])]
    monkeypatch.setattr(sys, "argv", ["benchmark", *flags])
    with suppress(OSError, FacekitError, KeyError, ValueError):  # of what was not run is nothing to read
        _SCRIPTS[name](tmp_path, full)
    runs = [command[command.index("facekit.train") + 1 :] for command in asked if "facekit.train" in command]
    recipes = [argv for argv in runs if argv[0] not in _NOT_RECIPES]
    assert recipes
    for argv in recipes:
        assert main([*argv, "--print-config"]) == 0, argv
