"""Depth: heads that are known, photographed in known poses, and found again; AFLW2000-3D and 300W-LP."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from layout_sets import brightness_at_points, counts, in_pixels, write_picture
from numpy.typing import NDArray

from facekit.errors import MissingExtraError, TrainingError
from facekit.train.probe.examples import TEST
from facekit.train.probe.layouts import open_examples
from facekit.train.probe.layouts.depth import points_in_depth, rotation
from facekit.train.probe.layouts.open import _layout

scipy_io = pytest.importorskip("scipy.io")


def test_rotation_is_that_of_scipy() -> None:
    from scipy.spatial.transform import Rotation

    angles = (0.3, -0.7, 0.2)
    expected = Rotation.from_euler("XYZ", [-angle for angle in angles]).as_matrix()
    np.testing.assert_allclose(rotation(*angles), expected, atol=1e-12)


def _head(seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0, [1, 1.3, 0.8], (68, 3))


def _shown(head: NDArray, pose: NDArray, height: int) -> NDArray[np.float64]:
    """(68, 3): as 3DDFA puts a head into a picture, x and y in pixels from 1; z towards the camera."""
    placed = pose[6] * head @ rotation(*pose[:3]).T + pose[3:6]
    placed[:, 1] = height + 1 - placed[:, 1]
    return placed


def _poses(seed: int, yaws: tuple[float, ...]) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    angles = np.stack(
        [generator.uniform(-0.2, 0.2, len(yaws)), yaws, generator.uniform(-0.1, 0.1, len(yaws))], 1
    )
    shifts = np.column_stack([generator.uniform(60, 70, (len(yaws), 2)), np.full(len(yaws), -40)])
    return np.column_stack([angles, shifts, generator.uniform(9, 11, len(yaws))])


def _depth(points: NDArray, poses: NDArray) -> NDArray | None:
    return points_in_depth(points[..., :2], np.array([rotation(*pose[:3]) for pose in poses]), poses[:, 6])


def test_depth_is_found_again() -> None:
    head, poses = _head(0), _poses(1, (0.1, 0.5, 1.0))
    points = np.array([_shown(head, pose, 120) for pose in poses])
    found = _depth(points, poses)
    assert found is not None
    np.testing.assert_allclose(found[..., :2], points[..., :2])
    np.testing.assert_allclose(
        found[..., 2], points[..., 2] - points[..., 2].mean(axis=1, keepdims=True), atol=1e-6
    )


def test_depth_survives_noise() -> None:
    head, poses = _head(0), _poses(1, (0.1, 0.5, 1.0))
    points = np.array([_shown(head, pose, 120) for pose in poses])
    noisy = points + np.random.default_rng(2).normal(0, 0.2, points.shape)
    found = _depth(noisy, poses)
    assert found is not None
    error = found[..., 2] - (points[..., 2] - points[..., 2].mean(axis=1, keepdims=True))
    assert np.sqrt((error**2).mean()) < 0.5  # of 60 pixels


def test_no_depth_from_one_pose_or_from_points_of_another_head() -> None:
    head, poses = _head(0), _poses(1, (0.1, 0.5, 1.0))
    points = np.array([_shown(head, pose, 120) for pose in poses])
    assert _depth(points[:1], poses[:1]) is None
    assert _depth(points[[0, 0, 0]], poses[[0, 0, 0]]) is None
    assert _depth(points, poses * [1, -1, 1, 1, 1, 1, 1]) is None
    other = points.copy()
    other[1] = _shown(_head(5), poses[1], 120)
    assert _depth(other, poses) is None


# ---------------------------------------------------------------- the sets


def _save(folder: Path, stem: str, points: NDArray, pose: NDArray, *, real: bool) -> None:
    write_picture(folder / f"{stem}.jpg", (130, 130), points[:, :2] - 0.5)
    content = {"Pose_Para": pose[None], "pt2d": np.zeros((2, 21))}
    scipy_io.savemat(folder / f"{stem}.mat", content | ({"pt3d_68": points.T} if real else {}))


def _synthetic(folder: Path, heads: int = 6) -> Path:
    for name in ("AFW", "HELEN"):
        (folder / "landmarks" / name).mkdir(parents=True)
        for head in range(heads):
            poses = _poses(head, (0.0, 0.4, 0.8, 1.2))
            for number, pose in enumerate(poses):
                points = _shown(_head(head), pose, 130)
                stem = f"{name}_{head}_1_{number}"
                _save(folder / name, stem, points, pose, real=False)
                landmarks = {"pts_2d": points[:, :2] * 0, "pts_3d": points[:, :2]}
                scipy_io.savemat(folder / "landmarks" / name / f"{stem}_pts.mat", landmarks)
    _save(folder / "AFW_Flip", "AFW_0_1_0", points, pose, real=False)
    return folder


def _real(folder: Path, count: int = 10) -> Path:
    for number in range(count):
        pose = _poses(number + 50, (0.3,))[0]
        _save(folder, f"image{number + 2:05d}", _shown(_head(number), pose, 130), pose, real=True)
    return folder


def test_300w_lp_and_aflw2000(tmp_path: Path) -> None:
    _synthetic(tmp_path / "300W_LP")
    _real(tmp_path / "AFLW2000", 3)
    assert _layout(tmp_path, "auto").name == "300w-lp"
    examples = open_examples(tmp_path)
    assert (examples.name, examples.task, examples.targets.shape) == (
        "AFLW2000-3D",
        "reconstruction",
        (51, 68, 3),
    )
    assert (examples.interocular, examples.mirror[:2]) == ((36, 45), (16, 15))
    assert counts(examples) == [40, 8, 3]
    assert (brightness_at_points(examples, 256) > 140).all()
    left, _, right, _ = examples.pictures[5].box
    points = _shown(_head(1), _poses(1, (0.0, 0.4, 0.8, 1.2))[1], 130)
    depth = (points[:, 2] - points[:, 2].mean()) / (right - left)
    np.testing.assert_allclose(examples.targets[5, :, 2], depth, atol=1e-4)
    np.testing.assert_allclose(in_pixels(examples, 5), points[:, :2] - 0.5, atol=1e-3)
    heads = [
        {examples.pictures[row].path.stem.rpartition("_")[0] for row in examples.rows(part)}
        for part in range(2)
    ]
    assert heads[0].isdisjoint(heads[1])


def test_either_alone(tmp_path: Path) -> None:
    synthetic = open_examples(_synthetic(tmp_path / "lp"))
    assert (synthetic.name, len(synthetic)) == ("300W-LP", 48)
    assert len(synthetic.rows(TEST)) == 12
    real = open_examples(_real(tmp_path / "aflw"))
    assert (real.name, counts(real)) == ("AFLW2000-3D", [7, 1, 2])
    assert abs(real.targets[..., 2].mean(dim=1)).max() < 1e-6
    assert real.targets[..., 2].std() > 0.1


def test_heads_without_a_second_pose_are_left_out(tmp_path: Path) -> None:
    path = _synthetic(tmp_path)
    for number in (1, 2, 3):
        (path / "AFW" / f"AFW_0_1_{number}.mat").unlink()
    assert len(open_examples(path)) == 48 - 4


def test_points_that_do_not_follow_their_poses_are_refused(tmp_path: Path) -> None:
    path = _synthetic(tmp_path, heads=2)
    for file in (path / "AFW").glob("*.mat"):
        scipy_io.savemat(file, {"Pose_Para": np.array([[0, 0.5, 0, 0, 0, 0, 1e-3 * len(file.stem)]])})
    for file in (path / "HELEN").glob("*_[12].mat"):
        scipy_io.savemat(file, {"Pose_Para": np.array([[0.1, 1.5, 0, 0, 0, 0, 1]])})
    with pytest.raises(TrainingError, match="its points are not what its poses make of one head"):
        open_examples(path)


def test_damaged_labels(tmp_path: Path) -> None:
    path = _real(tmp_path)
    file = path / "image00003.mat"
    whole = file.read_bytes()
    for damaged, message in (
        (whole[:200], "cannot be read as labels"),
        (b"", "cannot be read as labels"),
        (whole + bytes(1 << 18), r"bytes, more than 262144"),
    ):
        file.write_bytes(damaged)
        with pytest.raises(TrainingError, match=rf"image00003\.mat: .*{message}"):
            open_examples(path)
    for content, message in (
        ({"pt3d_68": np.zeros((2, 68))}, r"pt3d_68 is \(2, 68\) and should be \(3, 68\)"),
        ({"pt3d_68": np.full((3, 68), np.nan)}, "should be .* and finite"),
        ({"other": 1}, "there is no pt3d_68"),
    ):
        scipy_io.savemat(file, content)
        with pytest.raises(TrainingError, match=message):
            open_examples(path)


def test_without_scipy_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _real(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(MissingExtraError, match=r"image00002\.mat needs scipy: pip install .*\[train\]"):
        open_examples(path)
