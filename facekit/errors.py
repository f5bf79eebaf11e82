"""Every error that facekit raises on purpose.

::

    FacekitError
    ├── ImageError            a picture cannot be read                   (ValueError)
    ├── NoFaceError           a one-face call on a picture without one   (ValueError)
    ├── MultipleFacesError    policy "error" on a picture with several   (ValueError)
    ├── SettingError          an argument or setting has a bad value     (ValueError)
    ├── DeviceError           the asked-for device or precision is not there
    ├── CheckpointError       weights or their config cannot be used
    ├── CalibrationError      the checkpoint says nothing about the asked-for false accept rate
    ├── GalleryError          a stored gallery cannot be read or written
    │   └── MismatchError     stored vectors were made by another checkpoint or detector
    ├── RemovalError          files cannot be moved to, or out of, the trash
    ├── EvaluationError       pairs or labels that cannot be evaluated
    ├── TrainingError         a training run cannot start or go on
    └── MissingExtraError     an optional dependency is not installed    (ImportError)

Messages are one line: the file or setting, the value, and the remedy.
"""

from __future__ import annotations

__all__ = [
    "CalibrationError",
    "CheckpointError",
    "DeviceError",
    "EvaluationError",
    "FacekitError",
    "GalleryError",
    "ImageError",
    "MismatchError",
    "MissingExtraError",
    "MultipleFacesError",
    "NoFaceError",
    "RemovalError",
    "SettingError",
    "TrainingError",
]


class FacekitError(Exception):
    """Base of all errors that facekit raises on purpose.

    ``path`` is the name of the file at fault, where there is one.
    """

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class ImageError(FacekitError, ValueError):
    """A picture cannot be read: missing, truncated, too large, or not a picture."""


class NoFaceError(FacekitError, ValueError):
    """A call that needs a face was given a picture in which none was found."""


class MultipleFacesError(FacekitError, ValueError):
    """The policy ``"error"`` met a picture with more than one face."""


class SettingError(FacekitError, ValueError):
    """An argument or setting has a value that cannot be used."""


class DeviceError(FacekitError):
    """The device or precision that was asked for is not available here."""


class CheckpointError(FacekitError):
    """A checkpoint cannot be found, read, trusted or matched to its architecture."""


class CalibrationError(FacekitError):
    """The checkpoint carries no threshold for the false accept rate that was asked for."""


class GalleryError(FacekitError):
    """A stored gallery cannot be read or written."""


class MismatchError(GalleryError):
    """Stored vectors were made by another checkpoint or detector than the one in use."""


class RemovalError(FacekitError):
    """Files cannot be moved into, or out of, the trash folder."""


class EvaluationError(FacekitError):
    """Pairs, scores or labels from which the asked-for metric cannot be computed."""


class TrainingError(FacekitError):
    """A training run cannot start, or cannot go on."""


class MissingExtraError(FacekitError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'facekit-torch[{extra}]'")
