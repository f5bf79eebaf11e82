"""The trash: one holder at a time, nothing outside the folder, nothing overwritten, all of it back again."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from facekit.errors import RemovalError
from facekit.trash import TRASH, inside, is_inner_path, is_run_name, new_run_name, open_trash, undo

RUN, LATER = "20260102-030405-0123abcd", "20260102-030405-89abcdef"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four files, and a neighbour that nobody may touch."""
    for name in (
        "photos/a.jpg",
        "photos/b.jpg",
        "photos/deep/er/a.jpg",
        "photos/deep/c.jpg",
        "outside/x.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path / "photos"


def files(folder: Path) -> dict[str, str]:
    """All regular files outside the trash, and what they hold."""
    found = (path for path in folder.rglob("*") if path.is_file() and TRASH not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


def put(folder: Path, *paths: str, run: str = RUN) -> None:
    with open_trash(folder) as trash:
        trash.begin(run)
        trash.announce(run, [{"move": path} for path in paths])
        for path in paths:
            trash.put(run, path)


def test_files_go_and_come_back(folder: Path) -> None:
    before = files(folder)
    put(folder, "a.jpg", "deep/er/a.jpg")
    assert files(folder).keys() == {"b.jpg", "deep/c.jpg"}
    assert (folder / TRASH / RUN / "files/deep/er/a.jpg").read_text() == "photos/deep/er/a.jpg"
    report = undo(folder)
    assert (report.run, report.moved, dict(report.failed)) == (RUN, ("a.jpg", "deep/er/a.jpg"), {})
    assert files(folder) == before
    assert not (folder / TRASH).exists()


def test_the_trash_is_for_its_owner_only(folder: Path) -> None:
    put(folder, "a.jpg")
    assert (folder / TRASH).stat().st_mode & 0o777 == 0o700


def test_a_folder_that_has_gone_is_made_again(folder: Path) -> None:
    put(folder, "deep/er/a.jpg")
    (folder / "deep/er").rmdir()
    undo(folder)
    assert files(folder)["deep/er/a.jpg"] == "photos/deep/er/a.jpg"


def test_undo_takes_the_run_that_began_last(folder: Path) -> None:
    put(folder, "a.jpg", run=LATER)
    put(folder, "b.jpg", run=RUN)  # the name of a run is older than its beginning
    assert undo(folder).moved == ("b.jpg",)
    assert undo(folder).moved == ("a.jpg",)


def test_undo_takes_the_run_that_is_named(folder: Path) -> None:
    put(folder, "a.jpg", run=RUN)
    put(folder, "b.jpg", run=LATER)
    assert undo(folder, RUN).moved == ("a.jpg",)
    with pytest.raises(RemovalError, match=f"no run '{RUN}' to undo; those in the trash are {LATER}"):
        undo(folder, RUN)
    with pytest.raises(RemovalError, match=r"no run '\.\./\.\./outside' to undo"):
        undo(folder, "../../outside")


def test_a_folder_that_may_not_be_searched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(RemovalError, match=r"photos/.facekit-trash: Permission denied"):
        undo(folder)


def test_nothing_to_undo(folder: Path) -> None:
    with pytest.raises(RemovalError, match=r"photos: nothing to undo, there is no .facekit-trash in it"):
        undo(folder)
    (folder / TRASH).mkdir()
    with pytest.raises(RemovalError, match="nothing to undo, the trash is empty"):
        undo(folder)
    assert not (folder / TRASH).exists()


def test_undo_never_overwrites(folder: Path) -> None:
    put(folder, "a.jpg", "b.jpg")
    (folder / "a.jpg").write_text("new")
    report = undo(folder)
    assert report.moved == ("b.jpg",)
    assert report.failed.keys() == {"a.jpg"}
    assert "would overwrite" in report.failed["a.jpg"]
    assert f"stays in {TRASH}/{RUN}/files" in report.failed["a.jpg"]
    assert (folder / "a.jpg").read_text() == "new"
    (folder / "a.jpg").rename(folder / "mine.jpg")
    assert undo(folder).moved == ("a.jpg",)
    assert not (folder / TRASH).exists()


def test_undo_does_not_overwrite_a_dangling_link(folder: Path) -> None:
    put(folder, "a.jpg")
    (folder / "a.jpg").symlink_to("nowhere")
    assert undo(folder).failed.keys() == {"a.jpg"}
    assert (folder / "a.jpg").is_symlink()


def test_the_trash_never_overwrites(folder: Path) -> None:
    put(folder, "a.jpg")
    (folder / "a.jpg").write_text("another")
    with pytest.raises(FileExistsError):
        put(folder, "a.jpg")
    assert (folder / "a.jpg").read_text() == "another"


def test_undo_says_what_has_left_the_trash(folder: Path) -> None:
    put(folder, "a.jpg", "b.jpg")
    (folder / TRASH / RUN / "files/a.jpg").unlink()
    report = undo(folder)
    assert report.moved == ("b.jpg",)
    assert report.failed == {"a.jpg": "is neither in the trash nor in its place"}
    assert str(report).splitlines()[1] == "  a.jpg: is neither in the trash nor in its place"


@pytest.mark.parametrize(
    "damage", [b"", b"\0\xff{", b'{"move": 3}\n[]\n"x"\n', b'{"move": "../../outside/x.jpg"}\n']
)
def test_undo_does_not_depend_on_the_journal(folder: Path, damage: bytes) -> None:
    before = files(folder)
    put(folder, "a.jpg")
    (folder / TRASH / RUN / "journal.jsonl").write_bytes(damage)
    report = undo(folder)
    assert (report.moved, report.failed) == (("a.jpg",), {})
    assert files(folder) == before


def test_a_journal_cut_short_is_gone_on_with(folder: Path) -> None:
    put(folder, "a.jpg")
    journal = folder / TRASH / RUN / "journal.jsonl"
    with journal.open("a") as stream:
        stream.write('{"move": "dee')
    put(folder, "b.jpg")
    lines = journal.read_text().splitlines()
    assert lines[2] == '{"move": "dee'
    assert [json.loads(line).get("move") for line in lines[:2] + lines[3:]] == [None, "a.jpg", None, "b.jpg"]
    assert undo(folder).moved == ("a.jpg", "b.jpg")


def test_only_one_at_a_time(folder: Path) -> None:
    with open_trash(folder), pytest.raises(RemovalError, match="another process is removing or restoring"):
        undo(folder)
    assert not (folder / TRASH).exists()


def test_a_lock_left_behind_by_a_crash_locks_nobody_out(folder: Path) -> None:
    put(folder, "a.jpg")
    (folder / TRASH / "lock").touch()
    assert undo(folder).moved == ("a.jpg",)


def test_a_lock_removed_while_it_was_waited_for_does_not_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def taken_last_moment(handle: int, how: int) -> None:
        (folder / TRASH / "lock").unlink()

    monkeypatch.setattr(fcntl, "flock", taken_last_moment)
    with pytest.raises(RemovalError, match="another process"), open_trash(folder):
        pass


def test_a_file_system_without_locks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(RemovalError, match=r"lock: cannot be locked \(No locks available\)"),
        open_trash(folder),
    ):
        pass


def test_a_trash_that_is_a_link_is_refused(folder: Path) -> None:
    outside = folder.parent / "outside"
    (folder / TRASH).symlink_to(outside)
    with pytest.raises(RemovalError, match="cannot be used as trash"), open_trash(folder):
        pass
    with pytest.raises(RemovalError, match="symbolic link"):
        undo(folder)
    assert files(outside) == {"x.jpg": "outside/x.jpg"}


@pytest.mark.parametrize("planted", ["lock", RUN, f"{RUN}/files", f"{RUN}/journal.jsonl"])
def test_planted_links_lead_nowhere(folder: Path, planted: str) -> None:
    outside = folder.parent / "outside"
    (outside / "empty").mkdir()
    target = outside / "x.jpg" if planted.endswith(("lock", "jsonl")) else outside
    place = folder / TRASH / planted
    place.parent.mkdir(parents=True)
    place.symlink_to(target)
    with pytest.raises((RemovalError, OSError)):
        put(folder, "a.jpg")
    with pytest.raises(RemovalError):
        undo(folder)
    assert files(outside) == {"x.jpg": "outside/x.jpg"}
    assert (outside / "empty").is_dir()
    assert files(folder)["a.jpg"] == "photos/a.jpg"


def test_a_folder_swapped_for_a_link_is_not_entered(folder: Path) -> None:
    put(folder, "deep/c.jpg")
    (folder / "deep").rename(folder / "was_deep")
    (folder / "deep").symlink_to(folder.parent / "outside")
    report = undo(folder)
    assert report.moved == ()
    assert "lies behind a symbolic link" in report.failed["deep/c.jpg"]
    assert files(folder.parent / "outside") == {"x.jpg": "outside/x.jpg"}
    (folder / "deep").unlink()
    assert undo(folder).moved == ("deep/c.jpg",)


def test_links_inside_the_trash_are_not_entered(folder: Path) -> None:
    put(folder, "deep/c.jpg")
    (folder / TRASH / RUN / "files/deep/link").symlink_to(folder.parent / "outside")
    assert undo(folder).moved == ("deep/c.jpg",)
    assert files(folder.parent / "outside") == {"x.jpg": "outside/x.jpg"}


def test_a_folder_in_the_trash_that_cannot_be_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "a.jpg", "deep/c.jpg")
    hidden, scandir = folder / TRASH / RUN / "files/deep", os.scandir

    def refuse(path: str) -> object:
        if Path(path) == hidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(RemovalError, match=r"files/deep: Permission denied"):
        undo(folder)
    monkeypatch.undo()
    assert undo(folder).moved == ("a.jpg", "deep/c.jpg")


@pytest.mark.parametrize("path", ["a.jpg", "a/b.jpg", "..a/b..jpg", ".hidden", "a b\n\udcff.jpg", "\\"])
def test_inner_paths(path: str) -> None:
    assert is_inner_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "../a",
        "a/../b",
        "a/..",
        "/a",
        "//a",
        "a//b",
        "a/",
        "./a",
        "a/./b",
        "a\0b",
        f"{TRASH}/x",
        f"a/{TRASH}",
    ],
)
def test_other_paths(path: str) -> None:
    assert not is_inner_path(path)


def test_inside(folder: Path) -> None:
    assert inside(folder, "deep/new/x.jpg") == folder / "deep/new/x.jpg"
    (folder / "link").symlink_to(folder / "deep")
    assert inside(folder, "link") == folder / "link"
    with pytest.raises(OSError, match="lies behind a symbolic link"):
        inside(folder, "link/c.jpg")


def test_run_names_do_not_collide() -> None:
    names = {new_run_name() for _ in range(1000)}
    assert len(names) == 1000
    assert all(map(is_run_name, names))
    assert not any(map(is_run_name, ["", "..", RUN + "/..", RUN + "\n", RUN.upper()]))
