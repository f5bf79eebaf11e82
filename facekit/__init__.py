"""Photographs to face embeddings: the same person, who is it, which pictures repeat someone.

::

    from facekit import FaceRecognition

    fr = FaceRecognition()
    print(fr.verify_faces("a.jpg", "b.jpg"))
"""

from __future__ import annotations

from facekit.checkpoint import (
    Calibration,
    Checkpoint,
    ModelConfig,
    convert_checkpoint,
    load_checkpoint,
    push_checkpoint,
    save_checkpoint,
)
from facekit.encode import EncodedImage, FaceEncoder
from facekit.enrolment import Sample, Skipped
from facekit.errors import (
    CalibrationError,
    CheckpointError,
    DeviceError,
    EvaluationError,
    FacekitError,
    GalleryError,
    ImageError,
    MismatchError,
    MissingExtraError,
    MultipleFacesError,
    NoFaceError,
    RemovalError,
    SettingError,
    TrainingError,
)
from facekit.face import Face
from facekit.gallery import Gallery
from facekit.identify import Identification, Match
from facekit.recognition import FaceRecognition, Verification

__all__ = [
    "Calibration",
    "CalibrationError",
    "Checkpoint",
    "CheckpointError",
    "DeviceError",
    "EncodedImage",
    "EvaluationError",
    "Face",
    "FaceEncoder",
    "FaceRecognition",
    "FacekitError",
    "Gallery",
    "GalleryError",
    "Identification",
    "ImageError",
    "Match",
    "MismatchError",
    "MissingExtraError",
    "ModelConfig",
    "MultipleFacesError",
    "NoFaceError",
    "RemovalError",
    "Sample",
    "SettingError",
    "Skipped",
    "TrainingError",
    "Verification",
    "convert_checkpoint",
    "load_checkpoint",
    "push_checkpoint",
    "save_checkpoint",
]

__version__ = "0.1.0"
