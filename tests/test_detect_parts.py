"""The parts of the detector against brute force, torch's own operators and facenet-pytorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from facenet_pytorch.models import mtcnn as original
from facenet_pytorch.models.utils.detect_face import nms_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

from facekit.detect import cascade, pyramid
from facekit.detect.integral import IntegralImages, bins, room, runs
from facekit.detect.mosaic import Mosaic
from facekit.detect.suppress import best_first, suppress, survivors
from facekit.detect.weights import load_weights
from facekit.models.mtcnn import ONet, PNet, RNet

SIZES = [(40, 40), (57, 300), (131, 91), (250, 250), (1, 1), (333, 421), (612, 97)]


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)


def integrate(images: list[Tensor]) -> IntegralImages:
    return IntegralImages(images, torch.empty(room(images), dtype=torch.int32))


def area(image: Tensor, height: int, width: int) -> Tensor:
    """The resize that facenet-pytorch uses, scaled for its networks."""
    resized = F.interpolate(image.permute(2, 0, 1)[None].float(), size=(height, width), mode="area")
    return (resized - 127.5) * 0.0078125


@settings(deadline=None)
@given(length=st.integers(1, 400), count=st.integers(1, 100))
def test_bins_are_those_of_adaptive_pooling(length: int, count: int) -> None:
    first, last = bins(torch.arange(count), torch.tensor(length), count)
    ramp = torch.arange(length).float().square()
    pooled = F.adaptive_avg_pool1d(ramp[None], count)[0]
    means = torch.stack([ramp[a:b].mean() for a, b in zip(first, last, strict=True)])
    torch.testing.assert_close(means, pooled)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=6))
def test_runs(lengths: list[int]) -> None:
    owner, step = runs(torch.tensor(lengths, dtype=torch.int64))
    assert list(zip(owner.tolist(), step.tolist(), strict=True)) == [
        (i, j) for i, length in enumerate(lengths) for j in range(length)
    ]


def test_crops_are_area_resized_rectangles() -> None:
    images = [noise(h, w) for h, w in SIZES]
    table = integrate(images)
    image = torch.tensor([0, 1, 3, 3, 4, 6])
    boxes = torch.tensor(
        [[0, 0, 40, 40], [17, 3, 299, 5], [10, 20, 11, 21], [1, 2, 250, 249], [0, 0, 1, 1], [5, 600, 90, 612]]
    )
    crops = table.crops(image, boxes, 24)
    for crop, i, (x1, y1, x2, y2) in zip(crops, image.tolist(), boxes.tolist(), strict=True):
        torch.testing.assert_close(crop[None], area(images[i][y1:y2, x1:x2], 24, 24), atol=1e-5, rtol=0)


def test_sums_may_wrap_round() -> None:
    white = torch.full((2100, 4100, 3), 255, dtype=torch.uint8)  # its whole sum needs 32 bits
    crop = integrate([white]).crops(torch.tensor([0]), torch.tensor([[5, 7, 4000, 2000]]), 3)
    torch.testing.assert_close(crop, torch.full((1, 3, 3, 3), 127.5 / 128))


@pytest.mark.parametrize(
    ("ours", "theirs", "name"), [(RNet, original.RNet, "rnet"), (ONet, original.ONet, "onet")]
)
def test_networks_for_crops(ours: type[nn.Module], theirs: type[nn.Module], name: str) -> None:
    network = ours().eval()
    load_weights(**{name: network})
    x = torch.randn(5, 3, *(24, 24) if name == "rnet" else (48, 48))
    with torch.no_grad():
        *told, scores = network(x)
        offsets, *points, probabilities = theirs()(x)
    torch.testing.assert_close(told[0], offsets)
    torch.testing.assert_close(scores, probabilities[:, 1])
    if points:
        torch.testing.assert_close(told[1], points[0].view(-1, 2, 5).transpose(1, 2))


@pytest.mark.parametrize("shape", [(12, 12), (13, 12), (30, 47), (61, 60), (255, 33)])
def test_pnet(shape: tuple[int, int]) -> None:
    network = PNet().eval()
    load_weights(pnet=network)
    x = torch.randn(2, 3, *shape)
    with torch.no_grad():
        offsets, scores = network(x)
        expected, probabilities = original.PNet()(x)
    torch.testing.assert_close(offsets, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores, probabilities[:, 1], atol=1e-5, rtol=1e-5)
    assert scores.shape[1:] == tuple(map(pyramid.cells, shape))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), max_size=5), st.floats(12, 100))
def test_tiles_share_out_the_windows_and_never_overlap(sizes: list[tuple[int, int]], min_face: float) -> None:
    copies = [copy for i, size in enumerate(sizes) for copy in pyramid.pyramid(i, *size, min_face)]
    tiles, shelves = pyramid.pack(tile for i, copy in enumerate(copies) for tile in pyramid.cut(i, copy))
    seen = [np.zeros((pyramid.cells(copy.height), pyramid.cells(copy.width)), int) for copy in copies]
    canvases = np.zeros((len(shelves), pyramid.HEIGHT, pyramid.WIDTH), bool)
    for tile in tiles:
        y, x = tile.y // 2, tile.x // 2
        seen[tile.copy][y : y + pyramid.cells(tile.height), x : x + pyramid.cells(tile.width)] += 1
        shelf = shelves[tile.shelf]
        assert tile.height <= shelf.height
        assert shelf.top % 2 == tile.left % 2 == tile.y % 2 == tile.x % 2 == 0
        rows = slice(shelf.top, shelf.top + tile.height)
        place = canvases[shelf.canvas, rows, tile.left : tile.left + tile.width]
        assert place.shape == (tile.height, tile.width)
        assert not place.any()
        place[:] = True
    assert all((windows == 1).all() for windows in seen)


def test_mosaic_gives_pnet_what_each_copy_alone_gives() -> None:
    images = [noise(h, w, seed) for seed, (h, w) in enumerate([*SIZES, (700, 2100)])]
    table = integrate(images)
    mosaic = Mosaic(table, 20.0)
    network = PNet().eval()
    load_weights(pnet=network)
    with torch.no_grad():
        scores = torch.cat([network(canvas, ignore)[1] for canvas, ignore in mosaic.draw(3)])
        canvas, row, column = torch.ones_like(scores).nonzero().T
        inside, windows = mosaic.windows(canvas, row, column)
        found = scores.flatten()[inside]
        assert len(windows.place.unique()) == len(windows.place)
        place = 0
        for i, image in enumerate(images):
            for copy in pyramid.pyramid(i, *image.shape[:2], 20.0):
                index = int((mosaic.image == i).nonzero()[0]) + place
                of = windows.copy == index
                expected = network(area(image, copy.height, copy.width))[1][0]
                torch.testing.assert_close(mosaic.scale[index].item(), copy.scale)
                assert int(of.sum()) == expected.numel()
                torch.testing.assert_close(
                    found[of], expected[windows.y[of], windows.x[of]], atol=2e-5, rtol=0
                )
                place += 1
            place = 0


def random_boxes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 20 + 20 * torch.rand(count, 2, generator=generator)], 1)
    return boxes, (torch.rand(count, generator=generator) * 50).floor() / 50  # with ties


def best_by_torchvision(boxes: Tensor, scores: Tensor) -> NDArray[np.int64]:
    return np.asarray(nms(boxes, scores, 0.5))


def best_by_facenet(boxes: Tensor, scores: Tensor) -> NDArray[np.int64]:
    distinct = scores - torch.arange(len(scores)) * 1e-4  # its order of ties is that of an unstable sort
    return nms_numpy(boxes.numpy(), distinct.numpy(), 0.5, "Min").astype(np.int64)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("smaller", "oracle"), [(False, best_by_torchvision), (True, best_by_facenet)])
def test_suppression_is_greedy(
    seed: int,
    smaller: bool,
    oracle: Callable[[Tensor, Tensor], NDArray[np.int64]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("facekit.detect.suppress.PAIRS", 500)
    boxes, scores = random_boxes(120, seed)
    group = torch.tensor([0] * 80 + [3] * 40)
    order = best_first(group, scores)
    kept = order[suppress(group[order], boxes[order], 0.5, smaller=smaller)]
    expected = [
        members[oracle(boxes[members], scores[members])]
        for members in (torch.arange(80), torch.arange(80, 120))
    ]
    assert kept.tolist() == torch.cat(expected).tolist()


def test_suppression_of_none() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert suppress(none, torch.zeros(0, 4), 0.5).shape == (0,)
    assert survivors(3, none, none).all()


def test_a_chain_of_defeats_is_settled_from_its_head() -> None:
    chain = torch.arange(9)
    assert survivors(10, chain, chain + 1).tolist() == [True, False] * 5


@pytest.mark.parametrize("min_face", [12.0, 13.7, 20.0, 40.0, 333.0])
def test_windows_are_suppressed_by_their_neighbours_as_by_all(min_face: float) -> None:
    image = noise(900, 700)
    mosaic = Mosaic(integrate([image]), min_face)
    maps = [torch.ones(1, *map(pyramid.cells, canvas.shape[2:])) for canvas, _ in mosaic.draw(1)]
    _, windows = mosaic.windows(*torch.cat(maps).nonzero().T)
    chosen = torch.randperm(len(windows.place), generator=torch.Generator().manual_seed(1))[:3000]
    chosen = chosen[windows.place[chosen].argsort()]
    windows = cascade.Windows(*(column[chosen] for column in windows))
    scores = (torch.rand(len(chosen), generator=torch.Generator().manual_seed(2)) * 20).floor() / 20
    boxes = cascade._window_boxes(windows, mosaic.scale)
    keep = cascade._strongest_windows(windows, boxes, scores, mosaic.places)
    expected = torch.zeros_like(keep)
    for copy in windows.copy.unique():
        members = (windows.copy == copy).nonzero().flatten()
        expected[members[nms(boxes[members], scores[members], 0.5)]] = True
    assert torch.equal(keep, expected)
    # across the copies nothing more overlaps by 0.7
    assert len(nms(boxes[keep], scores[keep], 0.7)) == int(keep.sum())
