"""All pairs of 13,233 embeddings, the size of LFW: every figure, seconds and memory.

    python tests/benchmarks/evaluate.py [--rounds 5] [--threads 2]

Made-up unit vectors of 512 dimensions, 5,749 people with as many pictures each as LFW's have, about: ROC,
AUC, EER, TAR at six rates, their intervals by identity, search, the pairs told most wrong, and the errors of
two groups. The fastest of the rounds counts; memory is the peak of the process, imports and vectors too.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

PEOPLE, PICTURES, DIM = 5749, 13_233, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    settings = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(settings.threads)  # read when numpy is imported, so that is done below
    import numpy as np

    from facekit.evaluate import evaluate_people, group_rates

    rng = np.random.default_rng(0)
    more = rng.choice(PEOPLE, PICTURES - PEOPLE, p=_popularity(np.arange(1, PEOPLE + 1)))
    labels = np.concatenate([np.arange(PEOPLE), more])
    vectors = rng.standard_normal((PEOPLE, DIM), np.float32)[labels]
    vectors += 2.2 * rng.standard_normal(vectors.shape, np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    groups = ["even" if label % 2 == 0 else "odd" for label in labels]
    print(f"before: {_memory('VmHWM'):,.0f} MiB")
    best = [float("inf")] * 2
    for _ in range(settings.rounds):
        start = time.perf_counter()
        report = evaluate_people(vectors, labels)
        middle = time.perf_counter()
        rates = group_rates(vectors, labels, groups, 0.15)
        best = [min(best[0], middle - start), min(best[1], time.perf_counter() - middle)]
    print(f"{report.genuine:,} genuine and {report.impostor:,} impostor pairs of {report.people:,} people")
    print(f"AUC {report.auc:.6f}, EER {report.eer:.5f}, TAR@FAR=1e-6 {report.tar_at_far[1e-6]:.4f}", end=" ")
    print(f"in {report.intervals.tar_at_far[1e-6]}, {len(report.false_accepts)} worst pairs of each kind")
    print(", ".join(f"{group.group}: FMR {group.fmr:.2e}, FNMR {group.fnmr:.4f}" for group in rates))
    print(f"figures, intervals, search, worst pairs: {best[0]:.2f} s; groups: {best[1]:.2f} s")
    print(f"peak: {_memory('VmHWM'):,.0f} MiB; load of the machine: {os.getloadavg()[0]:.1f}")


def _popularity(rank: Any) -> Any:
    """A few people have hundreds of pictures, most have few."""
    share = 1 / (rank + 20.0)
    return share / share.sum()


def _memory(field: str) -> float:
    """MiB; from Linux itself."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this tree, not an installed copy
    main()
