"""``facekit``: argv -> a command with typed flags -> its exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from typing import Annotated, Any

import tyro

from facekit.cli import (
    align,
    audit,
    calibrate,
    data,
    dedup,
    demo,
    embed,
    evaluate,
    gallery,
    model,
    select,
    verify,
)
from facekit.errors import FacekitError
from facekit.trash import shown

__all__ = ["main", "parse"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments; None for those of the process.

    Returns:
        The exit code: 0 done (``verify``: same person), 1 different people (``verify`` alone), 2 an error,
        told in one line on stderr, 130 interrupted, 141 nobody reads the output any more.

    Raises:
        SystemExit: by ``--help`` (0) and by arguments that cannot be understood (2).
    """
    logging.getLogger("facekit").addHandler(logging.NullHandler())  # commands say themselves what was skipped
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    command = parse(sys.argv[1:] if argv is None else argv)
    try:
        code = command()
        sys.stdout.flush()  # here, where a reader that has gone is still noticed in time
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        return 141
    except Exception as error:  # whatever it is: code 1 would say "different people"
        print("error:", shown(_told(error)), file=sys.stderr)
        return 2


def _told(error: Exception) -> str:
    """An error in one line; one that is not facekit's own with its kind."""
    text = " ".join(str(error).split())
    if isinstance(error, FacekitError):
        return text
    if isinstance(error, MemoryError):
        return "out of memory; use smaller pictures, or fewer at a time"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {text}"


def parse(argv: Sequence[str]) -> Callable[[], int]:
    """The command that the arguments describe, ready to be called.

    Raises:
        SystemExit: as for :func:`main`.
    """
    command: Callable[[], int] = tyro.cli(
        _COMMANDS,
        prog="facekit",
        description="Photographs to face embeddings: same person, who is it, which pictures repeat someone.",
        args=list(argv),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone),
    )
    return command


def _named(name: str, kind: Any, description: str | None = None) -> Any:
    return Annotated[kind, tyro.conf.subcommand(name, description=description)]


_COMMANDS: Any = (
    _named("demo", demo.Demo)
    | _named("verify", verify.Verify)
    | _named("embed", embed.Embed)
    | _named(
        "gallery",
        _named("build", gallery.Build) | _named("search", gallery.Search) | _named("info", gallery.Info),
        "People and the embeddings of their faces: build, search, info.",
    )
    | _named(
        "dedup",
        _named("plan", dedup.Plan) | _named("apply", dedup.Apply) | _named("undo", dedup.Undo),
        "Pictures that repeat a person: plan, apply, undo.",
    )
    | _named("evaluate", evaluate.Evaluate)
    | _named("calibrate", calibrate.Calibrate)
    | _named(
        "data",
        _named("align", align.Align)
        | _named("audit", audit.Audit)
        | _named("convert", data.Convert)
        | _named("select", select.Select),
        "Training pictures: align, audit, convert, select.",
    )
    | _named(
        "model",
        _named("info", model.Info) | _named("convert", model.Convert) | _named("export", model.Export),
        "Checkpoints: info, convert, export.",
    )
)
