"""Fixtures: the pictures that the project ships, and the larger real sets where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facekit.checkpoint import ModelConfig, save_checkpoint
from facekit.models import build

ROOT = Path(__file__).resolve().parent.parent

# pytest-xdist runs a test process a core, so each has its share of the threads; as do those that it starts
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_THREADS = max(1, (os.cpu_count() or 1) // _WORKERS)
os.environ.setdefault("OMP_NUM_THREADS", str(_THREADS))
torch.set_num_threads(_THREADS)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of larger real picture sets beside the project; the test is skipped without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the picture sets in ../shared/data")
    return folder


@pytest.fixture(scope="session")
def pictures() -> Path:
    """The pictures that ship inside the package: people/<name>/*.jpg and astronaut.jpg."""
    return ROOT / "facekit" / "pictures"


@pytest.fixture(scope="session")
def shipped_checkpoint() -> Path:
    """The folder of the checkpoint that ships; the test is skipped without its weights."""
    folder = ROOT / "facekit" / "weights"
    if not (folder / "model.safetensors").exists():
        pytest.skip("needs the checkpoint that ships, facekit/weights")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with a small network of random weights: fast, deterministic, and knows nobody.

    Its batch norms have seen a few faces, so that it tells pictures, not people, apart.
    """
    faces = []
    for path in sorted(pictures.glob("people/*/studio_portrait.jpg")):
        with Image.open(path) as picture:
            face = picture.resize((112, 112), Image.Resampling.BILINEAR, (130, 90, 470, 430))
            faces += [face, face.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    batch = torch.from_numpy(np.stack([np.asarray(face) for face in faces])).permute(0, 3, 1, 2)
    sizes = {"widths": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "stem_width": 8, "embedding_dim": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build("faceresnet", **sizes)
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        torch.nn.init.ones_(norm.weight)  # some start at zero
    with torch.no_grad():
        for _ in range(20):
            model((batch.float() - 127.5) / 127.5)
    config = ModelConfig(
        architecture="faceresnet",
        sizes=sizes,
        embedding_dim=64,
        input_size=112,
        color="rgb",
        mean=(127.5, 127.5, 127.5),
        std=(127.5, 127.5, 127.5),
    )
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(folder, model, config)
    return folder
