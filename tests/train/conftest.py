"""Fixtures of tests that train."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bare_run import LEFT_OUT, only_learn


@pytest.fixture(scope="session", autouse=True)
def bare_runs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        only_learn(patch.setattr)
        yield


@pytest.fixture
def whole_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at what runs draw and keep."""
    for (module, name), function in LEFT_OUT.items():
        monkeypatch.setattr(module, name, function)
