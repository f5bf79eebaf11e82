"""Everything that there is to measure on a GPU, in one command.

    python tests/benchmarks/gpu.py ../shared/data

Runs the CUDA tests (those of learning without labels compare views, losses and gradients with the CPU's),
then detect.py, encode.py, search.py, train_speed.py and pretrain_speed.py on the GPU (each prints facekit
beside its peers), then the embedder alone: faces a second, and the share of the card's own measured matrix
rate that it reaches. The last lines of each part are its result, as:

    facekit is 3.00 times as fast ...
    faceresnet bf16: 100000 faces/s, 90 TFLOP/s of 700 TFLOP/s measured (13 %)

The trainings by themselves take longer, and go on where they were stopped: their commands, and what they
should print, come last. Without a GPU these are all that is printed, and a line that says so.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from facekit.checkpoint import Checkpoint, ModelConfig, load_checkpoint
from facekit.embed import Embedder
from facekit.models import build

HERE = Path(__file__).parent
FACES = 16_384


def seconds(work: Callable[[], object], rounds: int = 5) -> float:
    """The fastest of several rounds, the device idle before and after each."""
    work()
    best = float("inf")
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def matrix_rate(dtype: torch.dtype, side: int = 8192) -> float:
    """Operations a second of a large matrix product, a multiplication and an addition being two."""
    a, b = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b)


def embedder_rate(checkpoint: Checkpoint, precision: str) -> str:
    """One line: faces a second, and how much of the matrix rate they take."""
    embedder = Embedder(checkpoint, device="cuda", precision=precision)
    crops = torch.randint(0, 256, (FACES, 3, 112, 112), dtype=torch.uint8, device="cuda")
    rate = FACES / seconds(lambda: embedder.embed(crops))
    side, views = checkpoint.config.input_size, 1 + checkpoint.config.flip_average
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        checkpoint.model.eval()(torch.zeros(1, 3, side, side))
    reached, limit = counter.get_total_flops() * views * rate, matrix_rate(embedder.dtype)
    share = f"{reached / 1e12:.0f} TFLOP/s of {limit / 1e12:.0f} TFLOP/s measured ({reached / limit:.0%})"
    return f"{checkpoint.config.architecture} {precision}: {rate:.0f} faces/s, {share}"


def random_convrec() -> Checkpoint:
    """The published network with random weights, which take the same time."""
    half = (127.5, 127.5, 127.5)
    return Checkpoint(build("convrec"), ModelConfig("convrec", 512, 112, "rgb", half, half))


def measurements(data: Path) -> list[list[str]]:
    """What is run here, as arguments of Python."""
    photos = [str(data / "photos"), str(data / "lfw" / "images.zip")]
    cuda = ["--device", "cuda"]
    large = [*cuda, "--size", "112", "--batch", "512", "--steps", "10", "--rounds", "3"]
    return [
        ["-m", "pytest", str(HERE.parent), "-m", "gpu", "--numprocesses", "0"],
        [str(HERE / "detect.py"), "--data", str(data), *cuda],
        [str(HERE / "encode.py"), *photos, *cuda],
        [str(HERE / "search.py"), *cuda],
        [str(HERE / "train_speed.py"), *cuda, "--steps", "20"],
        [str(HERE / "pretrain_speed.py"), "--architecture", "resnet50", *large],
        [str(HERE / "pretrain_speed.py"), "--architecture", "resnet18", *large],
    ]


def long_runs(data: Path) -> str:
    """The trainings as lines of a shell, each with what it should print."""
    train = "python -m facekit.train"
    cifar10 = "--preset cifar10 --data cifar10/train --epochs 200"
    noisy, few = (f"python {HERE / name}" for name in ("noisy_labels.py", "few_labels.py"))
    probed = "runs/simclr/checkpoint runs/bregman/checkpoint --data cifar10 --out runs/probes"
    return f"""\
The long runs, each of which goes on where it was stopped when it is started again.
Pictures without labels:
$ mkdir -p cifar10 && tar -xJf {data / "cifar10" / "cifar10.tar.xz"} -C cifar10
$ {train} simclr {cifar10} --out runs/simclr
$ {train} bregman {cifar10} --out runs/bregman
$ {train} probe knn {probed}
  accuracy of simclr: 84 % or more; of bregman: at most 0.5 points below that
$ {train} probe linear {probed}
  accuracy of simclr: 88 % or more; of bregman: at most 0.5 points below that
$ python {HERE / "pretrain_tables.py"} faces --full --data {data} --out runs/faces
  a table in which all recipes are ahead of the random network
Imperfect labels, and too much data:
$ {noisy} faces --full --data {data} --out runs/noisy
  AUC of the clean probability at 40 %: 0.90 or more, and 0.03 or more above the random start's
$ {noisy} cifar10 --full --init runs/simclr/checkpoint --data {data} --out runs/noisy
  the same; accuracy above that of plain training
$ {few} hidden --full --data {data} --out runs/few
  less than 3 points of macro-F1
$ {few} attributes --full --data {data} --out runs/few
  both rows: the gain of the pile can be nil
$ python {HERE / "self_training.py"} --full --data {data} --out runs/selftrain
  the student beside the supervised run: the gain can be nil
$ python {HERE / "selecting.py"} pretrain --full --data {data} --out runs/selecting
  the selected half at most 1 point below the whole
$ python {HERE / "low_resolution.py"} speed --full --data {data} --out runs/low-resolution
  2.5 times as many pictures a second at 64 px
$ python {HERE / "low_resolution.py"} quality --full --data {data} --out runs/low-resolution
  no probe more than 2 points worse
Faces with labels:
$ python {HERE / "train_ablation.py"} index.csv --images faces --teacher teacher.npz --out runs/full --full
  the table of docs/benchmarks/2026-11-22-training.md"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with photos/ and lfw/images.zip")
    options = parser.parse_args()
    failed = 0
    if torch.cuda.is_available():
        failed = measure(measurements(options.data))
    else:
        print("left out, as no CUDA device is visible to torch: tests, speed and the embedder's rate")
    print(long_runs(options.data))
    return 1 if failed else 0


def measure(commands: Sequence[Sequence[str]]) -> int:
    """Run the commands, and print the embedder's rates; how many commands failed."""
    print(torch.cuda.get_device_name(), "torch", torch.__version__, flush=True)
    failed = 0
    for command in commands:
        print("$ python", *command, flush=True)
        failed += subprocess.run([sys.executable, *command], check=False).returncode != 0
    for checkpoint in (load_checkpoint(None), random_convrec()):
        for precision in ("fp32", "bf16"):
            print(embedder_rate(checkpoint, precision), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
