"""Writing small DICOM series for tests: a body with two lungs, and whatever a test wants wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

SPACING_ZYX = (2.5, 0.8, 0.7)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
INTERCEPT = -1024


def body(shape: tuple[int, int, int] = (12, 40, 48)) -> NDArray[np.int16]:
    """HU (z, y, x): air, an elliptic body, two lungs, some noise so that every slice differs."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.full(shape, -1000.0)
    hu[(y / 0.8) ** 2 + (x / 0.9) ** 2 < 1] = 40
    for side in (-0.4, 0.4):
        hu[(y / 0.5) ** 2 + ((x - side) / 0.25) ** 2 + (z / 2) ** 2 < 1] = -850
    hu += np.random.default_rng(0).normal(0, 8, shape)
    return np.clip(np.rint(hu), -1024, 3000).astype(np.int16)


def slices(
    hu: NDArray[np.int16] | None = None,
    *,
    cosines: tuple[float, ...] = AXIAL,
    origin: tuple[float, float, float] = (-20.0, -30.0, -400.0),
    **changes: Any,
) -> list[FileDataset]:
    """A CT series, one data set a slice, rising along row direction × column direction.

    Args:
        hu: (z, y, x); :func:`body` where None.
        cosines: ImageOrientationPatient.
        origin: position of the first pixel of the first slice, LPS.
        changes: attributes set on every slice; None removes one.
    """
    hu = body() if hu is None else hu
    normal = np.cross(cosines[:3], cosines[3:])
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    made = []
    for z, image in enumerate(hu):
        data = _plain(CTImageStorage)
        data.SeriesInstanceUID, data.StudyInstanceUID, data.FrameOfReferenceUID = series, study, frame
        data.InstanceNumber = len(hu) - z
        data.ImagePositionPatient = [round(float(v), 6) for v in np.asarray(origin) + z * SPACING_ZYX[0] * normal]
        data.ImageOrientationPatient = list(cosines)
        data.PixelSpacing = list(SPACING_ZYX[1:])
        data.SliceThickness = SPACING_ZYX[0]
        data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, INTERCEPT, "HU"
        pixels(data, image.astype(np.int32) - INTERCEPT)
        change(data, **changes)
        made.append(data)
    return made


def same_scan(series: Sequence[FileDataset]) -> dict[str, str]:
    """What makes other slices claim to be of the same scan, as ``changes`` of :func:`slices`."""
    keywords = ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
    return {keyword: str(series[0].get(keyword)) for keyword in keywords}


def multiframe(hu: NDArray[np.int16] | None = None) -> FileDataset:
    """An Enhanced CT: position and rescale per frame, everything else shared, frames out of order."""
    hu = body() if hu is None else hu
    data = _plain(EnhancedCTImageStorage)
    data.SeriesInstanceUID, data.StudyInstanceUID = generate_uid(), generate_uid()
    data.InstanceNumber = 1
    data.NumberOfFrames = len(hu)
    shared, measures, turned = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(SPACING_ZYX[1:]), SPACING_ZYX[0]
    turned.ImageOrientationPatient = list(AXIAL)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([turned])
    data.SharedFunctionalGroupsSequence = Items([shared])
    groups, stored = [], []
    for z in [*range(0, len(hu), 2), *range(1, len(hu), 2)]:
        group, place, value = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [-20.0, -30.0, -400.0 + z * SPACING_ZYX[0]]
        value.RescaleSlope, value.RescaleIntercept, value.RescaleType = 1, INTERCEPT - z, "HU"
        group.PlanePositionSequence, group.PixelValueTransformationSequence = Items([place]), Items([value])
        groups.append(group)
        stored.append(hu[z].astype(np.int32) - (INTERCEPT - z))
    data.PerFrameFunctionalGroupsSequence = Items(groups)
    pixels(data, np.stack(stored))
    return data


def pixels(data: Dataset, stored: NDArray[np.int32], *, signed: bool = False) -> None:
    """Set 16-bit pixel data, uncompressed, and what describes them."""
    data.Rows, data.Columns = stored.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, int(signed)
    data.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
    data["PixelData"].VR = "OW"


def change(data: Dataset, **changes: Any) -> None:
    """Set attributes; None removes one."""
    for keyword, value in changes.items():
        if value is None:
            if keyword in data:
                delattr(data, keyword)
        else:
            setattr(data, keyword, value)


def save(folder: Path, series: Iterable[FileDataset]) -> Path:
    """Write data sets into a folder, named in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, data in enumerate(series):
        data.save_as(folder / f"{i:04d}.dcm", enforce_file_format=True)
    return folder


def _plain(kind: UID) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    data.Modality, data.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.PatientName, data.PatientID, data.PatientBirthDate = "Test^Body", "T1", "19500101"
    data.Manufacturer, data.ConvolutionKernel, data.SeriesDescription = "Maker", "STANDARD", "chest"
    return data


def to_jpeg_lossless(source: Path, target: Path) -> None:
    """Write an uncompressed image again as JPEG lossless, by the one library that can; both may be the same file."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    turn = gdcm.ImageChangeTransferSyntax()
    turn.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    turn.SetInput(reader.GetImage())
    assert turn.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(turn.GetOutput())
    assert writer.Write()
