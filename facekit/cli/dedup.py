"""``facekit dedup``: plan which repeated pictures to remove, do so, and take it back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from facekit.cli.console import count, print_json, say
from facekit.cli.options import File, Folder, Model, Threshold
from facekit.errors import NoFaceError
from facekit.policy import FacePolicy
from facekit.removal import RemovalPlan, RemovalReport, check_target, undo

__all__ = ["Apply", "Plan", "Undo"]


@dataclass(frozen=True)
class Plan:
    """Finds the pictures of a folder that repeat a person, and plans which to remove. Moves nothing.

    Without ``--threshold`` and ``--far`` it works at the false accept rate 1e-4 where the checkpoint's
    calibration knows it, because a folder holds very many pairs; else at the checkpoint's default.

    Attributes:
        folder: Where to look, at any depth.
        out: The plan's file, which you may edit, and pass to ``facekit dedup apply``.
        keep: Which picture of a group stays: that with the best faces, the most pixels, or by its time.
        faces: Which faces of a picture count.
        aligned: The pictures are aligned square crops; nothing is searched in them.
        json: Print the plan as one JSON document.
    """

    folder: Folder
    out: Annotated[str, tyro.conf.arg(metavar="FILE")]
    keep: Literal["best", "largest", "oldest", "newest"] = "best"
    limit: Threshold = field(default_factory=Threshold)
    faces: FacePolicy = "largest"
    aligned: bool = False
    model: Model = field(default_factory=Model)
    json: bool = False

    def __call__(self) -> int:
        check_target(self.out)
        plan = self.model.deduplication().remove_duplicates(
            self.folder,
            self.keep,
            self.limit.threshold,
            far=self.limit.far,
            faces=self.faces,
            aligned=self.aligned,
        )
        faces, far = plan.settings["compared"], plan.settings["far"]
        if not faces:
            problem = f"no usable face in any of {count(len(plan.skipped), 'picture')}; nothing was written"
            raise NoFaceError(f"{self.folder}: {problem}")
        plan.save(self.out)
        if self.json:
            print_json(plan.to_dict())
        else:
            print(plan)
        if far is not None:
            pairs = faces * (faces - 1) // 2
            chance = f"up to about {far * pairs:.2g} of them reach the threshold by chance"
            say(f"{count(pairs, 'pair')} of faces compared: {chance} (false accept rate {far:.2g})")
        say(f"Nothing was moved yet. To do it: facekit dedup apply {self.out}")
        return 0


@dataclass(frozen=True)
class Apply:
    """Moves the files that a plan removes into a trash inside its folder.

    Attributes:
        plan: What ``facekit dedup plan`` wrote.
        json: Print one JSON document.
    """

    plan: File
    json: bool = False

    def __call__(self) -> int:
        plan = RemovalPlan.load(self.plan)
        code = _tell(plan.apply(), as_json=self.json)
        say(f"To take it back: facekit dedup undo {plan.folder}")
        return code


@dataclass(frozen=True)
class Undo:
    """Moves the files of a removal back to where they were, never over another file.

    Attributes:
        folder: That of the plan.
        run: The id of the plan; the latest if not given.
        json: Print one JSON document.
    """

    folder: Folder
    run: Annotated[str | None, tyro.conf.arg(metavar="ID")] = None
    json: bool = False

    def __call__(self) -> int:
        return _tell(undo(self.folder, self.run), as_json=self.json)


def _tell(report: RemovalReport, *, as_json: bool) -> int:
    """What became of it; the exit code is that of an error if a file could not be moved."""
    if as_json:
        print_json(report.to_dict())
    else:
        print(report)
    return 2 if report.failed else 0
