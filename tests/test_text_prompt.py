"""Nodules asked for in words: what is understood, what it finds, and what is refused."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import made_reports
import small_scans
from conftest import REPOSITORY
from nodulens.apps.cli import app
from nodulens.core.nodule import Nodule, Risk
from nodulens.errors import BadPrompt, NotFound
from nodulens.followup.json import to_json as comparison_to_json
from nodulens.followup.record import Comparison, ExamSummary, Sighting, Track
from nodulens.followup.registration import Quality
from nodulens.methods.load import load_method
from nodulens.methods.recipe import Recipe
from nodulens.pipeline import segment_text
from nodulens.query import Condition, Place, Query, Range, Textured, load_lexicons, parse, resolve
from nodulens.query.answer import LOBES_ESTIMATED
from nodulens.query.meanings import BOUNDS, DIAMETER, LOBES, ORDERS, RISK, TEXTURES, UNITS
from nodulens.report.json import to_json

INF = float("inf")


def nodule(number: int, lobe: str, zone: str, texture: str, mm: float, risk: float | None, score: float) -> Nodule:
    made = made_reports.report(made_reports.scan(), 1).nodules[0]
    position = replace(made.position, side=lobe.split()[0], zone=zone, lobe_estimate=f"{lobe} lobe")  # type: ignore[arg-type]
    measured = replace(made.measurements, mean_diameter_mm=mm, volume_mm3=np.pi / 6 * mm**3)
    graded = None if risk is None else Risk(risk, (0, 1), True, "malignancy")
    return replace(
        made,
        id=number,
        position=position,
        texture=texture,
        measurements=measured,
        risk=graded,
        score=score,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def nodules() -> tuple[Nodule, ...]:
    return (
        nodule(1, "right upper", "upper", "solid", 12.0, 0.8, 0.9),
        nodule(2, "right upper", "middle", "ground-glass", 6.0, 0.3, 0.95),
        nodule(3, "right middle", "lower", "part-solid", 8.0, 0.6, 0.5),
        nodule(4, "left lower", "lower", "solid", 5.0, None, 0.8),
        nodule(5, "left upper", "upper", "solid", 20.0, 0.7, 0.7),
        nodule(6, "left lower", "middle", "ground-glass", 9.0, 0.3, 0.6),
    )


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("largest nodule in the right upper lobe", [1]),
        ("ground-glass nodules over 6 mm", [6]),
        ("ground glass nodules of at least 6 mm", [2, 6]),
        ("nodules in the left lung under 8 mm", [4]),
        ("the three most suspicious solid nodules", [1, 5]),
        ("3 largest nodules", [5, 1, 6]),
        ("two smallest", [4, 2]),
        ("second largest nodule", [1]),
        ("2nd most suspicious nodule", [5]),
        ("least certain nodule", [3]),
        ("subsolid nodules", [2, 6, 3]),
        ("solid or part-solid nodules in the upper or middle lobes", [1, 5, 3]),
        ("RUL or left lower zone nodules", [2, 1, 4]),
        ("upper lobe nodules in the right lung", [2, 1]),
        ("right upper or middle lobe", [2, 1, 3]),
        ("left lower or right middle lobe", [4, 6, 3]),
        ("upper right lobe", [2, 1]),
        ("right-sided nodules", [2, 1, 3]),
        ("lower zone", [4, 3]),
        ("nodules between 5 and 8 mm", [2, 4, 3]),
        ("5-8mm", [2, 4, 3]),
        ("5 mm to 1 cm", [2, 4, 6, 3]),
        ("nodules over 5 mm and under 9 mm", [2, 3]),
        ("nodules of 9 mm or more", [1, 5, 6]),
        ("over 1 ml", [5]),
        ("volume at least 904 mm3", [1, 5]),
        ("nodules with a risk over 60 %", [1, 5]),
        ("risk of at least 0.6 in the right lung", [1, 3]),
        ("All nodules?", [2, 1, 4, 5, 6, 3]),
        ("the largest nodules", [5, 1, 6, 3, 2, 4]),
        ("Show me the largest GGO in the LLL.", [6]),
    ],
)
def test_texts_find_what_they_say(nodules: tuple[Nodule, ...], text: str, ids: list[int]) -> None:
    assert [n.id for n in resolve(text, nodules).nodules] == ids


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nodules in the lingula", "'lingula' cannot be answered: segments"),
        ("cancer", "'cancer' cannot be answered: imaging"),
        ("solid or over 8 mm", "understand 'or': it joins"),
        ("solid ground-glass nodule", "join them with or"),
        ("left middle lobe", "left lung has no middle lobe"),
        ("upper nodule", "'upper' what"),
        ("left lobe", "Which part is 'left lobe'"),
        ("left upper lobe in the right lung", "Which side, 'left' or 'right'"),
        ("over 6", "6 of what"),
        ("nodules over 6,5 mm", "the decimal sign in English"),
        ("nodules of 6.2 mm", "6.2 mm alone"),
        ("8 to 5 mm", "A range rises"),
        ("5 to mm", "two ends"),
        ("5 mm to 8 ml", "A range rises"),
        ("between 5 mm", "5 mm alone"),
        ("nodules over", "'over' needs a number"),
        ("volume over 6 mm", "does not go with"),
        ("over 50 %", "does not go with"),
        ("risk over 50", "between 0 and 1"),
        ("three nodules", "Which 3"),
        ("second nodule", "Which order"),
        ("0 largest", "'0' is no number of nodules"),
        ("1.5 largest", "'1.5' is no number of nodules"),
        ("largest smallest nodule", "'smallest' contradicts"),
        ("", "The query is empty"),
        ("  ? ", "The query is empty"),
    ],
)
def test_what_is_not_understood_is_named(nodules: tuple[Nodule, ...], text: str, said: str) -> None:
    with pytest.raises(BadPrompt, match=said) as error:
        resolve(text, nodules)
    assert "Known are: largest" in str(error.value)


def test_a_query_is_a_value() -> None:
    assert parse("the two most suspicious part-solid nodules over 6 mm in the right upper lobe") == Query(
        conditions=(
            Condition((Textured(frozenset({"part-solid"})),)),
            Condition((Range(DIAMETER, 6.0, INF, open=True),)),
            Condition((Place("right", "upper"),)),
        ),
        order=ORDERS["MOST_SUSPICIOUS"],
        count=2,
    )
    assert parse("risk over 50 %").conditions == (Condition((Range(RISK, 0.5, INF, open=True),)),)


def test_the_docs_say_what_is_understood() -> None:
    page = (REPOSITORY / "docs" / "prompts.md").read_text("utf-8")
    listed = [line for block in re.findall(r"```text\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    asked = re.findall(r'nodulens ask (\S+) "(.+?)"', page)
    examples = [*listed, *(text for where, text in asked if where != "compared"), *re.findall(r'--text "(.+?)"', page)]
    assert len(examples) >= 14
    for text in examples:
        assert parse(text) != Query(), text
    for text in (text for where, text in asked if where == "compared"):
        assert parse(text, compared=True) != Query(), text
    documented = page.lower().replace("-", " ")
    english = load_lexicons("en")[0]
    for table in (TEXTURES, ORDERS, BOUNDS, UNITS, LOBES):
        for meaning in table:
            first = next(english.spellings[pieces] for pieces, row in english.meanings.items() if row == (meaning,))
            assert first.lower().replace("-", " ") in documented, first


def test_the_program_starts_without_the_parser() -> None:
    code = "import sys, nodulens.apps.cli, nodulens.pipeline; sys.exit('lark' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [("³ largest", "'³'"), ("9" * 400 + " largest", "is no number of nodules"), ("solidnodule", "'solidnodule'")],
)
def test_what_is_no_number_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadPrompt, match=said):
        parse(text)


def test_an_answer_by_lobe_says_that_lobes_are_estimated(nodules: tuple[Nodule, ...]) -> None:
    assert LOBES_ESTIMATED in resolve("nodules in the left lower lobe", nodules).notes
    assert LOBES_ESTIMATED in resolve("LLL", nodules).notes
    assert resolve("nodules in the left lower zone", nodules).notes == ()


def test_a_nodule_of_unknown_place_is_named_and_not_placed(nodules: tuple[Nodule, ...]) -> None:
    position = replace(nodules[0].position, side="left", zone="unknown", lobe_estimate="unknown")
    lost = replace(nodules[0], id=9, position=position)
    for text in ("nodules in the left lower lobe", "nodules in the left lower zone", "LLL"):
        answer = resolve(text, (*nodules, lost))
        assert lost not in answer.nodules
        assert "Left out because the scan shows too little of the lung to say where: nodule 9." in answer.notes
    assert lost in resolve("nodules in the left lung", (*nodules, lost)).nodules
    assert "too little" not in " ".join(resolve("nodules in the right lower lobe", (*nodules, lost)).notes)


def test_what_is_short_doubtful_or_tied_is_said(nodules: tuple[Nodule, ...]) -> None:
    def notes(text: str) -> str:
        return " ".join(resolve(text, nodules).notes)

    assert notes("the three most suspicious solid nodules") == (
        "2 of 6 nodules fit; you asked for 3. Left out because no risk is known: nodule 4."
    )
    assert notes("nodules over 30 mm") == "0 of 6 nodules fit; you asked for all that do."
    assert notes("third largest ground-glass nodule") == "2 of 6 nodules fit; you asked for number 3."
    assert notes("solid nodule") == "You asked for one and 3 fit: all of them are given, for none is singled out."
    assert notes("nodules in the left lung with a risk over 10 %") == "Left out because no risk is known: nodule 4."
    assert notes("least suspicious ground-glass nodule") == "Nodule 6 comes next with the very same value."
    assert notes("largest nodule") == ""
    assert resolve("largest nodule", ()).notes == ("0 of 0 nodules fit; you asked for one.",)


def test_the_command_answers(tmp_path: Path, nodules: tuple[Nodule, ...]) -> None:
    report = replace(made_reports.report(made_reports.scan(), 1), nodules=nodules)
    (tmp_path / "report.json").write_text(to_json(report), "utf-8")
    run = CliRunner()
    shown = run.invoke(app, ["ask", str(tmp_path), "largest nodule in the right upper lobe"])
    assert shown.exit_code == 0
    assert "right upper lobe" in shown.stdout and "12.0 mm" in shown.stdout and "estimated" in shown.stdout
    told = run.invoke(app, ["ask", str(tmp_path / "report.json"), "two largest nodules", "--json"])
    answer = json.loads(told.stdout)
    assert (answer["schema"], answer["question"], answer["notes"]) == ("nodulens-answer/1", "two largest nodules", [])
    stored = {row["id"]: row for row in json.loads(to_json(report))["nodules"]}
    assert answer["nodules"] == [stored[5], stored[1]] and answer["of"] == 6
    counted = run.invoke(app, ["ask", str(tmp_path), "how many solid nodules are there?"])
    assert counted.exit_code == 0 and "3 of 6 nodules" in counted.stdout
    german = run.invoke(app, ["ask", str(tmp_path), "größter Herd", "--language", "de", "--json"])
    assert [row["id"] for row in json.loads(german.stdout)["nodules"]] == [5]
    (tmp_path / "mine.toml").write_text('language = "en"\n[words]\nSOLID = ["dense"]\n', "utf-8")
    own = run.invoke(app, ["ask", str(tmp_path), "largest dense", "--words", str(tmp_path / "mine.toml"), "--json"])
    assert [row["id"] for row in json.loads(own.stdout)["nodules"]] == [5]
    assert isinstance(run.invoke(app, ["ask", str(tmp_path), "größter Herd", "--language", "en"]).exception, BadPrompt)
    assert isinstance(run.invoke(app, ["ask", str(tmp_path), "cavities"]).exception, BadPrompt)
    assert isinstance(run.invoke(app, ["ask", str(tmp_path / "none.json"), "largest"]).exception, NotFound)


def test_the_command_answers_of_a_comparison(
    tmp_path: Path, nodules: tuple[Nodule, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [
        Sighting("found", n.id, n.centre_lps, n.score, n.texture, n.position, n.measurements, n.risk, n.attributes)
        for n in nodules
    ]
    absent = Sighting("absent", None, (0.0, 0.0, 0.0))
    report = made_reports.report(made_reports.scan(), 1)
    exam = ExamSummary(None, None, report.scan, None, None, report.lungs, 0.1, 3, ())
    comparison = Comparison(
        "nodulens", "default", (), None, None, (exam, exam), (Quality(0.98, 50, 0.9, 0.5, 1.0, 1.0),),
        (
            Track(1, "growing", (seen[0], seen[4]), None, 0),
            Track(2, "new", (absent, seen[1]), None, None),
            Track(3, "resolved", (seen[2], absent), None, None),
        ),
        None, (), {"total": 1.0},
    )  # fmt: skip
    folder = tmp_path / "compared"
    folder.mkdir()
    (folder / "comparison.json").write_text(comparison_to_json(comparison), "utf-8")
    run = CliRunner()

    def ids(text: str, *where: str) -> list[int]:
        done = run.invoke(app, ["ask", str(folder.joinpath(*where)), text, "--json"], catch_exceptions=False)
        return [row["id"] for row in json.loads(done.stdout)["nodules"]]

    assert ids("new nodules") == [2] and ids("growing or new nodules", "comparison.json") == [2, 1]
    assert ids("largest nodule") == [1], "as large as the current scan has it"
    assert ids("resolved part-solid nodule") == [3] and ids("part-solid nodules") == []
    assert ids("suspicious growing nodules over 15 mm") == [1]
    shown = run.invoke(app, ["ask", str(folder), "growing nodules"])
    assert "status" in shown.stdout and "20.0 mm" in shown.stdout and "say resolved" in shown.stdout
    monkeypatch.chdir(tmp_path)
    page = (REPOSITORY / "docs" / "prompts.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(from pathlib.*?tracked.*?)```", page, re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    assert [n.id for n in names["answer"].nodules] == [1]  # type: ignore[attr-defined]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text(to_json(report), "utf-8")
    commands = re.findall(r"^\$ nodulens (ask .+)$", page, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        assert run.invoke(app, shlex.split(command), catch_exceptions=False).stdout.strip(), command
    refused = run.invoke(app, ["ask", "out", "new nodules"]).exception
    assert "nodulens compare" in str(refused) and "new," not in str(refused).partition("Known are")[2]


def test_a_text_prompts_the_network_with_the_finding_it_means() -> None:
    method = load_method(Recipe(threshold=small_scans.LOW))
    found = small_scans.noisy_report().nodules
    largest = resolve("largest nodule", found).nodules[0]
    report = segment_text(small_scans.noisy(), "largest nodule", method=method)
    (one,) = report.nodules
    assert report.prompted and one.id == 1 and one.score == largest.score
    assert np.linalg.norm(np.subtract(one.centre_lps, largest.centre_lps)) < 2
    assert f"number {largest.id} of {len(found)} findings" in " ".join(report.warnings)
    with pytest.raises(BadPrompt, match="More than one finding is meant"):
        segment_text(small_scans.noisy(), "nodules", method=method)
    with pytest.raises(BadPrompt, match=r"No finding is meant. 0 of"):
        segment_text(small_scans.noisy(), "nodules over 90 mm", method=method)
    with pytest.raises(BadPrompt, match="did you mean 'largest'"):
        segment_text(small_scans.noisy(), "largset nodule", method=method)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("--text", "largest", "--point", "1,2,3"), "exactly one of"),
        (("--text", "largest", "--include", "1,2,3"), "--text takes none"),
        (("--point", "1,2,3", "--language", "en"), "go with --text"),
        (("--text", "cavities"), "cannot be answered"),
    ],
)
def test_what_does_not_go_with_a_text_is_refused(tmp_path: Path, typed: tuple[str, ...], said: str) -> None:
    scan = small_scans.dicom(tmp_path / "ct")
    done = CliRunner().invoke(app, ["segment", str(scan), "-o", str(tmp_path / "out"), *typed])
    assert isinstance(done.exception, BadPrompt) and said in str(done.exception)
