"""What the tables of trainings share: pictures with labels and without, and commands run side by side."""

from __future__ import annotations

import csv
import os
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TRAIN = (sys.executable, "-m", "facekit.train")
RANDOM = "random=scratch:resnet10t"
_ARCHIVES = (
    ("faces/images.zip", "."),
    ("landmarks5/images.zip", "landmarks5"),
    ("expressions/fer2013_subset.zip", "expressions"),
)


def run_all(commands: Sequence[Sequence[str]], jobs: int) -> None:
    """Run them, some at a time; after a failure none is begun, and what it said is shown."""
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if jobs > 1 else {}

    def run(command: Sequence[str]) -> None:
        print("$", " ".join(["python", *command[1:]]), flush=True)
        ended = subprocess.run(command, check=False, env={**os.environ, **one}, stderr=subprocess.PIPE)
        if ended.returncode:
            pool.shutdown(wait=False, cancel_futures=True)
            raise SystemExit(ended.stderr.decode(errors="replace").replace("\r", "\n")[-2000:])

    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(run, command) for command in commands]:
            done.result()


def probe_all(probes: Sequence[Sequence[str]], out: Path, size: Sequence[str], jobs: int) -> None:
    """Run the probes, and put their cells into one table."""
    folders = [out / f"probe-{number}" for number in range(len(probes))]
    commands = [
        [*TRAIN, "probe", *probe, *size, "--out", str(folder)]
        for probe, folder in zip(probes, folders, strict=True)
    ]
    run_all(commands, jobs)
    subprocess.run([*TRAIN, "probe", "table", *map(str, folders), "--out", str(out)], check=True)


def face_sets(data: Path, to: Path, pictures: int) -> Path:
    """Unpack, and list who learns from what: no picture of the attributes' test rows is pre-trained on."""
    if (to / "unlabelled.csv").exists():
        return to
    for archive, folder in _ARCHIVES:
        with zipfile.ZipFile(data / archive) as packed:
            packed.extractall(to / folder)
    with (data / "landmarks5" / "points.csv").open(newline="") as file:
        header, *points = csv.reader(file)
    # The others lie 28 pixels too high in this set: the median distance to MTCNN's points is 28.2 pixels, and
    # 0.6 among these.
    write_table(
        to / "landmarks5" / "points.csv", header, (row for row in points if not row[0].startswith("_"))
    )
    with (data / "faces" / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = (data / "faces" / "attribute_names.txt").read_text().split()
    known = numbered(rows)
    splits = {row["path"]: _split(number) for number, row in known}
    write_attributes(to / "attributes.csv", names, known)
    free = [r["path"] for r in rows if r["split"] == "train" and splits.get(r["path"], "train") == "train"]
    random.Random(0).shuffle(free)
    heldout = [[row["path"], row["identity"], "test"] for row in rows if row["split"] == "heldout"]
    few = sorted({row["identity"] for row in rows if row["split"] == "train"})[:100]
    learnt = [[row["path"], row["identity"], "train"] for row in rows if row["identity"] in few]
    write_table(to / "people.csv", ["path", "identity", "split"], [*learnt, *heldout])
    write_table(to / "unlabelled.csv", ["path"], ([path] for path in free[: pictures or None]))
    return to


def numbered(rows: Iterable[Mapping[str, str]]) -> list[tuple[int, Mapping[str, str]]]:
    """Those of CelebA's rows that have attributes, in CelebA's order, each with its number there."""
    found = ((re.search(r"/ck_(\d+)\.", row["path"]), row) for row in rows if row["attributes"])
    return sorted(((int(match[1]), row) for match, row in found if match), key=lambda each: each[0])


def write_attributes(
    table: Path, names: Sequence[str], known: Iterable[tuple[int, Mapping[str, str]]]
) -> None:
    """What :func:`numbered` found, as probes read it."""
    lines = ([row["path"], _split(number), *row["attributes"]] for number, row in known)
    write_table(table, ["path", "split", *names], lines)


def training_rows(table: Path) -> str:
    """How many pictures a table has to train on, as a flag takes it: of CelebA's 8,000, some lack here."""
    with table.open(newline="") as file:
        return str(sum(row["split"] == "train" for row in csv.DictReader(file)))


def _split(number: int) -> str:
    """Of CelebA's rows: to 8,000 for training, some to choose by, the rest to test."""
    return "train" if number <= 8000 else "validation" if number <= 8500 else "test"


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A CSV, whole or not at all."""
    beside = path.with_suffix(".part")
    with beside.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    beside.replace(path)
