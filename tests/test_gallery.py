"""Galleries: adding, removing, open-set search, threads, saving, loading, strangers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facekit.enrolment import Sample, Skipped
from facekit.errors import DeviceError, GalleryError, MismatchError, SettingError
from facekit.gallery import ALIGNED, Gallery
from facekit.vectorfile import write_vectors

DIM = 16


def unit(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def empty() -> Gallery:
    return Gallery(checkpoint="net-1", detector="mtcnn-1", dim=DIM)


@pytest.fixture
def gallery() -> Gallery:
    """Ann with two samples, Bob and Cid with one."""
    gallery = empty()
    gallery.add("Ann", unit(4)[:2], source="ann.jpg")
    gallery.add("Bob", unit(4)[2], source="bob.jpg")
    gallery.add("Cid", unit(4)[3])
    return gallery


# ---------------------------------------------------------------- contents


def test_reads_like_a_mapping_of_people(gallery: Gallery) -> None:
    assert len(gallery) == 3
    assert list(gallery) == ["Ann", "Bob", "Cid"] == list(gallery.people)
    assert "Ann" in gallery
    assert "Dan" not in gallery
    assert np.array_equal(gallery["Ann"], unit(4)[:2])
    assert np.array_equal(gallery["Bob"], unit(4)[2:3])
    with pytest.raises(KeyError):
        gallery["Dan"]
    assert gallery.samples[2] == Sample("Bob", "bob.jpg")
    assert np.array_equal(gallery.vectors, unit(4))
    assert "Ann" not in repr(gallery)
    assert "3 people, 4 samples, net-1, mtcnn-1" in repr(gallery)


def test_what_is_given_and_taken_is_not_shared(gallery: Gallery) -> None:
    mine = unit(1, seed=5)
    gallery.add("Dan", mine)
    mine[:] = 0
    gallery["Dan"][:] = 0
    assert np.array_equal(gallery["Dan"], unit(1, seed=5))
    with pytest.raises(ValueError, match="read-only"):
        gallery.vectors[0] = 0
    alone = empty()
    alone.add("Dan", unit(1))
    assert not alone.vectors.flags.writeable


def test_embeddings_of_any_floating_kind(gallery: Gallery) -> None:
    gallery.add("Dan", torch.from_numpy(unit(2, seed=6)))
    gallery.add("Eve", unit(1, seed=7).astype(np.float16))
    assert gallery.vectors.dtype == np.float32
    assert gallery.search(unit(1, seed=7)[0])[0].person == "Eve"


def test_remove_a_person_or_a_sample(gallery: Gallery) -> None:
    gallery.add("Ann", unit(1, seed=1), source="other.jpg")
    assert gallery.remove("Ann", source="ann.jpg") == 2
    assert np.array_equal(gallery["Ann"], unit(1, seed=1))
    assert gallery.remove("Bob") == 1
    assert gallery.people == ("Cid", "Ann")
    assert [match.person for match in gallery.search(unit(4)[2])] != ["Bob"]
    for person, source in (("Bob", None), ("Ann", "ann.jpg")):
        with pytest.raises(SettingError, match=f"{person}.*not in the gallery"):
            gallery.remove(person, source=source)
    gallery.remove("Cid")
    gallery.remove("Ann")
    assert gallery.search(unit(1)[0]) == []
    gallery.add("Ann", unit(1))
    assert len(gallery) == 1


def test_a_change_is_seen_by_the_next_search(gallery: Gallery) -> None:
    probe = unit(1, seed=9)[0]
    before = gallery.search(probe)
    gallery.add("Dan", probe)
    assert gallery.search(probe)[0].person == "Dan"
    gallery.remove("Dan")
    assert gallery.search(probe) == before


def test_change_in_one_step(gallery: Gallery) -> None:
    skip = Skipped("Dan", "dan.jpg", "no face", "NoFaceError", "1")
    gallery.change(
        forget={("Ann", "ann.jpg")}, add=[Sample("Ann", "new.jpg", "2")], embeddings=unit(1), skipped=[skip]
    )
    assert [sample.key for sample in gallery.samples] == [("Bob", "bob.jpg"), ("Cid", ""), ("Ann", "new.jpg")]
    assert gallery.skipped == (skip,)
    gallery.change(forget={skip.key})
    assert gallery.skipped == ()


@pytest.mark.parametrize(
    ("embeddings", "problem"),
    [
        (np.ones((2, DIM), np.float32), "embedding 0 has length 4"),
        (unit(2) * [[1], [0]], "embedding 1 has length 0"),
        (unit(1) * np.nan, "has length nan"),
        (unit(2)[:, :8], r"\(2, 16\) expected, got float32 \(2, 8\)"),
        (np.ones((1, DIM), np.int64), "got int64"),
        (unit(2)[None], r"got float32 \(1, 2, 16\)"),
    ],
)
def test_what_is_no_embedding_changes_nothing(gallery: Gallery, embeddings: Any, problem: str) -> None:
    with pytest.raises(SettingError, match=problem):
        gallery.add("Dan", embeddings)
    assert len(gallery.samples) == len(gallery.vectors) == 4
    with pytest.raises(SettingError, match="without a name"):
        gallery.add("", unit(1))
    with pytest.raises(SettingError, match="probe"):
        gallery.search_many(np.ones((2, DIM), np.float32))
    with pytest.raises(SettingError, match="probe"):
        gallery.search(unit(2))
    with pytest.raises(SettingError, match="top_k is 0"):
        gallery.search(unit(1)[0], top_k=0)


@pytest.mark.parametrize("name", ["person", "source", "stamp"])
def test_what_could_not_be_loaded_again_is_not_taken(gallery: Gallery, name: str) -> None:
    values: dict[str, Any] = {"person": "Dan", "source": "", "stamp": "", name: None}
    with pytest.raises(SettingError, match=rf"{name}: None .*give a text"):
        gallery.change(add=[Sample(**values)], embeddings=unit(1))
    with pytest.raises(SettingError, match=rf"{name}: None .*give a text"):
        gallery.change(skipped=[Skipped(reason="", kind="", **values)])
    assert (len(gallery.samples), gallery.skipped) == (4, ())


def test_a_source_may_be_a_path(gallery: Gallery, tmp_path: Path) -> None:
    gallery.add("Dan", unit(1), source=tmp_path / "dan.jpg")
    gallery.save(tmp_path / "a.gallery")
    assert Gallery.load(tmp_path / "a.gallery").samples[-1].source == str(tmp_path / "dan.jpg")
    with pytest.raises(SettingError, match="source: None"):
        gallery.add("Dan", unit(1), source=None)


# ---------------------------------------------------------------- search


@pytest.mark.parametrize("wrong", ["3", None, 2.5, True, 0])
def test_top_k_is_a_whole_number(gallery: Gallery, wrong: Any) -> None:
    with pytest.raises(SettingError, match=r"top_k is .* at least 1"):
        gallery.search(unit(1)[0], top_k=wrong)


@pytest.mark.parametrize("wrong", ["0.5", float("nan"), True, [0.5]])
def test_a_threshold_is_a_number(gallery: Gallery, wrong: Any) -> None:
    for ask in (gallery.search, gallery.identify):
        with pytest.raises(SettingError, match=r"threshold: .* is not a similarity"):
            ask(unit(1)[0], threshold=wrong)
    with pytest.raises(SettingError, match="threshold: None is not a similarity"):
        gallery.identify(unit(1)[0], None)


@pytest.mark.parametrize("wrong", [None, "probe", [[1.0], [1.0, 2.0]], 3])
def test_what_is_no_probe(gallery: Gallery, wrong: Any) -> None:
    for ask in (gallery.search, gallery.search_many):
        with pytest.raises(SettingError, match=r"probe: floating .* expected"):
            ask(wrong)


def test_tensors_of_training_are_probes(gallery: Gallery) -> None:
    probe = torch.from_numpy(unit(4)[2])
    for tensor in (probe.clone().requires_grad_(), probe.bfloat16(), probe.half()):
        assert gallery.search(tensor)[0].person == "Bob"


def test_search(gallery: Gallery) -> None:
    probe = unit(4)[1]
    matches = gallery.search(probe, top_k=2)
    assert [match.rank for match in matches] == [1, 2]
    assert (matches[0].person, matches[0].source) == ("Ann", "ann.jpg")
    assert matches[0].similarity == pytest.approx(1)
    assert next(person for person, _ in gallery.search(probe, top_k=9)) == "Ann"
    assert len(gallery.search(probe, top_k=9)) == 3
    assert gallery.search(probe, threshold=matches[0].similarity) == matches[:1]
    assert gallery.search(-probe, threshold=0.99) == []


def test_many_probes_at_once(gallery: Gallery) -> None:
    probes = unit(300, seed=3)
    assert gallery.search_many(probes) == [gallery.search(probe) for probe in probes]
    assert gallery.identify_many(probes, 0.3) == [gallery.identify(probe, 0.3) for probe in probes]
    assert gallery.search_many(unit(0)) == []


def test_open_set(gallery: Gallery) -> None:
    probe = unit(4)[2]
    similarity = gallery.search(probe)[0].similarity
    known = gallery.identify(probe, similarity)  # inclusive
    assert (known.person, str(known), bool(known)) == ("Bob", "Bob", True)
    stranger = gallery.identify(probe, np.nextafter(similarity, 2))
    assert (stranger.person, f"{stranger}", bool(stranger)) == (None, "unknown", False)
    assert stranger.best == known.best
    nobody = empty().identify(probe, 0.5)
    assert (nobody.person, nobody.best, str(nobody)) == (None, None, "unknown")


def test_equal_samples_are_ranked_by_their_enrolment() -> None:
    gallery = empty()
    for person in ("Bob", "Ann", "Cid"):
        gallery.add(person, unit(1))
    for _ in range(3):
        assert [match.person for match in gallery.search(unit(1)[0])] == ["Bob", "Ann", "Cid"]


def test_many_small_additions_stay_cheap() -> None:
    gallery = empty()
    vectors = unit(3000)
    for number, vector in enumerate(vectors):
        gallery.add(str(number), vector)
    assert np.array_equal(gallery.vectors, vectors)
    assert gallery.search(vectors[1234])[0].person == "1234"


def test_searches_beside_changes(gallery: Gallery) -> None:
    """Each search sees everything that one change did, or nothing of it: Dan and Eve come and go together."""
    probe = unit(1, seed=9)[0]
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            gallery.change(add=[Sample("Dan"), Sample("Eve")], embeddings=np.stack([probe, probe]))
            gallery.change(forget={("Dan", ""), ("Eve", "")})

    def search() -> set[tuple[str, ...]]:
        return {tuple(match.person for match in gallery.search(probe, threshold=0.99)) for _ in range(100)}

    with ThreadPoolExecutor(4) as pool:
        changing = pool.submit(change)
        seen = set().union(*(future.result() for future in [pool.submit(search) for _ in range(3)]))
        stop.set()
        changing.result()
    assert seen <= {(), ("Dan", "Eve")}


def test_a_device_that_is_not_there(gallery: Gallery, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("CUDA is there")
    gallery.save(tmp_path / "a.gallery")
    with pytest.raises(DeviceError, match="cuda"):
        Gallery.load(tmp_path / "a.gallery", device="cuda")


@pytest.mark.gpu
def test_the_gpu_finds_the_same(tmp_path: Path) -> None:
    gallery = empty()
    for number, vector in enumerate(unit(5000)):
        gallery.add(str(number // 3), vector)
    gallery.save(tmp_path / "a.gallery")
    on_gpu = Gallery.load(tmp_path / "a.gallery", device="cuda")
    assert on_gpu.search_many(unit(100, seed=1)) == gallery.search_many(unit(100, seed=1))


# ---------------------------------------------------------------- files


def test_save_and_load(gallery: Gallery, tmp_path: Path) -> None:
    gallery.change(skipped=[Skipped("Dän", "d\udcff.jpg", "no face", "NoFaceError", "1")])
    gallery.change(add=[Sample("Zoë", "z.jpg", "largest 1-2")], embeddings=unit(1, seed=4))
    gallery.save(tmp_path / "a.gallery")
    loaded = Gallery.load(str(tmp_path / "a.gallery"))
    assert (loaded.samples, loaded.skipped) == (gallery.samples, gallery.skipped)
    assert (loaded.checkpoint, loaded.detector, loaded.dim) == ("net-1", "mtcnn-1", DIM)
    assert isinstance(loaded.vectors, np.memmap)
    assert np.array_equal(loaded.vectors, gallery.vectors)
    assert loaded.search_many(unit(50, seed=2)) == gallery.search_many(unit(50, seed=2))
    assert isinstance(loaded.vectors, np.memmap)


def test_a_loaded_gallery_can_be_changed_and_saved_in_place(gallery: Gallery, tmp_path: Path) -> None:
    gallery.save(tmp_path / "a.gallery")
    loaded = Gallery.load(tmp_path / "a.gallery")
    loaded.remove("Ann")
    loaded.add("Dan", unit(1, seed=5))
    loaded.save(tmp_path / "a.gallery")
    again = Gallery.load(tmp_path / "a.gallery")
    assert again.people == ("Bob", "Cid", "Dan")
    assert np.array_equal(again["Dan"], unit(1, seed=5))


def test_an_empty_gallery_is_kept(tmp_path: Path) -> None:
    empty().save(tmp_path / "a.gallery")
    loaded = Gallery.load(tmp_path / "a.gallery")
    assert (len(loaded), loaded.dim, loaded.search(unit(1)[0])) == (0, DIM, [])


def test_strangers_are_refused(gallery: Gallery, tmp_path: Path) -> None:
    gallery.require("net-1", "mtcnn-1")
    gallery.require("net-1", ALIGNED)
    with pytest.raises(MismatchError, match="checkpoint net-1, not net-2"):
        gallery.require("net-2", "mtcnn-1")
    with pytest.raises(MismatchError, match="detector mtcnn-1, not mtcnn-2"):
        gallery.require("net-1", "mtcnn-2")
    gallery.save(tmp_path / "a.gallery")
    with pytest.raises(MismatchError, match=r"a\.gallery: made by checkpoint net-1, not net-2"):
        Gallery.load(tmp_path / "a.gallery").require("net-2", "mtcnn-1")
    Gallery(checkpoint="net-1", detector=ALIGNED, dim=DIM).require("net-1", "mtcnn-2")


def test_a_gallery_cut_in_half(gallery: Gallery, tmp_path: Path) -> None:
    path = tmp_path / "a.gallery"
    gallery.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(GalleryError, match="not a readable gallery") as caught:
        Gallery.load(path)
    assert caught.value.path == str(path)


METADATA = {"format": "facekit gallery", "version": "1", "checkpoint": "net-1", "detector": "mtcnn-1"}
SOUND: dict[str, Any] = {"people": ["Ann"], "samples": [[0, "a.jpg", ""]], "skipped": []}


def test_the_table_by_hand_is_sound(tmp_path: Path) -> None:
    write_vectors(tmp_path / "a", unit(1), SOUND, METADATA)
    assert Gallery.load(tmp_path / "a").people == ("Ann",)


@pytest.mark.parametrize(
    "damage",
    [
        {"people": []},
        {"people": 7},
        {"people": [7]},
        {"people": None},
        {"samples": []},
        {"samples": [[0, "a.jpg"]]},
        {"samples": [["0", "a.jpg", ""]]},
        {"samples": [[0, 1, ""]]},
        {"samples": [[9, "a.jpg", ""]]},
        {"skipped": [["Ann", "a.jpg"]]},
        {"skipped": [["Ann", "a.jpg", None, "", ""]]},
        {"skipped": 1},
        None,
    ],
)
def test_a_damaged_table(tmp_path: Path, damage: dict[str, Any] | None) -> None:
    path = tmp_path / "a"
    write_vectors(path, unit(1), None if damage is None else {**SOUND, **damage}, METADATA)
    with pytest.raises(GalleryError, match=r"a: its table is damaged: .*; restore a copy") as caught:
        Gallery.load(path)
    assert "\n" not in str(caught.value)


def test_damaged_vectors_are_noticed_when_they_are_searched(tmp_path: Path) -> None:
    vectors = unit(5)
    vectors[3] = 0
    table = {**SOUND, "samples": [[0, "a.jpg", ""]] * 5}
    write_vectors(tmp_path / "a", vectors, table, METADATA)
    with pytest.raises(GalleryError, match=r"a: its vectors are damaged: vectors\[3\]"):
        Gallery.load(tmp_path / "a").search(unit(1)[0])


@pytest.mark.parametrize("change", [{"format": "other"}, {"version": "2"}])
def test_files_of_others(tmp_path: Path, change: dict[str, str]) -> None:
    write_vectors(tmp_path / "a", unit(1), SOUND, {**METADATA, **change})
    with pytest.raises(GalleryError, match="not a facekit gallery of version 1"):
        Gallery.load(tmp_path / "a")
