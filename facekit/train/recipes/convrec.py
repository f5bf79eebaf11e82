"""ConvRec: identities learnt with a progressive angular margin, a teacher's embeddings, or both.

The published recipe (ConvAI Innovations, 2024) starts with a scaled softmax without a margin, adds the
margin step by step and ends as ArcFace. With ``--teacher`` the embedding is also pulled towards that of
a stronger network, either of the very same view ("patient and consistent", Beyer et al. 2022) or of the
untouched picture, which is embedded once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from facekit.checkpoint import Calibration, Checkpoint, ModelConfig, load_checkpoint, save_checkpoint
from facekit.checkpoint.load import is_on_hub
from facekit.embed import Embedder, resolve_device
from facekit.errors import SettingError
from facekit.models import build
from facekit.train.augment import Augmentation, augment, mix_faces
from facekit.train.config import DataSettings, OptimSettings, RunSettings
from facekit.train.data import Crops, hash_pictures, load_crops, read_listing, shuffled_rows
from facekit.train.heads import MarginHead
from facekit.train.losses import cosine_distillation, expected_initial_loss
from facekit.train.optim import cosine, decay_groups, progressive_margin, warm_restarts
from facekit.train.recipe import Recipe, Step
from facekit.train.state import load_state, save_state
from facekit.train.stream import Stream, open_crops
from facekit.train.validate import calibrate, heldout_scores

__all__ = ["ConvRecSettings", "build_recipe"]

_SIZE = 112  # pixels; what inference aligns to
_PIXEL_MEAN = (127.5, 127.5, 127.5)
_PIXEL_STD = (127.5, 127.5, 127.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvRecSettings:
    """Train a face embedder with a progressive margin, a teacher, or both."""

    data: DataSettings
    run: RunSettings
    optim: OptimSettings = field(default_factory=OptimSettings)
    augment: Augmentation = field(default_factory=Augmentation)
    architecture: Literal["convrec", "faceresnet"] = "convrec"
    """convrec is the published ResNet-50 with its embedding head; faceresnet is small enough for a CPU."""
    init: str | None = None
    """Checkpoint to start from (folder, file or Hub name). Its backbone is frozen for the first 16 % of the
    run, while the margin head, if there is one, learns the people."""
    scale: float = 64.0
    """Final scale s of the logits."""
    margin: float = 0.5
    """Final angular margin m, in radians."""
    margin_weight: float = 1.0
    """Weight of the margin loss; 0 learns from the teacher alone."""
    teacher: str | None = None
    """Checkpoint, ONNX file or Hub name whose embeddings are imitated."""
    teacher_weight: float = 1.0
    """Weight of 1 - cos(student, teacher)."""
    teacher_view: Literal["same", "picture"] = "same"
    """What the teacher sees: the student's own view, at every step; or the picture and its mirror, once."""
    mixtures: float = 0.0
    """Share of each batch that is mixtures of two faces, of which only the teacher knows what they are; it
    sees them at every step."""
    start_size: int = _SIZE
    """Side in pixels to which the views of the first part of the run are shrunk; smaller is faster."""
    start_share: float = 0.5
    """Share of the run that sees --start-size."""
    flip_average: bool = False
    """Let the checkpoint average the embeddings of a face and its mirror: a little more accurate, and the
    network takes twice as long."""
    license: str = "unknown"
    """License written into the checkpoint."""

    def __post_init__(self) -> None:
        if self.margin_weight < 0 or self.teacher_weight < 0:
            raise SettingError("margin_weight and teacher_weight: give 0 or more")
        if self.margin_weight == 0 and self.teacher is None:
            raise SettingError(
                "margin_weight=0 without a teacher: there is nothing to learn from; give --teacher"
            )
        if not 0 <= self.mixtures < 1 or (self.mixtures and self.teacher is None):
            raise SettingError(f"mixtures={self.mixtures}: give a share in [0, 1), and --teacher")
        if not 16 <= self.start_size <= _SIZE:
            raise SettingError(f"start_size={self.start_size}: give pixels in 16 ... {_SIZE}")


def build_recipe(settings: ConvRecSettings) -> Recipe:
    """Everything of the recipe that the loop needs: networks, batches, one step, validation, export."""
    torch.manual_seed(settings.run.seed)
    device = resolve_device(settings.run.device)
    training, aside = read_listing(settings.data)
    crops = open_crops(training, _SIZE, settings.data, pin=device.type == "cuda")
    heldout = load_crops(aside, _SIZE)
    backbone, dim, sizes = _backbone(settings)
    modules = nn.ModuleDict({"backbone": backbone})
    if settings.margin_weight:
        modules["head"] = MarginHead(dim, crops.classes)
    modules.to(memory_format=torch.channels_last)
    teacher = None if settings.teacher is None else _teacher(settings, dim)
    targets = None
    if teacher is not None and settings.teacher_view == "picture":
        if not isinstance(crops, Crops):
            raise SettingError("teacher_view=picture: the pictures must fit into memory; raise --keep-gb")
        targets = _teacher_targets(teacher, crops.pictures, settings.run.out / "teacher.pt")
    mean = torch.tensor(_PIXEL_MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(_PIXEL_STD, device=device).view(1, 3, 1, 1)
    steps_per_epoch = len(crops) // settings.run.batch_size
    if steps_per_epoch == 0:
        raise SettingError(
            f"batch_size={settings.run.batch_size}: more than the {len(crops)} training pictures"
        )

    def batches(epoch: int, skip: int = 0) -> Iterator[tuple[Tensor, ...]]:
        order = shuffled_rows(len(crops), settings.run.batch_size, seed=settings.run.seed, epoch=epoch)[skip:]
        for rows, batch in zip(order, crops.batches(order), strict=True):
            yield batch if targets is None else (*batch, targets[rows])

    def step(batch: tuple[Tensor, ...], at: Step) -> dict[str, Tensor]:
        pictures, labels, *target = batch
        generator = torch.Generator().manual_seed(settings.run.seed * 1_000_003 + at.number)
        mixed = int(settings.mixtures * len(pictures))
        if mixed:
            pictures = torch.cat([mix_faces(pictures[:mixed], generator), pictures[mixed:]])
        views = augment(pictures, settings.augment, generator)
        frozen = settings.init is not None and "head" in modules and at.progress < 0.16
        if frozen:
            backbone.eval()  # its batch norms keep the statistics that it came with
        with torch.set_grad_enabled(not frozen):
            embeddings = backbone(_network_input(views, settings, at, mean, std)).float()
        metrics: dict[str, Tensor] = {}
        loss = embeddings.new_zeros(())
        if teacher is not None:
            seen = mixed if target else len(views)
            wanted = teacher.embed(views[:seen]).to(device)
            if target:
                wanted = torch.cat([wanted, target[0][seen:]])
            metrics["teacher"] = cosine_distillation(embeddings, wanted)
            loss = loss + settings.teacher_weight * metrics["teacher"]
        if "head" in modules:
            scale, margin = progressive_margin(at.progress, scale=settings.scale, margin=settings.margin)
            metrics["margin"], metrics["target_cosine"] = modules["head"](
                embeddings[mixed:], labels[mixed:], scale=scale, margin=margin
            )
            loss = loss + settings.margin_weight * metrics["margin"]
        return {"loss": loss, **metrics}

    def lr_factor(at: Step) -> float:
        if settings.optim.schedule == "warm-restarts":
            return warm_restarts(at.epoch)
        return cosine(at.progress, warmup=settings.optim.warmup)

    def config(*, input_size: int = _SIZE, **more: Any) -> ModelConfig:
        return ModelConfig(
            architecture=settings.architecture,
            embedding_dim=dim,
            input_size=input_size,
            color="rgb",
            mean=_PIXEL_MEAN,
            std=_PIXEL_STD,
            sizes=sizes,
            flip_average=settings.flip_average,
            license=settings.license,
            **more,
        )

    def embed_heldout(size: int = _SIZE) -> Tensor:
        checkpoint = Checkpoint(backbone, config(input_size=size))
        return Embedder(checkpoint, device=device, precision=settings.run.precision).embed(heldout.pictures)

    def evaluate(at: Step) -> Mapping[str, float]:
        return heldout_scores(embed_heldout(_view_size(settings, at)), heldout.labels) if len(heldout) else {}

    def export(folder: Path, scores: Mapping[str, float]) -> None:
        calibration: Calibration | None = None
        if len(heldout):
            what = f"{heldout.classes} held-out people of {settings.data.data.name}, {len(heldout)} pictures"
            calibration = calibrate(embed_heldout(), heldout.labels, what)
        threshold = calibration.threshold_at(1e-3) if calibration and 1e-3 in calibration.thresholds else None
        recipe = {"name": "convrec", "settings": _portable(settings), "heldout": dict(scores)}
        save_checkpoint(
            folder, backbone, config(calibration=calibration, threshold=threshold, recipe=recipe), half=True
        )

    groups = decay_groups(
        [backbone],
        lr=settings.optim.backbone_lr if settings.init else settings.optim.lr,
        weight_decay=settings.optim.weight_decay,
    )
    if "head" in modules:
        groups += decay_groups(
            [modules["head"]], lr=settings.optim.lr, weight_decay=settings.optim.weight_decay
        )
    return Recipe(
        modules,
        groups,
        steps_per_epoch,
        batches,
        lr_factor,
        step,
        evaluate,
        export,
        _notes(settings, crops, dim),
    )


def _backbone(settings: ConvRecSettings) -> tuple[nn.Module, int, dict[str, Any]]:
    """The network, the length of its embedding, and the sizes that build it again."""
    if settings.init is not None:
        start = load_checkpoint(settings.init)
        if start.config.architecture != settings.architecture or not isinstance(start.model, nn.Module):
            raise SettingError(
                f"init={settings.init}: holds {start.config.architecture}, not {settings.architecture}"
            )
        return start.model.train(), start.config.embedding_dim, dict(start.config.sizes)
    model = build(settings.architecture)
    with torch.inference_mode():
        dim = int(model.eval()(torch.zeros(1, 3, _SIZE, _SIZE)).shape[1])
    return model, dim, {}


def _teacher(settings: ConvRecSettings, dim: int) -> Embedder:
    assert settings.teacher is not None
    teacher = Embedder(load_checkpoint(settings.teacher), device=settings.run.device)
    if teacher.dim != dim:
        raise SettingError(
            f"teacher={settings.teacher}: embeds to {teacher.dim} numbers and the student to {dim}; "
            "give a teacher with as many"
        )
    return teacher


def _teacher_targets(teacher: Embedder, pictures: Tensor, stored: Path) -> Tensor:
    """(n, d) float32: the teacher's mean embedding of each picture and its mirror, made once a run."""
    key = f"{teacher.config.fingerprint} {hash_pictures(pictures)}"
    state = load_state(stored)
    if state is None or state["key"] != key:
        batches = tqdm(torch.split(pictures, 64), "teacher", unit="batch")
        vectors = torch.cat([teacher.embed(part) + teacher.embed(part.flip(3)) for part in batches])
        state = {"key": key, "targets": F.normalize(vectors)}
        stored.parent.mkdir(parents=True, exist_ok=True)
        save_state(stored, state)
    targets: Tensor = state["targets"]
    return targets


def _view_size(settings: ConvRecSettings, at: Step) -> int:
    return settings.start_size if at.progress < settings.start_share else _SIZE


def _network_input(views: Tensor, settings: ConvRecSettings, at: Step, mean: Tensor, std: Tensor) -> Tensor:
    x = views.float()
    size = _view_size(settings, at)
    if size < _SIZE:
        x = F.interpolate(x, size=size, mode="area")
    return ((x - mean) / std).contiguous(memory_format=torch.channels_last)


def _notes(settings: ConvRecSettings, crops: Crops | Stream, dim: int) -> tuple[str, ...]:
    notes = [f"{len(crops)} pictures of {crops.classes} people"]
    if settings.margin_weight:
        scale, margin = progressive_margin(0.0, scale=settings.scale, margin=settings.margin)
        first = expected_initial_loss(crops.classes, dim, scale=scale, margin=margin)
        chance = math.log(crops.classes)
        notes.append(f"expected first margin loss: {first:.2f} (ln of the number of people: {chance:.2f})")
    return tuple(notes)


def _portable(settings: ConvRecSettings) -> dict[str, Any]:
    """Settings as plain JSON values; of paths only the last part, since a checkpoint travels."""
    table = asdict(settings)
    for name in ("init", "teacher"):
        if table[name] is not None and not is_on_hub(table[name]):
            table[name] = Path(table[name])
    plain: dict[str, Any] = _without_folders(table)
    return plain


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_folders(part) for name, part in value.items()}
    return value.absolute().name if isinstance(value, Path) else value
