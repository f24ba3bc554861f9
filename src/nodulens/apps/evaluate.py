"""``nodulens evaluate``: figures of the field, each as its source defines it."""

from __future__ import annotations

import json
import math
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Column, Table
from typer.core import TyperGroup

from nodulens.apps.show import plain
from nodulens.apps.typed import typed_command

if TYPE_CHECKING:
    from nodulens.metrics.boxes import Matches
    from nodulens.metrics.detection import Froc, FrocInterval
    from nodulens.presentation import evaluation
    from nodulens.presentation.evaluation import Provenance


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class _OrMethod(TyperGroup):
    """What is no command is the name of a recipe or the folder of a run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As everywhere, but ``evaluate NAME …`` is ``evaluate method NAME …``."""
        known = args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if known else ["method", *args])


app = typer.Typer(
    cls=_OrMethod,
    no_args_is_help=True,
    help="Figures of the field as their sources define them; or of a method: nodulens evaluate RECIPE|RUN --data DIR.",
)


@app.callback()
def evaluate() -> None:
    """Figures of the field as their sources define them; or of a method: nodulens evaluate RECIPE|RUN --data DIR."""


@app.command(hidden=True)
def method(
    name: Annotated[str, typer.Argument(metavar="RECIPE|RUN", help="A recipe, or the folder that train has made.")],
    folder: Annotated[Path, typer.Option("--data", help="Folder with lidc/, luna16/, background/ and ct/.")],
    split: Annotated[Path | None, typer.Option(help="Who judges, where it is not whom the run left out.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for a page with curves and pictures of a run.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change how whole scans are analyzed: prompted=network. Repeatable."),
    ] = None,
    prompted: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a prompted network that has not seen who judges: python -m nodulens.train segmenter --fold."
        ),
    ] = None,
    as_json: AsJson = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")] = None,
) -> None:
    """Judge a method: its networks on patients that it was not trained on, all of it on whole scans."""
    from nodulens.apps.bars import bars
    from nodulens.apps.methods import evaluate as evaluate
    from nodulens.apps.methods import tables

    with bars() as show:
        found = evaluate(
            name,
            folder,
            split,
            output=output,
            prompted=prompted,
            threads=threads,
            settings=settings or (),
            progress=show,
        )
    if as_json:
        print(json.dumps(found, indent=1))
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    for table in tables(found):
        console.print(_shown(table))
    for note in found["notes"]:
        console.print(plain(note), soft_wrap=True)
    if output is not None:
        print(output / "evaluation.html")


def _shown(table: evaluation.Table) -> Table:
    """A table of a page on the console."""
    shown = Table(*map(Column, map(plain, table.columns)), title=plain(table.title), caption=plain(table.note))
    for row in table.rows:
        shown.add_row(*(plain(f"{v:.4g}" if isinstance(v, float) else "" if v is None else v) for v in row))
    return shown


@app.command()
def froc(
    annotations: Annotated[
        Path, typer.Option(help="CSV of the nodules: seriesuid, coordX, coordY, coordZ, diameter_mm.")
    ],
    series: Annotated[Path, typer.Option(help="The series that were searched, one UID a line.")],
    predictions: Annotated[
        Path,
        typer.Option(
            help="CSV of the marks: seriesuid, coordX, coordY, coordZ, probability; or a folder of nodulens reports."
        ),
    ],
    excluded: Annotated[Path | None, typer.Option(help="CSV of the findings that count neither way.")] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Draws of scans for the interval; LUNA16 makes 1000.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the page, its JSON, and the curve as PNG and SVG.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """FROC, CPM and sensitivity at 1/8 to 8 false positives a scan, as LUNA16 scores them."""
    from nodulens.metrics import detection

    uids = detection.read_series(series)
    result = detection.froc(
        detection.read_findings(annotations),
        detection.read_findings(excluded, unique=False) if excluded else None,
        uids,
        detection.read_predictions(predictions, uids),
    )
    interval = detection.bootstrap(result, bootstrap, seed) if bootstrap else None
    if output is not None:
        files = [path for path in (annotations, excluded, series, predictions) if path is not None and path.is_file()]
        _write_froc(output, result, interval, uids, _provenance({"bootstrap": seed} if bootstrap else {}, files))
    if as_json:
        print(json.dumps(_froc_document(result, interval, seed), indent=1))
        return
    _show_froc(result, interval)
    if output is not None:
        print(output / "evaluation.html")


def _froc_document(result: Froc, interval: FrocInterval | None, seed: int) -> dict[str, Any]:
    from nodulens.metrics.detection import FP_RATES, MAX_MARKS, by_size

    document: dict[str, Any] = {
        "schema": "nodulens-froc/1",
        "fp_per_scan": FP_RATES,
        "sensitivity": result.sensitivity_at(FP_RATES).tolist(),
        "cpm": result.cpm,
        "scans": result.scans,
        "nodules": result.nodules,
        "true_positives": result.true_positives,
        "false_negatives": result.false_negatives,
        "false_positives": result.false_positives,
        "marks": result.tally.marks,
        "max_marks_per_scan": MAX_MARKS,
        "candidates": result.tally.candidates,
        "ignored_on_excluded": result.tally.ignored_on_excluded,
        "ignored_double": result.tally.ignored_double,
        "nodules_elsewhere": result.tally.nodules_elsewhere,
        "by_size": [
            {
                "lo_mm": band.lo_mm,
                "hi_mm": band.hi_mm if band.hi_mm < math.inf else None,
                "nodules": band.froc.nodules,
                "true_positives": band.froc.true_positives,
                "sensitivity": band.froc.sensitivity_at(FP_RATES).tolist(),
                "cpm": band.froc.cpm,
            }
            for band in by_size(result)
        ],
    }
    if interval:
        at = [interval.fp_rate.tolist().index(rate) for rate in FP_RATES]
        document["bootstrap"] = {
            "samples": len(interval.cpms),
            "seed": seed,
            "confidence": interval.confidence,
            "cpm": interval.cpm,
            "cpm_mean": float(interval.cpms.mean()),
            "sensitivity_mean": interval.mean[at].tolist(),
            "sensitivity_low": interval.low[at].tolist(),
            "sensitivity_high": interval.high[at].tolist(),
            "curve": {
                "fp_per_scan": interval.fp_rate.tolist(),
                "mean": interval.mean.tolist(),
                "low": interval.low.tolist(),
                "high": interval.high.tolist(),
            },
        }
    return document


def _show_froc(result: Froc, interval: FrocInterval | None) -> None:
    from nodulens.metrics.detection import FP_RATES, MAX_MARKS, by_size

    table = Table(
        "",
        "nodules",
        "found",
        *(f"{rate:g}" for rate in FP_RATES),
        "CPM",
        title="Sensitivity by false positives a scan",
    )
    rows: list[tuple[str, str, str, list[float]]] = []

    def add(name: str, one: Froc) -> None:
        rows.append((name, str(one.nodules), str(one.true_positives), [*one.sensitivity_at(FP_RATES), one.cpm]))

    add("all", result)
    if interval:
        at = [interval.fp_rate.tolist().index(rate) for rate in FP_RATES]
        for name, values, cpm in zip(("from", "to"), (interval.low, interval.high), interval.cpm, strict=True):
            rows.append((f"  {interval.confidence:.0%} {name}", "", "", [*values[at], cpm]))
    for band in by_size(result):
        add(
            f"{band.lo_mm:g} to {band.hi_mm:g} mm" if band.hi_mm < math.inf else f"{band.lo_mm:g} mm or more", band.froc
        )
    for name, nodules, found, figures in rows:
        table.add_row(name, nodules, found, *(f"{figure:.3f}" for figure in figures))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    tally = result.tally
    for count, what in (
        (result.scans, "scans"),
        (tally.marks, "marks"),
        (tally.marks - tally.candidates, f"dropped, beyond {MAX_MARKS} in a scan"),
        (result.true_positives, "nodules found"),
        (result.false_negatives, "nodules missed"),
        (result.false_positives, "false positives"),
        (tally.ignored_double, "ignored: on a nodule, beside a better mark"),
        (tally.ignored_on_excluded, "ignored: on an excluded finding"),
        (tally.nodules_elsewhere, "nodules in series that are not listed"),
    ):
        console.print(f"{count:8,d}  {what}", highlight=False)


def _provenance(seeds: dict[str, int], files: list[Path]) -> Provenance:
    from nodulens.presentation.evaluation import Provenance, hashed, software

    made = datetime.now(UTC).isoformat(timespec="seconds")
    return Provenance(command=typed_command(), made=made, seeds=seeds, inputs=hashed(*files), software=software())


def _write_froc(
    folder: Path, result: Froc, interval: FrocInterval | None, series: tuple[str, ...], provenance: Provenance
) -> None:
    from nodulens.presentation.figures import save_figure
    from nodulens.presentation.page import write_evaluation
    from nodulens.presentation.tables import froc_evaluation, froc_picture

    evaluation = froc_evaluation(result, interval, series, provenance)
    write_evaluation(evaluation, folder)
    figure = froc_picture(result, interval)
    for suffix in ("png", "svg"):
        save_figure(figure, folder / f"froc.{suffix}")


@app.command()
def boxes(
    truth: Annotated[
        Path, typer.Option(help="CSV: image, x_min, y_min, x_max, y_max; z_min and z_max in 3-D; label for classes.")
    ],
    predictions: Annotated[Path, typer.Option(help="CSV: the same, and score.")],
    score: Annotated[
        float | None, typer.Option(help="Least score for precision, recall and F1; default: where F1 is greatest.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """mAP at IoU 0.5 and 0.5 to 0.95, average recall, precision, recall and F1 of boxes, as COCO scores them."""
    from nodulens.metrics.boxes import match_boxes, read_boxes, summary

    real, found = read_boxes(truth, scored=False), read_boxes(predictions, scored=True)
    classes = match_boxes(real, found)
    figures = summary(classes)
    rows = {name: _box_figures(matches, score) for name, matches in classes.items()}
    searched = {*real.image, *found.image}
    images = {"images": len(searched), "images_without_truth": len(searched - {*real.image})}
    overall = {"map50": figures.map50, "map50_95": figures.map50_95, "average_recall": figures.average_recall}
    if as_json:
        print(json.dumps({"schema": "nodulens-boxes/1", **overall, **images, "classes": rows}, indent=1))
        return
    table = Table("", *(Column(plain(label)) for label in rows))  # classes as they stand in the file, brackets and all
    for name in next(iter(rows.values())):
        table.add_row(name, *("–" if row[name] is None else f"{row[name]:.4g}" for row in rows.values()))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(
        f"mAP@0.5 {figures.map50:.4f}, mAP@0.5:0.95 {figures.map50_95:.4f}, "
        f"average recall {figures.average_recall:.4f}; {images['images']} images, "
        f"{images['images_without_truth']} of them without truth",
        highlight=False,
    )
    console.print(table)


def _box_figures(matches: Matches, score: float | None) -> dict[str, float | None]:
    """One class; what is undefined is None."""
    point = matches.best() if score is None else matches.at(score)
    figures: dict[str, float] = {
        "ap50": float(matches.average_precision[0]),
        "ap50_95": float(matches.average_precision.mean()),
        "average_recall": float(matches.recall.mean()),
        "score": point.score,
        "precision": point.precision,
        "recall": point.recall,
        "f1": point.f1,
        "mean_iou": point.mean_iou,
        "true_positives": point.true_positives,
        "false_positives": point.false_positives,
        "false_negatives": point.false_negatives,
    }
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


@app.command()
def prompts(
    folder: Annotated[Path, typer.Option("--data", help="Folder with ct/ and lidc/xml/, and lidc/ stacks for SAM.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(help="SAM's weights: a folder, or a hub name that is on this machine. Default: our own."),
    ] = None,
    kind: Annotated[Literal["sam2", "sam"] | None, typer.Option(help="Of the checkpoint; MedSAM is a sam.")] = None,
    most: Annotated[
        int | None, typer.Option(min=0, help="Nodules of the stacks at most; default: every fourth, 0: none.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the page, its JSON, and prompts.json with all rows."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")] = None,
    as_json: AsJson = False,
) -> None:
    """Outline the same nodules by every prompt and in every view: SAM, SAM2, MedSAM or our own prompted network."""
    from nodulens.apps.prompting import compare, evaluation, tables
    from nodulens.core.private import check_folder
    from nodulens.io.atomic import whole_file
    from nodulens.presentation.page import write_evaluation

    if output is not None:
        check_folder(output)
    found = compare(folder, checkpoint, kind, most, lambda line: typer.echo(line, err=True), threads)
    text = json.dumps(found, indent=1)
    if output is not None:
        write_evaluation(evaluation(found), output)
        with whole_file(output / "prompts.json") as part:
            part.write_text(text + "\n", encoding="utf-8")
    if as_json:
        print(text)
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    for table in tables(found):
        console.print(_shown(table))
    for note in found["notes"]:
        console.print(plain(note))
    if output is not None:
        print(output / "evaluation.html")


@app.command()
def page(
    evaluation: Annotated[Path, typer.Argument(metavar="EVALUATION", help="The evaluation.json of an evaluation.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")],
) -> None:
    """Make the page of an evaluation again from its JSON: one file, for a browser or a printer."""
    from nodulens.errors import NotFound, UnreadableFile
    from nodulens.io.atomic import whole_file
    from nodulens.presentation.evaluation import from_json
    from nodulens.presentation.page import evaluation_page

    if not evaluation.is_file():
        raise NotFound(f"There is no file {evaluation}; name the evaluation.json that an evaluation wrote.")
    try:
        text = evaluation_page(from_json(evaluation.read_text("utf-8")))
    except (UnreadableFile, UnicodeDecodeError) as error:
        raise UnreadableFile(f"{evaluation}: {error}") from error
    with whole_file(output) as part:
        part.write_bytes(text.encode())
    print(output)
