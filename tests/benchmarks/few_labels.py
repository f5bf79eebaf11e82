"""What a pile and what missing labels do: ``few_labels.py attributes|hidden --data DATA --out OUT``.

DATA is the folder that holds ``faces/``, ``landmarks5/`` and ``expressions/`` as archives. ``attributes``:
1,627 labelled faces, with and without all other pictures as a pile. ``hidden``: all labels, and half of them
hidden at random. ``--init`` starts from a checkpoint of resnet10t; ``--full`` is the whole of it, for a GPU.
What is finished is found again when the command is repeated. Prints and keeps the tables.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from trainings import TRAIN, face_sets, write_table

from facekit.train.probe.table import read_cells

_FEW = 1627  # 1 % of CelebA's training rows
_ALLOWED = 0.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=("attributes", "hidden"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--init")
    parser.add_argument("--few", type=int, default=_FEW)
    arguments = parser.parse_args()
    out = arguments.out / ("full" if arguments.full else "short")
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    sets = face_sets(arguments.data, out / "data", 0)
    flags = _length(arguments.table, full=arguments.full)
    flags += ["--init", arguments.init] if arguments.init else []
    seeds = range(3 if arguments.full else 1)
    if arguments.table == "attributes":
        attributes(sets, out, flags, seeds, arguments.few)
    else:
        hidden(sets, out, flags, seeds)
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")


def _length(table: str, *, full: bool) -> list[str]:
    """Short runs pass over few labels more often than over many, with about as many pictures in all."""
    if full:
        return ["--size", "112", "--batch-size", "128", "--epochs", "60" if table == "attributes" else "30"]
    short = ["--size", "48", "--resolution", "64", "--batch-size", "64"]
    return [*short, "--epochs", "12" if table == "attributes" else "5"]


def attributes(sets: Path, out: Path, flags: Sequence[str], seeds: Sequence[int], few: int) -> None:
    """The first labels of the set, as tables with few labels have it; the pile is whatever else there is."""
    header, rows = _read(sets / "attributes.csv")
    train = [row for row in rows if row[1] == "train"][:few]
    write_table(sets / "few.csv", header, [*train, *(row for row in rows if row[1] != "train")])
    folders = []
    for seed in seeds:
        run = out / f"few-{seed}"
        _run(
            f"attributes={sets / 'few.csv'}",
            run,
            seed,
            [*flags, "--unlabelled", str(sets / "unlabelled.csv")],
        )
        folders += [str(run / "supervised"), str(run)]
    subprocess.run([*TRAIN, "probe", "table", *folders, "--out", str(out / "few")], check=True)


def hidden(sets: Path, out: Path, flags: Sequence[str], seeds: Sequence[int]) -> None:
    """Half of the entries of the training rows are blank; those to choose by and to test with stay whole."""
    header, rows = _read(sets / "attributes.csv")
    drawn = random.Random(0)
    blank = [
        [*row[:2], *("" if row[1] == "train" and drawn.random() < 0.5 else cell for cell in row[2:])]
        for row in rows
    ]
    write_table(sets / "half.csv", header, blank)
    figures: dict[str, list[float]] = {"attributes": [], "half": []}
    for seed in seeds:
        for name, found in figures.items():
            run = out / f"{name}-{seed}"
            _run(f"attributes={sets / name}.csv", run, seed, flags)
            (cell,) = read_cells(run / "cells")
            found.append(cell.scores["macro_f1"])
    cost = statistics.fmean(figures["attributes"]) - statistics.fmean(figures["half"])
    told = {**figures, "cost": cost, "allowed": _ALLOWED, "holds": cost < _ALLOWED}
    (out / "hidden.json").write_text(json.dumps(told, indent=2) + "\n")
    print(
        f"half of the labels hidden cost {100 * cost:.2f} points of macro-F1, of {100 * _ALLOWED:.0f} allowed"
    )


def _run(data: str, out: Path, seed: int, flags: Sequence[str]) -> None:
    command = [*TRAIN, "finetune", "--data", data, "--out", str(out), "--seed", str(seed), *flags]
    print("$", " ".join(["python", *command[1:]]), flush=True)
    subprocess.run(command, check=True)


def _read(table: Path) -> tuple[list[str], list[list[str]]]:
    with table.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


if __name__ == "__main__":
    main()
