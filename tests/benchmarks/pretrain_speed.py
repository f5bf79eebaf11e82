"""Images a second of learning without labels: the whole loop, beside the bare network and lightly's loop.

    python tests/benchmarks/pretrain_speed.py                     # faces: 64 px, resnet10t
    python tests/benchmarks/pretrain_speed.py --cifar             # 32 px, resnet18 for small pictures
    python tests/benchmarks/pretrain_speed.py --data FOLDER       # with pictures of one's own, all square

Without --data the pictures are noise. The contenders take turns, so that whatever else the machine does meets
them alike; of each round the ratios count. All of them train the same network from random weights, under the
same autocast, on the same files and views of the same number, size and strength (but for the sides of crops,
which lightly has at 3:4 to 4:3):

- ``facekit``: fit() itself: batches, views, network, head, loss, clipping, AdamW, log. What comes at the end
  of an epoch, a look at the features and perhaps saving, is left out.
- ``bare``: forward and backward of the network, channels last, on views that lie ready, and nothing else.
- ``lightly``: lightly's losses, heads and transforms in the loop that its examples show, with the same AdamW,
  in a process of its own. Its transforms get PIL pictures that are decoded already, as facekit has them, from
  a DataLoader with as many workers as turned out best in a trial of --steps steps. lightly has no VCL and no
  Bregman divergence: beside those stands its SimCLR, which does less.

Asked of facekit: 1.5 times lightly's speed on two CPU cores, and 0.7 of the bare network's on a GPU.
"""

from __future__ import annotations

import argparse
import csv
import platform
import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rounds import UNUSED, Bare, machine, make_pictures, ratios, spread, take_turns

from facekit.embed import resolve_device
from facekit.image import find_images
from facekit.train.config import DataSettings, OptimSettings, RunSettings
from facekit.train.memory import keep_freed_memory
from facekit.train.network import NetworkSettings
from facekit.train.pretrain import FACE_VIEWS, SMALL_VIEWS
from facekit.train.recipe import Recipe, Scores
from facekit.train.recipes import bregman, simclr, swav, vcl
from facekit.train.start import start_network

RECIPES: Mapping[str, tuple[Callable[..., Any], Callable[[Any], Recipe], Mapping[str, Any]]] = {
    "simclr": (simclr.SimCLRSettings, simclr.build_recipe, {}),
    "vcl": (vcl.VCLSettings, vcl.build_recipe, {}),
    "vcl --beta": (vcl.VCLSettings, vcl.build_recipe, {"beta": True}),
    "bregman": (bregman.BregmanSettings, bregman.build_recipe, {}),
    "swav": (swav.SwAVSettings, swav.build_recipe, {}),
}
CIFAR: Mapping[str, Mapping[str, Any]] = {"bregman": {"subnetworks": 100}}  # as its preset has it
OPTIM = OptimSettings(weight_decay=1e-2)
VERSIONS = ("torchvision", "lightly", "pillow")
COLUMNS = (
    "recipe",
    "facekit, images/s",
    "bare network, images/s",
    "facekit of the bare network",
    "lightly's loop, images/s",
    "facekit is so many times as fast as lightly",
)


def bare(settings: Any) -> Bare:
    """The backbone on as many random views as a recipe draws of a batch."""
    network, device, batch = settings.network, resolve_device(settings.run.device), settings.run.batch_size
    groups = [(2, network.size)]
    if isinstance(settings, swav.SwAVSettings):
        groups.append((settings.small_views, settings.small_size))
    views = [torch.randn(count * batch, 3, size, size, device=device) for count, size in groups]
    start = start_network(network.architecture, "random", size=network.size, sizes=network.sizes)
    return Bare(start.model.to(device), views)


def settings_of(name: str, table: Path, place: Path, args: argparse.Namespace) -> Any:
    """A recipe's settings: its defaults, but for what all recipes are to have alike."""
    kind, _, more = RECIPES[name]
    if name == "swav":  # in proportion to 48 of 112 px, in 16s
        more = {"small_size": 16 * max(1, round(args.size * 48 / 112 / 16))}
    return kind(
        data=DataSettings(data=table, images=args.data, heldout=0.0),
        run=RunSettings(
            out=place / name.replace(" ", ""),
            epochs=args.rounds + UNUSED,
            batch_size=args.batch,
            device=args.device,
            save_minutes=1e6,
        ),
        optim=OPTIM,
        network=NetworkSettings(
            architecture=args.architecture,
            stem="full" if args.cifar else None,
            size=args.size,
            resolution=args.resolution,
        ),
        views=SMALL_VIEWS if args.cifar else FACE_VIEWS,
        **{**more, **(CIFAR.get(name, {}) if args.cifar else {})},
    )


def write_listing(args: argparse.Namespace, table: Path) -> list[Path]:
    """A CSV of as many pictures as a round takes, drawn from the folder; and their paths."""
    found, wanted = find_images(args.data), args.batch * args.steps
    if len(found) < wanted:
        sys.exit(f"{args.data}: {len(found)} pictures, and a round takes {wanted}; lower --batch or --steps")
    chosen = random.Random(0).sample(found, wanted)
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path"])
        writer.writerows([path.relative_to(args.data).as_posix()] for path in chosen)
    return chosen


def measure(args: argparse.Namespace, place: Path) -> None:
    """Every recipe in turn, each a row of the table."""
    if args.data is None:
        args.data = place / "pictures"
        make_pictures(args.data, args.batch * args.steps, size=args.resolution, people=64)
    paths = write_listing(args, place / "pictures.csv")
    peers: dict[str, Any] = {}
    rows = []
    for name in args.recipes:
        settings = settings_of(name, place / "pictures.csv", place, args)
        others: dict[str, Callable[[int], float]] = {"bare": bare(settings)}
        if installed("lightly"):
            from lightly_loop import LightlyApart

            peer = peer_of(name)
            if peer not in peers:
                peers[peer] = LightlyApart(settings, paths, args.workers)
            others["lightly"] = peers[peer]
        recipe = RECIPES[name][1](settings)
        if recipe.steps_per_epoch != args.steps:
            sys.exit(f"{args.data}: some pictures are no square pictures, as is said above; take others")
        recipe = replace(recipe, evaluate=lambda at: Scores({}))
        rows.append(row(name, take_turns(recipe, settings.run, settings.optim, others), len(paths)))
    for peer, loop in peers.items():
        print(f"lightly's {peer}: {loop.workers} workers")
        loop.close()
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    print("\n".join(rows))


def row(name: str, seconds: Mapping[str, Sequence[float]], images: int) -> str:
    """Medians and ranges over the rounds."""
    speeds = {who: spread([images / one for one in own], 1) for who, own in seconds.items()}
    lightly, times = "not installed", ""
    if "lightly" in seconds:
        lightly = f"{peer_of(name)}: {speeds['lightly']}"
        times = spread(ratios(seconds["lightly"], seconds["facekit"]), 2)
    of_bare = spread(ratios(seconds["bare"], seconds["facekit"]), 2)
    return f"| {name} | {speeds['facekit']} | {speeds['bare']} | {of_bare} | {lightly} | {times} |"


def peer_of(recipe: str) -> str:
    """Which method of lightly stands beside a recipe."""
    return "SwaV" if recipe == "swav" else "SimCLR"


def installed(name: str) -> str:
    """The version of a package, empty where it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of square pictures; if not given, noise")
    parser.add_argument("--cifar", action="store_true", help="32 px, resnet18 with a full stem, its views")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--architecture", help="resnet10t; resnet18 with --cifar")
    parser.add_argument("--size", type=int, help="of the views: 64; 32 with --cifar")
    parser.add_argument("--resolution", type=int, help="of the pictures: 112; 32 with --cifar")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=4, help="of each contender in a round")
    parser.add_argument("--rounds", type=int, default=7, help="besides one that warms up")
    parser.add_argument("--workers", type=int, help="of lightly's DataLoader; if not given, the best")
    parser.add_argument("--threads", type=int, help="torch's, of all contenders")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    args.architecture = args.architecture or ("resnet18" if args.cifar else "resnet10t")
    args.size = args.size or (32 if args.cifar else 64)
    args.resolution = args.resolution or (32 if args.cifar else 112)
    return args


def main() -> None:
    args = arguments()
    keep_freed_memory()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    versions = ", ".join(f"{name} {installed(name) or 'not installed'}" for name in VERSIONS)
    print(f"{machine(resolve_device(args.device))}, {versions}, Python {platform.python_version()}")
    print(f"{args.architecture}, views of {args.size} px of pictures of {args.resolution} px, ", end="")
    print(f"batch {args.batch}, {args.rounds} rounds of {args.steps} steps", flush=True)
    with tempfile.TemporaryDirectory() as place:
        measure(args, Path(place))


if __name__ == "__main__":
    main()
