"""Everything that there is to measure on a GPU, in one command.

    python tests/benchmarks/gpu.py ../shared/data

Runs the CUDA tests, then detect.py, encode.py, search.py and train_speed.py on the GPU (each prints facekit
beside its peers), then the embedder alone: faces a second, and the share of the card's own measured matrix
rate that it reaches. The last lines of each part are its result, as:

    facekit is 3.00 times as fast ...
    faceresnet bf16: 100000 faces/s, 90 TFLOP/s of 700 TFLOP/s measured (13 %)

The trainings by themselves take longer, and go on where they were stopped:

    python tests/benchmarks/train_ablation.py index.csv --images faces --teacher teacher.npz --out full --full
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with photos/ and lfw/images.zip")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: no CUDA device is visible to torch", file=sys.stderr)
        return 2
    print(torch.cuda.get_device_name(), "torch", torch.__version__, flush=True)
    photos = [str(options.data / "photos"), str(options.data / "lfw" / "images.zip")]
    commands = [
        ["-m", "pytest", str(HERE.parent), "-m", "gpu"],
        [str(HERE / "detect.py"), "--data", str(options.data), "--device", "cuda"],
        [str(HERE / "encode.py"), *photos, "--device", "cuda"],
        [str(HERE / "search.py"), "--device", "cuda"],
        [str(HERE / "train_speed.py"), "--device", "cuda", "--steps", "20"],
    ]
    failed = 0
    for command in commands:
        print("$ python", *command, flush=True)
        failed += subprocess.run([sys.executable, *command], check=False).returncode != 0
    for checkpoint in (load_checkpoint(None), random_convrec()):
        for precision in ("fp32", "bf16"):
            print(embedder_rate(checkpoint, precision), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
