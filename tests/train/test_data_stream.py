"""The same pictures out of every kind of source, in memory and streamed; broken ones; a run that goes on."""

from __future__ import annotations

import io
import os
import signal
import tarfile
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import facekit.models
from facekit.errors import FacekitError, TrainingError
from facekit.models.faceresnet import FaceResNet
from facekit.train.config import DataSettings, OptimSettings, RunSettings
from facekit.train.data import decode_crop, load_crops, read_listing, shuffled_rows
from facekit.train.loop import fit
from facekit.train.recipes.convrec import ConvRecSettings, build_recipe
from facekit.train.sources.recordio import write_records
from facekit.train.stream import Stream, open_crops

_PEOPLE, _EACH = 5, 4


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Five people, four pictures each, in every form that --data takes."""
    root = tmp_path_factory.mktemp("sources")
    rng = np.random.default_rng(0)
    pictures: list[tuple[int, bytes]] = []
    for person in range(_PEOPLE):
        (root / "folder" / f"{person}").mkdir(parents=True)
        for number in range(_EACH):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(file, "png")
            (root / "folder" / f"{person}" / f"{number}.png").write_bytes(file.getvalue())
            pictures.append((person, file.getvalue()))
    write_records(root / "x.rec", pictures)
    (root / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(root / "shards" / f"{shard}.tar", "w") as archive:
            for number, (person, content) in enumerate(pictures[shard::2]):
                for name, data in [(f"{number}.png", content), (f"{number}.cls", b"%d" % person)]:
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    rows = [f"folder/{who}/{number}.png,{who}" for who in range(_PEOPLE) for number in range(_EACH)]
    (root / "x.csv").write_text("path,identity\n" + "\n".join(rows))
    names = {"folder": "folder", "csv": "x.csv", "rec": "x.rec", "shards": "shards", "tar": "shards/0.tar"}
    return {kind: root / name for kind, name in names.items()}


def _stream(data: Path, *, workers: int = 0) -> Stream:
    crops = open_crops(
        read_listing(DataSettings(data=data, heldout=0, keep_gb=0, workers=workers))[0], 24, pin=False,
        settings=DataSettings(data=data, keep_gb=0, workers=workers),
    )  # fmt: skip
    assert isinstance(crops, Stream)
    return crops


def _table(pictures: Tensor, labels: Tensor) -> list[tuple[int, bytes]]:
    return sorted(
        (int(label), picture.numpy().tobytes()) for picture, label in zip(pictures, labels, strict=True)
    )


@pytest.mark.parametrize("kind", ["folder", "csv", "rec", "shards"])
def test_every_source_gives_the_same_pictures_of_the_same_people(sources: dict[str, Path], kind: str) -> None:
    expected = load_crops(
        read_listing(DataSettings(data=sources["folder"], heldout=0))[0], 24, progress=False
    )
    crops = load_crops(read_listing(DataSettings(data=sources[kind], heldout=0))[0], 24, progress=False)
    assert (len(crops), crops.classes) == (_PEOPLE * _EACH, _PEOPLE)
    assert _table(crops.pictures, crops.labels) == _table(expected.pictures, expected.labels)


def test_one_shard_is_a_source(sources: dict[str, Path]) -> None:
    assert len(read_listing(DataSettings(data=sources["tar"], heldout=0))[0]) == _PEOPLE * _EACH // 2


@pytest.mark.parametrize("kind", ["folder", "rec", "shards"])
def test_people_are_kept_aside_from_any_source(sources: dict[str, Path], kind: str) -> None:
    train, heldout = read_listing(DataSettings(data=sources[kind], heldout=0.4))
    assert (train.classes, len(train), heldout.classes, len(heldout)) == (3, 12, 2, 8)
    who = [set(part.source.person[part.rows].tolist()) for part in (train, heldout)]
    assert who == [{1, 2, 3}, {0, 4}]
    assert train.labels.unique().tolist() == [0, 1, 2]


def test_streamed_batches_are_those_in_memory(sources: dict[str, Path]) -> None:
    crops = load_crops(read_listing(DataSettings(data=sources["rec"], heldout=0))[0], 24, progress=False)
    stream = _stream(sources["rec"])
    for epoch in range(2):
        order = shuffled_rows(len(crops), 6, seed=3, epoch=epoch)
        for expected, batch in zip(crops.batches(order), stream.batches(order), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(expected, batch, strict=True))


def test_worker_processes_give_the_same_and_outlive_an_epoch_that_is_broken_off(
    sources: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = _with_broken_picture(sources["folder"], tmp_path)
    order = shuffled_rows(_PEOPLE * _EACH, 4, seed=0, epoch=0)
    expected = list(_stream(data).batches(order))
    caplog.clear()
    stream = _stream(data, workers=2)
    for skip in (0, 2, 0):
        batches = stream.batches(order[skip:])
        next(batches)
        if skip:
            batches.close()
            continue
        for at, batch in enumerate(batches, start=1):
            assert all(torch.equal(a, b) for a, b in zip(expected[at], batch, strict=True))
    assert len(caplog.messages) == 1
    assert "3.png" in caplog.text
    pids = [worker.pid for worker in stream._batches._iterator._workers]
    os.kill(pids[0], 9)
    with pytest.raises(TrainingError, match="fewer --workers"):
        list(stream.batches(order))


def _with_broken_picture(folder: Path, tmp_path: Path) -> Path:
    for path in folder.rglob("*.png"):
        copy = tmp_path / "data" / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (tmp_path / "data" / "1" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    return tmp_path / "data"


def test_broken_picture_is_reported_once_and_others_stand_in(
    sources: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream = _stream(_with_broken_picture(sources["folder"], tmp_path))
    for epoch in range(3):
        batches = list(stream.batches(shuffled_rows(len(stream), 5, seed=0, epoch=epoch)))
        assert [len(pictures) for pictures, *_ in batches] == [5] * 4
        assert sum(int((labels == 1).sum()) for _, labels, _ in batches) <= _EACH
    assert len(caplog.messages) == 1
    assert "3.png" in caplog.text


def test_batch_of_broken_pictures_stops_the_run(sources: dict[str, Path], tmp_path: Path) -> None:
    stream = _stream(_with_broken_picture(sources["folder"], tmp_path))
    broken = torch.tensor([_EACH * 2 - 1])
    with pytest.raises(TrainingError, match=r"whole batch.*3\.png"):
        list(stream.batches([broken]))


def test_crops_stay_in_memory_up_to_the_limit(sources: dict[str, Path]) -> None:
    listing = read_listing(DataSettings(data=sources["folder"], heldout=0))[0]
    size = len(listing) * 24 * 24 * 3 / 1e9
    for limit, streamed in [(size, False), (size * 0.99, True)]:
        settings = DataSettings(data=sources["folder"], keep_gb=limit, workers=0)
        assert isinstance(open_crops(listing, 24, settings, pin=False), Stream) == streamed


@pytest.mark.parametrize(("name", "value"), [("keep_gb", -1.0), ("workers", -1), ("workers", 100_000)])
def test_bad_settings_are_named(tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(FacekitError, match=f"{name}={value}"):
        DataSettings(data=tmp_path, **{name: value})


@pytest.mark.parametrize("name", ["x.rec", "x.tar", "x.csv", "x"])
def test_what_is_not_there_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(FacekitError, match=name) as caught:
        read_listing(DataSettings(data=tmp_path / name))
    assert "\n" not in str(caught.value)


def test_streamed_run_goes_on_in_the_middle_of_an_epoch(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it has seen is not decoded again."""
    small = partial(FaceResNet, widths=(16, 32), depths=(1, 1), stem_width=16, embedding_dim=32)
    known = MappingProxyType({**facekit.models.ARCHITECTURES, "faceresnet": small})
    monkeypatch.setattr(facekit.models, "ARCHITECTURES", known)
    decoded: list[int] = []
    monkeypatch.setattr(
        "facekit.train.stream.decode_crop",
        lambda source, row, size: decoded.append(row) or decode_crop(source, row, size),
    )
    settings = ConvRecSettings(
        data=DataSettings(data=sources["rec"], heldout=0, keep_gb=0, workers=0),
        run=RunSettings(out=tmp_path, epochs=2, batch_size=4, device="cpu", precision="fp32"),
        optim=OptimSettings(),
        architecture="faceresnet",
    )
    recipe = build_recipe(settings)
    seen: list[list[int]] = []

    def step(batch: tuple[Tensor, ...], at: object) -> dict[str, Tensor]:
        seen.append(batch[1].tolist())
        if len(seen) == 7:
            signal.raise_signal(signal.SIGINT)
        return {"loss": sum(parameter.sum() for parameter in recipe.modules.parameters()) * 0.0}

    object.__setattr__(recipe, "step", step)
    object.__setattr__(recipe, "export", lambda folder, scores: None)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, settings.run, settings.optim)
    assert len(decoded) == 7 * 4
    fit(recipe, settings.run, settings.optim)
    assert len(decoded) == (7 + 3) * 4
    labels = read_listing(settings.data)[0].labels
    whole = [labels[rows].tolist() for epoch in (0, 1) for rows in shuffled_rows(20, 4, seed=0, epoch=epoch)]
    assert seen == whole


def test_photographs_are_not_taken_for_crops(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "a" / "photo.png")
    Image.new("RGB", (48, 48)).save(tmp_path / "a" / "crop.png")
    (tmp_path / "b").mkdir()
    Image.new("RGB", (48, 48)).save(tmp_path / "b" / "crop.png")
    assert len(load_crops(read_listing(DataSettings(data=tmp_path, heldout=0))[0], 24, progress=False)) == 2
    assert "a/photo.png: 64 x 48 is no aligned face crop; facekit data align" in caplog.text


def test_a_persons_pictures_may_lie_deeper(tmp_path: Path) -> None:
    """As galleries and evaluations take them: a/x and b/x are not one person."""
    for place in ("a/x", "a/y", "b/x"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (24, 24)).save(tmp_path / place / "1.png")
    listing = read_listing(DataSettings(data=tmp_path, heldout=0))[0]
    assert listing.source.people == ["a", "b"]
    assert listing.labels.tolist() == [0, 0, 1]


def test_a_csv_from_a_spreadsheet_may_begin_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("path,identity\n1.png,a\n2.png,b\n", encoding="utf-8-sig")
    assert len(read_listing(DataSettings(data=tmp_path / "x.csv", heldout=0))[0]) == 2
