"""Writes docs/reference.md from the signatures and docstrings of what facekit makes public.

python docs/build_reference.py [--check]

With --check nothing is written, and the exit code is 1 if the page is not what it should be.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from types import FunctionType, ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference.md"
WIDTH = 100  # of a signature on one line

# What is on the page, in this order: public names by their modules. A module's name stands for its docstring.
# Names of facekit.__all__ that are missing here come last.
SECTIONS = {
    "The same person?": "recognition.FaceRecognition recognition.Verification policy.FacePolicy",
    "Who is it?": """gallery.Gallery gallery.ALIGNED identify.Match identify.Identification
        enrolment.list_enrolments enrolment.Sample enrolment.Skipped""",
    "Which pictures repeat a person?": """duplicates deduplication.FaceDeduplication deduplication.Keep
        deduplication.plan_removal duplicates.Duplicates duplicates.DuplicateGroup
        duplicates.DuplicatePicture""",
    "Removing files, and taking it back": """removal removal.RemovalPlan removal.PlannedGroup
        removal.PlannedFile removal.apply_plan removal.undo removal.RemovalReport""",
    "From pictures to embedded faces": """encode.FaceEncoder encode.EncodedImage face.Face
        image.ImageSource image.load_image image.find_images quality.face_quality quality.FaceQuality
        embed.resolve_device embed.resolve_precision""",
    "Checkpoints": """checkpoint.load_checkpoint checkpoint.save_checkpoint checkpoint.convert_checkpoint
        checkpoint.push_checkpoint checkpoint.export_torchvision checkpoint.TorchvisionBackbone
        checkpoint.Checkpoint checkpoint.ModelConfig checkpoint.Calibration""",
    "Thresholds": "threshold.choose_threshold threshold.Threshold",
    "What is a checkpoint worth?": """evaluate.load_pairs evaluate.load_bin evaluate.evaluate_pairs
        evaluate.evaluate_people evaluate.PeopleReport evaluate.HardPair evaluate.load_groups
        evaluate.GroupTable evaluate.group_rates evaluate.group_rates_of_pairs evaluate.GroupRates
        evaluate.jackknife
        evaluate.VerificationReport evaluate.confidence_intervals evaluate.Intervals evaluate.bootstrap
        evaluate.evaluate_search evaluate.SearchReport evaluate.identities evaluate.roc
        evaluate.roc_of_people evaluate.ROC evaluate.kfold_accuracy evaluate.best_threshold""",
    "Which labels are likely right?": """label_noise label_noise.clean_probability label_noise.fit_losses
        label_noise.LossMixture""",
    "Vectors": """similarity similarity.cosine similarity.top_k similarity.pairs_above
        similarity.pair_blocks similarity.Index grouping.group_pairs""",
    "Which pictures to learn from?": """likeness likeness.fit_clusters likeness.Clusters
        likeness.fit_classifier likeness.Classifier selection selection.find_repeats
        selection.within_quota selection.best""",
    "Pictures for people": """report.draw_faces report.contact_sheet report.save_picture report.Mark
        report.Panel""",
    "Errors": """errors errors.FacekitError errors.ImageError errors.NoFaceError errors.MultipleFacesError
        errors.SettingError errors.DeviceError errors.CheckpointError errors.CalibrationError
        errors.GalleryError errors.MismatchError errors.RemovalError errors.EvaluationError
        errors.TrainingError errors.MissingExtraError""",
}

HEADER = """# Reference

Made from the docstrings by `python docs/build_reference.py`; do not edit. Shapes are written `(n, d)`.
Pictures are uint8 RGB `(height, width, 3)`. Similarities are cosines in [-1, 1].
"""


def render() -> str:
    """The whole page."""
    facekit = import_module("facekit")
    entries = {title: [_find(name) for name in names.split()] for title, names in SECTIONS.items()}
    placed = {name for found in entries.values() for _, name, _ in found}
    rest = [name for name in facekit.__all__ if name not in placed]
    if rest:
        entries["More"] = [(facekit, name, getattr(facekit, name)) for name in rest]
    contents = "\n".join(f"- [{title}](#{slug(title)})" for title in entries)
    sections = (
        "\n".join([f"## {title}\n", *(_entry(*entry) for entry in found)]) for title, found in entries.items()
    )
    return "\n".join([HEADER, contents, "", *sections]).rstrip() + "\n"


def slug(title: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _find(path: str) -> tuple[ModuleType, str, Any]:
    """The module of a name, the name and what it means; for a module no name."""
    module, _, name = path.partition(".")
    found = import_module(f"facekit.{module}")
    return found, name, getattr(found, name) if name else found


def _entry(module: ModuleType, name: str, thing: Any) -> str:
    if isinstance(thing, ModuleType):
        return markdown(inspect.getdoc(thing) or "") + "\n"
    if inspect.isclass(thing) and issubclass(thing, Exception):
        bases = ", ".join(base.__name__ for base in thing.__bases__)
        return f"- **`{name}`** ({bases}): {_line(thing)}"
    public = name in import_module("facekit").__all__
    lines = [f"### {name}\n", f"`from {'facekit' if public else module.__name__} import {name}`\n"]
    if inspect.isclass(thing):
        lines += _class(thing)
    elif inspect.isfunction(thing):
        lines += [_code(_signature(thing, name)), markdown(inspect.getdoc(thing) or "")]
    else:
        value, text = _assignment(module, name)
        lines += [_code(f"{name} = {value}"), markdown(text)]
    return "\n".join(lines) + "\n"


def _class(cls: type) -> Iterator[str]:
    bases = [base for base in getattr(cls, "__orig_bases__", cls.__bases__) if base is not object]
    names = [base.__name__ if isinstance(base, type) else str(base) for base in bases]
    shown = ", ".join(re.sub(r"\b\w+\.", "", name) for name in names)
    head = f"class {cls.__name__}" + (f"({shown})" if shown else "")
    yield _code(f"{head}:\n" + _indented(_signature(cls, "__init__", "None")))
    yield markdown(inspect.getdoc(cls) or "")
    members = {name: value for name, value in vars(cls).items() if not name.startswith("_")}
    properties = [
        f"- `{name}`: {_line(value)}"
        for name, value in members.items()
        if isinstance(value, (property, cached_property)) and inspect.getdoc(value)
    ]
    if properties:
        yield "\n".join(["\n**Properties**\n", *properties])
    for name, value in members.items():
        function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if not isinstance(function, FunctionType):
            continue
        decorator = f"@{type(value).__name__}\n" if function is not value else ""
        yield f"\n#### {cls.__name__}.{name}\n"
        yield _code(decorator + _signature(function, name))
        yield markdown(inspect.getdoc(function) or "")


def _signature(thing: Any, name: str, result: str = "") -> str:
    """As a stub file has it, on one line if that is short."""
    signature = inspect.signature(thing)
    parameters, keyword_only = ["self"] if inspect.isclass(thing) else [], False
    for parameter in signature.parameters.values():
        if parameter.kind == parameter.KEYWORD_ONLY and not keyword_only:
            parameters.append("*")
        keyword_only |= parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        parameters.append(_parameter(parameter, thing))
    result = result or str(signature.return_annotation)
    line = f"def {name}({', '.join(parameters)}) -> {result}: ..."
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"def {name}(", *(f"    {p}," for p in parameters), f") -> {result}: ..."])


def _parameter(parameter: inspect.Parameter, owner: Any) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = stars + parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {parameter.annotation}"
    if parameter.default is parameter.empty:
        return text
    fields = {f.name: f for f in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else {}
    factory = fields[parameter.name].default_factory if parameter.name in fields else dataclasses.MISSING
    if factory is not dataclasses.MISSING:
        default = repr(factory()) if factory in (dict, list) else "..."
    else:
        default = parameter.default
        default = json.dumps(default) if isinstance(default, str) else repr(default)
    return f"{text} = {default}" if parameter.annotation is not parameter.empty else f"{text}={default}"


def _assignment(module: ModuleType, name: str) -> tuple[str, str]:
    """What a module assigns to a name, and the text below that."""
    for statement, text in pairwise(ast.parse(inspect.getsource(module)).body):
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        if getattr(targets[0], "id", None) == name:
            value: Any = statement.value
            quoted_type = isinstance(statement, ast.AnnAssign) and isinstance(value, ast.Constant)
            shown = (value.value if quoted_type else ast.unparse(value)).replace("'", '"')
            return shown, inspect.cleandoc(text.value.value)
    raise LookupError(f"{module.__name__}.{name} is not assigned there")


def markdown(text: str) -> str:
    """A Google style docstring, with the roles of Sphinx, as Markdown."""
    text = re.sub(r"\s+\(:\w+:`~?[\w.]*\b_\w+`\)", "", text)  # what is private
    text = re.sub(r":\w+:`([^`<]+?)\s*<[^`>]+>`", r"``\1``", text)
    text = re.sub(r":\w+:`~?([^`]+)`", lambda role: f"``{_short(role)}``", text)
    text = text.replace("``", "`")
    parts = re.split(r"^(Args|Attributes|Returns|Yields|Raises):\n((?:(?: {4}.*)?\n?)*)", text, flags=re.M)
    lines = [_prose(parts[0])]
    for title, body, after in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        body = dedent(body).strip()
        free = title in ("Returns", "Yields")
        lines.append(f"\n**{title}**\n\n" + (_prose(body) if free else "\n".join(_items(body))))
        if after.strip():
            lines.append("\n" + _prose(after))
    return "\n".join(lines).strip()


def _short(role: re.Match[str]) -> str:
    """The last part of a name that is written with a tilde."""
    return role[1].rpartition(".")[2] if role[0].partition("`")[2].startswith("~") else role[1]


def _prose(text: str) -> str:
    """Paragraphs; what is indented below a double colon becomes a block of its own."""
    pieces = re.split(r"::\n\n((?:(?: {4}.*)?\n)*(?: {4}.*)?)", text.strip("\n"))
    lines = []
    for paragraph, block in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        colon = ":" if block and paragraph and not paragraph.endswith("\n") else ""
        lines.append(paragraph.strip("\n") + colon)
        if block:
            lines.append(f"\n```text\n{dedent(block).strip()}\n```\n")
    return "\n".join(lines).strip("\n")


def _items(body: str) -> Iterator[str]:
    """A list of what ``name: text`` describes; further lines are indented."""
    for item in re.split(r"\n(?=\S)", body):
        name, _, text = item.partition(": ")
        first, *more = text.split("\n")
        rest = dedent("\n".join(more))
        shown = ", ".join(f"`{each}`" for each in name.split(", "))
        yield f"- {shown}: {first}" + ("\n" + _indented(rest, 2) if rest else "")


def _line(thing: Any) -> str:
    """Its docstring on one line."""
    return " ".join(markdown(inspect.getdoc(thing) or "").split())


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n"


def _indented(text: str, width: int = 4) -> str:
    return "\n".join(" " * width + line if line else "" for line in text.split("\n"))


def main(arguments: list[str]) -> int:
    """Writes or checks the page; the exit code."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    text = render()
    if arguments and (not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text):
        print(f"{PAGE.relative_to(ROOT)} is stale: run python docs/build_reference.py", file=sys.stderr)
        return 1
    if not arguments:
        PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # this tree, not an installed copy
    sys.exit(main(sys.argv[1:]))
