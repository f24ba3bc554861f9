"""The page of an evaluation: its words, its JSON, its drawings, and how it opens in a real browser."""

from __future__ import annotations

import base64
import errno
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser import Browser
from conftest import REPOSITORY, Run
from nodulens.data.splits import Split
from nodulens.errors import BadOption, BadValues, CannotWrite, NodulensError, UnreadableFile
from nodulens.metrics.classification import confusion
from nodulens.metrics.statistics import Interval
from nodulens.presentation.evaluation import (
    LIDC_IDRI,
    LUNA16,
    LUNG_PET_CT_DX,
    SCHEMA,
    DataSet,
    Drawing,
    Evaluation,
    Metric,
    Provenance,
    SplitPart,
    Table,
    from_json,
    hashed,
    shared,
    software,
    split_parts,
    to_json,
)
from nodulens.presentation.figures import Basis, Line, Point, confusion_figure, froc_figure, roc_figure
from nodulens.presentation.inline_svg import inline_svg
from nodulens.presentation.page import evaluation_page, write_evaluation
from nodulens.presentation.panels import Case, difference_figure
from nodulens.presentation.tables import class_table
from nodulens.report.record import WeightRef
from page_reader import PageReader

HOSTILE = "</style></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{title}}"
BASIS = Basis(90, "nodules", 50, 40)


def _drawings() -> tuple[Drawing, ...]:
    line = Line("nodulens", [0, 0.5, 2, 8], [0, 0.6, 0.8, 0.9], [0, 0.5, 0.7, 0.8], [0, 0.7, 0.9, 1.0], "CPM 0.7")
    roc = Line("model", [0, 0.2, 1], [0, 0.8, 1])
    y, x = np.mgrid[:40, :40]
    truth, result = (y - 20) ** 2 + (x - 20) ** 2 < 50, (y - 22) ** 2 + (x - 20) ** 2 < 50
    case = Case("case 1", np.where(truth, 0, -850), truth, result, 0.8)
    return (
        Drawing.of_lines("Free response", froc_figure([line], BASIS), "Sensitivity over false positives."),
        Drawing.of_lines("Free response again", froc_figure([line], BASIS)),
        Drawing.of_lines("ROC", roc_figure([roc], BASIS, [Point("cut", 0.2, 0.8)])),
        Drawing.of_lines("Confusion", confusion_figure(confusion([0, 0, 1], [0, 1, 1]), BASIS)),
        Drawing.of_pixels("Pixels", difference_figure(case, ("model",))),
    )


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return Evaluation(
        title="Malignancy by patient",
        summary=("Ninety nodules were judged.", "The gain over diameter is 0.09."),
        metrics=(
            Metric("AUC", 0.9123, 0.874, 0.951, 1090, note="of nodules of 6 to 12 mm"),
            Metric("Volume difference", -12.345, -30.2, 5.1, 90, "mm³"),
            Metric("Kappa of one reader", float("nan")),
            Metric.of("Dice", Interval(0.7881, float("nan"), float("nan")), 3),
        ),
        interval="95 %, 1,000 bootstraps by patient",
        tables=(
            Table(
                "By texture",
                ("", "nodules", "AUC", "remark"),
                (("solid", 1700, 0.93, "–"), ("ground glass", 7, None, "few")),
            ),
            Table("Empty", ("", "n"), ()),
        ),
        drawings=_drawings(),
        warnings=("Three scans of the test part were in the training set of the weights volume.",),
        provenance=Provenance(
            command="nodulens evaluate malignancy --data 'my scans' --seed 3",
            made="2026-01-02T03:04:05+00:00",
            split=(
                SplitPart("train", tuple(f"LIDC-IDRI-{i:04d}" for i in range(100, 160))),
                SplitPart("test", tuple(f"LIDC-IDRI-{i:04d}" for i in range(200, 240))),
                SplitPart("scans", ("1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192",), "scans"),
            ),
            split_method="Stratified by texture, seed 3.",
            seeds={"split": 3, "bootstrap": 7},
            inputs={"labels.csv": "ef" * 32},
            weights=(WeightRef("malignancy", "ab" * 32), WeightRef("volume", "cd" * 32)),
            software=software(),
            data=(LIDC_IDRI, LUNA16, LUNG_PET_CT_DX, DataSet("Ours", "none", "Unpublished.", "Two centres.")),
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(evaluation: Evaluation) -> str:
    return evaluation_page(evaluation)


# ---- What it says


def test_page_holds_everything(page: str, evaluation: Evaluation) -> None:
    text, provenance = PageReader(page).text, evaluation.provenance
    for words in (
        "Malignancy by patient",
        *evaluation.summary,
        *evaluation.warnings,
        "AUC of nodules of 6 to 12 mm 0.912 0.874 to 0.951 1,090",
        "Volume difference −12.3 mm³ −30.2 to 5.1 mm³ 90",
        "Kappa of one reader –",
        "Dice 0.788 3",
        "Interval: 95 %, 1,000 bootstraps by patient.",
        "solid 1,700 0.930 –",
        "ground glass 7 – few",
        "Free response Sensitivity over false positives.",
        "False positives a scan",
        "n = 90 nodules in 50 scans of 40 patients",
        "Stratified by texture, seed 3.",
        "Train: 60 patients",
        "Test: 40 patients",
        "Scans: 1 scans",
        "No patient is in more than one part.",
        *(member for part in provenance.split for member in part.members),
        provenance.command,
        provenance.made,
        "Seed, split 3",
        "Seed, bootstrap 7",
        "labels.csv, sha256 " + "ef" * 32,
        *(one.sha256 for one in provenance.weights),
        *(f"{name} {version}" for name, version in provenance.software.items()),
        *(f"{one.name} ({one.licence}). {one.citation}" for one in provenance.data),
        "Two centres.",
        "For research. Not a medical device.",
        "It is not a medical device: no diagnosis and no decision about a person may rest on it.",
    ):
        assert words in text, words


def test_an_evaluation_of_nothing_is_a_page_too() -> None:
    text = PageReader(evaluation_page(Evaluation("Nothing yet"))).text
    assert "Nothing yet" in text and "Not a medical device" in text
    for absent in ("Warnings", "Figures", "Split", "Data"):
        assert absent not in text


def test_who_stands_in_two_parts_is_named(evaluation: Evaluation) -> None:
    parts = (
        SplitPart("train", tuple(f"P{i:02d}" for i in range(20))),
        SplitPart("test", tuple(f"P{i:02d}" for i in range(9, 30))),
    )
    leaky = replace(evaluation, provenance=replace(evaluation.provenance, split=parts))
    text = PageReader(evaluation_page(leaky)).text
    assert "11 are in more than one part, so the figures are optimistic: P09, P10" in text and "and 3 more" in text
    assert "No patient is" not in text
    assert shared((SplitPart("a", ("x", "x")), SplitPart("b", ("y",)))) == ()  # twice in one part is not in two


def test_parts_name_every_patient_of_a_split() -> None:
    folds = Split({"P2": "0", "P1": "0", "P3": "1", "LIDC-IDRI-0001": "evaluation"}, 2, "stratified", seed=0)
    assert split_parts(folds) == (
        SplitPart("fold 0", ("P1", "P2")), SplitPart("fold 1", ("P3",)), SplitPart("evaluation", ("LIDC-IDRI-0001",))
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"), [(0.00049, "0.000"), (9.9996, "10.000"), (10, "10.0"), (-1234.6, "−1,235"), (0, "0.000")]
)
def test_numbers_are_read_easily(value: float, text: str) -> None:
    assert f"M {text}" in PageReader(evaluation_page(Evaluation("t", metrics=(Metric("M", value),)))).text


# ---- Values that are refused


def test_metrics_and_tables_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(BadValues, match="both ends"):
        Metric("AUC", 0.9, low=0.8)
    with pytest.raises(BadValues, match="swap its ends"):
        Metric("AUC", 0.9, 0.95, 0.85)
    with pytest.raises(BadValues, match="2 columns, but a row of 1"):
        Table("t", ("a", "b"), (("x",),))
    with pytest.raises(BadValues, match="either SVG or PNG"):
        Drawing("d")


# ---- JSON


def test_json_round_trip(evaluation: Evaluation, page: str) -> None:
    text = to_json(evaluation)
    assert json.loads(text)["schema"] == SCHEMA == "nodulens-evaluation/1"
    again = from_json(text)
    assert again == evaluation and to_json(again) == text and evaluation_page(again) == page
    empty = Evaluation("t")
    assert from_json(to_json(empty)) == empty


def test_json_keeps_whole_numbers_whole() -> None:
    table = Table("t", ("", "n", "share"), (("a", 3, 1.0),))
    (row,) = from_json(to_json(Evaluation("t", tables=(table,)))).tables[0].rows
    assert [type(cell) for cell in row] == [str, int, float]


def test_json_holds_no_nan() -> None:
    table = Table("t", ("", "n"), (("a", float("nan")),))
    with pytest.raises(NodulensError, match=r"tables\.0\.rows\.0\.1"):
        to_json(Evaluation("t", tables=(table,)))


def _changed(evaluation: Evaluation, change: Callable[[dict[str, Any]], object]) -> str:
    document = json.loads(to_json(evaluation))
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(schema="nodulens-evaluation/2"), "'nodulens-evaluation/2', expected"),
        (lambda d: d.pop("schema"), "None, expected"),
        (lambda d: d.update(extra=1), "unknown keys ['extra']"),
        (lambda d: d.pop("metrics"), "lacks ['metrics']"),
        (lambda d: d["metrics"][0].update(low=0.99), "swap its ends"),
        (lambda d: d.update(title=3), ".title should be str, is 3"),
        (lambda d: d["metrics"][0].update(n=1.5), "metrics[0].n should be"),
        (lambda d: d["metrics"][0].update(value="0.9"), "metrics[0].value should be"),
        (lambda d: d["tables"][0]["rows"][0].append([1]), "rows[0][4] should be"),
        (lambda d: d["provenance"]["seeds"].update(split=True), "seeds.split should be int, is true"),
        (lambda d: d["provenance"].update(split={}), "split should be a list"),
        (lambda d: d.update(provenance=[]), "provenance should be an object"),
    ],
)
def test_other_json_is_refused(evaluation: Evaluation, change: Callable[[dict[str, Any]], object], words: str) -> None:
    with pytest.raises(UnreadableFile) as caught:
        from_json(_changed(evaluation, change))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "no JSON at line 1"), ("[]", "None, expected"), ('{"a": 1, "a": 2}', "stands twice")]
)
def test_what_is_no_evaluation_is_refused(text: str, words: str) -> None:
    with pytest.raises(UnreadableFile, match=re.escape(words)):
        from_json(text)


# ---- Tables of the metrics


def test_class_table_is_the_report() -> None:
    table = class_table("Classes", confusion([0, 0, 1, 1, 1], [0, 1, 1, 1, 0]))
    assert table.rows[1] == ("1", 3, pytest.approx(2 / 3), 0.5, pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert table.rows[2][0] == "mean"


# ---- Nothing gets in or out


def test_no_text_becomes_part_of_the_page(evaluation: Evaluation) -> None:
    def with_texts(text: str) -> Evaluation:
        return replace(
            evaluation,
            title=text, summary=(text,), interval=text, warnings=(text,),
            metrics=(Metric(text, 0.5, 0.4, 0.6, 3, note=text), Metric(text, 5, 4, 6, unit=text)),
            tables=(Table(text, ("", text), ((text, text),), text),),
            drawings=(replace(evaluation.drawings[0], title=text, caption=text),
                      replace(evaluation.drawings[-1], title=text)),
            provenance=Provenance(text, text, (SplitPart(text, (text,), text),), text, {text: 1}, {text: text},
                                  (WeightRef(text, text),), {"nodulens": text, text: text},
                                  (DataSet(text, text, text, text),)),
        )  # fmt: skip

    hostile, plain = (PageReader(evaluation_page(with_texts(text))) for text in (HOSTILE, "Plain"))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert hostile.text.count(HOSTILE) == plain.text.count("Plain") > 20
    assert not [tag for tag, attributes in hostile.tags if any(name.startswith("on") for name in attributes)]


def test_page_refers_to_nothing_outside_itself_and_runs_nothing(page: str) -> None:
    for tag, attributes in PageReader(page).tags:
        assert tag != "script" and "style" not in attributes
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    assert set(re.findall(r"url\((.)", page)) == {"#"} and "@import" not in page
    assert "http" not in page.replace("http-equiv", "")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy and policy[1].startswith("default-src 'none'; img-src data:; style-src 'sha256-")


SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:x="http://www.w3.org/1999/xlink" viewBox="0 0 9 9">{}</svg>'


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        '<g onload="alert(1)"><path d="M0 0" onclick="alert(1)"/></g>',
        "<foreignObject><img src='http://a.example/'/></foreignObject>",
        "<style>* {fill: url(http://a.example/)}</style>",
        '<image x:href="http://a.example/"/>',
        '<use x:href="http://a.example/#a"/><use href="javascript:alert(1)"/>',
        '<a href="javascript:alert(1)"><path d="M0 0"/></a>',
        '<path d="M0 0" style="fill: url(http://a.example/); clip-path: url(http://a.example/#a)"/>',
        '<text>a<script>alert(1)</script><set attributeName="href" to="javascript:alert(1)"/>b</text>',
        "<!-- <script>alert(1)</script> --><?php alert(1) ?>",
    ],
)
def test_a_drawing_can_do_no_harm(inside: str) -> None:
    made = inline_svg(SVG.format(inside), "d-", "A drawing")
    assert not re.search(r"script|alert|onload|onclick|example|style|<a|foreign|image|<set|php", made), made
    assert {tag for tag, _ in PageReader(made).tags} <= {"svg", "g", "path", "use", "text"}


def test_a_drawing_keeps_what_it_draws_with() -> None:
    inside = (
        '<defs><path id="m" d="M 0 0.123456 L -1.5 2" style="stroke: #17212b; fill: #0072b2; fill-opacity: 0.5"/>'
        '<clipPath id="c"><rect x="0" y="0" width="9" height="9"/></clipPath></defs>'
        '<g clip-path="url(#c)"><use x:href="#m" x="1.000001" y="2" style="fill: #fefefe"/></g>'
        '<text style="font: 9px \'DejaVu Sans\'; text-anchor: middle" x="1" y="2">a &lt; b</text>'
    )
    made = inline_svg(SVG.format(inside), "d7-", 'Words "quoted"')
    for part in (
        'id="d7-m"', 'd="M 0 0.12 L -1.5 2"', 'stroke="currentColor"', 'fill="#0072b2"', 'fill-opacity="0.5"',
        'clip-path="url(#d7-c)"', '<use ', 'href="#d7-m"', 'x="1"', 'fill="var(--panel)"', 'font-size="9px"',
        'text-anchor="middle"', ">a &lt; b</text>", 'aria-label="Words &quot;quoted&quot;"',
    ):  # fmt: skip
        assert part in made, part


@pytest.mark.parametrize(
    "text",
    [
        "no xml",
        "<html/>",
        "<svg xmlns='http://www.w3.org/2000/svg'/>",
        "<svg viewBox='0 0 1 \"onload=a'/>",
        '<!DOCTYPE svg [<!ENTITY a "aaaa">]><svg viewBox="0 0 1 1"><text>&a;</text></svg>',
        SVG.format("<g>" * 60 + "</g>" * 60),
    ],
)
def test_what_is_no_drawing_is_refused(text: str) -> None:
    with pytest.raises(UnreadableFile, match="SVG"):
        evaluation_page(Evaluation("t", drawings=(Drawing("d", svg=text),)))


@pytest.mark.parametrize("png", ['"><script>', "AAAA", base64.b64encode(b"GIF89a").decode()])
def test_what_is_no_picture_is_refused(png: str) -> None:
    with pytest.raises(UnreadableFile, match="The drawing 'd' is no"):
        evaluation_page(Evaluation("t", drawings=(Drawing("d", png=png),)))


def test_ids_are_unique_and_what_they_name_is_there(page: str) -> None:
    tags = PageReader(page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 20
    used = set(re.findall(r'(?:href="#|url\(#|aria-labelledby=")([\w-]+)', page))
    assert used <= set(ids), used - set(ids)


# ---- Files and the command line


def test_page_and_json_are_written_together(evaluation: Evaluation, page: str, tmp_path: Path) -> None:
    made = write_evaluation(evaluation, tmp_path / "new" / "folder")
    assert made.read_text("utf-8") == page
    assert from_json((made.parent / "evaluation.json").read_text("utf-8")) == evaluation
    assert sorted(path.name for path in made.parent.iterdir()) == ["evaluation.html", "evaluation.json"]
    with pytest.raises(BadOption, match="is a file"):
        write_evaluation(evaluation, made)
    write_evaluation(evaluation, made.parent, {"rows.json": b"{}"})
    assert sorted(path.name for path in made.parent.iterdir()) == ["evaluation.html", "evaluation.json", "rows.json"]


def test_an_evaluation_that_cannot_be_written_leaves_the_one_before(
    evaluation: Evaluation, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_evaluation(evaluation, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == "evaluation.json":
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CannotWrite, match="No space left on device"):
        write_evaluation(replace(evaluation, title="another"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_inputs_are_named_by_their_hash(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"abc")
    assert hashed(tmp_path / "a.csv") == {"a.csv": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}


def test_evaluate_page_makes_the_page_again(run: Run, evaluation: Evaluation, page: str, tmp_path: Path) -> None:
    source, target = tmp_path / "evaluation.json", tmp_path / "page.html"
    source.write_bytes(to_json(evaluation).encode())
    assert run("evaluate", "page", source, "-o", target) == (0, f"{target}\n", "")
    assert target.read_text("utf-8") == page


def test_evaluate_page_says_what_is_wrong(run: Run, evaluation: Evaluation, tmp_path: Path) -> None:
    source, target = tmp_path / "evaluation.json", tmp_path / "page.html"
    code, _, err = run("evaluate", "page", source, "-o", target)
    assert code == 2 and f"no file {source}" in err
    for data in (b"{", b"\xff\xfe", b'{"schema": "nodulens-report/1"}'):
        source.write_bytes(data)
        code, out, err = run("evaluate", "page", source, "-o", target)
        assert code == 2 and str(source) in err and out == ""
    source.write_bytes(to_json(evaluation).encode())
    code, _, err = run("evaluate", "page", source, "-o", tmp_path / "none" / "page.html")
    assert code == 2 and "no folder" in err
    assert not target.exists()


def _froc_files(folder: Path) -> list[str | Path]:
    annotations, predictions, series = (folder / f"{name}.csv" for name in ("annotations", "predictions", "series"))
    annotations.write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2,0,0,0,5\n1.3,0,0,0,9\n1.9,0,0,0,9\n")
    predictions.write_text("seriesuid,coordX,coordY,coordZ,probability\n1.2,0,0,1,.9\n1.3,50,0,0,.8\n1.3,0,1,0,.7\n")
    series.write_text("1.2\n1.3\n1.4\n")
    return ["evaluate", "froc", "--annotations", annotations, "--series", series, "--predictions", predictions]


@pytest.mark.parametrize("drawn", [True, False])
def test_evaluate_froc_leaves_page_curve_and_json(run: Run, tmp_path: Path, drawn: bool) -> None:
    words = [*_froc_files(tmp_path), *(["--bootstrap", "20", "--seed", "4"] if drawn else []), "-o", tmp_path / "out"]
    code, out, err = run(*words)
    assert (code, err) == (0, "") and out.endswith(f"{tmp_path / 'out' / 'evaluation.html'}\n")
    names = {"evaluation.html", "evaluation.json", "froc.png", "froc.svg"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    made = from_json((tmp_path / "out" / "evaluation.json").read_text("utf-8"))
    code, out, _ = run(*words, "--json")
    document = json.loads(out)
    assert code == 0
    assert [m.value for m in made.metrics] == pytest.approx([document["cpm"], *document["sensitivity"]])
    assert made.provenance.split == (SplitPart("test", ("1.2", "1.3", "1.4"), "scans"),)
    assert made.provenance.seeds == ({"bootstrap": 4} if drawn else {})
    assert set(made.provenance.inputs) == {"annotations.csv", "predictions.csv", "series.csv"}
    assert made.provenance.command.startswith("nodulens evaluate froc --annotations")
    assert made.warnings == ("1 annotated nodules are in series that were not searched; they do not count.",)
    for path in (tmp_path / "out").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    if drawn:
        assert (made.metrics[0].low, made.metrics[0].high) == tuple(document["bootstrap"]["cpm"])
        assert made.metrics[3].low == document["bootstrap"]["sensitivity_low"][2]
        assert made.interval == "95 %, 20 bootstraps by scan"


def test_evaluate_froc_says_no_to_a_file_as_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("kept")
    code, _, err = run(*_froc_files(tmp_path), "-o", tmp_path / "out")
    assert code == 2 and "is a file" in err and (tmp_path / "out").read_text() == "kept"


def test_the_example_of_the_documents_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPOSITORY / "docs" / "evaluation.md").read_text("utf-8").partition("## Figures and the page")[2]
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    random = np.random.default_rng(0)
    y, s = random.random(30) < 0.5, random.random(30)
    monkeypatch.chdir(tmp_path)
    exec(
        compile(code, "evaluation.md", "exec"), {"y": y, "s": s, "p": s, "patients": [f"P{i // 2}" for i in range(30)]}
    )
    made = from_json((tmp_path / "evaluation" / "evaluation.json").read_text("utf-8"))
    assert made.metrics[0].n == 30 and (tmp_path / "roc.svg").exists()
    promised = set(re.findall(r"`(\w+)`", text))
    assert {*vars(made), *vars(made.provenance), *vars(made.metrics[0]), *vars(made.tables[0])} <= promised


# ---- In a browser


@pytest.mark.parametrize(("width", "mobile"), [(400, True), (820, False), (1280, False)])
def test_page_fits_every_width(opened: Browser, width: int, mobile: bool) -> None:
    opened.size(width, 900, mobile=mobile)
    assert opened.run("document.documentElement.scrollWidth") <= width
    sizes = opened.run("[...document.querySelectorAll('svg.drawing')].map(s => s.getBoundingClientRect().width)")
    assert min(sizes) > min(width, 400) * 0.6
    opened.size(1280, 900)


def test_drawings_take_the_colours_of_the_page(opened: Browser) -> None:
    colour = "getComputedStyle([...document.querySelectorAll('.drawing text')].find(t => t.textContent === '{}')).fill"
    ground = "getComputedStyle(document.querySelector('.card')).backgroundColor"
    seen = {}
    for dark in (False, True):
        opened.size(1280, 900, dark=dark)
        seen[dark] = [
            sum(map(float, re.findall(r"[\d.]+", opened.run(one))[:3]))
            for one in (colour.format("Sensitivity"), ground)
        ]
    opened.size(1280, 900)
    assert seen[False][1] - seen[False][0] > 400 and seen[True][0] - seen[True][1] > 400


def test_drawings_are_drawn(opened: Browser) -> None:
    """The policy of the page takes nothing from them: lines have their colours, letters their size."""
    assert opened.run("[...document.images].every(image => image.naturalWidth > 100)")
    line = "getComputedStyle(document.querySelector('.drawing path[stroke=\"#0072b2\"]'))"
    assert opened.run(f"{line}.stroke") == "rgb(0, 114, 178)" and opened.run(f"{line}.fill") == "none"
    letters = "[...document.querySelectorAll('.drawing text')].map(t => parseFloat(getComputedStyle(t).fontSize))"
    assert set(opened.run(letters)) <= {7.5, 8, 9, 11}
    assert opened.run("document.querySelectorAll('.drawing use').length") > 20


def test_the_split_opens_and_prints(opened: Browser, tmp_path: Path) -> None:
    def becomes(visible: bool) -> bool:
        """Whether the list of patients comes to be so: the browser lays the page out anew in its own time."""
        shown = "document.querySelector('.members li').checkVisibility({contentVisibilityAuto: true})"
        waited = time.monotonic() + 5
        while opened.run(shown) is not visible and time.monotonic() < waited:
            time.sleep(0.1)
        return opened.run(shown) is visible

    assert becomes(False)
    opened.call("Emulation.setEmulatedMedia", media="print")
    assert becomes(True), "in print every patient is named"
    opened.call("Emulation.setEmulatedMedia", media="")
    assert becomes(False)
    opened.run("document.querySelector('details summary').click()")
    assert becomes(True)
    opened.pdf(tmp_path / "page.pdf")
    data = (tmp_path / "page.pdf").read_bytes()
    assert data.startswith(b"%PDF") and data.count(b"/Type /Page\n") >= 2


def test_everything_has_a_name(opened: Browser) -> None:
    tree = opened.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"link", "image", "region", "DisclosureTriangle"}
    found = [n for n in tree if not n.get("ignored") and n.get("role", {}).get("value") in roles]
    assert len(found) > 10
    assert [n["role"]["value"] for n in found if not n.get("name", {}).get("value")] == []


def test_hostile_texts_do_nothing_in_a_browser(opened: Browser, evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_bytes(evaluation_page(replace(evaluation, title=HOSTILE, summary=(HOSTILE,))).encode())
    with Browser() as browser:
        browser.open(path)
        assert browser.run("document.scripts.length") == 0 and browser.problems == []
        assert browser.run("document.querySelector('h1').textContent") == HOSTILE
        # Even a script that did get in would not run.
        browser.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'pwned = 1'}))")
        assert browser.run("typeof window.pwned") == "undefined"
