"""Examples: parts that belong together, and squares that reach beyond pictures or are read otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from layout_sets import GREY, write_picture
from PIL import Image

from facekit.errors import ImageError, TrainingError
from facekit.train.probe.examples import Examples, Picture, decode


def _examples(*pictures: Picture) -> Examples:
    zeros = torch.zeros(len(pictures), dtype=torch.int64)
    return Examples("made", "classes", ("one",), pictures, zeros, zeros.to(torch.uint8))


def test_parts_of_different_length_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"made: \[0, 1\] pictures, targets and splits"):
        Examples("made", "classes", ("one",), [], torch.zeros(1), torch.zeros(1, dtype=torch.uint8))


def test_without_a_box_the_largest_square_in_the_middle_is_decoded(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(8, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    decoded = decode(_examples(Picture(tmp_path / "wide.png")), torch.tensor([0]), 8)
    assert torch.equal(decoded[0].permute(1, 2, 0), torch.from_numpy(pixels[:, 3:11]))


def test_beyond_the_edge_it_is_black(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", (10, 10))
    (decoded,) = decode(_examples(Picture(path, (-5, 5, 15, 25))), torch.tensor([0]), 20)
    expected = torch.zeros(3, 20, 20, dtype=torch.uint8)
    expected[:, :5, 5:15] = GREY
    assert torch.equal(decoded, expected)


@pytest.mark.parametrize("box", [(10, 0, 20, 10), (0, -9, 9, 0), (-1e6, -1e6, 1e6, 1e6), (4, 4, 4, 4)])
def test_a_box_that_shows_nothing_or_far_more_is_refused(tmp_path: Path, box: tuple[float, ...]) -> None:
    path = write_picture(tmp_path / "a.png", (10, 10))
    with pytest.raises(ImageError, match=r"a\.png: the box .* is outside its 10 x 10 pixels"):
        decode(_examples(Picture(path, box)), torch.tensor([0]), 20)


def test_a_picture_may_say_itself_how_it_is_read(tmp_path: Path) -> None:
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    (decoded,) = decode(_examples(Picture(tmp_path / "many.bin", read=lambda: grey)), torch.tensor([0]), 4)
    assert torch.equal(decoded, torch.from_numpy(grey).expand(3, 4, 4))


def test_rows_are_decoded_in_their_order_and_size(tmp_path: Path) -> None:
    paths = [write_picture(tmp_path / f"{side}.png", (side, side)) for side in (4, 6, 8)]
    decoded = decode(_examples(*map(Picture, paths)), torch.tensor([2, 0]), 5)
    assert decoded.shape == (2, 3, 5, 5)
    assert (decoded == GREY).all()
    with pytest.raises(ImageError, match=r"gone\.png"):
        decode(_examples(Picture(tmp_path / "gone.png")), torch.tensor([0]), 5)
