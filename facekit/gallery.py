"""People and the embeddings of their faces: kept, searched by person, saved and loaded."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Collection, Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facekit.embed import resolve_device
from facekit.enrolment import Key, Sample, Skipped
from facekit.errors import GalleryError, MismatchError, SettingError
from facekit.identify import Identification, Match, PersonIndex
from facekit.vectorfile import read_vectors, write_vectors

__all__ = ["ALIGNED", "Gallery"]

ALIGNED = "aligned"
"""Stands for the detector of faces that were given as aligned crops; it goes with any other."""

_FORMAT, _VERSION = "facekit gallery", "1"


class Gallery:
    """People, each with any number of embedded faces. Iterating gives the people, ``gallery[person]`` their
    embeddings (m, d), ``len`` the number of people.

    Searches may run in many threads, beside one that changes the gallery; each sees it as it was before or
    after a change. The first search after a change prepares the vectors, which reads all of them once.

    Args:
        checkpoint: fingerprint of the checkpoint that makes the embeddings.
        detector: fingerprint of the detector that finds the faces, or :data:`ALIGNED`.
        dim: length d of an embedding.
        device: where to search, see :func:`~facekit.embed.resolve_device`.
    """

    def __init__(
        self, *, checkpoint: str, detector: str, dim: int, device: str | torch.device = "cpu"
    ) -> None:
        self.checkpoint = checkpoint
        self.detector = detector
        self.dim = dim
        self.device = resolve_device(device)
        self._name = "gallery"
        self._lock = threading.RLock()
        self._samples: list[Sample] = []  # grows at its end, and is never changed otherwise
        self._parts: list[NDArray[np.float32]] = []
        self._skipped: tuple[Skipped, ...] = ()
        self._index: PersonIndex | None = None

    def __repr__(self) -> str:
        sizes = f"{len(self)} people, {len(self._samples)} samples"
        return f"<Gallery: {sizes}, {self.checkpoint}, {self.detector}>"

    def __len__(self) -> int:
        return len(self.people)

    def __iter__(self) -> Iterator[str]:
        return iter(self.people)

    def __contains__(self, person: object) -> bool:
        return any(sample.person == person for sample in self.samples)

    def __getitem__(self, person: str) -> NDArray[np.float32]:
        with self._lock:
            samples, vectors = self.samples, self.vectors
        rows = [row for row, sample in enumerate(samples) if sample.person == person]
        if not rows:
            raise KeyError(person)
        return np.array(vectors[rows])

    @property
    def people(self) -> tuple[str, ...]:
        """Everybody, in the order of their first samples."""
        return tuple(dict.fromkeys(sample.person for sample in self.samples))

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All samples, in the order in which they were added."""
        return tuple(self._samples)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(n, d) float32, read-only: the embeddings of :attr:`samples`; mapped from the file if unchanged."""
        with self._lock:
            if len(self._parts) != 1:
                self._parts = [np.concatenate([np.empty((0, self.dim), np.float32), *self._parts])]
            self._parts[0].flags.writeable = False
            return self._parts[0]

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The pictures from which nobody was enrolled, and why."""
        return self._skipped

    def add(
        self, person: str, embeddings: NDArray[np.float32], *, source: str | os.PathLike[str] = ""
    ) -> None:
        """Adds faces of a person, who may be new.

        Args:
            person: a name, not empty.
            embeddings: (d,) or (m, d) of unit length.
            source: where they came from.

        Raises:
            SettingError: not such embeddings, no name, or a source that is no text.
        """
        vectors = np.atleast_2d(_as_array(embeddings))
        place = os.fspath(source) if isinstance(source, os.PathLike) else source
        self.change(add=[Sample(person, place)] * len(vectors), embeddings=vectors)

    def remove(self, person: str, *, source: str | None = None) -> int:
        """Takes out a person, or only the samples that came from ``source``.

        Returns:
            The number of samples that are gone, at least 1.

        Raises:
            SettingError: there are none such.
        """
        with self._lock:
            gone = [s for s in self._samples if s.person == person and source in (None, s.source)]
            if not gone:
                what = f"{person!r}" if source is None else f"a sample of {person!r} from {source!r}"
                raise SettingError(f"person: {what} is not in the gallery; gallery.people lists who is")
            self.change(forget={sample.key for sample in gone})
        return len(gone)

    def change(
        self,
        *,
        forget: Collection[Key] = (),
        add: Sequence[Sample] = (),
        embeddings: NDArray[np.float32] | None = None,
        skipped: Sequence[Skipped] = (),
    ) -> None:
        """Takes samples out and puts others in, in one step; searches see both done or neither.

        Args:
            forget: (person, source) of the samples, and of the skipped pictures, that go.
            add: samples that come.
            embeddings: theirs, (m, d) of unit length.
            skipped: pictures that were in vain.

        Raises:
            SettingError: the embeddings do not fit, or a name or source is no text; nothing has changed then.
        """
        fresh = _unit_rows(embeddings, (len(add), self.dim)) if add else None
        _require_text(add, skipped)
        with self._lock:
            if forget:
                stay = [s.key not in forget for s in self._samples]
                self._parts = [np.asarray(self.vectors[stay])]
                self._samples = [s for s, kept in zip(self._samples, stay, strict=True) if kept]
            kept_skips = (s for s in self._skipped if s.key not in forget)
            self._skipped = (*kept_skips, *skipped)
            if fresh is not None:
                self._parts.append(fresh)
                self._samples.extend(add)
            self._index = None

    def search(
        self, probe: NDArray[np.float32], *, top_k: int = 5, threshold: float | None = None
    ) -> list[Match]:
        """The people most alike to one face, each by the best of their samples.

        Args:
            probe: (d,) of unit length.
            top_k: people at most, at least 1.
            threshold: leaves out who is less alike; None for nobody.

        Returns:
            Best first, equal ones in the order of enrolment.

        Raises:
            SettingError: the probe does not fit, ``top_k`` is below 1 or ``threshold`` is no number.
        """
        return self.search_many(_as_array(probe)[None], top_k=top_k, threshold=threshold)[0]

    def search_many(
        self, probes: NDArray[np.float32], *, top_k: int = 5, threshold: float | None = None
    ) -> list[list[Match]]:
        """As :meth:`search`, for (q, d) probes at once, which is much faster than one by one."""
        probes = _as_array(probes)
        probes = _unit_rows(probes, (len(probes) if probes.ndim else 0, self.dim), name="probe")
        floor = -np.inf if threshold is None else _checked(threshold)
        return [
            [match for match in matches if match.similarity >= floor]
            for matches in self._searchable().search(probes, top_k)
        ]

    def identify(self, probe: NDArray[np.float32], threshold: float) -> Identification:
        """Who one face is; a stranger if nobody is at least ``threshold`` alike.

        Args:
            probe: (d,) of unit length.
            threshold: similarity, inclusive.
        """
        return self.identify_many(_as_array(probe)[None], threshold)[0]

    def identify_many(self, probes: NDArray[np.float32], threshold: float) -> list[Identification]:
        """As :meth:`identify`, for (q, d) probes at once."""
        _checked(threshold)
        found = []
        for matches in self.search_many(probes, top_k=1):
            best = matches[0] if matches else None
            known = best is not None and best.similarity >= threshold
            found.append(Identification(best.person if best and known else None, best, threshold))
        return found

    def require(self, checkpoint: str, detector: str) -> None:
        """Makes sure that embeddings of this origin may be compared with the gallery's.

        Raises:
            MismatchError: they may not; names both origins.
        """
        remedy = "use what the gallery was built with, or build it again from the pictures"
        if checkpoint != self.checkpoint:
            raise MismatchError(
                f"{self._name}: made by checkpoint {self.checkpoint}, not {checkpoint}; {remedy}"
            )
        if detector != self.detector and ALIGNED not in (detector, self.detector):
            raise MismatchError(f"{self._name}: made by detector {self.detector}, not {detector}; {remedy}")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes everything into one file, all or nothing (see :func:`~facekit.vectorfile.write_vectors`).

        Raises:
            GalleryError: it cannot be written; what was there is unchanged.
        """
        with self._lock:
            samples, vectors, skipped = self.samples, self.vectors, self._skipped
        people = {person: number for number, person in enumerate(dict.fromkeys(s.person for s in samples))}
        table = {
            "people": list(people),
            "samples": [[people[s.person], s.source, s.stamp] for s in samples],
            "skipped": [[s.person, s.source, s.reason, s.kind, s.stamp] for s in skipped],
        }
        metadata = {
            "format": _FORMAT,
            "version": _VERSION,
            "checkpoint": self.checkpoint,
            "detector": self.detector,
        }
        write_vectors(path, vectors, table, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Gallery:
        """The gallery in a file; its vectors stay there, mapped into memory, until they are searched.

        Whether it goes with a checkpoint is for :meth:`require` to say; ``FaceRecognition`` asks it.

        As long as it is mapped, the file must not change in place: replace it by renaming another one over
        it, as :meth:`save` does, never by ``cp``, which cuts the vectors from under every process that
        searches them and so kills it (SIGBUS).

        Raises:
            GalleryError: not a gallery, damaged, or of a newer version.
        """
        vectors, table, metadata = read_vectors(path)
        if (metadata.get("format"), metadata.get("version")) != (_FORMAT, _VERSION):
            problem = f"not a {_FORMAT} of version {_VERSION}"
            remedy = "pass a file that Gallery.save wrote; a newer version needs a newer facekit-torch"
            raise GalleryError(f"{os.fspath(path)}: {problem}; {remedy}", path=os.fspath(path))
        gallery = cls(
            checkpoint=metadata.get("checkpoint", ""),
            detector=metadata.get("detector", ""),
            dim=vectors.shape[1],
            device=device,
        )
        gallery._name, gallery._parts = os.fspath(path), [vectors]
        try:
            gallery._samples, gallery._skipped = _parse(table, len(vectors))
        except (LookupError, TypeError, ValueError) as error:
            raise gallery._damaged(f"its table is damaged: {error}") from error
        return gallery

    def _damaged(self, problem: str) -> GalleryError:
        return GalleryError(f"{self._name}: {problem}; restore a copy, or build it again", path=self._name)

    def _searchable(self) -> PersonIndex:
        with self._lock:
            if self._index is None:
                people, sources = ([getattr(s, name) for s in self._samples] for name in ("person", "source"))
                try:
                    self._index = PersonIndex(self.vectors, people, sources, device=self.device)
                except SettingError as error:  # what is added is checked, so this has been read from a file
                    raise self._damaged(f"its vectors are damaged: {error}") from error
            return self._index


def _require_text(add: Sequence[Sample], skipped: Sequence[Skipped]) -> None:
    """What is not text would be written, and then could not be read."""
    items: list[Sample | Skipped] = [*add, *skipped]
    for item in items:
        for name in item.__slots__:
            value = getattr(item, name)
            if not isinstance(value, str):
                raise SettingError(f"{name}: {value!r} of a sample is not text; give a text")
    if not all(sample.person for sample in add):
        raise SettingError("person: a sample without a name; give a text that is not empty")


def _checked(threshold: Any) -> float:
    """The threshold if it is a number; one beyond [-1, 1] is reached by nobody, or by all."""
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or math.isnan(threshold):
        raise SettingError(f"threshold: {threshold!r} is not a similarity; give a number between -1 and 1")
    return float(threshold)


def _as_array(vectors: Any) -> NDArray[Any]:
    """Vectors as they were given; numpy knows neither bfloat16 nor gradients."""
    if isinstance(vectors, torch.Tensor):
        plain = vectors.detach().cpu()
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    try:
        return np.asarray(vectors)
    except (TypeError, ValueError):  # rows of different lengths
        return np.asarray(None)


def _unit_rows(
    vectors: NDArray[np.float32] | None, shape: tuple[int, int], name: str = "embedding"
) -> NDArray[np.float32]:
    """A copy as float32, if they are vectors of unit length and of this shape."""
    rows = np.array(_as_array(vectors))
    if rows.shape != shape or rows.dtype.kind != "f":
        raise SettingError(
            f"{name}: floating {shape} expected, got {rows.dtype} {rows.shape};"
            " give what this gallery's checkpoint makes of a face"
        )
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    if wrong := np.flatnonzero(~(np.abs(lengths - 1) <= 1e-3)).tolist():  # true of NaN as well
        length = lengths[wrong[0]]
        raise SettingError(f"{name} {wrong[0]} has length {length:.4g}; divide it by its length")
    return np.ascontiguousarray(rows, np.float32)


def _parse(table: Any, count: int) -> tuple[list[Sample], tuple[Skipped, ...]]:
    """The samples, so many, and the skipped pictures of a stored table.

    Raises:
        LookupError, TypeError, ValueError: it is not such a table.
    """
    people = table["people"]
    samples = [Sample(people[number], source, stamp) for number, source, stamp in table["samples"]]
    skipped = tuple(Skipped(*columns) for columns in table["skipped"])
    if len(samples) != count:
        raise ValueError(f"{len(samples)} samples for {count} vectors")
    items: list[Sample | Skipped] = [*samples, *skipped]
    if not all(isinstance(getattr(item, name), str) for item in items for name in item.__slots__):
        raise TypeError("a name is not text")
    return samples, skipped
