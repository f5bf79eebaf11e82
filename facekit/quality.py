"""How usable a face is, measured from its crop, its size, its landmarks and the detector's confidence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["FaceQuality", "face_quality"]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_BINOMIAL = torch.tensor([1.0, 2.0, 1.0]) / 4
_LAPLACIAN = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
# The face inside a crop that is aligned to the ArcFace template, as shares of its side: brows to chin.
_TOP, _BOTTOM, _LEFT, _RIGHT = 0.25, 0.96, 0.18, 0.82
_TYPICAL_EDGES = 0.01  # half-way mark of sharpness; photographs have 0.04, with a blur of 2 pixels 0.005
_HALF_SIZE = 64.0  # pixels at which size counts one half


@dataclass(frozen=True, slots=True, eq=False)
class FaceQuality:
    """The four parts of a face's quality, each (n,) float32 in [0, 1] on the CPU or the crops' device.

    Attributes:
        sharpness: ``v / (v + 0.01)``, where ``v`` is the variance of the Laplacian of the smoothed luma
            inside the face, divided by the variance of the luma; smoothing keeps noise from passing for
            detail, the division makes it independent of brightness and contrast.
        size: ``1 - 2 ** (-size / 64)`` of the face's size in pixels before alignment.
        pose: ``cos(pi / 2 * yaw) * cos(pi / 2 * pitch)``, where ``yaw`` in [0, 1] says how far the nose
            stands off the middle between the two sides of the face, and ``pitch`` how far off the middle
            between eyes and mouth: 0 where it is in the middle, 1 where it reaches the edge.
            Both are measured along the axes of the face, so that a tilted head costs nothing.
        confidence: the detector's.
    """

    sharpness: Tensor
    size: Tensor
    pose: Tensor
    confidence: Tensor

    @property
    def score(self) -> Tensor:
        """(n,) float32 in [0, 1]: the geometric mean of the parts, so that one bad part tells."""
        return (self.sharpness * self.size * self.pose * self.confidence) ** 0.25


def face_quality(crops: Tensor, landmarks: Tensor, confidences: Tensor, sizes: Tensor) -> FaceQuality:
    """Measures n faces.

    Args:
        crops: (n, 3, s, s) uint8, RGB, aligned to the ArcFace template.
        landmarks: (n, 5, 2), pixels of the picture or of the crop: eyes, nose, mouth corners.
        confidences: (n,) in [0, 1].
        sizes: (n,) size of the face before alignment, in pixels.
    """
    device = crops.device
    return FaceQuality(
        sharpness=_sharpness(crops),
        size=1 - torch.exp2(-sizes.to(device, torch.float32) / _HALF_SIZE),
        pose=_frontality(landmarks.to(device, torch.float32)),
        confidence=confidences.to(device, torch.float32).clamp(0, 1),
    )


def _sharpness(crops: Tensor) -> Tensor:
    side = crops.shape[-1]
    face = crops[..., int(_TOP * side) : int(_BOTTOM * side), int(_LEFT * side) : int(_RIGHT * side)].float()
    luma = (face * torch.tensor(_LUMA, device=face.device).view(3, 1, 1)).sum(1, keepdim=True)
    smooth = torch.outer(_BINOMIAL, _BINOMIAL).to(face.device).view(1, 1, 3, 3)
    laplacian = _LAPLACIAN.to(face.device).view(1, 1, 3, 3)
    edges = F.conv2d(F.conv2d(luma, smooth), laplacian)
    # + 1: a flat crop has no detail, whatever rounding leaves of it
    share = _variance(edges) / (_variance(luma) + 1)
    return share / (share + _TYPICAL_EDGES)


def _variance(values: Tensor) -> Tensor:
    return (values - values.mean((1, 2, 3), keepdim=True)).square().mean((1, 2, 3))


def _frontality(landmarks: Tensor) -> Tensor:
    left = (landmarks[:, 0] + landmarks[:, 3]) / 2
    right = (landmarks[:, 1] + landmarks[:, 4]) / 2
    eyes = (landmarks[:, 0] + landmarks[:, 1]) / 2
    mouth = (landmarks[:, 3] + landmarks[:, 4]) / 2
    nose = landmarks[:, 2]
    return _centred(nose, left, right) * _centred(nose, eyes, mouth)


def _centred(point: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """1 where ``point``, seen along start -> end, is half-way; 0 at either end and beyond."""
    axis = end - start
    position = ((point - start) * axis).sum(1) / (axis * axis).sum(1).clamp(min=1e-6)
    offset = (2 * position - 1).abs().clamp(max=1)
    return torch.cos(torch.pi / 2 * offset).clamp(min=0)
