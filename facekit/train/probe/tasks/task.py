"""What a probe needs to know of a task: its head, its loss and its figures."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor, nn

from facekit.train.probe.metrics import Metric

__all__ = ["Task"]


class Task(Protocol):
    """How one kind of targets is learnt and scored.

    Attributes:
        metrics: of :meth:`scores` on the test split; the first, by which models are chosen, is there on any.
        sees: what the head gets of the backbone: its (n, d) features, or the (n, c, h, w) map of its last
            stage.
        notes: what a reader of the test figures should know of what they leave out; one line each.
    """

    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    @property
    def sees(self) -> Literal["vector", "map"]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def head(self, channels: int, side: int) -> nn.Module:
        """A new head, from torch's generator.

        Args:
            channels: d or c of what it gets.
            side: of the input picture, in pixels.
        """
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What is minimised: a mean over the pictures, as far as its formula is one.

        Args:
            outputs: of the head in training mode, any precision.
            targets: (n, ...) rows of the examples' targets, on the same device. Unknown ones (NaN, or
                -1 of classes) contribute exactly nothing.

        Returns:
            A float32 scalar; 0, with a gradient of 0, where nothing is known.
        """
        ...

    def scores(self, outputs: Tensor, rows: Tensor) -> dict[str, float]:
        """The figures of some of the examples, by the names in :attr:`metrics`.

        Args:
            outputs: (k, ...) of the head in evaluation mode, on any device.
            rows: (k,) int64, whose they are.

        Raises:
            EvaluationError: the rows hold nothing that can be scored, such as one person only.
        """
        ...

    def mirrored(self, targets: Tensor) -> Tensor:
        """The targets of mirrored pictures; NaN where nobody can tell."""
        ...
