"""Views: each change against torchvision's, the draws against what was asked."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from facekit.errors import SettingError
from facekit.image import load_image
from facekit.train import views
from facekit.train.views import ViewSettings, random_views

_NOTHING = {"area": (1.0, 1.0), "aspect": 1.0, "flip": 0.0, "jitter": 0.0, "grey": 0.0, "blur": 0.0}
_CHANGES = {
    views._brighten: (tv.adjust_brightness, (0.0, 0.3, 1.0, 1.8)),
    views._contrast: (tv.adjust_contrast, (0.0, 0.3, 1.0, 1.8)),
    views._saturate: (tv.adjust_saturation, (0.0, 0.3, 1.0, 1.8)),
    views._turn_hue: (tv.adjust_hue, (-0.5, -0.2, -0.01, 0.0, 0.1, 0.2, 0.37, 0.5)),
}


def _draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _faces(pictures: Path, count: int = 4, side: int = 112) -> torch.Tensor:
    image = torch.from_numpy(load_image(pictures / "astronaut.jpg")).permute(2, 0, 1)
    return torch.stack([image[:, 10 * i : 10 * i + side, 10 * i : 10 * i + side] for i in range(count)])


def _noise(count: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=_draws(), dtype=torch.uint8)


def _colours() -> torch.Tensor:
    """Every colour of a coarse cube, with its greys, edges and corners."""
    steps = torch.linspace(0, 1, 9)
    cube = torch.tensor(list(itertools.product(steps.tolist(), repeat=3)))
    return cube.T.reshape(1, 3, 27, 27).contiguous()


@pytest.mark.parametrize("change", _CHANGES, ids=lambda change: change.__name__)
def test_colours_change_as_in_torchvision(change, pictures: Path) -> None:
    published, factors = _CHANGES[change]
    face = _faces(pictures, 1, 27) / 255
    for picture in (face, _colours(), torch.rand(1, 3, 27, 27, generator=_draws())):
        x = picture.repeat(len(factors), 1, 1, 1)
        change(x, torch.tensor(factors))
        expected = torch.cat([published(picture, factor) for factor in factors])
        torch.testing.assert_close(x, expected, atol=2e-6, rtol=0)


def test_grey_is_torchvisions(pictures: Path) -> None:
    x = _faces(pictures) / 255
    expected = tv.rgb_to_grayscale(x, num_output_channels=3)
    views._grey(x)
    torch.testing.assert_close(x, expected, atol=1e-6, rtol=0)
    assert torch.equal(x[:, 0], x[:, 2])


@pytest.mark.parametrize(("size", "kernel"), [(112, 11), (64, 7), (32, 3), (20, 3)])
def test_blur_is_torchvisions(size: int, kernel: int) -> None:
    x = torch.rand(5, 3, size, size, generator=_draws())
    sigma = (0.1, 0.5, 1.0, 1.5, 2.0)
    expected = torch.stack([tv.gaussian_blur(one, kernel, [s]) for one, s in zip(x, sigma, strict=True)])
    views._blur(x, torch.tensor(sigma))
    torch.testing.assert_close(x, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("side", "size"), [(112, 64), (32, 32), (32, 48), (9, 1), (1, 5)])
def test_crops_are_torchvisions(side: int, size: int) -> None:
    """Crops that shrink, that grow, that do both, at every border, mirrored and not."""
    chosen = torch.rand(20, 2, generator=_draws())
    sides = (1 + chosen * side).floor().clamp_(max=side)
    starts = (torch.rand(20, 2, generator=_draws(1)) * (side - sides + 1)).floor()
    starts[0], sides[0] = 0, side
    starts[1] = side - sides[1]
    signs = torch.ones(20, 2)
    signs[::3, 1] = -1
    noise = _noise(20, side)
    x = views._resample(noise, starts, sides, signs, size)
    for one, start, lengths, sign, view in zip(noise, starts, sides, signs, x, strict=True):
        box = [int(value) for value in (*start, *lengths)]
        expected = tv.resized_crop(one / 255, *box, [size, size], antialias=True)
        expected = expected.flip(2) if sign[1] < 0 else expected
        torch.testing.assert_close(view, expected, atol=2e-5, rtol=0)


def test_views_are_the_changes_in_their_order(pictures: Path) -> None:
    """The whole of it, one picture at a time, by torchvision and the same draws."""
    settings, size = ViewSettings(), 40
    faces = _faces(pictures, 12).repeat(5, 1, 1, 1)
    made = random_views(faces, settings, size=size, generator=_draws(3))
    drawn = views._draw(len(faces), 112, settings, _draws(3))
    changes = [published for published, _ in _CHANGES.values()]
    assert len({tuple(order) for order in drawn.order.tolist()}) > 10
    for i, (face, view) in enumerate(zip(faces, made, strict=True)):
        box = [int(value) for value in (*drawn.starts[i], *drawn.sides[i])]
        x = tv.resized_crop(face / 255, *box, [size, size], antialias=True)
        x = x.flip(2) if drawn.signs[i, 1] < 0 else x
        for number in drawn.order[i].tolist():
            x = changes[number](x, float(drawn.factors[i, number])) if number >= 0 else x
        x = tv.rgb_to_grayscale(x, num_output_channels=3) if drawn.grey[i] else x
        x = tv.gaussian_blur(x, 5, [float(drawn.sigma[i])]) if drawn.blurred[i] else x
        torch.testing.assert_close(view, x, atol=1e-4, rtol=0)


def test_a_batch_at_once_is_the_same_as_in_parts(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator: all pictures in one part, whose orders differ."""
    faces = _faces(pictures, 30)
    expected = random_views(faces, ViewSettings(), size=40, generator=_draws())
    monkeypatch.setattr(views, "_CACHED", views._AT_ONCE)
    at_once = random_views(faces, ViewSettings(), size=40, generator=_draws())
    torch.testing.assert_close(at_once, expected, atol=1e-5, rtol=0)


def test_nothing_is_the_picture(pictures: Path) -> None:
    faces = _faces(pictures)
    assert torch.equal(
        random_views(faces, ViewSettings(**_NOTHING), size=112, generator=_draws()), faces / 255
    )


def test_flip_is_a_mirror(pictures: Path) -> None:
    faces = _faces(pictures)
    settings = ViewSettings(**{**_NOTHING, "flip": 1.0})
    assert torch.equal(random_views(faces, settings, size=112, generator=_draws()), faces.flip(3) / 255)


def test_grey_views_have_no_colour(pictures: Path) -> None:
    made = random_views(_faces(pictures), ViewSettings(grey=1.0), size=64, generator=_draws())
    assert (made.amax(1) - made.amin(1)).max() < 1e-6


def test_views_are_the_generators_and_no_two_are_alike(pictures: Path) -> None:
    same = _faces(pictures)[:1].repeat(8, 1, 1, 1)
    generator = _draws()
    first, second = (random_views(same, ViewSettings(), size=32, generator=generator) for _ in range(2))
    assert torch.equal(first, random_views(same, ViewSettings(), size=32, generator=_draws()))
    assert len({view.numpy().tobytes() for view in (*first, *second)}) == 16
    assert (first.dtype, first.shape) == (torch.float32, (8, 3, 32, 32))
    assert first.min() >= 0
    assert first.max() <= 1


def test_the_global_generator_is_not_drawn_from(pictures: Path) -> None:
    before = torch.get_rng_state()
    random_views(_faces(pictures), ViewSettings(), size=32, generator=_draws())
    assert torch.equal(before, torch.get_rng_state())


def test_layout_and_autocast_change_nothing(pictures: Path) -> None:
    faces = _faces(pictures)
    expected = random_views(faces, ViewSettings(), size=32, generator=_draws())
    last = faces.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        made = random_views(last, ViewSettings(), size=32, generator=_draws())
    assert torch.equal(made, expected)


def test_a_single_picture(pictures: Path) -> None:
    made = random_views(_faces(pictures, 1), ViewSettings(), size=32, generator=_draws())
    assert made.shape == (1, 3, 32, 32)


def test_draws_are_as_often_and_as_far_as_asked() -> None:
    settings = ViewSettings(flip=0.3, jitter=0.6, grey=0.1, blur=0.7, brightness=1.5, hue=0.1)
    drawn = views._draw(20_000, 112, settings, _draws())
    assert (drawn.signs[:, 1] < 0).float().mean() == pytest.approx(0.3, abs=0.02)
    assert (drawn.order >= 0).all(1).float().mean() == pytest.approx(0.6, abs=0.02)
    assert drawn.grey.float().mean() == pytest.approx(0.1, abs=0.02)
    assert drawn.blurred.float().mean() == pytest.approx(0.7, abs=0.02)
    low, high = drawn.factors.amin(0), drawn.factors.amax(0)
    torch.testing.assert_close(low, torch.tensor([0.0, 0.2, 0.2, -0.1]), atol=1e-2, rtol=0)
    torch.testing.assert_close(high, torch.tensor([2.5, 1.8, 1.8, 0.1]), atol=1e-2, rtol=0)
    assert drawn.sigma.min() >= 0.1
    assert drawn.sigma.max() <= 2.0
    shares = torch.unique(drawn.order[(drawn.order >= 0).all(1)], dim=0, return_counts=True)[1] / 12_000
    torch.testing.assert_close(shares, torch.full((24,), 1 / 24), atol=0.008, rtol=0)


def test_crops_have_the_area_and_the_shape_asked_for() -> None:
    drawn = views._draw(20_000, 112, ViewSettings(area=(0.2, 0.6), aspect=1.5), _draws())
    height, width = drawn.sides.unbind(1)
    area, ratio = height * width / 112**2, (width / height).log2()
    assert 0.19 < area.min() < 0.21
    assert 0.59 < area.max() < 0.61
    assert area.mean() == pytest.approx(0.4, abs=0.005)  # uniform: at 0.6 even the widest fits
    assert ratio.mean() == pytest.approx(0, abs=0.01)
    assert 1.5 * 0.97 < (2 ** ratio.abs().max()) < 1.5 * 1.03
    assert (drawn.starts >= 0).all()
    assert (drawn.starts + drawn.sides <= 112).all()
    middle = drawn.starts + drawn.sides / 2
    torch.testing.assert_close(middle.mean(0), torch.tensor([56.0, 56.0]), atol=0.5, rtol=0)


def test_crops_that_never_fit_are_the_whole_picture() -> None:
    drawn = views._draw(50, 112, ViewSettings(area=(1.0, 1.0), aspect=1.3), _draws())
    assert (drawn.sides == 112).float().mean() > 0.9
    assert (drawn.starts + drawn.sides <= 112).all()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("area", (0.0, 1.0)),
        ("area", (0.5, 0.2)),
        ("area", (0.5, 1.2)),
        ("aspect", 0.9),
        ("aspect", float("inf")),
        ("flip", 1.5),
        ("jitter", -0.1),
        ("brightness", -1.0),
        ("contrast", float("nan")),
        ("saturation", float("inf")),
        ("hue", 0.6),
        ("grey", 2.0),
        ("blur", float("nan")),
        ("blur_sigma", (0.0, 1.0)),
        ("blur_sigma", (2.0, 1.0)),
    ],
)
def test_bad_settings_are_named(setting: str, value: object) -> None:
    with pytest.raises(SettingError, match=setting):
        ViewSettings(**{setting: value})
