"""Faces in 300 real pictures of mixed sizes, from 40 pixels up: facekit against facenet-pytorch's MTCNN.

    python tests/benchmarks/detect.py [--data ../shared/data] [--pictures 300] [--rounds 3]

Both get the same decoded pictures in the same process, by turns; each figure is the best of its rounds. The
peer is measured a picture at a time and in batches of pictures of one size, the only ones that it takes; the
better of the two counts. Peak memory is that of the whole process, which includes both. Alignment has no peer
here: its line says how many 112 x 112 crops come out of the pictures' faces in a second.
"""

from __future__ import annotations

import argparse
import io
import resource
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from facenet_pytorch import MTCNN
from numpy.typing import NDArray
from PIL import Image

from facekit.align import align_faces
from facekit.detect import FaceDetector

ARCHIVES = ("photos/mixed.zip", "photos/people.zip", "lfw/images.zip")
MIN_FACE = 40
BATCH = 32


def pictures(data: Path, count: int) -> list[NDArray[np.uint8]]:
    """The first pictures of the archives, decoded."""
    found: list[NDArray[np.uint8]] = []
    for name in ARCHIVES:
        with zipfile.ZipFile(data / name) as archive:
            for member in sorted(archive.namelist()):
                if len(found) < count and member.lower().endswith((".jpg", ".jpeg", ".png")):
                    with Image.open(io.BytesIO(archive.read(member))) as image:
                        found.append(np.array(image.convert("RGB")))
    return found


def faces_of(boxes: NDArray[np.object_] | None) -> int:
    """How many boxes the peer found in a picture."""
    return 0 if boxes is None else len(boxes)


def one_by_one(peer: MTCNN, images: list[NDArray[np.uint8]]) -> int:
    """The peer, a picture at a time."""
    return sum(faces_of(peer.detect(image, landmarks=True)[0]) for image in images)


def by_size(peer: MTCNN, images: list[NDArray[np.uint8]]) -> int:
    """The peer, in batches of pictures of one size."""
    groups = defaultdict(list)
    for image in images:
        groups[image.shape].append(image)
    batches = (group[i : i + BATCH] for group in groups.values() for i in range(0, len(group), BATCH))
    return sum(sum(map(faces_of, peer.detect(np.stack(batch), landmarks=True)[0])) for batch in batches)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    images = pictures(arguments.data, arguments.pictures)
    tensors = [torch.from_numpy(image).to(arguments.device) for image in images]
    peer, detector = (
        MTCNN(min_face_size=MIN_FACE, keep_all=True, device=arguments.device),
        FaceDetector(arguments.device, min_face=MIN_FACE),
    )
    detections = detector.detect(tensors)
    index = [i for i, faces in enumerate(detections) for _ in faces]
    landmarks = torch.from_numpy(np.stack([face.landmarks for faces in detections for face in faces]))
    runs: dict[str, Callable[[], int]] = {
        "facenet-pytorch, a picture at a time": lambda: one_by_one(peer, images),
        "facenet-pytorch, batches of one size": lambda: by_size(peer, images),
        "facekit, all at once": lambda: sum(map(len, detector.detect(tensors))),
        "facekit, a picture at a time": lambda: sum(len(detector.detect([t])[0]) for t in tensors),
        "facekit, align": lambda: len(align_faces(tensors, index, landmarks)),
    }
    seconds, faces = dict.fromkeys(runs, float("inf")), {}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            faces[name] = run()
            seconds[name] = min(seconds[name], time.perf_counter() - start)

    best_peer = min(time for name, time in seconds.items() if name.startswith("facenet"))
    megapixels = sum(image.shape[0] * image.shape[1] for image in images) / 1e6
    print(f"{len(images)} pictures, {megapixels:.0f} megapixels, {torch.get_num_threads()} threads")
    print(f"{'':38}{'seconds':>9}{'faces':>7}{'faces/s':>9}{'ratio':>7}")
    for name, time_ in seconds.items():
        ratio = "" if name.endswith("align") else f"{best_peer / time_:.2f}"
        print(f"{name:38}{time_:9.3f}{faces[name]:7}{faces[name] / time_:9.0f}{ratio:>7}")
    print(f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
