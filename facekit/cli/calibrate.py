"""``facekit calibrate``: which similarity stands for which false accept rate, on the user's own people."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from facekit.checkpoint import Calibration, ModelConfig
from facekit.cli.console import print_json, say, table
from facekit.cli.options import Folder, Model
from facekit.errors import CheckpointError, EvaluationError, SettingError
from facekit.evaluate import roc_of_people
from facekit.policy import FacePolicy
from facekit.trash import shown
from facekit.wholefile import replacing

__all__ = ["Calibrate"]

_CONFIG = "config.json"


@dataclass(frozen=True)
class Calibrate:
    """Measures a checkpoint's thresholds on your own people, and writes them into its config.json.

    All pictures are compared with all. The weights and the fingerprint stay as they are, so galleries stay
    valid.

    Attributes:
        people: A folder with a folder a person, or a CSV of path and person; several pictures of each.
        data: What the pictures are, in words; the folder's name and its numbers if not given.
        far: The false accept rate of the default threshold; it must be measurable on these people.
        faces: Which face counts where a picture has several.
        aligned: The pictures are aligned square crops; nothing is searched in them.
        json: Print one JSON document.
    """

    people: Folder
    data: str | None = None
    far: float = 1e-3
    faces: FacePolicy = "largest"
    aligned: bool = False
    model: Model = field(default_factory=Model)
    json: bool = False

    def __call__(self) -> int:
        file = _config_file(self.model.checkpoint)
        if not 0 < self.far <= 1:
            raise SettingError(
                f"--far: {self.far:g} is not a rate; give a number above 0, up to 1, such as 1e-3"
            )
        recognition = self.model.recognition()
        gallery = recognition.build_gallery(self.people, faces=self.faces, aligned=self.aligned)
        try:
            curve = roc_of_people(gallery.vectors, [sample.person for sample in gallery.samples])
        except EvaluationError as error:
            raise EvaluationError(f"{self.people}: {error}", path=self.people) from error
        rows = curve.calibration()
        if not rows:
            raise EvaluationError(
                f"{self.people}: {curve.impostor:,} pairs of strangers are too few to calibrate on;"
                " at least 100 are needed"
            )
        if self.far < min(rows):
            raise EvaluationError(
                f"{self.people}: {curve.impostor:,} pairs of strangers measure rates down to {min(rows):g};"
                f" for --far {self.far:g} give more people, or a higher rate"
            )
        name = Path(self.people).resolve().name  # '.' has one, too
        words = self.data or f"{name}: {len(gallery)} people, {len(gallery.samples)} pictures"
        measured = Calibration(words, curve.impostor, curve.genuine, rows)
        config = recognition.config
        fresh = replace(config, threshold=measured.threshold_at(self.far), calibration=measured)
        _write(file, fresh)
        if self.json:
            print_json(
                {
                    "config": str(file),
                    "threshold": fresh.threshold,
                    "calibration": measured.to_dict(),
                    "tar_at_far": {f"{far:g}": curve.tar_at_far(far) for far in rows},
                    "skipped": {item.source: item.reason for item in gallery.skipped},
                }
            )
            return 0
        for item in gallery.skipped[:10]:
            say(f"skipped: {shown(item.reason)}")
        rates = [(f"{far:g}", f"{at:+.4f}", f"{curve.tar_at_far(far):.4f}") for far, at in rows.items()]
        print(shown(f"{file}: {measured.data}"))
        print(f"  {curve.impostor:,} pairs of strangers, {curve.genuine:,} of the same person")
        print(table([("FAR", "similarity", "TAR"), *rates]))
        print(f"  default: {fresh.threshold:+.4f}, for FAR {self.far:g}")
        return 0


def _config_file(checkpoint: str | None) -> Path:
    """The config.json of a checkpoint that lies on this disk and is the user's own.

    Raises:
        CheckpointError: there is none to write to.
    """
    remedy = "copy it into a folder of your own and give that with --checkpoint"
    if checkpoint is None:
        raise CheckpointError(f"checkpoint: the one that ships with facekit is not yours to change; {remedy}")
    place = Path(checkpoint)
    folder = place if place.is_dir() else place.parent
    if place.suffix.lower() == ".onnx" and place.is_file():
        return folder / _CONFIG
    if not (folder / _CONFIG).is_file() or not place.is_dir():
        raise CheckpointError(f"checkpoint: {checkpoint} is no checkpoint folder; {remedy}", path=checkpoint)
    return folder / _CONFIG


def _write(file: Path, config: ModelConfig) -> None:
    """Writes the config, all or nothing."""
    try:
        with replacing(file) as stream:
            stream.write(config.to_json().encode())
    except OSError as error:
        raise CheckpointError(
            f"{file}: cannot be written ({error.strerror or error})", path=str(file)
        ) from error
