"""What learning without labels is worth: ``pretrain_tables.py faces|cifar10 --data DATA --out OUT``.

DATA is the folder that holds ``faces/``, ``landmarks5/``, ``expressions/`` and ``cifar10/`` as archives.
Pre-trains every recipe with the same number of pictures and views, then probes all networks, with a random
one and pixels beside them. What is finished is found again when the command is repeated. Runs ``--jobs``
trainings at once, one thread each; ``--full`` is the whole of it, for a GPU. Prints and keeps the tables.
"""

from __future__ import annotations

import argparse
import random
import re
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path

from trainings import RANDOM, TRAIN, face_sets, probe_all, run_all, training_rows, write_table

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
_FURTHER = f"{_QUICK} --backbone-lr 1e-3 --batch-size 128 --epochs 3"


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
    sets = face_sets(data, out / "data", 0 if full else 6000)
    length = (
        "--size 112 --epochs 200 --batch-size 512"
        if full
        else "--size 64 --epochs 3 --batch-size 64 --lr 1e-3"
    )
    commands = [
        [
            *TRAIN,
            *flags,
            "--data",
            str(sets / "unlabelled.csv"),
            "--out",
            str(_run(out, name)),
            *length.split(),
        ]
        for name, flags in _FACES.items()
    ]
    run_all(commands, jobs)
    networks = [RANDOM, *_checkpoints(out, _FACES)]
    size = ["--size", "112" if full else "64"]
    attributes, expressions = (
        f"attributes={sets / 'attributes.csv'}",
        str(sets / "expressions"),
    )
    points, people = f"landmarks={sets / 'landmarks5' / 'points.csv'}", f"identities={sets / 'people.csv'}"
    most = training_rows(sets / "attributes.csv")
    seeds, few = ["--seeds", "3" if full else "1"], ["1627", most] if full else ["1627"]
    fractions = ["0.1", "1.0"] if full else ["1.0"]
    tuned = [["--first", "1627", "--seeds", "3"], ["--first", most, "--seeds", "3"]]
    if not full:
        tuned = [
            ["--first", "1627", "--seeds", "2", "--epochs", "6", "--least-steps", "70"],
            ["--first", most, "--seeds", "1", "--epochs", "1", "--least-steps", "60"],
        ]
    probes = [
        ["knn", "pixels", *networks, "--data", attributes, expressions, people],
        ["linear", *networks, "--data", attributes, "--first", *few, *seeds],
        *(["finetune", *networks, "--data", attributes, *how] for how in tuned),
        ["linear", *networks, "--data", expressions, "--fraction", *fractions, *seeds],
        ["linear", *networks, "--data", points, *seeds, "--head-steps", "2000" if full else "500"],
    ]
    probe_all(probes, out, size, jobs)


def cifar10(data: Path, out: Path, *, full: bool, jobs: int) -> None:
    """ResNet-18 on CIFAR-10; its classes by nearest neighbours and by a linear head."""
    sets = _cifar_sets(data, out / "data", full=full)
    whole, short = ("--data", str(sets / "unlabelled.csv")), ("--data", str(sets / "short.csv"))
    runs = {name: (*flags, *whole, "--epochs", "200") for name, flags in _CIFAR10.items()}
    if not full:
        runs = {name: (*flags, *_SHORT.split(), *short) for name, flags in _CIFAR10.items()}
        runs["simclr, 24 times as long"] = (*_CIFAR10["simclr"], *_LONGER.split(), *whole)
    commands = [[*TRAIN, *flags, "--out", str(_run(out, name))] for name, flags in runs.items()]
    run_all(commands, jobs)
    if not full:
        name, start = "simclr, 33 times as long", _run(out, "simclr, 24 times as long") / "checkpoint"
        runs[name] = (*_CIFAR10["simclr"], *_FURTHER.split(), "--init", str(start), *whole)
        run_all([[*TRAIN, *runs[name], "--out", str(_run(out, name))]], 1)
    networks = _checkpoints(out, runs)
    stem = "full" if full else "half"
    classes, seeds = ["--data", f"classes={sets / 'classes.csv'}"], ["--seeds", "3" if full else "1"]
    learnt = [source for source in networks if source.startswith("bregman")]
    asked = [source.replace("=", ", learnt=", 1) for source in learnt]
    probes = [
        ["knn", "pixels", f"random=scratch:resnet18,stem={stem}", *networks, *classes],
        ["linear", f"random=scratch:resnet18,stem={stem}", *networks, *classes, *seeds],
        ["knn", *asked, *classes, "--divergence", "bregman"],
    ]
    probe_all(probes, out, ["--size", "32"], jobs)


def _run(out: Path, name: str) -> Path:
    return out / re.sub(r"\W+", "-", name)


def _checkpoints(out: Path, names: Iterable[str]) -> list[str]:
    return [f"{name.replace('=', ' ')}={_run(out, name) / 'checkpoint'}" for name in names]


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
    write_table(to / "classes.csv", ["path", "split", "label"], [*train[: few[0]], *test[: few[1]]])
    write_table(to / "short.csv", ["path"], ([path] for path, *_ in train[:16_000]))
    write_table(to / "unlabelled.csv", ["path"], ([path] for path, *_ in train[: None if full else 48_000]))
    return to


if __name__ == "__main__":
    main()
