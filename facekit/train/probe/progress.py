"""How far something that takes minutes has come: a bar for people, and nothing in a file."""

from __future__ import annotations

import os
from typing import Any

from tqdm import tqdm

__all__ = ["progress"]


def progress(what: str, total: int, unit: str) -> tqdm[Any]:
    """A bar on stderr, which goes when it is done; none where that is no terminal.

    Of several processes that share a terminal the first one has it.

    Args:
        what: is done.
        total: how many of them.
        unit: what they are called.
    """
    hidden = None if os.environ.get("RANK", "0") == "0" else True  # None asks the terminal
    return tqdm(total=total, desc=what, unit=f" {unit}", leave=False, dynamic_ncols=True, disable=hidden)
