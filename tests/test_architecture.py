"""Imports go downwards only, modules do nothing when they are imported, and nothing prints but the command line."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import REPOSITORY

PACKAGE = REPOSITORY / "src" / "nodulens"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Each room, and the rooms of the package that it may use beside itself.
BASE = {"errors", "core"}
TOOLS = BASE | {"io", "ops", "runtime"}
METHODS = TOOLS | {"stages", "methods"}
ANALYSIS = METHODS | {"report", "dicom_objects", "query", "rois", "pipeline", "__init__"}
ALLOWED = {
    "errors": set(),
    "core": {"errors"},
    "ops": BASE,
    "io": BASE,
    "runtime": BASE | {"io"},
    "metrics": BASE,
    "clinical": BASE,
    "stages": TOOLS,
    "report": BASE | {"io", "ops", "clinical", "__init__"},
    "dicom_objects": BASE | {"io", "clinical", "report", "__init__"},
    "dicom_net": BASE,
    "query": BASE,
    "rois": BASE | {"io", "ops"},
    "methods": TOOLS | {"stages", "report"},
    "pipeline": TOOLS | {"stages", "methods", "report", "query", "__init__"},
    "followup": ANALYSIS | {"clinical"},
    "data": BASE | {"io", "ops", "metrics"},
    "presentation": BASE | {"io", "ops", "metrics", "report", "data"},
    "stream": METHODS | {"report", "data", "presentation"},
    "train": METHODS | {"report", "data", "metrics", "presentation"},
    "evaluate": ANALYSIS | {"data", "metrics", "presentation", "train"},
    "apps": ANALYSIS
    | {"clinical", "dicom_net", "followup", "data", "metrics", "presentation", "stream", "train", "evaluate"},
    "__init__": set(),
    "__main__": {"apps"},
}
TRAINING_ONLY = {"torch", "onnx", "onnxscript", "sklearn", "monai", "captum", "torchvision", "transformers"}


def layer(path: Path) -> str:
    """The folder, or the module, that a file of the package belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """Absolute names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_go_downwards(path: Path) -> None:
    own = layer(path)
    assert own in ALLOWED, f"{own} is new: say in this test which layers it may use"
    for full, _ in imported(path):
        parts = full.split(".")
        if parts[0] != "nodulens" or own == "__init__":  # the package itself only names things for type checkers
            continue
        there = PACKAGE / parts[1]
        used = parts[1] if there.is_dir() or there.with_suffix(".py").exists() else "__init__"
        assert used == own or used in ALLOWED[own], f"{name(path)} imports {full}: {own} may not use {used}"


def test_the_table_allows_no_circle() -> None:
    done: set[str] = set()
    while waiting := ALLOWED.keys() - done:
        free = {one for one in waiting if ALLOWED[one] <= done | {"__init__"}}
        assert free, f"these use one another: {sorted(waiting)}"
        done |= free


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_what_trains_is_imported_where_models_are_trained(path: Path) -> None:
    if layer(path) in ("train", "evaluate") or name(path) == "stages/sam.py":
        return  # SAM runs in PyTorch alone; it is imported where a recipe asks for it
    found = {full.split(".")[0] for full, _ in imported(path)}
    assert not found & TRAINING_ONLY


def test_importing_the_package_imports_nothing_else() -> None:
    body = ast.parse((PACKAGE / "__init__.py").read_text("utf-8")).body
    found = {n.module for n in body if isinstance(n, ast.ImportFrom)} | {
        a.name for n in body if isinstance(n, ast.Import) for a in n.names
    }
    assert found <= {"__future__", "importlib", "importlib.metadata", "typing"}


ON_LOADING = (ast.For, ast.While, ast.With, ast.AsyncFor, ast.AsyncWith, ast.Expr)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_loading_a_module_does_nothing(path: Path) -> None:
    """At module level there are definitions, constants, and a guarded start; no loops, no bare calls."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Expr):
            registers = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "app.add_typer"
            where = f"{name(path)}:{node.lineno}"
            assert registers or isinstance(node.value, ast.Constant), f"{where} does something when imported"
        else:
            assert not isinstance(node, ON_LOADING), f"{name(path)}:{node.lineno} does something when imported"
        if isinstance(node, ast.If):
            test = ast.unparse(node.test)
            assert test in ("TYPE_CHECKING", "__name__ == '__main__'"), f"{name(path)}:{node.lineno}: if {test}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_only_apps_print_and_exit(path: Path) -> None:
    if layer(path) == "apps" or path.name == "__main__.py":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            where = f"{name(path)}:{node.lineno} calls {called}"
            assert called not in ("print", "exit", "quit", "sys.exit", "input", "breakpoint"), where
            assert not (called == "os._exit" or called.startswith("logging.basicConfig")), where
            hides = called in ("warnings.filterwarnings", "warnings.simplefilter", "np.seterr")
            assert not hides or layer(path) == "train", where


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_errors_are_not_swallowed(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            where = f"{name(path)}:{node.lineno}"
            assert node.type is not None, f"{where}: a bare except"
            broad = ast.unparse(node.type) in ("Exception", "BaseException")
            assert not (broad and isinstance(node.body[0], ast.Pass)), f"{where}: whatever happens is swallowed"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_every_module_says_what_it_is(path: Path) -> None:
    text = path.read_text("utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{name(path)} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_functions_take_six_parameters_at_most(path: Path) -> None:
    if layer(path) == "apps" or name(path).startswith("train/networks") or path.name == "__main__.py":
        return  # commands have as many as they have options, networks as many as they have widths
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            count = len([n for n in names if n not in ("self", "cls")])
            assert count <= 6, f"{name(path)}:{node.lineno} {node.name} takes {count}"


def test_the_picture_of_the_layout_is_that_of_the_code() -> None:
    script = [sys.executable, str(REPOSITORY / "scripts" / "layout.py"), "--check"]
    assert subprocess.run(script, capture_output=True, text=True).stderr == ""
