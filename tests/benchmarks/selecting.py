"""What `facekit data select` is worth: ``selecting.py precision|pretrain --data DATA --out OUT``.

DATA is the folder that holds ``faces/``, ``age_gender/`` and ``expressions/`` as archives. Both tables mix
faces of CelebA, half and half, with others, and show the command some more of CelebA as its target.

``precision``: how many of the half that it keeps are CelebA's, by both methods, on two mixtures. The hard one
is with PubFig: other people in other photographs of the same kind, aligned alike. The easy one is with
UTKFace (cut differently) and FER2013 (grey, 48 x 48). No person is in target and mixture, and all of CelebA
and PubFig are people of whom the network that ships has learnt nothing.

``pretrain``: what simclr learns from the whole mixture, from the selected half and from a random half, in as
many epochs, that is the halves in half the steps; measured by attributes of CelebA with few labels, from two
seeds of simclr. The network that ships, which makes the embeddings, has learnt some of these people.

What is finished is found again when the command is repeated. ``--full`` takes all pictures, and for
``pretrain`` a GPU.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import subprocess
import sys
import time
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from trainings import numbered, training_rows, write_attributes, write_table

from facekit.train.probe.table import read_cells

_METHODS = ("cluster", "classifier")
_DIVISIONS = 4
_SEEDS = (0, 1)
_ARCHIVES = {
    "faces": "faces/images.zip",
    "age_gender": "age_gender/utkface_subset.zip",
    "expressions": "expressions/fer2013_subset.zip",
}
Row = Mapping[str, str]
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("table", choices=("precision", "pretrain"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--checkpoint", help="makes the embeddings; the one that ships if not given")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    table = {"precision": precision, "pretrain": pretrain}[arguments.table]
    table(arguments.data, arguments.out, arguments.full, arguments.checkpoint)
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")


def precision(data: Path, out: Path, full: bool, checkpoint: str | None) -> None:
    """Share of CelebA's among what is kept, for each mixture and method: mean and range of some divisions."""
    pictures, rows = _unpack(data, out)
    heldout = [row for row in rows if row["split"] == "heldout"]
    celeba = [row for row in heldout if row["source"] == "celeba"]
    half, ours = (900, 2000) if full else (350, 300)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for division in range(_DIVISIONS):
        rng = random.Random(division)
        people = _shuffled(rng, {row["identity"] for row in celeba})
        shown = set(people[: len(people) // 2])
        mixed = _shuffled(rng, celeba)
        target = [row["path"] for row in mixed if row["identity"] in shown][:ours]
        like = [row["path"] for row in mixed if row["identity"] not in shown][:half]
        others = {
            "hard": _others(rng, half, [row["path"] for row in heldout if row["source"] == "pubfig"]),
            "easy": _others(rng, half, _files(pictures, "age_gender"), _files(pictures, "expressions")),
        }
        shows = pictures / f"target-{division}.csv"
        write_table(shows, ["path"], ([path] for path in target))
        for name, unlike in others.items():
            mixture = pictures / f"{name}-{division}.csv"
            write_table(mixture, ["path"], ([path] for path in _shuffled(rng, [*like, *unlike])))
            for method in _METHODS:
                chosen = select(mixture, shows, out / f"{name}-{division}", method, checkpoint)
                found[name, method].append(len(chosen & set(like)) / len(chosen))
    lines = [
        [*key, f"{statistics.fmean(shares):.3f}", f"{min(shares):.3f} ... {max(shares):.3f}"]
        for key, shares in found.items()
    ]
    print(f"{half} and {half} pictures, {ours} as the target, {_DIVISIONS} divisions")
    _table(out / "precision", ["mixture", "method", "precision", "range"], lines)


def pretrain(data: Path, out: Path, full: bool, checkpoint: str | None) -> None:
    """simclr on the whole mixture, the selected half and a random half; attributes by a linear head."""
    pictures, rows = _unpack(data, out)
    rng = random.Random(0)
    known = numbered(rows)
    names = (data / "faces" / "attribute_names.txt").read_text().split()
    write_attributes(pictures / "attributes.csv", names, known)
    labelled = [row["path"] for number, row in known if number <= 1627]
    hidden = {row["path"] for _, row in known}  # neither the labelled nor the tested are pre-trained on
    free = [path for path in _paths(rows, "celeba") if path not in hidden]
    foreign = [_paths(rows, "pubfig"), _paths(rows, "glint")]
    foreign += [_files(pictures, "age_gender"), _files(pictures, "expressions")]
    half = min(sum(map(len, foreign)), len(free), len(free) if full else 3000)
    mixture = [*_shuffled(rng, free)[:half], *_others(rng, half, *foreign)]
    write_table(pictures / "whole.csv", ["path"], ([path] for path in _shuffled(rng, mixture)))
    write_table(pictures / "random.csv", ["path"], ([path] for path in _shuffled(rng, mixture)[:half]))
    write_table(pictures / "target.csv", ["path"], ([path] for path in labelled))
    chosen = select(pictures / "whole.csv", pictures / "target.csv", out / "chosen", "classifier", checkpoint)
    write_table(pictures / "selected.csv", ["path"], ([path] for path in mixture if path in chosen))
    print(f"{len(chosen & set(free)) / len(chosen):.3f} of the selected half are CelebA's")
    _compare(pictures, out, full=full)


def _compare(pictures: Path, out: Path, *, full: bool) -> None:
    """Train on each list from each seed, probe, and print the mean of the seeds."""
    length = "--size 112 --epochs 200 --batch-size 512" if full else "--size 64 --epochs 12 --batch-size 64"
    table = pictures / "attributes.csv"
    asked = ["--data", f"attributes={table}", "--first", "1627", training_rows(table)]
    asked += ["--size", "112" if full else "64"]
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for seed in _SEEDS:
        runs = {name: out / f"simclr-{name}-{seed}" for name in ("whole", "selected", "random")}
        for name, folder in runs.items():
            where = ["--data", str(pictures / f"{name}.csv"), "--out", str(folder), "--seed", str(seed)]
            _run(["-m", "facekit.train", "simclr", *where, *length.split(), "--lr", "1e-3"])
        networks = [f"{name}={folder / 'checkpoint'}" for name, folder in runs.items()]
        untrained = ["untrained=scratch:resnet10t"] if seed == _SEEDS[0] else []  # three seeds of its own
        probe = ["linear", *untrained, *networks, *asked, "--out", str(out / f"probe-{seed}")]
        _run(["-m", "facekit.train", "probe", *probe])
        for cell in read_cells(out / f"probe-{seed}" / "cells"):
            found[cell.labels, cell.method].append(100 * cell.scores["macro_f1"])
    lines = [
        [labels, name, f"{statistics.fmean(scores):.2f}", " ".join(f"{score:.2f}" for score in scores)]
        for (labels, name), scores in found.items()
    ]
    _table(out / "pretrain", ["labels", "learnt from", "macro-F1, %", "each"], lines)


def select(mixture: Path, target: Path, out: Path, method: str, checkpoint: str | None) -> set[str]:
    """The half that the command keeps; the embeddings stay in ``out`` for the next method."""
    network = [] if checkpoint is None else ["--checkpoint", checkpoint]
    how = ["--keep", "0.5", "--method", method, "--aligned", "--json"]
    command = ["-m", "facekit", "data", "select", str(mixture), "--target", str(target), "--out", str(out)]
    told = json.loads(_run([*command, *how, *network], read=True))
    with Path(told["list"]).open(newline="") as file:
        return {row["path"] for row in csv.DictReader(file)}


def _unpack(data: Path, out: Path) -> tuple[Path, list[Row]]:
    """The folder of all pictures, one a data set inside it, and the rows of faces/ with paths from there."""
    pictures = out / "data"
    for name, archive in _ARCHIVES.items():
        if not (pictures / name / ".whole").exists():
            with zipfile.ZipFile(data / archive) as packed:
                packed.extractall(pictures / name)
            (pictures / name / ".whole").touch()
    with (data / "faces" / "index.csv").open(newline="") as file:
        return pictures, [{**row, "path": f"faces/{row['path']}"} for row in csv.DictReader(file)]


def _paths(rows: Iterable[Row], source: str) -> list[str]:
    return [row["path"] for row in rows if row["source"] == source and row["split"] == "train"]


def _files(pictures: Path, name: str) -> list[str]:
    found = (path for path in (pictures / name).rglob("*.*") if path.suffix in (".webp", ".png", ".jpg"))
    return sorted(path.relative_to(pictures).as_posix() for path in found)


def _others(rng: random.Random, count: int, *sets: Sequence[str]) -> list[str]:
    """So many of several sets, as evenly as these allow."""
    chosen: list[str] = []
    for left, paths in zip(range(len(sets), 0, -1), sorted(sets, key=len), strict=True):
        chosen += _shuffled(rng, paths)[: (count - len(chosen)) // left]
    return chosen


def _shuffled(rng: random.Random, items: Iterable[T]) -> list[T]:
    found = list(items)
    if isinstance(items, (set, frozenset)):
        found.sort()
    rng.shuffle(found)
    return found


def _run(command: Sequence[str], *, read: bool = False) -> str:
    print("$ python", " ".join(command), flush=True)
    done = subprocess.run(
        [sys.executable, *command], check=True, text=True, stdout=subprocess.PIPE if read else None
    )
    return done.stdout if read else ""


def _table(out: Path, header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    write_table(out.with_suffix(".csv"), header, lines)
    for line in [header, *lines]:
        print("  ".join(f"{cell:<12}" for cell in line).rstrip())


if __name__ == "__main__":
    main()
