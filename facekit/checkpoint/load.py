"""Any source of weights, folder, file or Hub name, to a checkpoint, and from there to a folder or the Hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from facekit.checkpoint import hub
from facekit.checkpoint.config import ModelConfig
from facekit.checkpoint.folder import (
    CONFIG,
    WEIGHTS,
    Checkpoint,
    read_folder,
    read_safetensors,
    save_checkpoint,
)
from facekit.checkpoint.foreign import adapt, read_foreign
from facekit.checkpoint.onnx import KNOWN_FILES, OnnxModel, file_digest, load_onnx
from facekit.errors import CheckpointError, SettingError

__all__ = ["convert_checkpoint", "is_on_hub", "load_checkpoint", "push_checkpoint"]

SHIPPED = Path(__file__).parent.parent / "weights"
_FOREIGN = (".pth", ".pt", ".ckpt")
_SUFFIXES = (".onnx", ".safetensors", *_FOREIGN)


def load_checkpoint(
    source: str | Path | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | None = None,
) -> Checkpoint:
    """The network and its config, from wherever they are.

    Args:
        source: None for the checkpoint that ships with facekit; a folder of
            :func:`~facekit.checkpoint.save_checkpoint`; a ``.pth``, ``.pt``, ``.ckpt`` or ``.safetensors``
            file of a known project; an ``.onnx`` file; or ``"owner/name"`` on the Hugging Face Hub. What
            exists as a path is never looked for on the Hub.
        revision: branch, tag or commit, on the Hub only.
        cache_dir: the Hub's cache, if not its usual one.
        local_files_only: use the Hub's cache alone.
        token: for private models on the Hub.

    Raises:
        CheckpointError: nothing is there, or it cannot be used; the message says why.
        MissingExtraError: an ONNX file without onnxruntime.
    """
    path = SHIPPED if source is None else Path(source)
    if source is None or not is_on_hub(source):
        if revision is not None:
            raise SettingError(
                f"revision: {revision!r} only has a meaning for models of the Hub, not for {path}"
            )
        return _read(path)
    assert isinstance(source, str)
    files = None if local_files_only else hub.list_files(source, revision=revision, token=token)
    chosen = None if files is None else _choose(files, files.get, source)
    wanted = None if chosen is None else [chosen, CONFIG]
    folder = hub.download(source, wanted, revision=revision, cache_dir=cache_dir, token=token)
    return _read(folder if chosen is None else folder / chosen)


def is_on_hub(source: str | Path) -> bool:
    """Whether :func:`load_checkpoint` takes ``source`` for a name of the Hub, not for a path."""
    path = Path(source)
    named = isinstance(source, str) and hub.is_hub_name(source) and path.suffix.lower() not in _SUFFIXES
    return named and not path.exists()


def convert_checkpoint(
    source: str | Path, folder: str | Path, *, half: bool = False, **changes: Any
) -> ModelConfig:
    """Write the network of ``source`` as a checkpoint folder of our own.

    Args:
        source: as for :func:`load_checkpoint`.
        folder: where to; made if need be.
        half: store float16.
        **changes: fields of :class:`~facekit.checkpoint.ModelConfig` that are known better than by the
            file's origin, such as ``mean``, ``std``, ``input_size``, ``license`` or ``threshold``.

    Returns:
        The config as written; ``calibration`` is None until somebody measures it.

    Raises:
        CheckpointError: ``source`` cannot be read, ``folder`` not written, or a change does not fit.
        SettingError: a change of something that is not a field.
    """
    checkpoint = load_checkpoint(source)
    if isinstance(checkpoint.model, OnnxModel):
        raise CheckpointError(
            f"{source}: is an ONNX graph, which is used as it is, with a {CONFIG} beside it", path=str(source)
        )
    try:
        config = replace(checkpoint.config, **changes)
    except TypeError as error:
        raise SettingError(f"convert_checkpoint: {error}") from None
    return save_checkpoint(folder, checkpoint.model, config, half=half)


def push_checkpoint(folder: str | Path, repo: str, *, token: str | None = None, private: bool = False) -> str:
    """Upload a checkpoint folder, with its ``README.md`` if it has one, to the Hub.

    Args:
        folder: what :func:`~facekit.checkpoint.save_checkpoint` wrote; it is verified first.
        repo: ``"owner/name"``, created if need be.
        token: if not the one that the Hub's own tools have stored.
        private: whether a new model is private.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: the folder is not a checkpoint, or the Hub refuses it or cannot be reached.
        SettingError: ``repo`` is not a name of the Hub.
    """
    if not hub.is_hub_name(repo):
        raise SettingError(f"repo: {repo!r} is not a name of the Hub; use 'owner/name'")
    read_folder(Path(folder))
    return hub.upload(Path(folder), repo, token=token, private=private)


def _read(path: Path) -> Checkpoint:
    try:
        return _read_path(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})", path=str(path)) from None


def _read_path(path: Path) -> Checkpoint:
    """The checkpoint that a folder or a file is."""
    suffix = path.suffix.lower()
    if path.is_dir():
        names = {item.name: item for item in path.iterdir() if item.is_file()}
        return _read_path(path / _choose(names, lambda name: file_digest(names[name]), str(path)))
    if not path.exists():
        raise CheckpointError(
            f"{path}: no such file or folder, and not an 'owner/name' of the Hugging Face Hub", path=str(path)
        )
    if path.name == WEIGHTS and path.with_name(CONFIG).exists():
        return read_folder(path.parent)
    if suffix == ".onnx":
        return Checkpoint(*load_onnx(path))
    if suffix == ".safetensors":
        return adapt(read_safetensors(path), path=str(path))
    return read_foreign(path)


def _choose(names: Mapping[str, Any], digest: Callable[[str], str | None], source: str) -> str:
    """The one file of weights among ``names``: ours, else the only one, else the only known one."""
    if CONFIG in names and WEIGHTS in names:
        return WEIGHTS
    candidates = sorted(name for name in names if Path(name).suffix.lower() in _SUFFIXES)
    if len(candidates) == 1:
        return candidates[0]
    known = [name for name in candidates if name.endswith(".onnx") and digest(name) in KNOWN_FILES]
    if len(known) == 1:
        return known[0]
    if not candidates:
        raise CheckpointError(
            f"{source}: holds no weights ({WEIGHTS} and {CONFIG}, or one of {_SUFFIXES})", path=source
        )
    raise CheckpointError(
        f"{source}: holds several files of weights ({', '.join(candidates)}); name the path of one",
        path=source,
    )
