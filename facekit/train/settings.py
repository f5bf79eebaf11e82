"""Settings to JSON and back: what ``--print-config`` prints, runs keep, and ``--config`` starts again."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from facekit.checkpoint.load import is_on_hub
from facekit.errors import SettingError
from facekit.train.probe.examples import tasked

__all__ = ["changes", "from_json", "portable", "to_json"]

_Settings = TypeVar("_Settings")
_LARGEST = 1 << 20  # characters of a file of settings
_SOURCES = ("init", "distill", "teacher")  # settings that may be a path, a name of the Hub, or a word
_SETS = "data"  # and that, where there may be several, are [TASK=]PATH
_WORDS = ("random", "imagenet")
_WITHOUT_EFFECT = {
    *("run.out", "run.device", "run.save_minutes"),
    *("data.workers", "data.keep_gb", "workers", "keep_gb"),
}
_INFINITE = ("inf", "-inf")
_HUGE = 1 << 1000  # floats end soon after, and whole numbers do not


def to_json(recipe: str, settings: Any) -> str:
    """All settings of a run.

    Args:
        recipe: its name.
        settings: its dataclass; paths are written in full, so that the file works from any folder.
    """
    table = _plain(_sources_as_paths(asdict(settings)), lambda path: str(path.absolute()))
    return json.dumps({"recipe": recipe, "settings": table}, indent=2, allow_nan=False) + "\n"


def from_json(file: Path, recipe: str, kind: type[_Settings]) -> _Settings:
    """The settings that :func:`to_json` wrote. What the file leaves out has its default in this recipe.

    Raises:
        SettingError: not such a file, of another recipe, or with a setting that does not exist or fit.
    """
    try:
        with file.open(encoding="utf-8") as stream:
            document = json.loads(stream.read(_LARGEST))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingError(f"config={file}: not a file of settings ({error})") from error
    if not isinstance(document, dict) or not isinstance(document.get("settings"), dict):
        raise SettingError(f"config={file}: not a file of settings; --print-config shows one")
    if document.get("recipe") != recipe:
        raise SettingError(f"config={file}: is for {document.get('recipe')!r}, not for {recipe!r}")
    made: _Settings = _dataclass(document["settings"], kind, f"config={file}: ")
    return made


def changes(file: Path, now: str) -> list[str]:
    """What a run is to go on with that is not what it began with, a line a setting.

    Args:
        file: of :func:`to_json`, that the run keeps.
        now: what :func:`to_json` says today.

    Raises:
        SettingError: the file cannot be read, or the run is of another recipe.
    """
    try:
        before, after = json.loads(file.read_text(encoding="utf-8")), json.loads(now)
        one, other = before["recipe"], after["recipe"]
        old, new = _flat(_plain(before["settings"], str)), _flat(after["settings"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingError(f"{file}: not the settings of a run ({error}); give another --out") from error
    if one != other:
        raise SettingError(f"out={file.parent}: holds a run of {one}, not of {other}; give another --out")
    return [
        f"goes on with {name}={value}, which was {old[name]}"
        for name, value in new.items()
        if name in old and value != old[name] and name not in _WITHOUT_EFFECT
    ]


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def portable(settings: Any) -> dict[str, Any]:
    """Settings as plain JSON values; of paths only the last part, since a checkpoint travels."""
    plain: dict[str, Any] = _plain(_sources_as_paths(asdict(settings)), lambda path: path.absolute().name)
    return plain


def _sources_as_paths(table: dict[str, Any]) -> dict[str, Any]:
    """The table, with a path where a text is one."""
    return {name: _source(name, value) for name, value in table.items()}


def _source(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return _sources_as_paths(value)
    is_path = name in _SOURCES and isinstance(value, str) and value not in _WORDS and not is_on_hub(value)
    return Path(value) if is_path else value


def _plain(value: Any, path: Any, name: str = "") -> Any:
    """As JSON can hold it, which has no infinity: that is a text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _plain(part, path, name) for name, part in value.items()}
    if name == _SETS and isinstance(value, tuple):
        return [_set(text, path) for text in value]
    return path(value) if isinstance(value, Path) else value


def _set(text: str, path: Any) -> str:
    task, place = tasked(text)
    return f"{task}={path(place)}" if task else str(path(place))


def _dataclass(table: Any, kind: Any, where: str, default: Any = None) -> Any:
    if not isinstance(table, dict):
        raise SettingError(f"{where}{table!r} where a table of settings belongs")
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    for name in table:
        if name not in known:
            raise SettingError(f"{where}there is no setting {name!r}; there are {', '.join(sorted(known))}")
    try:
        values = {
            name: _value(value, hints[name], f"{where}{name}", _default(known[name]))
            for name, value in table.items()
        }
        return kind(**values) if default is None else replace(default, **values)
    except TypeError as error:  # a setting without a default is missing
        raise SettingError(f"{where}{error}") from error


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default


def _value(value: Any, kind: Any, where: str, default: Any = None) -> Any:
    if is_dataclass(kind):
        return _dataclass(value, kind, f"{where}.", default)
    if get_origin(kind) in (Union, types.UnionType):
        if value is None and type(None) in get_args(kind):
            return None
        (kind,) = (part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise SettingError(f"{where}: {value!r} is not one of {', '.join(map(repr, get_args(kind)))}")
        return value
    if get_origin(kind) is tuple and get_args(kind)[1:] == (...,):
        if not isinstance(value, list):
            raise SettingError(f"{where}: {value!r} is no list")
        return tuple(_value(part, get_args(kind)[0], where) for part in value)
    if get_origin(kind) is tuple:
        if not isinstance(value, list) or len(value) != len(get_args(kind)):
            raise SettingError(f"{where}: {value!r} is no list of {len(get_args(kind))} values")
        return tuple(_value(part, one, where) for part, one in zip(value, get_args(kind), strict=True))
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and value in _INFINITE:
        return float(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < _HUGE:
        return float(value)
    if type(value) is not kind:
        raise SettingError(f"{where}: {value!r} is no {kind.__name__}")
    return value
