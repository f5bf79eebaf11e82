"""The weight files of the installed facenet-pytorch, read without importing it."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from facekit.errors import CheckpointError

__all__ = ["load_weights"]

REMEDY = "install them with: pip install 'facenet-pytorch>=2.5.3,!=2.6.0'"


def load_weights(**networks: nn.Module) -> str:
    """Fill the networks, named as their files are, with facenet-pytorch's weights.

    Returns:
        SHA-256 of the files, in hexadecimal.

    Raises:
        CheckpointError: a file is missing, damaged, or fits another network.
    """
    digest = hashlib.sha256()
    for name, network in networks.items():
        path = _folder() / f"{name}.pt"
        try:
            digest.update(path.read_bytes())
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # torch.load raises whatever a damaged file provokes
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"the detector's weights {path} cannot be read ({reason}): {REMEDY}", path=str(path)
            ) from error
    return digest.hexdigest()


def _folder() -> Path:
    """Where facenet-pytorch keeps its weights: ``find_spec`` finds a package without running it."""
    spec = find_spec("facenet_pytorch")
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(f"the detector's weights are missing, facenet-pytorch has them: {REMEDY}")
    return Path(spec.submodule_search_locations[0]) / "data"
