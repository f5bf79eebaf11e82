"""Runs that draw no page and keep no TensorBoard: both take longer than what a test's run learns."""

from __future__ import annotations

from collections.abc import Callable

from facekit.train import log, loop

LEFT_OUT = {(loop, "write_page"): loop.write_page, (log, "_board"): log._board}


def only_learn(set_attribute: Callable[..., None] = setattr) -> None:
    """Leave both out from now on; ``set_attribute`` may be a monkeypatch's."""
    for module, name in LEFT_OUT:
        set_attribute(module, name, lambda *_: None)
