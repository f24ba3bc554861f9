"""The results of an analysis with their provenance, as a value; :mod:`nodulens.report.json` is its JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

from nodulens.clinical.assess import Guidelines
from nodulens.core.coverage import Coverage
from nodulens.core.nodule import Nodule, Rating
from nodulens.core.volume import Mask, Patient, Volume
from nodulens.errors import NodulensError
from nodulens.io.deidentify import released


@dataclass(frozen=True)
class WeightRef:
    """A model file that was used."""

    name: str
    sha256: str


@dataclass(frozen=True)
class SizeSensitivity:
    """Number of known nodules of ``lo_mm <= diameter < hi_mm`` found in patients outside the training set."""

    lo_mm: float
    hi_mm: float
    found: int
    total: int


@dataclass(frozen=True)
class LungVolumes:
    """Volume of the lung masks, air and tissue, in millilitres."""

    left_ml: float
    right_ml: float


@dataclass(frozen=True)
class ScanSummary:
    """Properties of the scan; nothing that identifies the patient.

    Attributes:
        format: "dicom", "metaimage", "nifti", "nrrd" or "array".
        slices: number of slices.
        spacing_zyx: millimetres between voxel centres (z, y, x).
        slice_thickness_mm, kernel, contrast: None if the format does not have them.
        manufacturer, description: empty if the format does not have them.
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
        """The summary of a volume, free text filtered by :func:`nodulens.io.deidentify.released`."""
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
    """The results of an analysis, with their provenance.

    Attributes:
        software: name and version.
        recipe: name of the method.
        weights: the model files that were used.
        series_uid: UID of the CT; None if the format has none, then ``input_sha256`` is set.
        input_sha256: hash of the input file if there is no series UID.
        scan: properties of the scan.
        case: a pseudonym, as given by the user.
        patient: None unless the output is to identify the patient.
        warnings: sentences on what makes the whole result less certain.
        timing_s: seconds per stage, and ``total``.
        lungs: volumes of the lung masks.
        coverage: how much of the lungs was searched, and what in them may hide nodules.
        threshold: the detection confidence from which a finding is reported.
        nodules: the findings; ids are unique and are the label values of ``nodules.nii.gz``.
        prompted: a person prompted the nodules; nothing was searched for.
        sensitivity: measured by nodule size at ``threshold``; empty if not measured.
        attribute_auc: rating of a nodule's look that was predicted → how well, on nodules of patients left out: the AUC
            of telling those rated above 3 from those below.
        interval_meaning: a sentence on the definition and coverage of ``Risk.interval``.
        guidelines: what clinical guidelines say; None where nobody stated why the CT was made.
        lung_mask: on the grid of the volume as read; not in the JSON, not compared.

    Raises:
        NodulensError: nodule ids that are not unique or below 1, timing without ``total``, or guidelines of nodules
            that are not in the report.
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
    attribute_auc: dict[Rating, float] = field(default_factory=dict)
    interval_meaning: str = ""
    guidelines: Guidelines | None = None
    lung_mask: Mask | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        ids = [nodule.id for nodule in self.nodules]
        if len(set(ids)) < len(ids) or min(ids, default=1) < 1:
            raise NodulensError(f"Nodule ids must be unique and start at 1, got {ids}.")
        if self.guidelines is not None and [one.id for one in self.guidelines.nodules] != ids:
            raise NodulensError(f"The guidelines of a report are of its nodules {ids}, in this order.")
        if "total" not in self.timing_s:
            raise NodulensError("The timing of a report needs the key 'total'.")
