"""The weights of a run at its best moment, in a file that survives interruptions."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from facekit.errors import TrainingError
from facekit.wholefile import replacing

__all__ = ["BestMoment"]


class BestMoment:
    """Keeps what a run had learnt when its score was highest, the first of equals.

    A run that was killed does some steps again. What it kept of those is a moment that is still to come, and
    is dropped as soon as an earlier one is looked at.

    Args:
        path: the file; its folder is made when it is first written. One process writes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def forget(self) -> None:
        """A run begins: what lies there is of another one."""
        self._path.unlink(missing_ok=True)

    def look(self, modules: nn.Module, step: int, score: float) -> None:
        """Keep the weights, if they are better than those kept so far.

        Raises:
            TrainingError: they cannot be written, or what was written cannot be read.
        """
        kept = self._kept()
        if kept is not None and kept[0] <= step and kept[1] >= score:
            return
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in modules.state_dict().items()}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as file:
                file.write(save(state, {"step": str(step), "score": repr(score)}))
        except OSError as error:
            raise TrainingError(f"{self._path}: cannot be written ({error}); free space") from error

    def restore(self, modules: nn.Module) -> tuple[int, float]:
        """Give the modules those weights.

        Returns:
            The step after which they were these, and their score.

        Raises:
            TrainingError: they are not there, or of another network.
        """
        kept = self._kept()
        if kept is None:
            raise TrainingError(f"{self._path}: is gone; train again with another --out")
        try:
            with safe_open(self._path, "pt") as file:
                names = file.keys()  # of a file, which is no dict
                modules.load_state_dict({name: file.get_tensor(name) for name in names})
        except (OSError, SafetensorError, RuntimeError) as error:
            raise self._unreadable(error) from error
        return kept

    def _kept(self) -> tuple[int, float] | None:
        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, "pt") as file:
                metadata = file.metadata() or {}
            return int(metadata["step"]), float(metadata["score"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> TrainingError:
        reason = str(error).splitlines()[0]
        return TrainingError(f"{self._path}: not of this run ({reason}); train again with another --out")
