"""What small views at the beginning save, and cost: ``low_resolution.py --data DATA --out OUT [--full]``.

DATA is the folder that holds ``faces/``, ``landmarks5/`` and ``expressions/`` as archives. Trains simclr
twice with the same pictures and as many steps, at 112 pixels throughout and at 64 for the first nine tenths,
one after the other: nothing else should run on the machine. Then probes both. What is finished
is found again when the command is repeated. ``--full`` is the whole of it, for a GPU.

Bars: 2.5 times as many pictures a second in the low part; no probe more than 2 points worse.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from trainings import RANDOM, TRAIN, face_sets, probe_all, run_all, training_rows

from facekit.train.log import read_log
from facekit.train.probe.table import read_cells

SHARE = 0.9
RUNS = {
    "112 px": (),
    "64, then 112 px": ("--start-size", "64", "--start-share", str(SHARE)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    out = arguments.out / ("full" if arguments.full else "short")
    out.mkdir(parents=True, exist_ok=True)
    sets = face_sets(arguments.data, out / "data", 0 if arguments.full else 6000)
    epochs, batch = (200, 512) if arguments.full else (4, 64)
    how = ["--size", "112", "--epochs", str(epochs), "--batch-size", str(batch), "--heldout", "0.02"]
    data = ["--data", str(sets / "unlabelled.csv")]
    runs = {name: out / name.replace(", ", "-").replace(" ", "-") for name in RUNS}
    run_all(
        [[*TRAIN, "simclr", *data, "--out", str(runs[name]), *how, *flags] for name, flags in RUNS.items()],
        1,
    )
    probes = _probes(
        sets, [f"{name}={run / 'checkpoint'}" for name, run in runs.items()], full=arguments.full
    )
    probe_all(probes, out, ["--size", "112"], 1)
    compare([out / f"probe-{number}" / "cells" for number in range(len(probes))])
    whole, low = (rate(run, batch, until) for run, until in zip(runs.values(), (1.0, SHARE), strict=True))
    ratio = low / whole
    print(f"pictures a second: {whole:.1f} at 112 px, {low:.1f} at 64 px: {ratio:.2f} times as many")
    print(f"the whole run: {1 / (SHARE / ratio + 1 - SHARE):.2f} times as fast")


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


def rate(run: Path, batch: int, until: float) -> float:
    """Pictures a second in the first part of a run, by its log; where it was interrupted does not count."""
    records = list(read_log(run / "log.jsonl"))
    total = max(record["step"] for record in records if record["event"] == "epoch")
    steps = [record for record in records if record["event"] == "step" and record["step"] < until * total]
    spans = [
        (after["step"] - before["step"], after["time"] - before["time"]) for before, after in pairwise(steps)
    ]
    usual = statistics.median(seconds for _, seconds in spans)
    kept = [span for span in spans if span[1] < 5 * usual]
    return batch * sum(count for count, _ in kept) / sum(seconds for _, seconds in kept)


if __name__ == "__main__":
    main()
