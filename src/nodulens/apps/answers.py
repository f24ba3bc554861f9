"""What a person states for the clinical guidelines: options of several commands, and a file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from nodulens.clinical.facts import Answers, NoduleAnswers, PatientFacts
from nodulens.errors import BadOption, NotFound, UnreadableFile

LARGEST_FILE = 1 << 20
"""Bytes of a patient file; more is no such file."""
PANEL = "For the clinical guidelines"
SPICULATION = {"yes": True, "no": False}
UPTAKE = ("absent", "faint", "moderate", "intense")
Command = TypeVar("Command", bound=Callable[..., None])


@dataclass(frozen=True)
class PatientFile:
    """A patient file: the fields of the patient's facts, and by number what is stated of nodules."""

    patient: PatientFacts = field(default_factory=PatientFacts)
    nodules: dict[str, NoduleAnswers] = field(default_factory=dict)
    count: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise BadOption(f"count is the number of nodules, 1 or more, got {self.count}.")


def typed_answers(
    context: Annotated[
        Literal["screening", "incidental"] | None,
        typer.Option(rich_help_panel=PANEL, help="Why the CT was made; without it no guideline is applied."),
    ] = None,
    prior: Annotated[
        Literal["none", "compared"] | None,
        typer.Option(rich_help_panel=PANEL, help="Prior chest CT: none makes this a baseline examination."),
    ] = None,
    age: Annotated[int | None, typer.Option(rich_help_panel=PANEL, help="Years.")] = None,
    sex: Annotated[
        Literal["female", "male"] | None, typer.Option(rich_help_panel=PANEL, help="Of the patient.")
    ] = None,
    smoker: Annotated[bool | None, typer.Option(rich_help_panel=PANEL, help="Smokes or has smoked.")] = None,
    family_history: Annotated[
        bool | None, typer.Option(rich_help_panel=PANEL, help="Lung cancer in the family.")
    ] = None,
    emphysema: Annotated[bool | None, typer.Option(rich_help_panel=PANEL, help="Emphysema on CT.")] = None,
    extrathoracic_cancer: Annotated[
        bool | None,
        typer.Option(rich_help_panel=PANEL, help="Cancer elsewhere, now or in the past; for Mayo over five years ago."),
    ] = None,
    immunosuppressed: Annotated[
        bool | None, typer.Option(rich_help_panel=PANEL, help="The patient is immunosuppressed.")
    ] = None,
    risk: Annotated[
        Literal["low", "high"] | None,
        typer.Option(
            rich_help_panel=PANEL, help="Risk of malignancy, judged by a clinician; high is intermediate or high."
        ),
    ] = None,
    fdg_uptake: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=PANEL,
            help="FDG uptake on PET: absent, faint, moderate or intense; 2=faint for nodule 2. Repeatable.",
        ),
    ] = None,
    spiculation: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=PANEL, help="Spiculated: yes or no; 2=yes for nodule 2. Repeatable."),
    ] = None,
    nodules: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel=PANEL, help="Nodules in the examination, where it is not the number of findings."
        ),
    ] = None,
    patient: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=PANEL, help="JSON or YAML file of such facts, see docs/guidelines.md; options come first."
        ),
    ] = None,
) -> Answers:
    """The answers of options and file; an option takes the place of the file's value.

    Raises:
        BadOption: a value that is not allowed, or facts without a context.
        NotFound, UnreadableFile: of the file.
    """
    stated = PatientFile() if patient is None else read_patient(patient)
    typed: dict[str, Any] = {
        "context": context, "prior": prior, "age": age, "sex": sex, "smoker": smoker, "family_history": family_history,
        "emphysema": emphysema, "extrathoracic_cancer": extrathoracic_cancer, "immunosuppressed": immunosuppressed,
        "risk": risk,
    }  # fmt: skip
    facts = replace(stated.patient, **{name: value for name, value in typed.items() if value is not None})
    of_nodules = _numbered({_number(key): one for key, one in stated.nodules.items()}, fdg_uptake, spiculation)
    single = of_nodules.pop(0, NoduleAnswers())
    answers = Answers(facts, of_nodules, single, nodules or stated.count)
    if facts.context is None and answers != Answers():
        raise BadOption("Facts for the guidelines need the reason for the CT: --context screening or incidental.")
    return answers


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise BadOption(f"Nodules have numbers from 1, got {text!r}.")
    return int(text)


def _numbered(
    known: dict[int, NoduleAnswers], fdg_uptake: Sequence[str] | None, spiculation: Sequence[str] | None
) -> dict[int, NoduleAnswers]:
    """Answers by number; 0 for those typed without one."""
    for text in fdg_uptake or ():
        number, word = _split(text, UPTAKE, "--fdg-uptake")
        known[number] = replace(known.get(number, NoduleAnswers()), fdg_uptake=word)  # type: ignore[arg-type]
    for text in spiculation or ():
        number, word = _split(text, tuple(SPICULATION), "--spiculation")
        known[number] = replace(known.get(number, NoduleAnswers()), spiculated=SPICULATION[word])
    return known


def _split(text: str, words: Sequence[str], option: str) -> tuple[int, str]:
    number, equals, word = text.rpartition("=")
    if word not in words:
        raise BadOption(f"{option} is one of {', '.join(words)}, or such as 2={words[-1]}; got {text!r}.")
    return (_number(number) if equals else 0), word


def read_patient(path: Path) -> PatientFile:
    """A patient file, JSON or YAML: the fields of :class:`PatientFacts` and ``nodules``, by number, and ``count``.

    Raises:
        NotFound: there is none.
        UnreadableFile: it is neither, too large, or a key or value is not allowed; the message says which.
    """
    from nodulens.io.records import Format, from_plain  # brings all of io, which every command would wait for

    if not path.is_file():
        raise NotFound(f"There is no file {path}.")
    if path.stat().st_size > LARGEST_FILE:
        raise UnreadableFile(f"{path} is too large for a patient file.")
    found = _parsed(path.read_text("utf-8"))
    if not isinstance(found, dict):
        raise UnreadableFile(f"{path} holds no facts; write lines such as «age: 63».")
    row = {str(key): value for key, value in found.items()}
    nodules = row.pop("nodules", None) or {}
    if not isinstance(nodules, dict):
        raise UnreadableFile(f"{path}: nodules is a list by number, such as «1: {{spiculated: yes}}».")
    arranged: dict[str, Any] = {"nodules": {str(key): _of_nodule(value) for key, value in nodules.items()}}
    if "count" in row:
        arranged["count"] = row.pop("count")
    form = Format(None, "patient file", defaults=True)
    file: PatientFile = from_plain(PatientFile, {"patient": row, **arranged}, "patient file", form)
    return file


def _of_nodule(value: Any) -> Any:
    """What is stated of a nodule: nothing is allowed, and a category may be a number."""
    if not isinstance(value, dict):
        return {} if value is None else value
    category = value.get("previous_category")
    return {**value, "previous_category": str(category)} if type(category) is int else value


def _parsed(text: str) -> Any:
    """YAML, of which JSON is a part, without tags and aliases; a key that stands twice is an error."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):  # they grow without end in few bytes
                raise yaml.YAMLError("aliases")
            return super().compose_node(parent, index)

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        pairs = [
            (loader.construct_object(key, True), loader.construct_object(value, True)) for key, value in node.value
        ]
        names = [str(key) for key, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UnreadableFile(f"The patient file has these keys twice: {', '.join(twice)[:80]}.")
        return {str(key): value for key, value in pairs}

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise UnreadableFile(f"The patient file is neither JSON nor YAML{where}.") from error


def answering(command: Command) -> Command:
    """A command that takes ``answers``, with the options of :func:`typed_answers` in their place."""
    options = inspect.signature(typed_answers, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters

    @wraps(command)
    def with_options(**values: Any) -> None:
        answers = typed_answers(**{name: values.pop(name) for name in options})
        command(**values, answers=answers)

    there = [one for name, one in own.items() if name != "answers"]
    every = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*there, *options.values())]
    with_options.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    with_options.__annotations__ = {one.name: one.annotation for one in every}
    return with_options  # type: ignore[return-value]
