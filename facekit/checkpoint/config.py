"""What a checkpoint says about itself: all that it takes to use its weights, and how far to trust a score."""

from __future__ import annotations

import dataclasses
import json
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from facekit.errors import CalibrationError, CheckpointError

__all__ = ["Calibration", "ModelConfig"]

FORMAT_VERSION = 1
_LARGEST_SIDE = 1024  # pixels; what is larger is a mistake, found too late as a lack of memory
_LARGEST_SIZE = 8192  # of widths and depths, for the same reason


@dataclass(frozen=True, slots=True)
class Calibration:
    """Which similarity stands for which false accept rate, and on what that was measured.

    Attributes:
        data: the pictures it was measured on, in words.
        impostor_pairs: number of pairs of different people behind the table.
        genuine_pairs: number of pairs of the same person.
        thresholds: false accept rate in (0, 1) -> similarity in [-1, 1]; rarer false accepts need at
            least as much similarity.

    Raises:
        CheckpointError: the table cannot be one.
    """

    data: str
    impostor_pairs: int
    genuine_pairs: int
    thresholds: Mapping[float, float]

    def __post_init__(self) -> None:
        _require(isinstance(self.data, str), "calibration.data", self.data, "text")
        for name in ("impostor_pairs", "genuine_pairs"):
            count = getattr(self, name)
            _require(_is_int(count) and count >= 0, f"calibration.{name}", count, "a count")
        rows = sorted(_as_rows(self.thresholds), reverse=True)
        rising = all(a[1] <= b[1] for a, b in pairwise(rows))
        if not rows or not rising:
            raise CheckpointError(
                f"calibration.thresholds: {dict(rows)} is not a table in which rarer needs more similarity"
            )
        object.__setattr__(self, "thresholds", dict(rows))

    def threshold_at(self, far: float) -> float:
        """The similarity at which impostors are accepted at rate ``far``.

        Between two rows of the table it is interpolated, linearly in log10 of the rate; outside the table
        nothing is known.

        Raises:
            CalibrationError: ``far`` is not within the measured rates.
        """
        fars = list(self.thresholds)  # falling
        if not fars[-1] <= far <= fars[0]:
            known = ", ".join(f"{value:g}" for value in fars)
            raise CalibrationError(f"far: {far:g} was not measured, use one within {known}, or threshold=")
        if far in self.thresholds:
            return self.thresholds[far]
        above = next(value for value in reversed(fars) if value >= far)
        below = next(value for value in fars if value <= far)
        share = math.log10(above / far) / math.log10(above / below)
        return self.thresholds[above] + share * (self.thresholds[below] - self.thresholds[above])

    def far_at(self, similarity: float) -> float | None:
        """The rate at which impostors reach ``similarity``, or None where that was not measured."""
        fars, similarities = list(self.thresholds), list(self.thresholds.values())  # falling, rising
        if not similarities[0] <= similarity <= similarities[-1]:
            return None
        index = bisect_left(similarities, similarity)
        if similarities[index] == similarity:
            return fars[index]
        low, high = similarities[index - 1], similarities[index]
        share = (similarity - low) / (high - low)
        return float(fars[index - 1] * (fars[index] / fars[index - 1]) ** share)

    def to_dict(self) -> dict[str, Any]:
        """The table as plain values for JSON."""
        return {
            "data": self.data,
            "impostor_pairs": self.impostor_pairs,
            "genuine_pairs": self.genuine_pairs,
            "thresholds": {str(far): similarity for far, similarity in self.thresholds.items()},
        }


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """All that it takes to use a checkpoint's weights.

    Attributes:
        architecture: a name of :data:`facekit.models.ARCHITECTURES`, or ``"onnx"``.
        embedding_dim: length d of the embedding.
        input_size: side of the square input in pixels.
        color: channel order of the network's input, ``"rgb"`` or ``"bgr"``.
        mean: subtracted from each channel of the pixels 0...255, in the order of ``color``.
        std: what each channel is divided by afterwards.
        sizes: keyword arguments of the architecture's builder.
        template: the alignment of the crops; ``"arcface_112"`` scaled to ``input_size``.
        flip_average: whether the crop and its mirror are embedded, and averaged before the unit length.
        threshold: the default similarity of a verdict; None where nobody has measured one.
        calibration: thresholds by false accept rate; None where nobody has measured them.
        recipe: what made the weights: settings, data, command, date.
        license: of the weights.
        fingerprint: of weights and preprocessing; written by
            :func:`~facekit.checkpoint.save_checkpoint`.

    Raises:
        CheckpointError: a value that cannot be used.
    """

    architecture: str
    embedding_dim: int
    input_size: int
    color: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    sizes: Mapping[str, Any] = field(default_factory=dict)
    template: str = "arcface_112"
    flip_average: bool = False
    threshold: float | None = None
    calibration: Calibration | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    license: str = "unknown"
    fingerprint: str = ""

    def __post_init__(self) -> None:
        for name in ("architecture", "license", "fingerprint"):
            _require(isinstance(getattr(self, name), str), name, getattr(self, name), "text")
        dim, side = self.embedding_dim, self.input_size
        _require(_is_int(dim) and dim > 0, "embedding_dim", dim, "a whole number above 0")
        valid = _is_int(side) and 0 < side <= _LARGEST_SIDE
        _require(valid, "input_size", side, f"within 1...{_LARGEST_SIDE} pixels")
        _require(self.color in ("rgb", "bgr"), "color", self.color, "'rgb' or 'bgr'")
        _require(self.template == "arcface_112", "template", self.template, "'arcface_112'")
        _require(isinstance(self.flip_average, bool), "flip_average", self.flip_average, "true or false")
        object.__setattr__(self, "mean", _triple("mean", self.mean))
        object.__setattr__(self, "std", _triple("std", self.std))
        _require(all(value > 0 for value in self.std), "std", self.std, "three numbers > 0")
        valid = self.threshold is None or (_is_number(self.threshold) and -1 <= self.threshold <= 1)
        _require(valid, "threshold", self.threshold, "a similarity in [-1, 1], or null")
        for name in ("sizes", "recipe"):
            object.__setattr__(self, name, _plain(name, getattr(self, name)))
        too_large = [v for v in _numbers(self.sizes) if not 0 <= v <= _LARGEST_SIZE]
        _require(not too_large, "sizes", dict(self.sizes), f"numbers within 0...{_LARGEST_SIZE}")

    def to_dict(self) -> dict[str, Any]:
        """The config as plain values for JSON, the version of the format first."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        values["calibration"] = None if self.calibration is None else self.calibration.to_dict()
        return {"version": FORMAT_VERSION, **values}

    def to_json(self) -> str:
        """The text of ``config.json``."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: Any) -> ModelConfig:
        """The config from parsed JSON, as :meth:`to_dict` gives it.

        Raises:
            CheckpointError: no table, another version, an unknown or missing field, or a bad value.
        """
        return cls(**_checked_fields(values))

    @classmethod
    def read(cls, path: Path) -> ModelConfig:
        """The config in a file.

        Raises:
            CheckpointError: the file cannot be read, or as of :meth:`from_json`.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})", path=str(path)) from None
        return cls.from_json(text, path=str(path))

    @classmethod
    def from_json(cls, text: str, *, path: str = "config.json") -> ModelConfig:
        """The config that ``text`` holds; ``path`` is named in errors.

        Raises:
            CheckpointError: not JSON, or as for :meth:`from_dict`.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: not JSON ({error})", path=path) from None
        try:
            return cls.from_dict(values)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}", path=path) from None


def _checked_fields(parsed: Any) -> dict[str, Any]:
    """The fields of a parsed ``config.json``, its calibration built."""
    if not isinstance(parsed, dict):
        raise CheckpointError("holds no table of settings; is it a facekit config?")
    values: dict[str, Any] = dict(parsed)
    version = values.pop("version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"version: {version!r} is not {FORMAT_VERSION}; a newer facekit wrote it, upgrade facekit-torch"
        )
    _check_names(ModelConfig, values, "")
    if values.get("calibration") is not None:
        table = values["calibration"]
        _require(isinstance(table, dict), "calibration", table, "a table")
        _check_names(Calibration, table, "calibration.")
        values["calibration"] = Calibration(**table)
    return values


def _check_names(kind: type[ModelConfig] | type[Calibration], values: Mapping[str, Any], prefix: str) -> None:
    fields = dataclasses.fields(kind)
    known = {item.name for item in fields}
    required = {
        item.name
        for item in fields
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    }
    if unknown := sorted(set(values) - known):
        raise CheckpointError(f"unknown setting {prefix}{unknown[0]}; known are {', '.join(sorted(known))}")
    if missing := sorted(required - set(values)):
        raise CheckpointError(f"setting {prefix}{missing[0]} is missing")


def _as_rows(thresholds: Any) -> list[tuple[float, float]]:
    """The table's rows as numbers; JSON knows only text as keys."""
    if not isinstance(thresholds, Mapping):
        raise CheckpointError(f"calibration.thresholds: {thresholds!r} is not a table of FAR: similarity")
    rows = []
    for far, similarity in thresholds.items():
        try:
            row = (float(far), float(similarity))
        except (TypeError, ValueError):
            row = (math.nan, math.nan)
        if not (0 < row[0] < 1 and -1 <= row[1] <= 1):
            raise CheckpointError(
                f"calibration.thresholds: {far!r}: {similarity!r} is not FAR in (0, 1): similarity in [-1, 1]"
            )
        rows.append(row)
    return rows


def _plain(name: str, table: Any) -> dict[str, Any]:
    """A copy of a table that reads the same from JSON: lists for tuples, text for keys."""
    _require(isinstance(table, Mapping), name, table, "a table of settings")
    try:
        copied: dict[str, Any] = json.loads(json.dumps(dict(table)))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{name}: cannot be written as JSON ({error})") from None
    return copied


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in nested tables and lists."""
    if isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)):
        yield value


def _triple(name: str, value: Any) -> tuple[float, float, float]:
    valid = isinstance(value, (list, tuple)) and len(value) == 3 and all(_is_number(v) for v in value)
    _require(valid, name, value, "three numbers, one a channel, of pixels 0...255")
    return (float(value[0]), float(value[1]), float(value[2]))


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _require(condition: bool, name: str, value: Any, wanted: str) -> None:
    if not condition:
        shown = repr(value)
        raise CheckpointError(f"{name}: {shown if len(shown) < 80 else shown[:77] + '...'} must be {wanted}")
