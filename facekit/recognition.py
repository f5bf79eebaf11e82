"""Photographs in, answers out: the same person or not, and who of a gallery it is."""

from __future__ import annotations

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facekit.checkpoint import (
    Checkpoint,
    ModelConfig,
    OnnxModel,
    load_checkpoint,
    push_checkpoint,
    save_checkpoint,
)
from facekit.encode import EncodedImage, FaceEncoder
from facekit.enrolment import Enrolment, Key, People, Sample, Skipped, changes, list_enrolments
from facekit.errors import CheckpointError, FacekitError, GalleryError, SettingError
from facekit.face import Embedding, Face
from facekit.gallery import ALIGNED, Gallery
from facekit.identify import Identification, Match
from facekit.image import MAX_PIXELS, ImageSource
from facekit.policy import FacePolicy
from facekit.similarity import cosine
from facekit.threshold import choose_threshold

__all__ = ["FaceRecognition", "Verification"]

_log = logging.getLogger("facekit")


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """Whether two pictures show one person.

    True where they do; formats as its similarity (``f"{result:.3f}"``), and ``float(result)`` is it;
    ``result["is_same"]`` reads like a dictionary, and ``dict(result)`` makes one, with the faces as they
    are; for JSON there is :meth:`to_dict`.

    Attributes:
        similarity: cosine of the two embeddings in [-1, 1]; not a probability.
        threshold: the similarity that is asked for, inclusive.
        far: the rate at which pairs of strangers reach the threshold, by the checkpoint's calibration; None
            where that was not measured.
        faces: the two faces that were compared.
    """

    similarity: float
    threshold: float
    far: float | None
    faces: tuple[Face, Face]

    @property
    def is_same(self) -> bool:
        """Whether the similarity reaches the threshold."""
        return self.similarity >= self.threshold

    @property
    def distance(self) -> float:
        """1 - similarity, in [0, 2]."""
        return 1.0 - self.similarity

    def __bool__(self) -> bool:
        return self.is_same

    def __float__(self) -> float:
        return self.similarity

    def __str__(self) -> str:
        verdict, sign = ("same person", ">=") if self.is_same else ("different people", "<")
        rate = "" if self.far is None else f" (false accept rate {self.far:.2g})"
        return f"{verdict}: similarity {self.similarity:.3f} {sign} threshold {self.threshold:.3f}{rate}"

    def __format__(self, spec: str) -> str:
        return format(self.similarity, spec) if spec else str(self)

    def keys(self) -> tuple[str, ...]:
        """The names that ``result[name]`` knows."""
        return "is_same", "similarity", "distance", "threshold", "far", "faces"

    def __getitem__(self, key: str) -> Any:
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain values for JSON."""
        return {**dict(self), "faces": [face.to_dict() for face in self.faces]}


class FaceRecognition:
    """Compares, finds and names faces. Holds networks, never pictures: safe to share between threads.

    An image is a path, the bytes of a file, a file object, a PIL picture, a uint8 RGB array or a tensor. With
    ``aligned=True`` images are square crops, aligned to the ArcFace template. Where a picture shows several
    faces, ``faces`` says which counts (see :data:`~facekit.policy.FacePolicy`).

    Args:
        checkpoint: what makes the embeddings: None for the one that ships with facekit, a checkpoint folder,
            a file (.pth, .ckpt, .onnx ...), ``"owner/name"`` on the Hugging Face Hub, or one that is loaded.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``; what is not there is an error.
        precision: ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        min_face: the smallest face to look for, in pixels.
        batch_size: crops that the network takes at a time, or ``"auto"``.
        max_pixels: the largest picture that is decoded.

    Raises:
        CheckpointError: the checkpoint cannot be found or used.
        SettingError, DeviceError: a setting that cannot be had.
    """

    def __init__(
        self,
        checkpoint: str | Path | Checkpoint | None = None,
        device: str | torch.device = "auto",
        *,
        precision: str = "auto",
        min_face: float = 40.0,
        batch_size: int | str = "auto",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
        self._checkpoint = loaded
        self.encoder = FaceEncoder(
            loaded,
            device=device,
            precision=precision,
            batch_size=batch_size,
            min_face=min_face,
            max_pixels=max_pixels,
        )

    @property
    def config(self) -> ModelConfig:
        """What the checkpoint says about itself: preprocessing, thresholds, origin, licence."""
        return self._checkpoint.config

    # ------------------------------------------------------------ one face, two faces

    def extract_embedding(
        self, image: ImageSource, *, faces: FacePolicy = "largest", aligned: bool = False
    ) -> Embedding:
        """The embedding of the face in a picture: (d,) float32 of unit length; d is 512 for most checkpoints.

        Raises:
            ImageError: the picture cannot be read.
            NoFaceError: it shows no face.
            MultipleFacesError: it shows several, and ``faces`` chooses none.
        """
        return self._face(image, faces, aligned).embedding

    def verify_faces(
        self,
        a: ImageSource,
        b: ImageSource,
        threshold: float | None = None,
        *,
        far: float | None = None,
        faces: FacePolicy = "largest",
        aligned: bool = False,
    ) -> Verification:
        """Whether two pictures show the same person.

        Args:
            a: a picture.
            b: another.
            threshold: the similarity from which on they do, in [-1, 1]; beats ``far``.
            far: the false accept rate to work at, such as 1e-3, looked up in the checkpoint's calibration;
                beats the checkpoint's default.
            faces: which face of each picture.
            aligned: the pictures are aligned crops.

        Raises:
            CalibrationError: no threshold is given, and the checkpoint knows none.
            ImageError, NoFaceError, MultipleFacesError: as for :meth:`extract_embedding`.
        """
        asked = choose_threshold(self.config, threshold=threshold, far=far)
        first, second = (one.one_face() for one in self.encoder.encode([a, b], faces=faces, aligned=aligned))
        similarity = float(cosine(first.embedding, second.embedding))
        return Verification(similarity, asked.similarity, asked.far, (first, second))

    def are_same_person(
        self,
        a: ImageSource,
        b: ImageSource,
        threshold: float | None = None,
        *,
        far: float | None = None,
        faces: FacePolicy = "largest",
        aligned: bool = False,
    ) -> bool:
        """As :meth:`verify_faces`, the bare verdict."""
        return self.verify_faces(a, b, threshold, far=far, faces=faces, aligned=aligned).is_same

    # ------------------------------------------------------------ many pictures

    def encode(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        faces: FacePolicy = "all",
        aligned: bool = False,
        progress: bool | None = None,
    ) -> list[EncodedImage]:
        """The faces of each picture, or the reason why not, in order (see :meth:`FaceEncoder.encode
        <facekit.encode.FaceEncoder.encode>`)."""
        return self.encoder.encode(images, faces=faces, aligned=aligned, progress=progress)

    def stream(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        faces: FacePolicy = "all",
        aligned: bool = False,
        progress: bool | None = False,
    ) -> Iterator[EncodedImage]:
        """As :meth:`encode`, lazily and in bounded memory, for a million files."""
        return self.encoder.stream(images, faces=faces, aligned=aligned, progress=progress)

    # ------------------------------------------------------------ galleries

    def build_gallery(
        self,
        people: People,
        *,
        update: Gallery | str | os.PathLike[str] | None = None,
        faces: FacePolicy = "largest",
        aligned: bool = False,
        progress: bool | None = None,
    ) -> Gallery:
        """Enrols people from their pictures: one face a picture, by default its largest.

        A picture without a usable face is skipped; ``gallery.skipped`` says which and why, and one warning
        how many. Where none is usable, ``update`` stays as it was. Interrupted, ``update`` takes what is
        embedded by then and loses nothing; the next call goes on from there.

        Args:
            people: a folder with a folder a person, a folder of loose pictures (the person is the file's
                name), a CSV of path and person, or a mapping of person -> pictures (``{}`` for an empty
                gallery, to be filled by hand); see :func:`~facekit.enrolment.list_enrolments`.
            update: a gallery, or the file of one, made if need be, that is brought up to date: only pictures
                that are new or changed (in size or time) are embedded, those that have vanished are dropped,
                faces that were added by hand stay. A mapping speaks only of the people in it; all others
                stay, too. A file is written, a gallery is changed in place.
            faces: which face of each picture.
            aligned: the pictures are aligned crops.
            progress: a bar on stderr; None for one where stderr is a terminal and the pictures are many.

        Raises:
            ImageError: a folder that is missing or holds no pictures.
            GalleryError: none of the pictures has a usable face, or the file cannot be read or written.
            MismatchError: ``update`` was made by another checkpoint or detector.
            SettingError: ``people`` is none of these, or lists no pictures.
        """
        found = [_under_policy(item, faces) for item in list_enrolments(people)]
        if update is not None and not found:
            raise SettingError("people: holds no pictures; give at least one, or leave update as it is")
        gallery = update if isinstance(update, Gallery) else self._open_gallery(update, aligned)
        self._require(gallery, aligned)
        if (gallery.detector == ALIGNED) != aligned:
            holds = "aligned crops" if gallery.detector == ALIGNED else "photographs"
            raise SettingError(f"aligned: {aligned} does not go with a gallery of {holds}; build another one")
        stored: list[Sample | Skipped] = [*gallery.samples, *gallery.skipped]
        if isinstance(people, Mapping):
            named = {item.sample.person for item in found}
            stored = [item for item in stored if item.person in named]
        fresh, gone = changes(found, stored)
        read = _Read([], [], [])
        try:
            images = [item.image for item in fresh]
            stream = self.encoder.stream(images, faces=faces, aligned=aligned, progress=progress)
            for item, encoded in zip(fresh, stream, strict=True):
                read.add(item, encoded)
        except BaseException:
            if read.samples:
                read.put_into(gallery, update)
            raise
        read.require_usable(found, gallery)
        read.put_into(gallery, update, forget=gone)
        if read.skipped:
            kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(s.kind for s in read.skipped).items())
            _log.warning(
                "%d of %d pictures skipped (%s); see gallery.skipped", len(read.skipped), len(fresh), kinds
            )
        return gallery

    def load_gallery(self, path: str | os.PathLike[str]) -> Gallery:
        """The gallery in a file, if this checkpoint and detector made it.

        Raises:
            GalleryError: not a gallery, or damaged.
            MismatchError: another checkpoint or detector made it.
        """
        gallery = Gallery.load(path, device=self.encoder.embedder.device)
        self._require(gallery)
        return gallery

    def search_in_gallery(
        self,
        query: ImageSource | Embedding,
        gallery: Gallery,
        top_k: int = 5,
        *,
        threshold: float | None = None,
        faces: FacePolicy = "largest",
        aligned: bool = False,
    ) -> list[Match]:
        """The people most alike to a face, each by the best sample: ``for person, similarity in ...``.

        Many probes at once are searched faster by :meth:`Gallery.search_many
        <facekit.gallery.Gallery.search_many>`.

        Args:
            query: a picture, or an embedding (d,) float32.
            gallery: made by this checkpoint and detector.
            top_k: people at most.
            threshold: leaves out who is less alike; None for nobody, so that strangers have matches, too.
            faces: which face of the picture.
            aligned: the picture is an aligned crop.

        Raises:
            MismatchError: another checkpoint or detector made the gallery.
            ImageError, NoFaceError, MultipleFacesError: as for :meth:`extract_embedding`.
        """
        probe = self._probe(query, gallery, faces, aligned)
        return gallery.search(probe, top_k=top_k, threshold=threshold)

    def identify(
        self,
        query: ImageSource | Embedding,
        gallery: Gallery,
        threshold: float | None = None,
        *,
        far: float | None = None,
        faces: FacePolicy = "largest",
        aligned: bool = False,
    ) -> Identification:
        """Who of the gallery a face is, or that it is ``unknown``.

        ``far`` is the rate of *one* comparison: a gallery of n samples takes a stranger for somebody up to n
        times as often, so ask for a rate that leaves room for that.

        Args:
            query: a picture, or an embedding (d,) float32.
            gallery: made by this checkpoint and detector.
            threshold: as for :meth:`verify_faces`.
            far: as for :meth:`verify_faces`.
            faces: which face of the picture.
            aligned: the picture is an aligned crop.

        Raises:
            CalibrationError: no threshold is given, and the checkpoint knows none.
            MismatchError: another checkpoint or detector made the gallery.
            ImageError, NoFaceError, MultipleFacesError: as for :meth:`extract_embedding`.
        """
        asked = choose_threshold(self.config, threshold=threshold, far=far)
        found = gallery.identify(self._probe(query, gallery, faces, aligned), asked.similarity)
        return replace(found, far=asked.far)

    # ------------------------------------------------------------ checkpoints

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        token: str | None = None,
        **settings: Any,
    ) -> FaceRecognition:
        """From a model of the Hugging Face Hub, or anything else that the constructor takes.

        Args:
            source: ``"owner/name"``, a folder or a file.
            revision: branch, tag or commit.
            cache_dir: the Hub's cache, if not its usual one.
            local_files_only: use the cache alone.
            token: for private models.
            **settings: the constructor's: ``device``, ``precision``, ``min_face`` ...

        Raises:
            CheckpointError: it cannot be found, fetched or used.
        """
        checkpoint = load_checkpoint(
            source, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, token=token
        )
        return cls(checkpoint, **settings)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the checkpoint as a folder that the constructor takes, all or nothing.

        Raises:
            CheckpointError: it cannot be written, or the network is an ONNX graph.
        """
        model, config = self._checkpoint.model, self.config
        if isinstance(model, OnnxModel):
            remedy = "copy the file, with a config.json beside it"
            raise CheckpointError(
                f"{model.path}: an ONNX graph is used as it is; {remedy}", path=str(model.path)
            )
        save_checkpoint(folder, model, config)

    def push_to_hub(self, repo: str, *, token: str | None = None, private: bool = False) -> str:
        """Uploads the checkpoint to ``"owner/name"`` on the Hugging Face Hub; returns the commit's address.

        Raises:
            CheckpointError: the Hub refuses it or cannot be reached, or the network is an ONNX graph.
            SettingError: ``repo`` is not such a name.
        """
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "checkpoint")
            self.save_pretrained(folder)
            return push_checkpoint(folder, repo, token=token, private=private)

    # ------------------------------------------------------------ inside

    def _face(self, image: ImageSource, faces: FacePolicy, aligned: bool) -> Face:
        return self.encoder.encode([image], faces=faces, aligned=aligned)[0].one_face()

    def _probe(
        self, query: ImageSource | Embedding, gallery: Gallery, faces: FacePolicy, aligned: bool
    ) -> NDArray[np.float32]:
        self._require(gallery, aligned)
        if isinstance(query, (np.ndarray, Tensor)) and query.ndim == 1:
            return query.detach().float().cpu().numpy() if isinstance(query, Tensor) else query
        return self._face(query, faces, aligned).embedding

    def _detector(self, aligned: bool) -> str:
        return ALIGNED if aligned else self.encoder.detector_fingerprint

    def _require(self, gallery: Any, aligned: bool = False) -> None:
        if not isinstance(gallery, Gallery):
            kind = type(gallery).__name__
            raise SettingError(f"gallery: got {kind}; pass what build_gallery or load_gallery returns")
        gallery.require(self.encoder.checkpoint_fingerprint, self._detector(aligned))

    def _open_gallery(self, path: str | os.PathLike[str] | None, aligned: bool) -> Gallery:
        """The gallery in the file; an empty one if there is none."""
        embedder = self.encoder.embedder
        if path is not None and not _is_new(path):
            return Gallery.load(path, device=embedder.device)
        return Gallery(
            checkpoint=self.encoder.checkpoint_fingerprint,
            detector=self._detector(aligned),
            dim=embedder.dim,
            device=embedder.device,
        )


@dataclass(frozen=True, slots=True)
class _Read:
    """What the pictures gave, as far as they have been read."""

    samples: list[Sample]
    embeddings: list[Embedding]
    skipped: list[Skipped]

    def add(self, item: Enrolment, encoded: EncodedImage) -> None:
        try:
            self.embeddings.append(encoded.one_face().embedding)
            self.samples.append(item.sample)
        except FacekitError as error:
            self.skipped.append(item.skipped(error))

    def require_usable(self, found: list[Enrolment], gallery: Gallery) -> None:
        """Makes sure that at least one of the pictures is of use: a wrong folder must not empty a gallery.

        Raises:
            GalleryError: none is.
        """
        listed = {item.sample.key for item in found}
        in_vain = {item.key: item for item in (*gallery.skipped, *self.skipped)}
        known = {sample.key for sample in gallery.samples} - {item.key for item in self.skipped}
        if found and not self.samples and listed.isdisjoint(known):
            first = next(in_vain[item.sample.key].reason for item in found if item.sample.key in in_vain)
            raise GalleryError(f"gallery: none of {len(found)} pictures has a usable face; first: {first}")

    def put_into(
        self, gallery: Gallery, update: object, *, forget: Collection[Key] = frozenset[Key]()
    ) -> None:
        """Changes the gallery, and writes it where ``update`` is a file."""
        gallery.change(
            forget={*forget, *(s.key for s in self.samples), *(s.key for s in self.skipped)},
            add=self.samples,
            embeddings=np.stack(self.embeddings) if self.embeddings else None,
            skipped=self.skipped,
        )
        if isinstance(update, (str, os.PathLike)):
            gallery.save(update)


def _is_new(path: str | os.PathLike[str]) -> bool:
    """Whether there is no such file yet, but a place for it; told before the work, not after it.

    Raises:
        SettingError: not a path.
        GalleryError: no folder for it.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise SettingError(f"update: {path!r} is no file; pass a gallery, or the path of one")
    try:
        Path(path).stat()
    except FileNotFoundError:
        if not os.path.isdir(Path(os.path.realpath(path)).parent):
            name = os.fspath(path)
            raise GalleryError(f"{name}: is in no existing folder; make it first", path=name) from None
        return True
    except (OSError, ValueError):
        pass  # reading it will say what is wrong
    return False


def _under_policy(item: Enrolment, faces: FacePolicy) -> Enrolment:
    """Another policy may choose another face, so the picture counts as changed."""
    stamp = item.sample.stamp and f"{faces} {item.sample.stamp}"
    return item._replace(sample=replace(item.sample, stamp=stamp))
