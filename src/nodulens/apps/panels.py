"""``segment --panels``: a picture of the nodule beside its ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadOption, NotFound
from nodulens.ops.orient import canonical
from nodulens.report.record import Report
from nodulens.rois.grid import Grid
from nodulens.rois.read import read_rois
from nodulens.rois.roi import Roi
from nodulens.stages.user_prompts import GivenPrompt, PlacedPrompt


def check_drawable() -> None:
    """Check before the work that a picture can be drawn.

    Raises:
        MissingExtra: Matplotlib is not installed.
    """
    from nodulens.presentation.figures import new_figure

    new_figure(1, 1, None)


TruthOn = Callable[[Volume], Mask]
"""From a scan as read to the ground truth on its grid."""


def known_truth(path: Path) -> TruthOn:
    """A ground truth from a file: a DICOM SEG, RTSTRUCT or SR, a mask in an image file, or the XML of LIDC's readers.

    Of the XML, the consensus of half of the readers of every nodule; of others all regions but parts of the body.

    Raises:
        NotFound, UnreadableFile: there is no such file, it is none of them, or it outlines nothing.
    """
    if not path.is_file():
        raise NotFound(f"There is no file {path}; --truth is a file of masks, or the XML of LIDC's readers.")
    if path.suffix.lower() == ".xml":
        from nodulens.data.lidc import cluster
        from nodulens.data.lidc_ct import consensus_on
        from nodulens.data.lidc_xml import read_xml, scan_of

        xml = read_xml(path)
        return lambda ct: _mask(consensus_on(cluster(scan_of(xml, ct)), ct.geometry), ct, path)
    rois = read_rois(path).chosen(())
    return lambda ct: _mask(_labels(rois, ct), ct, path)


def _labels(rois: Sequence[Roi], ct: Volume) -> np.ndarray:
    """All regions on a scan."""
    labels = np.zeros(ct.geometry.shape, dtype=bool)
    for drawn in (roi.on(Grid.of(ct)) for roi in rois):
        if drawn is not None:
            labels[drawn.box.slices] |= drawn.mask
    return labels


def _mask(labels: np.ndarray, ct: Volume, path: Path) -> Mask:
    if not labels.any():
        raise BadOption(f"{path} holds no nodule in this scan: it is empty, or of another patient.")
    return Mask((labels > 0).astype(np.uint8), ct.geometry, {1: "nodule"})


def panels_png(report: Report, ct: Volume, truth: Mask | None, prompt: GivenPrompt | str) -> bytes:
    """The one nodule of a report as PNG: input with the prompt, ground truth if there is one, result.

    Args:
        report: of ``segment``.
        ct: as read.
        truth: on its grid.
        prompt: what was typed; a text is not drawn.

    Raises:
        MissingExtra: Matplotlib is not installed.
    """
    from nodulens.presentation.figures import to_png
    from nodulens.presentation.prompted import nodule_figure

    if isinstance(prompt, str):
        return to_png(nodule_figure(ct, report.nodules[0], truth))
    placed = prompt.on(canonical(ct)[0], ct)
    return to_png(nodule_figure(ct, report.nodules[0], truth, partial(faces_on, placed)))


def faces_on(prompt: PlacedPrompt, z: int) -> tuple[tuple[float, float], ...]:
    """A prompt on a slice: the corners of its box, or its point; nothing where it is not on it, or is a mask."""
    if prompt.kind == "mask":
        return ()
    box = prompt.box
    middle = (box.start[0] + box.stop[0]) / 2
    one = prompt.kind == "point" or box.flat
    if int(middle) != z if one else not box.start[0] <= z + 0.5 <= box.stop[0]:
        return ()
    corners = (box.start[1], box.start[2]), (box.stop[1], box.stop[2])
    if prompt.kind == "box":
        return corners
    y, x = np.mean(corners, axis=0).tolist()
    return ((y, x),)
