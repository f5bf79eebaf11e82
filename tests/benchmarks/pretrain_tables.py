"""What learning without labels is worth: ``pretrain_tables.py faces|cifar10 --data DATA --out OUT``.

DATA is the folder that holds ``faces/``, ``landmarks5/``, ``expressions/`` and ``cifar10/`` as archives.
Pre-trains every recipe with the same number of pictures and views, then probes all networks, with a random
one and pixels beside them. What is finished is found again when the command is repeated. Runs ``--jobs``
trainings at once, one thread each; ``--full`` is the whole of it, for a GPU. Prints and keeps the tables.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_TRAIN = (sys.executable, "-m", "facekit.train")
_RANDOM = "random=scratch:resnet10t"

# recipe and flags by row; views alike: two of each picture
_FACES = {
    "simclr": ("simclr",),
    "vcl": ("vcl",),
    "vcl --beta": ("vcl", "--beta"),
    "bregman": ("bregman",),
    "swav": ("swav", "--small-views", "0", "--prototypes", "100"),
}
_CIFAR10 = {
    "simclr": ("simclr", "--preset", "cifar10"),
    **{
        f"bregman K={k}": ("bregman", "--preset", "cifar10", "--subnetworks", str(k))
        for k in (1, 10, 50, 100)
    },
}
# On a CPU: a first layer of stride 2, and an optimiser for few steps.
_QUICK = "--stem half --optimizer adamw --lr 1e-3 --warmup 0.05 --temperature 0.2 --clip 5"
_SHORT = f"{_QUICK} --size 24 --area 0.2 1 --batch-size 64 --epochs 1"  # the cheapest views, to compare K
_LONGER = f"{_QUICK} --start-size 16 --start-share 0.7 --batch-size 128 --epochs 8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=("faces", "cifar10"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    {"faces": faces, "cifar10": cifar10}[arguments.table](
        arguments.data, arguments.out, full=arguments.full, jobs=arguments.jobs
    )
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")


def faces(data: Path, out: Path, *, full: bool, jobs: int) -> None:
    """resnet10t on faces without labels; attributes, expressions, landmarks and identities with few."""
    sets = _face_sets(data, out / "data", 0 if full else 6000)
    length = (
        "--size 112 --epochs 200 --batch-size 512"
        if full
        else "--size 64 --epochs 3 --batch-size 64 --lr 1e-3"
    )
    commands = [
        [
            *_TRAIN,
            *flags,
            "--data",
            str(sets / "unlabelled.csv"),
            "--out",
            str(_run(out, name)),
            *length.split(),
        ]
        for name, flags in _FACES.items()
    ]
    _all(commands, jobs)
    networks = [_RANDOM, *_checkpoints(out, _FACES)]
    size = ["--size", "112" if full else "64"]
    attributes, expressions = (
        f"attributes={sets / 'attributes.csv'}",
        str(sets / "expressions" / "fer2013_subset"),
    )
    points, people = f"landmarks={sets / 'landmarks5' / 'points.csv'}", f"identities={sets / 'people.csv'}"
    tuned = [["--first", "1627", "--seeds", "3"], ["--first", "8000", "--seeds", "3"]]
    if not full:
        tuned = [
            ["--first", "1627", "--seeds", "2", "--epochs", "6", "--least-steps", "70"],
            ["--first", "8000", "--seeds", "1", "--epochs", "1", "--least-steps", "60"],
        ]
    probes = [
        ["knn", "pixels", *networks, "--data", attributes, expressions, people],
        ["linear", *networks, "--data", attributes, "--first", "1627", "8000"],
        *(["finetune", *networks, "--data", attributes, *how] for how in tuned),
        ["linear", *networks, "--data", expressions, "--fraction", "0.1", "1.0", "--seeds", "1"],
        ["linear", *networks, "--data", points, "--seeds", "1", "--head-steps", "2000" if full else "500"],
    ]
    _probe(probes, out, size, jobs)


def cifar10(data: Path, out: Path, *, full: bool, jobs: int) -> None:
    """ResNet-18 on CIFAR-10; its classes by nearest neighbours and by a linear head."""
    sets = _cifar_sets(data, out / "data", full=full)
    whole, short = ("--data", str(sets / "unlabelled.csv")), ("--data", str(sets / "short.csv"))
    runs = {name: (*flags, *whole, "--epochs", "200") for name, flags in _CIFAR10.items()}
    if not full:
        runs = {name: (*flags, *_SHORT.split(), *short) for name, flags in _CIFAR10.items()}
        runs["simclr, 24 times as long"] = (*_CIFAR10["simclr"], *_LONGER.split(), *whole)
    commands = [[*_TRAIN, *flags, "--out", str(_run(out, name))] for name, flags in runs.items()]
    _all(commands, jobs)
    networks = _checkpoints(out, runs)
    stem = "full" if full else "half"
    classes = ["--data", f"classes={sets / 'classes.csv'}"]
    learnt = [source for source in networks if source.startswith("bregman")]
    asked = [source.replace("=", ", learnt=", 1) for source in learnt]
    probes = [
        ["knn", "pixels", f"random=scratch:resnet18,stem={stem}", *networks, *classes],
        ["linear", f"random=scratch:resnet18,stem={stem}", *networks, *classes],
        ["knn", *asked, *classes, "--divergence", "bregman"],
    ]
    _probe(probes, out, ["--size", "32"], jobs)


def _run(out: Path, name: str) -> Path:
    return out / re.sub(r"\W+", "-", name)


def _checkpoints(out: Path, names: Iterable[str]) -> list[str]:
    return [f"{name.replace('=', ' ')}={_run(out, name) / 'checkpoint'}" for name in names]


def _all(commands: Sequence[Sequence[str]], jobs: int) -> None:
    """Run them, some at a time; the first failure ends all of it."""
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if jobs > 1 else {}

    def run(command: Sequence[str]) -> None:
        print("$", " ".join(["python", *command[1:]]), flush=True)
        subprocess.run(command, check=True, env={**os.environ, **one}, stderr=subprocess.DEVNULL)

    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(run, command) for command in commands]:
            done.result()


def _probe(probes: Sequence[Sequence[str]], out: Path, size: Sequence[str], jobs: int) -> None:
    folders = [out / f"probe-{number}" for number in range(len(probes))]
    commands = [
        [*_TRAIN, "probe", *probe, *size, "--out", str(folder)]
        for probe, folder in zip(probes, folders, strict=True)
    ]
    _all(commands, jobs)
    subprocess.run([*_TRAIN, "probe", "table", *map(str, folders), "--out", str(out)], check=True)


def _face_sets(data: Path, to: Path, pictures: int) -> Path:
    """Unpack, and list who learns from what: no picture of the attributes' test rows is pre-trained on."""
    if (to / "unlabelled.csv").exists():
        return to
    for archive, folder in (
        ("faces/images.zip", to),
        ("landmarks5/images.zip", to / "landmarks5"),
        ("expressions/fer2013_subset.zip", to / "expressions"),
    ):
        with zipfile.ZipFile(data / archive) as packed:
            packed.extractall(folder)
    with (data / "landmarks5" / "points.csv").open(newline="") as file:
        header, *points = csv.reader(file)
    # The others lie 28 pixels too high in this set: the median distance to MTCNN's points is 28.2 pixels, and
    # 0.6 among these.
    _write(to / "landmarks5" / "points.csv", header, (row for row in points if not row[0].startswith("_")))
    with (data / "faces" / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = (data / "faces" / "attribute_names.txt").read_text().split()
    number = {row["path"]: int(found[1]) for row in rows if (found := re.search(r"/ck_(\d+)\.", row["path"]))}
    known = sorted(
        (row for row in rows if row["attributes"] and row["path"] in number), key=lambda r: number[r["path"]]
    )
    splits = {row["path"]: _split(number[row["path"]]) for row in known}
    _write(
        to / "attributes.csv",
        ["path", "split", *names],
        ([row["path"], splits[row["path"]], *row["attributes"]] for row in known),
    )
    free = [r["path"] for r in rows if r["split"] == "train" and splits.get(r["path"], "train") == "train"]
    random.Random(0).shuffle(free)
    heldout = [[row["path"], row["identity"], "test"] for row in rows if row["split"] == "heldout"]
    few = sorted({row["identity"] for row in rows if row["split"] == "train"})[:100]
    learnt = [[row["path"], row["identity"], "train"] for row in rows if row["identity"] in few]
    _write(to / "people.csv", ["path", "identity", "split"], [*learnt, *heldout])
    _write(to / "unlabelled.csv", ["path"], ([path] for path in free[: pictures or None]))
    return to


def _split(number: int) -> str:
    """Of CelebA's rows: to 8,000 for training, some to choose by, the rest to test."""
    return "train" if number <= 8000 else "validation" if number <= 8500 else "test"


def _cifar_sets(data: Path, to: Path, *, full: bool) -> Path:
    """Unpack, and list what is learnt from; on a CPU, what the probes see is a part."""
    if (to / "unlabelled.csv").exists():
        return to
    with tarfile.open(data / "cifar10" / "cifar10.tar.xz") as packed:
        packed.extractall(to, filter="data")
    rows = sorted(
        (path.relative_to(to).as_posix(), path.parts[-3], path.parts[-2]) for path in to.glob("*/*/*")
    )
    random.Random(0).shuffle(rows)
    train = [row for row in rows if row[1] == "train"]
    test = [row for row in rows if row[1] == "test"]
    few = (None, None) if full else (15_000, 5_000)
    _write(to / "classes.csv", ["path", "split", "label"], [*train[: few[0]], *test[: few[1]]])
    _write(to / "short.csv", ["path"], ([path] for path, *_ in train[:16_000]))
    _write(to / "unlabelled.csv", ["path"], ([path] for path, *_ in train[: None if full else 48_000]))
    return to


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    beside = path.with_suffix(".part")
    with beside.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    beside.replace(path)


if __name__ == "__main__":
    main()
