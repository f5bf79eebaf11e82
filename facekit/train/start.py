"""The network that a run starts from, and which part of it has learnt something before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facekit.checkpoint import ModelConfig, load_checkpoint
from facekit.checkpoint.folder import read_safetensors
from facekit.checkpoint.pickles import read_pickle
from facekit.errors import MissingExtraError, SettingError
from facekit.models import build
from facekit.models.convrec import ConvRec
from facekit.train.config import OptimSettings
from facekit.train.network import NetworkSettings
from facekit.train.optim import decay_groups
from facekit.train.recipe import Step

__all__ = ["Start", "start_network", "start_of"]

_Triple = tuple[float, float, float]
_OF_IMAGENET = ("convrec", "resnet50")  # architectures that torchvision's ResNet-50 fits
_IMAGENET: tuple[_Triple, _Triple] = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A network at the beginning of a run.

    Attributes:
        architecture: what :func:`facekit.models.build` calls it.
        model: (n, 3, s, s) float, normalised -> (n, dim) float.
        dim: length of its embeddings.
        sizes: what builds it again.
        trained: the part of it that comes trained; None where all is random.
        mean: subtracted from each channel of the pixels 0...255, red first.
        std: what each channel is divided by afterwards.
    """

    architecture: str
    model: nn.Module
    dim: int
    sizes: Mapping[str, Any]
    trained: nn.Module | None
    mean: _Triple = (127.5, 127.5, 127.5)
    std: _Triple = (127.5, 127.5, 127.5)

    def config(self, *, input_size: int, **more: Any) -> ModelConfig:
        """What is written beside the weights: the network's own facts, and ``more``, as the config has it."""
        return ModelConfig(
            architecture=self.architecture,
            embedding_dim=self.dim,
            input_size=input_size,
            color="rgb",
            mean=self.mean,
            std=self.std,
            sizes=self.sizes,
            **more,
        )

    def groups(self, modules: nn.Module, optim: OptimSettings) -> list[dict[str, Any]]:
        """Parameter groups of ``modules``, which hold the network: what comes trained learns slower."""
        trained = set() if self.trained is None else set(self.trained.parameters())
        slow = [parameter for parameter in modules.parameters() if parameter in trained]
        fresh = [parameter for parameter in modules.parameters() if parameter not in trained]
        return [
            *decay_groups("trained", slow, lr=optim.trained_lr, weight_decay=optim.weight_decay),
            *decay_groups("fresh", fresh, lr=optim.lr, weight_decay=optim.weight_decay),
        ]


def start_network(
    architecture: str, init: str | None, *, size: int, sizes: Mapping[str, Any] | None = None
) -> Start:
    """Build the network, with the weights that it is to start from.

    Args:
        architecture: as :func:`facekit.models.build` knows it.
        init: a checkpoint (folder, file or Hub name); for ``convrec`` and ``resnet50`` also a file of
            torchvision's ``resnet50`` or ``"imagenet"``, which fetches torchvision's; ``"random"``; None for
            ImageNet's weights for ``convrec``, and random ones else.
        size: side in pixels of its input.
        sizes: the builder's arguments, where it starts from random weights.

    Raises:
        SettingError: the weights cannot be had, or are of another network.
        MissingExtraError: ImageNet's weights without torchvision.
    """
    if init is None:
        init = "imagenet" if architecture == "convrec" else "random"
    if init == "random":
        return _built(architecture, size, sizes or {})
    trunk = None if init == "imagenet" else _trunk_in(Path(init))
    if init == "imagenet" or trunk is not None:
        if architecture not in _OF_IMAGENET:
            fits = " and ".join(_OF_IMAGENET)
            raise SettingError(
                f"init={init}: a ResNet-50 of ImageNet fits {fits}, not {architecture}; "
                f"give a checkpoint of {architecture}, or random"
            )
        start = _built(architecture, size, {})
        trained = start.model.backbone if isinstance(start.model, ConvRec) else start.model
        trained.load_state_dict(_imagenet() if trunk is None else trunk)
        return replace(start, trained=trained, mean=_IMAGENET[0], std=_IMAGENET[1])
    found = load_checkpoint(init)
    if found.config.architecture != architecture or not isinstance(found.model, nn.Module):
        raise SettingError(f"init={init}: holds {found.config.architecture}, not {architecture}")
    config = found.config
    embedding_length(found.model, size)
    if config.color != "rgb":
        raise SettingError(f"init={init}: takes {config.color}; training takes rgb, convert it first")
    sizes = dict(config.sizes)
    return Start(architecture, found.model, config.embedding_dim, sizes, found.model, config.mean, config.std)


def start_of(settings: NetworkSettings, sides: Sequence[int] = ()) -> Start:
    """:func:`start_network` by the settings of a recipe, whose pictures it takes from the first step on.

    Args:
        settings: which network.
        sides: in pixels, at the end of the run, of what it sees beside views of ``settings.size``.

    Raises:
        SettingError: weights that cannot be had, are of another network or have another stem; a size that
            the network does not take.
        MissingExtraError: ImageNet's weights without torchvision.
    """
    start = start_network(settings.architecture, settings.init, size=settings.size, sizes=settings.sizes)
    if settings.stem is not None and start.sizes.get("stem", "imagenet") != settings.stem:
        raise SettingError(f"stem={settings.stem}: {settings.init} has another; leave it out")
    for side in sides:
        embedding_length(start.model, side)
    if settings.start_size is None:
        return start
    try:
        for side in (settings.size, *sides):
            embedding_length(start.model, settings.side(side, Step(0, 0.0, 0.0)))
    except SettingError as error:
        raise SettingError(f"start_size={settings.start_size}: {error}") from error
    return start


def _built(architecture: str, size: int, sizes: Mapping[str, Any]) -> Start:
    model = build(architecture, **sizes)
    return Start(architecture, model, embedding_length(model, size), dict(sizes), None)


def embedding_length(model: nn.Module, size: int) -> int:
    """Length of what a network makes of pictures of one size.

    Args:
        model: on the CPU; is left in evaluation mode.
        size: side in pixels.

    Raises:
        SettingError: it cannot take such pictures.
    """
    try:
        with torch.inference_mode():
            return int(model.eval()(torch.zeros(1, 3, size, size)).shape[1])
    except RuntimeError as error:
        what = f"{size} pixels: {type(model).__name__} takes no pictures of that size"
        raise SettingError(f"{what} ({str(error).splitlines()[0]}); give another") from error


def _imagenet() -> dict[str, Tensor]:
    """torchvision's ResNet-50, without its classifier; from its cache where it was fetched before."""
    try:
        from torchvision.models import ResNet50_Weights
    except ImportError as error:
        raise MissingExtraError("torchvision", "train", "Starting from ImageNet's weights") from error
    try:
        state = ResNet50_Weights.IMAGENET1K_V2.get_state_dict(check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # OSError: no network; RuntimeError: another file
        raise SettingError(
            f"init=imagenet: {ResNet50_Weights.IMAGENET1K_V2.url} cannot be fetched ({error}); "
            "give that file with --init FILE, a checkpoint, or --init random"
        ) from error
    return _without_classifier(state)


def _trunk_in(path: Path) -> dict[str, Tensor] | None:
    """The trunk, where the file is torchvision's ResNet-50."""
    if not path.is_file() or path.suffix.lower() not in (".pth", ".pt", ".safetensors"):
        return None
    state = read_safetensors(path) if path.suffix.lower() == ".safetensors" else read_pickle(path)
    classifier = state.get("fc.weight")
    if "layer4.2.conv3.weight" not in state or classifier is None or classifier.shape != (1000, 2048):
        return None
    return _without_classifier(state)


def _without_classifier(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
