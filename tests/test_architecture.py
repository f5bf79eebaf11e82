"""Imports point one way: to a lower level. Read from the source with ast, and tried on planted violations."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import facekit

PACKAGE = Path(facekit.__file__).parent

LEVELS = [
    {"errors", "face", "wholefile"},
    {"image", "align", "quality", "similarity", "grouping", "label_noise", "evaluate", "models"}
    | {"policy", "prefetch", "vectorfile", "trash"},
    {"checkpoint", "identify", "enrolment", "removal", "duplicates", "audit", "likeness", "selection"},
    {"detect", "embed", "threshold"},
    {"encode", "gallery"},
    {"recognition", "deduplication", "curation", "report", "train"},
    {"cli"},
    {"__init__", "__main__"},
]

LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}

TRAINING_ONLY = {"torchvision", "facenet_pytorch", "scipy", "sklearn", "kornia", "lightning", "matplotlib"}
TRAINING_ONLY |= {"h5py"}
LAZY_ONLY = {"onnxruntime", "pillow_heif", "tqdm", "tyro", "safetensors", "huggingface_hub"}


def sources(package: Path) -> dict[str, ast.Module]:
    """Parsed modules by their full names; a package is its ``__init__``."""
    root = package.parent
    return {
        ".".join(path.relative_to(root).with_suffix("").parts): ast.parse(path.read_text(), str(path))
        for path in sorted(package.rglob("*.py"))
    }


def imported(module: str, tree: ast.AST) -> Iterator[str]:
    """The full name of everything that a module imports, at any depth: ``a.b`` for ``from a import b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # the module's own package, or one above it
                base = ".".join([*module.split(".")[: -node.level], *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def edges(modules: dict[str, ast.Module]) -> dict[str, set[str]]:
    """The modules of the package that each module imports; names inside a module stand for it."""

    def home(name: str) -> str | None:
        while name and name not in modules and f"{name}.__init__" not in modules:
            name = name.rpartition(".")[0]
        return f"{name}.__init__" if f"{name}.__init__" in modules else name or None

    found = {
        module: {place for name in imported(module, tree) if (place := home(name))}
        for module, tree in modules.items()
    }
    return {module: places - {module} for module, places in found.items()}


def part(module: str) -> str:
    """What has a level: the file or folder directly inside the package."""
    return module.split(".")[1]


def wrong_ways(modules: dict[str, ast.Module]) -> list[str]:
    """Imports between parts that do not point to a lower level, and parts without a level."""
    unknown = sorted({part(module) for module in modules} - set(LEVEL))
    pairs = {(a, b) for a, targets in edges(modules).items() for b in targets if part(a) != part(b)}
    wrong = [f"{a} imports {b}" for a, b in sorted(pairs) if LEVEL.get(part(a), 0) <= LEVEL.get(part(b), 99)]
    return [f"{name} has no level" for name in unknown] + wrong


def cycle(modules: dict[str, ast.Module]) -> list[str]:
    """A cycle of imports, if there is one."""
    try:
        list(TopologicalSorter(edges(modules)).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def foreign(module: str, tree: ast.AST) -> set[str]:
    return {name.partition(".")[0] for name in imported(module, tree)}


def at_import(tree: ast.Module) -> ast.Module:
    """The module without what only runs later, or only for type checkers."""

    class Prune(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    pruned = Prune().visit(ast.parse(ast.unparse(tree)))
    assert isinstance(pruned, ast.Module)
    return pruned


# ---------------------------------------------------------------- facekit


@pytest.fixture(scope="module")
def modules() -> dict[str, ast.Module]:
    return sources(PACKAGE)


def test_imports_point_to_lower_levels(modules: dict[str, ast.Module]) -> None:
    assert wrong_ways(modules) == []


def test_no_cycles(modules: dict[str, ast.Module]) -> None:
    assert cycle(modules) == []


def test_inference_never_imports_what_training_needs(modules: dict[str, ast.Module]) -> None:
    for module, tree in modules.items():
        if part(module) not in ("train", "report"):
            assert not foreign(module, tree) & TRAINING_ONLY, module


def test_extras_and_slow_imports_are_lazy(modules: dict[str, ast.Module]) -> None:
    for module, tree in modules.items():
        if part(module) not in ("train", "cli"):
            assert not foreign(module, at_import(tree)) & LAZY_ONLY, module


def test_everything_that_is_imported_is_declared(modules: dict[str, ast.Module]) -> None:
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    names = {"PIL": "pillow", "sklearn": "scikit-learn"}
    for module, tree in modules.items():
        for name in foreign(module, tree) - set(sys.stdlib_module_names) - {"facekit"}:
            distribution = names.get(name, name.replace("_", "-"))
            assert re.search(rf'"{distribution}[\[<>=",]', project), f"{module} imports {name}"


# ---------------------------------------------------------------- planted violations


def plant(folder: Path, files: dict[str, str]) -> dict[str, ast.Module]:
    """A package facekit of these files, such as ``detect/cascade``."""
    package = folder / "facekit"
    for name, text in {"__init__": "", **files}.items():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return sources(package)


@pytest.mark.parametrize(
    "line",
    [
        "import facekit.encode",
        "import facekit.encode as e",
        "from facekit.encode import FaceEncoder",
        "from facekit.encode import *",
        "from facekit import encode",
        "from facekit import errors, encode as e",
        "from . import encode",
        "from .encode import FaceEncoder",
        "def f():\n    from facekit.encode import FaceEncoder",
        "if TYPE_CHECKING:\n    from .encode import FaceEncoder",
    ],
)
def test_upward_imports_are_seen(tmp_path: Path, line: str) -> None:
    modules = plant(tmp_path, {"errors": "", "encode": "", "image": line})
    assert wrong_ways(modules) == ["facekit.image imports facekit.encode"]
    downward = {"image": "", "encode": line.replace("encode", "image")}
    assert wrong_ways(plant(tmp_path, downward)) == []


@pytest.mark.parametrize("line", ["from facekit import __version__", "import facekit", "from . import x"])
def test_importing_the_package_is_upward(tmp_path: Path, line: str) -> None:
    assert wrong_ways(plant(tmp_path, {"image": line})) == ["facekit.image imports facekit.__init__"]


@pytest.mark.parametrize(
    "line",
    [
        "from ..encode import x",
        "from .. import encode",
        "from facekit.encode import x",
        "import facekit.encode",
    ],
)
def test_upward_imports_of_folders_are_seen(tmp_path: Path, line: str) -> None:
    modules = plant(tmp_path, {"encode": "", "detect/__init__": "", "detect/cascade": line})
    assert wrong_ways(modules) == ["facekit.detect.cascade imports facekit.encode"]


def test_siblings_never_import_each_other(tmp_path: Path) -> None:
    modules = plant(
        tmp_path, {"recognition": "", "deduplication": "from .recognition import FaceRecognition"}
    )
    assert wrong_ways(modules) == ["facekit.deduplication imports facekit.recognition"]


def test_a_part_without_a_level_is_seen(tmp_path: Path) -> None:
    assert wrong_ways(plant(tmp_path, {"helpers": ""})) == ["helpers has no level"]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("from facekit.detect.b import x", "from facekit.detect.a import x"),
        ("from . import b", "from . import a"),
        ("from .b import x", "def f():\n    import facekit.detect.a"),
        ("from ..detect.b import x", "from ..detect import a"),
    ],
)
def test_cycles_inside_a_folder_are_seen(tmp_path: Path, a: str, b: str) -> None:
    modules = plant(tmp_path, {"detect/__init__": "", "detect/a": a, "detect/b": b})
    assert wrong_ways(modules) == []
    assert set(cycle(modules)) == {"facekit.detect.a", "facekit.detect.b"}
    assert cycle(plant(tmp_path, {"detect/b": ""})) == []


def test_a_cycle_through_the_folder_itself_is_seen(tmp_path: Path) -> None:
    files = {"detect/__init__": "from .a import x", "detect/a": "from facekit.detect import x"}
    modules = plant(tmp_path, files)
    assert set(cycle(modules)) == {"facekit.detect.a", "facekit.detect.__init__"}


def test_only_what_runs_at_import_counts_as_eager() -> None:
    eager = (
        "import a\nif True:\n    import b\nclass C:\n    import c\ntry:\n    import d\nfinally:\n    pass\n"
    )
    later = (
        "if TYPE_CHECKING:\n    import e\ndef f():\n    import g\nclass D:\n    def f():\n        import h"
    )
    tree = ast.parse(eager + later)
    assert foreign("m", at_import(tree)) == {"a", "b", "c", "d"}
    assert foreign("m", tree) == set("abcdegh")
