"""What guidelines take of a patient and of a nodule. None is what nobody has stated: it is never filled in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from nodulens.errors import BadOption

Context = Literal["screening", "incidental"]
Kind = Literal["solid", "part-solid", "ground-glass", "airway", "cyst"]
Comparison = Literal["baseline", "new", "growing", "slowly growing", "stable", "resolved"]
"""With prior examinations; "stable" is stable or smaller, "growing" and "slowly growing" as Lung-RADS defines them."""
SolidPart = Literal["new", "growing", "stable"]
"""The solid part of a part-solid nodule, compared with prior examinations."""
Airway = Literal["subsegmental", "segmental"]
"""The level of an airway nodule; "segmental" is segmental or more proximal."""
Cyst = Literal["thin-walled", "thick-walled", "multilocular"]
CystChange = Literal["none", "cyst growing", "wall growing", "now multilocular", "more loculation or opacity"]
"""Since the prior examination: the mean diameter, thickness or nodularity of the wall, and so on."""
Uptake = Literal["absent", "faint", "moderate", "intense"]
"""FDG uptake on PET: as the lung; up to the mediastinal blood pool; above it; far above it."""
Previous = Literal["2", "3", "4A", "4B"]
"""Lung-RADS category of the nodule at the prior examination."""
Incomplete = Literal["prior awaited", "lungs not wholly seen", "signs of infection"]


@dataclass(frozen=True)
class PatientFacts:
    """What is stated of a patient and an examination.

    Attributes:
        context: why the CT was made: lung cancer screening, or nodules found incidentally.
        age: years.
        smoker: now or formerly.
        family_history: of lung cancer.
        emphysema: on CT.
        extrathoracic_cancer: known, or in the past; Mayo means one diagnosed more than five years ago.
        immunosuppressed: Fleischner's table is not for such patients.
        risk: of malignancy, as a clinician judges it by the ACCP's categories: "high" is intermediate or high there.
        prior: a chest CT to compare with: "none" makes this a baseline examination.
        incomplete: a person finds that the examination cannot be categorised yet (Lung-RADS 0).
        other_finding: a person finds something else that is clinically significant (Lung-RADS' modifier S).
        no_nodule: a reader confirms that there is no nodule, or none but with benign features (Lung-RADS 1).

    Raises:
        BadOption: an age out of range.
    """

    context: Context | None = None
    age: int | None = None
    sex: Literal["female", "male"] | None = None
    smoker: bool | None = None
    family_history: bool | None = None
    emphysema: bool | None = None
    extrathoracic_cancer: bool | None = None
    immunosuppressed: bool | None = None
    risk: Literal["low", "high"] | None = None
    prior: Literal["none", "compared"] | None = None
    incomplete: Incomplete | None = None
    other_finding: bool | None = None
    no_nodule: bool | None = None

    def __post_init__(self) -> None:
        if self.age is not None and not 0 <= self.age <= 120:
            raise BadOption(f"An age is 0 to 120 years, got {self.age}.")


def check_prior(patient: PatientFacts, comparison: Comparison | None) -> None:
    """Refuse a comparison of what has no prior CT.

    Raises:
        BadOption: there is none.
    """
    if patient.prior == "none" and comparison not in (None, "baseline"):
        raise BadOption(f"With no prior CT (--prior none) every nodule is at baseline, not {comparison!r}.")


@dataclass(frozen=True, kw_only=True)
class _Stated:
    """What a reader can state of a nodule; None is not stated.

    Attributes:
        comparison: with prior examinations.
        solid_part: the solid part compared.
        previous_category: by Lung-RADS, at the prior examination.
        previous_mm: mean diameter at the prior examination.
        previous_long_axis_mm: longest diameter at the first examination.
        months: since the prior examination; BTS: since the first one.
        juxtapleural: solid, smooth, oval, lentiform or triangular, and at the pleura or a fissure.
        benign: complete, central, popcorn or ring-shaped calcification, or fat.
        suspicious: a reader finds more features or findings of lung cancer (Lung-RADS 4X).
        proven_benign: by a diagnostic work-up.
        airway, cyst, cyst_change: of these kinds.
        upper_lobe: of either lung.
        spiculated: as a reader sees it.
        fdg_uptake: on PET.
        volume_change: share since the first examination; 0.25 for a quarter more.
    """

    comparison: Comparison | None = None
    solid_part: SolidPart | None = None
    previous_category: Previous | None = None
    previous_mm: float | None = None
    previous_long_axis_mm: float | None = None
    months: float | None = None
    juxtapleural: bool | None = None
    benign: bool | None = None
    suspicious: bool | None = None
    proven_benign: bool | None = None
    airway: Airway | None = None
    cyst: Cyst | None = None
    cyst_change: CystChange | None = None
    upper_lobe: bool | None = None
    spiculated: bool | None = None
    fdg_uptake: Uptake | None = None
    volume_change: float | None = None


@dataclass(frozen=True)
class NoduleFacts(_Stated):
    """What is measured or stated of a nodule.

    Attributes, beside what a reader states:
        kind: parenchymal by density, or one that Lung-RADS treats apart: in an airway, or an atypical cyst.
        mean_diameter_mm: mean of long and short axis.
        long_axis_mm, short_axis_mm: longest diameter, and the longest at right angles to it.
        volume_mm3: where volumetry can be relied on.
        solid_mm: mean diameter of the solid part of a part-solid nodule.
        count: nodules in the examination.
        count_of_class: those of the same class, solid or subsolid.

    Raises:
        BadOption: a size that is not above 0, a solid part larger than its nodule, or a comparison without sense.
    """

    kind: Kind
    mean_diameter_mm: float | None = None
    long_axis_mm: float | None = None
    short_axis_mm: float | None = None
    volume_mm3: float | None = None
    solid_mm: float | None = None
    count: int | None = None
    count_of_class: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "mean_diameter_mm",
            "long_axis_mm",
            "short_axis_mm",
            "volume_mm3",
            "previous_mm",
            "previous_long_axis_mm",
        ):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise BadOption(f"{name} is a number above 0, got {value:g}.")
        for name in ("solid_mm", "months"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise BadOption(f"{name} is a number of 0 or more, got {value:g}.")
        if self.solid_mm is not None and self.kind != "part-solid":
            raise BadOption(f"A {self.kind} nodule has no solid part of its own; leave its size out.")
        total = self.mean_diameter_mm
        if self.solid_mm is not None and total is not None and self.solid_mm > total:
            raise BadOption(f"The solid part of {self.solid_mm:g} mm is larger than its nodule of {total:g} mm.")
        if self.volume_change is not None and not (math.isfinite(self.volume_change) and self.volume_change > -1):
            raise BadOption(f"A volume changes by a share above -1, got {self.volume_change:g}.")
        some, all_ = self.count_of_class, self.count
        if any(n is not None and n < 1 for n in (some, all_)) or (
            some is not None and all_ is not None and some > all_
        ):
            raise BadOption(f"{some} of {all_} nodules are of its class: give 1 or more, and no more than all.")

    @property
    def subsolid(self) -> bool:
        """Part-solid or ground-glass."""
        return self.kind in ("part-solid", "ground-glass")


@dataclass(frozen=True)
class NoduleAnswers(_Stated):
    """What a reader states of a nodule that was measured, its kind too.

    Raises:
        BadOption: a number out of range, or a change without the months in which it came about.
    """

    kind: Kind | None = None

    def __post_init__(self) -> None:
        NoduleFacts(**{"kind": "solid", **self.given()})
        if self.months is None and (self.volume_change is not None or self.previous_long_axis_mm is not None):
            raise BadOption("A change since the first CT needs the time in between: months.")

    def given(self) -> dict[str, Any]:
        """The fields that are stated."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) is not None}


@dataclass(frozen=True)
class Answers:
    """What a person states of an examination.

    Attributes:
        patient: and the examination as a whole.
        nodules: by number in the report.
        single: of the one nodule of an examination with one finding.
        count: nodules in the examination, where it is not that of the findings.

    Raises:
        BadOption: a nodule is compared, and there is no prior CT.
    """

    patient: PatientFacts = field(default_factory=PatientFacts)
    nodules: Mapping[int, NoduleAnswers] = field(default_factory=dict)
    single: NoduleAnswers = field(default_factory=NoduleAnswers)
    count: int | None = None

    def __post_init__(self) -> None:
        for one in (self.single, *self.nodules.values()):
            check_prior(self.patient, one.comparison)


@dataclass(frozen=True)
class Case:
    """A nodule of a patient: what every rule takes."""

    nodule: NoduleFacts
    patient: PatientFacts = field(default_factory=PatientFacts)


FOLLOWED: frozenset[Comparison] = frozenset(("growing", "slowly growing", "stable", "resolved"))
"""Comparisons of a nodule that was there before."""
NODULE_FIELDS = frozenset(one.name for one in fields(NoduleFacts))
