"""Duplicates found, planned for, removed and brought back, in folders of real pictures.

The tiny checkpoint tells pictures, not people, apart: copies of a picture are what it can group.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facekit.checkpoint import Calibration, load_checkpoint
from facekit.deduplication import FaceDeduplication, plan_removal
from facekit.duplicates import DuplicateGroup, DuplicatePicture, Duplicates, group_pictures
from facekit.errors import (
    CalibrationError,
    ImageError,
    MultipleFacesError,
    NoFaceError,
    RemovalError,
    SettingError,
)
from facekit.face import Face
from facekit.removal import RemovalPlan, undo
from facekit.trash import TRASH

COPIES = {"a/p1.jpg", "p1_small.jpg", "p1_again.png"}


@pytest.fixture(scope="module")
def dedup(tiny_checkpoint: Path) -> FaceDeduplication:
    return FaceDeduplication(str(tiny_checkpoint), device="cpu", precision="fp32")


def portrait(pictures: Path, person: str, side: int) -> Image.Image:
    """Small, because finding faces takes the time of these tests."""
    with Image.open(pictures / f"people/{person}/studio_portrait.jpg") as picture:
        return picture.resize((side, side), Image.Resampling.LANCZOS)


@pytest.fixture(scope="module")
def original(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person three times, another twice, a third once; and files that are no use."""
    folder = tmp_path_factory.mktemp("dedup") / "photos"
    (folder / "a").mkdir(parents=True)
    portrait(pictures, "P001", 320).save(folder / "a/p1.jpg", quality=95)
    portrait(pictures, "P001", 320).save(folder / "p1_again.png")
    portrait(pictures, "P001", 200).save(folder / "p1_small.jpg", quality=80)
    portrait(pictures, "P005", 320).save(folder / "p5.jpg", quality=95)
    shutil.copy(folder / "p5.jpg", folder / "a/p5 copy.jpg")
    portrait(pictures, "P008", 320).save(folder / "p8.jpg")
    (folder / "broken.jpg").write_bytes((folder / "p5.jpg").read_bytes()[:700])
    (folder / "empty.png").touch()
    Image.new("RGB", (200, 200), "navy").save(folder / "nobody.png")
    for age, name in enumerate(["p1_again.png", "a/p1.jpg", "p1_small.jpg", "a/p5 copy.jpg", "p5.jpg"]):
        os.utime(folder / name, ns=(0, 10**18 + age))
    return folder


@pytest.fixture(scope="module")
def found(dedup: FaceDeduplication, original: Path) -> Duplicates:
    return dedup.find_duplicates(original, threshold=0.9)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "photos")


@pytest.fixture
def found_here(found: Duplicates, original: Path, folder: Path) -> Duplicates:
    """What was found in the original, as if it had been found in the copy."""

    def moved(path: Path) -> Path:
        return folder / path.relative_to(original)

    groups = tuple(
        DuplicateGroup(tuple(replace(picture, path=moved(picture.path)) for picture in group.pictures))
        for group in found
    )
    skipped = {
        moved(path): type(error)(str(error).replace(str(original), str(folder)))
        for path, error in found.skipped.items()
    }
    return replace(found, folder=folder, groups=groups, skipped=skipped)


def inner(folder: Path, paths: Any) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in paths}


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    names = inner(folder, (path for path in folder.rglob("*") if path.is_file() and TRASH not in path.parts))
    return {name: ((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns) for name in names}


def test_finds_copies(found: Duplicates, original: Path) -> None:
    assert [inner(original, group) for group in found] == [COPIES, {"p5.jpg", "a/p5 copy.jpg"}]
    assert found[1].similarity == pytest.approx((1, 1), abs=1e-3)
    assert found[0].similarity[0] > 0.9
    assert (found.threshold, found.far, found.faces) == (0.9, None, "largest")


def test_reports_what_took_no_part(found: Duplicates, original: Path) -> None:
    assert inner(original, found.skipped) == {"broken.jpg", "empty.png", "nobody.png"}
    assert isinstance(found.skipped[original / "broken.jpg"], ImageError)
    assert isinstance(found.skipped[original / "empty.png"], ImageError)
    assert isinstance(found.skipped[original / "nobody.png"], NoFaceError)
    assert f"skipped {original}/nobody.png: no face found" in str(found)


def test_the_usage_of_the_seed(
    tiny_checkpoint: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dedup = FaceDeduplication(str(tiny_checkpoint))
    duplicates = dedup.find_duplicates(f"{folder}/", threshold=0.5)
    for group in duplicates:
        print(f"Duplicate group ({len(group)} images):")
        for img in group:
            print(f"  - {img}")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Duplicate group (")
    assert f"  - {folder}/p5.jpg" in lines


def test_a_folder_of_nothing_usable(dedup: FaceDeduplication, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    found = dedup.find_duplicates(tmp_path, 0.5)
    assert (len(found), list(found.skipped)) == (0, [tmp_path / "a.jpg"])
    assert dedup.remove_duplicates(tmp_path, threshold=0.5).groups == ()
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(ImageError, match="holds no pictures"):
        dedup.find_duplicates(tmp_path, 0.5)
    with pytest.raises(ImageError, match="no such folder"):
        dedup.find_duplicates(tmp_path / "none", 0.5)


def test_aligned_crops(dedup: FaceDeduplication, tmp_path: Path, pictures: Path) -> None:
    face = portrait(pictures, "P001", 600).crop((130, 90, 470, 430))
    for name, size in (("a.png", (112, 112)), ("b.png", (112, 112)), ("photo.png", (200, 100))):
        face.resize(size).save(tmp_path / name)
    found = dedup.find_duplicates(tmp_path, 0.9, aligned=True)
    assert [inner(tmp_path, group) for group in found] == [{"a.png", "b.png"}]
    assert list(found.skipped) == [tmp_path / "photo.png"]


def test_all_faces_of_a_picture(dedup: FaceDeduplication, pictures: Path, tmp_path: Path) -> None:
    both = Image.new("RGB", (500, 250))
    for at, person in enumerate(["P001", "P005"]):
        both.paste(portrait(pictures, person, 250), (250 * at, 0))
    both.save(tmp_path / "both.jpg", quality=95)
    both.save(tmp_path / "both again.png")
    both.crop((0, 0, 250, 250)).save(tmp_path / "one.png")
    (group,) = dedup.find_duplicates(tmp_path, 0.9, faces="all")
    assert inner(tmp_path, group) == {"both.jpg", "both again.png"}
    assert [len(picture.faces) for picture in group.pictures] == [2, 2]
    alone = dedup.find_duplicates(tmp_path, 0.9, faces="error")
    assert [type(error) for error in alone.skipped.values()] == [MultipleFacesError] * 2


def test_thresholds_come_first(dedup: FaceDeduplication, folder: Path) -> None:
    with pytest.raises(CalibrationError, match="threshold"):
        dedup.find_duplicates(folder)
    with pytest.raises(CalibrationError, match="far"):
        dedup.remove_duplicates(folder, far=1e-3)
    with pytest.raises(SettingError, match=r"threshold: 1\.5"):
        dedup.find_duplicates(folder, 1.5)
    with pytest.raises(SettingError, match="faces: 'both'"):
        dedup.find_duplicates(folder, 0.5, faces="both")
    with pytest.raises(
        SettingError, match=r"keep: 'worst' is not one of 'best', 'largest', 'oldest', 'newest'"
    ):
        dedup.remove_duplicates(folder, "worst")


# ---------------------------------------------------------------- removal


def test_nothing_moves_before_it_is_told_to(dedup: FaceDeduplication, folder: Path) -> None:
    before = files(folder)
    plan = dedup.remove_duplicates(folder, keep="best", threshold=0.9)
    assert isinstance(plan, RemovalPlan)
    assert plan.report is None
    assert len(plan.removed) == 3
    assert files(folder) == before
    assert not (folder / TRASH).exists()

    plan = dedup.remove_duplicates(folder, threshold=0.9, dry_run=False)
    assert plan.report is not None
    assert (set(plan.report.moved), dict(plan.report.failed)) == (set(plan.removed), {})
    assert files(folder).keys() == before.keys() - set(plan.removed)
    assert not dedup.find_duplicates(folder, 0.9), "the trash is not searched"
    undo(folder)
    assert files(folder) == before


def test_a_plan_says_what_it_comes_from(found_here: Duplicates, folder: Path) -> None:
    plan = plan_removal(found_here)
    settings = {"keep": "best", "threshold": 0.9, "far": None, "faces": "largest", "compared": 6}
    assert dict(plan["settings"]) == settings
    assert set(plan.skipped) == {"broken.jpg", "empty.png", "nobody.png"}
    assert plan.skipped["nobody.png"] == "no face found"
    assert str(folder) not in "".join(plan.skipped.values())


def test_a_plan_survives_a_file(found_here: Duplicates, folder: Path, tmp_path: Path) -> None:
    plan = plan_removal(found_here)
    plan.save(tmp_path / "plan.json")
    assert set(RemovalPlan.load(tmp_path / "plan.json").apply().moved) == set(plan.removed)


@pytest.mark.parametrize(
    ("keep", "stays"),
    [
        ("largest", {"p1_again.png", "a/p1.jpg"}),
        ("oldest", {"p1_again.png"}),
        ("newest", {"p1_small.jpg"}),
        (lambda group: next(path for path in group if path.parent.name == "a"), {"a/p1.jpg"}),
        (lambda group: str(group[-1]), {"p1_small.jpg"}),
    ],
)
def test_keep(found_here: Duplicates, keep: Any, stays: set[str]) -> None:
    plan = plan_removal(found_here, keep)
    first = plan.groups[0]
    assert first.keep.path in stays
    assert {first.keep.path, *(file.path for file in first.remove)} == COPIES


def test_keep_best_by_quality(found_here: Duplicates, folder: Path) -> None:
    plan = plan_removal(found_here, "best")
    quality = {picture.path: picture.quality for picture in found_here[0].pictures}
    best = max(quality, key=lambda path: quality[path])
    assert folder / plan.groups[0].keep.path == best
    assert plan.groups[0].keep.path != "p1_small.jpg"
    assert plan.groups[0].keep.why.startswith("quality 0.")
    assert plan.groups[0].remove[0].why.startswith(("similarity 0.9", "similarity 1.0"))


def test_of_equals_the_older_stays(found_here: Duplicates) -> None:
    assert plan_removal(found_here, "best").groups[1].keep.path == "a/p5 copy.jpg"
    assert plan_removal(found_here, "largest").groups[1].keep.path == "a/p5 copy.jpg"
    assert plan_removal(found_here, "newest").groups[1].keep.path == "p5.jpg"


def test_keep_must_choose_from_the_group(found_here: Duplicates) -> None:
    with pytest.raises(
        SettingError, match=r"keep: chose '/etc/passwd', which is not one of the group of .*p1"
    ):
        plan_removal(found_here, lambda group: "/etc/passwd")
    with pytest.raises(SettingError, match="keep: chose 'None'"):
        plan_removal(found_here, lambda group: None)


def test_what_changes_meanwhile_is_left_out(found_here: Duplicates, folder: Path) -> None:
    (folder / "p1_small.jpg").write_bytes(b"edited")
    (folder / "p5.jpg").unlink()
    plan = plan_removal(found_here)
    assert [{group.keep.path, *(file.path for file in group.remove)} for group in plan.groups] == [
        COPIES - {"p1_small.jpg"}
    ]
    assert plan.skipped["p1_small.jpg"] == "has changed since it was looked at"
    assert plan.skipped["p5.jpg"] == "is missing"


def test_links_inside_are_left_out_and_a_link_to_the_folder_is_not(
    dedup: FaceDeduplication, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside").mkdir()
    shutil.copy(folder / "p8.jpg", tmp_path / "outside/p8.jpg")
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "link.jpg").symlink_to(tmp_path / "outside/p8.jpg")
    (tmp_path / "by another name").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    found = dedup.find_duplicates("by another name", 0.9)
    assert [len(group) for group in found] == [3, 2]
    assert Path("by another name/p5.jpg") in found[1]
    plan = plan_removal(found)
    assert plan.folder == str(folder.resolve())
    assert len(plan.apply().moved) == 3
    assert len(undo("by another name").moved) == 3


def test_removal_across_a_link_put_there_afterwards(
    found_here: Duplicates, folder: Path, tmp_path: Path
) -> None:
    plan = plan_removal(found_here, "oldest")
    (folder / "a").rename(tmp_path / "outside")
    (folder / "a").symlink_to(tmp_path / "outside")
    before = files(tmp_path / "outside")
    report = plan.apply()
    assert "lies behind a symbolic link" in report.failed["a/p1.jpg"]
    assert files(tmp_path / "outside") == before
    folder.symlink_to(folder.rename(tmp_path / "moved"))
    with pytest.raises(RemovalError, match="has become a symbolic link"):
        plan.apply()


def test_takes_a_checkpoint_that_is_loaded(tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    assert FaceDeduplication(checkpoint, "cpu").config is checkpoint.config


def test_everything_is_plain_data(found: Duplicates) -> None:
    table = json.loads(json.dumps(found.to_dict()))
    assert [len(group["pictures"]) for group in table["groups"]] == [3, 2]
    assert table["groups"][0]["pictures"][0].keys() >= {"path", "quality", "width", "height", "faces"}


# ---------------------------------------------------------------- how sure


def planted(folder: Path, threshold: float, **angles: float) -> Duplicates:
    """Pictures in a world where people differ by an angle, in degrees; the first has the best face."""
    pictures = []
    for rank, (name, angle) in enumerate(angles.items()):
        path = folder / name
        path.write_text(name)
        radians = np.radians(angle)
        vector = np.array([np.cos(radians), np.sin(radians)], np.float32)
        box, landmarks = np.array([0, 0, 90, 90], np.float32), np.zeros((5, 2), np.float32)
        face = Face(box, landmarks, 1.0, 0.9 - rank / 10, vector)
        status = path.stat()
        pictures.append(DuplicatePicture(path, (face,), (99, 99), status.st_size, status.st_mtime_ns))
    groups = tuple(group_pictures(pictures, threshold))
    return Duplicates(folder, groups, {}, threshold, None, "largest", len(pictures))


def test_only_what_is_like_the_kept_one_goes(tmp_path: Path) -> None:
    """On average the three are alike enough; the two ends are not."""
    found = planted(tmp_path, 0.7, best=0.0, middle=30.0, far=55.0)
    assert [len(group) for group in found] == [3]
    plan = plan_removal(found)
    assert plan.removed == ("middle",)
    assert plan.skipped == {"far": "stays: similarity 0.574 to best is below the threshold, 0.700"}
    assert "skipped far: stays" in str(plan)
    assert set(plan_removal(found, lambda group: group[1]).removed) == {"best", "far"}


def test_a_group_of_which_nothing_goes_is_not_planned(tmp_path: Path) -> None:
    found = planted(tmp_path, 0.9, one=0.0, other=20.0)
    plan = plan_removal(replace(found, threshold=0.95))
    assert plan.groups == ()
    assert set(plan.skipped) == {"other"}


@pytest.mark.parametrize(
    ("rows", "given", "threshold", "far"),
    [
        ({1e-2: 0.3, 1e-3: 0.4, 1e-4: 0.5}, {}, 0.5, 1e-4),
        ({1e-2: 0.3, 1e-3: 0.4, 1e-5: 0.6}, {}, 0.5, 1e-4),
        ({1e-2: 0.3, 1e-3: 0.4, 1e-4: 0.5}, {"far": 1e-2}, 0.3, 1e-2),
        ({1e-2: 0.3, 1e-3: 0.4, 1e-4: 0.5}, {"threshold": 0.4}, 0.4, 1e-3),
        ({1e-2: 0.3, 1e-3: 0.4}, {}, 0.4, 1e-3),
    ],
)
def test_a_folder_asks_for_more_than_a_pair(
    tiny_checkpoint: Path,
    tmp_path: Path,
    rows: dict[float, float],
    given: dict[str, float],
    threshold: float,
    far: float,
) -> None:
    """The default is that of one pair; a folder has n (n - 1) / 2 of them."""
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    loaded = load_checkpoint(tiny_checkpoint)
    table = Calibration("planted", 10**6, 10**4, rows)
    measured = replace(loaded, config=replace(loaded.config, threshold=0.4, calibration=table))
    found = FaceDeduplication(measured, "cpu").find_duplicates(tmp_path, **given)
    assert found.threshold == pytest.approx(threshold)
    assert found.far == pytest.approx(far)


@pytest.mark.parametrize("folder", [None, "", 7])
def test_what_is_no_folder_is_refused_in_one_line(dedup: FaceDeduplication, folder: Any) -> None:
    with pytest.raises(SettingError, match=f"folder: {folder!r} is not a folder"):
        dedup.find_duplicates(folder, 0.5)


# ---------------------------------------------------------------- the checkpoint that ships


def test_shipped_groups_people_not_pictures(shipped_checkpoint: Path, pictures: Path) -> None:
    names = {"query_1": "P001", "query_2": "P005", "query_3": "P006", "query_4": "P003", "copy_small": "P005"}
    names |= {"many_faces": "P008", "unknown_1": "P007", "unknown_2": "P007", "astronaut": "Eileen Collins"}
    found = FaceDeduplication(shipped_checkpoint, "cpu").find_duplicates(pictures)
    assert not found.skipped
    people = [{names.get(path.stem, path.parent.name) for path in group} for group in found]
    assert sorted(map(sorted, people)) == [["P001"], ["P003"], ["P005"], ["P006"], ["P007"], ["P008"]]
    assert sum(map(len, found)) == 23, "all but the astronaut"
    plan = plan_removal(found)
    for group in plan.groups:
        assert "loose/copy_small.jpg" not in group.keep.path, "the small copy is never the best"
