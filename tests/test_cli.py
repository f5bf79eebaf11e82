"""The command line: what is printed for people and for machines, exit codes, and errors in one line."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import facekit
from facekit.cli import main, parse
from facekit.models import build
from facekit.vectorfile import read_vectors

Out = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parent.parent

COMMANDS = [
    *(["demo"], ["verify"], ["embed"], ["evaluate"], ["calibrate"]),
    *(["gallery", name] for name in ("build", "search", "info")),
    *(["dedup", name] for name in ("plan", "apply", "undo")),
    *(["data", name] for name in ("audit", "convert", "select")),
    *(["model", name] for name in ("info", "convert", "export")),
]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Small pictures gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def selfie(pictures: Path) -> str:
    return str(pictures / "people/P001/amateur_selfie.jpg")


@pytest.fixture
def portrait(pictures: Path) -> str:
    return str(pictures / "people/P005/studio_portrait.jpg")


@pytest.fixture
def model(tiny_checkpoint: Path) -> list[str]:
    return ["--checkpoint", str(tiny_checkpoint), "--device", "cpu"]


@pytest.fixture
def people(pictures: Path, tmp_path: Path) -> Path:
    """Two people with a picture each, and a picture that is none."""
    for person in ("P001", "P005"):
        (tmp_path / "people" / person).mkdir(parents=True)
        shutil.copy(pictures / "people" / person / "studio_portrait.jpg", tmp_path / "people" / person)
    (tmp_path / "people" / "P005" / "broken.jpg").write_bytes(b"\xff\xd8\xff half a picture")
    return tmp_path / "people"


@pytest.fixture
def copies(pictures: Path, tmp_path: Path) -> Path:
    """A picture twice, the second time from later, and one of somebody else."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for age, name in enumerate(("late.jpg", "early.jpg")):
        shutil.copy(pictures / "people/P005/studio_portrait.jpg", folder / name)
        os.utime(folder / name, (1_700_000_000 - age,) * 2)
    shutil.copy(pictures / "loose/query_1.jpg", folder / "other.jpg")
    return folder


def error_of(captured: Any) -> str:
    """The one line that is on stderr, and nothing but it anywhere."""
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return str(line)


# ---------------------------------------------------------------- the commands as such


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: list[str], capsys: Out) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: facekit {' '.join(command)}")
    assert "--json" in shown
    assert "{None}" not in shown


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nothing"],
        ["gallery"],
        ["verify", "a.jpg"],
        ["verify", "a", "b", "--nope"],
        ["demo", "--far", "x"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_understood_is_code_2(argv: list[str], capsys: Out) -> None:
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err


def documented() -> list[str]:
    """Every call of facekit in the shell blocks of the README and the docs."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    blocks = [re.findall(r"^```(\w*).*?\n(.*?)^```$", page.read_text(), re.M | re.S) for page in pages]
    shell = [code for found in blocks for language, code in found if language in ("", "bash", "sh")]
    lines = "\n".join(shell).replace("\\\n", " ").splitlines()
    calls = (call.partition("#")[0].strip() for line in lines for call in line.split("&&"))
    return sorted({call for call in calls if call.startswith("facekit ")})


@pytest.mark.parametrize("line", documented())
def test_what_the_docs_tell_people_to_type_is_understood(line: str) -> None:
    parse(shlex.split(line)[1:])


def test_interrupting_is_code_130(
    selfie: str, model: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(facekit.FaceRecognition, "verify_faces", interrupt)
    assert main(["verify", selfie, selfie, *model]) == 130
    assert capsys.readouterr().err == "interrupted\n"


WATCHED = """
import sys
from facekit.__main__ import main
code = main(sys.argv[1:])
needless = {"torchvision", "facenet_pytorch", "onnxruntime", "huggingface_hub", "scipy", "sklearn"}
print(sorted(needless & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


def test_a_reader_that_has_gone_is_no_reason_to_complain(tiny_checkpoint: Path) -> None:
    """Also: ``python -m facekit`` works, from any folder, and loads nothing that it does not need."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, "model", "info", str(tiny_checkpoint)],
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(facekit.__file__).parents[1],
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, "[]\n")


def test_names_that_are_not_text_can_be_printed(
    tmp_path: Path, selfie: str, model: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    strange = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    shutil.copy(selfie, strange)
    assert main(["embed", str(strange), "--out", str(tmp_path / "a.npz"), *model]) == 0
    assert "caf\\udce9.jpg': 1 face" in capfd.readouterr().out


# ---------------------------------------------------------------- verify


def test_verify_same(selfie: str, model: list[str], capsys: Out) -> None:
    assert main(["verify", selfie, selfie, "--threshold", "0.9", *model]) == 0
    assert capsys.readouterr().out == "same person: similarity 1.000 >= threshold 0.900\n"


def test_verify_different_as_json(selfie: str, portrait: str, model: list[str], capsys: Out) -> None:
    assert main(["verify", selfie, portrait, "--threshold", "0.9999", "--json", *model]) == 1
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["a"], verdict["b"]) == (selfie, portrait)
    assert verdict["is_same"] is False
    assert verdict["similarity"] < verdict["threshold"] == 0.9999
    assert [len(face["landmarks"]) for face in verdict["faces"]] == [5, 5]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--threshold", "0.5", "--min-face", "5000"], "no face found"),
        (["--threshold", "7"], "not a similarity"),
        (["--far", "1e-3"], "no calibration"),
        ([], "no default"),
        (["--threshold", "0.5", "--device", "cuda:99"], "cuda:99"),
        (["--threshold", "0.5", "--revision", "main"], "revision"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_of_verify_are_one_line_and_code_2(
    argv: list[str], told: str, selfie: str, portrait: str, model: list[str], capsys: Out
) -> None:
    assert main(["verify", selfie, portrait, *model, *argv]) == 2
    assert told in error_of(capsys.readouterr())


def test_a_missing_picture_and_a_missing_checkpoint(selfie: str, model: list[str], capsys: Out) -> None:
    assert main(["verify", selfie, "nowhere.jpg", "--threshold", "0.5", *model]) == 2
    assert error_of(capsys.readouterr()) == "error: nowhere.jpg: no such file; check the path"
    assert main(["verify", selfie, selfie, "--checkpoint", "no/such/thing"]) == 2
    assert "no/such/thing" in error_of(capsys.readouterr())


# ---------------------------------------------------------------- embed


def test_embed_to_npz(
    pictures: Path, tmp_path: Path, tiny_checkpoint: Path, model: list[str], capsys: Out
) -> None:
    (tmp_path / "not.jpg").write_text("a picture")
    out = tmp_path / "faces.npz"
    many = str(pictures / "loose/many_faces.jpg")
    argv = ["embed", many, str(tmp_path / "not.jpg"), str(pictures / "astronaut.jpg"), "--out", str(out)]
    assert main([*argv, *model]) == 0
    captured = capsys.readouterr()
    first, second, third = captured.out.splitlines()
    assert first == f"{many}: 16 faces"
    assert "is not a picture" in second
    assert third.endswith("astronaut.jpg: 1 face")
    assert captured.err == f"17 faces of 3 pictures, 1 not readable -> {out}\n"
    with np.load(out) as stored:
        assert stored["embeddings"].shape == (17, 64)
        assert np.linalg.norm(stored["embeddings"], axis=1) == pytest.approx(1, abs=1e-5)
        assert stored["pictures"].tolist() == [many] * 16 + [str(pictures / "astronaut.jpg")]
        assert (stored["boxes"].shape, stored["landmarks"].shape) == ((17, 4), (17, 5, 2))
        assert str(stored["checkpoint"]) == facekit.load_checkpoint(tiny_checkpoint).config.fingerprint
        assert str(stored["detector"]).startswith("mtcnn-")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["faces.npz", "not.jpg"]


def test_embed_to_safetensors_with_json_lines(copies: Path, model: list[str], capsys: Out) -> None:
    out = copies.parent / "faces.safetensors"
    (copies / "empty.jpg").touch()
    assert main(["embed", str(copies), "--out", str(out), "--json", "--faces", "largest", *model]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [Path(line["picture"]).name for line in lines]
    assert names == ["early.jpg", "empty.jpg", "late.jpg", "other.jpg"]
    assert lines.pop(1)["error"]["type"] == "ImageError"
    assert [line["faces"][0]["row"] for line in lines] == [0, 1, 2]
    assert lines[0]["size"] == [600, 600]
    vectors, table, metadata = read_vectors(out)
    assert vectors.shape == (3, 64)
    assert [Path(row["picture"]).name for row in table] == ["early.jpg", "late.jpg", "other.jpg"]
    assert metadata["format"] == "facekit embeddings"


def test_embed_takes_aligned_crops(tmp_path: Path, model: list[str]) -> None:
    crop = np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    Image.fromarray(crop).save(tmp_path / "crop.png")
    argv = ["embed", str(tmp_path / "crop.png"), "--aligned", "--out", str(tmp_path / "a.npz"), *model]
    assert main(argv) == 0
    with np.load(tmp_path / "a.npz") as stored:
        assert str(stored["detector"]) == "aligned"


def test_embed_refuses_before_the_work_what_it_could_not_write(
    selfie: str, tmp_path: Path, capsys: Out
) -> None:
    assert main(["embed", selfie, "--out", "faces.csv"]) == 2
    assert "must end with .npz or .safetensors" in error_of(capsys.readouterr())
    assert main(["embed", selfie, "--out", str(tmp_path / "no" / "a.npz")]) == 2
    assert "no existing folder" in error_of(capsys.readouterr())


def test_embed_of_nothing_writes_nothing(tmp_path: Path, model: list[str], capsys: Out) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "dark.png")
    out = tmp_path / "a.npz"
    assert main(["embed", str(tmp_path / "dark.png"), "--out", str(out), *model]) == 2
    assert "no face in any of 1 pictures" in capsys.readouterr().err
    assert not out.exists()


def test_a_full_disk_leaves_the_embeddings_that_were_there(
    selfie: str, tmp_path: Path, model: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    def full(file: Any, **arrays: Any) -> None:
        file.write(b"half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    out = tmp_path / "faces.npz"
    out.write_text("what was there")
    assert main(["embed", selfie, "--out", str(out), *model]) == 2
    assert f"error: {out}: cannot be written (No space left on device)" in capsys.readouterr().err
    assert [item.name for item in tmp_path.iterdir()] == ["faces.npz"]
    assert out.read_text() == "what was there"


# ---------------------------------------------------------------- gallery


def test_a_gallery_is_built_searched_and_described(
    people: Path, pictures: Path, tmp_path: Path, model: list[str], capsys: Out
) -> None:
    gallery = str(tmp_path / "people.gallery")
    assert main(["gallery", "build", str(people), "--out", gallery, *model]) == 0
    captured = capsys.readouterr()
    head, made, skipped = captured.out.splitlines()
    assert head == f"{gallery}: 2 people, 2 samples of 64 numbers"
    assert "mtcnn-" in made
    assert "broken.jpg" in skipped
    assert captured.err == ""

    assert main(["gallery", "info", gallery, "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    assert known["people"] == {"P001": 1, "P005": 1}
    assert (known["samples"], known["dim"], known["skipped"][0]["kind"]) == (2, 64, "ImageError")

    probes = [str(people / "P001/studio_portrait.jpg"), str(pictures / "astronaut.jpg"), "nowhere.jpg"]
    search = ["gallery", "search", *probes, "--gallery", gallery, "--top-k", "1", *model]
    assert main([*search, "--threshold", "0.9999"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{probes[0]}: P001",
        "  +1.000  P001  P001/studio_portrait.jpg",
        f"{probes[1]}: unknown",
        lines[3],
        "nowhere.jpg: no such file; check the path",
    ]

    assert main([*search, "--threshold", "0.9999", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["threshold"], answer["far"]) == (0.9999, None)
    same, stranger, missing = answer["pictures"]
    assert (same["faces"][0]["person"], same["faces"][0]["matches"][0]["person"]) == ("P001", "P001")
    assert stranger["faces"][0]["person"] is None
    assert len(stranger["faces"][0]["matches"]) == 1
    assert missing["error"]["type"] == "ImageError"


def test_strangers_to_a_gallery_are_refused(
    people: Path, tmp_path: Path, model: list[str], capsys: Out
) -> None:
    gallery = str(tmp_path / "people.gallery")
    main(["gallery", "build", str(people / "P001"), "--out", gallery, *model])
    capsys.readouterr()
    probe = str(people / "P001/studio_portrait.jpg")
    search = ["gallery", "search", probe, "--gallery", gallery, "--threshold", "0.5", *model]
    assert main([*search, "--min-face", "50"]) == 2
    assert "made by detector" in error_of(capsys.readouterr())
    assert main([*search, "--top-k", "0"]) == 2
    assert "--top-k: 0" in error_of(capsys.readouterr())
    Path(gallery).write_bytes(Path(gallery).read_bytes()[:-5])
    assert main(["gallery", "info", gallery]) == 2
    assert "not a readable gallery" in error_of(capsys.readouterr())


# ---------------------------------------------------------------- dedup


def test_duplicates_are_planned_removed_and_brought_back(copies: Path, model: list[str], capsys: Out) -> None:
    plan = str(copies.parent / "plan.json")
    names = sorted(item.name for item in copies.iterdir())
    assert main(["dedup", "plan", str(copies), "--out", plan, "--threshold", "0.999", *model]) == 0
    captured = capsys.readouterr()
    assert "keep    early.jpg" in captured.out
    assert "remove  late.jpg" in captured.out
    assert captured.err == f"Nothing was moved yet. To do it: facekit dedup apply {plan}\n"
    assert sorted(item.name for item in copies.iterdir()) == names

    assert main(["dedup", "apply", plan, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["moved"], report["failed"]) == (["late.jpg"], {})
    assert not (copies / "late.jpg").exists()

    assert main(["dedup", "undo", str(copies), "--run", report["run"]]) == 0
    assert capsys.readouterr().out.startswith("1 file moved, ")
    assert sorted(item.name for item in copies.iterdir()) == names
    assert main(["dedup", "undo", str(copies)]) == 2
    assert "nothing to undo" in error_of(capsys.readouterr())


def test_a_file_that_cannot_be_removed_is_code_2(copies: Path, model: list[str], capsys: Out) -> None:
    plan = str(copies.parent / "plan.json")
    argv = ["dedup", "plan", str(copies), "--out", plan, "--threshold", "0.999", "--keep", "newest", "--json"]
    assert main([*argv, *model]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert group["keep"]["path"] == "late.jpg"
    (copies / "early.jpg").write_bytes(b"changed")
    assert main(["dedup", "apply", plan]) == 2
    assert "early.jpg" in capsys.readouterr().out
    assert (copies / "early.jpg").read_bytes() == b"changed"


# ---------------------------------------------------------------- evaluate


@pytest.fixture
def protocol(pictures: Path, tmp_path: Path) -> list[str]:
    """Two folds of two pairs of a picture with itself and two pairs of different people; one has no face."""
    folder = tmp_path / "lfw"
    people = [("P001", "studio_portrait"), ("P005", "studio_portrait"), ("P008", "amateur_selfie")]
    for person, name in people:
        (folder / person).mkdir(parents=True)
        for number in (1, 2):
            shutil.copy(
                pictures / f"people/{person}/{name}.jpg", folder / person / f"{person}_{number:04d}.jpg"
            )
    (folder / "nobody").mkdir()
    Image.new("RGB", (250, 250), "grey").save(folder / "nobody" / "nobody_0001.jpg")
    genuine = ["P001\t1\t2", "P005\t1\t2"]
    impostor = ["P001\t1\tP005\t1", "P008\t1\tnobody\t1"]
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("\n".join(["2\t2", *genuine, *impostor, *genuine, *impostor]) + "\n")
    return ["--pairs", str(pairs), "--images", str(folder)]


def test_evaluate_for_machines(protocol: list[str], model: list[str], capsys: Out) -> None:
    assert main(["evaluate", *protocol, "--json", *model]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["accuracy"]["mean"] == 1.0
    assert report["accuracy"]["folds"] == [1.0, 1.0]
    assert report["pairs"] == {"genuine": 4, "impostor": 4, "missing": 2}
    assert report["pictures"]["total"] == 6
    assert [Path(name).name for name in report["pictures"]["without_face"]] == ["nobody_0001.jpg"]
    assert report["tar_at_far"]["0.001"] is None
    assert report["intervals"]["people"] == 4
    assert report["intervals"]["confidence"] == 0.95
    assert report["search"] == {
        "rank1": 1.0,
        "tpir_at_fpir": {"0.1": None, "0.01": None, "0.001": None},
        "gallery": 3,
        "probes": 2,
    }


def test_evaluate_for_people(protocol: list[str], model: list[str], capsys: Out) -> None:
    assert main(["evaluate", *protocol, *model]) == 0
    shown = capsys.readouterr().out
    for part in (
        *("1.0000 +- 0.0000 (2 folds)", "AUC", "EER", "in 5 of 6 pictures; 2 pairs without"),
        *("needs at least 1,000 pairs", "1.0000 of 2 searches among 3 people"),
    ):
        assert part in shown
    assert "no face found" in shown.splitlines()[-1]


def test_evaluate_names_what_is_wrong(
    protocol: list[str], model: list[str], pictures: Path, capsys: Out
) -> None:
    assert main(["evaluate", *protocol[:3], "nowhere", *model]) == 2
    assert "nowhere" in error_of(capsys.readouterr())
    crowd = Path(protocol[3], "P001", "P001_0001.jpg")
    shutil.copy(pictures / "loose/many_faces.jpg", crowd)
    assert main(["evaluate", *protocol, "--faces", "all", *model]) == 2
    assert f"{crowd}: 16 faces" in error_of(capsys.readouterr())


def test_evaluate_a_set_of_insightface(crops: Path, tmp_path: Path, model: list[str], capsys: Out) -> None:
    files = [path.read_bytes() for path in sorted(crops.glob("p0[0-3]/*.png"))]
    order = [0, 1, 2, 3, 0, 2, 1, 4]
    file = tmp_path / "set.bin"
    file.write_bytes(pickle.dumps(([files[place] for place in order], [True, True, False, False])))
    assert main(["evaluate", "--pairs", str(file), "--json", *model]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pairs"] == {"genuine": 2, "impostor": 2, "missing": 0}
    assert report["pictures"] == {"total": 5, "without_face": {}}
    assert report["search"] is None
    assert report["intervals"]["people"] == 3
    (tmp_path / "pairs.txt").touch()
    assert main(["evaluate", "--pairs", str(tmp_path / "pairs.txt"), *model]) == 2
    assert "pairs.txt names pictures; give the folder" in error_of(capsys.readouterr())


def test_labels_that_contradict_each_other_are_measured_without_intervals(
    crops: Path, tmp_path: Path, model: list[str], capsys: Out
) -> None:
    """Large sets have such: one picture under two names, say. Whom they show is then unknown, no more."""
    files = [path.read_bytes() for path in sorted(crops.glob("p0[0-3]/*.png"))]
    file = tmp_path / "set.bin"
    order = [0, 1, 2, 3, 0, 2, 1, 4, 1, 0]
    file.write_bytes(pickle.dumps(([files[place] for place in order], [True, True, False, False, False])))
    assert main(["evaluate", "--pairs", str(file), "--json", *model]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pairs"] == {"genuine": 2, "impostor": 3, "missing": 0}
    assert report["intervals"] is None


def test_evaluate_a_folder_of_people(crops: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: Out) -> None:
    """The checkpoint as its first word; the page, groups and JSON of one run."""
    hostile = "<img src=x onerror=alert(1)>&amp;.png"
    (crops / "p00" / hostile).write_bytes((crops / "p00" / "0.png").read_bytes())
    (crops / "p01" / hostile).write_bytes(b"no picture")
    groups = tmp_path / "groups.csv"
    rows = [f"p{person:02d},{'<b>odd' if person % 2 else 'even'}" for person in range(11)]
    groups.write_text("\n".join(["person,group", *rows]) + "\n")
    page = tmp_path / "page.html"
    argv = [str(tiny_checkpoint), "--pairs", str(crops), "--aligned", "--groups", str(groups)]
    argv += ["--threshold", "0.9", "--html", str(page), "--device", "cpu"]
    assert main(["evaluate", *argv, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pairs"] == {"genuine": 16, "impostor": 309, "missing": 25}
    assert "accuracy" not in report
    assert report["people"] == 12
    assert report["search"]["gallery"] == 12
    assert report["pictures"]["total"] == 26
    assert [Path(name).name for name in report["pictures"]["without_face"]] == [hostile]
    assert [group["group"] for group in report["groups"]] == ["<b>odd", "even"]
    assert (report["groups"][1]["people"], report["groups"][1]["pairs"]["genuine"]) == (6, 8)
    assert report["pictures_without_group"] == 2
    assert report["at_threshold"]["threshold"] == 0.9
    assert len(report["worst"]["false_accepts"]) == 12
    assert all(Path(pair["a"]).parent != Path(pair["b"]).parent for pair in report["worst"]["false_accepts"])
    assert all(Path(pair["a"]).parent == Path(pair["b"]).parent for pair in report["worst"]["false_rejects"])
    assert main(["evaluate", *argv]) == 0
    shown = capsys.readouterr().out
    for part in ("AUC", "TPIR@FPIR", "at 0.9000", "needs at least 100 pairs", "2 pictures of no", "lost: "):
        assert part in shown
    reader = check_page(page.read_text(encoding="utf-8"), pictures=4 * 12)
    assert hostile in reader.text  # as text, and so is the name of a group
    assert "<b>odd" in reader.text
    assert page.stat().st_mode & 0o77 == 0
    assert not list(tmp_path.glob(".*.part"))


class PageReader(HTMLParser):
    """What a browser would fetch, run and show of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def check_page(html: str, *, pictures: int) -> PageReader:
    """It is whole, and asks nothing of anybody: every picture lies in it."""
    reader = PageReader()
    reader.feed(html)
    assert reader.open == []
    assert not {"script", "link", "iframe", "object", "b>odd"} & set(reader.tags)
    assert reader.tags.count("svg") == 3
    assert len(reader.links) == reader.tags.count("img") <= pictures
    for link in reader.links:
        kind, _, data = link.partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.size == (112, 112)
    assert "url(" not in html
    assert "default-src 'none'" in html
    for part in ("This page shows faces", "AUC", "Worst false accepts", "Worst false rejects"):
        assert part in reader.text
    return reader


def test_the_page_of_a_list_of_pairs(
    protocol: list[str], tmp_path: Path, model: list[str], capsys: Out
) -> None:
    page = tmp_path / "page.html"
    groups = tmp_path / "groups.csv"
    groups.write_text("path,group\nP001/P001_0001.jpg,<script>\nP001/P001_0002.jpg,<script>\n")
    argv = [*protocol, "--html", str(page), "--groups", str(groups), "--threshold", "0.5"]
    assert main(["evaluate", *argv, *model]) == 0
    assert "4 pictures of no group" in capsys.readouterr().out
    reader = check_page(page.read_text(encoding="utf-8"), pictures=24)
    assert "accuracy" in reader.text
    assert "Pictures without a face" in reader.text
    assert "<script>" in reader.text  # as text


def test_the_page_of_a_set_of_insightface(crops: Path, tmp_path: Path, model: list[str], capsys: Out) -> None:
    files = [path.read_bytes() for path in sorted(crops.glob("p0[0-3]/*.png"))]
    file, page = tmp_path / "set.bin", tmp_path / "page.html"
    file.write_bytes(pickle.dumps(([files[place] for place in (0, 1, 2, 3, 0, 2, 1, 4)], [1, 1, 0, 0])))
    assert main(["evaluate", "--pairs", str(file), "--html", str(page), *model]) == 0
    reader = check_page(page.read_text(encoding="utf-8"), pictures=8)
    assert len(reader.links) == 8
    assert "set.bin/000007" in reader.text


def test_evaluate_with_mirror_images(crops: Path, tiny_checkpoint: Path, capsys: Out) -> None:
    """Other embeddings, under another name, for which the checkpoint's thresholds do not hold."""
    argv = ["evaluate", str(tiny_checkpoint), "--pairs", str(crops), "--aligned", "--json", "--device", "cpu"]
    reports = {}
    for flip in ("as it is", "off", "on"):
        assert main([*argv, *([] if flip == "as it is" else ["--flip", flip])]) == 0
        reports[flip] = json.loads(capsys.readouterr().out)
    plain, off, mirrored = reports.values()
    assert (plain["flip_average"], off["flip_average"], mirrored["flip_average"]) == (False, False, True)
    assert off["checkpoint"] == plain["checkpoint"]
    assert mirrored["checkpoint"] == plain["checkpoint"] + "+flip"
    assert off["worst"] == plain["worst"]
    assert mirrored["worst"] != plain["worst"]


def test_evaluate_mirror_images_have_no_threshold(
    crops: Path, tmp_path: Path, shipped_checkpoint: Path, capsys: Out
) -> None:
    groups = tmp_path / "groups.csv"
    groups.write_text("person,group\np00,g\n")
    argv = ["evaluate", "--pairs", str(crops), "--aligned", "--groups", str(groups), "--device", "cpu"]
    assert main([*argv, "--flip", "on"]) == 2
    assert "+flip has no default" in error_of(capsys.readouterr())
    assert main([*argv, "--flip", "on", "--far", "1e-3"]) == 2
    assert "+flip has no calibration" in error_of(capsys.readouterr())
    assert main([*argv, "--far", "1e-2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["at_threshold"]["calibrated_far"] == 1e-2


def test_evaluate_says_what_does_not_fit(crops: Path, tmp_path: Path, model: list[str], capsys: Out) -> None:
    one_kind, no_set = tmp_path / "one.csv", tmp_path / "set.bin"
    one_kind.write_text("a,b,same\np00/0.png,p00/1.png,1\n")
    no_set.touch()
    for argv, message in (
        (["somewhere", "--pairs", str(crops), *model], "--checkpoint: "),
        (["--pairs", str(crops), "--images", str(crops), *model], "holds its pictures itself"),
        (["--pairs", str(tmp_path / "no"), *model], "no' is not there; name"),
        (["--pairs", str(one_kind), "--images", str(crops), *model], "one.csv: 1 genuine and 0 impostor"),
        (["--pairs", str(no_set), "--images", str(crops), *model], "set.bin holds its pictures itself"),
        (["--pairs", str(crops / "p00"), "--aligned", *model], "give at least one of each; it should hold a"),
        (["--pairs", str(crops), "--html", str(tmp_path / "no" / "page.html"), *model], "no existing folder"),
        (["--pairs", str(crops), "--html", str(tmp_path), *model], "is a folder"),
        # before any picture is looked at:
        (["--pairs", str(tmp_path / "no"), "--html", "", *model], "--html: '' cannot be written"),
        (["--pairs", str(tmp_path / "no"), "--html", str(tmp_path / ("x" * 250)), *model], "name too long"),
        (["--pairs", str(tmp_path / "no"), "--html", "\0", *model], "cannot be written (embedded null byte)"),
        (["--pairs", str(crops), "--groups", str(tmp_path / "no.csv"), *model], "no.csv: cannot be read"),
    ):
        assert main(["evaluate", *argv]) == 2
        assert message in error_of(capsys.readouterr())
    (tmp_path / "empty" / "p").mkdir(parents=True)
    (tmp_path / "empty" / "p" / "x.jpg").write_bytes(b"")
    assert main(["evaluate", "--pairs", str(tmp_path / "empty"), *model]) == 2
    assert "no usable face in any of 1 picture" in error_of(capsys.readouterr())


# ---------------------------------------------------------------- calibrate


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Two crops each of twelve people, as far as a network that knows nobody is concerned."""
    rng = np.random.default_rng(0)
    for person in range(12):
        low = rng.integers(0, 256, (4, 4, 3), np.uint8)
        folder = tmp_path / "crops" / f"p{person:02d}"
        folder.mkdir(parents=True)
        for number in range(2):
            picture = Image.fromarray(low).resize((112, 112), Image.Resampling.BICUBIC)
            noisy = np.asarray(picture).astype(int) + rng.integers(-20, 20, (112, 112, 3))
            Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "crops"


def test_calibrate_writes_the_thresholds_and_nothing_else(
    crops: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: Out
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "mine")
    before = facekit.load_checkpoint(folder).config
    weights = (folder / "model.safetensors").read_bytes()
    argv = [
        "calibrate",
        str(crops),
        "--aligned",
        "--far",
        "0.1",
        "--checkpoint",
        str(folder),
        "--device",
        "cpu",
    ]
    assert main([*argv, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    after = facekit.load_checkpoint(folder).config
    assert after.calibration is not None
    assert said["calibration"] == after.calibration.to_dict()
    assert after.fingerprint == before.fingerprint
    assert (folder / "model.safetensors").read_bytes() == weights
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    gallery = facekit.FaceRecognition(folder, device="cpu").build_gallery(crops, aligned=True)
    rows, columns = np.triu_indices(24, 1)
    strangers = np.array([sample.person for sample in gallery.samples])
    different = strangers[rows] != strangers[columns]
    scores = (gallery.vectors @ gallery.vectors.T)[rows, columns][different]
    assert (after.calibration.impostor_pairs, after.calibration.genuine_pairs) == (264, 12)
    assert list(after.calibration.thresholds) == [0.1]
    assert np.sum(scores >= after.calibration.thresholds[0.1]) == 26
    assert after.threshold == after.calibration.thresholds[0.1]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert "crops: 12 people, 24 pictures" in shown
    assert "264 pairs of strangers, 12 of the same person" in shown


def test_calibrate_refuses_what_it_cannot_measure_or_write(
    crops: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: Out
) -> None:
    assert main(["calibrate", str(crops), "--aligned"]) == 2
    assert "ships with facekit is not yours" in error_of(capsys.readouterr())
    assert main(["calibrate", str(crops), "--aligned", "--checkpoint", str(crops)]) == 2
    assert "no checkpoint folder" in error_of(capsys.readouterr())
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "mine")
    config = (folder / "config.json").read_bytes()
    argv = ["calibrate", str(crops), "--aligned", "--checkpoint", str(folder), "--device", "cpu"]
    assert main(argv) == 2
    assert "264 pairs of strangers measure rates down to 0.1" in error_of(capsys.readouterr())
    for rate in ("0", "5", "nan"):
        assert main([*argv, "--far", rate]) == 2
        assert f"--far: {rate} is not a rate" in error_of(capsys.readouterr())
    for person in list(crops.iterdir())[5:]:
        shutil.rmtree(person)
    assert main(argv) == 2
    assert "40 pairs of strangers are too few" in error_of(capsys.readouterr())
    for person in list(crops.iterdir())[1:]:
        shutil.rmtree(person)
    assert main(argv) == 2
    assert f"{crops}: 1 genuine and 0 impostor pairs" in error_of(capsys.readouterr())
    assert (folder / "config.json").read_bytes() == config


# ---------------------------------------------------------------- model


def test_model_info(tiny_checkpoint: Path, capsys: Out) -> None:
    config = facekit.load_checkpoint(tiny_checkpoint).config
    assert main(["model", "info", str(tiny_checkpoint)]) == 0
    shown = capsys.readouterr().out
    assert config.fingerprint in shown
    assert "112 x 112 RGB" in shown
    assert "calibration  none" in shown
    assert main(["model", "info", str(tiny_checkpoint), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(config.to_dict()))


def test_model_info_shows_the_calibration(tiny_checkpoint: Path, tmp_path: Path, capsys: Out) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "calibrated")
    values = json.loads((folder / "config.json").read_text())
    values["threshold"] = 0.25
    values["calibration"] = {
        "data": "somebody",
        "impostor_pairs": 123456,
        "genuine_pairs": 789,
        "thresholds": {"0.01": 0.25, "0.001": 0.375},
    }
    (folder / "config.json").write_text(json.dumps(values))
    assert main(["model", "info", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "0.2500 by default" in shown
    assert "somebody: 123,456 pairs of strangers, 789 of the same person" in shown
    assert [line.split() for line in shown.splitlines()[-2:]] == [["0.01", "+0.2500"], ["0.001", "+0.3750"]]


def test_model_convert_says_what_is_missing(tmp_path: Path, capsys: Out) -> None:
    state = {f"backbone.{name}": tensor for name, tensor in build("resnet10t").state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "vcl.ckpt")
    folder = tmp_path / "ours"
    argv = ["model", "convert", str(tmp_path / "vcl.ckpt"), str(folder), "--half", "--license", "MIT"]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert "calibration  none" in shown
    assert "licence" in shown
    assert facekit.load_checkpoint(folder).config.license == "MIT"
    assert main(["model", "convert", str(tmp_path / "nothing.pth"), str(folder)]) == 2
    assert "nothing.pth" in error_of(capsys.readouterr())


# ---------------------------------------------------------------- demo


def listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(item), item.stat().st_mtime_ns) for item in folder.rglob("*"))


def test_demo_shows_everything_and_leaves_the_package_alone(
    pictures: Path, tmp_path: Path, model: list[str], capsys: Out
) -> None:
    before = listing(pictures)
    assert main(["demo", "--out", str(tmp_path), "--threshold", "0.97", *model]) == 0
    shown = capsys.readouterr().out
    for part in ("The same person?", "Who is it?", "5 people in 15 pictures", "16 x ", "astronaut.jpg"):
        assert part in shown
    assert len(shown.splitlines()) < 30
    assert str(tmp_path / "facekit-demo.png") in shown
    with Image.open(tmp_path / "facekit-demo.png") as picture:
        colours = {color for _, color in picture.convert("RGB").getcolors(1 << 24) or []}
    assert {(0x38, 0xBD, 0xF8), (0xFB, 0x92, 0x3C)} <= colours  # a face as such, and one that is unknown
    assert listing(pictures) == before


def test_demo_as_json(tmp_path: Path, model: list[str], capsys: Out) -> None:
    assert main(["demo", "--out", str(tmp_path), "--threshold", "0.97", "--json", *model]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [verdict["threshold"] for verdict in found["verify"]] == [0.97, 0.97]
    assert len(found["gallery"]) == 9
    assert Path(found["picture"]).is_file()


def test_demo_into_nowhere(tmp_path: Path, model: list[str], capsys: Out) -> None:
    assert main(["demo", "--out", str(tmp_path / "no"), "--threshold", "0.97", *model]) == 2
    assert "is no existing folder" in error_of(capsys.readouterr())
