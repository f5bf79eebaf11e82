"""Files move into a trash inside their folder, and back; no interruption, not even kill -9, loses any.

::

    <folder>/.facekit-trash/
        lock                    held by the one process at work
        <run>/journal.jsonl     what was to be moved, and why
        <run>/files/...         the files, by their paths in the folder

A move is one rename inside a file system, so that at every moment a file is either in its place or in the
trash. The journal is on the disk before the first of the moves that it announces. Putting back goes by
what lies in ``files``, which no crash can leave half-written; the journal tells what should lie there.

No function here overwrites anything, or follows a symbolic link to a place outside the folder.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from facekit.errors import RemovalError

__all__ = [
    "TRASH",
    "RemovalReport",
    "Trash",
    "counted",
    "inside",
    "is_inner_path",
    "is_run_name",
    "new_run_name",
    "open_trash",
    "reason",
    "shown",
    "undo",
    "whole_folder",
    "with_bar",
]

TRASH = ".facekit-trash"
_T = TypeVar("_T")
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def new_run_name() -> str:
    """A name for a run that no other has: the time (UTC) to read it by, 32 random bits to tell it apart."""
    return f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"


def is_run_name(name: str) -> bool:
    """Whether :func:`new_run_name` could have made it."""
    return re.fullmatch(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{8}", name) is not None


def is_inner_path(path: str) -> bool:
    """Whether a relative path, in the only way to write it, names something in a folder but its trash."""
    plain = Path(path)
    normal = plain.as_posix() == path and not plain.anchor and "\0" not in path
    return normal and bool(plain.parts) and not {"..", TRASH} & {*plain.parts}


def inside(folder: Path, path: str) -> Path:
    """The place of a relative path in a folder, which may or may not exist.

    Raises:
        OSError: a symbolic link on the way there.
    """
    place = folder
    for part in Path(path).parts[:-1]:
        place /= part
        if place.is_symlink():
            raise OSError(errno.ELOOP, f"lies behind a symbolic link, {place}")
    return place / Path(path).name


def reason(error: OSError) -> str:
    """What went wrong with a file, in words for the user."""
    known = {
        errno.ENOENT: "is missing",
        errno.EXDEV: "lies on another file system than the folder, and can only be copied",
    }
    return known.get(error.errno or 0, error.strerror or str(error))


@dataclass(frozen=True, slots=True)
class RemovalReport:
    """What became of a removal, or of undoing one.

    Attributes:
        run: its name in the trash, ``.facekit-trash/<run>``.
        moved: the paths of the files that were moved (or had been, by an interrupted attempt).
        failed: the paths of those that were not, and the reason.
    """

    run: str
    moved: tuple[str, ...]
    failed: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return {"run": self.run, "moved": list(self.moved), "failed": dict(self.failed)}

    def __str__(self) -> str:
        lines = [f"{counted(len(self.moved), 'file')} moved, {len(self.failed)} not (run {self.run})"]
        lines += [f"  {shown(path)}: {why}" for path, why in self.failed.items()]
        return "\n".join(lines)


def undo(folder: str | Path, run: str | None = None, *, progress: bool | None = None) -> RemovalReport:
    """Moves the files of a run back to where they were; never over another file, which is reported.

    Args:
        folder: that of the plan.
        run: ``plan.id``; None for the latest of which anything is in the trash.
        progress: a bar on stderr; None for one where stderr is a terminal.

    Raises:
        RemovalError: there is nothing to undo, or another process is at work in the folder.
    """
    root = Path(os.path.realpath(folder))
    with whole_folder(root):
        there = (root / TRASH).is_dir()
    if not there:
        raise RemovalError(f"{folder}: nothing to undo, there is no {TRASH} in it", path=str(folder))
    moved: list[str] = []
    with whole_folder(root), open_trash(root) as trash:
        chosen = _run_to_undo(trash, run)
        lying = trash.paths(chosen)
        gone = sorted(trash.announced(chosen).difference(lying))
        lost = "is neither in the trash nor in its place"
        failed = {path: lost for path in gone if not os.path.lexists(root / path)}
        for path in with_bar(lying, progress, "file"):
            try:
                trash.put_back(chosen, path)
                moved.append(path)
            except OSError as error:
                failed[path] = f"{reason(error)}; it stays in {TRASH}/{chosen}/files"
        trash.tidy(chosen)
    return RemovalReport(chosen, tuple(moved), failed)


@contextmanager
def open_trash(folder: Path) -> Iterator[Trash]:
    """Holds the trash of a folder, made if need be; removes it in the end if nothing lies in it.

    The lock ends with the process, however that ends, so that none is left behind to be cleared by hand.

    Raises:
        RemovalError: another process is at work there, or nothing can be written.
    """
    place, lock = folder / TRASH, folder / TRASH / "lock"
    try:
        place.mkdir(0o700, exist_ok=True)  # what is put there may come from a folder that few can read
        handle = os.open(inside(folder, f"{TRASH}/lock"), os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o600)
    except OSError as error:
        raise RemovalError(f"{place}: cannot be used as trash ({reason(error)})", path=str(place)) from None
    try:
        _hold(handle, lock)
        try:
            yield Trash(folder)
        finally:
            lock.unlink(missing_ok=True)
            with suppress(OSError):  # it is not empty
                place.rmdir()
    finally:
        os.close(handle)


def _hold(handle: int, lock: Path) -> None:
    import fcntl  # here, because Windows has none, and should still import the rest

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.path.samestat(os.fstat(handle), lock.lstat())  # its last holder may just have removed it
    except (BlockingIOError, FileNotFoundError):
        mine = False
    except OSError as error:
        raise RemovalError(f"{lock}: cannot be locked ({reason(error)})", path=str(lock)) from None
    if not mine:
        problem = "another process is removing or restoring files here; try again when it is done"
        raise RemovalError(f"{lock}: {problem}", path=str(lock))


@dataclass(frozen=True, slots=True)
class Trash:
    """The trash of a folder, from :func:`open_trash`. Paths are relative to the folder, with ``/``."""

    folder: Path

    def runs(self) -> list[str]:
        """The runs of which files are left, in the order in which they began; others are tidied away."""
        items = (self.folder / TRASH).iterdir()
        names = [item.name for item in items if is_run_name(item.name) and not item.is_symlink()]
        for name in names:
            self.tidy(name)
        left = [name for name in names if self._files(name).exists()]
        return sorted(left, key=lambda run: (max(self._noted(run, "began"), default=""), run))

    def begin(self, run: str) -> None:
        """Opens the journal of a run, or goes on with one that was interrupted.

        Raises:
            RemovalError: as for :meth:`announce`.
        """
        began = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        self._write(run, [{"began": began}])

    def announce(self, run: str, moves: Iterable[Mapping[str, Any]]) -> None:
        """Puts moves into the journal and on the disk; each is a table with the path as its ``"move"``.

        Raises:
            RemovalError: the journal cannot be written, as on a full disk; then nothing may be moved.
        """
        self._write(run, moves)

    def announced(self, run: str) -> set[str]:
        """The paths that were to be moved in a run."""
        return {path for path in self._noted(run, "move") if is_inner_path(path)}

    def holds(self, run: str, path: str) -> bool:
        """Whether a file of that path was moved in that run, and not put back."""
        return os.path.lexists(self._files(run) / path)

    def paths(self, run: str) -> list[str]:
        """All that was moved in a run and not put back, sorted.

        Raises:
            OSError: a folder cannot be listed.
        """
        top = self._files(run)
        found = (Path(at, name) for at, _, names in os.walk(top, onerror=_fail) for name in names)
        return sorted(path.relative_to(top).as_posix() for path in found)

    def put(self, run: str, path: str) -> None:
        """Moves a file into the trash.

        Raises:
            OSError: it cannot be moved, or one of that name has been in this run.
        """
        self._move(path, f"{TRASH}/{run}/files/{path}")

    def put_back(self, run: str, path: str) -> None:
        """Moves a file from the trash to where it was.

        Raises:
            OSError: it cannot be moved, or there is another by its name.
        """
        self._move(f"{TRASH}/{run}/files/{path}", path)

    def tidy(self, run: str) -> None:
        """Removes empty folders of a run, and all of it when no files are left.

        Raises:
            OSError: it lies behind a symbolic link.
        """
        top, journal = self._files(run), self._journal(run)
        for at, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):  # it is not empty
                Path(at).rmdir()
        if not top.exists():
            journal.unlink(missing_ok=True)
            with suppress(OSError):
                journal.parent.rmdir()

    def _files(self, run: str) -> Path:
        return inside(self.folder, f"{TRASH}/{run}/files/*").parent

    def _journal(self, run: str) -> Path:
        return inside(self.folder, f"{TRASH}/{run}/journal.jsonl")

    def _move(self, source: str, target: str) -> None:
        here, there = inside(self.folder, source), inside(self.folder, target)
        there.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(there):
            raise FileExistsError(errno.EEXIST, f"would overwrite {there}")
        here.rename(there)

    def _write(self, run: str, lines: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        path = self.folder / TRASH / run / "journal.jsonl"
        try:
            path.parent.mkdir(0o700, exist_ok=True)
            handle = os.open(self._journal(run), os.O_RDWR | os.O_APPEND | os.O_CREAT | _NO_FOLLOW, 0o600)
            with os.fdopen(handle, "a+b") as stream:
                torn = stream.tell() and os.pread(handle, 1, stream.tell() - 1) != b"\n"
                stream.write(b"\n" + text if torn else text)
                stream.flush()
                os.fsync(handle)
        except OSError as error:
            problem = f"cannot be written ({reason(error)})"
            remedy = "nothing more is moved, and undo brings back what was"
            raise RemovalError(f"{path}: {problem}; {remedy}", path=str(path)) from None

    def _noted(self, run: str, key: str) -> list[str]:
        """The text under ``key`` in all lines of a journal that can be read.

        One that a crash or a full disk cut short cannot be; what it announced was not moved.
        """
        try:
            lines = self._journal(run).read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return []
        found = []
        for line in lines:
            with suppress(ValueError, RecursionError):
                table = json.loads(line)
                if isinstance(table, dict) and isinstance(table.get(key), str):
                    found.append(table[key])
        return found


def _run_to_undo(trash: Trash, run: str | None) -> str:
    runs = trash.runs()
    if run is None and runs:
        return runs[-1]
    if run is None or run not in runs:
        asked = "nothing to undo" if run is None else f"no run {run!r} to undo"
        known = f"; those in the trash are {', '.join(runs)}" if runs else ", the trash is empty"
        raise RemovalError(f"{trash.folder}: {asked}{known}", path=str(trash.folder))
    return run


@contextmanager
def whole_folder(folder: Path) -> Iterator[None]:
    """Within it, what goes wrong is the fault of the folder as a whole, not of one of its files."""
    try:
        yield
    except OSError as error:
        raise RemovalError(f"{error.filename or folder}: {reason(error)}", path=str(folder)) from None


def with_bar(items: Sequence[_T], progress: bool | None, unit: str) -> Iterable[_T]:
    """The items, with a bar on stderr; ``progress`` None: where that is a terminal."""
    from tqdm import tqdm

    bar: Iterable[_T] = tqdm(
        items, unit=unit, file=sys.stderr, disable=None if progress is None else not progress
    )
    return bar


def shown(path: str) -> str:
    """A path for the screen: names may hold line breaks, or bytes that are no text."""
    return path if path.isprintable() else ascii(path)


def counted(number: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {noun}" + "s" * (number != 1)


def _fail(error: OSError) -> NoReturn:
    raise error
