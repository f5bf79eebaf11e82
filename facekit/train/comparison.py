"""What a second network gives over a first one on the same people, in a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from facekit.checkpoint import load_checkpoint
from facekit.embed import Embedder
from facekit.errors import TrainingError
from facekit.train.config import RunSettings
from facekit.train.data import Crops
from facekit.train.validate import heldout_curve, heldout_scores
from facekit.wholefile import replacing

__all__ = ["compare", "comparison_table", "write_comparison"]

_LOWER_IS_BETTER = ("eer",)

Figures = Mapping[str, Mapping[str, float]]


def compare(checkpoints: Mapping[str, str], heldout: Crops, run: RunSettings) -> Figures:
    """Figures of each checkpoint on all pairs of the held-out people, by name.

    Args:
        checkpoints: name -> folder, file or Hub name.
        heldout: pictures of people whom none of them should have learnt.
        run: device and precision.

    Returns:
        Empty where too few people are held out to say anything.
    """
    figures = {}
    for name, source in checkpoints.items():
        embedder = Embedder(load_checkpoint(source), device=run.device, precision=run.precision)
        curve = heldout_curve(embedder.embed(heldout.pictures), heldout.labels)
        if curve is None:
            return {}
        figures[name] = dict(heldout_scores(curve).values)
    return figures


def comparison_table(figures: Figures, baseline: str, other: str) -> str:
    """A Markdown table, a line a figure, that says what ``other`` gains over ``baseline``.

    Args:
        figures: as :func:`compare` returns them.
        baseline: the name of what it is measured by.
        other: the name of what should be better.
    """
    head = ["held-out people", *figures, "gain"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name in figures[other]:
        gain = figures[other][name] - figures[baseline][name]
        gain = round(-gain if name in _LOWER_IS_BETTER else gain, 4)
        cells = [f"{of[name]:.4f}" for of in figures.values()]
        lines.append(
            f"| {' | '.join([name, *cells, f'+{gain:.4f}' if gain > 0 else f'none ({gain:.4f})'])} |"
        )
    return "\n".join(lines) + "\n"


def write_comparison(folder: Path, figures: Figures, table: str) -> None:
    """``table.md`` and ``table.json``.

    Raises:
        TrainingError: they cannot be written.
    """
    for name, text in (("table.md", table), ("table.json", json.dumps(figures, indent=2) + "\n")):
        try:
            with replacing(folder / name) as file:
                file.write(text.encode())
        except OSError as error:
            raise TrainingError(f"{folder / name}: cannot be written ({error}); free space") from error
