"""What each part of the convrec recipe is worth, on training people and on people held out.

    facekit embed --aligned faces --checkpoint teacher.onnx --out teacher.npz > embed.log
    python tests/benchmarks/train_ablation.py index.csv --images faces --teacher teacher.npz --out ablation

Every variant differs from the recipe in what its name says, and in nothing else; all see the same pictures.
The figures of a run are one JSON file; what is there is not done again, and the table is made of what is
there. A seed decides on weights, order and augmentation. ``--part 0/2`` and ``--part 1/2`` share the runs
out between two processes. ``--full`` takes everybody, 112 pixels, ResNet-50 and the published length, for a
GPU.

"Training accuracy" is the share of the training pictures, without augmentation, whose nearest class centre
by cosine is their own. TAR, AUC and EER are those of all pairs: of the training pictures, as the published
table has them, and of people whom the network never saw.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from facekit.checkpoint import load_checkpoint
from facekit.embed import Embedder
from facekit.errors import TrainingError
from facekit.evaluate import roc_of_people
from facekit.train.config import DataSettings, OptimSettings, RunSettings
from facekit.train.data import Crops, load_crops, read_listing
from facekit.train.loop import fit
from facekit.train.recipes.convrec import ConvRecSettings, build_recipe

VARIANTS: dict[str, dict[str, Any]] = {
    "progressive": {},
    "constant": {"margin_schedule": "constant"},
    "softmax-64": {"margin_schedule": "constant", "margin": 0.0},
    "softmax-30": {"margin_schedule": "constant", "margin": 0.0, "scale": 30.0},
    "warm-restarts": {"schedule": "warm-restarts"},
    "distilled": {"distill": True},
    "distilled-strongly": {"distill": True, "distill_weight": 64.0},
    "teacher-alone": {"distill": True, "margin_weight": 0.0},
}
TITLES = {
    "progressive": "progressive margin, one cosine (the recipe)",
    "constant": "full margin from the first step",
    "softmax-64": "no margin, s = 64",
    "softmax-30": "no margin, s = 30",
    "warm-restarts": "progressive margin, warm restarts",
    "distilled": "progressive margin and a teacher, --distill-weight 1",
    "distilled-strongly": "progressive margin and a teacher, --distill-weight 64",
    "teacher-alone": "the teacher alone",
}
FAR = 1e-3
PARTS = ("training", "heldout")
COLUMNS = (
    *(("training", figure) for figure in ("accuracy", "tar", "auc", "eer")),
    *(("heldout", figure) for figure in ("tar", "auc", "eer")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How large the comparison is; None takes all."""

    people: int | None
    pictures: int | None
    """Of each person; those who have fewer are left out."""
    architecture: str
    size: int
    epochs: int
    batch: int
    lr: float


SMALL = Plan(people=112, pictures=12, architecture="faceresnet", size=64, epochs=30, batch=64, lr=1e-3)
FULL = Plan(people=None, pictures=None, architecture="convrec", size=112, epochs=50, batch=256, lr=1e-3)


def choose(rows: Sequence[dict[str, str]], split: str, plan: Plan) -> list[dict[str, str]]:
    """The pictures of some people of a split, the same ones whenever they are asked for."""
    of: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        if row["split"] == split:
            of[row["identity"]].append(row)
    drawn = random.Random(0)
    able = sorted(name for name, own in of.items() if len(own) >= (plan.pictures or 1))
    people = able if plan.people is None else sorted(drawn.sample(able, min(plan.people, len(able))))
    return [row for name in people for row in drawn.sample(of[name], plan.pictures or len(of[name]))]


def write_listings(index: Path, out: Path, plan: Plan) -> dict[str, Path]:
    """One CSV of those who are learnt, one of those who are held out."""
    with index.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    out.mkdir(parents=True, exist_ok=True)
    listings = {}
    for part, split in zip(PARTS, ("train", "heldout"), strict=True):
        listings[part] = out / f"{part}.csv"
        partial = out / f"{part}-{os.getpid()}.partial"  # another process may be at it
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["path", "identity", "split"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows({**row, "split": "train"} for row in choose(rows, split, plan))
        partial.replace(listings[part])
    return listings


def settings_of(
    variant: str, seed: int, listing: Path, args: argparse.Namespace, plan: Plan
) -> ConvRecSettings:
    """The recipe, changed in what the variant is about."""
    changes = dict(VARIANTS[variant])
    if changes.pop("distill", False):
        changes["distill"] = str(args.teacher)
    schedule = changes.pop("schedule", "cosine")
    return ConvRecSettings(
        data=DataSettings(data=listing, images=args.images, heldout=0.0),
        run=RunSettings(
            out=args.out / "runs" / f"{variant}-{seed}",
            epochs=plan.epochs,
            batch_size=plan.batch,
            seed=seed,
            device=args.device,
        ),
        optim=OptimSettings(lr=plan.lr, schedule=schedule),
        architecture=plan.architecture,
        init=args.init,
        size=plan.size,
        **changes,
    )


def figures(embeddings: Tensor, crops: Crops, centres: Tensor | None) -> dict[str, float | None]:
    """Accuracy against class centres, where there are such, and the rates of all pairs."""
    curve = roc_of_people(embeddings.numpy(), crops.labels.numpy())
    accuracy = None
    if centres is not None:
        nearest = (embeddings @ F.normalize(centres.detach().float().cpu()).T).argmax(1)
        accuracy = float((nearest == crops.labels).float().mean())
    return {"accuracy": accuracy, "tar": curve.tar_at_far(FAR), "auc": curve.auc, "eer": curve.eer}


def run(settings: ConvRecSettings, crops: dict[str, Crops]) -> dict[str, Any]:
    """Train once, and look at the checkpoint that comes out."""
    folder = settings.run.out
    shutil.rmtree(folder, ignore_errors=True)  # what was cut off begins anew, so that its time is whole
    wall, cpu = time.perf_counter(), time.process_time()
    recipe = build_recipe(settings)
    found: dict[str, Any] = {"diverged": None}
    try:
        checkpoint = load_checkpoint(fit(recipe, settings.run, settings.optim))
    except TrainingError as error:
        found["diverged"] = str(error)
    found |= {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    found["log"] = [line for line in log if line["event"] != "scores"]
    if found["diverged"] is None:
        embedder = Embedder(checkpoint, device=settings.run.device)
        centres = {"training": recipe.modules["head"].weight} if "head" in recipe.modules else {}
        for part in PARTS:
            embeddings = embedder.embed(crops[part].pictures)
            found[part] = figures(embeddings, crops[part], centres.get(part))
    shutil.rmtree(folder / "state", ignore_errors=True)
    return found


def keep(file: Path, found: dict[str, Any]) -> None:
    """Written whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(found), encoding="utf-8")
    partial.replace(file)


def cell(figure: str, values: Sequence[float | None]) -> str:
    """Mean and standard deviation: of the area under the curve as it is, of rates in percent."""
    unit, digits = (1, 3) if figure == "auc" else (100, 1)
    known = [unit * value for value in values if value is not None]
    if not known:
        return ""
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.{digits}f}{spread}"


def table(results: Path) -> str:
    """One row a variant, over the seeds whose files are there."""
    heads = ["variant", *(f"{part}: {figure}" for part, figure in COLUMNS), "first loss", "seeds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    spent = [0.0, 0.0]
    for variant, title in TITLES.items():
        files = sorted(results.glob(f"{variant}-[0-9]*.json"))
        runs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        if not runs:
            continue
        spent = [spent[0] + sum(r["seconds"] for r in runs), spent[1] + sum(r["cpu_seconds"] for r in runs)]
        good = [r for r in runs if r["diverged"] is None]
        cells = [cell(figure, [r[part][figure] for r in good]) for part, figure in COLUMNS]
        steps = [next(line for line in r["log"] if line["event"] == "step") for r in runs]
        first = statistics.fmean(line.get("margin_loss", line["loss"]) for line in steps)
        stopped = f", {len(runs) - len(good)} diverged" if len(good) < len(runs) else ""
        lines.append(f"| {title} | {' | '.join(cells)} | {first:.1f} | {len(runs)}{stopped} |")
    total = f"{spent[0] / 60:.0f} minutes by the clock, {spent[1] / 60:.0f} of processor time"
    return "\n".join([*lines, "", f"summed over runs: {total}"])


def parse() -> tuple[argparse.Namespace, Plan]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=Path, help="CSV with path, identity and split (train or heldout)")
    parser.add_argument("--images", type=Path, help="where its paths start, if not beside it")
    parser.add_argument("--teacher", type=Path, help=".npz of facekit embed --aligned")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--init", help="as facekit.train convrec takes it")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--part", default="0/1", help="which of how many processes this is")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    for name, kind in (("architecture", str), ("size", int), ("people", int), ("epochs", int), ("lr", float)):
        parser.add_argument(f"--{name}", type=kind, help="instead of the plan's")
    args = parser.parse_args()
    plan = asdict(FULL if args.full else SMALL)
    return args, Plan(**{name: getattr(args, name, None) or value for name, value in plan.items()})


def main() -> None:
    args, plan = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    turn, turns = (int(number) for number in args.part.split("/"))
    todo = [(variant, seed) for seed in args.seeds for variant in args.variants]
    if args.teacher is None:
        todo = [pair for pair in todo if "distill" not in VARIANTS[pair[0]]]
    results = args.out / "results"
    results.mkdir(parents=True, exist_ok=True)
    listings = write_listings(args.index, args.out / "listings", plan)
    images = args.images or args.index.parent
    args.images = images
    crops = {
        part: load_crops(read_listing(DataSettings(data=file, images=images, heldout=0.0))[0])
        for part, file in listings.items()
    }
    print({part: (len(own), own.classes) for part, own in crops.items()}, plan, flush=True)
    for variant, seed in todo[turn::turns]:
        file = results / f"{variant}-{seed}.json"
        if not file.exists():
            found = run(settings_of(variant, seed, listings["training"], args, plan), crops)
            keep(file, {"variant": variant, "seed": seed, "plan": asdict(plan), **found})
    print(table(results))


if __name__ == "__main__":
    main()
