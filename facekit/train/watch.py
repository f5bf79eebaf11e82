"""What is looked at of a network that learns without labels: how its features lie, whom they tell apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from facekit.checkpoint import Calibration
from facekit.embed import resolve_device, resolve_precision
from facekit.errors import TrainingError
from facekit.evaluate import ROC
from facekit.train.config import RunSettings
from facekit.train.data import Crops
from facekit.train.recipe import Scores, Step
from facekit.train.statistics import effective_rank, uniformity
from facekit.train.stream import Stream
from facekit.train.validate import calibrate, heldout_curve, heldout_scores

__all__ = ["Watch"]

_WATCHED = 2000  # pictures whose features are looked at
_AT_ONCE = 256


class Watch:
    """Features of the held-out pictures; of training pictures, where there are too few of those.

    Args:
        network: (n, 3, s, s) float pixels 0...255 on the run's device -> (n, d) features.
        heldout: pictures that are not learnt from, and whose they are.
        learnt: the training pictures.
        run: device and precision.
    """

    def __init__(
        self, network: Callable[[Tensor], Tensor], heldout: Crops, learnt: Crops | Stream, run: RunSettings
    ) -> None:
        self._network, self._heldout, self._learnt = network, heldout, learnt
        self._device = resolve_device(run.device)
        self._precision = resolve_precision(run.precision, self._device)
        self._curve: ROC | None = None

    def scores(self, at: Step, *, size: int) -> Scores:
        """The spread of the features; where it is known who is on the held-out pictures, all their pairs.

        Args:
            at: the step, for messages.
            size: side in pixels of what the network is shown.

        Raises:
            TrainingError: the features are no longer numbers.
        """
        held = len(self._heldout) > 1  # one alone has no spread
        features = self._features(self._heldout.pictures if held else self._some_learnt(), size)
        if not features.isfinite().all():
            raise TrainingError(
                f"the features are no longer numbers after step {at.number}: start anew with a lower --lr"
            )
        embeddings = F.normalize(features)
        values = {
            "effective_rank": float(effective_rank(embeddings[:_WATCHED])),
            "heldout_uniformity": float(uniformity(embeddings[:_WATCHED])),
        }
        self._curve = heldout_curve(embeddings, self._heldout.labels) if held else None
        if self._curve is None:
            return Scores(values)
        scores = heldout_scores(self._curve)
        return Scores({**values, **scores.values}, scores.genuine, scores.impostor)

    def calibration(self, data: Path) -> Calibration | None:
        """Thresholds as of the last look; None where too few people were held out.

        Args:
            data: where the pictures are from, whose name the checkpoint tells.
        """
        what = f"{self._heldout.classes} held-out people of {data.name}, {len(self._heldout)} pictures"
        return None if self._curve is None else calibrate(self._curve, what)

    def _some_learnt(self) -> Tensor:
        rows = torch.arange(min(_WATCHED, len(self._learnt)))
        pictures, _, _ = next(iter(self._learnt.batches([rows])))
        return pictures

    @torch.inference_mode()
    def _features(self, pictures: Tensor, size: int) -> Tensor:
        """(n, d) float32 on the CPU, of (n, 3, s, s) uint8."""
        parts = []
        for part in torch.split(pictures, _AT_ONCE):
            x = part.to(self._device).float()
            if x.shape[-1] != size:
                x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
            with torch.autocast(self._device.type, self._precision, enabled=self._precision != torch.float32):
                parts.append(self._network(x).float().cpu())
        return torch.cat(parts)
