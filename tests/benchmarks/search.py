"""Exact search and all pairs above a threshold: facekit against faiss-cpu, on the same vectors.

    python tests/benchmarks/search.py [--device cpu] [--rounds 5] [--threads 2] [--quick]

Vectors of 512 dimensions: people with a few pictures each, some of them near-copies. Both sides run in
turns in one process with the same number of threads, of each the fastest round counts, and the answers must
be the same: scores within 1e-6, and the same places and pairs but for scores closer to each other, or to the
threshold, than that (how many there were is printed; none, as a rule). Both indexes are built beforehand;
the search with facekit's built inside the round is a line of its own. The memory is what all pairs add to
the peak of a process that holds nothing but the vectors.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from facekit.similarity import Index, top_k

DIM = 512
PROBES = 100
K = 5
THRESHOLD = 0.5
CLOSE = 1e-6  # scores summed in float32 differ by less

Vectors = NDArray[np.float32]
Side = Callable[[], Any]
Seconds = dict[str, tuple[float, float]]


def faces(count: int, seed: int = 0) -> Vectors:
    """Vectors as a collection of photographs gives them: four of a person, alike at about 0.6."""
    rng = np.random.default_rng(seed)
    person = rng.integers(count // 4, size=count)
    vectors = rng.standard_normal((count // 4, DIM), np.float32)[person]
    vectors += 0.8 * rng.standard_normal((count, DIM), np.float32)
    copies = rng.choice(count, count // 100, replace=False)
    vectors[copies] = vectors[copies - 1] + 0.05 * rng.standard_normal((len(copies), DIM), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def take_turns(sides: dict[str, Side], rounds: int) -> tuple[Seconds, dict[str, Any]]:
    """The fastest round of each side, by the clock and by the processor, and what it returned."""
    best, results = {name: (float("inf"), float("inf")) for name in sides}, {}
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter(), time.process_time()
            results[name] = side()
            took = time.perf_counter() - start[0], time.process_time() - start[1]
            best[name] = min(best[name][0], took[0]), min(best[name][1], took[1])
    return best, results


def same_ranking(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> int:
    """How many places differ, all of them between scores that are equal to rounding."""
    np.testing.assert_allclose(ours[0], theirs[0], atol=CLOSE)
    return int((ours[1] != theirs[1]).sum())


def same_pairs(ours: tuple[Any, Any], theirs: tuple[Any, Any, Any], count: int) -> int:
    """How many pairs only one side found, all of them at the threshold to rounding."""
    limits, scores, columns = theirs
    rows = np.repeat(np.arange(count), np.diff(limits.astype(np.int64)))
    upper = rows < columns
    key, at = np.int64(count), np.argsort(rows[upper] * count + columns[upper])
    theirs_by_key = (rows[upper] * key + columns[upper])[at]
    ours_key = ours[0][:, 0] * key + ours[0][:, 1]
    _, i, j = np.intersect1d(ours_key, theirs_by_key, return_indices=True)
    np.testing.assert_allclose(ours[1][i], scores[upper][at][j], atol=CLOSE)
    alone = [np.delete(ours[1], i), np.delete(scores[upper][at], j)]
    for only in alone:
        np.testing.assert_allclose(only, THRESHOLD, atol=CLOSE)
    return sum(map(len, alone))


def search(count: int, rounds: int, device: str) -> None:
    """The five most alike of 100 probes."""
    vectors, probes = faces(count), faces(PROBES * 4, seed=1)[:PROBES]
    probes[::2] = vectors[: PROBES // 2]  # half of the probes are enrolled
    index, peer = Index(vectors, device=device), faiss.IndexFlatIP(DIM)
    peer.add(vectors)
    sides: dict[str, Side] = {
        "faiss IndexFlatIP": lambda: peer.search(probes, K),
        "facekit Index": lambda: index.top_k(probes, K),
        "facekit top_k, nothing prepared": lambda: top_k(probes, vectors, K, device=device),
    }
    best, results = take_turns(sides, rounds)
    differ = [same_ranking(results[name], results["faiss IndexFlatIP"]) for name in list(sides)[1:]]
    report(f"top {K} of {PROBES} probes in {count:,} x {DIM}", best, f"{max(differ)} places differ")


def all_pairs(count: int, rounds: int, device: str) -> None:
    """All pairs above a threshold."""
    vectors = faces(count)
    peer = faiss.IndexFlatIP(DIM)
    peer.add(vectors)
    sides: dict[str, Side] = {
        "faiss range_search": lambda: peer.range_search(vectors, THRESHOLD),
        "facekit pairs_above": lambda: Index(vectors, device=device).pairs_above(THRESHOLD),
    }
    best, results = take_turns(sides, rounds)
    ours = results["facekit pairs_above"]
    differ = same_pairs(ours, results["faiss range_search"], count)
    memory = added_memory(count, device)
    found = f"{len(ours[0]):,} pairs, {differ} differ; {memory:.0f} MiB beyond the vectors"
    report(f"all pairs above {THRESHOLD} in {count:,} x {DIM}", best, found)


def added_memory(count: int, device: str) -> float:
    """What all pairs add to the peak memory, in MiB: measured in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_added_memory, (count, device))


def _added_memory(count: int, device: str) -> float:
    vectors = np.empty((count, DIM), np.float32)
    for seed, part in enumerate(np.split(vectors, 25)):  # in parts, so that the vectors are the peak so far
        part[:] = faces(len(part), seed)
    Index(vectors[:4096], device=device).pairs_above(THRESHOLD)  # libraries are loaded
    before = peak_memory()
    Index(vectors, device=device).pairs_above(THRESHOLD)
    return peak_memory() - before


def peak_memory() -> float:
    """MiB; from Linux itself, as getrusage's begins with the peak of the parent process."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def report(what: str, best: Seconds, answers: str) -> None:
    """Seconds of each side, and how many times as fast as the first the others are."""
    print(f"{what}: same answers ({answers})")
    (wall, processor), *_ = best.values()
    for name, (seconds, cpu) in best.items():
        ratios = f"{wall / seconds:6.2f} times as fast, {processor / cpu:6.2f} by cpu seconds"
        print(f"  {name:32} {seconds:8.3f} s {cpu:8.3f} cpu s {ratios}")


def main() -> None:
    """Run both comparisons and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a tenth of the vectors")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)
    share = 10 if arguments.quick else 1
    search(200_000 // share, arguments.rounds, arguments.device)
    all_pairs(50_000 // share, max(1, arguments.rounds // 2), arguments.device)


if __name__ == "__main__":
    main()
