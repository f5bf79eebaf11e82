"""Hugging Face Hub names to folders in its cache, and folders to the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from facekit.errors import CheckpointError

__all__ = ["download", "is_hub_name", "list_files", "upload"]

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def is_hub_name(text: str) -> bool:
    """Whether ``text`` could be an ``owner/name`` of the Hub."""
    return _NAME.fullmatch(text) is not None


def list_files(repo: str, *, revision: str | None, token: str | None) -> dict[str, str | None] | None:
    """The files of a model on the Hub, each with its SHA-256 where the Hub keeps one (large files).

    Returns:
        None where the Hub cannot be reached, so that the cache decides.

    Raises:
        CheckpointError: the Hub has no such model or revision, or does not show it to this user.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi(token=token).model_info(repo, revision=revision, files_metadata=True)
    except Exception as error:  # the client's errors share no base
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if status in (401, 403, 404):
            raise _refused(repo, revision, status) from None
        return None
    return {item.rfilename: item.lfs.sha256 if item.lfs else None for item in info.siblings or []}


def download(
    repo: str,
    files: Iterable[str] | None,
    *,
    revision: str | None,
    cache_dir: str | Path | None,
    token: str | None,
) -> Path:
    """The folder in the cache that holds ``files`` of a model; what is there already is not fetched again.

    Args:
        files: their names, or None to use the cache alone.

    Raises:
        CheckpointError: a download broke off, or the cache does not hold the model.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repo,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            # From the cache alone: the config, if the model has one, proves that something was downloaded.
            # Asking for all files would call a cache without the ones never wanted incomplete.
            allow_patterns=["config.json"] if files is None else list(files),
            local_files_only=files is None,
        )
    except Exception as error:  # the client's errors share no base
        if files is None:
            raise CheckpointError(
                f"{repo}: neither a file here nor in the Hub's cache, and the Hub was not asked or is silent",
                path=repo,
            ) from None
        raise CheckpointError(
            f"{repo}: the download broke off ({_line(error)}); try again", path=repo
        ) from None
    return Path(folder)


def upload(folder: Path, repo: str, *, token: str | None, private: bool) -> str:
    """Put a checkpoint folder on the Hub in one commit; the model is created if need be.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    api: Any = HfApi(token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=["config.json", "model.safetensors", "README.md"],
            commit_message="Upload a facekit checkpoint",
        )
    except Exception as error:  # the client's errors share no base
        raise CheckpointError(
            f"{repo}: cannot be uploaded ({_line(error)}); is the token right?", path=repo
        ) from None
    return str(commit.commit_url)


def _refused(repo: str, revision: str | None, status: int) -> CheckpointError:
    if status in (401, 403):
        why = "the Hub asks for a token that may see it, or has no such model"
    elif revision is not None:
        why = f"the Hub has no such model, or no revision {revision!r} of it"
    else:
        why = "no such file here, and the Hub has no such model"
    return CheckpointError(f"{repo}: {why} (HTTP {status})", path=repo)


def _line(error: Exception) -> str:
    """The first line of a foreign error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
