"""A pile of pictures, and the list of whom a teacher finds on it: written, found again, read by training."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from facekit.checkpoint import ModelConfig
from facekit.errors import TrainingError
from facekit.threshold import Threshold
from facekit.train import embedded, processes
from facekit.train.config import DataSettings
from facekit.train.data import Listing, decode_crop, read_listing
from facekit.train.embedded import embed_pictures, read_embedded
from facekit.train.pile import open_pile, picture_places, pseudo_listing
from facekit.train.sources import write_shard

_AT = Threshold(0.5, 1e-3)


class Pixels:
    """A teacher that knows people by their pixels."""

    dim = 147

    def __init__(self, fingerprint: str = "pixels") -> None:
        triple = (127.5, 127.5, 127.5)
        self.config = ModelConfig("onnx", self.dim, 112, "rgb", triple, triple, fingerprint=fingerprint)
        self.seen = 0

    def embed(self, crops: Tensor) -> Tensor:
        self.seen += len(crops)
        small = F.interpolate(crops.float(), (7, 7), mode="area").flatten(1)
        return F.normalize(small - small.mean(1, keepdim=True))


def _picture(path: Path, person: int, number: int) -> None:
    """A person is a pattern of blobs, and a picture of one has noise of its own."""
    pattern = np.random.default_rng(person).uniform(40, 215, (7, 7, 3))
    noise = np.random.default_rng(1000 * person + number).normal(0, 15, pattern.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    face = Image.fromarray(np.clip(pattern + noise, 0, 255).astype(np.uint8))
    face.resize((32, 32), Image.Resampling.NEAREST).save(path)


@pytest.fixture
def labelled(tmp_path: Path) -> tuple[Listing, Listing]:
    """People 0 ... 3 with three pictures each; 0 and 3 are held out."""
    for person in range(4):
        for number in range(3):
            _picture(tmp_path / "people" / f"p{person}" / f"{number}.png", person, number)
    training, aside = read_listing(DataSettings(data=tmp_path / "people", heldout=0.5))
    assert [part.source.people[int(part.source.person[part.rows[0]])] for part in (training, aside)] == [
        "p1",
        "p0",
    ]
    return training, aside


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    """New pictures of 1, whom the labels know, and of 3, who is held out; 10 and 11 are new, 12 has two."""
    for person, count in {1: 3, 3: 3, 10: 5, 11: 4, 12: 2}.items():
        for number in range(count):
            _picture(tmp_path / "pile" / f"{number}" / f"{person}, again.png", person, 10 + number)
    (tmp_path / "pile" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "pile"


def _listed(teacher: Any, pile: Path, labelled: tuple[Listing, Listing], out: Path, **how: Any) -> Any:
    opened = open_pile(pile, set(picture_places(labelled[0].source)))
    return pseudo_listing(teacher, how.pop("at", _AT), opened, labelled, out, least=how.pop("least", 3))


def _whose(listing: Listing) -> dict[str, int]:
    names = [listing.source.name(row) for row in listing.rows.tolist()]
    return dict(zip(names, listing.labels.tolist(), strict=True))


def test_the_list_says_who_is_where_and_training_takes_it(
    labelled: tuple[Listing, Listing], pile: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listing, line = _listed(Pixels(), pile, labelled, tmp_path / "run")
    with (tmp_path / "run" / "pseudo.csv").open(newline="") as file:
        rows = {row["path"]: row["identity"] for row in csv.DictReader(file)}
    assert rows == {
        **{f"{number}/1, again.png": "p1" for number in range(3)},
        **{f"{number}/10, again.png": "pseudo-000001" for number in range(5)},
        **{f"{number}/11, again.png": "pseudo-000002" for number in range(4)},
    }
    order = sorted(set(rows.values()))
    assert _whose(listing) == {path: order.index(name) for path, name in rows.items()}
    assert listing.classes == 3
    assert line.startswith(
        "pile: 18 pictures, and 0 that are labelled; at similarity 0.500 (false accept rate 0.001) 12 of them"
        " show 3 people, 1 of whom are known; 6 are left out: 3 resemble people who are held out, 1 cannot be"
        " read, the others are in groups below 3"
    )
    assert "broken.png" in caplog.text
    settings = DataSettings(data=tmp_path / "run" / "pseudo.csv", images=pile, heldout=0)
    assert _whose(read_listing(settings)[0]) == _whose(listing)


def test_it_is_found_again_with_what_people_changed(
    labelled: tuple[Listing, Listing], pile: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    _, line = _listed(Pixels(), pile, labelled, out)
    table = out / "pseudo.csv"
    kept = [text for text in table.read_text().splitlines() if ",p1" not in text]
    table.write_text("\n".join(kept), encoding="utf-8-sig")  # as spreadsheets do
    teacher = Pixels()
    again, told = _listed(teacher, pile, labelled, out)
    assert (teacher.seen, len(again), again.classes) == (0, 9, 2)
    assert told == f"{line}; left in pseudo.csv are 9, of 2 people"
    lower, _ = _listed(teacher, pile, labelled, out, least=2)  # other groups of the same embeddings
    assert (teacher.seen, len(lower), lower.classes) == (0, 14, 4)
    _picture(pile / "9" / "more.png", 11, 9)
    more, _ = _listed(teacher, pile, labelled, out)
    assert (teacher.seen, len(more)) == (18, 13)
    other = Pixels("another network")
    _listed(other, pile, labelled, out)
    assert other.seen == 18 + 12


def test_other_pictures_of_the_same_names_are_embedded_anew_and_the_list_before_stays(
    labelled: tuple[Listing, Listing], pile: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    _listed(Pixels(), pile, labelled, out)
    before = (out / "pseudo.csv").read_bytes()
    for number in range(4):
        _picture(pile / f"{number}" / "11, again.png", 20 + number, 0)  # four strangers
    teacher = Pixels()
    again, _ = _listed(teacher, pile, labelled, out)
    assert (teacher.seen, len(again)) == (17, 8)
    assert (out / "pseudo-before-1.csv").read_bytes() == before
    assert "pseudo.csv: was made of other pictures or settings; it is now pseudo-before-1.csv" in caplog.text
    _listed(teacher, pile, labelled, out, least=2)
    assert (teacher.seen, len([*out.glob("pseudo-before-*")])) == (17, 2)


def test_other_names_of_the_same_pictures_make_another_list(
    labelled: tuple[Listing, Listing], pile: Path, tmp_path: Path
) -> None:
    _listed(Pixels(), pile, labelled, tmp_path / "run")
    source = dataclasses.replace(labelled[0].source, people=["p0", "renamed", "p2", "p3"])
    teacher = Pixels()
    again = tuple(dataclasses.replace(part, source=source) for part in labelled)
    _listed(teacher, pile, again, tmp_path / "run")
    assert teacher.seen == 0
    assert ",renamed" in (tmp_path / "run" / "pseudo.csv").read_text()


def test_a_picture_that_is_listed_again_is_one(labelled: tuple[Listing, Listing], pile: Path) -> None:
    lines = ["0/10, again.png", "0/11, again.png", *["0/10, again.png"] * 3]
    table = pile / "pile.csv"
    table.write_text("\n".join(["path", *(f'"{line}"' for line in lines)]))
    opened = open_pile(table, set(picture_places(labelled[0].source)))
    assert [opened.source.name(row) for row in opened.rows.tolist()] == lines[:2]


def test_an_interrupted_pass_goes_on_where_it_was(
    labelled: tuple[Listing, Listing], pile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = _listed(Pixels(), pile, labelled, tmp_path / "whole")
    monkeypatch.setattr(embedded, "_PART", 5)
    teacher, embed = Pixels(), Pixels.embed

    def stopped(crops: Tensor) -> Tensor:
        if teacher.seen >= 10:
            raise KeyboardInterrupt
        return embed(teacher, crops)

    teacher.embed = stopped
    with pytest.raises(KeyboardInterrupt):
        _listed(teacher, pile, labelled, tmp_path / "run")
    files = sorted((tmp_path / "run" / "embedded" / "pile").iterdir())
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:100])  # and one was damaged meanwhile
    again = Pixels()
    parts, _ = _listed(again, pile, labelled, tmp_path / "run")
    assert again.seen == 17 + 12 - 5
    assert _whose(parts) == _whose(whole)


def test_processes_share_the_pass_and_one_reads_it_back(
    labelled: tuple[Listing, Listing], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, rows = labelled[0].source, torch.arange(12)
    monkeypatch.setattr(embedded, "_PART", 5)
    monkeypatch.setattr(processes, "world", lambda: 2)
    for rank, there in ((1, 1), (0, 3)):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        files = embed_pictures(Pixels(), source, rows, tmp_path / "run")
        assert sum(file.exists() for file in files) == there  # not read by the others
    vectors, places = read_embedded(files)
    assert places.tolist() == [*range(12)]
    whole = torch.stack([decode_crop(source, row, 112) for row in range(12)])
    np.testing.assert_allclose(vectors, Pixels().embed(whole).numpy(), atol=1e-6)


def test_of_an_archive_pictures_are_named_by_their_place(
    labelled: tuple[Listing, Listing], pile: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = sorted(pile.glob("*/*.png"))
    write_shard(tmp_path / "pile.tar", [(7, ".png", path.read_bytes()) for path in pictures])
    listing, _ = _listed(Pixels(), tmp_path / "pile.tar", labelled, tmp_path / "run")
    assert (len(listing), listing.classes) == (12, 3)
    assert "pile.tar: an archive, of which nobody can tell" in caplog.text
    assert all(name.startswith("pile.tar, byte ") for name in _whose(listing))


def test_labelled_pictures_are_no_part_of_a_pile(labelled: tuple[Listing, Listing], pile: Path) -> None:
    (pile.parent / ".link").symlink_to(pile.parent)
    opened = open_pile(
        pile.parent / ".link", set(picture_places(labelled[0].source))
    )  # the folder that holds both
    names = {opened.source.name(row) for row in opened.rows.tolist()}
    assert opened.labelled == 12
    assert names == {path.relative_to(pile.parent).as_posix() for path in pile.rglob("*.png")}


def test_a_pile_of_labelled_pictures_alone_is_refused(labelled: tuple[Listing, Listing]) -> None:
    root = labelled[0].source.root
    for inside in (root, root / "p1"):
        with pytest.raises(
            TrainingError, match=r"unlabelled=.*all of its \d+ pictures are among the labelled"
        ):
            open_pile(inside, set(picture_places(labelled[0].source)))


def test_a_pile_that_is_not_there_is_refused(labelled: tuple[Listing, Listing], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nowhere"):
        open_pile(tmp_path / "nowhere", set())


def test_unreadable_pictures_alone_are_refused(labelled: tuple[Listing, Listing], tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
    with pytest.raises(TrainingError, match="pile: no picture can be read"):
        _listed(Pixels(), tmp_path / "bad", labelled, tmp_path / "run")


@pytest.mark.parametrize(
    "damage",
    [
        "path,identity\nelsewhere.png,x\n",
        "name\nx\n",
        "path,identity\n",
        "\0",
        'path,identity\n"0/10, again.png"\n',
        'path,identity\n"0/10, again.png",\n',
        'path,identity\n"0/10, again.png",a\n"0/11, again.png",b\n"0/10, again.png",b\n',
    ],
)
def test_a_list_that_is_none_of_the_pile_is_refused(
    labelled: tuple[Listing, Listing], pile: Path, tmp_path: Path, damage: str
) -> None:
    _listed(Pixels(), pile, labelled, tmp_path / "run")
    (tmp_path / "run" / "pseudo.csv").write_text(damage)
    with pytest.raises(TrainingError, match=r"pseudo.csv: .*; mend or delete it"):
        _listed(Pixels(), pile, labelled, tmp_path / "run")


def test_what_it_was_made_of_may_be_lost(
    labelled: tuple[Listing, Listing], pile: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    _listed(Pixels(), pile, labelled, out)
    for damage in ("", "[]", json.dumps({"made_of": 3})):
        (out / "pseudo.json").write_text(damage)
        assert len(_listed(Pixels(), pile, labelled, out)[0]) == 12
    assert torch.equal(*(_listed(Pixels(), pile, labelled, out)[0].labels for _ in range(2)))
