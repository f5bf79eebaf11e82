"""``python -m facekit.train <recipe>``: argv -> settings -> recipe -> loop."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from facekit.errors import FacekitError, SettingError
from facekit.train import processes
from facekit.train.memory import keep_freed_memory
from facekit.train.page import write_page
from facekit.train.probe.command import probe
from facekit.train.recipe import Recipe
from facekit.train.recipes import bregman, c2d, convrec, finetune, selftrain, simclr, swav, vcl
from facekit.train.run import CONFIG, train
from facekit.train.settings import from_json, to_json

__all__ = ["main"]

_RECIPES: Mapping[str, tuple[Any, Callable[[Any], Recipe], Mapping[str, Callable[[Path, Path], Any]]]] = {
    "convrec": (convrec.ConvRecSettings, convrec.build_recipe, {}),
    "simclr": (simclr.SimCLRSettings, simclr.build_recipe, simclr.PRESETS),
    "vcl": (vcl.VCLSettings, vcl.build_recipe, vcl.PRESETS),
    "bregman": (bregman.BregmanSettings, bregman.build_recipe, bregman.PRESETS),
    "c2d": (c2d.C2DSettings, c2d.build_recipe, c2d.PRESETS),
    "finetune": (finetune.FineTuningSettings, finetune.build_recipe, {}),
    "selftrain": (selftrain.SelfTrainSettings, selftrain.build_recipe, {}),
    "swav": (swav.SwAVSettings, swav.build_recipe, swav.PRESETS),
}
_ALSO = f"""
--config FILE takes the settings of another run ({CONFIG} in its folder); flags beside it go first.
--print-config prints all settings, and does nothing else.
torchrun -m facekit.train ... trains with several processes, one a GPU.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a recipe from the command line; returns the exit code: 0 done, 2 an error, 130 interrupted."""
    keep_freed_memory()
    logging.basicConfig(format="%(message)s", level=logging.INFO if _first() else logging.ERROR)
    name, *rest = [*(sys.argv[1:] if argv is None else argv), ""]
    try:
        if name == "page" and rest[:-1]:
            print(write_page(Path(rest[0])))
            return 0
        if name == "probe":
            return probe(rest[:-1])
        if name not in _RECIPES:
            usage = f"usage: python -m facekit.train {{{','.join(_RECIPES)}}} [--help]\n"
            print(f"{usage}       python -m facekit.train page RUN", file=sys.stderr)
            print("       python -m facekit.train probe --help", file=sys.stderr)
            return 0 if name in ("-h", "--help") else 2
        return _run(name, rest[:-1])
    except FacekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(name: str, argv: Sequence[str]) -> int:
    kind, build, presets = _RECIPES[name]
    also = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    also.add_argument("--config", type=Path)
    also.add_argument("--preset")
    also.add_argument("--print-config", action="store_true")
    known, rest = also.parse_known_args(argv)
    before: dict[str, Any] = {}
    if known.config is not None:
        before["default"] = from_json(known.config, name, kind)
    if known.preset is not None:
        before["default"] = _preset(known.preset, presets, known.config)
    settings = tyro.cli(
        kind,
        prog=f"python -m facekit.train {name}",
        description=f"{kind.__doc__}\n{_also(presets)}",
        args=rest,
        **before,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    if known.print_config:
        print(to_json(name, settings), end="")
        return 0
    with processes.joined(settings.run.device):
        checkpoint = train(name, settings, build)
        if processes.rank() == 0:
            print(checkpoint)
    return 0


def _preset(name: str, presets: Mapping[str, Callable[[Path, Path], Any]], config: Path | None) -> Any:
    """The settings of a preset, in which only the data and the place are missing."""
    if config is not None:
        raise SettingError(f"preset={name}: beside --config {config}; give one of them")
    if name not in presets:
        known = ", ".join(presets) or "none"
        raise SettingError(f"preset={name}: this recipe has {known}; without --preset it is set for faces")
    return presets[name](tyro.MISSING, tyro.MISSING)


def _also(presets: Mapping[str, Any]) -> str:
    names = ", ".join(presets)
    line = f"\n--preset NAME takes published settings ({names}); flags beside it go first."
    return line + _ALSO if presets else _ALSO


def _first() -> bool:
    """Whether this is the process that talks; ``torchrun`` says so before they have joined."""
    return os.environ.get("RANK", "0") == "0"


if __name__ == "__main__":
    sys.exit(main())
