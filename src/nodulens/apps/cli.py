"""The command line: it parses, calls and shows."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from nodulens import __version__
from nodulens.apps import data, evaluate, nnunet, yolo
from nodulens.apps.answers import answering
from nodulens.apps.bars import Bars, bars
from nodulens.apps.external import Settings, tell, trained_into
from nodulens.apps.faults import errors_reported
from nodulens.apps.show import plain, print_json
from nodulens.apps.train import Start, check_every_fold, run_training
from nodulens.clinical.facts import (
    Airway,
    Answers,
    Comparison,
    Cyst,
    CystChange,
    Kind,
    NoduleFacts,
    Previous,
    SolidPart,
)
from nodulens.core.text import printable, printable_message
from nodulens.errors import BadOption

if TYPE_CHECKING:
    from nodulens.apps.objects import Wanted
    from nodulens.core.volume import Volume
    from nodulens.methods.method import Method
    from nodulens.report.outputs import Claim
    from nodulens.report.record import Report

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Lung nodules in chest CT: found, outlined, measured, graded, explained. For research; not a medical device.",
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"nodulens {__version__}")
        raise typer.Exit


@app.callback()
def before_every_command(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself, which act before a command is looked for."""


app.add_typer(data.app, name="data")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(nnunet.app, name="nnunet")
app.add_typer(yolo.app, name="yolo")

Scan = Annotated[
    Path, typer.Argument(metavar="CT", help="Folder of DICOM slices, or a DICOM, zip, MetaImage, NIfTI or NRRD file.")
]
Out = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for report.html, report.json, nodules.csv, masks, DICOM objects.")
]
Series = Annotated[str | None, typer.Option(help="Series UID, or its beginning or end, where there are several.")]
Gaps = Annotated[Literal["error", "interpolate"], typer.Option(help="What to do about missing slices.")]
Case = Annotated[str | None, typer.Option(help="Pseudonym to put into every row.")]
Identify = Annotated[bool, typer.Option("--identify", help="Put the patient's name, id and birth date in the report.")]
Objects = Annotated[
    str,
    typer.Option(
        "--dicom",
        metavar="KINDS",
        help="DICOM objects to write of a DICOM scan, with the patient's identity: of seg, sr, sc, rtstruct.",
    ),
]
NoObjects = Annotated[bool, typer.Option("--no-dicom", help="Write no DICOM objects.")]
Deidentified = Annotated[
    bool, typer.Option("--deidentified", help="Write the DICOM objects for the pseudonym of --case instead.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
InUse = Annotated[
    list[str] | None, typer.Option("--set", help="Change how the recipe is used: threshold=0.3. Repeatable.")
]
Language = Annotated[
    str | None, typer.Option(help="Language of the text: en, de, fr; default: the one that has all its words.")
]
WordFiles = Annotated[
    list[Path] | None, typer.Option("--words", help="TOML file of words of your own, see docs/prompts.md. Repeatable.")
]
AnyRecipe = Annotated[str, typer.Option(help="A recipe, see nodulens recipes, or the folder of a run.")]
Checkpoint = Annotated[
    str | None,
    typer.Option(help="Outline by SAM, SAM2 or MedSAM: a folder with weights, or a hub name that is on this machine."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")]


def main() -> None:
    """Run the command line; errors are reported by :mod:`nodulens.apps.faults`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console without "×" shows its number rather than failing
            stream.reconfigure(errors="backslashreplace")
    with errors_reported():
        app()


@app.command()
@answering
def analyze(
    ct: Scan,
    output: Out,
    answers: Answers,
    series: Series = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Least detection confidence of a finding; lower finds more, true and false."),
    ] = None,
    gaps: Gaps = "error",
    case: Case = None,
    identify: Identify = False,
    objects: Objects = "seg,sr,sc",
    no_objects: NoObjects = False,
    deidentified: Deidentified = False,
    as_json: AsJson = False,
    recipe: AnyRecipe = "default",
    checkpoint: Checkpoint = None,
    settings: InUse = None,
    threads: Threads = None,
) -> None:
    """Find, outline, measure and grade the nodules of a chest CT."""
    from nodulens.apps.objects import typed_objects
    from nodulens.methods.load import load_method
    from nodulens.pipeline import analyze as run
    from nodulens.report.guidelines import categorise
    from nodulens.report.outputs import claimed

    _check_case(case)
    wanted = typed_objects(objects, no_objects, deidentified, case)
    with claimed(output, ct, dicom=bool(wanted.kinds)) as claim, bars() as show:
        load = partial(load_method, recipe, threads=threads, settings=settings or (), checkpoint=checkpoint)
        scan, read_s, method = _read_and_load(ct, series, gaps, load, show)
        if threshold is not None:
            method = replace(method, recipe=replace(method.recipe, threshold=threshold))
        report = run(scan, method=method, progress=show)
        report = replace(_with_reading(report, read_s), case=case, patient=scan.source.patient if identify else None)
        report = categorise(report, answers)
        folder = _write(report, scan, claim, wanted, show)
    _print_summary(report, folder, as_json)


@app.command()
@answering
def segment(
    ct: Scan,
    output: Out,
    answers: Answers,
    point: Annotated[str | None, typer.Option(help="x,y,z of a point in the nodule.")] = None,
    box: Annotated[
        str | None, typer.Option(help="x0,y0,z0,x1,y1,z1 of two corners; z0 = z1 for a box on one slice.")
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="File with a rough mask of the nodule: DICOM SEG, RTSTRUCT or SR, MetaImage, NIfTI or NRRD."),
    ] = None,
    roi: Annotated[
        str | None, typer.Option(help="Name or number of the segment, ROI, group or label of --mask that is meant.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Text query that one finding fits: 'largest nodule in the left lung'.")
    ] = None,
    space: Annotated[
        Literal["lps", "voxel"],
        typer.Option(help="lps: millimetres; voxel: indices x, y, z from 0 in the stored array."),
    ] = "lps",
    include: Annotated[
        list[str] | None, typer.Option(help="x,y,z that the outline must contain; corrects it. Repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="x,y,z that the outline must not contain. Repeatable.")
    ] = None,
    series: Series = None,
    gaps: Gaps = "error",
    case: Case = None,
    identify: Identify = False,
    objects: Objects = "seg,sr,sc",
    no_objects: NoObjects = False,
    deidentified: Deidentified = False,
    as_json: AsJson = False,
    recipe: AnyRecipe = "default",
    checkpoint: Checkpoint = None,
    settings: InUse = None,
    language: Language = None,
    words: WordFiles = None,
    panels: Annotated[
        bool, typer.Option("--panels", help="Write panels.png too: input with the prompt, truth if known, result.")
    ] = False,
    truth: Annotated[
        Path | None,
        typer.Option(help="Known outline for --panels: a file as for --mask, or the XML of LIDC's readers."),
    ] = None,
    threads: Threads = None,
) -> None:
    """Outline, measure and grade the one nodule that a point, box, mask or text means."""
    from nodulens.apps.objects import typed_objects
    from nodulens.apps.panels import check_drawable, known_truth, panels_png
    from nodulens.apps.prompts import segmenter_of, typed_prompt, typed_region
    from nodulens.methods.load import load_method
    from nodulens.report.guidelines import categorise
    from nodulens.report.outputs import claimed

    prompt = typed_prompt(point, box, typed_region(mask, roi), space, include or (), exclude or (), text)
    run = segmenter_of(prompt, language, words or ())
    _check_case(case)
    if truth is not None and not panels:
        raise BadOption("--truth is shown beside the result: add --panels.")
    if panels:
        check_drawable()
    truth_on = None if truth is None else known_truth(truth)
    wanted = typed_objects(objects, no_objects, deidentified, case)
    with claimed(output, ct, dicom=bool(wanted.kinds)) as claim, bars() as show:
        load = partial(load_method, recipe, threads=threads, settings=settings or (), checkpoint=checkpoint)
        scan, read_s, method = _read_and_load(ct, series, gaps, load, show)
        known = None if truth_on is None else truth_on(scan)
        report = run(scan, method=method, progress=show)
        report = replace(_with_reading(report, read_s), case=case, patient=scan.source.patient if identify else None)
        report = categorise(report, answers)
        picture = panels_png(report, scan, known, prompt) if panels else None
        folder = _write(report, scan, claim, wanted, show, panels=picture)
    _print_summary(report, folder, as_json)


@app.command()
def send(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="DICOM file, folder or zip: dicom/ of an analysis, a CT, …")
    ],
    host: Annotated[str | None, typer.Argument(metavar="HOST", help="Of a DICOM node, for C-STORE.")] = None,
    port: Annotated[int | None, typer.Argument(metavar="PORT", help="Of that node.")] = None,
    called: Annotated[str, typer.Option(help="AE title of the node.")] = "ANY-SCP",
    calling: Annotated[str, typer.Option("--aet", help="Our AE title.")] = "NODULENS",
    tls: Annotated[bool, typer.Option("--tls", help="By TLS; SSL_CERT_FILE names other authorities to trust.")] = False,
    stow: Annotated[
        str | None, typer.Option(metavar="URL", help="Of a DICOMweb service, for STOW-RS, in place of HOST and PORT.")
    ] = None,
) -> None:
    """Send DICOM files to an archive, as they are: with the patient's identity if they have it."""
    from nodulens.apps.send import send as run
    from nodulens.apps.send import sending

    if not run(path, sending(host, port, (called, calling), tls, stow)):
        sys.exit(1)


@app.command()
@answering
def compare(
    scans: Annotated[
        list[Path],
        typer.Argument(
            metavar="PRIOR CURRENT [MORE]", help="Scans of one patient, or folders that analyze left (with --scan)."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for comparison.html, comparison.json, changes.csv, dicom/sr.dcm."),
    ],
    answers: Answers,
    voxels: Annotated[
        list[Path] | None,
        typer.Option("--scan", help="Scan of a folder that analyze left: which one is found out. Repeatable."),
    ] = None,
    interval_days: Annotated[
        list[float] | None,
        typer.Option(help="Days to the next scan, where the studies have no dates. Repeatable, one a step."),
    ] = None,
    same_patient: Annotated[
        bool, typer.Option("--same-patient", help="They are one patient, although their headers differ.")
    ] = False,
    series: Annotated[
        list[str] | None, typer.Option(help="Series UID of each scan, in their order, where there are several.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least detection confidence of a finding of the search.")
    ] = None,
    gaps: Gaps = "error",
    case: Case = None,
    identify: Annotated[
        bool, typer.Option("--identify", help="Put the patient's name, id, birth date and the dates in the result.")
    ] = False,
    no_objects: Annotated[bool, typer.Option("--no-dicom", help="Write no structured report.")] = False,
    deidentified: Annotated[
        bool, typer.Option("--deidentified", help="Write the structured report for the pseudonym of --case instead.")
    ] = False,
    as_json: AsJson = False,
    recipe: AnyRecipe = "default",
    settings: InUse = None,
    threads: Threads = None,
) -> None:
    """Compare chest CTs of one patient: what is new, gone, grown or unchanged."""
    from nodulens.apps.compare import Typed
    from nodulens.apps.compare import compare as run
    from nodulens.methods.load import load_method

    _check_case(case)
    typed = Typed(
        tuple(scans), output, answers, tuple(voxels or ()), tuple(series or ()), tuple(interval_days or ()),
        same_patient, gaps, case, identify, not no_objects, deidentified, threshold,
    )  # fmt: skip
    run(typed, partial(load_method, recipe, threads=threads, settings=settings or ()), as_json)


@app.command()
def ask(
    report: Annotated[
        Path, typer.Argument(metavar="REPORT", help="report.json or comparison.json, or the folder of one.")
    ],
    text: Annotated[str, typer.Argument(help="Such as 'largest nodule in the right upper lobe'.")],
    as_json: AsJson = False,
    language: Language = None,
    words: WordFiles = None,
) -> None:
    """Say which nodules of a report, or of a comparison, a text means."""
    from nodulens.apps.ask import ask as answer
    from nodulens.query import load_lexicons

    answer(report, text, load_lexicons(language, words or ()), as_json)


@app.command()
@answering
def guideline(
    answers: Answers,
    kind: Annotated[Kind, typer.Option(help="By density, or an airway nodule or atypical cyst.")],
    diameter: Annotated[float | None, typer.Option(help="Mean of long and short axis, mm.")] = None,
    long_axis: Annotated[
        float | None, typer.Option(help="Longest diameter, mm: what BTS, Brock, Mayo and Herder take.")
    ] = None,
    short_axis: Annotated[float | None, typer.Option(help="Longest at right angles to it, mm.")] = None,
    solid: Annotated[float | None, typer.Option(help="Mean diameter of the solid part, mm.")] = None,
    volume: Annotated[float | None, typer.Option(help="Volume, mm³, where volumetry can be relied on.")] = None,
    comparison: Annotated[Comparison | None, typer.Option(help="With prior CT; stable is stable or smaller.")] = None,
    solid_part: Annotated[SolidPart | None, typer.Option(help="The solid part compared with prior CT.")] = None,
    previous_category: Annotated[Previous | None, typer.Option(help="Lung-RADS category at the prior CT.")] = None,
    previous_diameter: Annotated[float | None, typer.Option(help="Mean diameter at the prior CT, mm.")] = None,
    previous_long_axis: Annotated[float | None, typer.Option(help="Longest diameter at the first CT, mm.")] = None,
    volume_change: Annotated[
        float | None, typer.Option(help="Share since the first CT; 0.25 is a quarter more.")
    ] = None,
    months: Annotated[float | None, typer.Option(help="Since the prior CT; for BTS since the first.")] = None,
    upper_lobe: Annotated[bool | None, typer.Option(help="In an upper lobe.")] = None,
    juxtapleural: Annotated[
        bool | None,
        typer.Option(help="Smooth, oval, lentiform or triangular, at the pleura or a fissure."),
    ] = None,
    benign: Annotated[bool | None, typer.Option(help="Typical benign calcification, or fat.")] = None,
    suspicious: Annotated[bool | None, typer.Option(help="More features of lung cancer, for Lung-RADS 4X.")] = None,
    proven_benign: Annotated[bool | None, typer.Option(help="Proven benign by a work-up.")] = None,
    airway: Annotated[
        Airway | None, typer.Option(help="Level of an airway nodule; segmental or more proximal.")
    ] = None,
    cyst: Annotated[Cyst | None, typer.Option(help="Kind of cyst, at the prior CT if there is one.")] = None,
    cyst_change: Annotated[CystChange | None, typer.Option(help="What changed since the prior CT.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what the clinical guidelines recommend for a nodule that is typed in."""
    from nodulens.apps.guideline import guideline as answer

    if diameter is None and long_axis is not None and short_axis is not None:
        diameter = (long_axis + short_axis) / 2
    nodule = NoduleFacts(
        kind, mean_diameter_mm=diameter, long_axis_mm=long_axis, short_axis_mm=short_axis, volume_mm3=volume,
        solid_mm=solid, comparison=comparison, solid_part=solid_part, previous_category=previous_category,
        previous_mm=previous_diameter, previous_long_axis_mm=previous_long_axis, volume_change=volume_change,
        months=months, upper_lobe=upper_lobe, juxtapleural=juxtapleural, benign=benign, suspicious=suspicious,
        proven_benign=proven_benign, airway=airway, cyst=cyst, cyst_change=cyst_change,
    )  # fmt: skip
    answer(nodule, answers, as_json)


@app.command()
def info(path: Scan, as_json: AsJson = False) -> None:
    """List the series in a folder or file: slices, thickness, spacing, kernel, contrast, and what is wrong."""
    from nodulens.io import list_series

    found = list_series(path)
    if as_json:
        print_json([asdict(s) for s in found])
        return
    uid = Column("series", overflow="fold")
    table = Table("", uid, "modality", "slices", "thickness", "spacing z × y × x", "kernel", "contrast", "orientation")
    for s in found:
        spacing = " × ".join(f"{v:.2f}" for v in s.spacing_zyx) if s.spacing_zyx else "–"
        cells = (
            "→" if s.recommended else "",
            s.uid or s.format,
            s.modality,
            str(s.slices),
            f"{s.thickness_mm:g}" if s.thickness_mm else "–",
            spacing,
            s.kernel or "–",
            {True: "yes", False: "no", None: "–"}[s.contrast],
            s.orientation,
        )
        table.add_row(*map(plain, cells))
    console = Console(width=None if sys.stdout.isatty() else 240)
    console.print(table)
    for s in found:
        for problem in s.problems:
            console.print(Text(f"{printable(s.uid or s.format)}: {printable_message(problem)}"))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check the installation and the weights."""
    from nodulens.apps.doctor import examine

    found = examine()
    if as_json:
        print_json(found)
    else:
        for name, value in found["versions"].items():
            print(f"{name:28} {value}")
        print(f"{'engine':28} {found['engine']}")
        print(f"{'threads':28} {found['threads']}")
        for name, state in found["weights"].items():
            print(f"{'weights ' + name:28} {state}")
        for name, state in found["methods"].items():
            print(f"{name:28} {state}")
    if not found["well"]:
        sys.exit(1)


@app.command()
def phantom(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the DICOM slices; it must not hold files yet.")
    ],
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another chest.")] = 0,
    follow_up: Annotated[
        bool, typer.Option("--follow-up", help="The same chest a year later: nodules grown, new and gone.")
    ] = False,
) -> None:
    """Write a phantom chest CT with known nodules as DICOM."""
    from nodulens.data.phantom import write_follow_up_dicom, write_phantom_dicom

    (write_follow_up_dicom if follow_up else write_phantom_dicom)(output, seed=seed)
    print(printable(str(output)))


@app.command()
def train(
    folder: Annotated[
        Path,
        typer.Option(
            "--data", help="Folder of data prepare, or with lidc/, luna16/ and background/, or with images/ and masks/."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; an interrupted run resumes, to the same result.")
    ],
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="See nodulens recipes; not with --config or --extend.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="The run.json of a run, or YAML with options of this command, see docs/training.md."),
    ] = None,
    extend: Annotated[
        int | None, typer.Option(min=1, help="Let the finished run in -o go on for so many epochs.")
    ] = None,
    settings: Settings = None,
    split: Annotated[Path | None, typer.Option(help="Split by nodulens data split; default: five fixed folds.")] = None,
    fold: Annotated[
        int | None,
        typer.Option(min=0, help="The test fold; default: 1, or the test part of a split."),
    ] = None,
    each: Annotated[
        bool,
        typer.Option("--every-fold", help="A run for every fold, in fold0, fold1 … of the folder: cross-validation."),
    ] = False,
    everybody: Annotated[
        bool, typer.Option("--everybody", help="Train on all patients: for networks to apply, not to evaluate.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each network, in place of the recipe's.")] = None,
    threads: Threads = None,
    mlflow: Annotated[
        str | None, typer.Option(metavar="URI", help="MLflow server, such as http://127.0.0.1:5000, for the curves.")
    ] = None,
) -> None:
    """Train the networks of a recipe."""
    from nodulens.apps.typed import typed_command
    from nodulens.train.options import TrainOptions

    options = TrainOptions(split, fold, everybody, epochs, threads, mlflow, typed_command())
    start, made = Start(recipe, config, extend, tuple(settings or ())), {}
    trainings = start.trainings(output, options, each)
    if each:
        check_every_fold(start, folder, trainings)
    for place, own in trainings.items():
        with trained_into(place):
            made[place] = run_training(start, folder, place, own)
    from nodulens.train.loop.distributed import Ranks  # what trains is installed: it has trained

    ranks = Ranks.joined()
    if ranks.first:
        for place, one in made.items():
            tell(one, place)
    ranks.leave()


@app.command()
def recipes(as_json: AsJson = False) -> None:
    """List the methods: their networks, parameters, arithmetic for one input, and whether their weights are here."""
    from nodulens.apps.recipes import described
    from nodulens.methods.shipped import INSTALL

    found = described()
    if as_json:
        print_json(found)
        return
    numbers = (Column("parameters", justify="right", no_wrap=True), Column("GFLOP", justify="right", no_wrap=True))
    table = Table("recipe", "title", "networks", *numbers, "weights", show_lines=True)
    for recipe in found:
        lines = []
        for part in recipe["parts"]:
            for before, one in ((f"{part['does']}: ", part), ("  here: ", part["here"])):
                if one:
                    parameters = f"{one['parameters']:,}" if one["parameters"] else "–"
                    gflop = f"{one['gflop']:.3g}" if one["gflop"] else "–"
                    lines.append((before + one["network"], parameters, gflop))
        columns = ("\n".join(column) for column in zip(*lines, strict=True))
        weights = "here" if recipe["weights"] else "not installed" if recipe["released"] else "to be trained"
        table.add_row(*map(Text, (recipe["name"], recipe["title"], *columns, weights)))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    absent = {recipe["released"] for recipe in found if not recipe["weights"]}
    if True in absent:
        print(f"Weights that are not installed: {INSTALL}")
    if False in absent:
        print("Weights to be trained, as no release has them: nodulens train RECIPE")


@app.command()
def stream(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="Folder of PNG, JPEG or DICOM slices, a video, or a camera (number)."),
    ],
    recipe: Annotated[str, typer.Option(help="A recipe that outlines slices, or the folder of a run of one.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for a PNG a frame, or a film that ends in .mp4.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Look at one frame in so many.")] = 1,
    steps: Annotated[bool, typer.Option("--steps", help="Also write the classic steps of each frame.")] = False,
    masks: Annotated[bool, typer.Option("--masks", help="Also write white masks of the nodules.")] = False,
    fps: Annotated[bool, typer.Option("--fps", help="Write frames per second onto each frame.")] = False,
    window: Annotated[
        str, typer.Option(help="HU of black and white, of input pictures and for display of DICOM slices.")
    ] = "-1000,400",
    series: Series = None,
    identify: Annotated[
        bool, typer.Option("--identify", help="Name pictures as the slices are named, which may name the patient.")
    ] = False,
    settings: InUse = None,
    as_json: AsJson = False,
    threads: Threads = None,
) -> None:
    """Outline frame after frame of slices, a video or a camera; Ctrl-C ends it."""
    from nodulens import stream as streams
    from nodulens.apps.stream import pace, sentence, window_of
    from nodulens.data.frames import open_source

    frame_output = streams.FrameOutput(output, window_of(window), steps, masks, fps, identify)
    frame_output.check(Path(source))
    segmenter = streams.load_segmenter(recipe, settings or (), threads)
    frames = open_source(source, frame_output.window, series)
    with pace(frames.count and -(-frames.count // every)) as show:
        statistics = streams.stream(frames, segmenter, frame_output, every=every, show=show)
    found = streams.summary(statistics, segmenter, frame_output.window)
    print_json(found) if as_json else print(sentence(found))


def _check_case(case: str | None) -> None:
    if case is not None and printable(case) != case:
        raise BadOption(f"--case is text on one line, got {printable(case)!r}.")


def _read_and_load(
    ct: Path, series: str | None, gaps: Literal["error", "interpolate"], load: Callable[[], Method], show: Bars
) -> tuple[Volume, float, Method]:
    """The scan, the seconds that reading took, and the method, whose networks are loaded meanwhile."""
    from nodulens.io import read

    with ThreadPoolExecutor(1) as beside:
        loading, start = beside.submit(load), time.perf_counter()

        def progress(done: int, total: int) -> None:
            if loading.done():
                loading.result()  # a method that cannot be loaded is reported before a long scan has been read
            show("read", done / max(total, 1))

        scan = read(ct, series=series, gaps=gaps, progress=progress)
        show("read", 1.0)
        return scan, time.perf_counter() - start, loading.result()


def _write(
    report: Report, scan: Volume, claim: Claim, wanted: Wanted, show: Bars, *, panels: bytes | None = None
) -> Path:
    from nodulens.report.outputs import write_into

    show("report", 0.0)
    folder = write_into(claim, report, scan, panels=panels, objects=wanted.writer(report, scan))
    show("report", 1.0)
    return folder


def _with_reading(report: Report, seconds: float) -> Report:
    """The report with the time that reading took."""
    timing = {"read": seconds, **report.timing_s, "total": seconds + report.timing_s["total"]}
    return replace(report, timing_s=timing)


def _print_summary(report: Report, folder: Path, as_json: bool) -> None:
    from nodulens.report.guideline_words import said
    from nodulens.report.json import to_json

    if as_json:
        sys.stdout.buffer.write(to_json(report).encode())  # UTF-8 whatever the console's encoding
    else:
        print(printable(str(folder / "report.html")))
    for result in report.guidelines.examination if report.guidelines is not None else ():
        print(f"{result.guideline}: {said(result)}", file=sys.stderr)
