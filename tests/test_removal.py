"""Removal plans: data that is checked, followed to the letter, and undone to the byte, come what may."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekit.errors import RemovalError
from facekit.removal import PlannedFile, PlannedGroup, RemovalPlan, apply_plan, undo
from facekit.trash import TRASH, open_trash

GROUPS = [["a.jpg", "b.jpg", "deep/a.jpg"], ["deep/er/c.jpg", "d.jpg"]]


def write(folder: Path, contents: Mapping[str, bytes]) -> Path:
    for number, (path, content) in enumerate(contents.items()):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        os.utime(folder / path, ns=(0, 10**18 + number))
    return folder


def read(folder: Path) -> dict[str, tuple[bytes, int]]:
    """All regular files outside the trash: what they hold and when they were written."""
    found = (path for path in folder.rglob("*") if path.is_file() and TRASH not in path.parts)
    return {p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns) for p in found}


def plan_for(folder: Path, groups: list[list[str]], **more: Any) -> RemovalPlan:
    """A plan that keeps the first file of each group."""
    seen = [[PlannedFile.observe(folder, path) for path in group] for group in groups]
    return RemovalPlan(str(folder), tuple(PlannedGroup(keep, tuple(rest)) for keep, *rest in seen), **more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, {"outside/x.jpg": b"not yours", "beside.jpg": b"nor this"})
    paths = [*(path for group in GROUPS for path in group), "e.jpg", "notes.txt"]
    return write(tmp_path / "photos", {path: path.encode() * 9 for path in paths})


@pytest.fixture
def plan(folder: Path) -> RemovalPlan:
    return plan_for(folder, GROUPS)


def table(folder: Path) -> dict[str, Any]:
    return json.loads(json.dumps(plan_for(folder, GROUPS).to_dict()))


def test_apply_and_undo(folder: Path, plan: RemovalPlan) -> None:
    before = read(folder)
    report = plan.apply()
    assert (report.run, report.moved, dict(report.failed)) == (plan.id, ("b.jpg", "deep/a.jpg", "d.jpg"), {})
    assert read(folder) == {path: before[path] for path in before.keys() - set(report.moved)}
    assert undo(folder).moved == tuple(sorted(report.moved))
    assert read(folder) == before
    assert not (folder / TRASH).exists()


def test_the_journal_says_what_repeats_what(folder: Path, plan: RemovalPlan) -> None:
    plan.apply()
    text = (folder / TRASH / plan.id / "journal.jsonl").read_text()
    began, *moves = map(json.loads, text.splitlines())
    assert began.keys() == {"began"}
    assert [(move["move"], move["repeats"]) for move in moves] == [
        ("b.jpg", "a.jpg"),
        ("deep/a.jpg", "a.jpg"),
        ("d.jpg", "deep/er/c.jpg"),
    ]
    assert moves[0]["sha256"] == plan.groups[0].remove[0].sha256


def test_applying_twice_is_applying_once(folder: Path, plan: RemovalPlan) -> None:
    first, after = plan.apply(), read(folder)
    assert plan.apply() == first
    assert read(folder) == after
    undo(folder)
    assert plan.apply() == first


def test_reads_as_a_table(plan: RemovalPlan) -> None:
    assert dict(plan) == plan.to_dict()
    assert plan["groups"][0]["remove"][1]["path"] == "deep/a.jpg"
    assert plan.get("report") is None
    assert json.loads(json.dumps(dict(plan))) == plan.to_dict()


def test_prints_for_people(folder: Path, plan: RemovalPlan) -> None:
    file = replace(plan.groups[0].remove[0], path="line\nbreak.jpg", why="quality 0.5")
    odd = replace(plan, groups=(PlannedGroup(plan.groups[0].keep, (file,)),), skipped={"x.jpg": "no face"})
    assert str(odd).splitlines() == [
        f"{folder}: 1 file (0.0 MB) of 1 group to be removed",
        "",
        "keep    a.jpg",
        "remove  'line\\nbreak.jpg'  quality 0.5",
        "",
        "skipped x.jpg: no face",
    ]
    assert str(replace(plan, report=plan.apply())).endswith(f"\n3 files moved, 0 not (run {plan.id})")


# ---------------------------------------------------------------- what has changed since


@pytest.mark.parametrize("how", ["content", "time", "longer"])
def test_a_file_that_has_changed_stays(folder: Path, plan: RemovalPlan, how: str) -> None:
    place = folder / "b.jpg"
    content, stamp = place.read_bytes(), place.stat().st_mtime_ns
    place.write_bytes({"content": content[::-1], "time": content, "longer": content + b"!"}[how])
    os.utime(place, ns=(0, stamp + (how == "time")))
    report = plan.apply()
    assert report.failed == {"b.jpg": "has changed since the plan was made"}
    assert report.moved == ("deep/a.jpg", "d.jpg")
    assert place.exists()


@pytest.mark.parametrize("how", ["gone", "changed", "folder", "link"])
def test_nothing_goes_unless_its_keeper_is_there(folder: Path, plan: RemovalPlan, how: str) -> None:
    keeper = folder / "a.jpg"
    content = keeper.read_bytes()
    keeper.unlink()
    if how == "changed":
        keeper.write_bytes(content[:-1])
    elif how == "folder":
        keeper.mkdir()
    elif how == "link":
        (folder / "copy.jpg").write_bytes(content)
        keeper.symlink_to(folder / "copy.jpg")
    report = plan.apply()
    assert report.moved == ("d.jpg",)
    assert report.failed.keys() == {"b.jpg", "deep/a.jpg"}
    assert "because of a.jpg, which was to be kept:" in report.failed["b.jpg"]


def test_a_keeper_that_goes_half_way_saves_the_rest(
    folder: Path, plan: RemovalPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def then_lose_the_keeper(source: Path, target: Path) -> None:
        rename(source, target)
        (folder / "a.jpg").unlink(missing_ok=True)

    monkeypatch.setattr(Path, "rename", then_lose_the_keeper)
    report = plan.apply()
    assert report.moved == ("b.jpg", "d.jpg")
    assert report.failed == {"deep/a.jpg": "stays, because of a.jpg, which was to be kept: is missing"}


def test_a_file_that_has_gone_is_reported(folder: Path, plan: RemovalPlan) -> None:
    (folder / "b.jpg").unlink()
    assert plan.apply().failed == {"b.jpg": "is missing"}


def test_a_new_file_by_the_name_of_one_in_the_trash(folder: Path, plan: RemovalPlan) -> None:
    before = read(folder)
    plan.apply()
    write(folder, {"b.jpg": before["b.jpg"][0]})
    os.utime(folder / "b.jpg", ns=(0, before["b.jpg"][1]))
    report = plan.apply()
    assert report.failed.keys() == {"b.jpg"}
    assert "would overwrite" in report.failed["b.jpg"]
    assert (folder / "b.jpg").exists()


def test_hard_links_are_names_like_any_other(folder: Path) -> None:
    (folder / "same.jpg").hardlink_to(folder / "a.jpg")
    before = read(folder)
    plan = plan_for(folder, [["a.jpg", "same.jpg"]])
    assert plan.apply().moved == ("same.jpg",)
    assert (folder / "a.jpg").exists()
    undo(folder)
    assert read(folder) == before
    assert (folder / "same.jpg").samefile(folder / "a.jpg")


# ---------------------------------------------------------------- nothing outside


def test_a_folder_that_has_become_a_link_is_refused(folder: Path, plan: RemovalPlan) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")
    with pytest.raises(RemovalError, match=r"photos: has become a symbolic link; make a new plan"):
        plan.apply()
    assert len(read(folder.with_name("elsewhere"))) == 7


def test_a_parent_that_has_become_a_link_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "up/photos", {"a": b"1", "b": b"1"})
    plan = plan_for(folder, [["a", "b"]])
    (tmp_path / "up").rename(tmp_path / "moved")
    (tmp_path / "up").symlink_to("moved")
    with pytest.raises(RemovalError, match="has become a symbolic link"):
        plan.apply()


def test_a_folder_that_has_gone_is_refused(tmp_path: Path, plan: RemovalPlan) -> None:
    with pytest.raises(RemovalError, match="no such folder any more"):
        replace(plan, folder=str(tmp_path / "nowhere")).apply()


def test_a_subfolder_that_has_become_a_link_is_not_entered(folder: Path, plan: RemovalPlan) -> None:
    outside = folder.with_name("outside")
    (folder / "deep").rename(outside / "deep")
    (folder / "deep").symlink_to(outside / "deep")
    before = read(outside)
    report = plan.apply()
    assert report.moved == ("b.jpg",)
    assert "lies behind a symbolic link" in report.failed["deep/a.jpg"]
    assert "deep/er/c.jpg, which was to be kept: lies behind a symbolic link" in report.failed["d.jpg"]
    assert read(outside) == before


def test_a_file_that_has_become_a_link_stays(folder: Path, plan: RemovalPlan) -> None:
    outside = folder.with_name("outside")
    (folder / "b.jpg").rename(outside / "b.jpg")
    (folder / "b.jpg").symlink_to(outside / "b.jpg")
    assert plan.apply().failed == {"b.jpg": "is not a regular file any more"}
    assert (folder / "b.jpg").is_symlink()
    assert (outside / "b.jpg").exists()


@pytest.mark.parametrize(
    "path", ["../outside/x.jpg", "/etc/passwd", "deep/../../beside.jpg", f"{TRASH}/x", ".", ""]
)
def test_a_plan_edited_to_reach_outside_is_refused(folder: Path, tmp_path: Path, path: str) -> None:
    for edit in ("keep", "remove"):
        values = table(folder)
        group = values["groups"][1]
        (group["keep"] if edit == "keep" else group["remove"][0])["path"] = path
        (tmp_path / "plan.json").write_text(json.dumps(values))
        with pytest.raises(RemovalError, match=r"plan\.json: groups\[1\], path is .* inside the folder"):
            RemovalPlan.load(tmp_path / "plan.json")


# ---------------------------------------------------------------- when the system refuses


def refuse_rename(monkeypatch: pytest.MonkeyPatch, name: str, code: int) -> None:
    rename = Path.rename

    def refuse(source: Path, target: Path) -> None:
        if source.name == name:
            raise OSError(code, os.strerror(code), str(source))
        rename(source, target)

    monkeypatch.setattr(Path, "rename", refuse)


def test_a_file_on_another_file_system_is_reported(
    folder: Path, plan: RemovalPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_rename(monkeypatch, "b.jpg", errno.EXDEV)
    report = plan.apply()
    assert report.moved == ("deep/a.jpg", "d.jpg")
    assert report.failed == {"b.jpg": "lies on another file system than the folder, and can only be copied"}
    assert (folder / "b.jpg").exists()


def test_a_file_without_permission_is_reported_both_ways(
    folder: Path, plan: RemovalPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read(folder)
    refuse_rename(monkeypatch, "b.jpg", errno.EACCES)
    assert plan.apply().failed == {"b.jpg": "Permission denied"}
    monkeypatch.undo()
    plan.apply()
    refuse_rename(monkeypatch, "d.jpg", errno.EACCES)
    report = undo(folder)
    assert report.moved == ("b.jpg", "deep/a.jpg")
    assert report.failed.keys() == {"d.jpg"}
    monkeypatch.undo()
    assert undo(folder).moved == ("d.jpg",)
    assert read(folder) == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(folder: Path, plan: RemovalPlan) -> None:
    folder.chmod(0o555)
    try:
        with pytest.raises(RemovalError, match=r"cannot be used as trash \(Permission denied\)"):
            plan.apply()
    finally:
        folder.chmod(0o755)


def test_a_full_disk_moves_nothing(folder: Path, plan: RemovalPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read(folder)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RemovalError, match=r"journal\.jsonl: cannot be written \(No space left on device\)"):
        plan.apply()
    assert read(folder) == before
    assert not (folder / TRASH).exists()


def test_a_disk_that_fills_up_stops_before_the_next_move(
    folder: Path, plan: RemovalPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls, fsync = read(folder), [], os.fsync

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 3:  # the beginning, the first group, the second
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RemovalError, match="nothing more is moved, and undo brings back what was"):
        plan.apply()
    assert before.keys() - read(folder).keys() == {"b.jpg", "deep/a.jpg"}
    assert undo(folder).moved == ("b.jpg", "deep/a.jpg")
    assert read(folder) == before


def test_two_at_once(folder: Path, plan: RemovalPlan) -> None:
    with open_trash(folder), pytest.raises(RemovalError, match="another process is removing or restoring"):
        plan.apply()
    assert len(plan.apply().moved) == 3


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Does the work in a child, killed before its step-th act on the file system; False if it has fewer."""
    left = step

    def hook(event: str, arguments: object) -> None:
        nonlocal left
        if event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "open"):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child uses no lock of another thread
        child = os.fork()
    if child == 0:
        status = 1
        try:
            sys.addaudithook(hook)
            work()
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return status != 0


@pytest.mark.parametrize("how", ["apply", "undo"])
def test_kill_9_at_every_step_loses_nothing(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # slow, and only for when the power fails
    contents = {path: path.encode() for group in GROUPS for path in group}
    folder = write(tmp_path / "photos", contents)
    plan, before = plan_for(folder, GROUPS), read(folder)
    for step in range(100):
        if how == "undo":
            plan.apply()
        killed = killed_at(step, plan.apply if how == "apply" else lambda: undo(folder))
        assert sorted(path.read_bytes() for path in folder.rglob("*.jpg")) == sorted(contents.values())
        if step % 2:  # go on where it was interrupted, or do it again
            assert plan.apply().moved == ("b.jpg", "deep/a.jpg", "d.jpg")
            assert read(folder).keys() == {"a.jpg", "deep/er/c.jpg"}
        with suppress(RemovalError):  # killed before it moved anything, or after all was back
            assert not undo(folder).failed
        assert read(folder) == before
        assert not (folder / TRASH).exists()
        if not killed:
            break
    assert 15 < step < 99


# ---------------------------------------------------------------- plans as files


def test_save_and_load(folder: Path, tmp_path: Path) -> None:
    plan = plan_for(folder, GROUPS, settings={"keep": "best", "far": None}, skipped={"\udcff.jpg": "no face"})
    plan.save(tmp_path / "plan.json")
    assert RemovalPlan.load(tmp_path / "plan.json") == plan
    assert [path.name for path in tmp_path.iterdir() if "plan" in path.name] == ["plan.json"]
    plan.save(str(tmp_path / "plan.json"))
    assert apply_plan(RemovalPlan.load(str(tmp_path / "plan.json"))).moved == plan.removed


def test_a_plan_may_be_thinned_out_by_hand(folder: Path) -> None:
    values = table(folder)
    del values["groups"][1], values["groups"][0]["remove"][0]
    assert RemovalPlan.from_dict(values).apply().moved == ("deep/a.jpg",)


def edited(*keys: str | int, to: Any = None) -> Callable[[dict[str, Any]], None]:
    def edit(values: Any) -> None:
        for key in keys[:-1]:
            values = values[key]
        if to is None:
            del values[keys[-1]]
        else:
            values[keys[-1]] = to

    return edit


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (edited("format"), "the plan: 'format' is missing"),
        (
            edited("format", to="facekit removal plan 2"),
            "format is 'facekit removal plan 2': must be 'facekit",
        ),
        (edited("extra", to=1), "the plan: 'extra' is not one of format, id, folder"),
        (edited("id", to="../.."), "id is '../..': must be such as 2026"),
        (edited("folder", to="photos"), "folder is 'photos': must be an absolute path"),
        (edited("folder", to="/photos/../etc"), "folder is '/photos/../etc': must be an absolute path"),
        (edited("folder", to="/x\0"), r"folder is '/x\x00': must be an absolute path"),
        (edited("groups", to={}), "the plan.groups is {}: must be a list"),
        (edited("groups", 0, to=[]), r"groups[0] is []: must be a table with keep, remove"),
        (edited("groups", 0, "keep"), "groups[0]: 'keep' is missing"),
        (edited("groups", 0, "remove", to=[]), "groups[0].remove is []: must be at least one file"),
        (edited("groups", 0, "keep", "sha256"), "groups[0].keep: 'sha256' is missing"),
        (edited("groups", 0, "keep", "bytes", to="1"), "groups[0].keep.bytes is '1': must be a int"),
        (edited("groups", 0, "keep", "bytes", to=True), "groups[0].keep.bytes is True: must be a int"),
        (
            edited("groups", 0, "remove", 0, "path", to="a.jpg"),
            "groups[0], path is 'a.jpg': must be named once",
        ),
        (edited("groups", 1, "keep", "path", to="b.jpg"), "groups[1], path is 'b.jpg': must be named once"),
        (edited("groups", 0, "keep", "path", to="x" * 99 + "/.."), "...: must be a plain relative path"),
    ],
)
def test_a_plan_that_cannot_be_followed(folder: Path, tmp_path: Path, edit: Any, problem: str) -> None:
    values, path = table(folder), tmp_path / "plan.json"
    edit(values)
    path.write_text(json.dumps(values))
    with pytest.raises(RemovalError) as caught:
        RemovalPlan.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.path == str(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b'"plan"'])
def test_a_file_that_is_no_plan(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(RemovalError, match=r"plan\.json: (is not JSON|the plan is)"):
        RemovalPlan.load(path)


def test_plans_that_cannot_be_read_or_written(tmp_path: Path, plan: RemovalPlan) -> None:
    with pytest.raises(RemovalError, match=r"none\.json: cannot be read \(is missing\)"):
        RemovalPlan.load(tmp_path / "none.json")
    with pytest.raises(RemovalError, match=r"cannot be read \(Is a directory\)"):
        RemovalPlan.load(tmp_path)
    with pytest.raises(RemovalError, match=r"plan\.json: is in no existing folder; make it first"):
        plan.save(tmp_path / "none/plan.json")
    with pytest.raises(RemovalError, match="exists, and is not a removal plan"):
        plan.save(tmp_path)


def test_a_plan_is_written_over_no_photograph(folder: Path, plan: RemovalPlan) -> None:
    before = read(folder)
    for path in (folder / "a.jpg", folder / "notes.txt"):
        with pytest.raises(RemovalError, match=f"{path.name}: exists, and is not a removal plan"):
            plan.save(path)
    assert read(folder) == before


# ---------------------------------------------------------------- any tree, any plan

NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0") | st.sampled_from("\udc80\udcff\n\\"),
    max_size=12,
)
PATHS = st.builds(
    lambda up, name: "/".join([*("d" + part for part in up), f"f{name}"]), st.lists(NAMES, max_size=3), NAMES
)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(PATHS, st.binary(max_size=40), min_size=2, max_size=12),
    st.data(),
)
def test_every_byte_comes_back(contents: dict[str, bytes], data: st.DataObject) -> None:
    label = {path: data.draw(st.integers(0, 3)) for path in contents}
    groups = [[path for path in contents if label[path] == number] for number in range(4)]
    groups = [group for group in groups if len(group) > 1]
    changed = data.draw(st.sets(st.sampled_from(sorted(contents)), max_size=2))
    with tempfile.TemporaryDirectory() as name, mock.patch("os.fsync"):
        folder = write(Path(name).resolve(), contents)
        plan = RemovalPlan.from_dict(json.loads(json.dumps(plan_for(folder, groups).to_dict())))
        for path in changed:
            (folder / path).write_bytes(contents[path] + b"!")
        before = read(folder)
        report = plan.apply()
        expected = {p for keep, *rest in groups for p in rest if not {keep, p} & changed}
        assert set(report.moved) == expected
        assert set(report.failed) == set(plan.removed) - expected
        assert read(folder) == {path: before[path] for path in before.keys() - expected}
        if expected:
            assert set(undo(folder).moved) == expected
        assert read(folder) == before
        assert not (folder / TRASH).exists()
