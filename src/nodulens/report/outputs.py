"""The folder of outputs of an analysis, written atomically.

A run claims its folder before the work (:func:`claimed`): conflicts are found then, and no other run takes the folder
meanwhile. Everything is written to a hidden private folder first. A new output folder is that folder renamed; into an
existing one the finished files are moved after those of the previous run were removed, ``report.json`` last. So
whenever a run is killed, every file is complete, files of two runs are never mixed, and if there is a ``report.json``
the set is complete. DICOM objects are a folder among the files, which is moved as one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nodulens.core.nodule import Nodule
from nodulens.core.private import PARTIAL, claimed_beside, claimed_folder, folders_made, nearest, remove_empty, sweep
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadGeometry, BadOption, CannotWrite, input_errors
from nodulens.io import write_mask
from nodulens.io.atomic import write_whole
from nodulens.report.csv import to_csv
from nodulens.report.json import to_json
from nodulens.report.page import render_page
from nodulens.report.record import Report

FILES = ("nodules.nii.gz", "lungs.nii.gz", "nodules.csv", "report.html", "report.json")
"""The files of an output folder, in the order of writing."""
PANELS = "panels.png"
"""A picture of a prompted nodule, where it was asked for."""
_SET = (PANELS, *FILES)
"""The files that a run writes or replaces; the report is last, and without it the set is not complete."""
DICOM = "dicom"
"""The folder of DICOM objects in an output folder, which only scans read from DICOM have."""

_MOVING = ".nodulens.moving"
_MADE, _BEFORE = "made", "before"
_OURS = re.compile(rb'\s*\{\s*"schema"\s*:\s*"nodulens-report/')
_OBJECT = re.compile(r"(seg|sr|rtstruct|sc-\d{3,})\.dcm")
"""Name of a DICOM object as :mod:`nodulens.dicom_objects.write` writes it."""


@dataclass(frozen=True)
class Claim:
    """An output folder that only this run may write, see :func:`claimed`.

    Attributes:
        target: the folder, absolute; a new one does not exist yet.
        staging: a private folder on the same file system.
    """

    target: Path
    staging: Path


@contextmanager
def claimed(folder: str | Path, source: str | Path | None = None, *, dicom: bool = False) -> Iterator[Claim]:
    """Claim a folder for the outputs of one run, before the work.

    Args:
        folder: created with its parents. In an existing one, the files of an earlier run are replaced and all others
            are not changed.
        source: the scan: outputs must neither be inside it nor replace it.
        dicom: DICOM objects may be among the outputs.

    Raises:
        BadOption: the folder is a file, a dangling link, or part of the scan; or it has a file with the name of an
            output that is not from a run.
        CannotWrite: the folder is not writable, its name is too long, or another run has claimed it.
    """
    target = Path(folder).absolute()
    _check_place(target, None if source is None else Path(source))
    made = folders_made(target if target.exists() else target.parent)
    try:
        with _held(target) as staging:
            _check_held(target, None if source is None else Path(source), dicom)
            yield Claim(target, staging)
    finally:
        remove_empty(made)


def write_outputs(report: Report, ct: Volume, folder: str | Path) -> Path:
    """Write ``report.json``, ``nodules.csv``, ``report.html``, ``lungs.nii.gz`` and ``nodules.nii.gz``.

    Args:
        report: of an analysis, with masks.
        ct: the volume as read, the one that was analysed.
        folder: as for :func:`claimed`.

    Returns:
        the folder, absolute.

    Raises:
        BadOption, CannotWrite: as :func:`claimed`; also where the disk is full.
        BadOption: the report has no masks.
        BadGeometry: the lung mask is not on the grid of ``ct``.
    """
    with claimed(folder) as claim:
        return write_into(claim, report, ct)


def write_into(
    claim: Claim,
    report: Report,
    ct: Volume,
    *,
    panels: bytes | None = None,
    objects: Callable[[Path], None] | None = None,
) -> Path:
    """:func:`write_outputs` into a folder that was claimed before the work.

    Args:
        claim: of the folder.
        report, ct: as there.
        panels: a picture, for ``panels.png``; None: there is none.
        objects: writes DICOM objects into a folder that it is given; None: there are none.
    """
    lungs, made = _lung_mask(report, ct), claim.staging / _MADE
    with input_errors(writing=claim.staging.parent):
        made.mkdir()
        if panels is not None:
            write_whole(made / PANELS, panels)
        # each is made when it is its turn: together they would take as much memory as the scan
        write_mask(nodule_mask(report.nodules, ct), made / "nodules.nii.gz", z_reversed=ct.source.z_reversed)
        write_mask(lungs, made / "lungs.nii.gz", z_reversed=ct.source.z_reversed)
        if objects is not None:
            (made / DICOM).mkdir()
            objects(made / DICOM)
        write_whole(made / "nodules.csv", to_csv(report).encode())
        write_whole(made / "report.html", render_page(report, ct).encode())
        write_whole(made / "report.json", to_json(report).encode())
        if claim.staging.parent == claim.target:
            _move(claim)
        else:
            made.rename(claim.target)
    return claim.target


def nodule_mask(nodules: Sequence[Nodule], ct: Volume) -> Mask:
    """Label image of the findings on the grid of ``ct``: the value is the nodule's id.

    Where two overlap, the voxel has the id of the first.

    Raises:
        BadOption: a nodule without a mask, as in a report read from JSON.
    """
    labels = np.zeros(ct.geometry.shape, np.uint16 if max((n.id for n in nodules), default=0) > 255 else np.uint8)
    for nodule in reversed(nodules):
        if nodule.mask is None:
            raise BadOption(f"Nodule {nodule.id} has no mask: a report read from JSON cannot be written out.")
        labels[nodule.box.slices][nodule.mask] = nodule.id
    return Mask(labels, ct.geometry, {nodule.id: f"nodule {nodule.id}" for nodule in nodules})


def _lung_mask(report: Report, ct: Volume) -> Mask:
    if report.lung_mask is None:
        raise BadOption("The report has no lung mask: one read from JSON cannot be written out.")
    if report.lung_mask.geometry != ct.geometry:
        raise BadGeometry("The report's lung mask is on another grid than the scan; pass the scan it was made from.")
    return report.lung_mask


@contextmanager
def _held(target: Path) -> Iterator[Path]:
    """A private folder for the target: beside it if it is new, inside it if it exists."""
    for _ in range(2):
        fresh = not target.exists()
        if not fresh:
            sweep(target, PARTIAL)
        with claimed_beside(target) if fresh else claimed_folder(target / PARTIAL, target) as folder:
            if fresh is not target.exists():  # else another run has just created it
                yield folder
                return
    raise CannotWrite(f"{target} is created and removed by other runs. Choose another folder.")


def _check_place(target: Path, source: Path | None) -> None:
    """Refuse a target that cannot be a folder of outputs, or is inside the scan."""
    nearest(target)
    if source is not None and source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise BadOption(
            f"{target} is inside the folder of the scan, {source}: outputs would be read with it. Name another folder."
        )


def _check_held(target: Path, source: Path | None, dicom: bool) -> None:
    """Refuse files with the name of an output that are none, in a folder that only this run may write."""
    held = [target / name for name in _SET if os.path.lexists(target / name)]
    if source is not None and any(path.exists() and source.exists() and path.samefile(source) for path in held):
        raise BadOption(f"{source} has the name of an output and would be replaced; name another folder.")
    interrupted = (target / _MOVING).exists()
    foreign = [path.name for path in held if path.is_dir() and not path.is_symlink()]
    if held and not foreign and not interrupted and not _is_report(target / "report.json"):
        foreign = [path.name for path in held]
    if dicom and os.path.lexists(target / DICOM) and not _are_objects(target / DICOM):
        foreign.append(DICOM)
    if foreign:
        raise BadOption(
            f"{target} holds {', '.join(foreign)}, not written by nodulens, which would be replaced. Move it away, or "
            "name another folder."
        )
    if interrupted:
        if not os.path.lexists(target / "report.json"):
            for path in [*held, *_objects_in(target)]:  # left by a run that was killed
                _remove(path)
        (target / _MOVING).unlink()


def _objects_in(target: Path) -> list[Path]:
    """The folder of DICOM objects of an earlier run, if there is one."""
    return [target / DICOM] if _are_objects(target / DICOM) else []


def _are_objects(path: Path) -> bool:
    """Whether something is a folder that holds nothing but DICOM objects, by their names."""
    if not path.is_dir() or path.is_symlink():
        return False
    return all(_OBJECT.fullmatch(one.name) and one.is_file() for one in path.iterdir())


def _remove(path: Path) -> None:
    """Remove a file, or the folder of objects."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _is_report(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return bool(_OURS.match(file.read(200)))


def _move(claim: Claim) -> None:
    """Move finished files into an existing folder: the old set is removed first, and restored on failure."""
    made, before = claim.staging / _MADE, claim.staging / _BEFORE
    before.mkdir()
    with_objects = (made / DICOM).exists() or bool(_objects_in(claim.target))
    names = (DICOM, *_SET) if with_objects else _SET
    (claim.target / _MOVING).touch()
    try:
        for name in reversed(names):
            with suppress(FileNotFoundError):
                os.replace(claim.target / name, before / name)
        for name in names:
            if name in FILES or os.path.lexists(made / name):
                os.replace(made / name, claim.target / name)
    except BaseException:
        for name in names:
            if os.path.lexists(before / name):
                os.replace(before / name, claim.target / name)
            elif not os.path.lexists(made / name) and os.path.lexists(claim.target / name):
                _remove(claim.target / name)
        raise
    finally:
        (claim.target / _MOVING).unlink()
