"""What something gave: runs without it and with it in one table, and a line that says it in words."""

from __future__ import annotations

import json
from pathlib import Path

from facekit.errors import TrainingError
from facekit.train.probe.table import Cell, make_table, to_json, to_markdown
from facekit.wholefile import replacing

__all__ = ["write_gain"]

_NIL = 0.005  # half a point; another seed changes as much


def write_gain(folder: Path, before: Cell | None, after: Cell, *, unused: str = "") -> str:
    """Write ``table.md`` and ``table.json`` of one or two runs on the same set.

    Args:
        folder: for the files.
        before: the run without what is tried; None where there was nothing to try.
        after: the run with it; its main figure is a share.
        unused: why what was tried could have no effect, if so.

    Returns:
        The text of ``table.md``.

    Raises:
        TrainingError: they cannot be written.
    """
    table = make_table([after] if before is None else [before, after])
    text, document = to_markdown(table), json.loads(to_json(table))
    if before is not None:
        gain, line = _gain(before, after)
        line = f"{after.method}: {unused}." if unused else line
        text += f"\n{line}\n"
        document |= {"gain": gain, "metric": after.metrics[0].name, "verdict": line}
    _write(folder / "table.md", text)
    _write(folder / "table.json", json.dumps(document, indent=2, allow_nan=False) + "\n")
    return text


def _gain(before: Cell, after: Cell) -> tuple[float, str]:
    """How much better the main figure is, as a share, and the same in words."""
    metric = after.metrics[0]
    gain = after.scores[metric.name] - before.scores[metric.name]
    gain = gain if metric.higher_is_better else -gain
    change = f"{100 * gain:+.2f} points of {metric.name}"
    if gain >= _NIL:
        return gain, f"{after.method}: {change} over {before.method}."
    if gain > -_NIL:
        return gain, f"{after.method}: the gain is nil, {change}, less than another seed may change."
    return gain, f"{after.method}: no gain but a loss, {change}; use what {before.method} gave."


def _write(path: Path, text: str) -> None:
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written ({error}); give another --out") from error
