"""Clinical guidelines in the report and on the command line: what is stated, what is asked for, what is shown."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from importlib.resources import files
from io import StringIO
from pathlib import Path

import jsonschema
import pytest

import nodulens as nl
import small_scans
from conftest import Run
from nodulens.apps.answers import read_patient, typed_answers
from nodulens.clinical.assess import ASK
from nodulens.clinical.facts import Answers, NoduleAnswers, PatientFacts
from nodulens.core.volume import Volume
from nodulens.errors import BadOption, NodulensError, NotFound, UnreadableFile
from nodulens.report.csv import to_csv
from nodulens.report.guideline_words import between, either, percent
from nodulens.report.guidelines import categorise
from nodulens.report.page import render_page
from nodulens.report.record import Report
from page_reader import PageReader

BASELINE = Answers(PatientFacts(context="screening", prior="none"))
"""The nodules are solid of 16 mm, part-solid of 9 mm, and ground-glass of 6 mm."""


@pytest.fixture(scope="module")
def screened(report: Report) -> Report:
    return categorise(report, BASELINE)


def categories(report: Report, guideline: str) -> list[str | None]:
    assert report.guidelines is not None
    every = [one for nodule in report.guidelines.nodules for one in nodule.results]
    return [one.category for one in every if one.guideline == guideline]


# ---- From measurements and answers to results


def test_without_a_context_nothing_is_categorised(ct: Volume, report: Report) -> None:
    assert categorise(report, Answers()) is report and report.guidelines is None
    assert ASK in PageReader(render_page(report, ct)).text, "and the page says how to ask"
    row = next(csv.DictReader(StringIO(to_csv(report))))
    assert {row[name] for name in ("lung_rads_v2022", "fleischner_2017", "bts_2015", "brock_2013")} == {""}
    assert json.loads(nl.to_json(report))["guidelines"] is None


def test_measurements_are_categorised(screened: Report) -> None:
    assert categories(screened, "Lung-RADS v2022") == ["4B", "4B", "2"], "part-solid with a solid part of 8.1 mm"
    assert screened.guidelines is not None
    worst = screened.guidelines.examination[0]
    assert (worst.guideline, worst.category) == ("Lung-RADS v2022", "4B")
    assert [one.model for one in screened.guidelines.nodules[0].estimates] == ["Brock 2013"]
    bts = screened.guidelines.nodules[0].results[1]
    assert "longest diameter of 16.8 mm" in bts.notes[0], "slices of 2.5 mm are too thick for volumes"
    assert "not by volume" in " ".join(screened.guidelines.notes)


def test_thin_slices_go_by_volume(report: Report) -> None:
    thin = replace(report, scan=replace(report.scan, slice_thickness_mm=1.0, spacing_zyx=(1.0, 0.7, 0.7)))
    found = categorise(thin, BASELINE).guidelines
    assert found is not None
    assert "By the volume of 2145 mm³." in found.nodules[0].results[1].notes
    assert "longest diameter" in found.nodules[2].results[1].notes[0], "but for subsolid nodules"


def test_nodules_are_counted_by_class(report: Report) -> None:
    found = categorise(report, Answers(PatientFacts(context="incidental", risk="low"))).guidelines
    assert found is not None
    rules = [nodule.results[0].rule for nodule in found.nodules]
    assert rules == ["solid, single", "subsolid, several", "subsolid, several"]
    pointed = categorise(replace(report, nodules=report.nodules[:1], prompted=True), Answers(found.patient)).guidelines
    assert pointed is not None
    asked = {one.input for one in pointed.nodules[0].estimates[0].missing}
    assert "count" in asked, "where a person pointed, nobody has counted"
    stated = categorise(report, Answers(found.patient, count=1)).guidelines
    assert stated is not None and stated.nodules[2].results[0].rule == "ground-glass, single"


def test_spiculation_is_asked_for_with_its_rating_and_error(report: Report) -> None:
    found = categorise(report, BASELINE).guidelines
    assert found is not None
    assert any("AUC of 0.86" in note and "State it" in note for note in found.notes)
    brock = found.nodules[0].estimates[0]
    assert "without spiculation" in brock.notes[0]
    asked = {one.input: one for one in brock.missing}["spiculated"]
    assert not asked.decisive and [one.value for one in asked.outcomes] == ["yes", "no"]
    stated = categorise(report, replace(BASELINE, nodules={1: NoduleAnswers(spiculated=True)})).guidelines
    assert stated is not None and "with spiculation" in stated.nodules[0].estimates[0].notes[0]
    unrated = categorise(replace(report, attribute_auc={}), BASELINE).guidelines
    assert unrated is not None and not any("AUC" in note for note in unrated.notes)


def test_a_readers_word_takes_the_place_of_an_estimate(report: Report) -> None:
    answers = replace(
        BASELINE, nodules={1: NoduleAnswers(benign=True), 2: NoduleAnswers(kind="airway", airway="segmental")}
    )
    found = categorise(report, answers)
    assert categories(found, "Lung-RADS v2022") == ["1", "4A", "2"]
    upper = categorise(report, replace(BASELINE, nodules={1: NoduleAnswers(upper_lobe=True)})).guidelines
    lower = categorise(report, BASELINE).guidelines
    assert upper is not None and lower is not None
    assert (upper.nodules[0].estimates[0].highest or 0) > (lower.nodules[0].estimates[0].highest or 0)


def test_answers_that_find_no_nodule_are_named(report: Report) -> None:
    lost = categorise(report, replace(BASELINE, nodules={9: NoduleAnswers(spiculated=True)})).guidelines
    assert lost is not None and any("no finding 9" in note for note in lost.notes)
    loose = categorise(report, replace(BASELINE, single=NoduleAnswers(spiculated=True))).guidelines
    assert loose is not None and any("3 findings" in note for note in loose.notes)
    assert loose.nodules == categorise(report, BASELINE).guidelines.nodules, "and is not used"  # type: ignore[union-attr]
    alone = replace(report, nodules=report.nodules[:1])
    one = categorise(alone, replace(BASELINE, single=NoduleAnswers(spiculated=True))).guidelines
    assert one is not None and "with spiculation" in one.nodules[0].estimates[0].notes[0]


def test_no_findings(ct: Volume, report: Report) -> None:
    empty = categorise(replace(report, nodules=()), BASELINE)
    assert empty.guidelines is not None
    result = empty.guidelines.examination[0]
    assert result.category is None and "for a reader" in result.recommendation
    assert "that is for a reader" in PageReader(render_page(empty, ct)).text
    confirmed = replace(BASELINE, patient=replace(BASELINE.patient, no_nodule=True))
    assert categorise(replace(report, nodules=()), confirmed).guidelines.examination[0].category == "1"  # type: ignore[union-attr]


# ---- Where it is shown


@pytest.mark.parametrize("context", ["screening", "incidental"])
def test_json_fits_its_schema_and_comes_back(report: Report, context: str) -> None:
    found = categorise(report, Answers(PatientFacts(context=context)))  # type: ignore[arg-type]
    text = nl.to_json(found)
    schema = json.loads((files("nodulens.report") / "report.schema.json").read_text("utf-8"))
    jsonschema.validate(json.loads(text), schema)
    assert nl.from_json(text) == found
    with pytest.raises(NodulensError, match="in this order"):
        replace(found, nodules=found.nodules[:1])


def test_csv_has_the_categories(report: Report, screened: Report) -> None:
    rows = list(csv.DictReader(StringIO(to_csv(screened))))
    assert [row["lung_rads_v2022"] for row in rows] == ["4B", "4B", "2"]
    assert {row["fleischner_2017"] for row in rows} == {""} and {row["brock_2013"] for row in rows} == {""}
    open_ = categorise(report, Answers(PatientFacts(context="screening")))
    assert next(csv.DictReader(StringIO(to_csv(open_))))["lung_rads_v2022"] == "2 or 3 or 4A or 4B"
    facts = PatientFacts("screening", age=63, sex="female", family_history=False, emphysema=True, prior="none")
    full = categorise(report, Answers(facts))
    row = next(csv.DictReader(StringIO(to_csv(full))))
    assert 0 < float(row["brock_2013"]) < 1


def test_the_page_shows_result_rule_and_question(ct: Volume, screened: Report) -> None:
    text = PageReader(render_page(screened, ct)).text
    for words in (
        "Guidelines, for the examination",
        "solid nodule, at baseline: ≥ 15 mm",
        "Stated: lung cancer screening; prior: none",
        "4B. Refer for clinical evaluation",
        "the clinical findings and the patient's preference. PET-CT may be considered",
        "Not stated: age (--age): 20 years →",
        "Until stated otherwise: typical benign calcification or fat (--benign): yes → 1; no → 4B",
        "probability of malignancy",
        "a radiologist decides",
    ):
        assert words in text, words


def test_words() -> None:
    assert either(("2",)) == "2" and either(("2", "3", "4A")) == "2, 3 or 4A" and either(("a, b", "c")) == "a, b / c"
    assert [percent(p) for p in (0.0001, 0.001, 0.0949, 0.0995, 0.5, 0.999)] == [
        "< 0.1 %", "0.1 %", "9.5 %", "10 %", "50 %", "> 99 %",
    ]  # fmt: skip
    assert between((0.2, 0.2)) == "20 %" and between((0.01, 0.2)) == "1.0 % to 20 %"


# ---- The command line


def test_guideline_for_a_typed_nodule(run: Run) -> None:
    typed = ("guideline", "--kind", "part-solid", "--diameter", "7.4", "--solid", "5", "--context", "screening")
    done = run(*typed, "--prior", "none")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Lung-RADS v2022: 3. Low-dose CT in 6 months.\n  part-solid nodule, at baseline: ")
    assert "Examination, Lung-RADS v2022: 3." in done.out
    found = json.loads(run(*typed, "--prior", "none", "--json").out)
    assert found["schema"] == "nodulens-guidelines/1"
    assert found["nodules"][0]["results"][0]["category"] == "3"
    schema = json.loads((files("nodulens.report") / "report.schema.json").read_text("utf-8"))
    part = {"$defs": {**schema["$defs"], "here": schema["properties"]["guidelines"]}, "$ref": "#/$defs/here"}
    jsonschema.validate({key: value for key, value in found.items() if key != "schema"}, part)
    open_ = run(*typed)
    assert "2, 3, 4A or 4B. Open. Not stated: comparison with prior CT (--comparison, or --prior none)" in open_.out


def test_guideline_takes_the_readers_options(run: Run) -> None:
    done = run(
        "guideline", "--kind", "solid", "--long-axis", "10", "--short-axis", "10", "--context", "incidental",
        "--age", "60", "--sex", "female", "--no-family-history", "--no-emphysema", "--upper-lobe", "--nodules", "1",
        "--spiculation", "yes", "--smoker", "--no-extrathoracic-cancer", "--fdg-uptake", "intense", "--risk", "high",
        "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    (nodule,) = json.loads(done.out)["nodules"]
    estimates = {one["model"]: one["probability"] for one in nodule["estimates"]}
    assert estimates["Brock 2013"] == pytest.approx(0.1919, abs=5e-5)
    assert set(estimates) == {"Brock 2013", "Mayo 1997", "Herder 2005"} and None not in estimates.values()
    assert [one["category"] for one in nodule["results"]][1] == "consider excision or non-surgical treatment"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("--kind", "solid", "--diameter", "7"), "--context screening"),
        (("--kind", "solid", "--context", "screening"), "--diameter"),
        (("--kind", "solid", "--diameter", "7", "--age", "60"), "--context screening"),
        (("--kind", "solid", "--diameter", "-7", "--context", "screening"), "above 0"),
        (("--kind", "part-solid", "--diameter", "7", "--solid", "8", "--context", "screening"), "larger than"),
        (("--kind", "solid", "--diameter", "7", "--context", "screening", "--spiculation", "perhaps"), "yes, no"),
        (("--kind", "solid", "--diameter", "7", "--context", "screening", "--spiculation", "2=yes"), "number 1"),
        (("--kind", "solid", "--diameter", "7", "--context", "screening", "--age", "121"), "0 to 120"),
        (("--kind", "cloudy", "--diameter", "7", "--context", "screening"), "ground-glass"),
    ],
)
def test_guideline_refuses(run: Run, typed: tuple[str, ...], message: str) -> None:
    done = run("guideline", *typed)
    assert done.code == 2 and message in done.err and "Traceback" not in done.err


def test_analyze_says_the_category(run: Run, dicom: Path, tmp_path: Path) -> None:
    file = tmp_path / "patient.yaml"
    file.write_text("context: screening\nage: 50\nnodules:\n  1: {benign: yes}\n", "utf-8")
    low = ("--threshold", str(small_scans.LOW))
    done = run("analyze", dicom, "-o", tmp_path / "out", *low, "--patient", file, "--age", "63", "--prior", "none")
    assert done.code == 0, done.err
    assert done.out == f"{tmp_path / 'out' / 'report.html'}\n" and done.err.startswith("Lung-RADS v2022: ")
    found = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["guidelines"]
    assert found["patient"]["age"] == 63, "an option takes the place of the file's value"
    assert found["nodules"][0]["results"][0]["category"] == "1"


# ---- The patient file


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    facts = {"context": "incidental", "age": 63, "smoker": True, "count": 4, "nodules": {"2": {"fdg_uptake": "faint"}}}
    first, second = tmp_path / "a.json", tmp_path / "b.yaml"
    first.write_text(json.dumps(facts), "utf-8")
    second.write_text(
        "context: incidental\nage: 63\nsmoker: yes\ncount: 4\nnodules:\n  2:\n    fdg_uptake: faint\n", "utf-8"
    )
    assert read_patient(first) == read_patient(second)
    answers = typed_answers(patient=first, spiculation=["2=no", "yes"], fdg_uptake=["3=intense"], nodules=5)
    assert answers.nodules == {
        2: NoduleAnswers(fdg_uptake="faint", spiculated=False), 3: NoduleAnswers(fdg_uptake="intense"),
    }  # fmt: skip
    assert answers.single == NoduleAnswers(spiculated=True) and answers.count == 5


def test_a_category_may_be_a_number(tmp_path: Path) -> None:
    path = tmp_path / "patient.yaml"
    path.write_text("nodules: {1: {previous_category: 3, months: 6}, 2: }", "utf-8")
    assert read_patient(path).nodules == {"1": NoduleAnswers(previous_category="3", months=6.0), "2": NoduleAnswers()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age: sixty", "patient file.patient.age should be"),
        ("agee: 60", "unknown keys \\['agee'\\]"),
        ("age: 60\nage: 61", "twice: age"),
        ("sex: woman", "should be 'female' or 'male'"),
        ("smoker: 1", "should be"),
        ("age: 130", "0 to 120"),
        ("nodules: {1: {texture: solid}}", "unknown keys"),
        ("nodules: [1]", "by number"),
        ("- age", "no facts"),
        ("age: [", "neither JSON nor YAML"),
        ("context: !!python/object/apply:os.system [ls]", "neither JSON nor YAML"),
        ("", "no facts"),
        ("count: 0", "1 or more"),
        ("nodules: {1: {volume_change: 0.3}}", "months"),
        ("nodules: {1: {previous_mm: -3}}", "above 0"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "patient.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(UnreadableFile, match=message):
        read_patient(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_patient(tmp_path / "none.yaml")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (1 << 21))
    with pytest.raises(UnreadableFile, match="too large"):
        read_patient(large)
    numbered = tmp_path / "wrong.yaml"
    numbered.write_text("context: screening\nnodules: {first: {benign: yes}}", "utf-8")
    with pytest.raises(BadOption, match="numbers from 1"):
        typed_answers(patient=numbered)


def test_aliases_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines), "utf-8")
    with pytest.raises(UnreadableFile, match="neither JSON nor YAML"):
        read_patient(path)
    path.write_text("\n".join([*lines, "age: *a39"]), "utf-8")
    with pytest.raises(UnreadableFile, match="neither JSON nor YAML"):
        read_patient(path)
