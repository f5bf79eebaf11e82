"""The head of a finished run in a file of its own: what a network's features say, and in which names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from facekit.errors import TrainingError
from facekit.wholefile import replacing

__all__ = ["write_head"]


def write_head(run: Path, head: nn.Module, outputs: Mapping[str, Any]) -> None:
    """``head.safetensors``: the head's tensors, and in its metadata, under ``outputs``, what it tells.

    It lies in the folder of the run, for its owner alone, because its outputs may be people: a checkpoint
    travels, and what names people should not. Under one name, because the file's writer puts several into a
    random order.

    Args:
        run: the folder.
        head: its parameters and buffers are written as they are.
        outputs: as JSON can hold them.

    Raises:
        TrainingError: the file cannot be written.
    """
    file = run / "head.safetensors"
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
    try:
        with replacing(file, private=True) as stream:
            stream.write(save(state, {"outputs": json.dumps(outputs)}))
    except OSError as error:
        raise TrainingError(f"{file}: cannot be written ({error}); free space") from error
