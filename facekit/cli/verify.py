"""``facekit verify``: whether two pictures show the same person."""

from __future__ import annotations

from dataclasses import dataclass, field

from facekit.cli.console import print_json
from facekit.cli.options import File, Model, Threshold
from facekit.policy import FacePolicy

__all__ = ["Verify"]


@dataclass(frozen=True)
class Verify:
    """Whether two pictures show the same person. Exit code: 0 same, 1 different, 2 error.

    Attributes:
        a: A picture.
        b: Another.
        faces: Which face counts where a picture has several.
        aligned: The pictures are aligned square crops; nothing is searched in them.
        json: Print one JSON document.
    """

    a: File
    b: File
    limit: Threshold = field(default_factory=Threshold)
    faces: FacePolicy = "largest"
    aligned: bool = False
    model: Model = field(default_factory=Model)
    json: bool = False

    def __call__(self) -> int:
        verdict = self.model.recognition().verify_faces(
            self.a,
            self.b,
            self.limit.threshold,
            far=self.limit.far,
            faces=self.faces,
            aligned=self.aligned,
        )
        if self.json:
            print_json({"a": self.a, "b": self.b, **verdict.to_dict()})
        else:
            print(verdict)
        return 0 if verdict else 1
