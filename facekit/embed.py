"""Aligned crops to unit vectors: batches, device and precision."""

from __future__ import annotations

import copy
from collections import Counter

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from facekit.checkpoint import Checkpoint, ModelConfig, OnnxModel
from facekit.errors import CheckpointError, DeviceError, SettingError

__all__ = ["Embedder", "fold_batch_norms", "resolve_device", "resolve_precision"]

CROP_SIZE = 112  # pixels; what align_faces cuts
_FEW_INPUTS = 150  # per output of a convolution: stems (27, 147) and depthwise layers (9) have fewer
_BATCH = {"cpu": 16, "cuda": 512}
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that ``device`` names; ``"auto"`` is CUDA, else Apple's MPS, else the CPU.

    Raises:
        SettingError: not the name of a device.
        DeviceError: the device is not there; nothing ever falls back to the CPU unasked.
    """
    if device == "auto":
        accelerators = (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
        return torch.device(next((name for name, there in accelerators if there), "cpu"))
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        resolved = torch.device("meta")
    if resolved.type not in ("cpu", "cuda", "mps"):
        raise SettingError(f"device: {device!r} is not one of 'auto', 'cpu', 'cuda', 'cuda:<number>', 'mps'")
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device: 'mps' is not available here; use device='cpu' or device='auto'")
    if resolved.type == "cuda":
        _require_cuda(resolved)
    return resolved


def _require_cuda(device: torch.device) -> None:
    if not torch.cuda.is_available():
        why = "no CUDA device is visible" if torch.version.cuda else "this torch is built without CUDA"
        raise DeviceError(f"device: '{device}' is not available, {why}; use device='cpu' or device='auto'")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise DeviceError(f"device: '{device}' is not there, the last one is 'cuda:{count - 1}'")


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The floating type to compute in; ``"auto"`` is bf16 where the hardware multiplies it, else fp32.

    Raises:
        SettingError: not the name of a precision.
        DeviceError: ``device`` has no arithmetic for it.
    """
    if precision == "auto":
        return torch.bfloat16 if _has_bf16(device) else torch.float32
    if precision not in _PRECISIONS:
        raise SettingError(f"precision: {precision!r} is not one of 'auto', 'fp32', 'bf16', 'fp16'")
    if precision == "bf16" and not _has_bf16(device):
        raise DeviceError(f"precision: 'bf16' has no hardware on this {device.type}; use 'fp32' or 'auto'")
    if precision == "fp16" and device.type == "cpu":
        raise DeviceError("precision: 'fp16' has no hardware on CPUs; use 'bf16', 'fp32' or 'auto'")
    return _PRECISIONS[precision]


def _has_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 are native; torch also emulates them, slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private, may go away
        return any(getattr(torch.cpu, flag, bool)() for flag in flags)
    return False


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """A copy of ``model``, in eval mode, with its batch norms inside the layers that they follow.

    The outputs are the same up to rounding. Norms that follow something else stay.
    """
    graph_model = torch.fx.GraphModule(copy.deepcopy(model).eval(), torch.fx.Tracer().trace(model))
    modules = dict(graph_model.named_modules())
    uses = Counter(node.target for node in graph_model.graph.nodes if node.op == "call_module")
    for node in list(graph_model.graph.nodes):
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(source, torch.fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        if uses[source.target] > 1 or uses[node.target] > 1:
            continue
        layer, norm = modules[str(source.target)], modules[str(node.target)]
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            fused: nn.Module = fuse_conv_bn_eval(layer, norm)
        elif isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
            fused = fuse_linear_bn_eval(layer, norm)
        else:
            continue
        graph_model.set_submodule(str(source.target), fused)
        node.replace_all_uses_with(source)
        graph_model.graph.erase_node(node)
    graph_model.delete_all_unused_submodules()
    graph_model.recompile()
    return graph_model


def _reduce_precision(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Let ``model`` compute in ``dtype`` where that does not show in similarities.

    Rounding a weight is an error that all pictures share, and it only averages out over many inputs.
    So layers of few inputs stay in fp32, as do norms and linear layers; all of them are cheap. The largest
    change among 160 faces' similarities fell from 0.026 to 0.010 in a MobileFaceNet, which is all such
    layers, and among 160 faces' from 0.006 to 0.004 in our own residual network.
    """
    if dtype == torch.float32:
        return model
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            exact = layer.weight[0].numel() < _FEW_INPUTS
            layer.to(torch.float32 if exact else dtype).register_forward_pre_hook(_cast_input)
            if exact:
                layer.register_forward_hook(lambda layer, args, out: out.to(dtype))
        elif isinstance(layer, nn.PReLU):
            layer.to(dtype)
        elif isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(_cast_input)
    return model


def _cast_input(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A hook: a layer's input in the type of its weight."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return (args[0].to(weight.dtype),)


class Embedder:
    """Embeds aligned crops with one network; holds no inputs or results, safe to share between threads.

    Args:
        checkpoint: the network and its preprocessing.
        device: see :func:`resolve_device`; with ``"auto"`` an ONNX graph runs on the CPU where
            onnxruntime cannot use the device.
        precision: see :func:`resolve_precision`; an ONNX graph has its own, so only ``"auto"`` or
            ``"fp32"`` fit it.
        batch_size: crops at a time, or ``"auto"``.

    Raises:
        SettingError, DeviceError: a setting that cannot be had.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        batch_size: int | str = "auto",
    ) -> None:
        self.config: ModelConfig = checkpoint.config
        self.device = resolve_device(device)
        self.batch_size = _resolve_batch_size(batch_size, self.device)
        if isinstance(checkpoint.model, OnnxModel):
            if precision not in ("auto", "fp32"):
                raise DeviceError(f"precision: {precision!r} cannot be chosen for an ONNX graph; use 'auto'")
            self.dtype = torch.float32
            self._model: nn.Module | OnnxModel = _place(checkpoint.model, self.device, asked=device != "auto")
        else:
            self.dtype = resolve_precision(precision, self.device)
            model = fold_batch_norms(checkpoint.model).requires_grad_(False)
            model = _reduce_precision(model, self.dtype).to(self.device)
            self._model = model.to(memory_format=torch.channels_last)
        self._mean = torch.tensor(self.config.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(self.config.std, device=self.device).view(1, 3, 1, 1)

    @property
    def dim(self) -> int:
        """Length d of the embeddings."""
        return self.config.embedding_dim

    @torch.inference_mode()
    def embed(self, crops: Tensor) -> Tensor:
        """Embed aligned crops.

        Args:
            crops: (n, 3, 112, 112) uint8, RGB, on any device.

        Returns:
            (n, d) float32 of unit length, on the CPU.

        Raises:
            SettingError: another shape or type.
            CheckpointError: the network overflows, or gives zeros.
        """
        if crops.dtype != torch.uint8 or crops.ndim != 4 or crops.shape[1:] != (3, CROP_SIZE, CROP_SIZE):
            raise SettingError(
                f"crops: {tuple(crops.shape)} {crops.dtype} must be (n, 3, {CROP_SIZE}, {CROP_SIZE}) uint8"
            )
        if not len(crops):
            return torch.empty(0, self.dim)
        vectors = torch.cat([self._forward(batch) for batch in torch.split(crops, self.batch_size)]).cpu()
        lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        if not bool((lengths.isfinite() & (lengths > 0)).all()):
            raise CheckpointError(
                f"{self.config.fingerprint}: gives vectors without a finite length in {self.dtype};"
                " use precision='fp32', or other weights if it was"
            )
        return vectors / lengths

    def _forward(self, crops: Tensor) -> Tensor:
        """(b, 3, 112, 112) uint8 -> (b, d) float32 on the device, not of unit length."""
        if self.device.type == "cuda" and crops.device.type == "cpu":
            crops = crops.pin_memory()
        x = self._normalise(crops.to(self.device, non_blocking=True))
        vectors: Tensor = self._model(x).float()
        if self.config.flip_average:
            mirrored: Tensor = self._model(x.flip(-1)).float()
            vectors = (vectors + mirrored) / 2
        return vectors

    def _normalise(self, crops: Tensor) -> Tensor:
        """uint8 crops as the network's input: size, channel order, mean, std."""
        x = crops.float()
        size = self.config.input_size
        if size != CROP_SIZE:
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
        if self.config.color == "bgr":
            x = x.flip(1)
        return ((x - self._mean) / self._std).contiguous(memory_format=torch.channels_last)


def _place(model: OnnxModel, device: torch.device, *, asked: bool) -> OnnxModel:
    """The graph on ``device``; where that cannot be, and nobody asked for the device, as it is on the CPU."""
    try:
        return model.on(device)
    except DeviceError:
        if asked:
            raise
        return model


def _resolve_batch_size(batch_size: int | str, device: torch.device) -> int:
    if batch_size == "auto":
        return _BATCH.get(device.type, 64)
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise SettingError(f"batch_size: {batch_size!r} must be 'auto' or a number above 0")
    return batch_size
