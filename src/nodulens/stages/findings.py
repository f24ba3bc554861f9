"""From marks to findings: every mark outlined, and outlines that coincide taken for one; and findings outlined anew."""

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
"""A large mark may give a finding its outline from this share of the threshold on."""


@dataclass(frozen=True)
class Finding:
    """What was marked and outlined.

    Attributes:
        score: how sure the detector is, 0…1; 1 where a person prompted.
        box: inside the volume.
        mask: of ``box.shape``.
    """

    score: float
    box: Box
    mask: NDArray[np.bool_]


def outline_all(
    volume: Volume,
    marks: list[Candidate],
    threshold: float,
    most: int,
    outline: Outline,
    progress: Callable[[float], None],
) -> list[Finding]:
    """Outlines of the marks, the most certain first; a mark without an outline is no finding.

    Two whose outlines mostly coincide are one finding, with the better score. A mass is marked at every knob, and only
    a mark of its own size shows the network all of it. So a large mark gives the outline where it holds others, and
    one that is not certain enough to be a finding may give it to a finding within.

    Args:
        volume: canonical orientation.
        marks: with scores, the most certain first.
        threshold: least score of a finding.
        most: outlined at most.
        outline: the prompted network.
        progress: told the share of the marks that are done.
    """
    sure = [m for m in marks if m.score >= threshold][:most]
    unsure = [m for m in marks if _is_large(m) and WHOLE * threshold <= m.score < threshold]
    out: list[Finding] = []
    for number, mark in enumerate([*sure, *unsure]):
        progress(number / (len(sure) + len(unsure)))
        if number >= len(sure) and not any(_near(volume, finding, mark) for finding in out):
            continue
        try:
            found = Finding(mark.score, *outline(volume, prompt_of_candidate(volume, mark)))
        except BadPrompt:
            continue  # nothing to outline: the mark was on noise
        same = [k for k, finding in enumerate(out) if _coincide(found, finding)]
        if not same and number < len(sure):
            out.append(found)
        elif same and _is_large(mark) and found.mask.sum() > max(out[k].mask.sum() for k in same):
            out[same[0]] = replace(found, score=out[same[0]].score)
            out = [finding for k, finding in enumerate(out) if k not in same[1:]]
    return out


def refined(
    volume: Volume, findings: list[Finding], box_scale: float, outline: Outline, progress: Callable[[float], None]
) -> list[Finding]:
    """Findings outlined again from their boxes; where the prompted network finds nothing, the outline stands.

    Args:
        volume: canonical orientation.
        findings: of another network.
        box_scale: sides of the box that prompts over those of the finding's.
        outline: the prompted network.
        progress: told the share of the findings that are done.
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
    """A box as a prompt, each of its sides ``grow`` times as long."""
    start, stop = np.asarray(box.start, float), np.asarray(box.stop, float)
    middle, half = (start + stop) / 2, (stop - start) / 2 * box_scale
    return Prompt.between(middle - half, middle + half, trust)


def _is_large(mark: Candidate) -> bool:
    return mark.diameter_mm > FAR_MM


def _near(volume: Volume, finding: Finding, mark: Candidate) -> bool:
    """Whether a finding lies within a large mark's diameter: a mass may be twice as large as the largest blob."""
    middle = volume.geometry.to_lps(finding.box.centre_zyx)
    return float(np.linalg.norm(middle - mark.centre_lps)) < mark.diameter_mm


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
