"""What small views at the beginning save, and cost: ``low_resolution.py quality|speed --data DATA --out OUT``

DATA is the folder that holds ``faces/``, ``landmarks5/`` and ``expressions/`` as archives. ``quality`` trains
simclr twice with the same pictures and as many steps, at 112 pixels throughout and at 64 for the first nine
tenths, and probes both. ``speed`` trains it with 64 pixels for half of a short run and with 112 for the
other, some times, and compares both halves of each by its log: nothing else should run on the machine. What
is finished is found again when the command is repeated. ``--full`` is the whole of it, for a GPU.

Bars: 2.5 times as many pictures a second in the low part; no probe more than 2 points worse.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from trainings import RANDOM, TRAIN, face_sets, probe_all, run_all, training_rows

from facekit.train.log import read_log
from facekit.train.probe.table import read_cells

SHARE = 0.9
ROUNDS = 3
RUNS = {
    "112 px": (),
    "64, then 112 px": ("--start-size", "64", "--start-share", str(SHARE)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=("quality", "speed"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    out = arguments.out / ("full" if arguments.full else "short")
    out.mkdir(parents=True, exist_ok=True)
    sets = face_sets(arguments.data, out / "data", 0 if arguments.full else 6000)
    table = {"quality": quality, "speed": speed}[arguments.table]
    table(sets, out, full=arguments.full)


def quality(sets: Path, out: Path, *, full: bool) -> None:
    """Both runs, and by how much the second is better or worse in each probe."""
    runs = {name: out / name.replace(", ", "-").replace(" ", "-") for name in RUNS}
    length = ["--epochs", "200" if full else "4"]
    run_all([_simclr(sets, runs[name], [*length, *flags], full=full) for name, flags in RUNS.items()], 1)
    probes = _probes(sets, [f"{name}={run / 'checkpoint'}" for name, run in runs.items()], full=full)
    probe_all(probes, out, ["--size", "112"], 1)
    compare([out / f"probe-{number}" / "cells" for number in range(len(probes))])


def speed(sets: Path, out: Path, *, full: bool) -> None:
    """Pictures a second at both sizes, in each of some runs, and their ratio."""
    ratios = []
    for seed in range(ROUNDS):
        run = out / f"speed-{seed}"
        flags = ["--epochs", "2" if full else "1", "--start-size", "64", "--start-share", "0.5"]
        run_all([_simclr(sets, run, [*flags, "--seed", str(seed)], full=full)], 1)
        low, high = rates(run, _batch(full))
        ratios.append(low / high)
        print(f"pictures a second: {low:.1f} at 64 px, {high:.1f} at 112 px: {low / high:.2f} times as many")
    ratio = statistics.median(ratios)
    print(f"median of {ROUNDS}: {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"a run of which {SHARE:.0%} are small: {1 / (SHARE / ratio + 1 - SHARE):.2f} times as fast")


def _batch(full: bool) -> int:
    return 512 if full else 64


def _simclr(sets: Path, out: Path, flags: Sequence[str], *, full: bool) -> list[str]:
    place = ["--data", str(sets / "unlabelled.csv"), "--out", str(out), "--heldout", "0.02"]
    return [*TRAIN, "simclr", *place, "--size", "112", "--batch-size", str(_batch(full)), *flags]


def _probes(sets: Path, networks: Sequence[str], *, full: bool) -> list[list[str]]:
    attributes, people = f"attributes={sets / 'attributes.csv'}", f"identities={sets / 'people.csv'}"
    expressions = str(sets / "expressions")
    if not full:
        return [
            ["knn", *networks, "--data", attributes, people],
            ["linear", *networks, "--data", attributes, "--first", "1627"],
        ]
    most = training_rows(sets / "attributes.csv")
    return [
        ["knn", RANDOM, *networks, "--data", attributes, expressions, people],
        ["linear", RANDOM, *networks, "--data", attributes, "--first", "1627", most],
        ["linear", RANDOM, *networks, "--data", expressions, "--seeds", "1"],
        ["finetune", RANDOM, *networks, "--data", attributes, "--first", "1627", "--seeds", "3"],
    ]


def compare(folders: Sequence[Path]) -> None:
    """Print how much better the second run is than the first, by the main figure of each probe."""
    found: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in (cell for folder in folders for cell in read_cells(folder)):
        metric = cell.metrics[0].name
        probe = (cell.set, cell.task, cell.mode, cell.labels, metric)
        found[probe][cell.method].append(100 * cell.scores[metric])
    for probe, scores in found.items():
        first, second = (statistics.mean(scores[name]) for name in RUNS)
        print(f"{', '.join(probe)}: {first:.2f} and {second:.2f}, {second - first:+.2f} points")


def rates(run: Path, batch: int) -> tuple[float, float]:
    """Pictures a second in the first half of a run and in the second, by its log, without the first steps."""
    records = list(read_log(run / "log.jsonl"))
    half = max(record["step"] for record in records if record["event"] == "epoch") / 2
    steps = [record for record in records if record["event"] == "step"][1:]
    parts = [r for r in steps if r["step"] <= half], [r for r in steps if r["step"] >= half]
    low, high = (
        batch * (part[-1]["step"] - part[0]["step"]) / (part[-1]["time"] - part[0]["time"]) for part in parts
    )
    return low, high


if __name__ == "__main__":
    main()
