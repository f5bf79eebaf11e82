"""Fixtures: the pictures that the project ships, and the larger real sets where they are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of larger real picture sets beside the project; the test is skipped without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the picture sets in ../shared/data")
    return folder


@pytest.fixture(scope="session")
def pictures() -> Path:
    """The pictures that ship inside the package: people/<name>/*.jpg and astronaut.jpg."""
    return ROOT / "facekit" / "pictures"
