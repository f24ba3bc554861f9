"""The folder that an analysis leaves behind: all of it, or nothing.

A run claims its folder before the work (:func:`claimed`): what is in its way is known then, and no other run takes the
folder meanwhile. Everything is made in a hidden private folder first. A new output folder is that folder under its
final name; into one that exists the finished files are moved after those of the run before are gone, and
``report.json`` last. So whatever is killed when: every file found under its name is whole, files of two runs never lie
side by side, and where there is a ``report.json`` the set is complete.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nodulens.core.nodule import Nodule
from nodulens.core.private import HELD, folders_made, held_beside, held_folder, nearest, remove_empty, sweep
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadGeometry, BadOption, CannotWrite, input_errors
from nodulens.io import write_mask
from nodulens.io.atomic import write_whole
from nodulens.report.csv import to_csv
from nodulens.report.json import to_json
from nodulens.report.page import render_page
from nodulens.report.record import Report

FILES = ("nodules.nii.gz", "lungs.nii.gz", "nodules.csv", "report.html", "report.json")
"""What a folder of outputs holds, in the order of its making."""


_MOVING = ".nodulens.moving"
_MADE, _BEFORE = "made", "before"
_OURS = re.compile(rb'\s*\{\s*"schema"\s*:\s*"nodulens-report/')


@dataclass(frozen=True)
class Claim:
    """An output folder that this run alone may write, see :func:`claimed`.

    Attributes:
        target: the folder, absolute; not there yet where it is new.
        staging: a private folder on the same file system.
    """

    target: Path
    staging: Path


@contextmanager
def claimed(folder: str | Path, source: str | Path | None = None) -> Iterator[Claim]:
    """Claim a folder for the outputs of one run, before the work.

    Args:
        folder: made with its parents where it is not there. In one that is, the files of an earlier run
            are replaced and all others left alone.
        source: the scan that is read: the outputs must neither lie in it nor take its place.

    Raises:
        BadOption: the folder is a file, a link to nothing, or part of the scan; or a file that no run has left there
            bears the name of an output.
        CannotWrite: the folder cannot be written to, its name is too long, or another run holds it.
    """
    target = Path(folder).absolute()
    _check_place(target, None if source is None else Path(source))
    made = folders_made(target if target.exists() else target.parent)
    try:
        with _held(target) as staging:
            _check_held(target, None if source is None else Path(source))
            yield Claim(target, staging)
    finally:
        remove_empty(made)


def write_outputs(report: Report, ct: Volume, folder: str | Path) -> Path:
    """Write ``report.json``, ``nodules.csv``, ``report.html``, ``lungs.nii.gz`` and ``nodules.nii.gz``.

    Args:
        report: as an analysis returns it, with masks.
        ct: the volume as read, the one that was analysed.
        folder: as for :func:`claimed`.

    Returns:
        the folder, absolute.

    Raises:
        BadOption, CannotWrite: as :func:`claimed`; also where the disk is full.
        BadOption: the report holds no masks.
        BadGeometry: the lung mask does not lie on the grid of ``ct``.
    """
    with claimed(folder) as claim:
        return write_into(claim, report, ct)


def write_into(claim: Claim, report: Report, ct: Volume) -> Path:
    """As :func:`write_outputs`, into a folder that was claimed before the work."""
    masks = {"nodules.nii.gz": nodule_mask(report.nodules, ct), "lungs.nii.gz": _lung_mask(report, ct)}
    texts = {"nodules.csv": to_csv(report), "report.html": render_page(report, ct), "report.json": to_json(report)}
    made = claim.staging / _MADE
    with input_errors(writing=claim.staging.parent):
        made.mkdir()
        for name in FILES:
            if name in masks:
                write_mask(masks[name], made / name, z_reversed=ct.source.z_reversed)
            else:
                write_whole(made / name, texts[name].encode())
        if claim.staging.parent == claim.target:
            _move(claim)
        else:
            made.rename(claim.target)
    return claim.target


def nodule_mask(nodules: Sequence[Nodule], ct: Volume) -> Mask:
    """Label image of the findings on the grid of ``ct``: the value is the nodule's id.

    Where two overlap, the voxel belongs to the one that comes first.

    Raises:
        BadOption: a nodule without a mask, as in a report read back from JSON.
    """
    labels = np.zeros(ct.geometry.shape, np.uint16 if max((n.id for n in nodules), default=0) > 255 else np.uint8)
    for nodule in reversed(nodules):
        if nodule.mask is None:
            raise BadOption(f"Nodule {nodule.id} has no mask: a report read back from JSON cannot be written out.")
        labels[nodule.box.slices][nodule.mask] = nodule.id
    return Mask(labels, ct.geometry, {nodule.id: f"nodule {nodule.id}" for nodule in nodules})


def _lung_mask(report: Report, ct: Volume) -> Mask:
    if report.lung_mask is None:
        raise BadOption("The report has no lung mask: one read back from JSON cannot be written out.")
    if report.lung_mask.geometry != ct.geometry:
        raise BadGeometry("The report's lung mask lies on another grid than the scan; pass the scan it was made from.")
    return report.lung_mask


@contextmanager
def _held(target: Path) -> Iterator[Path]:
    """A private folder that stands for the target: beside it where it is new, in it where it exists."""
    for _ in range(2):
        fresh = not target.exists()
        if not fresh:
            sweep(target, HELD)
        with held_beside(target) if fresh else held_folder(target / HELD, target) as folder:
            if fresh is not target.exists():  # else another run has made it just now
                yield folder
                return
    raise CannotWrite(f"{target} comes and goes: other runs are at work with it. Choose another place.")


def _check_place(target: Path, source: Path | None) -> None:
    """Refuse a target that cannot be a folder of outputs, or lies in the scan."""
    nearest(target)
    if source is not None and source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise BadOption(
            f"{target} lies in the folder of the scan, {source}: outputs would be read as its part. Name another one."
        )


def _check_held(target: Path, source: Path | None) -> None:
    """Refuse what bears the name of an output and is none, in a folder that this run alone may write."""
    held = [target / name for name in FILES if os.path.lexists(target / name)]
    if source is not None and any(path.exists() and source.exists() and path.samefile(source) for path in held):
        raise BadOption(f"{source} bears the name of an output and would be replaced; name another folder.")
    interrupted = (target / _MOVING).exists()
    foreign = [path.name for path in held if path.is_dir() and not path.is_symlink()]
    if held and not foreign and not interrupted and not _is_report(target / "report.json"):
        foreign = [path.name for path in held]
    if foreign:
        raise BadOption(
            f"{target} holds {', '.join(foreign)}, which no run of nodulens has left there, and would replace it. "
            "Move it away, or name another folder."
        )
    if interrupted:
        if not os.path.lexists(target / "report.json"):
            for path in held:  # a part of what a killed run was about to leave
                path.unlink()
        (target / _MOVING).unlink()


def _is_report(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return bool(_OURS.match(file.read(200)))


def _move(claim: Claim) -> None:
    """Finished files into a folder that exists: the old set goes before the new one comes, or comes back."""
    made, before = claim.staging / _MADE, claim.staging / _BEFORE
    before.mkdir()
    (claim.target / _MOVING).touch()
    try:
        for name in reversed(FILES):
            with suppress(FileNotFoundError):
                os.replace(claim.target / name, before / name)
        for name in FILES:
            os.replace(made / name, claim.target / name)
    except BaseException:
        for name in FILES:
            if os.path.lexists(before / name):
                os.replace(before / name, claim.target / name)
            elif not os.path.lexists(made / name):
                (claim.target / name).unlink()
        raise
    finally:
        (claim.target / _MOVING).unlink()
