"""The folder that an analysis leaves behind: all of it, or nothing.

Everything is made in a hidden staging folder first. A new output folder is that folder under its final
name; into one that exists the finished files are moved after those of the run before are gone, and
``report.json`` last. So whatever is killed when: every file found under its name is whole, files of two
runs never lie side by side, and where there is a ``report.json`` the set is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nodulens.core.nodule import Nodule
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadGeometry, BadOption
from nodulens.io import write_mask
from nodulens.io.atomic import whole_file
from nodulens.report.csv import to_csv
from nodulens.report.json import to_json
from nodulens.report.page import render_page
from nodulens.report.record import Report

FILES = ("nodules.nii.gz", "lungs.nii.gz", "nodules.csv", "report.html", "report.json")
"""What a folder of outputs holds, in the order of its making."""


def write_outputs(report: Report, ct: Volume, folder: str | Path) -> Path:
    """Write ``report.json``, ``nodules.csv``, ``report.html``, ``lungs.nii.gz`` and ``nodules.nii.gz``.

    Args:
        report: as an analysis returns it, with masks.
        ct: the volume as read, the one that was analysed.
        folder: made with its parents where it is not there. In one that is, the files of an earlier run
            are replaced and all others left alone.

    Returns:
        the folder, absolute.

    Raises:
        BadOption: the folder is a file or cannot be written to, or the report holds no masks.
        BadGeometry: the lung mask does not lie on the grid of ``ct``.
    """
    target = Path(folder).absolute()
    if target.exists() and not target.is_dir():
        raise BadOption(f"{target} is a file; name a folder for the outputs, or remove it first.")
    masks = {"nodules.nii.gz": nodule_mask(report.nodules, ct), "lungs.nii.gz": _lung_mask(report, ct)}
    texts = {"nodules.csv": to_csv(report), "report.html": render_page(report, ct), "report.json": to_json(report)}
    fresh = not target.exists()
    prefix = f".{target.name}.partial-"
    home = target.parent if fresh else target
    try:
        home.mkdir(parents=True, exist_ok=True)
        _sweep(home, prefix)
        staging = home / f"{prefix}{os.getpid()}"
        staging.mkdir()
    except OSError as error:
        raise BadOption(f"Cannot write to {home}: {error.strerror}. Choose another folder for the outputs.") from error
    try:
        for name in FILES:
            if name in masks:
                write_mask(masks[name], staging / name, z_reversed=ct.source.z_reversed)
                continue
            with whole_file(staging / name) as part:
                part.write_bytes(texts[name].encode())
        if fresh:
            staging.rename(target)
        else:
            _move(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


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


def _move(staging: Path, target: Path) -> None:
    """Finished files into a folder that exists: the old set goes before the new one comes."""
    for name in reversed(FILES):
        (target / name).unlink(missing_ok=True)
    for name in FILES:
        os.replace(staging / name, target / name)


def _sweep(home: Path, prefix: str) -> None:
    """Remove what processes that are no more have left half-made."""
    for path in home.iterdir():
        number = path.name.removeprefix(prefix)
        if path.name.startswith(prefix) and number.isdigit() and not _runs(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def _runs(process: int) -> bool:
    """Whether another process of that number may be at work."""
    if process == os.getpid():
        return False  # in containers the same number comes again
    if os.name != "posix":
        return True  # there signal 0 would not ask but stop it; a folder left behind does less harm
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
