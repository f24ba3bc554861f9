"""What is handed to others: the source archive, the wheel, and the versions that it is installed with."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import made_outliners
from conftest import REPOSITORY
from nodulens.methods.catalogue import RESNET_UNET_PATCH_CNN
from nodulens.runtime.weights import NAMES

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
METHODS = REPOSITORY / "distributions" / "methods"
INPUTS = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "src")
MOST_BYTES = 60_000_000
"""Of the wheel with the weights of the published methods."""
WEIGHTS = {f"nodulens/weights/{name}.{suffix}" for name in NAMES for suffix in ("onnx", "json")}

MADE, NETWORKS = RESNET_UNET_PATCH_CNN.name, tuple(RESNET_UNET_PATCH_CNN.networks)
"""The published method that the tests make up networks of."""

APART = ("nnunet_inside.py", "yolo_inside.py")
"""They run in environments of their own."""

# An analysis by the installed package, with nothing of the clone in reach.
STRANGER = """
import nodulens as nl
from nodulens.data.phantom import phantom_ct
print(nl.__file__)
ct, known = phantom_ct(spacing_zyx=(2.5, 1.5, 1.5))
nl.write_outputs(nl.analyze(ct), ct, "out")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source archive, as others would, and that from a copy, so that nothing old gets in."""
    folder = tmp_path_factory.mktemp("build")
    for name in INPUTS:
        source = REPOSITORY / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", cwd=folder)
    (found,) = (folder / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content in a folder of its own; what it depends on is the tests' own."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-index", "--target", folder, wheel, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def methods_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution of the published methods' weights, with a made-up method beside those that are there."""
    folder = tmp_path_factory.mktemp("methods") / "methods"
    shutil.copytree(METHODS, folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist"))
    shutil.rmtree(folder / "nodulens_methods" / MADE, ignore_errors=True)
    made_outliners.write(folder / "nodulens_methods" / MADE)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", cwd=folder)
    (found,) = (folder / "dist").glob("*.whl")
    return found


def run(*command: object, cwd: Path, path: Path | None = None) -> str:
    """Output of a command that must end well; ``path`` is where Python looks for packages first."""
    environment = {"PYTHONPATH": str(path)} if path else {}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_holds_code_templates_weights_and_licences(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    here = {path.relative_to(REPOSITORY / "src").as_posix() for path in (REPOSITORY / "src" / "nodulens").rglob("*.py")}
    source = REPOSITORY / "src"
    templates = {path.relative_to(source).as_posix() for path in (source / "nodulens").glob("*/templates/*")}
    assert {"nodulens/report/templates/report.html", "nodulens/presentation/templates/evaluation.html"} <= templates
    packed = {name for name in names if name.startswith("nodulens/")}
    words = {path.relative_to(source).as_posix() for path in (source / "nodulens" / "query" / "words").glob("*.toml")}
    assert {f"nodulens/query/words/{language}.toml" for language in ("en", "de", "fr")} <= words
    schemas = {"report/report.schema.json", "followup/comparison.schema.json"}
    others = {"py.typed", "query/grammar.lark", "stages/lung_shapes.npz", *schemas}
    assert packed == here | templates | words | WEIGHTS | {f"nodulens/{name}" for name in others}
    assert {name.rsplit("/", 1)[-1] for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}


def test_wheel_fits_any_machine_and_weights_are_small(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        weights = sum(archive.getinfo(name).file_size for name in WEIGHTS)
    assert weights <= 30e6


def test_wheel_analyses_without_the_clone(installed: Path, tmp_path: Path) -> None:
    found = json.loads(run(sys.executable, "-m", "nodulens", "doctor", "--json", cwd=tmp_path, path=installed))
    assert found["well"] and found["versions"]["nodulens"] == PROJECT["version"]
    where = run(sys.executable, "-c", STRANGER, cwd=tmp_path, path=installed)
    assert Path(where.strip()).is_relative_to(installed)
    assert (tmp_path / "out" / "report.html").stat().st_size > 100_000


def test_weights_of_the_methods_are_a_small_wheel_of_their_own(methods_wheel: Path) -> None:
    assert methods_wheel.name == f"nodulens_methods-{PROJECT['version']}-py3-none-any.whl"
    assert methods_wheel.stat().st_size <= MOST_BYTES
    with zipfile.ZipFile(methods_wheel) as archive:
        packed = {name.partition("/")[2] for name in archive.namelist() if name.startswith("nodulens_methods/")}
        metadata = archive.read(f"nodulens_methods-{PROJECT['version']}.dist-info/METADATA").decode()
    package = METHODS / "nodulens_methods"
    here = {path.relative_to(package).as_posix() for path in package.rglob("*.*") if path.suffix != ".pyc"}
    made = {f"{MADE}/{name}" for name in ("run.json", *(f"{n}.{k}" for n in NETWORKS for k in ("onnx", "json")))}
    assert {"__init__.py", "methods.json"} <= packed
    assert packed == {name for name in here if not name.startswith(f"{MADE}/")} | made
    assert "Requires-Dist" not in metadata, "nodulens brings the weights, and the weights bring nothing"


def test_installed_weights_work_without_the_clone(installed: Path, methods_wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-index", "--target", site, methods_wheel,
        cwd=tmp_path)  # fmt: skip
    shutil.copytree(installed / "nodulens", site / "nodulens")
    where = (
        f"from nodulens.methods.load import load_method; print(load_method({MADE!r}).models.own['filter'].card.path)"
    )
    assert Path(run(sys.executable, "-c", where, cwd=tmp_path, path=site).strip()).is_relative_to(site)
    found = json.loads(run(sys.executable, "-m", "nodulens", "doctor", "--json", cwd=tmp_path, path=site))
    assert found["methods"][MADE].startswith("intact") and found["versions"]["nodulens-methods"] == PROJECT["version"]


def test_the_extra_brings_the_weights_of_this_version() -> None:
    other = tomllib.loads((METHODS / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (line,) = PROJECT["optional-dependencies"]["methods"]
    wanted = Requirement(line)
    assert wanted.name == other["name"] and wanted.specifier.contains(other["version"])
    assert other["version"] == PROJECT["version"]
    for name in ("LICENSE", "NOTICE"):
        assert (METHODS / name).read_bytes() == (REPOSITORY / name).read_bytes()


def test_the_notice_names_every_package_and_picture() -> None:
    notice = (REPOSITORY / "NOTICE").read_text(encoding="utf-8")
    assert not [name for line in PROJECT["dependencies"] if (name := Requirement(line).name) not in notice]
    scans = {"report.png", "rendered.png"}  # the viewer's picture and the layout show none
    assert {p.name for p in (REPOSITORY / "docs").glob("*.png")} == scans | {"ohif.png"}
    assert all(f"docs/{name}" in notice for name in scans)


def test_a_data_set_has_one_licence_everywhere() -> None:
    from nodulens.data.downloads import TERMS
    from nodulens.presentation.evaluation import LIDC_IDRI, LUNA16
    from nodulens.train.loop.export import TRAINED_ON

    notice = (REPOSITORY / "NOTICE").read_text(encoding="utf-8")
    for key, known in (("lidc", LIDC_IDRI), ("luna16", LUNA16)):
        assert re.search(rf"^{known.name}, Creative Commons .*\({known.licence}\)", notice, re.MULTILINE)
        assert TERMS[key].startswith(known.licence)
        assert f"{known.name} ({known.licence})" in TRAINED_ON


def test_core_needs_no_torch() -> None:
    core = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert not core & {"torch", "torchvision", "onnx"}


@pytest.mark.parametrize("extra", ["core", *sorted(PROJECT["optional-dependencies"].keys() - {"methods"})])
def test_versions_are_pinned_to_what_is_allowed(extra: str) -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    wanted = PROJECT["dependencies"] if extra == "core" else PROJECT["optional-dependencies"][extra]
    for requirement in map(Requirement, wanted):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version and requirement.specifier.contains(version), f"{requirement}: run python scripts/lock.py"


def test_no_install_draws_torchvision_or_cuda() -> None:
    text = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    assert not [word for word in ("torchvision", "nvidia", "cuda", "://", "+cpu") if word in text]


@cache
def installed_packages() -> Mapping[str, list[str]]:
    """Module → distributions; asked once, for it reads what every installed package holds."""
    return packages_distributions()


def distributions(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Names, as in pyproject.toml, of what some statements import from others."""
    known = installed_packages()
    for node in nodes:
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [str(node.module)]
        else:
            continue
        for module in modules:
            top = module.split(".")[0]
            if top not in (*sys.stdlib_module_names, "nodulens", "_typeshed"):
                yield from (canonicalize_name(name) for name in known.get(top, [top]))


def required(*extras: str) -> set[str]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {canonicalize_name(Requirement(line).name) for line in lines}


@pytest.mark.parametrize(
    "path",
    sorted((REPOSITORY / "src" / "nodulens").rglob("*.py")),
    ids=lambda path: str(path.relative_to(REPOSITORY / "src" / "nodulens")),
)
def test_what_a_module_imports_is_installed_with_it(path: Path) -> None:
    """When it is loaded: the core; where networks are trained or judged the extra "train" too. Later: some extra."""
    tree = ast.parse(path.read_text("utf-8"))
    loaded = set(distributions(tree.body))
    room = path.relative_to(REPOSITORY / "src" / "nodulens").parts
    extras = ["sam"] if room == ("stages", "sam.py") else ["train"] if room[0] in ("train", "evaluate") else []
    assert loaded <= required(*extras)
    if path.name not in APART:
        assert set(distributions(ast.walk(tree))) <= required(*set(PROJECT["optional-dependencies"]) - {"dev"})
