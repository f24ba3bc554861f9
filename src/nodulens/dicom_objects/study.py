"""The study that objects belong to: what they take over from the scan, and what they refer to in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pydicom.valuerep import validate_value

from nodulens import __version__
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import StoredImage, Study, Volume, crop_array
from nodulens.dicom_objects.codes import SOURCE_IMAGE

MAKER = "nodulens"
CHARACTERS = "ISO_IR 192"
METHOD = "Patient and study replaced by a pseudonym; UIDs kept, so that the objects still refer to the images"
KEPT = ("PositionReferenceIndicator",)
"""What an object for a pseudonym keeps of its study, beside the UIDs."""


@dataclass(frozen=True, eq=False)
class Context:
    """What all objects of one scan have in common.

    Args:
        ct: as read from DICOM.
        study: of ``ct``.
        elements: DICOM keyword and value of patient and study.
        made: when.
        deidentified: the patient is a pseudonym.
    """

    ct: Volume
    study: Study
    elements: Mapping[str, str]
    made: datetime
    deidentified: bool = False

    @property
    def images(self) -> tuple[StoredImage, ...]:
        """The stored images, rising along the slice normal."""
        return self.study.images

    def headers(self) -> list[Dataset]:
        """A header of each stored image, and of each frame of a multi-frame one, as of a single image."""
        return [self.header(image) for image in self.images]

    def header(self, image: StoredImage) -> Dataset:
        """What objects that are derived from an image must know of it."""
        data = Dataset()
        self.describe(data)
        # highdicom warns of names of one part, and quotes them; objects get theirs in `equip`
        data.PatientName = data.ReferringPhysicianName = None
        data.SOPClassUID, data.SOPInstanceUID = image.sop_class_uid, image.sop_instance_uid
        data.SeriesInstanceUID, data.Modality = self.ct.source.series_uid, "CT"
        data.FrameOfReferenceUID = self.ct.source.frame_of_reference_uid
        data.Rows, data.Columns = self.study.size
        data.ImagePositionPatient = [decimal(v) for v in image.position_lps]
        data.ImageOrientationPatient = [decimal(v) for v in self.study.cosines]
        data.PixelSpacing = [decimal(v) for v in self.study.spacing]
        data.SliceThickness = decimal(self.ct.source.slice_thickness_mm or self.ct.geometry.spacing_zyx[0])
        return data

    def describe(self, data: Dataset) -> None:
        """Write patient and study into an object."""
        data.SpecificCharacterSet = CHARACTERS
        for keyword, value in self.elements.items():
            setattr(data, keyword, value)
        data.StudyInstanceUID = self.ct.source.study_uid
        if self.deidentified:
            data.PatientIdentityRemoved, data.DeidentificationMethod = "YES", METHOD[:64]

    def references(self, images: Sequence[StoredImage]) -> list[Dataset]:
        """References to images, one an instance, with the frames of it that are meant."""
        frames: dict[tuple[str, str], list[int]] = {}
        for image in images:
            known = frames.setdefault((image.sop_class_uid, image.sop_instance_uid), [])
            if image.frame is not None:
                known.append(image.frame)
        out = []
        for (kind, uid), numbers in frames.items():
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = kind, uid
            if numbers:
                item.ReferencedFrameNumber = numbers if len(numbers) > 1 else numbers[0]
            out.append(item)
        return out

    def instances(self) -> list[Dataset]:
        """References to the instances of all images, without frames."""
        whole = {(image.sop_class_uid, image.sop_instance_uid): image for image in self.images}
        return self.references(
            [StoredImage(kind, uid, None, image.position_lps) for (kind, uid), image in whole.items()]
        )

    def point(self, image: StoredImage, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """LPS mm (n, 3) of places (n, 2) on an image: column and row, 0 at the middle of the first."""
        across, down = np.array(self.study.cosines).reshape(2, 3)
        rows, columns = self.study.spacing
        lps = np.asarray(image.position_lps) + np.outer(xy[:, 0] * columns, across) + np.outer(xy[:, 1] * rows, down)
        return np.asarray(lps)


def context_of(ct: Volume, made: datetime, pseudonym: str | None = None) -> Context | str:
    """The context of a scan; or, as a sentence, why objects cannot be made of it.

    Args:
        ct: as read.
        made: when.
        pseudonym: in place of who was scanned; None: the objects say who was.
    """
    source, study = ct.source, ct.source.study
    if study is None or not study.images:
        return "only a scan read from DICOM names the study that they would belong to"
    uids = (source.study_uid, source.series_uid, source.frame_of_reference_uid)
    if not all(uid and UID(uid).is_valid for uid in (*uids, *(image.sop_instance_uid for image in study.images))):
        return "the scan's UIDs of study, series, images or frame of reference are missing or wrong"
    known = {keyword: value if _valid(keyword, value) else "" for keyword, value in study.elements}
    if pseudonym is not None:
        known = {keyword: value if keyword in KEPT else "" for keyword, value in known.items()}
        known |= {"PatientName": pseudonym, "PatientID": pseudonym}
    optional = ("IssuerOfPatientID", "StudyDescription")
    elements = {keyword: value for keyword, value in known.items() if value or keyword not in optional}
    return Context(ct, study, elements, made, pseudonym is not None)


def equip(data: Dataset, context: Context, description: str) -> None:
    """Write into an object what all of ours have: who made it, from what, and of which patient."""
    context.describe(data)
    data.Manufacturer = data.ManufacturerModelName = MAKER
    data.SoftwareVersions = __version__
    data.SeriesDescription, data.BodyPartExamined = description, "CHEST"
    if "ContentDate" in data:
        data.ContentDate, data.ContentTime = date_of(context.made), time_of(context.made)


def source_item(context: Context, image: StoredImage) -> Dataset:
    """A reference to the image that a frame was derived from."""
    from highdicom.sr.coding import CodedConcept

    (item,) = context.references([image])
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(SOURCE_IMAGE)]
    item.SpatialLocationsPreserved = "YES"
    return item


def on_images(mask: NDArray[np.bool_], box: Box, context: Context) -> list[tuple[int, NDArray[np.bool_]]]:
    """A mask on the pixels of the stored images that show something of it.

    Of a scan as it was stored, each image is one slice of the volume. Where the gantry was tilted, the volume's slices
    were moved sideways, and the mask goes back by whole pixels; slices that were made between two others are no images.

    Args:
        mask: (z, y, x) of ``box.shape``.
        box: in indices of the volume as read.
        context: of the scan.

    Returns:
        Index of the image, and its mask (rows, columns), rising along the slice normal.
    """
    found = []
    for number, corner in enumerate(corners(context.ct.geometry, context.images).tolist()):
        z, y, x = corner
        if box.start[0] <= z < box.stop[0]:
            rows, columns = context.study.size
            window = Box((z - box.start[0], y - box.start[1], x - box.start[2]), (
                z + 1 - box.start[0], y + rows - box.start[1], x + columns - box.start[2]))  # fmt: skip
            image = crop_array(mask, window)[0]
            if image.any():
                found.append((number, image))
    return found


def corners(geometry: Geometry, images: Sequence[StoredImage]) -> NDArray[np.intp]:
    """The voxel (z, y, x) of the volume at the first pixel of each image, (n, 3); it may lie outside."""
    index = geometry.to_index(np.array([image.position_lps for image in images]))
    return np.rint(index).astype(np.intp)


def decimal(value: float) -> str:
    """A number as DICOM's decimal string of at most 16 characters, as precise as fits."""
    text = repr(float(value))
    digits = 16
    while len(text) > 16:
        digits -= 1
        text = f"{value:.{digits}g}"
    return text


def date_of(moment: datetime) -> str:
    """As DICOM writes a date."""
    return moment.strftime("%Y%m%d")


def time_of(moment: datetime) -> str:
    """As DICOM writes a time."""
    return moment.strftime("%H%M%S")


def _valid(keyword: str, value: str) -> bool:
    """Whether a value of the scan's header may be written: what breaks the standard's rules would break the object."""
    try:
        validate_value(dictionary_VR(keyword), value, config.RAISE)
    except ValueError:
        return False
    return True
