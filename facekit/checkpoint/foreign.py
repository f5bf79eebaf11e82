"""Other projects' weights as our networks: recognised by the names and shapes of their tensors."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facekit.checkpoint.config import ModelConfig
from facekit.checkpoint.folder import Checkpoint, blank, fill, fingerprint, is_counter
from facekit.checkpoint.pickles import read_pickle
from facekit.errors import CheckpointError

__all__ = ["adapt", "read_foreign"]

_RECOGNISED = (
    0.95  # share of a network's tensors that must be there, by name and shape, to call it by its name
)
_LISTED = 10
_Triple = tuple[float, float, float]

_IMAGENET: tuple[_Triple, _Triple] = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_CENTRED: tuple[_Triple, _Triple] = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))

# What a training run stores beside its network.
_TRAINING = re.compile(
    r"(\w*optim\w*|\w*scheduler\w*|amp|\w*scaler|loops|callbacks|\w*rng\w*|hyper_parameters|\w*loss\w*|criterion)\."
)


@dataclass(frozen=True, slots=True)
class _Project:
    """A project that publishes weights of one backbone, and how it feeds them.

    Attributes:
        name: of the project.
        dim: length of the embedding.
        input_size: side of the input in pixels.
        scale: mean and std of pixels 0...255.
        aside: modules of its files that the embedding does not need.
    """

    name: str
    dim: int
    input_size: int
    scale: tuple[_Triple, _Triple]
    aside: tuple[str, ...] = ()


_VCL = "VCL (variational contrastive learning)"
_ARCFACE = _Project("arcface_torch", 512, 112, _CENTRED)
# .228 is FRL's typo for .229, and what its weights were trained with.
_FRL_SCALE = (_IMAGENET[0], (0.228 * 255, 57.12, 57.375))
_FRL = _Project("FRL (face SwAV)", 2048, 224, _FRL_SCALE, aside=("projection_net", "prototypes"))
_CONVREC = _Project("ConvRec", 512, 112, _IMAGENET)

_PROJECTS: Mapping[str, _Project] = {
    "resnet50": _CONVREC,
    "resnet10t": _Project(_VCL, 512, 128, _IMAGENET, aside=("projection_head",)),
    "vgg11_bn": _Project(_VCL, 4096, 128, _IMAGENET, aside=("projection_head",)),
    "inception_resnet_v1": _Project(
        "facenet-pytorch", 512, 160, ((127.5, 127.5, 127.5), (128.0, 128.0, 128.0)), aside=("logits",)
    ),
    "iresnet18": _ARCFACE,
    "iresnet34": _ARCFACE,
    "iresnet50": _ARCFACE,
    "iresnet100": _ARCFACE,
}


@dataclass(frozen=True, slots=True)
class _Found:
    """A backbone in a table of tensors.

    Attributes:
        architecture: its name in :data:`facekit.models.ARCHITECTURES`.
        sizes: its builder's arguments.
        prefix: what stands before the backbone's own names, such as ``"state_dict.module."``.
        names: the backbone's names that are there, in the right shape.
        missing: the others, with what is wrong.
        twin: another prefix under which the same backbone is found.
    """

    architecture: str
    sizes: Mapping[str, Any]
    prefix: str
    names: tuple[str, ...]
    missing: tuple[str, ...]
    twin: str | None

    @property
    def share(self) -> float:
        return len(self.names) / (len(self.names) + len(self.missing))


def read_foreign(path: Path) -> Checkpoint:
    """The network in a ``.pth``, ``.pt`` or ``.ckpt`` file of a known project; see :func:`adapt`.

    Raises:
        CheckpointError: not such a file, a hostile one, or not a known network.
    """
    return adapt(read_pickle(path), path=str(path))


def adapt(tensors: Mapping[str, Tensor], *, path: str) -> Checkpoint:
    """The known network that a table of tensors is, with the preprocessing that its project uses.

    Known are ConvRec, VCL, FRL, facenet-pytorch's InceptionResnetV1 and arcface_torch's iresnets, under
    any prefix and nesting, beside class weights and training state. Every tensor of the network must be
    there, and no other may be left over than those known not to be part of the embedding.

    Args:
        tensors: by dotted name, as :func:`~facekit.checkpoint.pickles.read_pickle` gives them.
        path: where they are from; named in errors.

    Raises:
        CheckpointError: tensors are missing, of another shape, or left over; the first ten are listed.
    """
    found = _find_backbone(tensors, path)
    state = {name: tensors[found.prefix + name] for name in found.names}
    used = {found.prefix + name for name in found.names}
    rest = {
        name: tensor
        for name, tensor in tensors.items()
        if not (name in used or is_counter(name) or _TRAINING.match(name))
    }
    project, architecture, sizes = _PROJECTS[found.architecture], found.architecture, dict(found.sizes)
    if architecture == "resnet50":
        if "base_net." in found.prefix or any("prototypes." in name for name in rest):
            project = _FRL
        else:
            head = _convrec_head(rest, path)
            state = {f"backbone.{name}": tensor for name, tensor in state.items()} | head.state
            architecture, sizes, rest = "convrec", {"embedding_dim": head.dim}, head.rest
    dim = int(sizes.get("embedding_dim", project.dim))
    _refuse_rest(rest, project, dim, path)
    mean, std = project.scale
    config = ModelConfig(
        architecture,
        dim,
        int(found.sizes.get("input_size", project.input_size)),
        "rgb",
        mean,
        std,
        sizes=sizes,
        threshold=0.5 if project is _CONVREC else None,  # its published default, of unknown rate
        recipe={"from": project.name, "file": Path(path).name},
    )
    state = {name: tensor.to(torch.float32, copy=True).contiguous() for name, tensor in state.items()}
    model = fill(config, state, path=path)
    return Checkpoint(model, replace(config, fingerprint=fingerprint(state, config)))


def _find_backbone(tensors: Mapping[str, Tensor], path: str) -> _Found:
    """The backbone of which most tensors are there; complete, and only once.

    Raises:
        CheckpointError: it is not.
    """
    candidates = [found for name in _PROJECTS if (found := _search(name, tensors)) is not None]
    if not candidates:
        raise CheckpointError(
            f"{path}: its {len(tensors)} tensors are of no network known here ({', '.join(_PROJECTS)})",
            path=path,
        )
    best = max(candidates, key=lambda found: (len(found.names), found.share))
    if best.missing:
        what = "an incomplete" if best.share >= _RECOGNISED else "no network known here, nearest is"
        raise CheckpointError(
            f"{path}: {what} {best.architecture} (under {best.prefix!r} {best.share:.1%} of its tensors fit);"
            f" {len(best.missing)} do not: {_some(best.missing)}",
            path=path,
        )
    if best.twin is not None:
        raise CheckpointError(
            f"{path}: holds {best.architecture} twice, under {best.prefix!r} and {best.twin!r};"
            " save the state_dict of one with torch.save",
            path=path,
        )
    return best


def _search(architecture: str, tensors: Mapping[str, Tensor]) -> _Found | None:
    """The architecture under the prefix where most of it is; None where nothing of it is."""
    sizes = _sizes(tensors) if architecture.startswith("iresnet") else {}
    model = blank(architecture, sizes)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items() if not is_counter(name)}
    counts: Counter[str] = Counter()
    for name, tensor in tensors.items():
        if _TRAINING.match(name):
            continue
        for prefix, suffix in _splits(name):
            if expected.get(suffix) == tensor.shape:
                counts[prefix] += 1
    if not counts:
        return None
    (prefix, _), *others = counts.most_common(2)
    fits = {
        name: (prefix + name) in tensors and tensors[prefix + name].shape == expected[name]
        for name in expected
    }
    return _Found(
        architecture,
        sizes,
        prefix,
        tuple(name for name, fit in fits.items() if fit),
        tuple(
            _describe(name, expected[name], tensors.get(prefix + name))
            for name, fit in fits.items()
            if not fit
        ),
        others[0][0] if others and others[0][1] >= _RECOGNISED * len(expected) else None,
    )


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """What an iresnet's linear layer, (d, 512 * (s / 16)^2), says of its embedding and its input."""
    for name, tensor in tensors.items():
        if f".{name}".endswith(".fc.weight") and tensor.ndim == 2:
            dim, features = tensor.shape
            side = math.isqrt(features // 512)
            if features == 512 * side**2 and 2 <= side <= 32:
                return {"embedding_dim": dim, "input_size": 16 * side}
    return {}


def _splits(name: str) -> list[tuple[str, str]]:
    """Every (prefix, rest) of a dotted name; prefixes are empty or end with their dot."""
    starts = [0] + [index + 1 for index, letter in enumerate(name) if letter == "."]
    return [(name[:start], name[start:]) for start in starts]


@dataclass(frozen=True, slots=True)
class _Head:
    """ConvRec's head under our names, the length of its embedding, and what is left without it."""

    state: dict[str, Tensor]
    dim: int
    rest: dict[str, Tensor] = field(default_factory=dict)


def _convrec_head(rest: Mapping[str, Tensor], path: str) -> _Head:
    """BN(2048), FC(2048 -> d), BN(d) by their shapes: the names that ConvRec gives them are not published."""
    modules = _modules(rest)
    norms = {name: len(leaf["running_mean"]) for name, leaf in modules.items() if "running_mean" in leaf}
    linears = {
        name: len(leaf["weight"])
        for name, leaf in modules.items()
        if "weight" in leaf and leaf["weight"].ndim == 2 and leaf["weight"].shape[1] == 2048
    }
    fits = [
        (first, linear, last)
        for first, width in norms.items()
        for linear, dim in linears.items()
        for last, last_width in norms.items()
        if width == 2048 and last_width == dim and first != last
    ]
    if len(fits) != 1:
        raise CheckpointError(
            f"{path}: a resnet50 with {'more than one' if fits else 'no'} head BN(2048), FC, BN after it,"
            f" so how to use it is not known; beside it: {_some(sorted(rest)) or 'nothing'}",
            path=path,
        )
    state: dict[str, Tensor] = {}
    for ours, theirs in zip(("bn_in", "fc", "bn_out"), fits[0], strict=True):
        state |= {f"{ours}.{leaf}": tensor for leaf, tensor in modules[theirs].items()}
    dim = linears[fits[0][1]]
    state.setdefault("fc.bias", torch.zeros(dim))  # a layer without one adds nothing
    taken = {f"{theirs}.{leaf}".lstrip(".") for theirs in fits[0] for leaf in modules[theirs]}
    return _Head(state, dim, {name: tensor for name, tensor in rest.items() if name not in taken})


def _modules(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors by the module that they are in."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        modules.setdefault(module, {})[leaf] = tensor
    return modules


def _refuse_rest(rest: Mapping[str, Tensor], project: _Project, dim: int, path: str) -> None:
    """Raise unless all that is left over is known not to be part of the embedding."""
    unknown: list[str] = []
    for module, leaves in _modules(rest).items():
        if set(module.split(".")) & set(project.aside) or _is_classifier(leaves, dim):
            continue
        unknown += [
            _describe(f"{module}.{leaf}".lstrip("."), None, tensor) for leaf, tensor in leaves.items()
        ]
    if unknown:
        raise CheckpointError(
            f"{path}: looks like {project.name}, but {len(unknown)} of its tensors have no place in it:"
            f" {_some(unknown)}",
            path=path,
        )


def _is_classifier(leaves: Mapping[str, Tensor], dim: int) -> bool:
    """Whether a module only holds class weights: (classes, d) or (d, classes), perhaps with a bias."""
    shapes = sorted((tensor.shape for tensor in leaves.values()), key=len)
    if not shapes or len(shapes[-1]) != 2 or dim not in shapes[-1]:
        return False
    return len(shapes) == 1 or (len(shapes) == 2 and len(shapes[0]) == 1 and shapes[0][0] in shapes[-1])


def _describe(name: str, expected: torch.Size | None, tensor: Tensor | None) -> str:
    if expected is None and tensor is not None:
        return f"{name} {tuple(tensor.shape)}"
    if tensor is None:
        return f"{name} is missing"
    return f"{name} is {tuple(tensor.shape)} instead of {tuple(expected or ())}"


def _some(items: Iterable[str]) -> str:
    """The first ten of a list in words, and how many more there are."""
    listed = list(items)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more
