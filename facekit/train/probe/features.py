"""What a probe learns from: the pictures of a set, or what a frozen network makes of them, once each."""

from __future__ import annotations

import torch
from torch import Tensor

from facekit.train.probe.backbone import Backbone, Sees
from facekit.train.probe.examples import Examples, decode
from facekit.train.probe.progress import progress

__all__ = ["Features", "Squares"]

_AT_ONCE = 512  # pictures decoded before they go through the network
_KEPT = 4 << 30  # bytes of decoded pictures; more are decoded whenever they are asked for


class Features:
    """A frozen network's features of a set, each computed when it is first asked for.

    Vectors are kept in float32, and maps, which are much larger, in float16.

    Args:
        backbone: the network.
        examples: the set.
        sees: what is asked of the network.
    """

    def __init__(self, backbone: Backbone, examples: Examples, sees: Sees) -> None:
        self.backbone, self.examples, self.sees = backbone, examples, sees
        backbone.channels(sees)
        shape = (backbone.vector,) if sees == "vector" else backbone.map or ()
        dtype = torch.float32 if sees == "vector" else torch.float16
        # Memory that is never written to is never taken.
        self._kept = [torch.empty(len(examples), *shape, dtype=dtype) for _ in range(2)]
        self._known = torch.zeros(len(examples), 2, dtype=torch.bool)

    def of(self, rows: Tensor, *, mirrored: bool = False) -> Tensor:
        """Those of some rows of the set, or of their mirror images.

        Args:
            rows: (k,) int64.
            mirrored: whether mirror images are meant; those of the pictures themselves are then computed too.

        Returns:
            (k, d) float32 or (k, c, h, w) float16, on the CPU.
        """
        sides = (0, 1) if mirrored else (0,)
        missing = rows[~self._known[rows][:, sides].all(1)]
        with progress(f"features of {self.examples.name}", len(missing), "pictures") as bar:
            for part in torch.split(missing, _AT_ONCE):
                pictures = decode(self.examples, part, self.backbone.size)
                for side in sides:
                    seen = pictures.flip(-1) if side else pictures
                    found = self.backbone.features(seen, self.sees)
                    self._kept[side][part] = found.to(self._kept[side].dtype)
                    self._known[part, side] = True
                bar.update(len(part))
        return self._kept[sides[-1]][rows]


class Squares:
    """The pictures of some rows, decoded once if they fit into memory.

    Args:
        examples: the set.
        rows: (k,) int64.
        size: side of the pictures in pixels.
    """

    def __init__(self, examples: Examples, rows: Tensor, size: int) -> None:
        self._examples, self._rows, self._size = examples, rows, size
        fits = len(rows) * 3 * size * size <= _KEPT
        self._kept = decode(examples, rows, size) if fits else None

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, places: Tensor) -> Tensor:
        """(n, 3, size, size) uint8, of places (n,) int64 in the rows."""
        if self._kept is not None:
            return self._kept[places]
        return decode(self._examples, self._rows[places], self._size)
