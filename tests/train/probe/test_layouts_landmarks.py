"""300-W, WFLW and COFW, written as their authors hand them on; a white dot lies under every point."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from layout_sets import brightness_at_points, counts, dotted, in_pixels, names, write_picture
from numpy.typing import NDArray

from facekit.errors import FacekitError, ImageError, MissingExtraError, TrainingError
from facekit.train.probe.examples import TEST, decode
from facekit.train.probe.layouts import open_examples
from facekit.train.probe.layouts.open import _layout


def _face(count: int, seed: int, low: float = 40, high: float = 90) -> NDArray[np.float64]:
    """Middles of pixels, as the sets count them from 0."""
    return np.random.default_rng(seed).integers(low, high, size=(count, 2)).astype(float)


# ---------------------------------------------------------------- 300-W

_PARTS = {
    "afw": "jpg",
    "lfpw/trainset": "png",
    "lfpw/testset": "png",
    "helen/trainset": "jpg",
    "helen/testset": "jpg",
    "ibug": "jpg",
}


def _threehundred(folder: Path) -> Path:
    for seed, (part, suffix) in enumerate(_PARTS.items()):
        for number in range(5):
            points = _face(68, seed * 10 + number)
            picture = write_picture(folder / part / f"image_{number}.{suffix}", (120, 110), points + 0.5)
            lines = [f"{x + 1:.6f} {y + 1:.6f}" for x, y in points]
            text = "\n".join(["version: 1", "n_points:  68", "{", *lines, "}", ""])
            picture.with_suffix(".pts").write_text(text)
            if part == "afw":
                picture.with_name(f"image_{number}_mirror.pts").write_text("left by another tool")
    return folder


def test_300w(tmp_path: Path) -> None:
    path = _threehundred(tmp_path)
    assert _layout(path, "auto").name == "300w"
    full = open_examples(path)
    assert (full.name, full.task, full.interocular, len(full.mirror)) == ("300-W", "landmarks", (36, 45), 68)
    assert counts(full) == [13, 2, 15]
    assert (brightness_at_points(full, 256) > 150).all()
    assert full.pictures[15].path.parts[-2:] == ("testset", "image_0.png")
    np.testing.assert_allclose(in_pixels(full, 15), _face(68, 20) + 0.5, atol=1e-3)
    common = open_examples(path, layout="300w-common")
    challenging = open_examples(path, layout="300w-challenging", name="hard")
    assert (common.name, challenging.name) == ("300-W common", "hard")
    assert counts(common)[2] == 10
    assert {picture.path.parent.name for picture in _tested(challenging)} == {"ibug"}
    assert {picture.path.parts[-2] for picture in _tested(common)} == {"testset"}
    assert challenging.rows(0).tolist() == full.rows(0).tolist()


def _tested(examples):
    return [examples.pictures[row] for row in examples.rows(TEST)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\n1 2\n", r"image_0\.pts: holds no points in braces"),
        ("{\n1 2\n}\n", r"image_0\.pts: expected x and y of 68 points"),
        ("{\n" + "1 x\n" * 68 + "}\n", r"image_0\.pts, line 2: a number is expected"),
        ("{\n" + "1 2\n" * 68 + "}\n", r"image_0\.pts: a face from .* has no size"),
    ],
)
def test_300w_damaged(tmp_path: Path, text: str, message: str) -> None:
    path = _threehundred(tmp_path)
    (path / "afw" / "image_0.pts").write_text(text)
    with pytest.raises(TrainingError, match=message):
        open_examples(path)


def test_300w_incomplete(tmp_path: Path) -> None:
    path = _threehundred(tmp_path)
    (path / "afw" / "image_0.jpg").unlink()
    with pytest.raises(TrainingError, match="no picture of this name beside it"):
        open_examples(path)
    for file in (path / "afw").iterdir():
        file.unlink()
    with pytest.raises(TrainingError, match=r"afw: holds no \.pts files"):
        open_examples(path)


# ---------------------------------------------------------------- WFLW


def _wflw(folder: Path) -> Path:
    lists = folder / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    lists.mkdir(parents=True)
    for part, seeds in (("train", range(10)), ("test", range(20, 24))):
        lines = []
        for seed in seeds:
            points = _face(98, seed)
            name = f"0--Parade/0_Parade_{seed}.png"
            write_picture(folder / "WFLW_images" / name, (140, 120), points + 0.5)
            rectangle = [40, 40, 90, 90]
            cells = [*points.ravel(), *rectangle, 0, 0, 1, 0, 0, 0, name]
            lines.append(" ".join(map(str, cells)))
        (lists / f"list_98pt_rect_attr_{part}.txt").write_text("\n".join(lines))
    return folder


def test_wflw(tmp_path: Path) -> None:
    path = _wflw(tmp_path)
    assert _layout(path, "auto").name == "wflw"
    examples = open_examples(path)
    assert (examples.name, examples.interocular, len(examples.mirror)) == ("WFLW", (60, 72), 98)
    assert counts(examples) == [9, 1, 4]
    assert examples.pictures[0].box == (34, 34, 96, 96)
    np.testing.assert_allclose(in_pixels(examples, 0), _face(98, 0) + 0.5, atol=1e-3)
    assert (brightness_at_points(examples, 248) > 150).all()


def test_wflw_damaged(tmp_path: Path) -> None:
    path = _wflw(tmp_path)
    table = path / "WFLW_annotations" / "list_98pt_rect_attr_train_test" / "list_98pt_rect_attr_test.txt"
    whole = table.read_text()
    table.write_text(whole.replace("0--Parade/0_Parade_20.png", "../../secret.png"))
    with pytest.raises(TrainingError, match=r"line 1: '\.\./\.\./secret\.png' leads out of"):
        open_examples(path)
    table.write_text(whole + "\n1 2 3\n")
    with pytest.raises(TrainingError, match="line 5: 3 columns, not 207"):
        open_examples(path)
    table.unlink()
    with pytest.raises(TrainingError, match="needs WFLW_annotations/ and WFLW_images/"):
        open_examples(path)


# ---------------------------------------------------------------- COFW


def _cofw(folder: Path) -> Path:
    """MATLAB's axes are reversed in HDF5: (3, width, height), and (width, height) for a grey picture."""
    h5py = pytest.importorskip("h5py")
    for name, ending, count in (("COFW_train_color.mat", "Tr", 12), ("COFW_test_color.mat", "T", 3)):
        with h5py.File(folder / name, "w") as file:
            faces = [_face(29, seed + len(ending) * 100) for seed in range(count)]
            references = []
            for number, points in enumerate(faces):
                pixels = dotted((130, 110), points + 0.5)
                stored = pixels[..., 0].T if number == 0 else pixels.transpose(2, 1, 0)
                references.append(file.create_dataset(f"#refs#/{number}", data=stored).ref)
            table = np.array(references, dtype=h5py.ref_dtype)[None]
            file.create_dataset(f"Is{ending}", data=table, dtype=h5py.ref_dtype)
            columns = [np.concatenate([points[:, 0] + 1, points[:, 1] + 1, np.zeros(29)]) for points in faces]
            file.create_dataset(f"phis{ending}", data=np.stack(columns, axis=1))
    return folder


def test_cofw(tmp_path: Path) -> None:
    path = _cofw(tmp_path)
    assert _layout(path, "auto").name == "cofw"
    examples = open_examples(path)
    assert (examples.name, examples.interocular, len(examples.mirror)) == ("COFW", (8, 9), 29)
    assert counts(examples) == [11, 1, 3]
    assert names(examples)[0] == "COFW_train_color.mat"
    np.testing.assert_allclose(in_pixels(examples, 1), _face(29, 201) + 0.5, atol=1e-3)
    assert (brightness_at_points(examples, 256) > 150).all()


def test_cofw_damaged(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = _cofw(tmp_path)
    test = path / "COFW_test_color.mat"
    with h5py.File(test, "r+") as file:
        file["IsT"][0, 1] = h5py.Reference()
    with pytest.raises(ImageError, match=r"COFW_test_color\.mat, picture 1: cannot be read"):
        decode(open_examples(path), torch.tensor([13]), 32)
    with h5py.File(test, "r+") as file:
        del file["phisT"]
        file.create_dataset("phisT", shape=(87, 1 << 40), dtype="f8", chunks=(87, 1024))
    _refused(path, "phisT is no table of this file, or larger than")
    with h5py.File(test, "r+") as file:
        del file["phisT"]
        file["phisT"] = h5py.ExternalLink(str(path / "COFW_train_color.mat"), "phisTr")
    _refused(path, "phisT is missing, or in another file")
    with h5py.File(test, "r+") as file:
        del file["phisT"]
        file.create_dataset("phisT", shape=(87, 3), dtype="f8", external=[(tmp_path / "x", 0, 87 * 24)])
    _refused(path, "phisT is no table of this file")
    with h5py.File(test, "r+") as file:
        del file["phisT"]
        file.create_dataset("phisT", data=np.zeros((87, 2)))
    _refused(path, r"phisT is \(87, 2\) for 3 pictures")
    test.write_bytes(b"MATLAB 5.0 MAT-file")
    _refused(path, "not COFW's file")
    test.unlink()
    _refused(path, "holds no COFW_test_color.mat")


def _refused(path: Path, message: str) -> None:
    with pytest.raises(FacekitError, match=message):
        open_examples(path)


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _cofw(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"color\.mat needs h5py: pip install .*\[train\]"):
        open_examples(path)
