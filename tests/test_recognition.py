"""From pictures to verdicts, names and galleries; the usage of the original library, unchanged."""

from __future__ import annotations

import io
import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facekit import recognition as recognition_module
from facekit.checkpoint import Calibration, load_checkpoint, save_checkpoint
from facekit.enrolment import Sample
from facekit.errors import (
    CalibrationError,
    CheckpointError,
    DeviceError,
    GalleryError,
    ImageError,
    MismatchError,
    MultipleFacesError,
    NoFaceError,
    SettingError,
)
from facekit.gallery import ALIGNED, Gallery
from facekit.image import load_image
from facekit.recognition import FaceRecognition, Verification

TABLE = Calibration("nobody", 1000, 1000, {1e-1: 0.9, 1e-2: 0.99, 1e-3: 0.999})


@pytest.fixture(scope="session")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with thresholds so high that only equal pictures are the same person."""
    loaded = load_checkpoint(tiny_checkpoint)
    folder = tmp_path_factory.mktemp("calibrated") / "tiny"
    assert isinstance(loaded.model, torch.nn.Module)
    save_checkpoint(folder, loaded.model, replace(loaded.config, threshold=0.99, calibration=TABLE))
    return folder


@pytest.fixture(scope="module")
def fr(checkpoint: Path) -> FaceRecognition:
    return FaceRecognition(checkpoint, "cpu", precision="fp32")


@pytest.fixture(scope="module")
def people(pictures: Path) -> Path:
    return pictures / "people"


@pytest.fixture(scope="module")
def ann(people: Path) -> Path:
    return people / "P001" / "studio_portrait.jpg"


@pytest.fixture(scope="module")
def bob(people: Path) -> Path:
    return people / "P005" / "studio_portrait.jpg"


@pytest.fixture(scope="module")
def crowd(pictures: Path) -> Path:
    return pictures / "loose" / "many_faces.jpg"


@pytest.fixture
def wall(tmp_path: Path) -> Path:
    path = tmp_path / "wall.png"
    Image.new("RGB", (120, 90), "white").save(path)
    return path


@pytest.fixture(scope="module")
def gallery(fr: FaceRecognition, people: Path) -> Gallery:
    return fr.build_gallery(people)


@pytest.fixture
def album(tmp_path: Path, ann: Path, bob: Path) -> Path:
    """Small pictures of Ann and Bob that a test may change."""
    folder = tmp_path / "album"
    for person, path in (("Ann", ann), ("Bob", bob)):
        (folder / person).mkdir(parents=True)
        with Image.open(path) as picture:
            picture.resize((200, 200 * picture.height // picture.width)).save(folder / person / "1.png")
    return folder


# ---------------------------------------------------------------- one face, two faces


def test_an_embedding(fr: FaceRecognition, ann: Path) -> None:
    embedding = fr.extract_embedding(ann)
    assert (embedding.dtype, embedding.shape) == (np.float32, (64,))
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(embedding, fr.encode(ann)[0].faces[0].embedding)


def test_any_kind_of_image(fr: FaceRecognition, ann: Path) -> None:
    array = load_image(ann)
    with Image.open(ann) as picture:
        others: list[Any] = [str(ann), ann.read_bytes(), io.BytesIO(ann.read_bytes()), picture, array]
        for other in [*others, torch.from_numpy(array)]:
            assert fr.verify_faces(ann, other).similarity == pytest.approx(1, abs=1e-5)


def test_a_verdict_carries_what_it_rests_on(fr: FaceRecognition, ann: Path, bob: Path) -> None:
    result = fr.verify_faces(ann, bob, 0.5)
    a, b = result.faces
    assert result.similarity == pytest.approx(float(a.embedding @ b.embedding), abs=1e-6)
    assert result.threshold == 0.5
    assert result.far is None
    assert result.distance == 1 - result.similarity
    assert a.embedding @ fr.extract_embedding(ann) > 0.9999
    assert fr.verify_faces(ann, ann).is_same
    assert not fr.verify_faces(ann, bob, 0.9999)
    same = fr.verify_faces(ann, bob, result.similarity)  # inclusive
    assert same.is_same
    assert fr.are_same_person(ann, bob, threshold=result.similarity) is True
    assert fr.are_same_person(ann, bob, threshold=np.nextafter(result.similarity, 2)) is False


def test_a_verdict_reads_as_a_number_a_truth_and_a_dictionary(fr: FaceRecognition, ann: Path) -> None:
    faces = (fr.encode(ann)[0].faces[0],) * 2
    same, different = Verification(0.75, 0.5, 1e-3, faces), Verification(0.25, 0.5, None, faces)
    assert (f"{same:.3f}", f"{different:8.1%}", float(same)) == ("0.750", "   25.0%", 0.75)
    assert (bool(same), bool(different)) == (True, False)
    assert (same["is_same"], same["similarity"], same["threshold"], same["far"]) == (True, 0.75, 0.5, 1e-3)
    assert dict(same) == {name: same[name] for name in same.keys()}  # noqa: SIM118 - keys() is what is tested
    with pytest.raises(KeyError, match="to_dict"):
        same["to_dict"]
    assert str(same) == "same person: similarity 0.750 >= threshold 0.500 (false accept rate 0.001)"
    assert f"{different}" == "different people: similarity 0.250 < threshold 0.500"
    plain = json.loads(json.dumps(different.to_dict()))
    assert (plain["is_same"], plain["distance"], plain["far"]) == (False, 0.75, None)
    assert len(plain["faces"]) == 2


def test_thresholds(fr: FaceRecognition, tiny_checkpoint: Path, ann: Path) -> None:
    assert fr.verify_faces(ann, ann).threshold == 0.99
    assert fr.verify_faces(ann, ann).far == 1e-2
    asked = fr.verify_faces(ann, ann, far=1e-1)
    assert (asked.threshold, asked.far) == (0.9, 1e-1)
    assert fr.verify_faces(ann, ann, 0.2, far=1e-1).threshold == 0.2
    with pytest.raises(CalibrationError, match="1e-06 was not measured"):
        fr.verify_faces(ann, ann, far=1e-6)
    with pytest.raises(SettingError, match="threshold"):
        fr.are_same_person(ann, ann, 50)
    bare = FaceRecognition(tiny_checkpoint, "cpu")
    with pytest.raises(CalibrationError, match="give threshold="):
        bare.verify_faces("not even looked at", ann)
    assert bare.verify_faces(ann, ann, 0.5)


def test_many_faces_in_a_picture(fr: FaceRecognition, crowd: Path) -> None:
    faces = fr.encode(crowd)[0].faces
    assert len(faces) == 16
    largest = max(faces, key=lambda face: face.size)
    assert fr.extract_embedding(crowd) @ largest.embedding > 0.999
    best = fr.extract_embedding(crowd, faces="highest_score")
    assert best @ faces[0].embedding > 0.999
    for policy in ("error", "all"):
        with pytest.raises(MultipleFacesError, match="16 faces") as caught:
            fr.extract_embedding(crowd, faces=policy)
        assert caught.value.path == str(crowd)


def test_no_face(fr: FaceRecognition, ann: Path, wall: Path) -> None:
    for call in (
        lambda: fr.extract_embedding(wall),
        lambda: fr.verify_faces(ann, wall),
        lambda: fr.verify_faces(wall, ann),
    ):
        with pytest.raises(NoFaceError, match="no face found") as caught:
            call()
        assert caught.value.path == str(wall)


def test_aligned_crops_need_no_detector(checkpoint: Path) -> None:
    fr = FaceRecognition(checkpoint, "cpu", precision="fp32")
    crops = np.random.default_rng(0).integers(0, 255, (2, 112, 112, 3), dtype=np.uint8)
    assert fr.verify_faces(crops[0], crops[0], aligned=True).similarity == pytest.approx(1, abs=1e-5)
    expected = fr.encoder.embedder.embed(torch.from_numpy(crops).permute(0, 3, 1, 2)).numpy()
    assert fr.extract_embedding(crops[1], aligned=True) @ expected[1] > 0.9999
    gallery = fr.build_gallery({"Ann": crops[0], "Bob": crops[1]}, aligned=True)
    assert gallery.detector == ALIGNED
    assert fr.identify(crops[1], gallery, aligned=True).person == "Bob"
    assert "detector" not in vars(fr.encoder)


def test_errors_pass_through(fr: FaceRecognition, ann: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        fr.verify_faces(tmp_path / "none.jpg", ann)
    with pytest.raises(ImageError, match="is a folder"):
        fr.extract_embedding(tmp_path)
    with pytest.raises(ImageError):
        fr.extract_embedding(np.full((200, 200, 3), np.nan))
    with pytest.raises(SettingError, match="faces"):
        fr.extract_embedding(ann, faces="biggest")
    with pytest.raises(SettingError, match="precision"):
        FaceRecognition(checkpoint, "cpu", precision="fp8")
    with pytest.raises(CheckpointError):
        FaceRecognition(tmp_path / "none.pth")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="cuda"):
            FaceRecognition(checkpoint, "cuda")


def test_threads_may_share_one(fr: FaceRecognition, gallery: Gallery, people: Path) -> None:
    paths = sorted(people.glob("*/studio_portrait.jpg"))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda path: fr.identify(path, gallery), paths))
    assert [answer.person for answer in found] == [path.parent.name for path in paths]


# ---------------------------------------------------------------- the usage of the original library


def test_the_original_usage_runs_unchanged(
    checkpoint: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README of the original, line by line; only the import differs."""
    loaded = load_checkpoint(checkpoint)
    monkeypatch.setattr(recognition_module, "load_checkpoint", lambda path: loaded)
    monkeypatch.chdir(tmp_path)
    for person in ("person1", "person2"):
        (tmp_path / "data" / person).mkdir(parents=True)
    for source, target in (
        ("P001/studio_portrait", "person1/img1"),
        ("P001/amateur_selfie", "person1/img2"),
        ("P005/studio_portrait", "person2/img1"),
    ):
        shutil.copy(people / f"{source}.jpg", f"data/{target}.jpg")
    shutil.copy("data/person1/img1.jpg", "face1.jpg")
    shutil.copy("data/person1/img2.jpg", "face2.jpg")
    shutil.copy("data/person2/img1.jpg", "query.jpg")
    lines: list[str] = []
    script = """
from facekit import FaceRecognition
model = FaceRecognition('best_model.pth')
similarity = model.verify_faces('face1.jpg', 'face2.jpg')
print(f"Similarity: {similarity:.3f}")
is_same = model.are_same_person('face1.jpg', 'face2.jpg', threshold=0.5)
fr = FaceRecognition('best_model.pth')
result = fr.verify_faces('data/person1/img1.jpg', 'data/person1/img2.jpg')
print(f"Same person: {result['is_same']}")
print(f"Similarity: {result['similarity']:.3f}")
gallery = fr.build_gallery('data/')
results = fr.search_in_gallery('query.jpg', gallery, top_k=5)
for person, similarity in results:
    print(f"{person}: {similarity:.3f}")
"""
    exec(script, {"print": lines.append})
    assert lines[0].startswith("Similarity: ")
    assert lines[0] == lines[2]
    assert lines[1] in ("Same person: True", "Same person: False")
    assert lines[3].startswith("person2: 1.000")
    assert lines[4].startswith("person1: ")
    assert len(lines) == 5


# ---------------------------------------------------------------- galleries


def test_a_folder_of_people(gallery: Gallery, fr: FaceRecognition, bob: Path) -> None:
    assert gallery.people == ("P001", "P003", "P005", "P006", "P008")
    assert len(gallery.samples) == 15
    assert gallery.samples[3].source == "P003/amateur_outdoors.jpg"
    assert gallery.skipped == ()
    assert (gallery.checkpoint, gallery.detector) == (fr.config.fingerprint, fr.encoder.detector_fingerprint)
    best = fr.search_in_gallery(bob, gallery, top_k=3)[0]
    assert (best.person, best.source, best.rank) == ("P005", "P005/studio_portrait.jpg", 1)


def test_queries_may_be_embeddings(fr: FaceRecognition, gallery: Gallery, bob: Path) -> None:
    embedding = fr.extract_embedding(bob)
    expected = fr.search_in_gallery(bob, gallery)
    assert fr.search_in_gallery(embedding, gallery) == expected
    assert fr.search_in_gallery(torch.from_numpy(embedding), gallery, 5) == expected
    assert fr.identify(embedding, gallery) == fr.identify(bob, gallery)
    with pytest.raises(SettingError, match="probe"):
        fr.search_in_gallery(np.ones(64, np.float32), gallery)


def test_queries_may_be_tensors_of_training(fr: FaceRecognition, gallery: Gallery, bob: Path) -> None:
    embedding = torch.from_numpy(fr.extract_embedding(bob))
    for query in (embedding.clone().requires_grad_(), embedding.bfloat16()):
        assert fr.search_in_gallery(query, gallery)[0].person == "P005"


def test_open_set(fr: FaceRecognition, gallery: Gallery, bob: Path, pictures: Path) -> None:
    known = fr.identify(bob, gallery, far=1e-3)
    assert (known.person, known.threshold, known.far) == ("P005", 0.999, 1e-3)
    stranger = fr.identify(pictures / "astronaut.jpg", gallery, 0.9999)
    assert f"{stranger}" == "unknown"
    assert stranger.best is not None
    assert fr.search_in_gallery(pictures / "astronaut.jpg", gallery, threshold=0.9999) == []
    assert len(fr.search_in_gallery(pictures / "astronaut.jpg", gallery)) == 5


def test_loose_pictures_a_csv_and_a_mapping(fr: FaceRecognition, album: Path, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    for person in ("Ann", "Bob"):
        shutil.copy(album / person / "1.png", loose / f"{person}.png")
    (tmp_path / "people.csv").write_text("person,path\nAnn,loose/Ann.png\nBob,loose/Bob.png\n")
    mapping = {"Ann": loose / "Ann.png", "Bob": [load_image(loose / "Bob.png")]}
    expected = fr.build_gallery(album)
    for source in (loose, tmp_path / "people.csv", mapping):
        gallery = fr.build_gallery(source)
        assert gallery.people == ("Ann", "Bob")
        assert np.abs(gallery.vectors - expected.vectors).max() < 1e-5
    assert len(fr.build_gallery({})) == 0


def test_bad_pictures_are_skipped_and_reported(
    fr: FaceRecognition, album: Path, wall: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (album / "Ann" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    shutil.copy(wall, album / "Bob" / "wall.png")
    with caplog.at_level(logging.WARNING, "facekit"):
        gallery = fr.build_gallery(album)
    assert len(gallery.samples) == 2
    assert [(item.person, item.source, item.kind) for item in gallery.skipped] == [
        ("Ann", "Ann/cut.jpg", "ImageError"),
        ("Bob", "Bob/wall.png", "NoFaceError"),
    ]
    assert all(item.reason.startswith(str(album)) for item in gallery.skipped)
    (record,) = caplog.records
    expected = "2 of 4 pictures skipped (1 ImageError, 1 NoFaceError); see gallery.skipped"
    assert record.getMessage() == expected  # whom they show is nobody's business


def test_nothing_but_bad_pictures(fr: FaceRecognition, tmp_path: Path) -> None:
    (tmp_path / "ann.jpg").write_bytes(b"")
    with pytest.raises(GalleryError, match=r"none of 1 pictures has a usable face; first: .*ann\.jpg"):
        fr.build_gallery(tmp_path)
    with pytest.raises(ImageError, match="no such folder"):
        fr.build_gallery(tmp_path / "none")


def test_a_crowd_is_enrolled_by_its_largest_face(fr: FaceRecognition, crowd: Path) -> None:
    gallery = fr.build_gallery({"P008": crowd})
    assert gallery["P008"][0] @ fr.extract_embedding(crowd) > 0.9999
    with pytest.raises(GalleryError, match="16 faces"):
        fr.build_gallery({"P008": crowd}, faces="error")


# ---------------------------------------------------------------- galleries that grow


@pytest.fixture
def embedded(fr: FaceRecognition, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that have been read since it was last emptied."""
    names: list[str] = []
    stream = fr.encoder.stream

    def listening(images: list[Any], **settings: Any) -> Any:
        names.extend(f"{Path(image).parent.name}/{Path(image).name}" for image in images)
        return stream(images, **settings)

    monkeypatch.setattr(fr.encoder, "stream", listening)
    return names


def test_only_what_is_new_is_embedded(
    fr: FaceRecognition, album: Path, wall: Path, tmp_path: Path, embedded: list[str]
) -> None:
    file = tmp_path / "album.gallery"
    shutil.copy(wall, album / "Ann" / "wall.png")
    (album / "Ann" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    fr.build_gallery(album, update=file)
    assert sorted(embedded) == ["Ann/1.png", "Ann/cut.jpg", "Ann/wall.png", "Bob/1.png"]
    embedded.clear()
    fr.build_gallery(album, update=file)
    assert embedded == ["Ann/cut.jpg"]  # what could not be read may be readable now
    embedded.clear()
    shutil.copy(album / "Bob" / "1.png", album / "Ann" / "cut.jpg")
    shutil.copy(album / "Ann" / "1.png", album / "Bob" / "1.png")
    (album / "Ann" / "1.png").unlink()
    (album / "Cid").mkdir()
    shutil.copy(album / "Bob" / "1.png", album / "Cid")
    gallery = fr.build_gallery(album, update=str(file))
    assert sorted(embedded) == ["Ann/cut.jpg", "Bob/1.png", "Cid/1.png"]
    assert sorted(sample.source for sample in gallery.samples) == ["Ann/cut.jpg", "Bob/1.png", "Cid/1.png"]
    assert [item.source for item in gallery.skipped] == ["Ann/wall.png"]
    fresh = fr.build_gallery(album)
    for person in ("Ann", "Bob", "Cid"):
        assert np.abs(gallery[person] - fresh[person]).max() < 1e-5
    assert Gallery.load(file).samples == gallery.samples


def test_a_moved_folder_is_not_new(
    fr: FaceRecognition, album: Path, tmp_path: Path, embedded: list[str]
) -> None:
    gallery = fr.build_gallery(album)
    album.rename(tmp_path / "moved")
    embedded.clear()
    assert fr.build_gallery(tmp_path / "moved", update=gallery) is gallery
    assert embedded == []


def test_another_policy_reads_again(fr: FaceRecognition, album: Path, embedded: list[str]) -> None:
    gallery = fr.build_gallery(album)
    embedded.clear()
    fr.build_gallery(album, update=gallery, faces="highest_score")
    assert len(embedded) == len(gallery.samples) == 2


def test_what_was_added_by_hand_stays(fr: FaceRecognition, album: Path, ann: Path) -> None:
    gallery = fr.build_gallery(album)
    gallery.add("Dan", fr.extract_embedding(ann), source="camera")
    shutil.rmtree(album / "Bob")
    fr.build_gallery(album, update=gallery)
    assert gallery.people == ("Ann", "Dan")


def test_a_source_without_faces_leaves_a_gallery_as_it_was(
    fr: FaceRecognition, album: Path, wall: Path, ann: Path, tmp_path: Path
) -> None:
    file, wrong = tmp_path / "album.gallery", tmp_path / "wrong"
    gallery = fr.build_gallery(album, update=file)
    gallery.add("Dan", fr.extract_embedding(ann), source="camera")
    gallery.save(file)
    before = file.read_bytes(), gallery.samples
    wrong.mkdir()
    shutil.copy(wall, wrong)
    (tmp_path / "empty.csv").write_text("path,person\n")
    people: tuple[Any, ...] = (wrong, tmp_path / "empty.csv", {}, {"Ann": [], 7: ann}, {"Dan": wall})
    for source in people:
        for update in (file, gallery):
            with pytest.raises((GalleryError, SettingError)):
                fr.build_gallery(source, update=update)
            assert (file.read_bytes(), gallery.samples) == before
    for source in (wrong, {"Ann": wall}):
        with pytest.raises(GalleryError, match="none of 1 pictures"):
            fr.build_gallery(source, update=tmp_path / "new.gallery")
    assert not (tmp_path / "new.gallery").exists()


def test_a_place_that_cannot_be_written_is_heard_of_before_the_work(
    fr: FaceRecognition, album: Path, tmp_path: Path, embedded: list[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    places: tuple[Any, ...] = (tmp_path / "no" / "a.gallery", tmp_path, file / "a.gallery", "x" * 300, "")
    for place in places:
        with pytest.raises((GalleryError, SettingError), match=r"folder|cannot be read|no file"):
            fr.build_gallery(album, update=place)
    with pytest.raises(SettingError, match="update: 7 is no file"):
        fr.build_gallery(album, update=7)
    assert embedded == []


def test_the_empty_text_is_not_this_folder(fr: FaceRecognition) -> None:
    with pytest.raises(ImageError, match="'': names no folder"):
        fr.build_gallery("")


def test_a_mapping_speaks_only_of_the_people_in_it(
    fr: FaceRecognition, album: Path, bob: Path, crowd: Path, tmp_path: Path
) -> None:
    file = tmp_path / "album.gallery"
    fr.build_gallery(album, update=file)
    assert fr.build_gallery({"Cid": bob}, update=file).people == ("Ann", "Bob", "Cid")
    gallery = fr.build_gallery({"Cid": crowd, "Ann": []}, update=file)
    assert [sample.source for sample in gallery.samples] == ["Ann/1.png", "Bob/1.png", str(crowd)]
    assert fr.build_gallery(album, update=file).people == ("Ann", "Bob")  # a folder speaks of all


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_work_forgets_nobody(
    fr: FaceRecognition,
    album: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    file, other = tmp_path / "album.gallery", tmp_path / "other"
    fr.build_gallery(album, update=file)
    shutil.copytree(album / "Bob", other / "Cid")

    def none(images: list[Any], **settings: Any) -> Any:
        raise error

    monkeypatch.setattr(fr.encoder, "stream", none)
    with pytest.raises(error):
        fr.build_gallery(other, update=file)
    assert fr.load_gallery(file).people == ("Ann", "Bob")
    monkeypatch.undo()
    assert fr.build_gallery(other, update=file).people == ("Cid",)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_work_is_kept(
    fr: FaceRecognition,
    album: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    file, stream = tmp_path / "album.gallery", fr.encoder.stream

    def one_only(images: list[Any], **settings: Any) -> Any:
        yield from stream(images[:1], **settings)
        raise error

    monkeypatch.setattr(fr.encoder, "stream", one_only)
    with pytest.raises(error):
        fr.build_gallery(album, update=file)
    assert fr.load_gallery(file).people == ("Ann",)
    monkeypatch.undo()
    assert fr.build_gallery(album, update=file).people == ("Ann", "Bob")


def test_strangers_are_refused(
    fr: FaceRecognition, checkpoint: Path, album: Path, ann: Path, tmp_path: Path
) -> None:
    file = tmp_path / "album.gallery"
    gallery = fr.build_gallery(album, update=file)
    content = file.read_bytes()
    other = FaceRecognition(checkpoint, "cpu", min_face=60)
    for call in (
        lambda: other.load_gallery(file),
        lambda: other.build_gallery(album, update=file),
        lambda: other.search_in_gallery(ann, gallery),
        lambda: other.identify(fr.extract_embedding(ann), gallery),
    ):
        with pytest.raises(MismatchError) as caught:
            call()
        assert fr.encoder.detector_fingerprint in str(caught.value)
        assert other.encoder.detector_fingerprint in str(caught.value)
    mirrored = replace(fr._checkpoint, config=replace(fr.config, flip_average=True, fingerprint="tiny-2"))
    with pytest.raises(MismatchError, match=f"checkpoint {fr.config.fingerprint}, not tiny-2"):
        FaceRecognition(mirrored, "cpu").load_gallery(file)
    assert file.read_bytes() == content
    with pytest.raises(SettingError, match="a gallery of photographs; build another one"):
        fr.build_gallery(album, update=gallery, aligned=True)
    with pytest.raises(SettingError, match="gallery: got str; pass what build_gallery"):
        fr.search_in_gallery(ann, str(file))


def test_aligned_crops_search_a_gallery_of_photographs(
    fr: FaceRecognition, gallery: Gallery, ann: Path
) -> None:
    crop = load_image(ann)[:300, :300]
    assert len(fr.search_in_gallery(crop, gallery, aligned=True)) == 5


def test_samples_added_by_hand(fr: FaceRecognition, album: Path) -> None:
    gallery = fr.build_gallery({})
    gallery.add("Ann", fr.extract_embedding(album / "Ann" / "1.png"), source="1.png")
    assert gallery.samples == (Sample("Ann", "1.png"),)
    assert fr.identify(album / "Ann" / "1.png", gallery).person == "Ann"


# ---------------------------------------------------------------- checkpoints


def test_save_and_load_the_checkpoint(fr: FaceRecognition, ann: Path, tmp_path: Path) -> None:
    fr.save_pretrained(tmp_path / "mine")
    same = FaceRecognition(str(tmp_path / "mine"), "cpu", precision="fp32")
    assert same.extract_embedding(ann) @ fr.extract_embedding(ann) > 0.9999
    other = FaceRecognition.from_pretrained(tmp_path / "mine", device="cpu", precision="fp32", min_face=30)
    assert other.config == same.config == fr.config
    assert other.encoder.min_face == 30


def test_from_pretrained_passes_its_arguments_on(
    fr: FaceRecognition, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Any] = []

    def load(source: Any, **settings: Any) -> Any:
        seen.append((source, settings))
        return fr._checkpoint

    monkeypatch.setattr(recognition_module, "load_checkpoint", load)
    settings = {"revision": "v2", "cache_dir": tmp_path, "local_files_only": True, "token": "t"}
    FaceRecognition.from_pretrained("owner/name", device="cpu", **settings)
    assert seen == [("owner/name", settings)]


def test_push_to_hub(fr: FaceRecognition, monkeypatch: pytest.MonkeyPatch) -> None:
    def push(folder: Path, repo: str, **settings: Any) -> str:
        assert load_checkpoint(folder).config == fr.config
        return f"https://example.org/{repo} {settings}"

    monkeypatch.setattr(recognition_module, "push_checkpoint", push)
    address = fr.push_to_hub("owner/name", token="t", private=True)
    assert address == "https://example.org/owner/name {'token': 't', 'private': True}"


# ---------------------------------------------------------------- the checkpoint that ships


@pytest.fixture(scope="module")
def shipped(shipped_checkpoint: Path) -> FaceRecognition:
    return FaceRecognition(shipped_checkpoint, "cpu")


@pytest.fixture(scope="module")
def shipped_gallery(shipped: FaceRecognition, people: Path) -> Gallery:
    return shipped.build_gallery(people)


def test_shipped_is_the_default(shipped: FaceRecognition) -> None:
    assert FaceRecognition(device="cpu").config == shipped.config


def test_shipped_embeddings_have_512_dimensions(shipped: FaceRecognition, ann: Path) -> None:
    assert shipped.extract_embedding(ann).shape == (512,)


def test_shipped_knows_the_people(shipped: FaceRecognition, shipped_gallery: Gallery, pictures: Path) -> None:
    probes = {
        "query_1": "P001",
        "query_2": "P005",
        "query_3": "P006",
        "query_4": "P003",
        "many_faces": "P008",
    }
    for name, person in probes.items():
        found = shipped.identify(pictures / "loose" / f"{name}.jpg", shipped_gallery)
        assert found.person == person, name


def test_shipped_knows_strangers(shipped: FaceRecognition, shipped_gallery: Gallery, pictures: Path) -> None:
    for name in ("loose/unknown_1.jpg", "loose/unknown_2.jpg", "astronaut.jpg"):
        assert f"{shipped.identify(pictures / name, shipped_gallery)}" == "unknown", name
    assert shipped.verify_faces(pictures / "loose/unknown_1.jpg", pictures / "loose/unknown_2.jpg")


def test_shipped_tells_all_pairs_apart(shipped_gallery: Gallery, shipped: FaceRecognition) -> None:
    people = [sample.person for sample in shipped_gallery.samples]
    similarities = shipped_gallery.vectors @ shipped_gallery.vectors.T
    same = np.equal.outer(people, people)
    calibration = shipped.config.calibration
    assert calibration is not None
    assert similarities[~same].max() < calibration.threshold_at(1e-3)
    assert calibration.threshold_at(1e-4) <= similarities[same].min()


def test_shipped_is_calibrated(shipped: FaceRecognition, ann: Path, bob: Path) -> None:
    for far in (1e-1, 1e-2, 1e-3, 1e-4):
        verdict = shipped.verify_faces(ann, bob, far=far)
        assert verdict.far == far
        assert not verdict
    assert shipped.verify_faces(ann, bob).far is not None
