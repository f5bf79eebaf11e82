"""What a pile without labels gives a face embedder: ``self_training.py --data DATA --out OUT``.

DATA is the folder that holds ``faces/`` as an archive with its index. A fifth of the training people keep
their names, the pictures of the others are the pile; the index's held-out people measure. Learns faceresnet
from the labelled ones alone and as the student of that network, at 48 pixels; ``--full`` is 112 pixels and
twelve times the epochs, for a GPU. What is finished is found again when the command is repeated.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import time
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

from trainings import TRAIN, write_table

_EVERY = 5  # of so many people, one keeps the name
_SHORT = "--size 48 --epochs 5 --batch-size 128 --lr 2e-3"
_FULL = "--size 112 --epochs 60 --batch-size 512 --lr 2e-3"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--first", type=int, help="only so many people of either split, to try it out")
    parser.add_argument("flags", nargs="*", help="of the recipe, behind --")
    arguments = parser.parse_args()
    began = time.monotonic()
    people = "data" if arguments.first is None else f"data-{arguments.first}"
    labelled, pile = _sets(arguments.data / "faces", arguments.out / people, arguments.first)
    run = arguments.out / f"{people}-{'full' if arguments.full else 'short'}"
    length = _FULL if arguments.full else _SHORT
    command = [
        *(*TRAIN, "selftrain", "--architecture", "faceresnet"),
        *("--data", str(labelled), "--unlabelled", str(pile), "--out", str(run)),
        *length.split(),
        *arguments.flags,
    ]
    print("$", " ".join(["python", *command[1:]]), flush=True)
    subprocess.run(command, check=True)
    print((run / "table.md").read_text())
    print(_quality(run / "pseudo.csv", arguments.data / "faces" / "index.csv"))
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")


def _sets(faces: Path, to: Path, first: int | None) -> tuple[Path, Path]:
    """``labelled.csv`` and ``pile.csv`` beside the unpacked pictures."""
    labelled, pile = to / "labelled.csv", to / "pile.csv"
    if not pile.exists():
        with zipfile.ZipFile(faces / "images.zip") as packed:
            packed.extractall(to)
        with (faces / "index.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        people, heldout = (
            sorted({row["identity"] for row in rows if row["split"] == split})[:first]
            for split in ("train", "heldout")
        )
        named = {*people[::_EVERY], *heldout}
        _write(labelled, ["path", "identity", "split"], [row for row in rows if row["identity"] in named])
        unnamed = set(people) - named
        _write(pile, ["path"], [row for row in rows if row["identity"] in unnamed])
    return labelled, pile


def _write(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    write_table(path, columns, ([row[column] for column in columns] for row in rows))


def _quality(found: Path, index: Path) -> str:
    """How pure and how whole the pseudo identities are, by what is known of the pile."""
    with index.open(newline="") as file:
        truth = {row["path"]: row["identity"] for row in csv.DictReader(file)}
    with found.open(newline="") as file:
        rows = [(row["identity"], truth[row["path"]]) for row in csv.DictReader(file)]
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for group, person in rows:
        groups[group][person] += 1
    right = sum(group.most_common(1)[0][1] for group in groups.values())
    people = len({group.most_common(1)[0][0] for group in groups.values()})
    return (
        f"{len(rows)} pictures in {len(groups)} groups of {people} people; "
        f"{100 * right / len(rows):.1f} % of them in a group that is mostly of their person"
    )


if __name__ == "__main__":
    main()
