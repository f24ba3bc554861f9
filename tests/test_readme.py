"""What the documents say: every example runs, every link leads somewhere, every figure is the measured one."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from conftest import REPOSITORY
from nodulens.data.phantom import write_follow_up_dicom, write_phantom_dicom
from nodulens.errors import BadOption
from nodulens.methods.catalogue import RECIPES
from nodulens.methods.recipe import changed, changed_in_use, changed_to_train

PAGES = [REPOSITORY / name for name in ("README.md", "CHANGELOG.md", *map(str, REPOSITORY.glob("docs/*.md")))]
WITH_EXAMPLES = [REPOSITORY / "README.md", REPOSITORY / "docs" / "report.md"]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a scan in it, coarse so that examples take seconds."""
    folder = tmp_path_factory.mktemp("desk")
    write_phantom_dicom(folder / "scan", spacing_zyx=(2.5, 1.5, 1.5))
    write_follow_up_dicom(folder / "later", spacing_zyx=(2.5, 1.5, 1.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


COMMANDS = [line[2:] for line in "".join(blocks(REPOSITORY / "README.md", "console")).splitlines() if line[:2] == "$ "]


@pytest.mark.parametrize("command", COMMANDS)
def test_command(desk: Path, command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "nodulens"
    run = subprocess.run([sys.executable, "-m", "nodulens", *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.name)
def test_python(desk: Path, page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks of a page run one after another, in the folder where the commands before them ran."""
    code = blocks(page, "python")
    assert code
    names: dict[str, object] = {}
    for number, block in enumerate(code):
        exec(compile(block, f"{page.name}, Python block {number + 1}", "exec"), names)
    assert capsys.readouterr().out.strip()


def test_there_are_commands_to_run() -> None:
    assert {command.split()[1] for command in COMMANDS} >= {"info", "analyze", "segment", "compare", "doctor"}


def test_every_command_of_the_program_is_in_the_readme() -> None:
    from nodulens.apps.cli import app

    table = re.findall(r"^\| `(\w+)` \|", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    commands = {str(c.name or getattr(c.callback, "__name__", "")) for c in app.registered_commands}
    assert set(table) == commands | {str(group.name) for group in app.registered_groups}


def typed(page: Path) -> Iterator[list[str]]:
    """The words after ``nodulens`` of every command in a block of a page, fenced or indented."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    for line in "".join(fenced).splitlines() + re.findall(r"^    +(.*)$", text, re.MULTILINE):
        for part in line.removeprefix("$ ").split(";"):
            if part.strip().startswith("nodulens "):
                yield shlex.split(part, comments=True)[1:]


def test_options_of_documented_commands_exist() -> None:
    """Also where a page has them with names for folders, which nothing runs as it stands."""
    from nodulens.apps.cli import app

    found = 0
    for page in PAGES:
        for words in typed(page):
            command: Any = typer.main.get_command(app)
            context, rest = click.Context(command), words
            while hasattr(command, "resolve_command"):
                _, command, rest = command.resolve_command(context, rest)
            known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
            wrong = [word for word in rest if re.match("--?[a-z]", word) and word.partition("=")[0] not in known]
            assert not wrong, f"{page.name}: nodulens {' '.join(words)}"
            found += 1
            settings = [setting for before, setting in pairwise(rest) if before == "--set"]
            if words[:1] == ["train"] and words[1] in RECIPES:
                changed_to_train(RECIPES[words[1]], settings)
    assert found > 100


def test_the_help_of_set_shows_what_the_command_takes() -> None:
    """What only shapes training is refused by the commands that use a recipe."""
    from nodulens.apps.cli import app

    def commands(group: Any) -> Iterator[Any]:
        for one in group.commands.values():
            yield from commands(one) if hasattr(one, "commands") else [one]

    settable = [
        (command, option)
        for command in commands(typer.main.get_command(app))
        for option in command.params
        if "--set" in option.opts
    ]
    assert len(settable) == 8
    for command, option in settable:
        (example,) = re.findall(r"\S+=\S+(?=\.)", option.help)
        trains = "fold" in {one.name for one in command.params}
        (changed_to_train if trains else changed_in_use)(RECIPES["nnunet-sam"], [example])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_settings_exist(page: Path) -> None:
    for setting in re.findall(r"--set ([a-z_.]+=[^\s`|…]+)", page.read_text(encoding="utf-8")):
        if setting.rpartition("=")[2].isupper():  # a place of the reader's
            continue
        errors = []
        for recipe in RECIPES.values():
            try:
                changed(recipe, [setting])
            except BadOption as error:
                errors.append(str(error))
        assert len(errors) < len(RECIPES), errors[-1]


def anchors(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)", page.read_text(encoding="utf-8"))
    lost = []
    for link in (link for link in links if "://" not in link):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert not lost


def test_keys_of_the_report_are_documented() -> None:
    import json

    schema = json.loads((REPOSITORY / "src/nodulens/report/report.schema.json").read_text(encoding="utf-8"))
    nodule = schema["$defs"]["nodule"]["properties"]
    promised = {*schema["properties"], *nodule, *nodule["measurements"]["properties"]}
    text = (REPOSITORY / "docs" / "report.md").read_text(encoding="utf-8")
    assert not {key for key in promised if f"`{key}`" not in text}


def test_figures_are_those_of_the_files() -> None:
    figures = runpy.run_path(str(REPOSITORY / "scripts" / "figures.py"))
    stale = [page.name for page, text in figures["rendered"]().items() if page.read_text(encoding="utf-8") != text]
    assert not stale, "run: python scripts/figures.py"


def test_the_picture_is_small() -> None:
    picture = REPOSITORY / "docs" / "report.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 500_000
