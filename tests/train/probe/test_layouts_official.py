"""Sets of expressions, attributes, affect and action units, written as their authors hand them on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from layout_sets import brightness_at_points, counts, in_pixels, names, write_picture

from facekit.errors import TrainingError
from facekit.train.probe.examples import TEST, TRAIN, VALIDATION, Examples, decode
from facekit.train.probe.layouts import open_examples
from facekit.train.probe.layouts.open import _layout


def _recognised(path: Path, name: str) -> Path:
    assert _layout(path, "auto").name == name
    return path


# ---------------------------------------------------------------- CelebA

_POINTS = [(69, 109), (106, 113), (77, 142), (73, 152), (108, 154)]


def _celeba(folder: Path, *, divided: bool) -> Path:
    listing, places = (folder / "Anno", folder / "Img") if divided else (folder, folder)
    listing.mkdir(exist_ok=True)
    pictures = [f"{number:06d}.jpg" for number in range(1, 7)]
    for name in pictures:
        write_picture(places / "img_align_celeba" / name, (178, 218), np.add(_POINTS, 0.5))
    marks = ["-1  1", " 1  1", " 1 -1", "-1 -1", " 1  1", "-1  1"]
    attributes = [f"{name} {mark}" for name, mark in zip(pictures, marks, strict=True)]
    points = " ".join(f"{x} {y}" for x, y in _POINTS)
    (listing / "list_attr_celeba.txt").write_text("\n".join(["6", "Bald Smiling ", *attributes, ""]))
    people = ["7", "7", "9", "12", "15", "15"]
    rows = [f"{name} {who}" for name, who in zip(pictures, people, strict=True)]
    (listing / "identity_CelebA.txt").write_text("\n".join(rows))
    head = " ".join(
        f"{name}_{axis}"
        for name in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
        for axis in "xy"
    )
    placed = [f"{name} {points}" for name in pictures]
    (listing / "list_landmarks_align_celeba.txt").write_text("\n".join(["6", head, *placed]))
    parts = [f"{name} {part}" for name, part in zip(pictures, [0, 0, 0, 1, 2, 2], strict=True)]
    split = folder / "Eval" if divided else folder
    split.mkdir(exist_ok=True)
    (split / "list_eval_partition.txt").write_text("\n".join(parts))
    return folder


@pytest.mark.parametrize("divided", [False, True])
def test_celeba(tmp_path: Path, divided: bool) -> None:
    path = _recognised(_celeba(tmp_path, divided=divided), "celeba")
    with pytest.raises(TrainingError, match=f"as TASK={path}: attributes, identities, landmarks"):
        open_examples(path)
    attributes = open_examples(path, task="attributes")
    assert (attributes.name, attributes.names) == ("CelebA", ("Bald", "Smiling"))
    assert attributes.targets.tolist() == [[0, 1], [1, 1], [1, 0], [0, 0], [1, 1], [0, 1]]
    assert attributes.split.tolist() == [TRAIN] * 3 + [VALIDATION, TEST, TEST]
    people = open_examples(path, task="identities")
    assert [people.names[who] for who in people.targets] == ["7", "7", "9", "12", "15", "15"]
    points = open_examples(path, task="landmarks")
    assert points.mirror == (1, 0, 2, 4, 3)
    np.testing.assert_allclose(in_pixels(points, 0), np.add(_POINTS, 0.5), atol=1e-4)
    assert (brightness_at_points(points, 178) > 200).all()
    assert torch.equal(
        decode(points, torch.arange(2), 64),
        decode(attributes, torch.arange(2), 64),
    )


def test_celeba_in_two_versions_is_refused(tmp_path: Path) -> None:
    path = _celeba(tmp_path, divided=False)
    (path / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    with pytest.raises(TrainingError, match=r"line 4: 000002\.jpg is not in list_eval_partition\.txt"):
        open_examples(path, task="attributes")
    (path / "list_eval_partition.txt").write_text("000001.jpg 3\n")
    with pytest.raises(TrainingError, match=r"line 1: 3 is none of 0 \.\.\. 2"):
        open_examples(path, task="attributes")
    (path / "list_attr_celeba.txt").write_text("1\nBald Smiling\n000001.jpg 1\n")
    with pytest.raises(TrainingError, match=r"list_eval_partition|1 values for 2 columns"):
        open_examples(path, task="attributes")


# ---------------------------------------------------------------- expressions


def test_fer2013(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(256, size=(4, 48, 48), dtype=np.uint8)
    usages = ["Training", "Training", "PublicTest", "PrivateTest"]
    rows = [
        f"{label},{' '.join(map(str, picture.ravel()))},{usage}"
        for label, picture, usage in zip([0, 6, 3, 3], pixels, usages, strict=True)
    ]
    (tmp_path / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]))
    examples = open_examples(_recognised(tmp_path, "fer2013"))
    assert [examples.names[label] for label in examples.targets] == ["anger", "neutral", *["happiness"] * 2]
    assert counts(examples) == [2, 1, 1]
    decoded = decode(examples, torch.arange(4), 48)
    assert torch.equal(decoded, torch.from_numpy(pixels)[:, None].expand(4, 3, 48, 48))
    assert torch.equal(open_examples(tmp_path / "fer2013.csv").targets, examples.targets)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0,1 2 3,Training", "line 2: not 48 x 48 pixels"),
        (f"0,{'256 ' * 48 * 48},Training", "line 2: not 48 x 48 pixels"),
        (f"0,{'0 ' * 48 * 48},Train", "line 2: Usage 'Train' is none of"),
        (f"7,{'0 ' * 48 * 48},Training", "line 2: 7 is none of 0 ... 6"),
    ],
)
def test_fer2013_damaged(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "fer2013.csv").write_text(f"emotion,pixels,Usage\n{row}\n")
    with pytest.raises(TrainingError, match=message):
        open_examples(tmp_path)


def test_raf_db(tmp_path: Path) -> None:
    parts = ["train_00001", "train_00002", "train_00003", "test_0001"]
    for part in parts:
        write_picture(tmp_path / "basic" / "Image" / "aligned" / f"{part}_aligned.jpg")
    (tmp_path / "basic" / "EmoLabel").mkdir()
    table = tmp_path / "basic" / "EmoLabel" / "list_patition_label.txt"
    table.write_text(
        "\n".join(f"{part}.jpg {label}" for part, label in zip(parts, (5, 1, 1, 7), strict=True))
    )
    for path in (tmp_path, tmp_path / "basic"):
        examples = open_examples(_recognised(path, "raf-db"))
        assert [examples.names[label] for label in examples.targets] == [
            "sadness",
            *["surprise"] * 2,
            "neutral",
        ]
        assert counts(examples) == [2, 1, 1]
        assert examples.split[3] == TEST
        assert all(picture.path.is_file() for picture in examples.pictures)
    table.write_text("val_00001.jpg 5\n")
    with pytest.raises(TrainingError, match=r"line 1: expected train_NNNNN\.jpg"):
        open_examples(tmp_path)


def _ckplus(folder: Path) -> Path:
    for person in range(10):
        for number, label in enumerate((1, 7, None), start=1):
            sequence = Path(f"S{person:03d}") / f"{number:03d}"
            stems = [f"S{person:03d}_{number:03d}_{frame:08d}" for frame in range(1, 6)]
            for stem in stems:
                write_picture(folder / "cohn-kanade-images" / sequence / f"{stem}.png", (64, 48))
            (folder / "Emotion" / sequence).mkdir(parents=True)
            if label:
                (folder / "Emotion" / sequence / f"{stems[-1]}_emotion.txt").write_text(f"   {label:.7e}\n")
    return folder


def test_ck_plus_takes_the_peaks_and_keeps_people_apart(tmp_path: Path) -> None:
    path = _recognised(_ckplus(tmp_path), "ck+")
    examples = open_examples(path)
    assert len(examples) == 10 * 2 * 3
    assert {name[-6:-4] for name in names(examples)} == {"03", "04", "05"}
    assert [examples.names[label] for label in examples.targets[:6]] == ["anger"] * 3 + ["surprise"] * 3
    assert counts(examples) == [42, 6, 12]
    people = [{examples.pictures[row].path.name[:4] for row in examples.rows(part)} for part in range(3)]
    assert len(people[0] | people[1] | people[2]) == sum(map(len, people))
    assert examples.pictures[0].box is None
    points = path / "Landmarks" / "S000" / "001" / "S000_001_00000003_landmarks.txt"
    points.parent.mkdir(parents=True)
    points.write_text("   1.0000000e+01   2.0000000e+01\n   3.0000000e+01   4.0000000e+01\n")
    assert open_examples(path).pictures[0].box == (8, 18, 33, 43)
    (path / "Emotion" / "S000" / "001" / "S000_001_00000005_emotion.txt").write_text("8.0\n")
    with pytest.raises(TrainingError, match=r"8\.0 is none of 1 \.\.\. 7"):
        open_examples(path)


# ---------------------------------------------------------------- AffectNet


def _affectnet_tables(folder: Path) -> Path:
    face = "face_x,face_y,face_width,face_height,facial_landmarks"
    head = f"subDirectory_filePath,{face},expression,valence,arousal"
    rows = [
        "1/a.jpg,10,20,40,30,1.0;2.0,1,0.8,0.1",
        "1/b.jpg,10,20,40,30,1.0;2.0,8,-0.2,0.3",
        "1/c.jpg,10,20,40,30,1.0;2.0,9,-2,-2",
        "2/d.jpg,NULL,NULL,NULL,NULL,NULL,10,-2,-2",
        "2/e.jpg,10,20,40,30,1.0;2.0,7,-0.5,0.6",
        "2/f.jpg,10,20,40,30,1.0;2.0,7,-0.5,0.6",
    ]
    (folder / "Manually_Annotated_file_lists").mkdir()
    lists = folder / "Manually_Annotated_file_lists"
    (lists / "training.csv").write_text("\n".join([head, *rows]))
    (lists / "validation.csv").write_text("\n".join([head, "3/z.jpg,0,0,5,5,1.0;2.0,0,0,0"]))
    (folder / "Manually_Annotated_Images").mkdir()
    return folder


def test_affectnet_as_tables(tmp_path: Path) -> None:
    path = _recognised(_affectnet_tables(tmp_path), "affectnet")
    with pytest.raises(TrainingError, match=f"as TASK={path}: classes, affect"):
        open_examples(path)
    classes = open_examples(path, task="classes")
    assert [
        (name, classes.names[label]) for name, label in zip(names(classes), classes.targets, strict=True)
    ] == [
        ("a.jpg", "happiness"),
        ("e.jpg", "contempt"),
        ("f.jpg", "contempt"),
        ("z.jpg", "neutral"),
    ]
    assert classes.pictures[0].box == (10, 15, 50, 55)
    affect = open_examples(path, task="affect")
    assert names(affect) == ["a.jpg", "b.jpg", "e.jpg", "f.jpg", "z.jpg"]
    np.testing.assert_allclose(affect.targets[:2], [[0.8, 0.1], [-0.2, 0.3]], rtol=1e-6)
    assert affect.split[-1] == TEST
    assert (affect.split == TEST).sum() == 1


def _affectnet_arrays(folder: Path) -> Path:
    """Texts and numbers, as both are found."""
    for part, count in (("train_set", 5), ("val_set", 2)):
        (folder / part / "annotations").mkdir(parents=True)
        for number in range(count):
            write_picture(folder / part / "images" / f"{number}.jpg")
            beside = folder / part / "annotations"
            np.save(beside / f"{number}_exp.npy", np.array(str(number)))
            np.save(beside / f"{number}_val.npy", np.array("-0.17") if number % 2 else np.float64(-0.17))
            np.save(
                beside / f"{number}_aro.npy", np.array("-2") if number == 3 else np.array([0.5], np.float32)
            )
    return folder


def test_affectnet_as_arrays(tmp_path: Path) -> None:
    path = _recognised(_affectnet_arrays(tmp_path), "affectnet")
    classes = open_examples(path, task="classes")
    assert classes.targets.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert counts(classes)[2] == 2
    affect = open_examples(path, task="affect")
    assert names(affect) == ["0.jpg", "1.jpg", "2.jpg", "4.jpg", "0.jpg", "1.jpg"]
    np.testing.assert_allclose(affect.targets, [[-0.17, 0.5]] * 6, rtol=1e-6)


def test_affectnet_arrays_that_claim_or_carry_more_are_refused(tmp_path: Path) -> None:
    path = _affectnet_arrays(tmp_path)
    file = path / "train_set" / "annotations" / "0_exp.npy"
    whole = file.read_bytes()
    np.save(file, np.array({"a": 1}, dtype=object), allow_pickle=True)
    with pytest.raises(TrainingError, match=r"0_exp\.npy: holds no label \(.*not one number"):
        open_examples(path, task="classes")
    np.save(file, np.zeros(3))
    file.write_bytes(file.read_bytes().replace(b"(3,)", b"(9,)"))
    with pytest.raises(TrainingError, match="not one number"):
        open_examples(path, task="classes")
    for damaged in (whole[:20], whole[:-4], b""):
        file.write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"0_exp\.npy: holds no label"):
            open_examples(path, task="classes")
    file.unlink()
    with pytest.raises(TrainingError, match=r"0_exp\.npy: holds no label"):
        open_examples(path, task="classes")


# ---------------------------------------------------------------- UTKFace


def test_utkface(tmp_path: Path) -> None:
    for number in range(20):
        write_picture(
            tmp_path / f"{20 + number}_{number % 2}_{number % 5}_20170116184024{number:03d}.jpg.chip.jpg"
        )
    write_picture(tmp_path / "61_1_20170109142408075.jpg.chip.jpg")  # as three of the set are
    examples = open_examples(_recognised(tmp_path, "utkface"))
    assert (examples.task, examples.names, len(examples)) == ("attributes", ("female",), 20)
    expected = [float(name.split("_")[1]) for name in names(examples)]
    assert examples.targets[:, 0].tolist() == expected
    assert examples.targets[examples.split == TEST].sum() == 2
    assert (examples.split == TEST).sum() == 4


def test_utkface_renumbered(tmp_path: Path) -> None:
    for number in range(20):
        write_picture(tmp_path / f"{number:05d}_{number}_1_{number % 5}.png")
    assert open_examples(_recognised(tmp_path, "utkface")).targets.sum() == 20


# ---------------------------------------------------------------- DISFA

_UNITS = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)


def _disfa(folder: Path, people: tuple[str, ...] = ("SN001", "SN002", "SN003", "SN006")) -> Path:
    for person in people:
        labels = folder / "ActionUnit_Labels" / person
        labels.mkdir(parents=True)
        for place, unit in enumerate(_UNITS):
            lines = [f"{frame},{(frame + place) % 6}" for frame in range(1, 8)]
            (labels / f"{person}_au{unit}.txt").write_text("\n".join(lines))
    return folder


def test_disfa_says_how_frames_are_extracted(tmp_path: Path) -> None:
    path = _recognised(_disfa(tmp_path), "disfa")
    with pytest.raises(TrainingError, match=r"SN001: no such folder; .*ffmpeg -i .*LeftVideoSN001_comp\.avi"):
        open_examples(path)


def test_disfa(tmp_path: Path) -> None:
    path = _disfa(tmp_path)
    for person in ("SN001", "SN002", "SN003", "SN006"):
        for frame in (1, 2, 7, 8):
            write_picture(path / "Frames_LeftCamera" / person / f"{frame:05d}.jpg")
    examples = open_examples(path)
    assert examples.names == tuple(f"AU{unit}" for unit in _UNITS)
    assert names(examples)[:3] == ["00001.jpg", "00002.jpg", "00007.jpg"]
    assert examples.targets[0].tolist() == [(1 + place) % 6 for place in range(12)]
    assert examples.targets[2].tolist() == [(7 + place) % 6 for place in range(12)]
    assert _people(examples, TEST) == {"SN003"}
    assert len(_people(examples, VALIDATION)) == 1
    (path / "ActionUnit_Labels" / "SN001" / "SN001_au1.txt").write_text("1;2\n")
    with pytest.raises(TrainingError, match=r"SN001_au1\.txt, line 1: expected frame,intensity"):
        open_examples(path)


def _people(examples: Examples, part: int) -> set[str]:
    return {examples.pictures[row].path.parent.name for row in examples.rows(part)}
