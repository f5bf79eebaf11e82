"""A removal plan is data: of each group the file that stays, and those that go once it is applied.

As JSON::

    {"format": "facekit removal plan 1",
     "id": "20261122-015500-3f9c2a1b",         the name of its run in the trash
     "folder": "/home/me/photos",              absolute, free of symbolic links
     "settings": {"keep": "best", ...},        what the groups were found with
     "groups": [{"keep": FILE, "remove": [FILE, ...]}, ...],
     "skipped": {"a/b.jpg": "no face found"}}  what took no part, and why

    FILE = {"path": "a/c.jpg", "bytes": 4711, "modified_ns": 1795312500000000000,
            "sha256": "9f86d0...", "why": "quality 0.81"}

Paths are relative to the folder, with ``/``. A file is moved only while it, and the one that stays, are what
they were when the plan was made: of the same size, time and content. To take files or groups out of a plan by
hand is fine; one that names anything outside the folder, or a file twice, is refused.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from facekit.errors import RemovalError
from facekit.trash import (
    RemovalReport,
    Trash,
    counted,
    inside,
    is_inner_path,
    is_run_name,
    new_run_name,
    open_trash,
    reason,
    shown,
    undo,
    whole_folder,
    with_bar,
)

__all__ = [
    "PlannedFile",
    "PlannedGroup",
    "RemovalPlan",
    "RemovalReport",
    "apply_plan",
    "check_target",
    "undo",
]

_FORMAT = "facekit removal plan 1"


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """What a file was when the plan was made.

    Attributes:
        path: relative to the folder, with ``/``.
        bytes: its size.
        modified_ns: when it was last written, in nanoseconds since 1970.
        sha256: of its content, 64 hex digits.
        why: it stays or goes; for people.
    """

    path: str
    bytes: int
    modified_ns: int
    sha256: str
    why: str = ""

    @classmethod
    def observe(cls, folder: Path, path: str, why: str = "") -> PlannedFile:
        """The file as it is now.

        Raises:
            OSError: it cannot be read, is no regular file, or lies behind a symbolic link.
        """
        place = inside(folder, path)
        if not stat.S_ISREG(place.lstat().st_mode):
            raise OSError(errno.EINVAL, "is not a regular file any more")
        digest = hashlib.sha256()
        with place.open("rb") as stream:
            status = os.fstat(stream.fileno())
            while block := stream.read(1 << 20):
                digest.update(block)
        return cls(path, status.st_size, status.st_mtime_ns, digest.hexdigest(), why)


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """Files of which one stays.

    Attributes:
        keep: the one that stays.
        remove: those that go.
    """

    keep: PlannedFile
    remove: tuple[PlannedFile, ...]


@dataclass(frozen=True, slots=True)
class RemovalPlan(Mapping[str, Any]):
    """Which files of a folder go, and why; reads as the table that :meth:`to_dict` gives.

    Attributes:
        folder: absolute, free of symbolic links.
        groups: files of which one stays; no file is in two of them.
        settings: what the groups were found with, for people.
        skipped: the paths of files that took no part, and the reason.
        id: the name of its run in the trash: applying a plan again goes on where it was interrupted.
        report: what became of it; None until it was applied, and not stored.

    Raises:
        RemovalError: a path outside the folder, a path twice, or a value that cannot be one.
    """

    folder: str
    groups: tuple[PlannedGroup, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    id: str = field(default_factory=new_run_name)
    report: RemovalReport | None = None

    def __post_init__(self) -> None:
        _require(is_run_name(self.id), "id", self.id, "such as 20261122-015500-3f9c2a1b")
        absolute = Path(self.folder).is_absolute() and os.path.normpath(self.folder) == self.folder
        _require(absolute and "\0" not in self.folder, "folder", self.folder, "an absolute path")
        seen: set[str] = set()
        for number, group in enumerate(self.groups):
            _require(bool(group.remove), f"groups[{number}].remove", [], "at least one file")
            for file in (group.keep, *group.remove):
                name = f"groups[{number}], path"
                _require(is_inner_path(file.path), name, file.path, "a plain relative path inside the folder")
                _require(file.path not in seen, name, file.path, "named once in the whole plan")
                seen.add(file.path)

    @property
    def removed(self) -> tuple[str, ...]:
        """The paths of all files that go."""
        return tuple(file.path for group in self.groups for file in group.remove)

    def apply(self, *, progress: bool | None = None) -> RemovalReport:
        """Moves the files into the trash, see :func:`apply_plan`."""
        return apply_plan(self, progress=progress)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values for JSON, as the module describes them."""
        return {
            "format": _FORMAT,
            "id": self.id,
            "folder": self.folder,
            "settings": dict(self.settings),
            "groups": [
                {"keep": asdict(group.keep), "remove": [asdict(file) for file in group.remove]}
                for group in self.groups
            ],
            "skipped": dict(self.skipped),
        }

    @classmethod
    def from_dict(cls, values: Any) -> RemovalPlan:
        """The plan from parsed JSON, as :meth:`to_dict` gives it.

        Raises:
            RemovalError: unknown or missing fields, values of the wrong kind, or as for the class.
        """
        table = dict(_table("the plan", values, _PLAN))
        _require(table.pop("format") == _FORMAT, "format", values["format"], f"{_FORMAT!r}")
        table["groups"] = tuple(_group(f"groups[{i}]", group) for i, group in enumerate(table["groups"]))
        return cls(**table)

    def save(self, path: str | Path) -> None:
        """Writes the plan as JSON, whole or not at all; over nothing but another plan.

        Raises:
            RemovalError: the file cannot be written, or is something else than a plan.
        """
        path = Path(path)
        check_target(path)
        try:
            with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
                fresh = Path(scratch, "plan.json")
                fresh.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="ascii")
                fresh.replace(path)
        except OSError as error:
            raise RemovalError(f"{path}: cannot be written ({reason(error)})", path=str(path)) from None

    @classmethod
    def load(cls, path: str | Path) -> RemovalPlan:
        """Reads a plan that :meth:`save` wrote.

        Raises:
            RemovalError: it cannot be read, is no plan, or was changed into one that cannot be followed.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise RemovalError(f"{path}: cannot be read ({reason(error)})", path=str(path)) from None
        except (ValueError, RecursionError) as error:
            raise RemovalError(f"{path}: is not JSON ({error}); make a new plan", path=str(path)) from None
        except RemovalError as error:
            raise RemovalError(f"{path}: {error}", path=str(path)) from None

    def __getitem__(self, key: str) -> Any:
        return self.to_dict()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.to_dict())

    def __str__(self) -> str:
        size = sum(file.bytes for group in self.groups for file in group.remove)
        count = counted(len(self.removed), "file")
        groups = counted(len(self.groups), "group")
        lines = [f"{shown(self.folder)}: {count} ({size / 1e6:.1f} MB) of {groups} to be removed"]
        for group in self.groups:
            lines.append(f"\nkeep    {_line(group.keep)}")
            lines += [f"remove  {_line(file)}" for file in group.remove]
        lines += [""] * bool(self.skipped)
        lines += [f"skipped {shown(path)}: {why}" for path, why in self.skipped.items()]
        return "\n".join(lines + ([] if self.report is None else ["", str(self.report)]))


def check_target(path: str | Path) -> None:
    """Makes sure, before the work begins, that a plan may be written there.

    Raises:
        RemovalError: its folder is missing, or what bears that name is not a plan.
    """
    path = Path(path)
    problem = None
    try:
        if not path.parent.is_dir():
            problem = "is in no existing folder; make it first"
        elif os.path.lexists(path) and not _is_plan(path):
            problem = "exists, and is not a removal plan; choose another name"
    except OSError as error:
        problem = f"cannot be read ({reason(error)})"
    if problem is not None:
        raise RemovalError(f"{path}: {problem}", path=str(path))


def _is_plan(path: Path) -> bool:
    """Whether a file begins like a plan; one that was damaged by hand still does."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return _FORMAT.rpartition(" ")[0].encode() in stream.read(200)


def apply_plan(plan: RemovalPlan, *, progress: bool | None = None) -> RemovalReport:
    """Moves the files that a plan removes into ``.facekit-trash/<plan.id>`` inside its folder.

    What cannot be moved is reported, and stays. No file goes unless the one that its group keeps is
    there, unchanged. After a crash apply the same plan again, or :func:`undo` it.

    Args:
        plan: from :meth:`FaceDeduplication.remove_duplicates
            <facekit.deduplication.FaceDeduplication.remove_duplicates>`, or loaded.
        progress: a bar on stderr; None for one where stderr is a terminal.

    Raises:
        RemovalError: the folder is gone or has become a link, another process is at work in it, or the
            journal cannot be written.
    """
    folder = Path(plan.folder)
    with whole_folder(folder):
        there = folder.is_dir()
    if os.path.realpath(folder) != plan.folder or not there:
        problem = "has become a symbolic link" if there else "no such folder any more"
        raise RemovalError(f"{folder}: {problem}; make a new plan", path=plan.folder)
    with whole_folder(folder), open_trash(folder) as trash:
        try:
            trash.begin(plan.id)
            return _move_groups(trash, plan, progress)
        finally:
            trash.tidy(plan.id)


def _move_groups(trash: Trash, plan: RemovalPlan, progress: bool | None) -> RemovalReport:
    moved, failed = [], {}
    for group in with_bar(plan.groups, progress, "group"):
        trash.announce(plan.id, [_announcement(file, group.keep) for file in group.remove])
        for file in group.remove:
            problem = _remove(trash, plan.id, file, group.keep)
            if problem is None:
                moved.append(file.path)
            else:
                failed[file.path] = problem
    return RemovalReport(plan.id, tuple(moved), failed)


def _announcement(file: PlannedFile, keep: PlannedFile) -> dict[str, str]:
    return {"move": file.path, "sha256": file.sha256, "repeats": keep.path}


def _remove(trash: Trash, run: str, file: PlannedFile, keep: PlannedFile) -> str | None:
    """Moves one file into the trash; returns why not, if not."""
    there = os.path.lexists(trash.folder / file.path)
    if not there and trash.holds(run, file.path):
        return None  # by an earlier attempt
    problem = _change(trash.folder, keep)
    if problem is not None:
        return f"stays, because of {shown(keep.path)}, which was to be kept: {problem}"
    problem = _change(trash.folder, file)
    if problem is not None:
        return problem
    try:
        trash.put(run, file.path)
    except OSError as error:
        return reason(error)
    return None


def _change(folder: Path, file: PlannedFile) -> str | None:
    """How a file differs from what it was when the plan was made, if it does."""
    try:
        same = PlannedFile.observe(folder, file.path, file.why) == file
    except OSError as error:
        return reason(error)
    return None if same else "has changed since the plan was made"


def _group(name: str, values: Any) -> PlannedGroup:
    table = _table(name, values, {"keep": dict, "remove": list})
    keep = _file(f"{name}.keep", table["keep"])
    return PlannedGroup(keep, tuple(_file(f"{name}.remove[{i}]", v) for i, v in enumerate(table["remove"])))


def _file(name: str, values: Any) -> PlannedFile:
    return PlannedFile(**_table(name, values, _FILE))


_PLAN = {"format": str, "id": str, "folder": str, "settings": dict, "groups": list, "skipped": dict}
_FILE = {"path": str, "bytes": int, "modified_ns": int, "sha256": str, "why": str}


def _table(name: str, values: Any, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """``values``, if it is a table with exactly these keys and kinds of values."""
    table: dict[str, Any] = values if isinstance(values, dict) else {}
    _require(table is values, name, values, f"a table with {', '.join(kinds)}")
    for key in sorted(kinds.keys() ^ table.keys()):
        problem = "is missing" if key in kinds else f"is not one of {', '.join(kinds)}"
        raise RemovalError(f"{name}: {key!r} {problem}")
    for key, kind in kinds.items():
        valid = isinstance(table[key], kind) and not isinstance(table[key], bool)
        _require(valid, f"{name}.{key}", table[key], f"a {kind.__name__}")
    return table


def _require(condition: bool, name: str, value: Any, wanted: str) -> None:
    if not condition:
        text = repr(value)
        raise RemovalError(f"{name} is {text if len(text) < 80 else text[:77] + '...'}: must be {wanted}")


def _line(file: PlannedFile) -> str:
    return f"{shown(file.path)}  {file.why}".rstrip()
