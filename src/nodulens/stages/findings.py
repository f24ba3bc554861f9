"""From candidates to findings: segment each candidate, merge masks of one nodule, and refine findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.nodule import Box, Candidate
from nodulens.core.volume import Volume, crop_array
from nodulens.errors import BadPrompt, NoEnd
from nodulens.stages.prompted import Outline
from nodulens.stages.prompts import ROUGH, Prompt
from nodulens.stages.segment import prompt_of_candidate
from nodulens.stages.views import FAR_MM

CONTACT = 0.2
"""Share of a mask's surface that touches another from which on they are lobes of one nodule."""
REACH = 1.5
"""Diameters of a large candidate within which it is tried on a finding."""
WHOLE = 0.5
"""A candidate may add to a finding's mask if its score reaches this share of the threshold."""


@dataclass(frozen=True, eq=False)
class Finding:
    """A nodule that was detected and segmented.

    Attributes:
        score: the detector's confidence, 0…1; 1 for a nodule prompted by a person.
        box: inside the volume.
        mask: of ``box.shape``.
        outlined: whether the mask is an outline; else it is a ball of the mark's size, as the outline had no end.
    """

    score: float
    box: Box
    mask: NDArray[np.bool_]
    outlined: bool = True


def outline_all(
    volume: Volume,
    candidates: list[Candidate],
    threshold: float,
    most: int,
    outline: Outline,
    progress: Callable[[float], None],
) -> list[Finding]:
    """Segment candidates, the highest score first; one with an empty mask gives no finding. Of one whose outline has no
    end the finding is a ball of the mark's size, unless another finding is there.

    A mass is detected several times, lobe by lobe, and only a candidate of its own size gives the network all of it.
    So a large candidate replaces the masks that it contains, and lobes are joined (see :func:`_merged`). A candidate
    below the threshold may do so too, but is no finding by itself, and no lobe of a small one.

    Args:
        volume: canonical orientation.
        candidates: with scores, the most certain first.
        threshold: least score of a finding.
        most: largest number of candidates above the threshold to segment.
        outline: the prompted network.
        progress: called with the share of the candidates that are done.
    """
    certain = [c for c in candidates if c.score >= threshold][:most]
    doubtful = [c for c in candidates if WHOLE * threshold <= c.score < threshold]
    findings: list[Finding] = []
    endless: list[Candidate] = []
    for number, candidate in enumerate([*certain, *doubtful]):
        progress(number / (len(certain) + len(doubtful)))
        is_certain = number < len(certain)
        if not is_certain and not any(_near(volume, finding, candidate) for finding in findings):
            continue
        try:
            found = Finding(candidate.score, *outline(volume, prompt_of_candidate(volume, candidate)))
        except NoEnd:
            endless += [candidate] if is_certain else []
        except BadPrompt:
            continue
        else:
            findings = _merged(findings, found, is_large=_is_large(candidate), may_be_new=is_certain)
    for mark in (_ball(volume, candidate) for candidate in endless):
        if not any(_coincide(mark, finding) or _touch(mark, finding) for finding in findings):
            findings.append(mark)
    return sorted(findings, key=lambda finding: -finding.score)


def refined(
    volume: Volume, findings: list[Finding], box_scale: float, outline: Outline, progress: Callable[[float], None]
) -> list[Finding]:
    """Segment findings again from their boxes; where the prompted network finds nothing, the mask is kept.

    Args:
        volume: canonical orientation.
        findings: by another network.
        box_scale: side of the prompt box over that of the finding's box.
        outline: the prompted network.
        progress: called with the share of the findings that are done.
    """
    out = []
    for number, finding in enumerate(findings):
        progress(number / len(findings))
        try:
            box, mask = outline(volume, grown(finding.box, box_scale, ROUGH))
        except BadPrompt:
            out.append(finding)
            continue
        out.append(replace(finding, box=box, mask=mask))
    return out


def grown(box: Box, box_scale: float, trust: float) -> Prompt:
    """A box as a prompt, each of its sides ``box_scale`` times as long."""
    start, stop = np.asarray(box.start, float), np.asarray(box.stop, float)
    middle, half = (start + stop) / 2, (stop - start) / 2 * box_scale
    return Prompt.between(middle - half, middle + half, trust)


def _ball(volume: Volume, candidate: Candidate) -> Finding:
    """A ball of a candidate's size in place of an outline; one voxel at least, inside the volume."""
    spacing = np.asarray(volume.geometry.spacing_zyx)
    index = np.clip(volume.geometry.to_index(candidate.centre_lps), 0, np.asarray(volume.geometry.shape) - 1)
    reach = candidate.diameter_mm / 2 / spacing
    start = np.clip(np.rint(index - reach), 0, None).astype(int)
    stop = np.clip(np.rint(index + reach) + 1, None, volume.geometry.shape).astype(int)
    away = (np.arange(a, b) - i for a, b, i in zip(start, stop, index, strict=True))
    z, y, x = (d * s for d, s in zip(away, spacing, strict=True))
    apart = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    ball = apart <= max(candidate.diameter_mm / 2, float(apart.min()))
    tight = Box.of_mask(ball)
    box = Box.between(start + tight.start, start + tight.stop)
    return Finding(candidate.score, box, ball[tight.slices], outlined=False)


def _merged(findings: list[Finding], found: Finding, *, is_large: bool, may_be_new: bool) -> list[Finding]:
    """Add a finding. Findings whose masks mostly coincide become one, with the score of the first; so do lobes that
    touch with much of their surface, with both masks.

    Args:
        is_large: whether it comes from a large candidate: then its mask replaces those it coincides with, if it is the
            largest of them.
        may_be_new: whether it becomes a finding of its own if it coincides with none and touches none.
    """
    same = [finding for finding in findings if _coincide(found, finding)]
    if same:
        if not is_large or found.mask.sum() <= max(finding.mask.sum() for finding in same):
            return findings
        return _replaced(findings, same, found)
    lobes = [finding for finding in findings if _touch(found, finding)]
    if lobes:
        return _replaced(findings, lobes, _united([*lobes, found]))
    return [*findings, found] if may_be_new else findings


def _replaced(findings: list[Finding], those: list[Finding], whole: Finding) -> list[Finding]:
    """Findings of which some become one, in the place of the first and with its score."""
    first, *others = those
    kept = [finding for finding in findings if finding not in others]
    return [replace(whole, score=first.score) if finding is first else finding for finding in kept]


def _united(findings: list[Finding]) -> Finding:
    """One finding with the masks of all."""
    box = _around([finding.box for finding in findings])
    return replace(findings[0], box=box, mask=np.any([_within(box, finding) for finding in findings], axis=0))


def _touch(one: Finding, other: Finding) -> bool:
    """Whether enough of the smaller mask's surface touches the other mask."""
    if _gap(one, other) > 0:
        return False
    small, large = sorted((one, other), key=lambda finding: int(finding.mask.sum()))
    box = _around([one.box, other.box])
    mask, beside = _within(box, small), ndimage.binary_dilation(_within(box, large))
    surface = mask & ~ndimage.binary_erosion(mask)
    return bool((surface & beside).sum() >= CONTACT * surface.sum())


def _gap(one: Finding, other: Finding) -> int:
    """Voxels between two boxes along the axis where they are farthest apart; negative where they overlap."""
    first, last = np.maximum(one.box.start, other.box.start), np.minimum(one.box.stop, other.box.stop)
    return int(np.max(first - last))


def _around(boxes: list[Box]) -> Box:
    """The smallest box that holds some boxes."""
    return Box.between(np.min([b.start for b in boxes], axis=0), np.max([b.stop for b in boxes], axis=0))


def _within(box: Box, finding: Finding) -> NDArray[np.bool_]:
    """A finding's mask in a box."""
    start, stop = np.subtract(box.start, finding.box.start), np.subtract(box.stop, finding.box.start)
    return crop_array(finding.mask, Box.between(start, stop))


def _is_large(candidate: Candidate) -> bool:
    return candidate.diameter_mm > FAR_MM


def _near(volume: Volume, finding: Finding, candidate: Candidate) -> bool:
    """Whether a finding is near a large candidate, as a mass may be thrice as large as its largest blob; or itself
    large, with a small candidate beside it."""
    if _is_large(candidate):
        middle = volume.geometry.to_lps(finding.box.centre_zyx)
        return float(np.linalg.norm(middle - candidate.centre_lps)) < REACH * candidate.diameter_mm
    spacing = np.asarray(volume.geometry.spacing_zyx)
    index = volume.geometry.to_index(candidate.centre_lps)
    outside = np.maximum(np.subtract(finding.box.start, index), index - np.subtract(finding.box.stop, 1))
    size = float(np.max(np.asarray(finding.box.shape) * spacing))
    return size > FAR_MM and float(np.max(outside * spacing)) < candidate.diameter_mm


def _coincide(one: Finding, other: Finding) -> bool:
    """Whether two masks share more than half of the smaller one."""
    if _gap(one, other) >= 0:
        return False
    box = _around([one.box, other.box])
    shared = (_within(box, one) & _within(box, other)).sum()
    return bool(shared > 0.5 * min(one.mask.sum(), other.mask.sum()))
