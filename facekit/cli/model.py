"""``facekit model``: what a checkpoint says about itself, and weights from and for other projects."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import tyro

from facekit.checkpoint import ModelConfig, convert_checkpoint, export_torchvision, load_checkpoint
from facekit.cli.console import print_json, table
from facekit.cli.options import File, Folder
from facekit.trash import shown

__all__ = ["Convert", "Export", "Info"]


@dataclass(frozen=True)
class Info:
    """What a checkpoint is: network, preprocessing, thresholds, origin, licence.

    Attributes:
        checkpoint: A checkpoint folder, a file or owner/name on the Hugging Face Hub; the one that ships with
            facekit if not given.
        revision: Branch, tag or commit of a checkpoint on the Hub.
        local_files_only: Ask the Hub's cache alone, never the network.
        json: Print one JSON document.
    """

    checkpoint: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")] = None
    revision: str | None = None
    local_files_only: bool = False
    json: bool = False

    def __call__(self) -> int:
        config = load_checkpoint(
            self.checkpoint, revision=self.revision, local_files_only=self.local_files_only
        ).config
        if self.json:
            print_json(config.to_dict())
        else:
            print(_describe(config))
        return 0


@dataclass(frozen=True)
class Convert:
    """Writes the weights of another project, .pth, .ckpt or .safetensors, as a checkpoint folder.

    Attributes:
        source: The file, or anything else that --checkpoint takes.
        folder: The checkpoint folder to write.
        half: Store float16: half the size, rounded to 11 bits.
        license: Of the weights, if you know it.
        json: Print one JSON document.
    """

    source: File
    folder: Folder
    half: bool = False
    license: str | None = None
    json: bool = False

    def __call__(self) -> int:
        changes = {} if self.license is None else {"license": self.license}
        config = convert_checkpoint(self.source, self.folder, half=self.half, **changes)
        if self.json:
            print_json({"folder": self.folder, "config": config.to_dict()})
        else:
            print(f"{shown(self.folder)}\n{_describe(config)}")
        return 0


@dataclass(frozen=True)
class Export:
    """Writes the backbone of a checkpoint for torchvision, such as for its detectors.

    Attributes:
        checkpoint: A checkpoint folder, a file or owner/name on the Hugging Face Hub; a resnet18, resnet34,
            resnet50 or convrec.
        torchvision: The state dict to write, .pth or .safetensors; what a detector must be told beside it
            goes into FILE.json.
        json: Print one JSON document.
    """

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    torchvision: Annotated[str, tyro.conf.arg(metavar="FILE")]
    json: bool = False

    def __call__(self) -> int:
        backbone = export_torchvision(self.checkpoint, self.torchvision)
        if self.json:
            print_json({"file": self.torchvision, **asdict(backbone)})
            return 0
        rows = [
            ("network", f"torchvision.models.{backbone.architecture}, without fc"),
            ("image_mean", _list(backbone.image_mean)),
            ("image_std", _list(backbone.image_std)),
            ("licence", backbone.license),
        ]
        print(f"{shown(self.torchvision)}\n{table(rows)}")
        return 0


def _describe(config: ModelConfig) -> str:
    """A page about a checkpoint."""
    size = config.input_size
    flips = ", averaged with its mirror" if config.flip_average else ""
    sizes = "".join(f", {name} {value}" for name, value in config.sizes.items())
    rows = [
        ("fingerprint", config.fingerprint),
        ("network", f"{config.architecture}{sizes} -> {config.embedding_dim} numbers"),
        ("input", f"{size} x {size} {config.color.upper()}, aligned to {config.template}{flips}"),
        ("scaling", f"(pixel - {_triple(config.mean)}) / {_triple(config.std)}"),
        ("licence", config.license),
        *((f"recipe.{name}", _shown(value)) for name, value in config.recipe.items()),
        ("threshold", "none: give one" if config.threshold is None else f"{config.threshold:.4f} by default"),
    ]
    return f"{table(rows)}\n{_calibration(config)}"


def _shown(value: Any) -> str:
    """A value of the recipe on one line; --json shows what has more to it."""
    if isinstance(value, list):
        return "; ".join(map(_shown, value))
    if isinstance(value, dict):
        nested = any(isinstance(item, (list, dict)) for item in value.values())
        return "see --json" if nested else ", ".join(f"{name} {_shown(item)}" for name, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _triple(values: tuple[float, float, float]) -> str:
    """One number if all channels have the same."""
    texts = [f"{value:.6g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else f"({', '.join(texts)})"


def _list(values: tuple[float, ...]) -> str:
    """As it is typed in Python."""
    return f"[{', '.join(f'{value:.6g}' for value in values)}]"


def _calibration(config: ModelConfig) -> str:
    measured = config.calibration
    if measured is None:
        return (
            "  calibration  none: which similarity stands for which false accept rate was not measured;\n"
            "               give threshold= in place of far="
        )
    pairs = f"{measured.impostor_pairs:,} pairs of strangers, {measured.genuine_pairs:,} of the same person"
    rows = [(f"{far:g}", f"{similarity:+.4f}") for far, similarity in measured.thresholds.items()]
    return (
        f"  calibration  {shown(measured.data)}: {pairs}\n{table([('FAR', 'similarity'), *rows], indent=15)}"
    )
