"""What two networks say of labels: losses of all pictures, what counts as clean, and the table of it."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from facekit.errors import TrainingError
from facekit.label_noise import clean_probability
from facekit.train.config import DataSettings
from facekit.train.data import Crops, load_crops, read_listing
from facekit.train.division import Division, Judgement, judge, known_labels, write_losses
from facekit.train.stream import Stream

_N, _CLASSES = 520, 4


def _logits(pictures: Tensor) -> list[Tensor]:
    x = pictures.float().flatten(1)[:, : 2 * _CLASSES] / 50
    return list(x.chunk(2, 1))


@pytest.fixture
def crops() -> Crops:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (_N, 3, 4, 4), generator=generator).to(torch.uint8)
    return Crops(pictures, torch.arange(_N) % _CLASSES, _CLASSES, torch.arange(_N))


def test_all_pictures_are_judged_by_cross_entropy_and_by_both_together(crops: Crops) -> None:
    judgement = judge(_logits, crops)
    assert judgement.seen.all()
    for losses, logits in zip(judgement.losses, _logits(crops.pictures), strict=True):
        torch.testing.assert_close(losses, F.cross_entropy(logits, crops.labels, reduction="none"))
    both = sum(logits.softmax(1) for logits in _logits(crops.pictures))
    assert isinstance(both, Tensor)
    assert torch.equal(judgement.predicted, both.argmax(1))
    clean, separation = judgement.clean()
    wanted = [clean_probability(losses.double().numpy()) for losses in judgement.losses]
    np.testing.assert_allclose(clean.numpy(), np.stack(wanted), rtol=1e-6, atol=1e-6)
    assert separation > 0


def test_one_process_looks_at_all_where_it_is_alone(crops: Crops) -> None:
    together, alone = judge(_logits, crops), judge(_logits, crops, shared=False)
    assert torch.equal(together.losses, alone.losses)


def test_a_block_of_which_nothing_can_be_read_is_not_seen(tmp_path: Path) -> None:
    """The last of 257 streamed pictures, which is looked at by itself."""
    (tmp_path / "a").mkdir()
    for number in range(256):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "a" / f"{number:03d}.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "broken.png").write_bytes(b"no picture")
    listing, _ = read_listing(DataSettings(data=tmp_path, heldout=0))
    judgement = judge(_logits, Stream(listing, 4, workers=0))
    assert judgement.seen.tolist() == [True] * 256 + [False]


def test_losses_that_are_no_numbers_end_the_run(crops: Crops) -> None:
    broken = Judgement(torch.ones(3).bool(), torch.tensor([[1.0, torch.nan, 2], [1, 1, 1]]), torch.zeros(3))
    with pytest.raises(TrainingError, match="lower --lr"):
        broken.clean()


def test_of_either_kind_there_is_one() -> None:
    division = Division(4)
    division.clean.copy_(torch.tensor([[0.9, 0.8, 0.95, 0.99], [0.1, 0.2, 0.3, 0.05]]))
    assert division.believed(0.85).tolist() == [[True, False, True, True], [False, False, True, False]]
    # as many as the threshold says, but neither all of them nor none
    assert division.believed(0.5).tolist() == [[True, False, True, True], [False, False, True, False]]
    division.clean.fill_(1.0)
    assert division.believed(0.5).all()


def test_figures_tell_what_the_networks_believe() -> None:
    division = Division(4)
    division.clean.copy_(torch.tensor([[0.9, 0.8, 0.1, 0.2], [0.9, 0.1, 0.1, 0.1]]))
    figures = division.figures(0.5)
    assert figures["clean_share"] == pytest.approx(3 / 8)
    assert figures["clean_probability"] == pytest.approx(0.4)
    assert figures["agreement"] == pytest.approx(3 / 4)


def test_a_division_is_part_of_the_state() -> None:
    losses = torch.tensor([[0.1, 0.12, 0.11, 3.0, 3.1], [0.2, 0.21, 0.22, 2.0, 2.2]])
    division = Division(5)
    division.update(Judgement(torch.ones(5).bool(), losses, torch.zeros(5).long()))
    assert division.believed(0.5).tolist() == [[True] * 3 + [False] * 2] * 2
    assert float(division.separation) > 2
    other = Division(5)
    other.load_state_dict(division.state_dict())
    assert torch.equal(other.clean, division.clean)
    assert other.figures(0.5) == division.figures(0.5)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Three people, of whom one has only a broken picture; odd names, and one picture is held out."""
    rng = np.random.default_rng(0)
    for name in ("a, b/0.png", "a, b/1.png", "c/ü.png", "c/2.png", "c/broken.png", "gone/x.png", "d/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / name)
    for name in ("c/broken.png", "gone/x.png"):
        (tmp_path / name).write_bytes(b"no picture")
    os.rename(tmp_path / "c" / "2.png", os.fsencode(tmp_path / "c") + b"/\xff.png")  # noqa: PTH104 - bytes that are no text
    return tmp_path


@pytest.mark.parametrize("streamed", [False, True])
def test_the_table_names_pictures_and_people_as_the_data_do(streamed: bool, people: Path) -> None:
    listing, _ = read_listing(DataSettings(data=people, heldout=0))
    crops = Stream(listing, 16, workers=0) if streamed else load_crops(listing, 16, progress=False)
    labelled = known_labels(listing, crops)
    if streamed:
        assert list(labelled.classes) == ["a, b", "c", "d", "gone"]
    else:
        assert list(labelled.classes) == ["a, b", "c", "d"]

    def logits(pictures: Tensor) -> list[Tensor]:
        said = torch.zeros(len(pictures), crops.classes)
        said[:, 0] = 5.0
        return [said, said]

    judgement = judge(logits, crops)
    write_losses(people / "losses.csv", labelled, judgement, threshold=0.5)
    assert (people / "losses.csv").stat().st_mode & 0o077 == 0
    text = (people / "losses.csv").read_text(encoding="utf-8", errors="surrogateescape")
    rows = {row["path"]: row for row in csv.DictReader(text.splitlines())}
    assert set(rows) == {"a, b/0.png", "a, b/1.png", "c/ü.png", "c/\udcff.png", "d/0.png"}
    assert {name: row["label"] for name, row in rows.items()} == {
        name: name.partition("/")[0] for name in rows
    }
    assert float(rows["a, b/0.png"]["loss"]) < 0.1 < float(rows["d/0.png"]["loss"])
    assert float(rows["a, b/0.png"]["clean"]) > 0.9 > 0.1 > float(rows["d/0.png"]["clean"])
    assert {name: row["suggestion"] for name, row in rows.items()} == {
        name: "" if name.startswith("a") else "a, b" for name in rows
    }
    # training takes the table as a list of what to leave out
    (people / "wrong.csv").write_bytes(
        b"\n".join(line for line in (people / "losses.csv").read_bytes().split(b"\n") if b"a, b/" not in line)
    )
    left, _ = read_listing(DataSettings(data=people, heldout=0, exclude=people / "wrong.csv"))
    names = {left.source.name(row) for row in left.rows.tolist()}
    assert names == {"a, b/0.png", "a, b/1.png", "c/broken.png", "gone/x.png"}


def test_a_table_that_cannot_be_written_is_one_line(people: Path) -> None:
    listing, _ = read_listing(DataSettings(data=people, heldout=0))
    crops = load_crops(listing, 16, progress=False)
    judgement = judge(lambda x: [torch.zeros(len(x), 3)] * 2, crops)
    with pytest.raises(TrainingError, match="cannot be written"):
        write_losses(
            people / "nowhere" / "losses.csv", known_labels(listing, crops), judgement, threshold=0.5
        )
