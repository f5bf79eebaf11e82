"""Whether a loss tells more beside those of the same label: ``losses_by_label.py --true TRUE RUN...``

TRUE is the ``true.csv`` of what ``noisy_labels.py`` made, and each RUN the folder of one of its runs. For its
tables of losses this prints the ROC-AUC of the losses as they are, and of what they are above the lowest
fifth of those of the same label: of all pictures, and where pictures are left out at random, so that some
labels are wrong in 10 % of their pictures and others in 70 % (mean of 20 draws).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from trainings import read_table

_LOWEST = 0.2
_UNEVEN = (0.1, 0.7)
_DRAWS = 20

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--true", type=Path, required=True)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    given = parser.parse_args()
    truth = {row["path"]: row["identity"] for row in read_table(given.true)}
    print("| run | losses | as they are | by label | uneven, as they are | uneven, by label |")
    print("|---|---|---|---|---|---|")
    for run in given.runs:
        for table in ("losses-warmup.csv", "losses.csv"):
            if (run / table).exists():
                cells = " | ".join(f"{auc:.3f}" for auc in _aucs(run / table, truth))
                print(f"| {run.name} | {table} | {cells} |")


def _aucs(table: Path, truth: dict[str, str]) -> Iterator[float]:
    rows = read_table(table)
    losses = np.array([float(row["loss"]) for row in rows])
    labels = np.unique([row["label"] for row in rows], return_inverse=True)[1]
    right = np.array([row["label"] == truth[row["path"]] for row in rows])
    yield from _both(losses, labels, right)
    rng = np.random.default_rng(0)
    draws = [_thinned(labels, right, rng) for _ in range(_DRAWS)]
    yield from np.mean([[*_both(losses[kept], labels[kept], right[kept])] for kept in draws], axis=0)


def _both(losses: Floats, labels: NDArray[np.int64], right: Bools) -> Iterator[float]:
    beside = losses.copy()
    for label in np.unique(labels):
        own = labels == label
        beside[own] -= np.quantile(losses[own], _LOWEST)
    yield float(roc_auc_score(right, -losses))
    yield float(roc_auc_score(right, -beside))


def _thinned(labels: NDArray[np.int64], right: Bools, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which pictures stay, so that some labels are wrong in few of theirs and others in most."""
    kept = []
    for label in np.unique(labels):
        good, bad = (np.flatnonzero((labels == label) & which) for which in (right, ~right))
        share = rng.choice(_UNEVEN)
        most = round(share / (1 - share) * len(good))
        if len(bad) > most:
            bad = rng.permutation(bad)[:most]
        else:
            good = rng.permutation(good)[: round((1 - share) / share * len(bad))]
        kept += [good, bad]
    return np.concatenate(kept)


if __name__ == "__main__":
    main()
