"""The page about the architecture speaks of the package as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_architecture import LEVELS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def parts() -> set[str]:
    """What the package holds: modules, and folders that are not pycache."""
    inside = (ROOT / "facekit").iterdir()
    return {item.name for item in inside if item.suffix == ".py" or (item.is_dir() and "__" not in item.name)}


def test_every_part_of_the_package_is_on_the_page(page: str) -> None:
    river = re.findall(r"^  ([\w.]+?)/?  ", page, re.M)
    assert sorted(set(river) - {"weights"}) == sorted(parts() - {"weights"})


def test_the_levels_are_those_that_are_held(page: str) -> None:
    shown = [set(names.split()) for names in re.findall(r"^\d  (.*)$", page, re.M)]
    here = {name.removesuffix(".py") for name in parts()}
    assert shown == [level & here for level in LEVELS]
