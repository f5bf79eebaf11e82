"""bf16 against fp32 through the whole pipeline: how far similarities move, and which verdicts change.

python tests/benchmarks/precision.py ../shared/data/photos ../shared/data/lfw/images.zip
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from encode import spread, unpack

from facekit import FaceRecognition


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", type=Path, help="folders and zip files of pictures")
    parser.add_argument("--checkpoint", help="if not the shipped one")
    parser.add_argument("--count", type=int, default=500, help="pictures")
    options = parser.parse_args()
    similarities = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = spread(unpack(options.sources, Path(folder)), options.count)
        for precision in ("fp32", "bf16"):
            fr = FaceRecognition(options.checkpoint, precision=precision)
            found = fr.encode(paths, faces="largest", progress=False)
            vectors = np.stack([one.faces[0].embedding for one in found if one.faces])
            similarities[precision] = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    fp32, bf16 = similarities["fp32"], similarities["bf16"]
    change = np.abs(fp32 - bf16)
    print(f"{len(paths)} pictures, {len(vectors)} faces, {len(change)} pairs")
    print(f"similarities change by at most {change.max():.4f}, in the mean by {change.mean():.4f}")
    if fr.config.threshold is not None:
        changed = ((fp32 >= fr.config.threshold) != (bf16 >= fr.config.threshold)).sum()
        print(f"{changed} verdicts at the default threshold {fr.config.threshold:.3f} change")


if __name__ == "__main__":
    main()
