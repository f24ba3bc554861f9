"""A Segmentation object: the lungs and every nodule, on the images they were found in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from highdicom.seg import Segmentation as SegmentationObject
from highdicom.sr.coding import CodedConcept
from highdicom.uid import UID
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.coding import Code
from pydicom.uid import CTImageStorage

from nodulens import __version__
from nodulens.core.nodule import Box, Nodule, Position, Side
from nodulens.core.volume import Mask
from nodulens.dicom_objects import codes
from nodulens.dicom_objects.study import MAKER, Context, decimal, equip, on_images, source_item
from nodulens.report.record import Report

SERIES_NUMBER = 9801


@dataclass(frozen=True, eq=False)
class Segment:
    """One segment.

    Attributes:
        label: such as "Nodule 1".
        tracking_uid: by which other objects name the same thing.
        side: which lung it is, or is in.
        nodule: None of a lung.
        masks: index of a stored image, rising, and the packed bits of its mask, row by row, the first pixel lowest.
        pixels: how many pixels of all images belong to it.
    """

    label: str
    tracking_uid: str
    side: Side
    nodule: Nodule | None
    masks: tuple[tuple[int, NDArray[np.uint8]], ...]
    pixels: int


def segments_of(report: Report, context: Context) -> list[Segment]:
    """The lungs, left and right, where they are there, and the nodules.

    A nodule that lies on slices alone that were made between stored images has no masks: the SEG cannot hold it.
    """
    found = []
    lungs = report.lung_mask
    if lungs is not None:
        for side in ("left", "right"):
            lung = _segment(f"{side.capitalize()} lung", side, None, _lung_masks(lungs, side, context))
            found += [lung] if lung.masks else []
    for nodule in report.nodules:
        assert nodule.mask is not None, "the report is of an analysis"
        masks = on_images(nodule.mask, nodule.box, context)
        found.append(_segment(f"Nodule {nodule.id}", nodule.position.side, nodule, iter(masks)))
    return found


def segmentation(
    segments: Sequence[Segment], report: Report, context: Context, series_uid: str | None = None
) -> Dataset:
    """The SEG of segments: binary, a frame for each image on which a segment has a pixel.

    Args:
        segments: at least one, of :func:`segments_of`, each with masks.
        report: says how the nodules came about.
        context: of the scan.
        series_uid: of its series; None: a new one.
    """
    first = context.header(context.images[0])
    first.SOPClassUID = CTImageStorage  # also a frame of a multi-frame image; references are written below
    made = SegmentationObject(
        source_images=[first],
        pixel_array=np.ones((1, 1, 1, len(segments)), np.uint8)
        .repeat(first.Rows, axis=1)
        .repeat(first.Columns, axis=2),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(n, s, report) for n, s in enumerate(segments, start=1)],
        series_instance_uid=series_uid or UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions=__version__,
        device_serial_number="0",
        content_label="LUNG_NODULES",
        content_description="Lungs and lung nodules",
        content_creator_name=f"{MAKER}^",
    )
    for item, segment in zip(made.SegmentSequence, segments, strict=True):
        _place(item, segment)
    equip(made, context, "nodulens: lungs and nodules (segmentation)")
    made.SegmentsOverlap = "YES" if _overlap(segments) else "NO"
    made.NumberOfFrames = sum(len(segment.masks) for segment in segments)
    made.PerFrameFunctionalGroupsSequence = Items(list(_groups(segments, context)))
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SpacingBetweenSlices = decimal(context.ct.geometry.spacing_zyx[0])
    series = made.ReferencedSeriesSequence[0]
    series.ReferencedInstanceSequence = Items(context.instances())
    made.PixelData = _joined(segments, context.study.size)
    return made


def lobe(position: Position) -> Code:
    """The lobe of a position, or the lung where it is unknown."""
    words = position.lobe_estimate.split()
    return codes.LOBES.get(words[1], codes.LUNG) if len(words) == 3 else codes.LUNG


def _lung_masks(lungs: Mask, side: Side, context: Context) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """The masks of a lung, a slice at a time: of all together there may be no room."""
    _, rows, columns = lungs.labels.shape
    value = lungs.value(f"{side} lung")
    for z, labels in enumerate(lungs.labels):
        if (labels == value).any():
            yield from on_images((labels == value)[None], Box((z, 0, 0), (z + 1, rows, columns)), context)


def _segment(label: str, side: Side, nodule: Nodule | None, masks: Iterator[tuple[int, NDArray[np.bool_]]]) -> Segment:
    packed, pixels = [], 0
    for image, mask in masks:
        packed.append((image, np.packbits(mask, axis=None, bitorder="little")))
        pixels += int(np.count_nonzero(mask))
    return Segment(label, UID(), side, nodule, tuple(packed), pixels)


def _description(number: int, segment: Segment, report: Report) -> SegmentDescription:
    nodule = segment.nodule
    by_hand = nodule is not None and report.prompted
    kind = SegmentAlgorithmTypeValues.SEMIAUTOMATIC if by_hand else SegmentAlgorithmTypeValues.AUTOMATIC
    return SegmentDescription(
        segment_number=number,
        segment_label=segment.label,
        segmented_property_category=codes.ANATOMY if nodule is None else codes.ABNORMALITY,
        segmented_property_type=codes.LUNG if nodule is None else codes.NODULE,
        algorithm_type=kind,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=f"{MAKER} {report.recipe}"[:64], family=codes.LEARNT, version=__version__, source=MAKER
        ),
        tracking_uid=segment.tracking_uid,
        tracking_id=segment.label,
        anatomic_regions=[codes.LUNG if nodule is None else lobe(nodule.position)],
    )


def _place(item: Dataset, segment: Segment) -> None:
    """Say of a segment on which side it is, and how to draw it."""
    side = CodedConcept.from_code(codes.SIDES[segment.side])
    item.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [side]
    if segment.nodule is None:
        item.SegmentedPropertyTypeModifierCodeSequence = [side]
    item.RecommendedDisplayCIELabValue = _LAB["lung" if segment.nodule is None else "nodule"]


_LAB = {"lung": [43000, 28000, 22000], "nodule": [46000, 44000, 47000]}
"""Recommended colours in CIELab, scaled as PS3.3, C.10.7.1.1 says: a blue and an orange."""


def _groups(segments: Sequence[Segment], context: Context) -> Iterator[Dataset]:
    """Functional groups of each frame: its segment, its place, and the image that it was made on."""
    for number, segment in enumerate(segments, start=1):
        for index, _ in segment.masks:
            image = context.images[index]
            group, content, place, named, derived = (Dataset() for _ in range(5))
            content.DimensionIndexValues = [number, index + 1]
            place.ImagePositionPatient = [decimal(v) for v in image.position_lps]
            named.ReferencedSegmentNumber = number
            derived.SourceImageSequence = Items([source_item(context, image)])
            derived.DerivationCodeSequence = Items([CodedConcept.from_code(codes.SEGMENTATION)])
            group.FrameContentSequence, group.PlanePositionSequence = Items([content]), Items([place])
            group.SegmentIdentificationSequence = Items([named])
            group.DerivationImageSequence = Items([derived])
            yield group


def _joined(segments: Sequence[Segment], size: tuple[int, int]) -> bytes:
    """The bits of all frames, one after another without a gap, an even number of bytes."""
    packed = [bits for segment in segments for _, bits in segment.masks]
    count = size[0] * size[1]
    if count % 8:  # frames do not end where bytes do
        packed = [np.packbits(np.concatenate([_unpacked(bits, count) for bits in packed]), bitorder="little")]
    data = b"".join(bits.tobytes() for bits in packed)
    return data + b"\0" * (len(data) % 2)


def _unpacked(bits: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    return np.unpackbits(bits, count=count, bitorder="little")


def _overlap(segments: Sequence[Segment]) -> bool:
    """Whether any pixel belongs to two segments."""
    taken: dict[int, NDArray[np.uint8]] = {}
    for segment in segments:
        for index, bits in segment.masks:
            before = taken.get(index)
            if before is not None and (before & bits).any():
                return True
            taken[index] = bits if before is None else before | bits
    return False
