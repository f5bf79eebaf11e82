"""The heads of points: heatmaps, and a model of shape and pose."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import entropy
from torch import Tensor

from facekit.errors import TrainingError
from facekit.train.probe.tasks.heatmaps import expected_points, heatmap_loss
from facekit.train.probe.tasks.shape import POSE, fit_shape, levelled, place

# ---------------------------------------------------------------- heatmaps


def test_a_peak_is_where_it_is() -> None:
    logits = torch.zeros(1, 2, 4, 8)
    logits[0, 0, 1, 6] = 200.0
    points = expected_points(logits)
    torch.testing.assert_close(points[0, 0], torch.tensor([6.5 / 8, 1.5 / 4]))
    torch.testing.assert_close(points[0, 1], torch.tensor([0.5, 0.5]))  # anywhere, so in the middle
    assert expected_points(logits.bfloat16()).dtype == torch.float32


def test_loss_against_a_loop() -> None:
    torch.manual_seed(0)
    height, width = 6, 5
    logits, targets = torch.randn(2, 3, height, width), torch.rand(2, 3, 2)
    targets[1, 2, 0] = torch.nan
    total = 0.0
    for n in range(2):
        for p in range(3):
            x, y = targets[n, p].tolist()
            if math.isnan(x):
                continue
            chance = logits[n, p].double().flatten().softmax(0)
            wanted, mean_x, mean_y = [], 0.0, 0.0
            for i in range(height):
                for j in range(width):
                    off_x, off_y = (j + 0.5) - x * width, (i + 0.5) - y * height
                    wanted.append(math.exp(-(off_x**2 + off_y**2) / 2))
                    mean_x += float(chance[i * width + j]) * (j + 0.5) / width
                    mean_y += float(chance[i * width + j]) * (i + 0.5) / height
            total += 5 * (abs(mean_x - x) + abs(mean_y - y))
            total += entropy(wanted, chance.numpy())  # relative, in nats; it brings its arguments to sum 1
    assert float(heatmap_loss(logits, targets)) == pytest.approx(total / 6, rel=1e-5)


def test_loss_is_lowest_at_the_gaussian() -> None:
    target = torch.tensor([[[0.4, 0.6]]])
    x, y = (torch.arange(16) + 0.5) / 16, (torch.arange(16) + 0.5) / 16
    squares = ((x[None] - 0.4) * 16) ** 2 + ((y[:, None] - 0.6) * 16) ** 2
    logits = (-squares / 2)[None, None]
    assert float(heatmap_loss(logits, target)) == pytest.approx(0, abs=1e-3)
    assert float(heatmap_loss(logits.roll(2, -1), target)) > 0.5


# ---------------------------------------------------------------- shape and pose


def rotations(n: int, most: float) -> Tensor:
    """(n, 3, 3) float64, of angles up to ``most`` radians about random axes."""
    axis = torch.nn.functional.normalize(torch.randn(n, 3, dtype=torch.float64), dim=1)
    angle = most * torch.rand(n, dtype=torch.float64)
    x, y, z = axis.unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(n, 3, 3)
    return torch.matrix_exp(angle[:, None, None] * cross)


def planted(n: int, components: int, *, most: float = 1.0) -> tuple[Tensor, Tensor]:
    """Faces (n, 12, 3) of a linear model, turned, of other sizes and places; and its mean."""
    mean, basis = torch.randn(12, 3).double(), 0.1 * torch.randn(components, 12, 3).double()
    mean = mean - mean.mean(0)
    basis = basis - basis.mean(1, keepdim=True)
    shapes = mean + torch.einsum("nk,kpd->npd", torch.randn(n, components).double(), basis)
    size = (0.2 * torch.randn(n, 1, 1).double()).exp()
    return size * shapes @ rotations(n, most).mT + torch.randn(n, 1, 3).double(), mean


def test_one_shape_in_any_pose_is_found() -> None:
    torch.manual_seed(0)
    points, mean = planted(30, 0, most=2.5)
    model = fit_shape(points.float())
    unit = mean / mean.square().mean().sqrt()
    distances = torch.cdist(model.mean.double(), model.mean.double())
    torch.testing.assert_close(distances, torch.cdist(unit, unit), atol=1e-4, rtol=1e-4)
    volume = torch.linalg.det(model.mean[:3].double())  # no mirror image
    assert volume == pytest.approx(float(torch.linalg.det(unit[:3])), rel=1e-3)
    assert float(model.basis.abs().max()) < 1e-4


def test_nothing_is_the_mean_face_as_faces_are_on_average() -> None:
    torch.manual_seed(0)
    points, _ = planted(200, 2, most=0.3)
    model = fit_shape(points.float())
    face = place(torch.zeros(1, len(model.basis) + POSE), model)[0].double()
    average = points.mean(0)
    torch.testing.assert_close(face[:, :2].mean(0), average[:, :2].mean(0), atol=1e-4, rtol=0)
    shape = average - average.mean(0)
    likeness = (shape * face_centred(face)).sum() / (shape.norm() * face_centred(face).norm())
    assert likeness > 0.995


def face_centred(face: Tensor) -> Tensor:
    return face - face.mean(0)


def test_parameters_reach_every_face_of_the_model() -> None:
    torch.manual_seed(0)
    points, _ = planted(40, 3)
    model = fit_shape(points.float())
    # turning and growing bend what is left of a shape a little: a few more components than were planted
    spread = model.basis.flatten(1).norm(dim=1)
    assert float(spread[6:].max()) < 0.05 * float(spread[0])
    wanted = points[:8].float()
    parameters = torch.zeros(8, len(model.basis) + POSE, requires_grad=True)
    everywhere = torch.ones(wanted.shape[:2], dtype=torch.bool)
    optimizer = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        off = levelled(place(parameters, model), everywhere) - levelled(wanted, everywhere)
        loss = off.square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert closure().item() < 1e-3 * float(wanted.var())


def test_poses_are_rotations() -> None:
    torch.manual_seed(0)
    points, _ = planted(20, 0)
    model = fit_shape(points.float())
    parameters = torch.randn(50, len(model.basis) + POSE)
    parameters[:, : len(model.basis)] = 0
    posed = face_by_face(place(parameters, model))
    size = posed.square().mean((1, 2), keepdim=True).sqrt()
    expected = torch.cdist(model.mean, model.mean).expand(50, -1, -1)
    torch.testing.assert_close(torch.cdist(posed / size, posed / size), expected, atol=1e-3, rtol=1e-3)
    volumes = torch.linalg.det((posed / size)[:, :3])
    torch.testing.assert_close(volumes, torch.linalg.det(model.mean[:3]).expand(50), atol=1e-3, rtol=1e-3)


def face_by_face(points: Tensor) -> Tensor:
    return points - points.mean(1, keepdim=True)


def test_faces_with_gaps_are_left_out_of_the_fit() -> None:
    torch.manual_seed(0)
    points, _ = planted(12, 2)
    gaps = torch.cat([points.float(), torch.full((3, 12, 3), torch.nan)])
    gaps[12:, 1:] = 7.0
    torch.testing.assert_close(fit_shape(gaps).mean, fit_shape(points.float()).mean)
    assert len(fit_shape(points.float()).basis) == 11
    with pytest.raises(TrainingError, match="1 faces with all points"):
        fit_shape(gaps[11:])


def test_levelled_uses_the_known() -> None:
    points = torch.tensor([[[0.0, 0, 1], [0, 0, 3], [0, 0, 50]], [[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]])
    known = torch.tensor([[True, True, False], [False, False, False]])
    level = levelled(points, known)
    assert level[0, :, 2].tolist() == [-1, 1, 48]
    assert torch.equal(level[1], points[1])
