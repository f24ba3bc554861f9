"""Hounsfield units that cannot be a chest's, and the many that can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage, signal

from dicom_files import INTERCEPT, body, save, slices
from nodulens.data.phantom import phantom_ct
from nodulens.errors import BadValues
from nodulens.io import read
from nodulens.io.values import _prominence, check_hounsfield

HU = NDArray[np.int32]
SPACING = (2.5, 4.0, 4.0)
LUNG, AIR = (-950, -700), -900


def chest() -> HU:
    """A body of the size of a chest, with a spine: 60 × 360 × 400 mm (z, y, x)."""
    hu = body((24, 90, 100)).astype(np.int32)
    hu[:, 66:74, 46:54] += 800
    return hu


def lungs(hu: HU) -> NDArray[np.bool_]:
    return (hu > LUNG[0]) & (hu < LUNG[1])


def check(hu: NDArray[np.generic], spacing: tuple[float, float, float] = SPACING) -> tuple[str, ...]:
    return check_hounsfield(hu, "scan", spacing)


def slope(hu: HU, factor: float, intercept: int = INTERCEPT) -> HU:
    """What stored values become with another slope."""
    return np.rint((hu - intercept) * factor + intercept).astype(np.int32)


FAULTS: dict[str, tuple[Callable[[HU], HU], str]] = {
    "400 HU too high": (lambda hu: hu + 400, "soft tissue lies near 4[0-9]{2} HU"),
    "400 HU too low": (lambda hu: hu - 400, "soft tissue lies near −3[0-9]{2} HU"),
    "1024 HU too low": (lambda hu: hu - 1024, "6[0-9]% of the voxels lie below −1500 HU"),
    "halved": (lambda hu: hu // 2, "hardly a voxel lies below −5[0-9]{2} HU, but air is near −1000"),
    "doubled": (lambda hu: hu * 2, "6[0-9]% of the voxels lie below −1500 HU"),
    "half the slope": (lambda hu: slope(hu, 0.5), "soft tissue lies near −4[0-9]{2} HU"),
    "twice the slope": (lambda hu: slope(hu, 2), "soft tissue lies near 11[0-9]{2} HU"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_refused(fault: str) -> None:
    change, phrase = FAULTS[fault]
    with pytest.raises(BadValues, match=rf"^scan: {phrase}.*: its rescale to HU is wrong or was applied twice"):
        check(change(chest()))


@pytest.mark.parametrize("name", ["LIDC-IDRI-0028", "Lung_Dx-A0001"])
def test_a_real_scan_with_a_fault(shared: Path, name: str) -> None:
    volume = read(shared / "ct" / name)
    hu, spacing = volume.hu[:, ::4, ::4].astype(np.int32), volume.geometry.spacing_zyx
    coarse = (spacing[0], 4 * spacing[1], 4 * spacing[2])
    middle = hu[:, 25:105, 20:108]
    assert check(hu, coarse) == check(middle, coarse) == ()
    for change, _ in FAULTS.values():
        for part in (hu, middle):
            with pytest.raises(BadValues, match="its rescale to HU is wrong"):
                check(change(part), coarse)
    hu[7] += 2048
    (warning,) = check(hu, coarse)
    assert warning.startswith("HU jump between neighbouring slices 7 and 8 (+20")


@pytest.mark.parametrize("name", ["LIDC-IDRI-0001", "LIDC-IDRI-0003", "LIDC-IDRI-0028", "Lung_Dx-A0001"])
def test_a_real_scan_that_is_shifted_is_noticed(shared: Path, name: str) -> None:
    """As docs/safety.md counts: from 100 HU a warning at least, from 150 an error; what is sound passes."""
    volume = read(shared / "ct" / name)
    hu, spacing = volume.hu[:, ::4, ::4].astype(np.int32), volume.geometry.spacing_zyx
    coarse = (spacing[0], 4 * spacing[1], 4 * spacing[2])
    for part in (hu, np.clip(hu, -1024, 3071)):
        for shift in (50, -50, 100, -100, 150, -150, 200, -200):
            assert noticed(part + shift, coarse) in OUTCOMES[abs(shift)], shift
    for part in (hu[:, 25:105, 20:108], padded(hu, -3024)):
        for shift in (100, 150, 200):
            assert noticed(part + shift, coarse) != "passed", shift
    in_contrast = np.where((hu > 0) & (hu < 100) & (np.indices(hu.shape)[2] % 8 < 3), hu + 180, hu)
    masked = np.where(ndimage.binary_fill_holes(hu > -400, structure=np.ones((1, 3, 3))), hu, -1000)
    for sound in (hu, in_contrast, masked, padded(in_contrast, -2000)):
        assert noticed(sound, coarse) == "passed"


OUTCOMES = {50: ("passed", "warned"), 100: ("warned", "refused"), 150: ("refused",), 200: ("refused",)}


def noticed(hu: HU, spacing: tuple[float, float, float]) -> str:
    try:
        warnings = check(hu, spacing)
    except BadValues as error:
        assert "air, fat and muscle lie about" in str(error) or "soft tissue lies near" in str(error)
        return "refused"
    assert all("muscle" in warning for warning in warnings)
    return "warned" if warnings else "passed"


def padded(hu: HU, value: int) -> HU:
    return np.where((hu < AIR) & ~lungs(hu), value, hu)


def metal(hu: HU) -> HU:
    hu[:, 40:50, 45:50] = 20_000
    return hu


SOUND: dict[str, Callable[[HU], HU]] = {
    "as it is": lambda hu: hu,
    "without air outside": lambda hu: hu[:, 20:70, 15:85],
    "lungs as thin as air": lambda hu: np.where(lungs(hu), hu - 138, hu),
    "low dose": lambda hu: hu + np.random.default_rng(1).normal(0, 100, hu.shape).astype(np.int32),
    "metal": metal,
    "contrast": lambda hu: np.where((hu > 30) & (np.indices(hu.shape)[2] % 4 == 0), hu + 250, hu),
    "cut off": lambda hu: np.clip(hu, -1000, 400),
    "in steps of 8": lambda hu: np.clip(hu, -1000, 400) // 8 * 8,
    "ramp of blurred padding": lambda hu: np.where(np.indices(hu.shape)[1] < 8, -2000 + hu % 30, hu),
    "without noise": lambda hu: np.select([lungs(hu), hu > -300], [-850, 40], -1000),
}


@pytest.mark.parametrize("kind", SOUND)
def test_sound(kind: str) -> None:
    assert check(SOUND[kind](chest())) == ()


@pytest.mark.parametrize("value", [-3024, -2000, -1024, -200, 0, 170, 3071])
def test_any_constant_outside_or_round_the_lungs(value: int) -> None:
    hu = chest()
    assert check(padded(hu, value)) == ()
    assert check(np.where(lungs(hu), hu, value) if value > -500 else padded(hu, value)) == ()


def test_a_mask_is_not_refused_by_what_is_left() -> None:
    hu = chest()
    held = np.where(lungs(hu), hu + 450, -1000)
    held[:, 40:44, 30] = 50
    (warning,) = check(held)
    assert "may not be Hounsfield units: " in warning


def test_odd_but_possible_is_a_warning() -> None:
    (warning,) = check(chest() + 110)
    assert warning.startswith("The values may not be Hounsfield units: soft tissue lies near 15")


def test_a_crop_holds_what_it_holds() -> None:
    hu = chest()
    assert check(hu[:, 30:50, 20:45] + 400) == ()
    assert check_hounsfield(hu + 400, "scan") == ()


def test_the_phantom() -> None:
    hu = phantom_ct(spacing_zyx=(10.0, 3.0, 3.0))[0].hu.astype(np.int32)
    assert check(hu, (10.0, 3.0, 3.0)) == ()
    assert check(np.where((hu < -700) & (hu > -950), hu - 130, hu), (10.0, 3.0, 3.0)) == ()


# --- one slice among others ----------------------------------------------------------------------


def test_one_slice_off_in_a_series(tmp_path: Path) -> None:
    series = slices()
    series[3].RescaleIntercept = 1024
    (warning,) = read(save(tmp_path, series)).source.warnings
    assert "slices 3 and 4 (+204" in warning and "4 and 5 (−204" in warning


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda hu: hu[5] + 400, r"5 and 6 \(\+4"),
        (lambda hu: hu[5] - 400, r"5 and 6 \(−4"),
        (lambda hu: slope(hu[5], 0.5), r"5 and 6 \(−5"),
        (lambda hu: hu[5] * 2, r"5 and 6 \(−"),
    ],
)
def test_one_slice_off(change: Callable[[HU], HU], where: str) -> None:
    hu = chest()
    hu[5] = change(hu)
    (warning,) = check(hu)
    assert warning.startswith("HU jump between neighbouring slices")
    with pytest.raises(AssertionError, match=where):
        raise AssertionError(warning)


def test_the_last_slice_and_a_part_of_a_scan_off() -> None:
    hu = chest()
    hu[-1] += 300
    assert "23 and 24 (+2" in check(hu)[0]
    hu = chest()
    hu[18:] -= 300
    assert "18 and 19 (−3" in check(hu)[0]


def test_every_other_slice_off_is_refused() -> None:
    hu = chest()
    hu[::2] += 500
    with pytest.raises(BadValues, match=r"scan: HU jump between 23 of 23 pairs of neighbouring slices, 1 and 2 \(−"):
        check(hu)


def test_anatomy_is_no_jump() -> None:
    hu = chest()
    hu[12:, :45] = 50  # a diaphragm as flat as none
    hu[12:, 45:, :50] = 50
    assert check(hu) == ()


# --- other formats -------------------------------------------------------------------------------


def test_formats_are_held_to_the_same(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(chest().astype(np.int16) + 400)
    image.SetSpacing(SPACING[::-1])
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    with pytest.raises(BadValues, match=r"a\.mha»: soft tissue lies near"):
        read(tmp_path / "a.mha")
    hu = chest().astype(np.int16)
    hu[3] += 500
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / "b.nrrd"))
    assert any("HU jump between neighbouring slices 3 and 4" in w for w in read(tmp_path / "b.nrrd").source.warnings)


def test_a_series_of_half_the_slope(tmp_path: Path) -> None:
    series = slices(chest().astype(np.int16), PixelSpacing=[4, 4], RescaleSlope=0.5)
    with pytest.raises(BadValues, match=r"^Series [\d.]+: soft tissue lies near −4"):
        read(save(tmp_path, series))


def test_peaks_rise_as_scipy_measures_them() -> None:
    """Ours spare the import of scipy.signal, which takes longer than reading a scan."""
    rng = np.random.default_rng(0)
    for width in range(1, 40):
        values = np.convolve(rng.random(300) ** 4, np.ones(width), mode="same")
        tops = signal.find_peaks(values)[0]
        assert [_prominence(values, int(top)) for top in tops] == signal.peak_prominences(values, tops)[0].tolist()
