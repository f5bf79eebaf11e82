"""Who resembles whom, exactly and in bounded memory: bfloat16 tiles propose, float64 decides.

A score is the inner product of two unit vectors, summed in float64, rounded once to float32 and
clamped to [-1, 1]. It depends on the two vectors alone: not on the block they fell in, their order,
or the device. The proposals miss nothing, because the error of a bfloat16 product is bounded
(:func:`_error`) and everything within that bound of the cut is scored again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facekit.errors import SettingError

__all__ = ["Index", "cosine", "pair_blocks", "pairs_above", "top_k"]

Vectors: TypeAlias = "NDArray[np.floating[Any]] | Tensor"
"""(n, d) floating point, rows of unit length: an array, a memory-mapped array, or a tensor."""

Ranking: TypeAlias = "tuple[NDArray[np.float32], NDArray[np.int64]]"
"""Scores (q, k) float32, best first, and the indices (q, k) int64 of the vectors they belong to."""

Pairs: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.float32]]"
"""Pairs (p, 2) int64, the smaller index first, and their scores (p,) float32."""

_UNIT_TOLERANCE = 1e-3  # unit vectors that were stored as float16 are well within it
_SIDE = 2048  # a tile of 2,048 x 2,048 scores and its two factors stay in the cache
_GROUP = 64  # neighbouring scores are looked through together, by their maximum
_EXACT_CHUNK = 256  # pairs that are scored at once: their float64 copies stay in the cache
_DENSE = 32  # a product of matrices scores as many pairs in the time of one apart


def cosine(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Cosine similarity along the last axis; the other axes broadcast as numpy's do.

    Args:
        a: (..., d), of any length but zero.
        b: (..., d).

    Returns:
        (...) float32 in [-1, 1].

    Raises:
        SettingError: where the dimensions differ, or a vector is zero or not finite.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim == 0 or b.ndim == 0 or a.shape[-1] != b.shape[-1]:
        raise SettingError(f"cosine of shapes {a.shape} and {b.shape}: their last axes must agree")
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    if not np.all((lengths > 0) & np.isfinite(lengths)):
        raise SettingError("cosine of a vector that is zero, infinite or NaN: leave that vector out")
    return np.asarray(np.clip(np.einsum("...d,...d->...", a, b) / lengths, -1, 1), np.float32)


class Index:
    """Vectors made ready to be searched many times.

    Keeps the vectors as they were given (a memory-mapped array stays on disk) and a bfloat16 copy on
    the device, 1 KB for a vector of 512 dimensions. Where the hardware has no fast bfloat16 the copy
    is float32; the answers are the same.

    Args:
        vectors: (n, d), rows of unit length; n may be 0. They must not change afterwards.
        device: where to search; by default where the vectors are.

    Raises:
        SettingError: for vectors that are not (n, d), not floating point, not finite or not of unit length.
    """

    def __init__(self, vectors: Vectors, *, device: str | torch.device | None = None) -> None:
        self._vectors = _Source(vectors, "vectors", device)
        self._rough = self._vectors.rough()

    def __len__(self) -> int:
        return len(self._vectors)

    def top_k(self, probes: Vectors, k: int) -> Ranking:
        """The ``k`` vectors most alike to each probe, as the function :func:`top_k` finds them."""
        step = 8 * self._vectors.side
        blocks = (self._rough[start : start + step] for start in range(0, len(self), step))
        return _search(blocks, self._vectors, probes, k)

    def pair_blocks(self, threshold: float) -> Iterator[Pairs]:
        """All pairs at or above a threshold, tile by tile, as :func:`pair_blocks` yields them."""
        if math.isnan(threshold):
            raise SettingError("threshold is nan: give a similarity between -1 and 1")
        side = self._vectors.side
        starts = range(0, len(self), side)
        work = self._rough.vectors.new_empty(min(side, len(self)) ** 2)
        tiles = (self._tile(i, j, threshold, work) for i in starts for j in starts if i <= j)
        return (tile for tile in tiles if len(tile[1]))

    def pairs_above(self, threshold: float) -> Pairs:
        """All pairs at or above a threshold, best first, as :func:`pairs_above` finds them."""
        empty = np.empty((0, 2), np.int64), np.empty(0, np.float32)
        pairs, scores = map(np.concatenate, zip(empty, *self.pair_blocks(threshold), strict=True))
        order = np.lexsort((pairs[:, 1], pairs[:, 0], -scores))
        return pairs[order], scores[order]

    def _tile(self, i: int, j: int, threshold: float, work: Tensor) -> Pairs:
        left, right = (self._rough[at : at + self._vectors.side] for at in (i, j))
        shape = len(left.vectors), len(right.vectors)
        # one buffer for all tiles: fresh memory of this size costs a third of the time of the product
        tile = torch.mm(left.vectors, right.vectors.T, out=work[: math.prod(shape)].view(shape))
        floor = torch.full(shape[1:], threshold - _error(left, right), device=tile.device)
        row, column = _reaching(*_grouped(tile), _rounded_down(floor))
        if i == j:
            row, column = row[row < column], column[row < column]
        scores = _exact(self._vectors, row + i, self._vectors, column + j)
        row, column, scores = (part.cpu() for part in (row + i, column + j, scores))
        kept = scores.double() >= threshold  # in float64: as float32 the threshold may be another number
        row, column, scores = row[kept], column[kept], scores[kept]
        order = (row * len(self) + column).argsort()
        return torch.stack([row, column], dim=1)[order].numpy(), scores[order].numpy()


def top_k(probes: Vectors, vectors: Vectors, k: int, *, device: str | torch.device | None = None) -> Ranking:
    """The ``k`` vectors most alike to each probe, exactly.

    Reads the vectors once and holds one block of them at a time. To search the same vectors again
    and again, make an :class:`Index`, which spares each search the reading and rounding.

    Args:
        probes: (q, d), rows of unit length; q may be 0.
        vectors: (n, d), rows of unit length; n may be 0.
        k: how many to find, at least 1; of fewer vectors, all are found.
        device: where to compute; by default where the vectors are.

    Returns:
        Scores and indices, both (q, min(k, n)): best first, equal scores by ascending index.

    Raises:
        SettingError: for vectors that are not (n, d), not floating point, not finite or not of unit
            length, for probes of another dimension, and for ``k`` below 1.
    """
    source = _Source(vectors, "vectors", device)
    return _search(source.rough_blocks(), source, probes, k)


def pair_blocks(
    vectors: Vectors, threshold: float, *, device: str | torch.device | None = None
) -> Iterator[Pairs]:
    """All pairs i < j with a score of at least ``threshold``, tile by tile, sorted by index in each.

    However many pairs there are, a tile holds at most 2,048 x 2,048 of them (8,192 x 8,192 on a
    GPU). Tiles without pairs are left out.
    """
    return Index(vectors, device=device).pair_blocks(threshold)


def pairs_above(vectors: Vectors, threshold: float, *, device: str | torch.device | None = None) -> Pairs:
    """All pairs i < j with a score of at least ``threshold``: best first, equal scores by index.

    The work grows with n squared, the memory with n and with the number of pairs that are found;
    where nothing bounds that number, use :func:`pair_blocks`.

    Raises:
        SettingError: as for :class:`Index`, and for a threshold that is NaN.
    """
    return Index(vectors, device=device).pairs_above(threshold)


@dataclass(frozen=True, slots=True)
class _Rough:
    """Consecutive vectors, rounded: the index of the first, (n, d), and how far rounding moved any."""

    start: int
    vectors: Tensor
    error: float

    def __getitem__(self, part: slice) -> _Rough:
        return _Rough(self.start + part.start, self.vectors[part], self.error)


class _Source:
    """Vectors wherever they lie, read as float32 on the device: in blocks that are checked, or by index."""

    def __init__(self, vectors: Vectors, name: str, device: str | torch.device | None) -> None:
        if not isinstance(vectors, (np.ndarray, Tensor)):
            raise SettingError(f"{name} is a {type(vectors).__name__}: give a numpy array or a tensor")
        if vectors.ndim != 2:
            raise SettingError(f"{name} has shape {tuple(vectors.shape)}: give (n, d), a row a vector")
        if "float" not in str(vectors.dtype):
            raise SettingError(f"{name} holds {vectors.dtype}: give floating point")
        self.name = name
        self.vectors = vectors.detach() if isinstance(vectors, Tensor) else vectors
        here = vectors.device if isinstance(vectors, Tensor) else "cpu"
        self.device = torch.device(here if device is None else device)
        self.side = _SIDE if self.device.type == "cpu" else 4 * _SIDE

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def take(self, which: slice | Tensor) -> Tensor:
        """(m, d) float32 on the device."""
        if isinstance(self.vectors, Tensor):
            where = which.to(self.vectors.device) if isinstance(which, Tensor) else which
            return self.vectors[where].to(self.device, torch.float32)
        rows = self.vectors[which.cpu().numpy() if isinstance(which, Tensor) else which]
        # "W": torch warns of memory that it may not write to, as a read-only map's
        return torch.from_numpy(np.require(rows, np.float32, ["C", "W"])).to(self.device)

    def rough_blocks(self) -> Iterator[_Rough]:
        """Blocks of vectors, rounded for the search."""
        exact = _rough_dtype(self.device) == torch.float32
        work = torch.empty((min(self.side, len(self)), self.dim), device=self.device)
        for start in range(0, len(self), self.side):
            block = self.take(slice(start, start + self.side))
            self._check(block, start)
            rounded = block.to(torch.bfloat16)
            moved = torch.linalg.vector_norm(work[: len(block)].copy_(rounded).sub_(block), dim=1)
            # counted for float32 too: torch may be set to multiply it as TF32 or bfloat16
            yield _Rough(start, block if exact else rounded, float(moved.max()))

    def rough(self) -> _Rough:
        """All vectors, rounded for the search."""
        shape, error = (len(self), self.dim), 0.0
        out = torch.empty(shape, dtype=_rough_dtype(self.device), device=self.device)
        for block in self.rough_blocks():
            out[block.start : block.start + len(block.vectors)] = block.vectors
            error = max(error, block.error)
        return _Rough(0, out, error)

    def _check(self, block: Tensor, start: int) -> None:
        lengths = torch.linalg.vector_norm(block, dim=1)
        wrong = ~((lengths - 1).abs() <= _UNIT_TOLERANCE)  # true of NaN as well
        if wrong.any():
            at = int(wrong.nonzero()[0])
            raise SettingError(
                f"{self.name}[{start + at}] has length {float(lengths[at]):.4g}: "
                "divide each vector by its length, and leave out what is not finite"
            )


def _search(blocks: Iterable[_Rough], source: _Source, probes: Vectors, k: int) -> Ranking:
    asked = _Source(probes, "probes", source.device)
    if k < 1:
        raise SettingError(f"k is {k}: ask for at least 1")
    if asked.dim != source.dim:
        raise SettingError(
            f"probes have {asked.dim} dimensions and vectors {source.dim}: embed both with one checkpoint"
        )
    k, rough = min(k, len(source)), asked.rough()
    scores, indices = np.full((len(asked), k), -np.inf, np.float32), np.zeros((len(asked), k), np.int64)
    for block in blocks:
        step = source.side**2 // len(block.vectors)  # a tile of the usual size
        for first in range(0, len(asked), step):
            part = slice(first, first + step)
            row, column = _candidates(rough[part], block, scores[part])
            exact = _exact(asked, row + first, source, column + block.start)
            _merge(scores[part], indices[part], row, column + block.start, exact)
    return scores, indices


def _candidates(probes: _Rough, block: _Rough, best: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Probes and places in the block of all vectors that may belong to a probe's best k.

    Such a vector scores at least as much as the k-th of the ``best`` (q, k) so far (minus infinity
    where there are not yet k), and at least as much as the k-th in the block.
    """
    k, error = best.shape[1], _error(probes, block)
    groups, peaks = _grouped(block.vectors @ probes.vectors.T)
    floor = torch.from_numpy(best[:, -1].copy()).to(peaks.device)
    # the k-th best peak is no higher than the k-th best score, and cheaper to find
    highest = peaks if len(peaks) >= k else groups.flatten(0, 1)
    if len(highest) >= k:
        kth = highest.topk(k, dim=0).values[-1].float()
        floor = torch.maximum(floor, _rounded_down(kth) - error)
    column, row = _reaching(groups, peaks, _rounded_down(floor - error))
    return row, column


def _grouped(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (w, q) in groups of rows (g, 64, q), padded with -inf, and the groups' peaks (g, q)."""
    if len(scores) % _GROUP:
        scores = torch.nn.functional.pad(scores, (0, 0, 0, -len(scores) % _GROUP), value=-math.inf)
    groups = scores.view(-1, _GROUP, scores.shape[1])
    return groups, groups.amax(1)


def _reaching(groups: Tensor, peaks: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the scores at or above their column's floor (q,) float32."""
    group, column = (peaks.float() >= floor).nonzero(as_tuple=True)
    hit, place = (groups[group, :, column].float() >= floor[column, None]).nonzero(as_tuple=True)
    return group[hit] * _GROUP + place, column[hit]


def _exact(left: _Source, row: Tensor, right: _Source, column: Tensor) -> Tensor:
    """(p,) float32 scores of the pairs left[row], right[column]: float64 sums, rounded once.

    Products of two float32 are exact in float64, so that any order of summation gives, all but
    surely, the same float32.
    """
    left_rows, row = torch.unique(row, return_inverse=True)
    right_rows, column = torch.unique(column, return_inverse=True)
    a, b = left.take(left_rows), right.take(right_rows)
    if a.device.type == "mps":  # which has no float64
        a, b, row, column = a.cpu(), b.cpu(), row.cpu(), column.cpu()
    if len(row) * _DENSE > len(a) * len(b):
        scores = (a.double() @ b.double().T)[row, column]
    else:
        chunks = zip(torch.split(row, _EXACT_CHUNK), torch.split(column, _EXACT_CHUNK), strict=True)
        scores = torch.cat([a[r].double().mul_(b[c]).sum(1) for r, c in chunks])
    return scores.float().clamp(-1, 1).to(left.device)


def _merge(
    scores: NDArray[np.float32], indices: NDArray[np.int64], row: Tensor, column: Tensor, exact: Tensor
) -> None:
    """Puts those candidates that belong there among the best k (q, k), in place."""
    better = exact > torch.from_numpy(scores[:, -1].copy()).to(exact.device)[row]  # of equals the first stays
    if not better.any():
        return
    count, k = scores.shape
    new_row, new_index, new_score = (part[better].cpu().numpy() for part in (row, column, exact))
    owner = np.concatenate([np.repeat(np.arange(count), k), new_row])
    index = np.concatenate([indices.ravel(), new_index])
    score = np.concatenate([scores.ravel(), new_score])
    order = np.lexsort((index, -score, owner))
    first = np.searchsorted(owner[order], np.arange(count))
    best = order[first[:, None] + np.arange(k)]
    scores[:], indices[:] = score[best], index[best]


def _error(left: _Rough, right: _Rough) -> float:
    """How far the inner product of two rounded unit vectors can be from the true one.

    By Cauchy-Schwarz, |<a, b> - <a', b'>| <= |a - a'| |b| + |a'| |b - b'|. To this comes what the sums
    in float32 lose, 2^-24 a term, and on a GPU the partial sums that it may keep in bfloat16.
    """
    dim, device = left.vectors.shape[1], left.vectors.device
    sums = dim * 2**-23 + (2**-8 if device.type == "cuda" else 0)
    return (1 + 2 * _UNIT_TOLERANCE) * (left.error + right.error + left.error * right.error) + sums


def _rounded_down(scores: Tensor) -> Tensor:
    """A number that is below the scores even after either is rounded to bfloat16."""
    return scores - 1.01 * 2**-8 * scores.abs()


def _rough_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it faster than float32."""
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        fast = device.type == "cpu" and any(known.get(flag) for flag in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if fast else torch.float32
