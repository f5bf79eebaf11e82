"""Photo file to vector: facekit against facenet-pytorch's MTCNN and InceptionResnetV1, on the same pictures.

    python tests/benchmarks/encode.py ../shared/data/photos ../shared/data/lfw/images.zip

Both sides look for faces of 40 pixels and more, embed the largest, and run in turns in one process; of each
the fastest round counts. The peer is used at its best: pictures decoded in threads, those of equal size
detected in one batch, crops embedded in batches. Its embedder has random weights, which take the same time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from facekit.checkpoint import load_checkpoint
from facekit.encode import FaceEncoder
from facekit.image import find_images

MIN_FACE = 40
BATCH = 32


def unpack(sources: Sequence[Path], folder: Path) -> list[Path]:
    """The pictures of folders and zip files."""
    for source in sources:
        for archive in [source] if source.suffix == ".zip" else sorted(source.glob("*.zip")):
            with zipfile.ZipFile(archive) as pack:
                pack.extractall(folder / archive.stem)
    loose = [path for source in sources if source.is_dir() for path in find_images(source)]
    return [*loose, *find_images(folder)]


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """All pictures of rare sizes, filled up with those of the most common size."""
    by_size = defaultdict(list)
    for path in paths:
        with Image.open(path) as picture:
            by_size[picture.size].append(path)
    chosen: list[Path] = []
    for group in sorted(by_size.values(), key=len):
        chosen += group[: count - len(chosen)]
    return sorted(chosen)


class Peer:
    def __init__(self, device: str) -> None:
        from facenet_pytorch import MTCNN, InceptionResnetV1

        self.device = device
        self.detector = MTCNN(min_face_size=MIN_FACE, keep_all=False, device=device)
        self.embedder = InceptionResnetV1(pretrained=None).eval().to(device)

    def __call__(self, paths: Sequence[Path]) -> int:
        by_size = defaultdict(list)
        with ThreadPoolExecutor() as pool:
            for picture in pool.map(lambda path: Image.open(path).convert("RGB"), paths):
                by_size[picture.size].append(picture)
        crops = []
        for group in by_size.values():
            for start in range(0, len(group), BATCH):
                part = group[start : start + BATCH]
                boxes, _ = self.detector.detect(part)  # its forward() fails on batches with and without faces
                largest = [None if found is None else np.asarray(found[:1], float) for found in boxes]
                crops += [crop for crop in self.detector.extract(part, largest, None) if crop is not None]
        with torch.inference_mode():
            vectors = [self.embedder(torch.stack(part).to(self.device)).cpu() for part in batched(crops)]
        return sum(map(len, vectors))


class Ours:
    def __init__(self, device: str, checkpoint: str | None) -> None:
        self.encoder = FaceEncoder(load_checkpoint(checkpoint), device=device, min_face=MIN_FACE)

    def __call__(self, paths: Sequence[Path]) -> int:
        results = self.encoder.encode(paths, faces="largest", progress=False)
        return sum(len(one.faces) for one in results)


def batched(crops: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    return [crops[start : start + BATCH] for start in range(0, len(crops), BATCH)]


def measure(run: Callable[[], int]) -> tuple[float, float, int]:
    wall, processor = time.perf_counter(), time.process_time()
    found = run()
    return time.perf_counter() - wall, time.process_time() - processor, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", type=Path, help="folders and zip files of pictures")
    parser.add_argument("--checkpoint", help="ours, if not the shipped one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--count", type=int, default=300, help="pictures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        paths = spread(unpack(options.sources, Path(folder)), options.count)
        sizes = [Image.open(path).size for path in paths]
        megapixels = np.prod(sizes, axis=1).sum() / 1e6
        print(f"{len(paths)} pictures of {len(set(sizes))} sizes, {megapixels:.1f} Mpx,", end=" ")
        print(f"{torch.get_num_threads()} threads, device {options.device}, torch {torch.__version__}")
        sides = {"facenet-pytorch": Peer(options.device), "facekit": Ours(options.device, options.checkpoint)}
        for side in sides.values():
            side(paths[:8])
        best: dict[str, tuple[float, float, int]] = {}
        for _ in range(options.rounds):
            for name, side in sides.items():
                took = measure(lambda side=side: side(paths))
                best[name] = min(best.get(name, took), took)
    for name, (wall, processor, found) in best.items():
        rate = f"{wall:7.2f} s {len(paths) / wall:7.1f} pictures/s"
        print(f"{name:16} {rate} {processor:8.2f} cpu s {found:5} faces")
    wall_ratio, processor_ratio = (best["facenet-pytorch"][i] / best["facekit"][i] for i in (0, 1))
    print(f"facekit is {wall_ratio:.2f} times as fast (by cpu seconds {processor_ratio:.2f} times)")


if __name__ == "__main__":
    main()
