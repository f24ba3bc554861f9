"""What the structured reports have in common: TID 1500 in a Comprehensive 3D SR, and the measurements of a nodule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from highdicom.sr import (
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
    SourceImageForMeasurement,
)
from highdicom.uid import UID
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dictionary

from nodulens import __version__
from nodulens.core.nodule import Measurements
from nodulens.core.volume import StoredImage
from nodulens.dicom_objects import codes
from nodulens.dicom_objects.study import MAKER, Context, corners

DEVICE_UID = "2.25.238471950317263946120385736420198374652"
"""Names the program, whatever its version, as the observer."""


def structured_report(groups: Sequence[Any], evidence: Sequence[Dataset], series_number: int) -> Dataset:
    """An SR of measurement groups, not yet with patient and study.

    Args:
        groups: highdicom's, TID 1411 or 1501.
        evidence: headers of all that the groups refer to.
        series_number: of its series.
    """
    observer = ObserverContext(
        observer_type=dictionary.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=DEVICE_UID, name=MAKER, manufacturer_name=MAKER, model_name=MAKER, serial_number=__version__
        ),
    )
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=codes.CHEST_CT,
        imaging_measurements=groups,
    )
    return Comprehensive3DSR(
        evidence=evidence,
        content=content[0],
        series_instance_uid=UID(),
        series_number=series_number,
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer=MAKER,
        is_complete=True,
        is_final=False,
        is_verified=False,
    )


def headers(context: Context) -> list[Dataset]:
    """A header of each instance of a scan, as evidence."""
    return [context.header(one) for one in {image.sop_instance_uid: image for image in context.images}.values()]


def sizes(m: Measurements, central_slice: int, context: Context) -> Iterator[Measurement]:
    """Diameters, which refer to the image of the central slice, volume and density."""
    image = central_image(central_slice, context)
    where = None if image is None else [SourceImageForMeasurement(*whole(r)) for r in context.references([image])]
    yield Measurement(codes.LONG_AXIS, rounded(m.long_axis_mm), codes.MM, referenced_images=where)
    yield Measurement(codes.SHORT_AXIS, rounded(m.short_axis_mm), codes.MM, referenced_images=where)
    yield Measurement(
        codes.DIAMETER, rounded(m.mean_diameter_mm), codes.MM, derivation=codes.MEAN, referenced_images=where
    )
    yield Measurement(codes.VOLUME, rounded(m.volume_mm3), codes.MM3)
    yield Measurement(codes.ATTENUATION, rounded(m.mean_hu), codes.HU, derivation=codes.MEAN)


def whole(reference: Dataset) -> tuple[str, str, Sequence[int] | None]:
    """Class and UID of a referenced instance, and its frames; None for all of it."""
    frames = reference.get("ReferencedFrameNumber")
    numbers = None if frames is None else [int(frames)] if isinstance(frames, int | str) else [int(n) for n in frames]
    return reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID, numbers


def rounded(value: float) -> float:
    """Six digits: more than was measured, fewer than a decimal string holds."""
    return float(f"{value:.6g}")


def central_image(central_slice: int, context: Context) -> StoredImage | None:
    """The stored image of a slice; None where that slice was made between two others."""
    z = corners(context.ct.geometry, context.images)[:, 0].tolist()
    return next((image for image, place in zip(context.images, z, strict=True) if place == central_slice), None)
