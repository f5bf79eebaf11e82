"""``facekit data align``: photographs of people to the aligned crops that training takes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from PIL import Image as pil
from tqdm import tqdm

from facekit.align import align_faces
from facekit.cli.console import count, print_json, say
from facekit.cli.options import Folder
from facekit.detect import FaceDetector
from facekit.embed import resolve_device
from facekit.errors import FacekitError, ImageError, NoFaceError, SettingError
from facekit.face import Image
from facekit.image import find_images, load_image
from facekit.policy import FacePolicy, select_faces
from facekit.prefetch import map_ahead
from facekit.trash import shown
from facekit.wholefile import replacing

__all__ = ["Align"]

_PICTURES, _PIXELS = 64, 1 << 25  # of a batch
_Loaded = tuple[Path, "Image | FacekitError"]


@dataclass(frozen=True)
class Align:
    """Cuts the faces out of photographs, aligned as training and --aligned take them: 112 x 112 pixels.

    FOLDER/ann/1.jpg becomes OUT/ann/1.jpg.png. What is there already is left as it is, so that a second call
    goes on where the first one stopped. A picture without a face is reported and left out.

    Attributes:
        people: The photographs: a folder with a folder a person.
        out: Where the crops go.
        faces: Which face counts where a picture has several.
        device: auto, cpu, cuda, cuda:1, mps ...; what is not there is an error.
        min_face: The smallest face to look for, in pixels.
        json: Print one JSON document.
    """

    people: Folder
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    faces: FacePolicy = "largest"
    device: str = "auto"
    min_face: float = 40.0
    json: bool = False

    def __call__(self) -> int:
        if self.faces == "all":
            raise SettingError("--faces all: a crop is of one person; choose one face, such as largest")
        root, out = Path(self.people), Path(self.out)
        if out.resolve().is_relative_to(root.resolve()):
            problem = f"lies in {root}, and a second call would take the crops for photographs"
            raise SettingError(f"OUT: {out} {problem}; give a folder outside")
        pictures = find_images(root)
        left = [path for path in pictures if not os.path.exists(_place(path, root, out))]
        detector = FaceDetector(resolve_device(self.device), min_face=self.min_face)
        skipped: dict[str, str] = {}
        bar = tqdm(total=len(left), unit="picture", disable=None, file=sys.stderr)
        ahead = map_ahead(_load, left, workers=4, window=_PICTURES, weigh=_pixels, limit=_PIXELS)
        with bar, closing(ahead) as loaded:
            for batch in _batches(loaded):
                for path, result in self._cut(detector, batch):
                    why = (
                        result if isinstance(result, FacekitError) else _save(_place(path, root, out), result)
                    )
                    if why is not None:
                        skipped[str(path)] = str(why)
                bar.update(len(batch))
        made = len(left) - len(skipped)
        if self.json:
            print_json({"made": made, "there": len(pictures) - len(left), "skipped": skipped})
            return 0
        for reason in list(skipped.values())[:10]:
            say(f"skipped: {shown(reason)}")
        there = len(pictures) - len(left)
        print(f"{shown(str(out))}: {count(made, 'crop')} made, {there} there before, {len(skipped)} skipped")
        return 0

    def _cut(
        self, detector: FaceDetector, batch: Sequence[_Loaded]
    ) -> Iterator[tuple[Path, Image | FacekitError]]:
        """The crop of each picture, or why there is none."""
        read = [(path, image) for path, image in batch if not isinstance(image, FacekitError)]
        images = [torch.from_numpy(image).to(detector.device) for _, image in read]
        crops: dict[Path, Image | FacekitError] = {p: e for p, e in batch if isinstance(e, FacekitError)}
        for (path, image), pixels, found in zip(read, images, detector.detect(images), strict=True):
            try:
                chosen = select_faces(found, self.faces, (image.shape[0], image.shape[1]), name=str(path))
                if not chosen:
                    raise NoFaceError(f"{path}: no face found", path=str(path))
            except FacekitError as error:
                crops[path] = error
                continue
            landmarks = torch.from_numpy(chosen[0].landmarks)[None]
            crops[path] = align_faces([pixels], [0], landmarks)[0].permute(1, 2, 0).cpu().numpy()
        return ((path, crops[path]) for path, _ in batch)


def _place(path: Path, root: Path, out: Path) -> Path:
    relative = path.relative_to(root)
    return out / relative.with_name(relative.name + ".png")


def _load(path: Path) -> _Loaded:
    try:
        return path, load_image(path)
    except FacekitError as error:
        return path, error


def _pixels(thing: Path | _Loaded) -> int:
    """What a picture takes of the memory, in pixels."""
    image = thing[1] if isinstance(thing, tuple) else None
    return image.size // 3 if isinstance(image, np.ndarray) else 0


def _batches(loaded: Iterator[_Loaded]) -> Iterator[list[_Loaded]]:
    batch: list[_Loaded] = []
    pixels = 0
    for item in loaded:
        more = _pixels(item)
        if batch and (len(batch) == _PICTURES or pixels + more > _PIXELS):
            yield batch
            batch, pixels = [], 0
        batch.append(item)
        pixels += more
    if batch:
        yield batch


def _save(place: Path, crop: Image) -> ImageError | None:
    """Writes a crop; says so where that cannot have such a name, which is no reason to stop.

    Raises:
        SettingError: nothing can be written there.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as file:
            pil.fromarray(np.ascontiguousarray(crop)).save(file, "PNG")
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return ImageError(f"{place}: too long a name for a crop; rename the picture", path=str(place))
        raise SettingError(f"{place}: cannot be written ({error.strerror or error})") from error
    return None
