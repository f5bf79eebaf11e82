"""How many wrong labels `facekit data audit` finds, on a labelled set of which some labels are made wrong.

    python tests/benchmarks/audit.py FACES --csv index.csv [--checkpoint ...] [--judge ...] [--seeds 1 2 3]

FACES holds a folder of aligned crops a person, or --csv says who is where (columns path and identity). A
share of the pictures, drawn at random, moves to another person, drawn at random from all others whatever
their size. Some labels are wrong from the start. Those count neither way, which takes somebody to say which
they are: --judge, a strong checkpoint, on the set as it came. Printed are the share of the moved pictures
that are found, and the share of those found that were moved, in three ways: with all others as errors of
the audit; without those that the audit by the judge doubts; and without those, too, that the judge finds
less like their own person than 1 of 100 strangers. Then how often the suggested person is the true one.
Vectors are kept in --cache, by checkpoint.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekit.audit import audit_labels
from facekit.checkpoint import load_checkpoint
from facekit.encode import FaceEncoder
from facekit.train.data import open_source
from facekit.train.sources import Source

Vectors = NDArray[np.float32]
Labels = NDArray[np.int64]


def embed(source: Source, checkpoint: str | None, cache: Path | None) -> Vectors:
    """(n, d), one a picture; all of them must be readable."""
    loaded = load_checkpoint(checkpoint)
    file = None if cache is None else cache / f"audit-{loaded.config.fingerprint}-{len(source.person)}.npy"
    if file is not None and file.exists():
        return np.asarray(np.load(file))
    pictures = [source.read(row) for row in range(len(source.person))]
    stream = FaceEncoder(loaded).stream(pictures, aligned=True, progress=None)
    vectors = np.stack([encoded.one_face().embedding for encoded in stream])
    if file is not None:
        np.save(file, vectors)
    return vectors


def moved(truth: Labels, share: float, seed: int) -> Labels:
    """Labels of which so many are another person's."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(truth), round(share * len(truth)), replace=False)
    other = rng.integers(truth.max(), size=len(rows))
    labels = truth.copy()
    labels[rows] = other + (other >= truth[rows])
    return labels


def doubted(vectors: Vectors, labels: Labels) -> dict[int, int | None]:
    """Row -> suggestion."""
    return {doubt.row: doubt.suggestion for doubt in audit_labels(vectors, labels).doubts}


def unlike(vectors: Vectors, labels: Labels, limit: float) -> NDArray[np.bool_]:
    """(n,) whether a picture is less like the centre of its person's other pictures, where there are any."""
    sums = np.zeros((labels.max() + 1, vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    rest = sums[labels] - vectors
    lengths = np.linalg.norm(rest, axis=1)
    return (lengths > 1e-6) & ((rest * vectors).sum(1) < limit * lengths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--checkpoint")
    parser.add_argument("--judge", help="by default the checkpoint itself")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()

    source = open_source(args.csv or args.faces, args.faces if args.csv else None)
    truth = source.person.numpy()
    vectors = embed(source, args.checkpoint, args.cache)
    judge = vectors if args.judge is None else embed(source, args.judge, args.cache)
    before = judged = audit_labels(judge, truth)
    if args.judge is not None:
        before = audit_labels(vectors, truth)
    wrong = np.isin(np.arange(len(truth)), [doubt.row for doubt in judged.doubts])
    odd = wrong | unlike(judge, truth, judged.limits.own)
    print(f"{len(truth)} pictures of {len(source.people)} people; of them the judge doubts {wrong.sum()}")
    print(f"and finds {odd.sum() - wrong.sum()} more less like their person than 1 of 100 strangers")
    print(
        f"as it came: {len(before.doubts)} doubted, {len(before.two_names)} pairs of names, {before.limits}"
    )
    print("seed   moved  found  recall  precision: strict  but doubts  but unlike  right person  seconds")
    for seed in args.seeds:
        labels = moved(truth, args.share, seed)
        start = time.perf_counter()
        found = doubted(vectors, labels)
        seconds = time.perf_counter() - start
        is_moved, hit = labels != truth, np.isin(np.arange(len(truth)), list(found))
        right = [found[row] == truth[row] for row in np.flatnonzero(hit & is_moved) if found[row] is not None]
        caught = (hit & is_moved).sum()
        strict, fair, odd_out = (
            caught / (hit & (is_moved | ~known)).sum() for known in (np.zeros_like(odd), wrong, odd)
        )
        print(
            f"{seed:4}  {is_moved.sum():6} {hit.sum():6}  {caught / is_moved.sum():6.3f}  {strict:17.3f}"
            f"  {fair:10.3f}  {odd_out:10.3f}  {np.mean(right):12.3f}  {seconds:7.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
