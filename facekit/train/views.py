"""Random views for contrastive learning: of a whole batch at once, drawn for each picture by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from facekit.train.config import require

__all__ = ["ViewSettings", "random_views"]

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision rounds it
_TRIES = 10  # crops drawn before the whole picture is taken, as in torchvision
_CACHED = 1 << 21  # bytes of views that a CPU works on at once, so that they stay in a cache
_AT_ONCE = 1 << 28  # and an accelerator, so that what they take while they are made stays small


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewSettings:
    """How far a view may be from its picture; as published for SimCLR, if nothing is given.

    The order of changes is that of Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual
    Representations", appendix A: crop, flip, colours, grey, blur.
    """

    area: tuple[float, float] = (0.08, 1.0)
    """Share of the picture's area that a view shows, from and to."""
    aspect: float = 4 / 3
    """Widest ratio of the sides of what a view shows, before it is stretched to a square."""
    flip: float = 0.5
    """Chance of a mirrored view."""
    jitter: float = 0.8
    """Chance of a change of brightness, contrast, saturation and hue, in a random order."""
    brightness: float = 0.8
    """Relative change of brightness, either way."""
    contrast: float = 0.8
    """Relative change of contrast, either way."""
    saturation: float = 0.8
    """Relative change of saturation, either way."""
    hue: float = 0.2
    """Turns of the colour circle, either way."""
    grey: float = 0.2
    """Chance of a view without colour."""
    blur: float = 0.5
    """Chance of a blurred view."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur in pixels of the view, from and to; it reaches over 1/20 of the side."""

    def __post_init__(self) -> None:
        low, high = self.area
        require(0 < low <= high <= 1, "area", self.area, "give two shares in (0, 1], the lower one first")
        require(1 <= self.aspect < math.inf, "aspect", self.aspect, "give a ratio of 1 or more")
        for name in ("flip", "jitter", "grey", "blur"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "give a chance in [0, 1]")
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            require(0 <= value <= 1000, name, value, "give a relative change of 0 ... 1000")
        require(0 <= self.hue <= 0.5, "hue", self.hue, "give turns in [0, 0.5]")
        low, high = self.blur_sigma
        remedy = "give two numbers of pixels in 0.001 ... 1000, the lower one first"
        require(1e-3 <= low <= high <= 1000, "blur_sigma", self.blur_sigma, remedy)


def random_views(
    pictures: Tensor, settings: ViewSettings, *, size: int, generator: torch.Generator
) -> Tensor:
    """One random view of each picture.

    Args:
        pictures: (n, 3, s, s) uint8.
        settings: how far a view may be from its picture.
        size: side of the views in pixels.
        generator: on the CPU; the same state gives the same draws on every device.

    Returns:
        (n, 3, size, size) float32 in [0, 1] on the same device.
    """
    device = pictures.device
    draws = _draw(len(pictures), pictures.shape[-1], settings, generator)
    views = torch.empty(len(pictures), 3, size, size, device=device)
    most = (_CACHED if device.type == "cpu" else _AT_ONCE) // (3 * 4 * size**2) or 1
    with torch.autocast(device.type, enabled=False):
        for rows in torch.split(draws.sides.sum(1).argsort(), most):
            views.index_copy_(0, rows.to(device), _crop(pictures, rows, draws, size))
        for rows in torch.split(_by_order(draws), most):
            x = views.index_select(0, rows.to(device))
            _recolour(x, rows, draws)
            views.index_copy_(0, rows.to(device), x)
    return views


@dataclass(frozen=True, slots=True)
class _Draws:
    """What was drawn for each of n pictures, on the CPU."""

    starts: Tensor  # (n, 2) top and left of the crop in pixels
    sides: Tensor  # (n, 2) its height and width
    signs: Tensor  # (n, 2) 1, or -1 along x for a mirrored view
    order: Tensor  # (n, 4) int64: which of _COLOUR_CHANGES comes at each turn, -1 for none
    factors: Tensor  # (n, 4) of those changes
    grey: Tensor  # (n,) bool
    blurred: Tensor  # (n,) bool
    sigma: Tensor  # (n,) of the blur, in pixels of the view


def _draw(count: int, side: int, settings: ViewSettings, generator: torch.Generator) -> _Draws:
    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(count, *shape).uniform_(low, high, generator=generator)

    starts, sides = _draw_crops(side, settings, uniform)
    signs = torch.ones(count, 2)
    signs[:, 1] -= 2 * (uniform(0, 1) < settings.flip).float()
    factors = [
        uniform(max(0.0, 1 - change), 1 + change)
        for change in (settings.brightness, settings.contrast, settings.saturation)
    ]
    factors.append(uniform(-settings.hue, settings.hue))
    order = uniform(0, 1, 4).argsort(1)
    order.masked_fill_(uniform(0, 1, 1) >= settings.jitter, -1)
    return _Draws(
        starts=starts,
        sides=sides,
        signs=signs,
        order=order,
        factors=torch.stack(factors, 1),
        grey=uniform(0, 1) < settings.grey,
        blurred=uniform(0, 1) < settings.blur,
        sigma=uniform(*settings.blur_sigma),
    )


def _draw_crops(side: int, settings: ViewSettings, uniform: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Starts and sides (n, 2) in whole pixels: of each picture's first crop that fits, else the whole."""
    area = uniform(*settings.area, _TRIES, 1) * side**2
    turn = math.log(settings.aspect)
    ratio = uniform(-turn, turn, _TRIES, 1).exp_()
    tried = torch.cat([(area / ratio).sqrt_(), (area * ratio).sqrt_()], 2).round_()
    fits = ((tried >= 1) & (tried <= side)).all(2)
    first = fits.byte().argmax(1)
    sides = tried[torch.arange(len(tried)), first]
    sides[~fits.any(1)] = side
    starts = (uniform(0, 1, 2) * (side - sides + 1)).floor_().minimum(side - sides)
    return starts, sides


def _by_order(draws: _Draws) -> Tensor:
    """Rows that are changed at all, those next to each other whose changes come in the same order."""
    rows = (draws.grey | draws.blurred | (draws.order >= 0).any(1)).nonzero()[:, 0]
    return rows[(draws.order[rows] * torch.tensor([64, 16, 4, 1])).sum(1).argsort()]


def _recolour(x: Tensor, rows: Tensor, draws: _Draws) -> None:
    """Change colours, then grey, then blur, in place, the views of these rows of the draws."""
    factors = draws.factors[rows].to(x.device)
    # Runs of the same change are slices, which need no copies.
    for turn in draws.order[rows].unbind(1):
        numbers, counts = (found.tolist() for found in torch.unique_consecutive(turn, return_counts=True))
        runs = torch.split(x, counts), torch.split(factors, counts)
        for number, pictures, factor in zip(numbers, *runs, strict=True):
            if number >= 0:
                _COLOUR_CHANGES[number](pictures, factor[:, number])
    _change(_grey, x, draws.grey[rows])
    _change(_blur, x, draws.blurred[rows], draws.sigma[rows].to(x.device))


def _change(change: Callable[..., None], x: Tensor, chosen: Tensor, *parameters: Tensor) -> None:
    """Apply a change in place to the pictures of a batch that are chosen."""
    rows = chosen.nonzero()[:, 0]
    if len(rows) == len(x):
        change(x, *parameters)
    elif len(rows):
        rows = rows.to(x.device)
        part = x.index_select(0, rows)
        change(part, *(each.index_select(0, rows) for each in parameters))
        x.index_copy_(0, rows, part)


def _crop(pictures: Tensor, rows: Tensor, draws: _Draws, size: int) -> Tensor:
    """Views (m, 3, size, size) in [0, 1] of what was drawn of some pictures, not yet recoloured."""
    starts, sides, device = draws.starts[rows], draws.sides[rows], pictures.device
    if device.type == "cpu":
        height, width = (int(side) for side in sides.amax(0))
        corners = starts.minimum(pictures.shape[-1] - sides.amax(0))
        cut = [
            pictures[row, :, top : top + height, left : left + width]
            for row, (top, left) in zip(rows.tolist(), corners.int().tolist(), strict=True)
        ]
        windows, starts = torch.stack(cut), starts - corners
    else:
        windows = pictures.index_select(0, rows.to(device))
    return _resample(windows, starts.to(device), sides.to(device), draws.signs[rows].to(device), size)


def _resample(pictures: Tensor, starts: Tensor, sides: Tensor, signs: Tensor, size: int) -> Tensor:
    """Crops of uint8 pictures (m, 3, h, w), stretched to (m, 3, size, size) in [0, 1], antialiased.

    The filter is a triangle as wide as the coarser one's pixels, normalised within the crop, as in
    torchvision's ``resized_crop``. That is two products of matrices a picture, one for each axis.
    """
    m, _, height, width = pictures.shape
    rows, of_rows = _resampling(starts[:, 0], sides[:, 0], signs[:, 0], height, size)
    columns, of_columns = _resampling(starts[:, 1], sides[:, 1], signs[:, 1], width, size)
    wide = torch.bmm(pictures.float().view(m, 3 * height, width), columns.mT).view(m, 3, height, size)
    x = torch.empty(m, 3, size, size, device=pictures.device)
    for channel in range(3):
        torch.bmm(rows, wide[:, channel], out=x[:, channel])
    return x.div_((of_rows.mul_(255) * of_columns.mT).unsqueeze(1))


def _resampling(start: Tensor, side: Tensor, sign: Tensor, pixels: int, size: int) -> tuple[Tensor, Tensor]:
    """The pixels of each view along one axis as weights (m, size, pixels) of its picture's; their sums."""
    start, side, sign = (each.view(-1, 1, 1) for each in (start, side, sign))
    places = torch.arange(pixels, device=start.device) + 0.5
    steps = torch.arange(size, device=start.device).view(-1, 1) + (0.5 - size / 2)
    scale = side / size
    share = scale.clamp(min=1).reciprocal_()
    centres = (start + side / 2 + sign * scale * steps).mul_(share)
    inside = (places > start) & (places < start + side)
    weights = torch.where(inside, places * share, torch.inf) - centres
    torch.sub(torch.ones((), device=start.device), weights.abs_(), out=weights).clamp_(min=0)
    return weights, weights.sum(2, keepdim=True)


def _brighten(x: Tensor, factor: Tensor) -> None:
    x.mul_(factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def _contrast(x: Tensor, factor: Tensor) -> None:
    mean = x.mean((2, 3)) @ x.new_tensor(_LUMA)
    x.mul_(factor.view(-1, 1, 1, 1)).add_(((1 - factor) * mean).view(-1, 1, 1, 1)).clamp_(0, 1)


def _saturate(x: Tensor, factor: Tensor) -> None:
    factor = factor.view(-1, 1, 1, 1)
    grey = _luma(x).mul_(1 - factor)
    x.mul_(factor).add_(grey).clamp_(0, 1)


def _turn_hue(x: Tensor, turns: Tensor) -> None:
    """Turn the hue of HSV, in place, without a division.

    With M and m the largest and the smallest channel and C = M - m, the hue is at C times a distance of
    M - 2m - R + G + B from red, in sixths of the circle, on the side that the sign of G - B tells. A channel
    whose primary is at C times a distance of d is min(max(2C - d, 0), C) + m.
    """
    red, green, blue = x.unbind(1)
    most = torch.maximum(green, blue)
    most = torch.maximum(most, red, out=most)
    least = torch.minimum(green, blue)
    least = torch.minimum(least, red, out=least)
    hue = torch.add(green, blue).sub_(red).add_(most).sub_(least, alpha=2)
    hue.copysign_(green - blue)
    most, least, chroma = (each.unsqueeze(1) for each in (most, least, most - least))
    # From each primary, within half a circle: what is turned is at most a whole one away.
    primaries = turns.new_tensor([0.0, 2.0, 4.0])
    away = torch.remainder(6 * turns.view(-1, 1) - primaries + 3, 6) - 3
    torch.addcmul(hue.unsqueeze(1), away.view(-1, 3, 1, 1), chroma, out=x)
    x.abs_().sub_(3 * chroma).abs_().add_(least - chroma)
    torch.clamp(x, least, most, out=x)


def _grey(x: Tensor) -> None:
    x.copy_(_luma(x).expand_as(x))


def _luma(x: Tensor) -> Tensor:
    luma = _LUMA[0] * x[:, :1]
    for channel in (1, 2):
        luma.add_(x[:, channel : channel + 1], alpha=_LUMA[channel])
    return luma


def _blur(x: Tensor, sigma: Tensor) -> None:
    """Gaussian blur in place, as two products of matrices a picture."""
    m, size = len(x), x.shape[-1]
    taps = _blur_taps(size).to(x.device)
    far = torch.arange(len(taps), device=x.device) - len(taps) // 2
    kernel = torch.softmax(-0.5 * (far / sigma.view(-1, 1)).square_(), 1)
    matrix = (kernel @ taps.flatten(1)).view(m, size, size)
    wide = torch.bmm(x.view(m, 3 * size, size), matrix.mT).view(x.shape)
    for channel in range(3):
        torch.bmm(matrix, wide[:, channel], out=x[:, channel])


def _blur_taps(size: int) -> Tensor:
    """(k, size, size) of 0 and 1: which pixel each of the k of a kernel falls on, mirrored at the border.

    A tenth of the side, made odd, as in SimCLR.
    """
    reach = size // 20
    place = (torch.arange(size) + torch.arange(-reach, reach + 1).view(-1, 1)).abs_()
    return F.one_hot(size - 1 - (size - 1 - place).abs_(), size).float()


_COLOUR_CHANGES = (_brighten, _contrast, _saturate, _turn_hue)
