"""From candidates to findings: segment each candidate, merge masks that coincide, and refine findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Box, Candidate
from nodulens.core.volume import Volume
from nodulens.errors import BadPrompt
from nodulens.stages.prompted import Outline
from nodulens.stages.prompts import ROUGH, Prompt
from nodulens.stages.segment import prompt_of_candidate
from nodulens.stages.views import FAR_MM

WHOLE = 0.5
"""A large candidate may give a finding its mask if its score reaches this share of the threshold."""


@dataclass(frozen=True, eq=False)
class Finding:
    """A nodule that was detected and segmented.

    Attributes:
        score: the detector's confidence, 0…1; 1 for a nodule prompted by a person.
        box: inside the volume.
        mask: of ``box.shape``.
    """

    score: float
    box: Box
    mask: NDArray[np.bool_]


def outline_all(
    volume: Volume,
    candidates: list[Candidate],
    threshold: float,
    most: int,
    outline: Outline,
    progress: Callable[[float], None],
) -> list[Finding]:
    """Segment candidates, the highest score first; one with an empty mask gives no finding.

    A mass is detected several times, and only a candidate of its own size gives the network all of it. So a large
    candidate replaces the masks that it contains (see :func:`_merged`). One below the threshold may do so too, but is
    no finding by itself.

    Args:
        volume: canonical orientation.
        candidates: with scores, the most certain first.
        threshold: least score of a finding.
        most: largest number of candidates above the threshold to segment.
        outline: the prompted network.
        progress: called with the share of the candidates that are done.
    """
    certain = [c for c in candidates if c.score >= threshold][:most]
    doubtful = [c for c in candidates if _is_large(c) and WHOLE * threshold <= c.score < threshold]
    findings: list[Finding] = []
    for number, candidate in enumerate([*certain, *doubtful]):
        progress(number / (len(certain) + len(doubtful)))
        is_certain = number < len(certain)
        if is_certain or any(_near(volume, finding, candidate) for finding in findings):
            found = _outlined(volume, candidate, outline)
            if found is not None:
                findings = _merged(findings, found, is_large=_is_large(candidate), may_be_new=is_certain)
    return findings


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


def _outlined(volume: Volume, candidate: Candidate, outline: Outline) -> Finding | None:
    """Segment a candidate; None where nothing is found."""
    try:
        return Finding(candidate.score, *outline(volume, prompt_of_candidate(volume, candidate)))
    except BadPrompt:
        return None


def _merged(findings: list[Finding], found: Finding, *, is_large: bool, may_be_new: bool) -> list[Finding]:
    """Add a finding; findings whose masks mostly coincide become one, with the score of the first.

    Args:
        is_large: whether it comes from a large candidate: then its mask replaces those it coincides with, if it is the
            largest of them.
        may_be_new: whether it becomes a finding of its own if it coincides with none.
    """
    same = [finding for finding in findings if _coincide(found, finding)]
    if not same:
        return [*findings, found] if may_be_new else findings
    if not is_large or found.mask.sum() <= max(finding.mask.sum() for finding in same):
        return findings
    first, *others = same
    whole = replace(found, score=first.score)
    return [whole if finding is first else finding for finding in findings if finding not in others]


def _is_large(candidate: Candidate) -> bool:
    return candidate.diameter_mm > FAR_MM


def _near(volume: Volume, finding: Finding, candidate: Candidate) -> bool:
    """Whether a finding is within a large candidate's diameter: a mass may be twice as large as the largest blob."""
    middle = volume.geometry.to_lps(finding.box.centre_zyx)
    return float(np.linalg.norm(middle - candidate.centre_lps)) < candidate.diameter_mm


def _coincide(one: Finding, other: Finding) -> bool:
    """Whether two masks share more than half of the smaller one."""
    start = np.maximum(one.box.start, other.box.start)
    stop = np.minimum(one.box.stop, other.box.stop)
    if np.any(stop <= start):
        return False
    both = [
        finding.mask[tuple(slice(a - s, b - s) for a, b, s in zip(start, stop, finding.box.start, strict=True))]
        for finding in (one, other)
    ]
    return bool((both[0] & both[1]).sum() > 0.5 * min(one.mask.sum(), other.mask.sum()))
