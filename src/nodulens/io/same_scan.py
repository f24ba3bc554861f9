"""Whether the slices that carry one series UID are slices of one scan.

UIDs are copied by mistake: by scripts that anonymise, by converters, by exports that run twice. What is known of two
slices and differs keeps them apart; what some of them do not say is a warning. No message names a patient.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_uppercase
from typing import TypeVar

import numpy as np

from nodulens.core.text import file_name
from nodulens.errors import MixedSeries
from nodulens.io.deidentify import is_kernel, shown_modality
from nodulens.io.plane import Origin, Plane

Value = TypeVar("Value", bound=Hashable)

SHOWN_GROUPS = 4
UID_END = 12


@dataclass(frozen=True)
class Attribute:
    """Something that slices of one scan share.

    Attributes:
        one: its name.
        several: the same of more than one.
        value: reads it off a slice; an empty string is unknown.
        shown: how a message writes a value; None, or nothing, where that tells who was scanned: groups are lettered.
    """

    one: str
    several: str
    value: Callable[[Origin], str]
    shown: Callable[[str], str] | None = str


def _end(uid: str) -> str:
    return f"…{uid[-UID_END:]}"


def _known_kernel(name: str) -> str:
    """A kernel's name; of what is none nothing, for it may say who was scanned."""
    return name if is_kernel(name) else ""


ATTRIBUTES = (
    Attribute("modality", "modalities", lambda origin: origin.modality, shown_modality),
    Attribute("patient ID", "patients", lambda origin: origin.patient.patient_id, None),
    Attribute("study UID", "studies", lambda origin: origin.study_uid, _end),
    Attribute("frame of reference", "frames of reference", lambda origin: origin.frame_of_reference_uid, _end),
    Attribute("kernel", "kernels", lambda origin: origin.kernel, _known_kernel),
)
# Where patient IDs are empty, these tell patients apart.
WITHOUT_ID = (
    Attribute("patient's name", "patients", lambda origin: _words(origin.patient.name), None),
    Attribute("date of birth", "patients", lambda origin: origin.patient.birth_date, None),
)


def check_same_scan(planes: Sequence[Plane]) -> tuple[str, ...]:
    """Refuse slices of several scans.

    Args:
        planes: of one series UID, without localizers and pictures.

    Returns:
        warnings: attributes of some slices only, and acquisitions one above another.

    Raises:
        MixedSeries: study, frame of reference, patient, modality or kernel differ, or acquisitions interleave.
    """
    warnings = []
    compared = ATTRIBUTES if all(plane.origin.patient.patient_id for plane in planes) else ATTRIBUTES + WITHOUT_ID
    for attribute in compared:
        values = [attribute.value(plane.origin) for plane in planes]
        silent = values.count("")
        if len(set(values) - {""}) > 1:
            known = [plane for plane, value in zip(planes, values, strict=True) if value]
            listed = grouped(known, [value for value in values if value], attribute.shown)
            raise MixedSeries(f"The series mixes {attribute.several}: {listed}; export one scan only.")
        if 0 < silent < len(planes):
            first = file_name(planes[values.index("")].path)
            warnings.append(
                f"{silent} of {len(planes)} images, first {first}, have no {attribute.one}; the others agree on it."
            )
    return (*warnings, *_acquisitions(planes))


def grouped(planes: Sequence[Plane], values: Sequence[Value], shown: Callable[[Value], str] | None = str) -> str:
    """Images by a value in which they differ: "8 of 40 × 48 (z −400.00 to −382.50 mm), 4 of …".

    Args:
        planes: the images.
        values: one for each.
        shown: how a value is written; None, or nothing, where it must not be, and groups are lettered.
    """
    groups: dict[Value, list[Plane]] = {}
    for plane, value in zip(planes, values, strict=True):
        groups.setdefault(value, []).append(plane)
    # The largest group first; equal ones as they were met.
    ranked = sorted(groups.items(), key=lambda item: -len(item[1]))
    parts = [
        f"{len(members)} of {(shown(value) if shown else '') or letter}{_heights(members)}"
        for letter, (value, members) in zip(ascii_uppercase[:SHOWN_GROUPS], ranked, strict=False)
    ]
    more = len(ranked) - SHOWN_GROUPS
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


def _heights(planes: Sequence[Plane]) -> str:
    z = [plane.position[2] for plane in planes if plane.position and np.isfinite(plane.position[2])]
    if not z:
        return ""
    span = f"{min(z):.2f}" + (f" to {max(z):.2f}" if max(z) > min(z) else "")
    return f" (z {span} mm)".replace("-", "−")


def _acquisitions(planes: Sequence[Plane]) -> tuple[str, ...]:
    """A warning if there are several acquisitions one above another: a scan in steps, or with a pause.

    Raises:
        MixedSeries: they interleave, and so are scans of one region.
    """
    placed = [plane for plane in planes if plane.origin.acquisition and plane.position and plane.cosines]
    numbers = [plane.origin.acquisition for plane in placed]
    if len(set(numbers)) < 2:
        return ()
    positions = np.array([plane.position for plane in placed])
    cosines = np.array(placed[0].cosines)
    heights = positions @ np.cross(cosines[:3], cosines[3:])
    in_order = [numbers[i] for i in np.argsort(heights, kind="stable")]
    runs = 1 + sum(a != b for a, b in pairwise(in_order))
    listed = grouped(placed, numbers, "number {}".format)
    if runs > len(set(numbers)):
        raise MixedSeries(
            f"The series holds several acquisitions whose slices interleave: {listed}; export one acquisition only."
        )
    return (f"The series holds several acquisitions, one above another: {listed}.",)


def _words(name: str) -> str:
    return " ".join(name.replace("^", " ").casefold().split())
