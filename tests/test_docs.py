"""The docs are true: code compiles and runs, links lead somewhere, the reference is that of the code."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

import facekit
from facekit.checkpoint import Calibration, ModelConfig, load, load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parent.parent
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if page.exists()]
SHIPPED = ROOT / "facekit" / "weights" / "model.safetensors"
RUNNABLE = ["thresholds.md", "checkpoint-format.md"]  # quick-start.md runs with the weights that ship

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_reference", ROOT / "docs" / "build_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: Path, language: str) -> Iterator[tuple[int, str, str]]:
    """The fenced blocks in a language: the line where one starts, what follows the language, and the code."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(rf"^```{language}\b(.*)\n((?:.*\n)*?)```$", text, re.M):
        yield text.count("\n", 0, match.start(2)) + 1, match[1].strip(), match[2]


def run(page: Path) -> dict[str, object]:
    """Runs the code of a page, in order, and returns its names."""
    names: dict[str, object] = {"__name__": "__main__"}
    for line, note, code in blocks(page, "python"):
        if note != "no-run":
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)
    return names


def plain(page: Path) -> str:
    """A page without its code."""
    text = re.sub(r"^```.*\n(?:.*\n)*?```$", "", page.read_text(encoding="utf-8"), flags=re.M)
    return re.sub(r"`[^`\n]*`", lambda code: code[0].strip("`") if "](" not in code[0] else "", text)


def anchors(page: Path, builder: ModuleType) -> set[str]:
    return {builder.slug(title.strip()) for title in re.findall(r"^#+ (.*)$", plain(page), re.M)}


def test_reference_is_up_to_date(builder: ModuleType) -> None:
    assert builder.main(["--check"]) == 0, "run python docs/build_reference.py"


def test_reference_has_every_public_name(builder: ModuleType) -> None:
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    for name in facekit.__all__:
        assert f"### {name}\n" in page or f"**`{name}`**" in page, name


def test_a_stale_reference_is_told(
    builder: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "reference.md"
    monkeypatch.setattr(builder, "ROOT", tmp_path)
    monkeypatch.setattr(builder, "PAGE", page)
    assert builder.main(["--check"]) == 1
    page.write_text("old", encoding="utf-8")
    assert builder.main(["--check"]) == 1
    assert page.read_text(encoding="utf-8") == "old"
    assert "reference.md is stale: run python docs/build_reference.py" in capsys.readouterr().err
    assert builder.main([]) == 0
    assert builder.main(["--check"]) == 0
    assert builder.main(["--chekc"]) == 2


def test_docstrings_become_markdown(builder: ModuleType) -> None:
    docstring = """Does it, see :func:`~facekit.gallery.load` (:func:`_secret`) or :meth:`That.one <a.b>`::

    code = 1

Args:
    a: one
        two, ``three``.
    b: of

        * nested.

Returns:
    What: it is.

Raises:
    OneError, OtherError: never."""
    assert builder.markdown(docstring) == (
        "Does it, see `load` or `That.one`:\n\n```text\ncode = 1\n```\n\n"
        "**Args**\n\n- `a`: one\n  two, `three`.\n- `b`: of\n\n  * nested.\n\n"
        "**Returns**\n\nWhat: it is.\n\n"
        "**Raises**\n\n- `OneError`, `OtherError`: never."
    )


@every_page
def test_code_compiles(page: Path) -> None:
    for line, _, code in blocks(page, "python"):
        compile("\n" * (line - 1) + code, str(page), "exec")
    for _, _, code in blocks(page, "json"):
        json.loads(code)


@every_page
def test_links_lead_somewhere(page: Path, builder: ModuleType) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", plain(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = page.parent / path if path else page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place, builder), target


def test_the_blocks_are_found() -> None:
    """So that the tests above do not pass because they see nothing."""
    assert len(list(blocks(ROOT / "docs" / "quick-start.md", "python"))) > 5
    assert len(list(blocks(ROOT / "docs" / "checkpoint-format.md", "json"))) == 3


def test_configs_on_the_page_are_configs() -> None:
    full, table, onnx = (code for _, _, code in blocks(ROOT / "docs" / "checkpoint-format.md", "json"))
    config = ModelConfig.from_json(full)
    assert set(json.loads(full)) == set(config.to_dict())
    assert Calibration(**json.loads(table)).threshold_at(1e-3) == 0.3
    assert ModelConfig.from_json(onnx).architecture == "onnx"


@pytest.mark.parametrize("name", RUNNABLE)
def test_code_runs(name: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small network in place of the one that ships, which knows nobody."""
    loaded = load_checkpoint(tiny_checkpoint)
    assert isinstance(loaded.model, torch.nn.Module)
    table = Calibration("nobody", 1000, 1000, {1e-1: 0.8, 1e-3: 0.9})
    save_checkpoint(
        tmp_path / "shipped", loaded.model, replace(loaded.config, threshold=0.9, calibration=table)
    )
    monkeypatch.setattr(load, "SHIPPED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    run(ROOT / "docs" / name)


@pytest.mark.skipif(not SHIPPED.exists(), reason="the weights are not there yet")
def test_quick_start_gives_the_right_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run(ROOT / "docs" / "quick-start.md")
    assert names["result"]
    assert str(names["answer"]) == "P001"
    assert len(names["gallery"]) == 5
    assert names["duplicates"]
    assert not list((tmp_path / "photos").glob(".facekit-trash"))
