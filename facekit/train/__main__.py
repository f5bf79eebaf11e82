"""``python -m facekit.train <recipe>``: argv -> settings -> recipe -> loop."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import tyro

from facekit.errors import FacekitError
from facekit.train.loop import fit
from facekit.train.recipes.convrec import ConvRecSettings, build_recipe

__all__ = ["main"]

_RECIPES = {"convrec": (ConvRecSettings, build_recipe)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a recipe from the command line; returns the exit code: 0 done, 2 an error, 130 interrupted."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    name, *rest = [*(sys.argv[1:] if argv is None else argv), ""]
    if name not in _RECIPES:
        print(f"usage: python -m facekit.train {{{','.join(_RECIPES)}}} [--help]", file=sys.stderr)
        return 0 if name in ("-h", "--help") else 2
    kind, build = _RECIPES[name]
    prog = f"python -m facekit.train {name}"
    try:
        settings = tyro.cli(kind, prog=prog, args=rest[:-1], config=(tyro.conf.OmitArgPrefixes,))
        print(fit(build(settings), settings.run, settings.optim))
    except FacekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
