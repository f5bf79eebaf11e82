"""How similar is similar enough: the caller's word, a false accept rate, or the checkpoint's default."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

from facekit.checkpoint import ModelConfig
from facekit.errors import CalibrationError, SettingError

__all__ = ["Threshold", "choose_threshold"]


@dataclass(frozen=True, slots=True)
class Threshold:
    """The least similarity of two faces of one person.

    Attributes:
        similarity: cosine in [-1, 1], inclusive.
        far: the rate at which pairs of strangers reach it, by the checkpoint's calibration; None where
            that was not measured.
    """

    similarity: float
    far: float | None


def choose_threshold(
    config: ModelConfig, *, threshold: float | None = None, far: float | None = None
) -> Threshold:
    """``threshold`` beats ``far``, which beats the checkpoint's default.

    Args:
        config: of the checkpoint that made the embeddings.
        threshold: a similarity in [-1, 1].
        far: a false accept rate, looked up in the checkpoint's calibration.

    Raises:
        SettingError: ``threshold`` is not a similarity, or ``far`` not a rate.
        CalibrationError: neither is given and the checkpoint has no default, or ``far`` was not measured.
    """
    table = config.calibration
    if threshold is None and far is not None:
        if not _is_number(far) or not 0 <= far <= 1:
            raise SettingError(f"far: {far!r} is not a rate; give a number between 0 and 1, such as 1e-3")
        if table is None:
            raise CalibrationError(f"far: {config.fingerprint} has no calibration; give threshold= instead")
        return Threshold(table.threshold_at(far), far)
    chosen = config.threshold if threshold is None else threshold
    if chosen is None:
        raise CalibrationError(
            f"threshold: {config.fingerprint} has no default, for nobody has measured one; give threshold=,"
            " between -1 and 1, or measure it with `facekit evaluate`"
        )
    if not _is_number(chosen) or not -1 <= chosen <= 1:
        raise SettingError(f"threshold: {chosen!r} is not a similarity; give a number between -1 and 1")
    return Threshold(float(chosen), None if table is None else table.far_at(chosen))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
