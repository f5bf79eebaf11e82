"""Five landmarks to a crop: a similarity transform onto the ArcFace template, drawn without aliasing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ARCFACE_TEMPLATE", "align_faces", "similarity_transforms"]

ARCFACE_TEMPLATE = torch.tensor(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""(5, 2) float32: where the landmarks go in a crop of 112 x 112 pixels, whose centres are whole numbers
(Deng, Guo, Xue, Zafeiriou, "ArcFace", 2019)."""

CHUNK = {"cpu": 16, "cuda": 1024}
"""Crops drawn at a time: on a CPU what its caches hold."""


def similarity_transforms(landmarks: Tensor, *, size: int = 112) -> Tensor:
    """The rotation, scale and shift that bring landmarks nearest to the template, by least squares.

    With points as complex numbers it is the line w = a z + b, whose solution is closed (Umeyama 1991 gives
    the same where no mirroring is allowed).

    Args:
        landmarks: (n, 5, 2) float, x, y in pixels of the picture.
        size: side of the crop, to which the template is scaled.

    Returns:
        (n, 2, 3) of the landmarks' dtype: crop = matrix[:, :2] @ picture + matrix[:, 2]. Landmarks that are
        all one point give a matrix of zeros and a shift.
    """
    z = torch.view_as_complex(landmarks.double().contiguous())
    w = torch.view_as_complex(ARCFACE_TEMPLATE.to(z.device).double() * (size / 112))
    centred = z - z.mean(1, keepdim=True)
    spread = centred.abs().square().sum(1).clamp_(min=1e-12)
    a = (centred.conj() * w).sum(1) / spread
    b = w.mean() - a * z.mean(1)
    rows = torch.stack([a.real, -a.imag, b.real, a.imag, a.real, b.imag], 1)
    return rows.view(-1, 2, 3).to(landmarks.dtype)


def align_faces(
    images: Sequence[Tensor], index: Tensor | Sequence[int], landmarks: Tensor, *, size: int = 112
) -> Tensor:
    """Crops of faces in which the landmarks lie as in the ArcFace template; black outside the picture.

    A face that is shrunk is averaged over the area that each pixel of the crop covers; one that is enlarged
    is interpolated between its pixels.

    Args:
        images: (h, w, 3) uint8 RGB each, of any sizes, on one device.
        index: (n,) which picture each face is in.
        landmarks: (n, 5, 2) float, x, y in pixels of the picture.
        size: side of the crops.

    Returns:
        (n, 3, size, size) uint8 RGB on the pictures' device.
    """
    if not len(landmarks):
        return torch.empty(0, 3, size, size, dtype=torch.uint8, device=images[0].device if images else None)
    forward = similarity_transforms(landmarks.detach().cpu().double(), size=size)
    turn = torch.complex(forward[:, 0, 0], forward[:, 1, 0])
    turn = 1 / torch.where(turn == 0, 1e-9, turn)
    shift = -turn * torch.complex(forward[:, 0, 2], forward[:, 1, 2])
    scale = turn.abs()
    reduction = 2 ** (scale / 3).log2().floor().clamp_(0, 16).long()
    samples = (scale / reduction - 0.125).ceil().clamp_(1, 4).long()
    faces = _cut_out(images, torch.as_tensor(index).cpu(), reduction, turn, shift, size)

    device = images[0].device
    crops = torch.empty(len(landmarks), 3, size, size, dtype=torch.uint8, device=device)
    for count in sorted(set(samples.tolist())):
        for chunk in (samples == count).nonzero().flatten().to(device).split(CHUNK.get(device.type, 64)):
            crops[chunk] = _draw(_Faces(faces.pixels, *(part[chunk] for part in faces[1:])), size, count)
    return crops


class _Faces(NamedTuple):
    """Parts of pictures, reduced, framed in black and laid end to end; and where each face is in them.

    Attributes:
        pixels: (k,) int32, red, green and blue in the lowest three bytes.
        place: (n,) int32, which of ``pixels`` is the origin of the face's coordinates.
        stride: (n,) int32, how many of ``pixels`` make a row.
        low: (n, 2) float32, the coordinates x, y of the frame's first column and row.
        high: (n, 2) float32, those of its last.
        turn: (n, 2) float32, real and imaginary part; the crop's point w shows point turn * w + shift.
        shift: (n, 2) float32.
    """

    pixels: Tensor
    place: Tensor
    stride: Tensor
    low: Tensor
    high: Tensor
    turn: Tensor
    shift: Tensor


def _cut_out(
    images: Sequence[Tensor], index: Tensor, reduction: Tensor, turn: Tensor, shift: Tensor, size: int
) -> _Faces:
    """The parts of the pictures that the faces show, each as much reduced as its faces want.

    Coordinates are whole at the centres of reduced pixels, and counted from a corner that depends on the face
    alone, so that the crop does not depend on the faces beside it.

    Args:
        reduction: (n,) int64, how many pixels to average along each side.
        turn: (n,) complex128; point w of the crop shows the point turn * w + shift of the picture.
        shift: (n,) complex128.
    """
    ends = torch.tensor([-1.0, size], dtype=torch.float64)
    corners = torch.complex(ends.repeat(2), ends.repeat_interleave(2))
    shown = torch.view_as_real(turn[:, None] * corners + shift[:, None]).clamp_(-1e9, 1e9)
    limits = torch.tensor([(image.shape[1], image.shape[0]) for image in images])[index]
    side = reduction[:, None]
    low = (shown.amin(1).long() // side - 1).clamp_(min=0) * side
    high = torch.minimum((shown.amax(1).long() // side + 2) * side, limits)
    high = torch.where((high > low).all(1, keepdim=True), high, low)  # nothing is shown of the picture

    parts, part = torch.unique(torch.stack([index, reduction], 1), dim=0, return_inverse=True)
    member = part[:, None].expand(-1, 2)
    blank = torch.zeros(len(parts), 2, dtype=torch.int64)
    first = blank.scatter_reduce(0, member, low, "amin", include_self=False)
    last = blank.scatter_reduce(0, member, high, "amax", include_self=False)
    framed = [
        _frame(images[i][y1:y2, x1:x2], r)
        for (i, r), (x1, y1), (x2, y2) in zip(parts.tolist(), first.tolist(), last.tolist(), strict=True)
    ]
    width, height = torch.tensor([piece.shape[::-1] for piece in framed]).T
    start = (width * height).cumsum(0) - width * height
    inset = (low - first[part]) // side + 1
    place = start[part] + inset[:, 1] * width[part] + inset[:, 0]
    far = torch.stack([width, height], 1)[part] - 1 - inset
    origin = torch.complex(*low.double().T) - complex(0.5, 0.5)
    centre = (shift - origin) / reduction - complex(0.5, 0.5)
    floats = (-inset, far, torch.view_as_real(turn / reduction), torch.view_as_real(centre))
    device = images[0].device
    return _Faces(
        torch.cat([piece.flatten() for piece in framed]),
        place.int().to(device),
        width[part].int().to(device),
        *(column.float().to(device) for column in floats),
    )


def _frame(part: Tensor, reduction: int) -> Tensor:
    """(h, w, 3) uint8, perhaps empty, -> (h' + 2, w' + 2) int32: reduced, framed, a number a pixel."""
    if reduction > 1 and part.numel():
        mean = F.avg_pool2d(part.permute(2, 0, 1).float(), reduction, ceil_mode=True)
        part = mean.round_().to(torch.uint8).permute(1, 2, 0)
    framed = torch.zeros(part.shape[0] + 2, part.shape[1] + 2, 4, dtype=torch.uint8, device=part.device)
    framed[1:-1, 1:-1, :3] = part
    return framed.view(torch.int32).squeeze(2)


def _draw(faces: _Faces, size: int, count: int) -> Tensor:
    """Crops by the mean of ``count`` x ``count`` interpolated samples a pixel: (n, 3, size, size) uint8."""
    step = torch.arange(size, dtype=torch.float32, device=faces.pixels.device)
    offsets = ((torch.arange(count) + 0.5) / count - 0.5).tolist()
    real, imaginary = faces.turn.T[:, :, None, None]
    x, y = faces.shift.T[:, :, None, None]
    x = x + real * step - imaginary * step[:, None]
    y = y + imaginary * step + real * step[:, None]
    total = torch.zeros(3, len(faces.place), size, size, device=step.device)
    for right, down in product(offsets, repeat=2):
        _add_samples(
            total, faces, x + (real * right - imaginary * down), y + (imaginary * right + real * down)
        )
    total /= torch.tensor([count**2 << shift for shift in (0, 8, 16)], device=step.device).view(3, 1, 1, 1)
    return total.round_().to(torch.uint8).transpose(0, 1)


def _add_samples(total: Tensor, faces: _Faces, x: Tensor, y: Tensor) -> None:
    """Add the pictures' colours at x, y, interpolated between four pixels.

    Args:
        total: (3, n, size, size) float32; as they lie in a pixel: green times 256, blue times 65,536.
        x: (n, size, size) float32.
        y: (n, size, size) float32.
    """
    low, high = faces.low[:, :, None, None], faces.high[:, :, None, None]
    x, y = x.clamp(low[:, 0], high[:, 0]), y.clamp(low[:, 1], high[:, 1])
    column, row = torch.minimum(x.floor(), high[:, 0] - 1), torch.minimum(y.floor(), high[:, 1] - 1)
    right, down = x - column, y - row
    left, up = 1 - right, 1 - down
    above = row.int().mul_(faces.stride[:, None, None]).add_(column.int()).add_(faces.place[:, None, None])
    below = above + faces.stride[:, None, None]
    corners = ((above, left * up), (above + 1, right * up), (below, left * down), (below + 1, right * down))
    for place, weight in corners:
        pixel = faces.pixels.index_select(0, place.flatten()).view(weight.shape)
        for channel, mask in zip(total, (0xFF, 0xFF00, 0xFF0000), strict=True):
            channel.addcmul_((pixel & mask).float(), weight)
