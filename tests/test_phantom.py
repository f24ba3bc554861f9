"""The phantom: its nodules are where and what it says, its anatomy is one, its DICOM is valid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.uid import CTImageStorage

from nodulens.core.nodule import Box
from nodulens.core.volume import Volume
from nodulens.data.phantom import EXTENT_ZYX_MM, PhantomNodule, _dicom_slice, phantom_ct, write_phantom_dicom
from nodulens.errors import BadOption
from nodulens.stages.lungs import lung_volumes_ml, segment_lungs
from nodulens.stages.measure import measure, texture
from nodulens.stages.position import locate

SPACING = (2.5, 1.5, 1.5)
COARSE = (6.0, 3.0, 3.0)
Made = tuple[Volume, tuple[PhantomNodule, ...]]


@pytest.fixture(scope="module")
def made() -> Made:
    return phantom_ct(1, SPACING)


@pytest.fixture(scope="module")
def coarse() -> Made:
    return phantom_ct(1, COARSE)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[pydicom.Dataset], tuple[PhantomNodule, ...]]:
    """The coarse phantom as written, in the order of position, and the nodules its writer named."""
    folder = tmp_path_factory.mktemp("dicom") / "new" / "series"
    nodules = write_phantom_dicom(folder, 1, COARSE)
    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    return sorted(slices, key=lambda ds: float(ds.ImagePositionPatient[2])), nodules


def truth(volume: Volume, nodule: PhantomNodule) -> tuple[Box, NDArray[np.bool_]]:
    """Voxels whose centres lie in the ball of a nodule."""
    geometry = volume.geometry
    size = [int(nodule.diameter_mm / s) + 4 for s in geometry.spacing_zyx]
    box = Box.around(geometry.to_index(nodule.centre_lps), size)
    index = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(box.start, box.stop, strict=True)), indexing="ij"))
    offset = geometry.to_lps(np.moveaxis(index, 0, -1)) - nodule.centre_lps
    return box, (offset**2).sum(axis=-1) <= (nodule.diameter_mm / 2) ** 2


def test_the_field_is_the_same_on_any_grid(made: Made, coarse: Made) -> None:
    assert coarse[1] == made[1]
    for volume in (coarse[0], made[0]):
        assert np.allclose(np.array(volume.geometry.shape) * volume.geometry.spacing_zyx, EXTENT_ZYX_MM)
        assert np.allclose(volume.geometry.to_lps((np.array(volume.geometry.shape) - 1) / 2), 0)


@pytest.mark.parametrize("seed", [0, 5])
def test_every_seed_is_another_phantom_with_its_nodules_apart(seed: int, coarse: Made) -> None:
    volume, nodules = phantom_ct(seed, COARSE)
    assert np.abs(volume.hu.astype(int) - coarse[0].hu).mean() > 10
    assert nodules != coarse[1]
    assert {n.texture for n in nodules} == {"solid", "part-solid", "ground-glass"}
    assert sum(n.juxtapleural for n in nodules) == 1
    centres = np.array([n.centre_lps for n in nodules])
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1)[~np.eye(len(nodules), dtype=bool)]
    assert apart.min() >= 40
    lungs = segment_lungs(volume).labels
    for nodule in nodules:
        z, y, x = np.rint(volume.geometry.to_index(nodule.centre_lps)).astype(int)
        assert lungs[z, y, x] == (1 if nodule.centre_lps[0] > 0 else 2)


def test_each_nodule_measures_what_it_is(made: Made) -> None:
    volume, nodules = made
    lungs = segment_lungs(volume)
    for nodule in nodules:
        box, mask = truth(volume, nodule)
        found = measure(volume, box, mask, lungs)
        assert texture(found) == nodule.texture
        assert found.mean_diameter_mm == pytest.approx(nodule.diameter_mm, abs=1.0)
        assert found.equivalent_diameter_mm == pytest.approx(nodule.diameter_mm, abs=0.5)
        assert found.solid_diameter_mm == pytest.approx(nodule.solid_diameter_mm, abs=1.7)
        assert (found.distance_to_pleura_mm == 0) == nodule.juxtapleural
        assert locate(volume, box, mask, lungs).side == ("left" if nodule.centre_lps[0] > 0 else "right")


def test_the_lungs_are_two_and_of_human_size(made: Made) -> None:
    sizes = lung_volumes_ml(segment_lungs(made[0]))
    assert 1500 < sizes["left_ml"] < sizes["right_ml"] < 3500


def test_densities_are_those_of_a_chest(made: Made) -> None:
    volume, _ = made
    hu = np.asarray(volume.hu)
    lungs = segment_lungs(volume).labels > 0
    assert np.median(hu[:, 0]) == pytest.approx(-1000, abs=10)
    assert -890 < np.median(hu[lungs]) < -830
    vessels = (hu[lungs] > -500).mean()
    assert 0.01 < vessels < 0.08, "vessels of a CT fill some per cent of the lungs"
    assert (hu > 300).mean() > 0.003, "bone"
    assert 15 < hu[:, 2:20, 2:20].std() < 40, "noise"


def test_dicom_reads_back_as_the_same_phantom(
    coarse: Made, series: tuple[list[pydicom.Dataset], tuple[PhantomNodule, ...]]
) -> None:
    (volume, same), (slices, nodules) = coarse, series
    assert nodules == same
    hu = np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in slices])
    assert np.array_equal(hu, volume.hu), "the same seed gives the same voxels"
    for z, ds in enumerate(slices):
        assert np.allclose(ds.ImagePositionPatient, volume.geometry.to_lps((z, 0, 0)), atol=1e-4)
        assert np.allclose(ds.PixelSpacing, COARSE[1:])
        assert ds.ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
        assert ds.SOPClassUID == CTImageStorage
        assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
        assert ds.SOPInstanceUID == _dicom_slice(volume, z, 1, ds.StudyDate).SOPInstanceUID, "UIDs follow from the seed"
    assert len({ds.SOPInstanceUID for ds in slices}) == len(slices)
    assert len({ds.SeriesInstanceUID for ds in slices}) == 1
    assert [ds.InstanceNumber for ds in slices] == list(range(len(slices), 0, -1))
    assert slices[0].SeriesInstanceUID != _dicom_slice(volume, 0, 2, slices[0].StudyDate).SeriesInstanceUID


TYPE_1 = (
    "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID Modality ImageType "
    "SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation "
    "PixelData PixelSpacing ImageOrientationPatient ImagePositionPatient RescaleIntercept RescaleSlope RescaleType"
)
TYPE_2 = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID "
    "AccessionNumber SeriesNumber PositionReferenceIndicator Manufacturer InstanceNumber KVP AcquisitionNumber "
    "SliceThickness PatientPosition ContentDate ContentTime"
)


def test_dicom_has_what_ct_image_storage_asks_for(
    series: tuple[list[pydicom.Dataset], tuple[PhantomNodule, ...]],
) -> None:
    """Types 1 and 2 of PS3.3 A.3: patient, study, series, frame, equipment, image plane, pixel, CT, SOP."""
    for ds in series[0]:
        for keyword in TYPE_1.split():
            assert ds.get(keyword) not in (None, ""), keyword
        for keyword in TYPE_2.split():
            assert keyword in ds, keyword
        assert ds.PatientName == "Made^Up"


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BadOption, match="not empty"):
        write_phantom_dicom(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
