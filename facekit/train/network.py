"""Which network the recipes without labels train, from which weights, and how large its pictures are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from facekit.errors import SettingError
from facekit.train.config import require, require_start
from facekit.train.recipe import Step

__all__ = ["NetworkSettings"]

_SMALLEST, _LARGEST = 16, 512  # pixels
_SHARE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """Which network learns, from which weights, and how large the pictures are."""

    architecture: Literal[
        "resnet10t", "resnet18", "resnet34", "resnet50", "vgg11_bn", "faceresnet", "iresnet50"
    ] = "resnet10t"
    """The backbone; its pooled features are what the checkpoint gives."""
    stem: Literal["imagenet", "half", "full"] | None = None
    """First layers of resnet18, 34 and 50: imagenet leaves a quarter of the side, half a half, and full,
    for pictures of 32 pixels, all of it."""
    init: str = "random"
    """Weights to start from: a checkpoint (folder, file or Hub name) of the same architecture, or random;
    for resnet50 also torchvision's as a file, or imagenet to fetch those."""
    size: int = 112
    """Side in pixels of the views that the network sees."""
    start_size: int | None = None
    """Side in pixels during the first part of the run, if another; 64 has a third of the pixels of 112.
    Further, smaller views shrink alike, to 16 pixels at the least."""
    start_share: float = _SHARE
    """Share of the run that sees --start-size; half of the cosine's learning rate is left for the rest, where
    that is less than half of the run."""
    resolution: int = 112
    """Side in pixels of the pictures that views are cut from; others are resized."""
    license: str = "unknown"
    """License written into the checkpoint."""

    def __post_init__(self) -> None:
        for name in ("size", "start_size", "resolution"):
            value = getattr(self, name)
            fits = value is None or _SMALLEST <= value <= _LARGEST
            require(fits, name, value, f"give pixels in {_SMALLEST} ... {_LARGEST}")
        require_start(self.start_size, self.start_share, full=self.size, usual=_SHARE)
        if self.stem is not None and self.architecture not in ("resnet18", "resnet34", "resnet50"):
            raise SettingError(f"stem={self.stem}: {self.architecture} has its own; leave it out")

    @property
    def sizes(self) -> dict[str, Any]:
        """What the architecture's builder takes."""
        return {} if self.stem is None else {"stem": self.stem}

    @property
    def small_share(self) -> float:
        """Share of the run that sees smaller pictures."""
        return 0.0 if self.start_size is None else self.start_share

    def side(self, full: int, at: Step) -> int:
        """Side in pixels, at a step, of views that have the side ``full`` at the end of the run."""
        if self.start_size is None or at.progress >= self.small_share:
            return full
        return max(_SMALLEST, round(full * self.start_size / self.size))
