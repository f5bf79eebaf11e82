"""What small views at the beginning save, and cost: ``low_resolution.py quality|speed --data DATA --out OUT``

DATA is the folder that holds ``faces/``, ``landmarks5/`` and ``expressions/`` as archives. ``quality`` trains
simclr twice with the same pictures and as many steps, at 112 pixels throughout and at 64 for the first nine
tenths, and probes both; what is finished is found again when the command is repeated. ``speed`` times a
whole step at both sizes by turns: batch, views, forward, back and optimiser. ``--full`` is for a GPU.

Bars: 2.5 times as many pictures a second in the low part; no probe more than 2 points worse.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from rounds import now
from trainings import RANDOM, TRAIN, face_sets, probe_all, run_all, training_rows

from facekit.embed import resolve_device, resolve_precision
from facekit.train.config import DataSettings, RunSettings
from facekit.train.network import NetworkSettings
from facekit.train.optim import build_optimizer
from facekit.train.probe.table import read_cells
from facekit.train.recipe import Step
from facekit.train.recipes import simclr
from facekit.train.update import Update

SHARE = 0.9
TURNS = 40
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
    """Seconds of a step at both sizes, by turns, so that whatever else the machine does meets both alike."""
    settings = simclr.SimCLRSettings(
        data=DataSettings(data=sets / "unlabelled.csv"),
        run=RunSettings(out=out / "speed", batch_size=_batch(full)),
        network=NetworkSettings(architecture="resnet10t", size=112, start_size=64, resolution=112),
    )
    device = resolve_device(settings.run.device)
    recipe = simclr.build_recipe(settings)
    recipe.modules.to(device).train()
    update = Update(
        recipe,
        build_optimizer("adamw", recipe.groups, device),
        device=device,
        dtype=resolve_precision("auto", device),
        clip=settings.optim.clip,
        micro_batch=None,
        seed=0,
    )
    batches = (batch for epoch in count() for batch in recipe.batches(epoch))

    def seconds(progress: float) -> float:
        began = now(device)
        update(next(batches), Step(0, progress, 0.0))
        return now(device) - began

    turns = [(seconds(0.0), seconds(1.0)) for _ in range(2 + TURNS)][2:]
    low, high = (_batch(full) / statistics.median(part) for part in zip(*turns, strict=True))
    ratios = sorted(large / small for small, large in turns)
    middle = statistics.median(ratios)
    quartiles = f"{ratios[TURNS // 4]:.2f} to {ratios[-1 - TURNS // 4]:.2f}"
    print(f"pictures a second: {low:.1f} at 64 px, {high:.1f} at 112 px")
    print(f"{middle:.2f} times as fast, the middle half of {TURNS} turns {quartiles}")
    run = 1 / (SHARE / middle + 1 - SHARE)
    print(f"so, computed, the steps of a run of which {SHARE:.0%} are small: {run:.2f} times")


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


if __name__ == "__main__":
    main()
