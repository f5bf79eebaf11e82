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
from facekit.deduplication import FaceDeduplication, plan_removal
from facekit.duplicates import DuplicateGroup, DuplicatePicture, Duplicates
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
from facekit.removal import RemovalPlan, RemovalReport, undo

__all__ = [
    "Calibration",
    "CalibrationError",
    "Checkpoint",
    "CheckpointError",
    "DeviceError",
    "DuplicateGroup",
    "DuplicatePicture",
    "Duplicates",
    "EncodedImage",
    "EvaluationError",
    "Face",
    "FaceDeduplication",
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
    "RemovalPlan",
    "RemovalReport",
    "Sample",
    "SettingError",
    "Skipped",
    "TrainingError",
    "Verification",
    "convert_checkpoint",
    "load_checkpoint",
    "plan_removal",
    "push_checkpoint",
    "save_checkpoint",
    "undo",
]

__version__ = "0.1.0"
