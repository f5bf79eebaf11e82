"""The only path from pictures to embedded faces: decode, detect, choose, align, embed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from PIL import Image as pil
from torch import Tensor

from facekit.align import ARCFACE_TEMPLATE, align_faces
from facekit.checkpoint import Checkpoint
from facekit.detect import FaceDetector
from facekit.embed import CROP_SIZE, Embedder
from facekit.errors import FacekitError, ImageError, MultipleFacesError, NoFaceError, SettingError
from facekit.face import Detection, Face, Image
from facekit.image import (
    MAX_PIXELS,
    ImageSource,
    check_max_pixels,
    find_images,
    load_image,
    source_name,
)
from facekit.policy import FacePolicy, check_policy, select_faces, several_faces
from facekit.prefetch import map_ahead, use_cores
from facekit.quality import face_quality

__all__ = ["EncodedImage", "FaceEncoder", "FacePolicy", "select_faces"]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """What became of one picture.

    Attributes:
        source: what was given.
        name: its path, or what kind of object it is.
        faces: those that the policy chose, the most confident first; empty where there is none.
        error: why the picture could not be used; None where it could.
        size: (height, width) of the upright picture in pixels; None where it could not be read.
    """

    source: ImageSource
    name: str
    faces: tuple[Face, ...]
    error: FacekitError | None
    size: tuple[int, int] | None

    def one_face(self) -> Face:
        """The only face.

        Raises:
            FacekitError: ``error``, where the picture could not be used.
            NoFaceError: no face was found.
            MultipleFacesError: there are several; a policy such as ``"largest"`` chooses one.
        """
        if self.error is not None:
            raise self.error
        if not self.faces:
            remedy = "use a larger or sharper picture, or a smaller min_face"
            raise NoFaceError(f"{self.name}: no face found; {remedy}", path=self.name)
        if len(self.faces) > 1:
            raise several_faces(len(self.faces), self.name)
        return self.faces[0]


class FaceEncoder:
    """Turns pictures into embedded faces. Holds networks, never pictures: safe to share between threads.

    Args:
        checkpoint: the embedding network, see :func:`~facekit.checkpoint.load_checkpoint`.
        device: see :func:`~facekit.embed.resolve_device`; detector and embedder run there.
        precision: of the embedder, see :func:`~facekit.embed.resolve_precision`.
        batch_size: crops that the embedder takes at a time, or ``"auto"``.
        min_face: the smallest face to look for, in pixels.
        max_pixels: the largest picture that is decoded.

    Raises:
        SettingError, DeviceError: a setting that cannot be had.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        batch_size: int | str = "auto",
        min_face: float = 40.0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        check_max_pixels(max_pixels)
        self.embedder = Embedder(checkpoint, device=device, precision=precision, batch_size=batch_size)
        self.min_face = min_face
        self.max_pixels = max_pixels

    @cached_property
    def detector(self) -> FaceDetector:
        """Loaded when first used; aligned crops do without."""
        return FaceDetector(self.embedder.device, min_face=self.min_face)

    @property
    def checkpoint_fingerprint(self) -> str:
        """Stands for the network and its preprocessing; stored beside every embedding."""
        return self.embedder.config.fingerprint

    @property
    def detector_fingerprint(self) -> str:
        """Stands for the detector and its settings; stored beside every embedding of a photograph."""
        return self.detector.fingerprint

    def encode(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        faces: FacePolicy = "all",
        aligned: bool = False,
        progress: bool | None = None,
    ) -> list[EncodedImage]:
        """Encodes pictures, in order; a bad one becomes a result with an ``error`` and stops nothing.

        Args:
            images: pictures, a folder of them, or one picture (then the list has one element).
            faces: which faces of each picture are embedded.
            aligned: the pictures are square crops, aligned to the ArcFace template; nothing is searched.
            progress: a bar on stderr; None for one where stderr is a terminal and the pictures are many.

        Raises:
            SettingError: ``faces`` or ``images`` is none of these.
            ImageError: a folder without pictures.
        """
        return list(self.stream(images, faces=faces, aligned=aligned, progress=progress))

    def stream(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        faces: FacePolicy = "all",
        aligned: bool = False,
        progress: bool | None = False,
    ) -> Generator[EncodedImage, None, None]:
        """As :meth:`encode`, lazily: for more pictures than fit into memory.

        Threads decode and encode ahead by a bounded number of pixels; they end with the iterator, however it
        ends. Pictures are worked on in batches, so results come in bursts, behind what was read.
        """
        check_policy(faces)
        sources, total = _sources(images)
        if not aligned:
            _ = self.detector  # a bad min_face should be heard of here, not in the middle
        if progress is None:
            progress = sys.stderr.isatty() and (total is None or total > 16)
        encoded = self._stream(sources, total, faces, aligned)
        return _with_bar(encoded, total) if progress else encoded

    def _stream(
        self, sources: Iterable[ImageSource], total: int | None, policy: FacePolicy, aligned: bool
    ) -> Generator[EncodedImage, None, None]:
        def load(source: ImageSource) -> _Loaded:
            return _load(source, self.max_pixels, aligned)

        def encode(batch: Sequence[_Loaded]) -> list[EncodedImage]:
            good = [item for item in batch if item.error is None]
            encoded = iter(self._encode_crops(good) if aligned else self._encode_photos(good, policy))
            return [next(encoded) if item.error is None else item.result() for item in batch]

        pace = _pace(self.embedder.device)
        ahead = map_ahead(
            load, sources, workers=_DECODERS, window=pace.pictures, weigh=_pixels, limit=pace.ahead
        )
        batches = _batches(ahead, pace, total)
        with closing(ahead), closing(_map_batches(encode, batches, pace, total)) as encoded:
            yield from chain.from_iterable(encoded)

    def _encode_photos(self, batch: Sequence[_Loaded], policy: FacePolicy) -> list[EncodedImage]:
        if not batch:
            return []
        images = [torch.from_numpy(item.image).to(self.embedder.device) for item in batch]
        chosen: list[tuple[Detection, ...]] = []
        errors: list[FacekitError | None] = []
        for item, found in zip(batch, self.detector.detect(images), strict=True):
            try:
                chosen.append(select_faces(found, policy, item.size, name=item.name))
                errors.append(None)
            except MultipleFacesError as error:
                chosen.append(())
                errors.append(error)
        faces = iter(self._embed(images, chosen))
        return [
            item.result(tuple(islice(faces, len(found))), error)
            for item, found, error in zip(batch, chosen, errors, strict=True)
        ]

    def _embed(self, images: Sequence[Tensor], chosen: Sequence[tuple[Detection, ...]]) -> list[Face]:
        """All chosen faces of all pictures, in order."""
        found = [detection for detections in chosen for detection in detections]
        if not found:
            return []
        index = [i for i, detections in enumerate(chosen) for _ in detections]
        return self._faces(found, align_faces(images, index, _landmarks(found)))

    def _encode_crops(self, batch: Sequence[_Loaded]) -> list[EncodedImage]:
        if not batch:
            return []
        crops = torch.from_numpy(np.stack([item.image for item in batch])).permute(0, 3, 1, 2).contiguous()
        faces = self._faces([_whole_crop(item.size[0]) for item in batch], crops)
        return [item.result((face,)) for item, face in zip(batch, faces, strict=True)]

    def _faces(self, found: Sequence[Detection], crops: Tensor) -> list[Face]:
        embeddings = self.embedder.embed(crops).numpy()
        confidences = torch.tensor([detection.confidence for detection in found])
        sizes = torch.tensor([detection.size for detection in found])
        scores = face_quality(crops, _landmarks(found), confidences, sizes).score.tolist()
        return [  # copies, so that a face which is kept does not keep its whole batch
            Face(detection.box, detection.landmarks, detection.confidence, score, embedding.copy())
            for detection, score, embedding in zip(found, scores, embeddings, strict=True)
        ]


def _landmarks(found: Sequence[Detection]) -> Tensor:
    return torch.from_numpy(np.stack([detection.landmarks for detection in found]))


@dataclass(frozen=True, slots=True)
class _Pace:
    """How much is in the works at a time.

    Attributes:
        pixels: of a batch.
        pictures: of a batch, at most.
        ahead: pixels that are decoded and wait.
        workers: batches that are encoded side by side.
    """

    pixels: int
    pictures: int
    ahead: int
    workers: int

    def most(self, left: int | None) -> int:
        """Pictures of the next batch where ``left`` are left: fewer at the end, for all to end together."""
        if left is None or self.workers == 1:
            return self.pictures
        return min(self.pictures, max(4, left // (2 * self.workers)))


_DECODERS = os.cpu_count() or 1
_FEW = 8  # pictures that are not worth several threads


def _pace(device: torch.device) -> _Pace:
    """Large batches for a GPU. For a CPU several at once, each on its own cores.

    That is faster than one by one on all of them, where threads wait for each other after every operation.
    """
    if device.type == "cuda":
        return _Pace(pixels=1 << 26, pictures=512, ahead=1 << 27, workers=1)
    divisible = device.type == "cpu" and "backend: OpenMP" in torch.__config__.parallel_info()
    workers = min(torch.get_num_threads(), 8) if divisible else 1  # more would queue for the interpreter
    return _Pace(pixels=6_000_000, pictures=64, ahead=1 << 24, workers=workers)


def _map_batches(
    encode: Callable[[list[_Loaded]], list[EncodedImage]],
    batches: Iterator[list[_Loaded]],
    pace: _Pace,
    total: int | None,
) -> Generator[list[EncodedImage], None, None]:
    """Encodes batches in threads, or in the caller's where the pictures are few."""
    if total is not None and total < _FEW:
        yield from map(encode, batches)
        return
    begin = partial(use_cores, torch.get_num_threads() // pace.workers) if pace.workers > 1 else None
    yield from map_ahead(encode, batches, workers=pace.workers, window=pace.workers + 1, begin=begin)


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    """A picture that was read, or could not be."""

    source: ImageSource
    name: str
    image: Image
    size: tuple[int, int]
    error: FacekitError | None = None

    def result(self, faces: tuple[Face, ...] = (), error: FacekitError | None = None) -> EncodedImage:
        size = None if self.error is not None else self.size
        return EncodedImage(self.source, self.name, faces, self.error or error, size)


_NO_IMAGE = np.zeros((0, 0, 3), np.uint8)


def _pixels(thing: ImageSource | _Loaded) -> int:
    """What a picture, read or still to be read, takes of the memory, in pixels."""
    if isinstance(thing, _Loaded):
        thing = thing.image
    if isinstance(thing, pil.Image):
        return thing.width * thing.height
    return thing.nbytes // 3 if isinstance(thing, (np.ndarray, Tensor)) else 0


def _load(source: ImageSource, max_pixels: int, aligned: bool) -> _Loaded:
    name = source_name(source)
    try:
        image = load_image(source, max_pixels=max_pixels)
        height, width = image.shape[:2]
        return _Loaded(source, name, _as_crop(image, name) if aligned else image, (height, width))
    except FacekitError as error:
        return _Loaded(source, name, _NO_IMAGE, (0, 0), error)


def _as_crop(image: Image, name: str) -> Image:
    """A square picture at the size of a crop, antialiased."""
    height, width = image.shape[:2]
    if height != width:
        problem = f"aligned=True expects square crops, got {width} x {height}"
        raise ImageError(f"{name}: {problem}; leave it out for photographs", path=name)
    if height == CROP_SIZE:
        return image
    resized = pil.fromarray(image).resize((CROP_SIZE, CROP_SIZE), pil.Resampling.BILINEAR)
    return np.asarray(resized).copy()


def _whole_crop(side: int) -> Detection:
    """What a detector would have to say about an aligned crop."""
    landmarks = ARCFACE_TEMPLATE.numpy() * np.float32(side / CROP_SIZE)
    return Detection(np.array([0, 0, side, side], np.float32), landmarks, 1.0)


def _batches(loaded: Iterable[_Loaded], pace: _Pace, total: int | None) -> Iterator[list[_Loaded]]:
    """Successive pictures with up to so many pixels together; a larger one is a batch of its own."""
    batch: list[_Loaded] = []
    pixels, left = 0, total
    for item in loaded:
        if batch and (pixels + _pixels(item) > pace.pixels or len(batch) >= pace.most(left)):
            yield batch
            left = None if left is None else left - len(batch)
            batch, pixels = [], 0
        batch.append(item)
        pixels += _pixels(item)
    if batch:
        yield batch


def _sources(images: Any) -> tuple[Iterable[ImageSource], int | None]:
    """The single pictures, and how many they are where that is known."""
    if isinstance(images, (str, os.PathLike)):
        images = find_images(images) if os.path.isdir(images) else [images]
    elif _is_one_picture(images):
        images = [images]
    if not isinstance(images, Iterable):
        raise SettingError(f"images: pictures or a folder expected; got {type(images).__name__}")
    return images, len(images) if isinstance(images, Sized) else None


def _is_one_picture(images: Any) -> bool:
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim < 4
    return isinstance(images, (bytes, bytearray, memoryview, pil.Image)) or hasattr(images, "read")


def _with_bar(
    encoded: Generator[EncodedImage, None, None], total: int | None
) -> Generator[EncodedImage, None, None]:
    from tqdm import tqdm

    with closing(encoded), tqdm(total=total, unit="picture", file=sys.stderr) as bar:
        for one in encoded:
            bar.update()
            yield one
