"""What C2D makes of wrong labels: ``noisy_labels.py faces|cifar10 --data DATA --out OUT``.

DATA is the folder that holds ``faces/`` and ``cifar10/`` as archives. Gives a share of the training pictures
another label, at random. Then runs ``c2d`` from a network that learnt the same pictures without labels, of
faces the other people's for training too (``--init``, else ``simclr`` makes it), and from random weights; and
plain training of one such network, for as many passes as ``c2d``'s two take. What is done is found again
when it is repeated: give another OUT for another ``--init``. Runs ``--jobs`` trainings at once, one thread
each; ``--full`` is the whole of it, for a GPU. Prints and keeps the table:

* ROC-AUC of the clean probability against what is known to be right, after the warm-up and at the end;
* how many suggestions are right;
* accuracy of the kept network against the right labels, on training pictures and on others of the classes.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tarfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from sklearn.metrics import roc_auc_score
from trainings import TRAIN, read_table, run_all, write_table

from facekit.checkpoint import load_checkpoint
from facekit.train.config import DataSettings
from facekit.train.data import load_crops, read_listing

_AUCS = ("AUC after warm-up", "AUC at the end")
_COLUMNS = ("noise", "run", *_AUCS, "suggestions right", "training, %", "test, %", "minutes")


@dataclass(frozen=True)
class Plan:
    """What is learnt, and how.

    Attributes:
        noise: shares of wrong labels, in %.
        classes: how many, at most.
        least: pictures that a person must have.
        each: pictures of each to learn from, at most.
        side: pixels that pictures are read at.
        network: flags of every run.
        before: flags of the run without labels.
        learn: flags of the runs with labels.
        started: more of them for those that start from a trained network.
        warmup: epochs of C2D's warm-up.
        epochs: of C2D in all.
    """

    noise: tuple[int, ...]
    classes: int
    least: int
    each: int
    side: int
    network: str
    before: str
    learn: str
    started: str
    warmup: int
    epochs: int

    @property
    def pictures(self) -> str:
        """Folder of what is learnt: another plan has other pictures."""
        return f"data-{self.classes}-{self.least}-{self.each}"

    @property
    def plain(self) -> int:
        """Epochs of one network that take as many passes as all of C2D's two.

        An epoch after the warm-up takes each picture five times through a network, and gradients of two of
        them back: 2 views to guess, 2 to learn, 1 picture to judge. One of the warm-up takes it once and
        back. A way back costs two ways there: (5 + 4) / (1 + 2) = 3.
        """
        return 2 * (self.warmup + 3 * (self.epochs - self.warmup))


_FACES = Plan(
    noise=(20, 40, 60),
    classes=20,
    least=100,
    each=120,
    side=64,
    network="--architecture resnet10t --size 48 --resolution 64",
    before="simclr --epochs 5 --batch-size 128 --lr 1e-3",
    learn="--batch-size 64 --lr 1e-3 --head margin",
    started="",
    warmup=4,
    epochs=10,
)
_ALL_FACES = Plan(
    noise=(20, 40, 60),
    classes=1_000,
    least=10,
    each=1_000,
    side=112,
    network="--architecture resnet18 --size 112 --resolution 112",
    before="simclr --epochs 200 --batch-size 512 --lr 1e-3",
    learn="--batch-size 128 --lr 1e-3 --head margin",
    started="",
    warmup=5,
    epochs=60,
)
_CIFAR10 = Plan(
    noise=(40, 80),
    classes=10,
    least=1,
    each=500,
    side=32,
    network="--architecture resnet18 --stem half --size 32 --resolution 32",
    before="simclr --epochs 10 --batch-size 64 --lr 1e-3 --temperature 0.2 --area 0.2 1.0 --blur 0",
    learn="--preset cifar10",
    started="--lr 3e-3 --backbone-lr 3e-4",
    warmup=4,
    epochs=5,
)
_ALL_CIFAR10 = Plan(
    noise=(40, 80),
    classes=10,
    least=1,
    each=5_000,
    side=32,
    network="--architecture resnet18 --stem full --size 32 --resolution 32",
    before="simclr --preset cifar10 --epochs 300",
    learn="--preset cifar10",
    started="",
    warmup=5,
    epochs=120,
)


def main() -> None:
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("table", choices=("faces", "cifar10"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--init",
        help="checkpoint of the plan's architecture that learnt without labels, and none of data*/test.csv",
    )
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    began = time.monotonic()
    out = given.out / f"{given.table}-{'full' if given.full else 'short'}"
    out.mkdir(parents=True, exist_ok=True)
    if given.table == "faces":
        plan = _ALL_FACES if given.full else _FACES
        sets = face_sets(plan, given.data, out / plan.pictures)
    else:
        plan = _ALL_CIFAR10 if given.full else _CIFAR10
        sets = cifar_sets(plan, given.data, out / plan.pictures)
    measure(plan, sets, out, init=given.init, jobs=given.jobs)
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")


def measure(plan: Plan, sets: Path, out: Path, *, init: str | None, jobs: int) -> None:
    """Train what is not there yet, and print what all of it is worth."""
    network = plan.network.split()
    if init is None:
        learnt = out / "simclr"
        data = ("--data", str(sets / "unlabelled.csv"), "--out", str(learnt))
        run_all([[*TRAIN, *plan.before.split(), *network, *data]], 1)
        init = str(learnt / "checkpoint")
    start = ("--init", init, *plan.started.split())
    c2d = ("--epochs", str(plan.epochs), "--warmup-epochs", str(plan.warmup))
    plain = ("--epochs", str(plan.plain), "--warmup-epochs", str(plan.plain))
    ways = {
        "c2d": (*start, *c2d),
        "c2d, random start": ("--init", "random", *c2d),
        "plain": (*start, *plain),
    }
    place = out / f"runs-{plan.each}-{plan.epochs}"  # another plan has other runs
    runs = {
        (noise, way): place / re.sub(r"\W+", "-", f"{way} {noise}") for noise in plan.noise for way in ways
    }
    commands = []
    for (noise, way), run in runs.items():
        if not (run / "head.safetensors").exists():  # written last
            data = ("--data", str(sets / f"noisy{noise}.csv"), "--out", str(run))
            commands.append([*TRAIN, "c2d", *plan.learn.split(), *network, *ways[way], *data])
    run_all(commands, jobs)
    truth = {row["path"]: row["identity"] for row in read_table(sets / "true.csv")}
    rows = [[f"{noise} %", way, *_worth(plan, run, sets, truth)] for (noise, way), run in runs.items()]
    lines = ["| " + " | ".join(row) + " |" for row in (_COLUMNS, ["---"] * len(_COLUMNS), *rows)]
    (out / "noisy_labels.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _worth(plan: Plan, run: Path, sets: Path, truth: Mapping[str, str]) -> list[str]:
    """The cells of a run."""
    tables = (run / "losses-warmup.csv", run / "losses.csv")
    aucs = [_auc(table, truth) if table.exists() else "" for table in tables]
    suggested = [
        row["suggestion"] == truth[row["path"]] for row in read_table(tables[1]) if row["suggestion"]
    ]
    right = f"{sum(suggested)} of {len(suggested)}"
    accuracy = [f"{100 * _accuracy(run, sets / f'{part}.csv', plan.side):.1f}" for part in ("true", "test")]
    times = [json.loads(line)["time"] for line in (run / "log.jsonl").read_text().splitlines()]
    return [*aucs, right, *accuracy, f"{(times[-1] - times[0]) / 60:.0f}"]


def _auc(table: Path, truth: Mapping[str, str]) -> str:
    rows = read_table(table)
    right = [row["label"] == truth[row["path"]] for row in rows]
    return f"{roc_auc_score(right, [float(row['clean']) for row in rows]):.3f}"


@torch.inference_mode()
def _accuracy(run: Path, table: Path, side: int) -> float:
    """Of the kept network and its head, on pictures whose right labels the table has."""
    listing, _ = read_listing(DataSettings(data=table, heldout=0.0))
    crops = load_crops(listing, side, progress=False)
    people = listing.source.person[listing.rows[crops.rows]].tolist()
    checkpoint = load_checkpoint(str(run / "checkpoint"))
    config = checkpoint.config
    assert isinstance(checkpoint.model, torch.nn.Module)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = checkpoint.model.to(device)
    mean, std = (torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (config.mean, config.std))
    with safe_open(run / "head.safetensors", "pt", str(device)) as file:
        about, weight = json.loads(file.metadata()["outputs"]), file.get_tensor("weight")
        bias = file.get_tensor("bias") if about["head"] == "softmax" else None
    weight = F.normalize(weight) if bias is None else weight  # the order is that of the cosines
    said: list[int] = []
    for pictures in torch.split(crops.pictures, 256):
        x = pictures.to(device).float()
        if side != config.input_size:
            size = (config.input_size, config.input_size)
            x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        said += F.linear(model((x - mean) / std).float(), weight, bias).argmax(1).tolist()
    classes = about["names"]
    pairs = zip(said, people, strict=True)
    return sum(classes[said] == listing.source.people[person] for said, person in pairs) / len(crops)


def face_sets(plan: Plan, data: Path, to: Path) -> Path:
    """People of the training part with enough pictures, of which a fifth is kept for the test."""
    if (to / "true.csv").exists():
        return to
    with zipfile.ZipFile(data / "faces" / "images.zip") as packed:
        packed.extractall(to)
    pictures: dict[str, list[str]] = defaultdict(list)
    for row in read_table(data / "faces" / "index.csv"):
        if row["split"] == "train":
            pictures[row["identity"]].append(row["path"])
    draw = random.Random(0)
    names = sorted(name for name, paths in pictures.items() if len(paths) >= plan.least)
    chosen = sorted(draw.sample(names, min(plan.classes, len(names))))
    train: dict[str, list[str]] = {}
    test: dict[str, list[str]] = {}
    for name in chosen:
        paths = sorted(pictures[name])
        draw.shuffle(paths)
        paths = paths[: 5 * plan.each // 4]
        test[name], train[name] = paths[: len(paths) // 5], paths[len(paths) // 5 :]
    unseen = {path for paths in test.values() for path in paths}
    pile = sorted(path for paths in pictures.values() for path in paths if path not in unseen)
    return write_sets(plan, to, train, test, pile)


def cifar_sets(plan: Plan, data: Path, to: Path) -> Path:
    """CIFAR-10 in its own split."""
    if (to / "true.csv").exists():
        return to
    with tarfile.open(data / "cifar10" / "cifar10.tar.xz") as packed:
        packed.extractall(to, filter="data")
    parts: dict[str, dict[str, list[str]]] = {"train": defaultdict(list), "test": defaultdict(list)}
    for path in sorted(to.glob("*/*/*")):
        part, name = path.relative_to(to).parts[:2]
        parts[part][name].append(path.relative_to(to).as_posix())
    train, test = (
        {name: paths[: plan.each] for name, paths in parts[part].items()} for part in ("train", "test")
    )
    return write_sets(plan, to, train, test, sorted(path for paths in train.values() for path in paths))


def write_sets(
    plan: Plan,
    to: Path,
    train: Mapping[str, Sequence[str]],
    test: Mapping[str, Sequence[str]],
    pile: Sequence[str],
) -> Path:
    """Lists of what is learnt: with right labels, with wrong ones, with none; and of what is not."""
    draw, names = random.Random(0), sorted(train)
    learnt = [(path, name) for name in names for path in train[name]]
    for noise in plan.noise:
        wrong = set(draw.sample(range(len(learnt)), round(noise / 100 * len(learnt))))
        said = []
        for row, (path, name) in enumerate(learnt):
            other = draw.choice([other for other in names if other != name])
            said.append((path, other if row in wrong else name, "train"))  # so that nobody is held out
        write_table(to / f"noisy{noise}.csv", ["path", "identity", "split"], said)
    write_table(to / "unlabelled.csv", ["path"], ([path] for path in pile))
    write_table(
        to / "test.csv", ["path", "identity"], ((path, name) for name in names for path in test[name])
    )
    write_table(to / "true.csv", ["path", "identity"], learnt)  # last: it says that all are there
    return to


if __name__ == "__main__":
    main()
