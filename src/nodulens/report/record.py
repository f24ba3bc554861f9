"""What an analysis found and how it came about, as a value; :mod:`nodulens.report.json` is its JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

from nodulens.core.coverage import Coverage
from nodulens.core.nodule import Nodule
from nodulens.core.volume import Mask, Patient, Volume
from nodulens.errors import NodulensError
from nodulens.io.deidentify import released


@dataclass(frozen=True)
class WeightRef:
    """Which model file took part."""

    name: str
    sha256: str


@dataclass(frozen=True)
class SizeSensitivity:
    """How many known nodules of ``lo_mm <= diameter < hi_mm`` were found in patients not trained on."""

    lo_mm: float
    hi_mm: float
    found: int
    total: int


@dataclass(frozen=True)
class LungVolumes:
    """Air and tissue inside the lung masks, millilitres."""

    left_ml: float
    right_ml: float


@dataclass(frozen=True)
class ScanSummary:
    """What the scan is like; nothing that says who was scanned.

    Attributes:
        format: "dicom", "metaimage", "nifti", "nrrd" or "array".
        slices: how many.
        spacing_zyx: millimetres between voxel centres (z, y, x).
        slice_thickness_mm, kernel, contrast: None where the format does not say.
        manufacturer, description: empty where the format does not say.
    """

    format: str
    slices: int
    spacing_zyx: tuple[float, float, float]
    slice_thickness_mm: float | None = None
    kernel: str | None = None
    contrast: bool | None = None
    manufacturer: str = ""
    description: str = ""

    @classmethod
    def of(cls, ct: Volume) -> ScanSummary:
        """The summary of a volume, free texts as :func:`nodulens.io.deidentify.released` lets them through."""
        source = released(ct.source)
        return cls(
            format=source.format,
            slices=ct.geometry.shape[0],
            spacing_zyx=ct.geometry.spacing_zyx,
            slice_thickness_mm=source.slice_thickness_mm,
            kernel=source.kernel,
            contrast=source.contrast,
            manufacturer=source.manufacturer,
            description=source.description,
        )


@dataclass(frozen=True)
class Report:
    """Everything that one analysis found, with its provenance.

    Attributes:
        software: name and version.
        recipe: name of the method.
        weights: the model files that took part.
        series_uid: UID of the CT; None where the format has none, then ``input_sha256`` is set.
        input_sha256: hash of the input file where there is no series UID.
        scan: what the scan is like.
        case: a pseudonym, as given by the user.
        patient: who was scanned; None unless the output is to identify the patient.
        warnings: what makes the whole result less sure, sentences.
        timing_s: seconds per stage, and ``total``.
        lungs: volumes of the lung masks.
        coverage: how much of the lungs was searched, and what in them may hide nodules.
        threshold: the detector score from which a finding is reported.
        nodules: the findings; ids are unique and are the label values of ``nodules.nii.gz``.
        prompted: a person pointed at the nodules; nothing was searched for.
        sensitivity: measured by nodule size at ``threshold``; empty where not measured.
        interval_meaning: a sentence: how ``Risk.interval`` is made and how often it covers.
        lung_mask: on the grid of the volume as read; not in the JSON, not compared.

    Raises:
        NodulensError: nodule ids that are not unique or below 1, or timing without ``total``.
    """

    software: str
    recipe: str
    weights: tuple[WeightRef, ...]
    series_uid: str | None
    input_sha256: str | None
    scan: ScanSummary
    case: str | None
    patient: Patient | None
    warnings: tuple[str, ...]
    timing_s: dict[str, float]
    lungs: LungVolumes
    coverage: Coverage
    threshold: float
    nodules: tuple[Nodule, ...]
    prompted: bool = False
    sensitivity: tuple[SizeSensitivity, ...] = ()
    interval_meaning: str = ""
    lung_mask: Mask | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        ids = [nodule.id for nodule in self.nodules]
        if len(set(ids)) < len(ids) or min(ids, default=1) < 1:
            raise NodulensError(f"Nodule ids must be unique and start at 1, got {ids}.")
        if "total" not in self.timing_s:
            raise NodulensError("The timing of a report needs the key 'total'.")
