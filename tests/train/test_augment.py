"""Views: the same draws again, small changes only, and nothing at all where nothing is asked."""

from __future__ import annotations

from pathlib import Path

import torch

from facekit.image import load_image
from facekit.train.augment import Augmentation, augment, mix_faces

_NOTHING = Augmentation(flip=0, rotation=0, zoom=0, shift=0, brightness=0, grey=0, low_resolution=0)


def _faces(pictures: Path, count: int = 4) -> torch.Tensor:
    image = torch.from_numpy(load_image(pictures / "astronaut.jpg")).permute(2, 0, 1)
    return torch.stack([image[:, 10 * i : 10 * i + 112, 10 * i : 10 * i + 112] for i in range(count)])


def _draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_augmentation_is_the_picture(pictures: Path) -> None:
    faces = _faces(pictures)
    difference = augment(faces, _NOTHING, _draws()).int() - faces.int()
    assert difference.abs().max() <= 1


def test_flip_is_a_mirror(pictures: Path) -> None:
    faces = _faces(pictures)
    settings = Augmentation(flip=1, rotation=0, zoom=0, shift=0, brightness=0, grey=0, low_resolution=0)
    assert (augment(faces, settings, _draws()).int() - faces.flip(3).int()).abs().max() <= 1


def test_equal_generators_give_equal_views_and_others_do_not(pictures: Path) -> None:
    faces = _faces(pictures)
    first = augment(faces, Augmentation(), _draws(3))
    assert torch.equal(first, augment(faces, Augmentation(), _draws(3)))
    assert not torch.equal(first, augment(faces, Augmentation(), _draws(4)))


def test_every_picture_of_a_batch_gets_its_own_view(pictures: Path) -> None:
    same = _faces(pictures)[:1].repeat(6, 1, 1, 1)
    views = augment(same, Augmentation(), _draws())
    assert len({view.numpy().tobytes() for view in views}) == 6


def test_grey_views_have_no_colour(pictures: Path) -> None:
    views = augment(_faces(pictures), Augmentation(grey=1.0, brightness=0), _draws()).int()
    assert (views.amax(1) - views.amin(1)).max() <= 1


def test_low_resolution_removes_detail_only(pictures: Path) -> None:
    faces = _faces(pictures)
    settings = Augmentation(flip=0, rotation=0, zoom=0, shift=0, brightness=0, grey=0, low_resolution=1)
    views = augment(faces, settings, _draws()).float()
    detail = lambda x: (x[..., 1:] - x[..., :-1]).abs().mean()  # noqa: E731 - a name for one formula
    assert detail(views) < 0.9 * detail(faces.float())
    assert abs(views.mean() - faces.float().mean()) < 3


def test_equal_generators_give_equal_mixtures_and_others_do_not(pictures: Path) -> None:
    faces = _faces(pictures)
    first = mix_faces(faces, _draws(3))
    assert (first.shape, first.dtype) == (faces.shape, torch.uint8)
    assert torch.equal(first, mix_faces(faces, _draws(3)))
    assert not torch.equal(first, mix_faces(faces, _draws(4)))


def test_a_mixture_lies_between_its_two_pictures() -> None:
    faces = torch.randint(0, 256, (9, 3, 40, 40), generator=_draws()).to(torch.uint8)
    before = torch.cat([faces[-1:], faces[:-1]])
    mixtures = mix_faces(faces, _draws())
    assert (mixtures >= torch.minimum(faces, before)).all()
    assert (mixtures <= torch.maximum(faces, before)).all()
    for other in (faces, before):
        assert (mixtures != other).flatten(1).any(1).all()


def test_a_single_picture_mixes_with_itself(pictures: Path) -> None:
    face = _faces(pictures, 1)
    assert torch.equal(mix_faces(face, _draws()), face)


def test_transitions_are_from_sharp_to_even() -> None:
    black_and_white = (torch.arange(200) % 2 * 255).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    mixtures = mix_faces(black_and_white, _draws()).float() / 255
    blended = ((mixtures > 0.1) & (mixtures < 0.9)).float().mean((1, 2, 3))
    assert blended.min() < 0.1
    assert blended.max() == 1
    assert 0.2 < blended.median() < 0.8
