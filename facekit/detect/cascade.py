"""The three stages of MTCNN, each over all candidates of all pictures at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from facekit.detect.integral import IntegralImages, room
from facekit.detect.mosaic import MARGIN, Mosaic, Windows
from facekit.detect.pyramid import CELL, STRIDE
from facekit.detect.suppress import best_first, overlap, suppress, survivors
from facekit.detect.weights import load_weights
from facekit.errors import SettingError
from facekit.face import Detection
from facekit.models.mtcnn import ONet, PNet, RNet

__all__ = ["FaceDetector"]


class Candidates(NamedTuple):
    """Boxes that may be faces.

    Attributes:
        image: (n,) int64, the picture of each; not falling.
        boxes: (n, 4) float32, x1, y1, x2, y2 in pixels.
        scores: (n,) float32, probability of a face; within a picture the best first.
    """

    image: Tensor
    boxes: Tensor
    scores: Tensor

    def pick(self, index: Tensor) -> Candidates:
        """Those that an index or a mask picks."""
        return Candidates(*(column[index] for column in self))


class FaceDetector:
    """Finds faces and their five landmarks by MTCNN, with the weights of facenet-pytorch.

    It finds what facenet-pytorch's ``MTCNN(keep_all=True)`` finds in each picture alone: same pyramid, same
    windows, same suppression. Detectors hold no state of a call, and are safe to share between threads.

    Args:
        device: where to run.
        min_face: side of the smallest face to look for, in pixels, at least 12. Halving it makes the search
            about four times slower.
        thresholds: the probability that a candidate must reach in each of the three stages; the last bounds
            ``Detection.confidence``. Confidences crowd near 1: a true face mostly has more than 0.99.

    Attributes:
        fingerprint: names the weights and the settings; vectors of faces found under another one are of other
            crops.

    Raises:
        SettingError: a setting is out of its range.
        CheckpointError: the weights are not installed.
    """

    def __init__(
        self,
        device: str | torch.device = "cpu",
        *,
        min_face: float = 40.0,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
    ) -> None:
        side: Any = min_face
        if isinstance(side, bool) or not isinstance(side, Real) or not min_face >= CELL:
            raise SettingError(f"min_face is {min_face!r}: give a number, at least {CELL} pixels")
        if len(thresholds) != 3 or not all(0 < threshold < 1 for threshold in thresholds):
            raise SettingError(f"thresholds are {thresholds}: give three numbers between 0 and 1")
        self.device = torch.device(device)
        self.min_face, self.thresholds = float(min_face), tuple(map(float, thresholds))
        self._pnet, self._rnet, self._onet = PNet(), RNet(), ONet()
        weights = load_weights(pnet=self._pnet, rnet=self._rnet, onet=self._onet)
        for network in (self._pnet, self._rnet, self._onet):
            network.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)
        settings = f"{weights} {self.min_face} {self.thresholds}"
        self.fingerprint = "mtcnn-" + hashlib.sha256(settings.encode()).hexdigest()[:12]
        self._work = GPU if self.device.type == "cuda" else CPU

    @torch.inference_mode()
    def detect(self, images: Sequence[Tensor]) -> list[tuple[Detection, ...]]:
        """The faces in each picture, best first; what is found in one does not depend on the others.

        Boxes may reach over the border of the picture, and are not clipped to it.

        Args:
            images: (h, w, 3) uint8 RGB each, of any sizes.

        Raises:
            SettingError: something else was given.
        """
        for image in images:
            if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise SettingError(f"a picture is {image.dtype} {tuple(image.shape)}: give uint8 (h, w, 3)")
        groups = list(_groups(images, self._work.pixels))
        memory = torch.empty(max(map(room, groups), default=0), dtype=torch.int32, device=self.device)
        return [faces for group in groups for faces in self._detect(group, memory)]

    def _detect(self, images: Sequence[Tensor], memory: Tensor) -> list[tuple[Detection, ...]]:
        table = IntegralImages(images, memory)
        candidates = self._refine(table, self._propose(table))
        return _per_picture(len(images), *self._finish(table, candidates))

    def _propose(self, table: IntegralImages) -> Candidates:
        """Stage one: windows of the pyramid that PNet takes for faces."""
        mosaic = Mosaic(table, self.min_face)
        if not mosaic.canvases:
            return _none(self.device)
        maps = [self._pnet(canvas, ignore) for canvas, ignore in mosaic.draw(self._work.canvases)]
        offsets, scores = torch.cat([m[0] for m in maps]), torch.cat([m[1] for m in maps])
        canvas, row, column = (scores >= self.thresholds[0]).nonzero().T
        offsets, scores = offsets[canvas, :, row, column], scores[canvas, row, column]
        inside, windows = mosaic.windows(canvas, row, column)
        order = windows.place.argsort()
        offsets, scores = offsets[inside][order], scores[inside][order]
        windows = Windows(*(column[order] for column in windows))

        boxes = _window_boxes(windows, mosaic.scale)
        keep = _strongest_windows(windows, boxes, scores, mosaic.places)
        image = mosaic.image[windows.copy][keep]
        boxes = boxes[keep] + offsets[keep] * _sides(boxes[keep], 0)
        found = Candidates(image, _squared(boxes), scores[keep])
        return found.pick(best_first(found.image, found.scores))

    def _refine(self, table: IntegralImages, found: Candidates) -> Candidates:
        """Stage two: RNet looks at each candidate at 24 x 24."""
        found, crops = _crops(table, found)
        offsets, scores = _in_chunks(self._rnet, table, found, crops, 24, self._work.rnet)
        passed = scores > self.thresholds[1]
        found, offsets = Candidates(found.image, found.boxes, scores).pick(passed), offsets[passed]
        order = best_first(found.image, found.scores)
        found, offsets = found.pick(order), offsets[order]
        keep = suppress(found.image, found.boxes, 0.7)
        found, offsets = found.pick(keep), offsets[keep]
        return found._replace(boxes=_squared(found.boxes + offsets * _sides(found.boxes, 1)))

    def _finish(self, table: IntegralImages, found: Candidates) -> tuple[Candidates, Tensor]:
        """Stage three: ONet looks at 48 x 48, and places the landmarks."""
        found, crops = _crops(table, found)
        offsets, landmarks, scores = _in_chunks(self._onet, table, found, crops, 48, self._work.onet)
        passed = scores > self.thresholds[2]
        found = Candidates(found.image, found.boxes, scores).pick(passed)
        sides = _sides(found.boxes, 1)
        landmarks = landmarks[passed] * sides[:, None, :2] + found.boxes[:, None, :2] - 1
        found = found._replace(boxes=found.boxes + offsets[passed] * sides)
        # MTCNN's last suppression prefers the later one of equals, and scores of 1 are often equal.
        order = best_first(found.image.flip(0), found.scores.flip(0))
        order = len(order) - 1 - order
        found, landmarks = found.pick(order), landmarks[order]
        keep = suppress(found.image, found.boxes, 0.7, smaller=True)
        return found.pick(keep), landmarks[keep]


class Work(NamedTuple):
    """How much to take in hand at a time: it bounds the memory, and on a CPU keeps the work in its caches.

    Attributes:
        pixels: of the pictures of a group, at 12 bytes each; a larger picture is a group of its own.
        canvases: for PNet.
        rnet: crops.
        onet: crops.
    """

    pixels: int
    canvases: int
    rnet: int
    onet: int


CPU = Work(pixels=1 << 23, canvases=1, rnet=64, onet=16)
GPU = Work(pixels=1 << 26, canvases=64, rnet=4096, onet=1024)


def _groups(images: Sequence[Tensor], pixels: int) -> Iterator[Sequence[Tensor]]:
    """Successive pictures with up to so many pixels together."""
    start = total = 0
    for i, image in enumerate(images):
        size = image.shape[0] * image.shape[1]
        if i > start and total + size > pixels:
            yield images[start:i]
            start, total = i, 0
        total += size
    if start < len(images):
        yield images[start:]


def _window_boxes(windows: Windows, scale: Tensor) -> Tensor:
    """The pixels that PNet's windows cover in the picture, in MTCNN's rounding: (n, 4) float32."""
    corner = torch.stack([windows.x, windows.y], 1).float() * STRIDE
    scale = scale[windows.copy].unsqueeze(1)
    return torch.cat([((corner + 1) / scale).floor(), ((corner + CELL) / scale).floor()], 1)


def _strongest_windows(windows: Windows, boxes: Tensor, scores: Tensor, places: int) -> Tensor:
    """Which windows greedy suppression keeps within each scaled copy, at an overlap of 0.5.

    Windows of a copy are equally large and lie on a grid, so only those at most two steps apart can overlap
    by half. MTCNN suppresses once more across the copies of a picture, at 0.7: this changes nothing, since
    the windows of two copies differ in area by a factor of 0.709^2 at least.
    """
    count = len(scores)
    index = torch.full((places,), -1, dtype=torch.int64, device=scores.device)
    index[windows.place] = torch.arange(count, device=scores.device)
    step = torch.arange(-MARGIN, MARGIN + 1, device=scores.device)
    there = windows.place[:, None, None] + step[:, None] * windows.stride[:, None, None] + step
    other = index[there].flatten(1)
    this = torch.arange(count, device=scores.device).unsqueeze(1)
    better = (scores[other] > scores[this]) | ((scores[other] == scores[this]) & (other < this))
    loser, column = (better & (other >= 0)).nonzero().T
    winner = other[loser, column]
    close = overlap(boxes[winner], boxes[loser]) > 0.5
    return survivors(count, winner[close], loser[close])


def _sides(boxes: Tensor, border: int) -> Tensor:
    """(n, 4) width, height, width, height: the unit of offsets; later stages count the border too."""
    return (boxes[:, 2:] - boxes[:, :2] + border).repeat(1, 2)


def _squared(boxes: Tensor) -> Tensor:
    """Grown to squares about their centres."""
    sides = boxes[:, 2:] - boxes[:, :2]
    side = sides.amax(1, keepdim=True)
    corner = boxes[:, :2] + sides * 0.5 - side * 0.5
    return torch.cat([corner, corner + side], 1)


def _crops(table: IntegralImages, found: Candidates) -> tuple[Candidates, Tensor]:
    """The pixels of each box inside its picture, (n, 4) int64, without the boxes that have none."""
    limit = table.sizes.to(found.boxes.device)[found.image].flip(1)
    first = (found.boxes[:, :2].trunc().long() - 1).clamp_(min=0)
    last = torch.minimum(found.boxes[:, 2:].trunc().long(), limit)
    inside = (last > first).all(1)
    return found.pick(inside), torch.cat([first, last], 1)[inside]


def _in_chunks(
    network: Callable[[Tensor], tuple[Tensor, ...]],
    table: IntegralImages,
    found: Candidates,
    crops: Tensor,
    size: int,
    chunk: int,
) -> list[Tensor]:
    """What a network says of all crops, always ``chunk`` at a time: no answer depends on the other crops."""
    count = len(crops)
    fill = -count % chunk if count else chunk
    image, crops = F.pad(found.image, (0, fill)), F.pad(crops, (0, 0, 0, fill))
    chunks = zip(torch.split(image, chunk), torch.split(crops, chunk), strict=True)
    outputs = [network(table.crops(i, c, size)) for i, c in chunks]
    return [torch.cat(part)[:count] for part in zip(*outputs, strict=True)]


def _none(device: torch.device) -> Candidates:
    return Candidates(
        torch.zeros(0, dtype=torch.int64, device=device),
        torch.zeros(0, 4, device=device),
        torch.zeros(0, device=device),
    )


def _per_picture(count: int, found: Candidates, landmarks: Tensor) -> list[tuple[Detection, ...]]:
    """Detections by picture; the only time that results leave the device."""
    faces: list[list[Detection]] = [[] for _ in range(count)]
    table = torch.cat([found.boxes, landmarks.flatten(1), found.scores.unsqueeze(1)], 1).cpu().numpy()
    for image, row in zip(found.image.tolist(), table, strict=True):
        faces[image].append(Detection(row[:4].copy(), row[4:14].reshape(5, 2).copy(), float(row[14])))
    return [tuple(group) for group in faces]
