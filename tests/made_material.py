"""A data folder in the layout of the real one, small and made up: what training can be run through in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

import made_reports
import small_scans
from nodulens.data.folds import EVALUATION_PATIENTS
from nodulens.data.jpegls import encode, mosaic
from nodulens.data.material import CROP_STEPS, PATCH_STEPS, Background
from nodulens.ops.intensity import Quantization
from nodulens.train.tasks.slice_material import Slab

NODULES = 60
SLICES = 4


def write(folder: Path) -> Path:
    """Stacks, cubes, patches, LUNA16 tables and backgrounds; the evaluation patients stand in all but the last."""
    rng = np.random.default_rng(0)
    for name in ("ct", "lidc", "luna16", "background"):
        (folder / name).mkdir(parents=True)
    patients = [f"LIDC-IDRI-{n + 100:04d}" for n in range(NODULES)]
    patients[5], patients[17], patients[29] = sorted(EVALUATION_PATIENTS)[:3]
    _stacks(folder / "lidc", patients, rng)
    _cubes(folder / "lidc", patients[:12], rng)
    _patches(folder / "luna16", patients, rng)
    hu = np.asarray(small_scans.noisy().hu)
    for number, patient in enumerate(Background.PATIENTS):
        steps = CROP_STEPS.steps(np.roll(hu, number, axis=1))
        image = sitk.GetImageFromArray(steps)
        image.SetSpacing(made_reports.SPACING[::-1])
        image.SetOrigin(small_scans.noisy().geometry.origin_lps)
        sitk.WriteImage(image, str(folder / "background" / f"{patient}.nii.gz"))
    return folder


def slab(patient: str, whole_mm: float = 0.8, n: int = 3) -> Slab:
    """40 × 60 pixels of 5 mm; the first slice shows a nodule of 250 HU."""
    hu = np.full((n, 40, 60), -1000, dtype=np.int16)
    hu[:, 5:35, 5:55] = -200
    nodule = np.zeros(hu.shape, dtype=bool)
    nodule[0, 10:18, 20:28] = True
    hu[nodule] = 250
    hu[1, 28:34, 28:34] = 3000  # beyond what our networks see
    return Slab(patient, hu, np.ones(hu.shape, np.uint8), nodule, (5.0, 5.0), whole_mm)


def _ball(shape: tuple[int, ...], radius: NDArray[np.float64] | float, spacing: tuple[float, ...]) -> NDArray[np.bool_]:
    axes = [(np.arange(n) - n // 2) * s for n, s in zip(shape, spacing, strict=True)]
    return np.asarray(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")) < radius**2)


def _steps(dense: NDArray[np.bool_], steps: Quantization, rng: np.random.Generator) -> NDArray[np.uint8]:
    hu = np.where(dense, 0.0, -850.0) + rng.normal(0, 30, dense.shape)
    return steps.steps(hu)


def encoded(pictures: list[NDArray[np.uint8]], shape: tuple[int, ...]) -> dict[str, NDArray[np.integer]]:
    """Pictures as the files hold them."""
    streams = encode(pictures)
    return {"hu_jls": streams.data, "hu_offset": streams.offset, "hu_shape": np.array(shape, np.int32)}


def _ratings(suspicious: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(N, 4, 9): three readers or four; the last rating is of malignancy."""
    n = len(suspicious)
    out = rng.integers(1, 6, (n, 4, 9)).astype(np.uint8)
    out[:, :, 8] = np.where(suspicious[:, None], rng.integers(4, 6, (n, 4)), rng.integers(1, 3, (n, 4)))
    out[::4, 3] = 0
    return out


def _stacks(folder: Path, patients: list[str], rng: np.random.Generator) -> None:
    n = len(patients)
    radius = rng.uniform(3.2, 9.0, n)
    dense = np.stack([_ball((SLICES, 96, 96), r, (2.0, 0.7, 0.7)) for r in radius])
    ratings = _ratings(radius + rng.normal(0, 1, n) > 6, rng)
    readers = (ratings[:, :, 8] > 0).sum(1).astype(np.uint8)
    bits = np.stack([d * ((1 << int(k)) - 1) for d, k in zip(dense, readers, strict=True)]).astype(np.uint8)
    rows = n * SLICES
    # a nodule's slices stand in any order in the file
    order = np.argsort(rng.permutation(rows).reshape(n, SLICES), axis=1)
    steps = _steps(dense, CROP_STEPS, rng)
    mixed = [image[own] for image, own in zip(steps, order, strict=True)]
    np.savez(
        folder / "lidc_nodule_stacks.npz",
        **encoded([image.reshape(-1, 96) for image in mixed], (rows, 96, 96)),
        reader_bits=np.concatenate([held[own] for held, own in zip(bits, order, strict=True)]),
        slice_nodule=np.repeat(np.arange(n), SLICES),
        slice_z_mm=(order * 2.0).ravel(),
        slice_calibration=np.ones(rows, np.uint8),
        patient_id=np.array(patients),
        pixel_spacing_mm=np.full(n, 0.7, np.float32),
        slice_spacing_mm=np.full(n, 2.0, np.float32),
        slice_thickness_mm=np.full(n, 2.5, np.float32),
        readers=readers,
        ratings=ratings,
    )


def _cubes(folder: Path, patients: list[str], rng: np.random.Generator) -> None:
    """Nodules in the middle, a vessel with two knots beside each, and what cubes may have: the third stands as a turned
    scan stores it, the fourth ends with its scan, the fifth shows another nodule, and the last finding that LUNA16
    excludes lies in the first."""
    n = len(patients)
    radius = rng.uniform(2.5, 9.0, n)
    dense = np.stack([_ball((50, 50, 50), r, (1.0, 1.0, 1.0)) for r in radius])
    vessel = np.zeros((50, 50, 50), dtype=bool)
    vessel[:, 13:16, 13:16] = True
    vessel[3:8, 12:17, 12:17] = vessel[20:25, 12:17, 12:17] = True
    shown = dense | vessel
    other = np.zeros(dense.shape, dtype=bool)
    other[4, 35:40, 35:40, 35:40] = True
    size = np.full((n, 3), 50, np.uint8)
    size[3, 0], sign = 44, np.ones((n, 2), np.int8)
    sign[2] = -1
    shown[2], dense[2] = shown[2, :, ::-1, ::-1], dense[2, :, ::-1, ::-1]
    ratings = _ratings(radius > 6, rng)
    readers = (ratings[:, :, 8] > 0).sum(1).astype(np.uint8)
    bits = np.stack([d * ((1 << int(k)) - 1) for d, k in zip(dense, readers, strict=True)]).astype(np.uint8)
    np.savez(
        folder / "luna16_cubes_50mm.npz",
        **encoded([mosaic(cube, 10, 5) for cube in _steps(shown | other, CROP_STEPS, rng)], (50, 50, 50)),
        reader_bits=bits,
        other=np.packbits(other, axis=-1),
        size=size,
        sign=sign,
        origin_lps=np.zeros((n, 3)),
        centre_lps=np.array([(-24.0, -24.0, 25.0) if s[0] < 0 else (25.0, 25.0, 25.0) for s in sign]),
        diameter_mm=(2 * radius).astype(np.float32),
        slice_thickness_mm=np.full(n, 1.25, np.float32),
        stack_nodule=np.where(np.arange(n) < 3, np.arange(n), -1).astype(np.int32),
        excluded_cube=np.array([1, 0], np.int32),
        excluded_zyx=np.array([(25, 25, 25), (14, 14, 14)], np.float32),
        excluded_diameter_mm=np.array([6.0, -1.0], np.float32),
        patient_id=np.array(patients),
        readers=readers,
        ratings=ratings,
    )


def _patches(folder: Path, patients: list[str], rng: np.random.Generator) -> None:
    """One nodule a patient, shown twice where its number is even, and six non-nodules; one of those in a finding that
    LUNA16 excludes."""
    images, series, centres, diameters, owners = [], [], [], [], []
    tables: dict[str, list[str]] = {"annotations": [], "annotations_excluded": []}
    for number, patient in enumerate(patients):
        uid = f"1.2.3.{number}"
        tables["annotations"].append(f"{uid},10,20,{number},8.0")
        tables["annotations_excluded"].append(f"{uid},-70,20,{number},-1")
        for k in range(8 if number % 2 == 0 else 7):
            nodule = k >= 6
            dense = _ball((64, 64), 5.0, (0.7, 0.7)) if nodule else _ball((64, 64), 1.5, (0.7, 0.05))
            images.append(_steps(dense, PATCH_STEPS, rng))
            series.append(uid)
            # the first non-nodule lies 4 mm off the excluded finding, which counts as 10 mm wide
            centres.append((10.0 + k - 6, 20.0, number) if nodule else (-74.0 - 20 * k, 20.0, number))
            diameters.append(8.0 if nodule else 0.0)
            owners.append(patient)
    whole = np.stack(images)
    filled = np.pad(whole, ((0, -len(whole) % 64), (0, 0), (0, 0)))
    np.savez(
        folder / "luna16_axial_patches_64.npz",
        **encoded([mosaic(filled[k : k + 64], 8, 8) for k in range(0, len(filled), 64)], whole.shape),
        series_uid=np.array(series),
        world_xyz_mm=np.array(centres),
        nodule_diameter_mm=np.array(diameters, np.float32),
        patient_id=np.array(owners),
    )
    for name, rows in tables.items():
        text = "\n".join(["seriesuid,coordX,coordY,coordZ,diameter_mm", *rows])
        (folder / f"{name}.csv").write_text(text + "\n")
