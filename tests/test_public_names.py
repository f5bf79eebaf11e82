"""What users may import, and what importing costs: no weights, no sockets, no heavy modules, little time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import facekit

ROOT = Path(__file__).resolve().parent.parent

PUBLIC = """
    Calibration CalibrationError Checkpoint CheckpointError DeviceError DuplicateGroup DuplicatePicture
    Duplicates EncodedImage EvaluationError Face FaceDeduplication FaceEncoder FaceRecognition FacekitError
    Gallery GalleryError Identification ImageError Match MismatchError MissingExtraError ModelConfig
    MultipleFacesError NoFaceError RemovalError RemovalPlan RemovalReport Sample SettingError Skipped
    TrainingError Verification convert_checkpoint load_checkpoint plan_removal push_checkpoint
    save_checkpoint undo
"""

# Torch may import these itself; facekit must not.
HEAVY = {"torchvision", "facenet_pytorch", "scipy", "sklearn", "onnxruntime", "pillow_heif", "matplotlib"}
LAZY = {"safetensors", "huggingface_hub", "tqdm", "tyro"}

SCRIPT = """
import builtins, io, json, socket, sys, time
import numpy, torch

def refuse(*args, **kwargs):
    raise AssertionError("a socket was opened")

socket.socket.connect = socket.getaddrinfo = refuse
opened = []

def note(event, args):
    if event == "open" and str(args[0]).endswith((".safetensors", ".pt", ".pth", ".onnx", ".json")):
        opened.append(str(args[0]))

before, threads, rng = set(sys.modules), torch.get_num_threads(), torch.get_rng_state()
sys.addaudithook(note)
start = time.process_time()
import facekit
seconds = time.process_time() - start
imported, opened_by_import = set(sys.modules) - before, list(opened)
unchanged = threads == torch.get_num_threads() and torch.equal(rng, torch.get_rng_state())
checkpoint, a, b = sys.argv[1:]
verdict = facekit.FaceRecognition(checkpoint, device="cpu").verify_faces(a, b, threshold=0.5)
used = set(sys.modules) - before
print(json.dumps({
    "seconds": seconds, "imported": sorted(imported), "opened": opened_by_import, "unchanged": unchanged,
    "used": sorted(used), "similarity": float(verdict), "opened_by_use": opened,
}))
"""


def test_public_names() -> None:
    assert sorted(facekit.__all__) == sorted(PUBLIC.split())
    for name in facekit.__all__:
        thing = getattr(facekit, name)
        assert thing.__module__.startswith("facekit.")
        assert thing.__doc__, name


def test_importing_all_defines_just_these() -> None:
    names: dict[str, object] = {}
    exec("from facekit import *", names)
    assert set(names) - {"__builtins__"} == set(facekit.__all__)


def test_every_module_says_what_is_public() -> None:
    for path in (ROOT / "facekit").rglob("*.py"):
        text = path.read_text()
        if path.name == "__main__.py" or "\n" not in text.strip():
            continue
        assert re.search(r"^__all__ = ", text, re.M), path


def test_version() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert f'\nversion = "{facekit.__version__}"\n' in text


def test_import_and_a_verdict(tiny_checkpoint: Path, pictures: Path) -> None:
    """In a process of its own, in which nothing has been imported before."""
    picture = pictures / "people" / "P001" / "studio_portrait.jpg"
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(tiny_checkpoint), str(picture), str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)

    def roots(modules: list[str]) -> set[str]:
        return {module.partition(".")[0] for module in modules}

    assert result["seconds"] < 0.3  # of processor time, so that a busy machine does not count
    assert not roots(result["imported"]) & (HEAVY | LAZY)
    assert result["opened"] == []
    assert result["unchanged"]
    assert result["similarity"] > 0.999
    assert result["opened_by_use"]  # so the trap works
    assert not roots(result["used"]) & (HEAVY | {"tyro", "tqdm"})
