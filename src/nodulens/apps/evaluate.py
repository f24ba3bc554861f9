"""``nodulens evaluate``: figures of the field, each as its source defines it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from nodulens.apps.show import print_json
from nodulens.apps.typed import group_or, typed_command
from nodulens.core.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nodulens.evaluate.cohort_results import CohortEvaluation
    from nodulens.evaluate.comparison import Comparison
    from nodulens.evaluate.cross_validation import CrossValidation
    from nodulens.evaluate.runs import MethodEvaluation
    from nodulens.presentation.evaluation import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


app = typer.Typer(
    cls=group_or("method"),  # the name of a recipe or the folder of a run
    no_args_is_help=True,
    help="Figures of the field as their sources define them; or of a method: nodulens evaluate RECIPE|RUN --data DIR.",
)


@app.callback()
def evaluate() -> None:
    """Figures of the field as their sources define them; or of a method: nodulens evaluate RECIPE|RUN --data DIR."""


def _print(
    found: MethodEvaluation | CrossValidation | CohortEvaluation | Comparison, output: Path | None, as_json: bool
) -> None:
    """Print figures as JSON, or as tables and where their page is."""
    if as_json:
        print_json(found.to_json())
        return
    _print_tables(found.tables(), found.notes, output, width=100)


def _print_tables(tables: Iterable[Table], notes: Iterable[str], output: Path | None, width: int = 160) -> None:
    """Print tables, notes, and where their page is; see :func:`nodulens.apps.show.print_tables`."""
    from nodulens.apps.show import print_tables

    print_tables(tables, notes, width)
    if output is not None:
        print(printable(str(output / "evaluation.html")))


@app.command(hidden=True)
def method(
    name: Annotated[
        str,
        typer.Argument(metavar="RECIPE|RUN", help="A recipe, or the folder of a run or of one for every fold."),
    ],
    folder: Annotated[
        Path | None, typer.Option("--data", help="Folder with lidc/, luna16/, background/ and ct/.")
    ] = None,
    scans: Annotated[
        Path | None,
        typer.Option(help="In place of --data: a cohort of whole scans, a folder or a CSV that names them."),
    ] = None,
    truth: Annotated[
        str | None, typer.Option(help="Known of the cohort: lidc, luna16, masks, or a CSV of LPS points and diameters.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Folder of LIDC's XML or LUNA16's tables; default: that of the scans.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes for a cohort; default: half of the cores.")
    ] = None,
    unseen: Annotated[
        bool, typer.Option("--unseen", help="Of a cohort only patients of LIDC on whom no network was trained.")
    ] = False,
    split: Annotated[Path | None, typer.Option(help="Split whose test patients to use, in place of the run's.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the page of a run or a cohort, its JSON, and predictions.csv."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change how whole scans are analyzed: prompted=network. Repeatable."),
    ] = None,
    prompted: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a prompted network trained without the test patients: python -m nodulens.train segmenter "
            "--fold."
        ),
    ] = None,
    as_json: AsJson = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")] = None,
) -> None:
    """Evaluate a method: its networks on patients that it was not trained on, all of it on whole scans."""
    from nodulens.apps.bars import bars
    from nodulens.errors import BadOption

    if scans is not None:
        if folder or split or prompted or threads or truth is None or output is None:
            raise BadOption(
                "--scans goes with --truth and -o FOLDER, and without --data, --split, --prompted, --threads."
            )
        plan = _Cohort(name, scans, truth, annotations, tuple(settings or ()), workers, unseen)
        _evaluate_cohort(plan, output, as_json)
        return
    if folder is None or truth or annotations or workers or unseen:
        raise BadOption(
            "Name the material, --data DIR; or a cohort, --scans DIR --truth lidc|luna16|masks|FILE -o FOLDER."
        )
    from nodulens.evaluate.options import EvaluateOptions
    from nodulens.evaluate.runs import check_page
    from nodulens.evaluate.runs import evaluate as evaluate

    if output is not None:
        check_page(name, output)
    with bars() as show:
        options = EvaluateOptions(split, prompted, threads, show)
        found = evaluate(name, folder, settings=settings or (), options=options)
    if output is not None:
        _write_page(found, output)
    _print(found, output, as_json)


def _write_page(found: MethodEvaluation | CrossValidation, output: Path) -> None:
    """Write the page of a run, or of one for every fold, with its predictions."""
    from nodulens.evaluate.predictions import FILE, predictions_of, predictions_text
    from nodulens.evaluate.run_page import page_of, page_of_folds
    from nodulens.evaluate.runs import MethodEvaluation
    from nodulens.presentation.page import write_evaluation

    if isinstance(found, MethodEvaluation):
        page, predictions = page_of(found, typed_command()), predictions_of(found.networks)
    else:
        page, predictions = page_of_folds(found, typed_command()), found.predictions
    write_evaluation(page, output, {FILE: predictions_text(predictions).encode()} if predictions else {})


class _Cohort(NamedTuple):
    """What was typed of a cohort."""

    method: str
    scans: Path
    truth: str
    annotations: Path | None
    settings: tuple[str, ...]
    workers: int | None
    unseen: bool


def _evaluate_cohort(typed: _Cohort, output: Path, as_json: bool) -> None:
    """Evaluate a method on a cohort of whole scans."""
    from nodulens.apps.bars import bars
    from nodulens.core.private import check_folder
    from nodulens.evaluate.cohort import CohortPlan, run_cohort
    from nodulens.evaluate.cohort_results import CohortEvaluation
    from nodulens.evaluate.predictions import FILE
    from nodulens.evaluate.truths import find_cohort, patients_of, truths_of
    from nodulens.presentation.page import write_evaluation

    check_folder(output)
    cohort = find_cohort(typed.scans)
    truths = truths_of(typed.truth, typed.scans, cohort, typed.annotations)
    patients = patients_of(cohort)
    plan = CohortPlan(typed.method, truths, typed.settings, typed.workers, patients, typed.unseen)
    with bars() as show:
        found = CohortEvaluation(run_cohort(cohort, plan, output, show))
    write_evaluation(found.evaluation(typed_command()), output, {FILE: found.predictions().encode()})
    _print(found, output, as_json)


@app.command()
def compare(
    places: Annotated[
        list[Path],
        typer.Argument(metavar="RUN…", help="Two or more: folders of runs, predictions.csv, or folders that hold it."),
    ],
    folder: Annotated[
        Path | None, typer.Option("--data", help="Material that runs are evaluated on; not needed for predictions.")
    ] = None,
    split: Annotated[Path | None, typer.Option(help="Split whose test patients to use, in place of the runs'.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the page, its JSON, and comparison.json.")
    ] = None,
    as_json: AsJson = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")] = None,
) -> None:
    """Compare runs on the same patients and items: paired differences with intervals, tests, corrected p-values."""
    from nodulens.apps.bars import bars
    from nodulens.core.private import check_folder
    from nodulens.data.splits import read_split
    from nodulens.evaluate.comparison import compare as compare
    from nodulens.evaluate.entrants import RunMaterial, entrants_of
    from nodulens.presentation.page import write_evaluation

    if output is not None:
        check_folder(output)
    with bars() as show:
        material = RunMaterial(folder, read_split(split) if split is not None else None, threads)
        found = compare(entrants_of(places, material, show))
    if output is not None:
        text = json.dumps(found.to_json(), indent=1)
        write_evaluation(found.evaluation(typed_command()), output, {"comparison.json": f"{text}\n".encode()})
    _print(found, output, as_json)


@app.command()
def froc(
    annotations: Annotated[
        Path, typer.Option(help="CSV of the nodules: seriesuid, coordX, coordY, coordZ, diameter_mm.")
    ],
    series: Annotated[Path, typer.Option(help="The series that were searched, one UID a line.")],
    predictions: Annotated[
        Path,
        typer.Option(
            help="CSV of the detections: seriesuid, coordX, coordY, coordZ, probability; or a folder of reports."
        ),
    ],
    excluded: Annotated[Path | None, typer.Option(help="CSV of the findings that count neither way.")] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Bootstrap resamples of scans for the interval; LUNA16 uses 1000.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the bootstrap.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the page, its JSON, and the curve as PNG and SVG.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """FROC, CPM and sensitivity at 1/8 to 8 false positives a scan, as LUNA16 scores them."""
    from nodulens.evaluate.froc import FrocFiles, evaluate_detector

    files = FrocFiles(annotations, series, predictions, excluded)
    found = evaluate_detector(files, bootstrap, seed)
    if output is not None:
        from nodulens.presentation.evaluation import Provenance, hashed, software
        from nodulens.presentation.figures import to_png, to_svg
        from nodulens.presentation.page import write_evaluation
        from nodulens.presentation.tables import froc_picture

        provenance = Provenance(
            command=typed_command(),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            seeds={"bootstrap": seed} if bootstrap else {},
            inputs=hashed(*files.files),
            software=software(),
        )
        curve = froc_picture(found.result, found.interval)
        pictures = {"froc.png": to_png(curve), "froc.svg": to_svg(curve).encode()}
        write_evaluation(found.evaluation(provenance), output, pictures)
    if as_json:
        print_json(found.to_json())
        return
    _print_tables(found.tables(), (), output)


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
    from nodulens.apps.show import print_tables
    from nodulens.evaluate.boxes import evaluate_boxes

    found = evaluate_boxes(truth, predictions, score)
    if as_json:
        print_json(found.to_json())
        return
    print(found.summary())
    print_tables((found.table(),))


@app.command()
def prompts(
    folder: Annotated[
        Path | None, typer.Option("--data", help="Folder with ct/ and lidc/xml/, and lidc/ stacks for SAM.")
    ] = None,
    scans: Annotated[
        Path | None,
        typer.Option(help="In place of --data: a cohort of whole scans, a folder such as LUNA16's, or a CSV."),
    ] = None,
    truth: Annotated[
        Literal["lidc", "luna16", "masks"] | None,
        typer.Option(help="Outlines of the cohort; luna16: its annotations, outlined by LIDC's readers."),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(help="Folder of LUNA16's tables and of LIDC's XML, if not that of the scans."),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="SAM's weights: a folder, or a hub name that is on this machine. Default: our own."),
    ] = None,
    kind: Annotated[
        Literal["sam2", "sam"] | None,
        typer.Option(help="Refuse another kind of checkpoint; default: what its files say. MedSAM is a sam."),
    ] = None,
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
    from nodulens.core.private import check_folder
    from nodulens.errors import BadOption, training_installed
    from nodulens.presentation.page import write_evaluation

    if output is not None:
        check_folder(output)
    if checkpoint is None and kind is not None:
        raise BadOption("--kind is of a checkpoint: add --checkpoint FOLDER_OR_HUB_NAME, or leave it out.")
    if (folder is None) is (scans is None) or (scans is None) is not (truth is None) or (annotations and not scans):
        raise BadOption("Name the material, --data DIR; or a cohort, --scans DIR --truth lidc|luna16|masks.")
    if scans is not None and most is not None:
        raise BadOption("--most is of the stacks in --data; a cohort has none.")
    with training_installed():
        from nodulens.evaluate.prompt_comparison import Checkpoint, compare, material_of_cohort, material_of_data
    if scans is not None and truth is not None:
        material = material_of_cohort(scans, truth, annotations)
    else:
        assert folder is not None, "one of the two is given"
        material = material_of_data(folder, most)
    sam = None if checkpoint is None else Checkpoint(checkpoint, kind)
    found = compare(material, sam, lambda line: typer.echo(line, err=True), threads)
    text = json.dumps(found.to_json(typed_command()), indent=1)
    if output is not None:
        rows = {"prompts.json": f"{text}\n".encode(), **found.pictures()}
        write_evaluation(found.evaluation(typed_command()), output, rows)
    if as_json:
        print(text)
        return
    _print_tables(found.tables(), found.notes, output)


@app.command()
def outlines(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, such as one of sam2-densenet.")],
    folder: Annotated[Path, typer.Option("--data", help="Folder with the stacks of LIDC, lidc/.")],
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(help="SAM's weights: a folder, or a hub name that is on this machine. Repeatable."),
    ] = None,
    prompted: Annotated[
        Path | None,
        typer.Option(
            help="Folder of our prompted network trained without the test patients: python -m nodulens.train segmenter "
            "--fold."
        ),
    ] = None,
    first_stage: Annotated[
        list[Path] | None,
        typer.Option(help="Run whose network of whole slices outlines without a prompt: C's, YOLO's. Repeatable."),
    ] = None,
    split: Annotated[Path | None, typer.Option(help="Split whose test patients to use, in place of the run's.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the page, its JSON, and outlines.json.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")] = None,
    as_json: AsJson = False,
) -> None:
    """Grade the same nodules by outlines of the readers, of SAM, of our network, and of networks of whole slices."""
    from nodulens.apps.bars import bars
    from nodulens.core.private import check_folder
    from nodulens.errors import training_installed
    from nodulens.evaluate.options import EvaluateOptions
    from nodulens.presentation.page import write_evaluation

    if output is not None:
        check_folder(output)
    with training_installed():
        from nodulens.evaluate.outlines import evaluate_outlines
    with bars() as show:
        options = EvaluateOptions(split, prompted, threads, show)
        found = evaluate_outlines(run, folder, checkpoint or (), first_stage or (), options)
    if output is not None:
        text = json.dumps(found.to_json(), indent=1)
        write_evaluation(found.evaluation(typed_command()), output, {"outlines.json": f"{text}\n".encode()})
    if as_json:
        print_json(found.to_json())
        return
    _print_tables(found.tables(), found.notes, output)


@app.command()
def masks(
    truth: Annotated[
        Path | None, typer.Option(help="File of the truth: DICOM SEG, RTSTRUCT or SR, MetaImage, NIfTI or NRRD.")
    ] = None,
    predictions: Annotated[Path | None, typer.Option(help="File of the predictions, likewise.")] = None,
    scan: Annotated[
        Path | None, typer.Option(help="CT on whose grid they are compared; default: the truth's own grid.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="In place of these: a CSV with a row a scan: truth, predictions; scan, name, patient."),
    ] = None,
    truth_roi: Annotated[
        list[str] | None,
        typer.Option(help="Name or number of a region of the truth that counts; default: all nodules. Repeatable."),
    ] = None,
    predictions_roi: Annotated[list[str] | None, typer.Option(help="The same of the predictions. Repeatable.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the page, its JSON, and masks.json.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare masks nodule by nodule: Dice, HD95, errors of volume and diameter, matched by overlap."""
    from nodulens.apps.bars import bars
    from nodulens.core.private import check_folder
    from nodulens.errors import BadOption
    from nodulens.evaluate.masks import MaskFiles, MaskOptions, evaluate_masks, listed_files
    from nodulens.presentation.page import write_evaluation

    if output is not None:
        check_folder(output)
    if table is not None:
        if truth or predictions or scan:
            raise BadOption("--table names truth, predictions and scan in its rows; leave these options out.")
        files: Sequence[MaskFiles] = listed_files(table)
    else:
        if truth is None or predictions is None:
            raise BadOption("Name --truth FILE and --predictions FILE, or --table CSV with a row for each scan.")
        files = [MaskFiles("1", "", truth, predictions, scan)]
    with bars() as show:
        options = MaskOptions(tuple(truth_roi or ()), tuple(predictions_roi or ()), show)
        found = evaluate_masks(files, options)
    if output is not None:
        text = json.dumps(found.to_json(), indent=1)
        write_evaluation(found.evaluation(typed_command()), output, {"masks.json": f"{text}\n".encode()})
    if as_json:
        print_json(found.to_json())
        return
    _print_tables(found.tables(), found.notes, output)


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
    print(printable(str(output)))
