"""The backbone of a checkpoint as a file that torchvision's networks and detectors load."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from facekit.checkpoint.folder import CONFIG, WEIGHTS, Checkpoint
from facekit.checkpoint.load import load_checkpoint
from facekit.errors import CheckpointError, SettingError
from facekit.models import ConvRec, ResNet
from facekit.wholefile import replacing

__all__ = ["TorchvisionBackbone", "export_torchvision"]

_FITTING = ("resnet18", "resnet34", "resnet50")
_PICKLED, _SAFE = (".pth", ".pt"), ".safetensors"


@dataclass(frozen=True, slots=True)
class TorchvisionBackbone:
    """What it takes to use an exported backbone, beside its weights.

    Attributes:
        architecture: the function of :mod:`torchvision.models` that builds the network.
        image_mean: subtracted from each channel of RGB pixels in [0, 1].
        image_std: what each channel is divided by afterwards.
        license: of the weights.
        fingerprint: of the checkpoint that they come from.
    """

    architecture: str
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    license: str
    fingerprint: str


def export_torchvision(source: str | Path, file: str | Path) -> TorchvisionBackbone:
    """Write the backbone of a checkpoint as a state dict of torchvision's network, without ``fc``.

    What is returned is also written beside it, as ``<file>.json``. The normalisation is not folded into the
    first convolution: that pads with zeros, so a folded mean would be wrong along the border. Detectors take
    ``image_mean`` and ``image_std`` instead. The network is fed RGB, whatever the checkpoint is fed.

    Args:
        source: as for :func:`~facekit.checkpoint.load_checkpoint`; of architecture resnet18, resnet34,
            resnet50 or convrec, with the stem that torchvision has.
        file: where to; ``.pth`` or ``.pt`` for :func:`torch.load`, or ``.safetensors``. Its folder must
            exist.

    Raises:
        CheckpointError: ``source`` cannot be read or is another network; ``file`` cannot be written, or is
            what ``source`` reads.
        SettingError: another suffix.
    """
    file = Path(file)
    if file.suffix.lower() not in (*_PICKLED, _SAFE):
        raise SettingError(f"{file}: the suffix says how it is written; use {', '.join(_PICKLED)} or {_SAFE}")
    _refuse_own_files(Path(source), file)
    checkpoint = load_checkpoint(source)
    architecture, backbone = _backbone(checkpoint, str(source))
    config, state = checkpoint.config, backbone.state_dict()
    mean, std = config.mean, config.std
    if config.color == "bgr":
        state["conv1.weight"] = state["conv1.weight"].flip(1)
        mean, std = mean[::-1], std[::-1]
    about = TorchvisionBackbone(
        architecture, _of_one(mean), _of_one(std), license=config.license, fingerprint=config.fingerprint
    )
    _write(file, state, about)
    return about


def _backbone(checkpoint: Checkpoint, source: str) -> tuple[str, ResNet]:
    """The network, and what torchvision calls it.

    Raises:
        CheckpointError: torchvision has none like it.
    """
    config, model = checkpoint.config, checkpoint.model
    name = config.architecture
    if isinstance(model, ConvRec):
        name, model = config.sizes.get("backbone", "resnet50"), model.backbone
    if not isinstance(model, ResNet) or name not in _FITTING:
        raise CheckpointError(
            f"{source}: {name} is none of torchvision's ResNets; only {', '.join(_FITTING)} and convrec"
            " can be exported",
            path=source,
        )
    stem = config.sizes.get("stem", "imagenet")
    if stem != "imagenet":
        raise CheckpointError(
            f"{source}: torchvision's {name} has another first layer than stem={stem};"
            " train one with --stem imagenet",
            path=source,
        )
    return name, model


def _of_one(values: tuple[float, ...]) -> tuple[float, float, float]:
    """Of pixels in [0, 1], from those of 0...255."""
    red, green, blue = (value / 255 for value in values)
    return red, green, blue


def _refuse_own_files(source: Path, file: Path) -> None:
    """Raise where the export would take the place of the checkpoint."""
    weights = file.name == WEIGHTS and file.with_name(CONFIG).exists()
    if weights or (source.exists() and file.exists() and source.samefile(file)):
        raise CheckpointError(f"{file}: is a checkpoint; name another file for the export", path=str(file))


def _write(file: Path, state: dict[str, Tensor], about: TorchvisionBackbone) -> None:
    from safetensors.torch import save

    state = {name: tensor.contiguous() for name, tensor in state.items()}
    buffer = io.BytesIO()
    if file.suffix.lower() == _SAFE:
        buffer.write(save(state, metadata={"format": "pt"}))
    else:
        torch.save(state, buffer)
    try:
        with replacing(file) as weights, replacing(f"{file}.json") as beside:
            weights.write(buffer.getbuffer())
            beside.write(f"{json.dumps(asdict(about), indent=2)}\n".encode())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{file}: cannot be written ({reason}); name a file in a folder that is there", path=str(file)
        ) from None
