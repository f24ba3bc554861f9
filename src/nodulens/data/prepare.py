"""Prepare crops and slices of scans for training, in parallel and resumably.

Every scan becomes one file ``scans/<series UID>.<fingerprint>.npz``, written atomically. The fingerprint covers the
scan's files, its annotations and the settings; if any changes, the scan is prepared again. Whole slices stay in that
file, where :class:`nodulens.data.whole_slices.WholeSlices` reads them. When all scans are done their crops are joined
into the files of :mod:`nodulens.data.material`::

    OUT/lidc/lidc_nodule_stacks.npz            96 × 96 pixels of every slice that a reader outlined
    OUT/lidc/luna16_cubes_50mm.npz             50³ voxels of 1 mm around every nodule
    OUT/luna16/luna16_axial_patches_64.npz     64 × 64 pixels around LUNA16's nodules and candidates
    OUT/luna16/annotations.csv, …              the tables that the patches belong to
    OUT/prepared.json                          record of the run: counts, and the file in scans/ of every scan

so ``--data OUT`` trains on the user's full data as on any other. Images of the joined files are lossless JPEG-LS
streams (:mod:`nodulens.data.jpegls`): one for each nodule, its slices one below the other; one for each cube; one for
every 64 patches.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.private import own_folder
from nodulens.core.volume import AIR_HU, Mask, Volume, crop_array
from nodulens.data.jpegls import encode, mosaic
from nodulens.data.lidc import LidcNodule, LidcScan, cluster, ratings_of, slice_index
from nodulens.data.lidc_ct import box_on, masks_on, middle_on, slices_mm
from nodulens.data.lidc_xml import read_folder
from nodulens.data.luna16 import AIRWAYS, ANNOTATIONS, EXCLUDED, SIDES, Candidates, Finding, Luna16, read_lungs
from nodulens.data.material import (
    CROP_STEPS,
    CUBE_MM,
    CUBE_TILES,
    CUBES,
    MOST_READERS,
    PATCH_PX,
    PATCH_STEPS,
    PATCH_TILES,
    PATCHES,
    STACK_PX,
    STACKS,
)
from nodulens.data.ratings import RATINGS
from nodulens.data.whole_slices import FORM, MANIFEST, SCANS, PreparedScans, read_prepared
from nodulens.errors import NoLungs, NotFound, UnreadableFile, input_errors
from nodulens.io import read, records
from nodulens.io.archive import BROKEN
from nodulens.io.atomic import whole_file
from nodulens.metrics.segmentation import consensus
from nodulens.ops.orient import Reorientation, canonical
from nodulens.ops.processes import in_processes
from nodulens.ops.resample import resample_array

VERSION = 3
"""Incremented with every change of the crops that an input gives."""
NATIVE = 0
"""``slice_calibration`` of slices taken from the scan itself."""
THROUGH, WITHOUT = 2, 4
"""Largest number of slices through a nodule besides its central one, and of slices of a scan without a nodule."""
FILES = {"stacks": STACKS, "cubes": CUBES, "patches": PATCHES}
CONSTANT = ("rating_names", "hu_mosaic")
"""Arrays without a row for each nodule, slice or patch."""
NUMBERS = ("slice_nodule", "stack_nodule", "excluded_cube")
"""Arrays of nodule numbers within a scan, which are offset in a joined file."""

Arrays = dict[str, NDArray[Any]]
FindLungs = Callable[[Volume], Mask]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Job:
    """One scan to be prepared.

    Attributes:
        series_uid: of the scan.
        path: folder of DICOM slices, or a MetaImage header.
        scan: its outlines; None to read LIDC's XML in or beside the folder.
        centres_lps: (P, 3) LPS mm of the patches to cut; none for a scan outside LUNA16.
        diameters_mm: (P,) of the nodule that a patch shows, 0 for a non-nodule.
        findings, excluded: LUNA16's nodules in the scan, and the findings that its scoring excludes.
        lungs: LUNA16's mask of its lungs and airways, if there is one.
        find_lungs: a module's function that labels the left lung 1 and the right 2 on a volume in canonical
            orientation, used without such a mask. With neither, no whole slices are cut.
    """

    series_uid: str
    path: Path
    scan: LidcScan | None
    centres_lps: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    diameters_mm: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    findings: tuple[Finding, ...] = ()
    excluded: tuple[Finding, ...] = ()
    lungs: Path | None = None
    find_lungs: FindLungs | None = None

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the scan's files (their names, sizes and times), its lung mask, its
        outlines and ratings, LUNA16's findings, its patches, and the version of the crops."""
        beside = "*.xml" if self.path.is_dir() and self.scan is None else f"{self.path.stem}.*"
        files = sorted([*(self.path.iterdir() if self.path.is_dir() else ()), *self.path.parent.glob(beside)])
        if self.lungs is not None:
            files += sorted(self.lungs.parent.glob(f"{self.lungs.stem}.*"))
        facts = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
        finder = f"{self.find_lungs.__module__}.{self.find_lungs.__qualname__}" if self.find_lungs else None
        digest = hashlib.sha256(repr((VERSION, facts, finder, self.series_uid, self.findings, self.excluded)).encode())
        for reading in self.scan.readings if self.scan else ():
            digest.update(reading.ratings.tobytes())
            for contour in reading.contours:
                digest.update(repr((contour.z_mm, contour.inclusion)).encode() + contour.xy.tobytes())
        digest.update(self.centres_lps.tobytes() + self.diameters_mm.tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Prepared:
    """The result of a run.

    Attributes:
        made, skipped: scans prepared now, and those prepared before.
        failed: series UID → why; the crops of all others are joined.
        rows: "stacks", "cubes", "patches" and "slices" → number of nodules, cubes, patches and whole slices.
        unsliced: series UID → why no whole slices could be cut; these scans still have crops.
    """

    made: int
    skipped: int
    failed: Mapping[str, str]
    rows: Mapping[str, int]
    unsliced: Mapping[str, str] = field(default_factory=dict)


def jobs_of_lidc(scans: Sequence[LidcScan], folders: Mapping[str, Path]) -> tuple[Job, ...]:
    """A job for every scan with a CT, in the folders of :func:`nodulens.data.lidc_ct.find_scans`."""
    return tuple(Job(s.series_uid, folders[s.series_uid], s) for s in scans if s.series_uid in folders)


def jobs_of_xml(folders: Mapping[str, Path]) -> tuple[Job, ...]:
    """A job for every CT, with outlines in the XML that TCIA ships beside it; a CT without one fails by itself."""
    return tuple(Job(uid, folder, None) for uid, folder in folders.items())


def jobs_of_luna16(luna: Luna16, candidates: Candidates | None, negatives: int = 20, seed: int = 0) -> tuple[Job, ...]:
    """A job for every available scan, with patches and lung masks.

    Patches are of every annotation, of every candidate on one, and of a random sample of the other candidates.

    Args:
        luna: with its files.
        candidates: None for patches of the annotations only.
        negatives: largest number of non-nodules in a scan.
        seed: of the sample.

    Raises:
        NotFound: a scan that the LIDC database does not know.
    """
    rows: dict[str, NDArray[np.int_]] = {}
    if candidates is not None:
        order = np.argsort(candidates.series_uids, kind="stable")
        names, first = np.unique(candidates.series_uids[order], return_index=True)
        rows = dict(zip(names.tolist(), np.split(order, first[1:]), strict=True))
    jobs = []
    for uid, path in luna.files.items():
        findings = [f for f in luna.annotations.get(uid, ()) if f.diameter_mm]
        centres = [np.reshape([f.centre_lps for f in findings], (-1, 3))]
        diameters = [np.array([f.diameter_mm or 0.0 for f in findings])]
        if candidates is not None and uid in rows:
            own, on = candidates.centres_lps[rows[uid]], candidates.labels[rows[uid]]
            sizes = np.array([_diameter_at(centre, findings) for centre in own[on]])
            rng = np.random.default_rng([seed, *uid.encode()])
            away = np.flatnonzero(~on)
            sampled = np.sort(rng.permutation(away)[:negatives])
            centres += [own[on][sizes > 0], own[sampled]]
            diameters += [sizes[sizes > 0], np.zeros(len(sampled))]
        mask = luna.lungs_file(uid)
        jobs.append(
            Job(
                uid,
                path,
                luna.scan(uid),
                np.concatenate(centres),
                np.concatenate(diameters),
                tuple(luna.annotations.get(uid, ())),
                tuple(luna.excluded.get(uid, ())),
                mask if mask.is_file() else None,
            )
        )
    return tuple(jobs)


def _diameter_at(centre: NDArray[np.float64], findings: Sequence[Finding]) -> float:
    """The diameter of the nearest finding whose ball contains a point; 0 without one."""
    away = [(float(np.linalg.norm(np.subtract(f.centre_lps, centre))), f.diameter_mm or 0.0) for f in findings]
    return min([(d, size) for d, size in away if d <= size / 2], default=(0.0, 0.0))[1]


def prepare(
    jobs: Sequence[Job],
    out: str | Path,
    *,
    tables: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Prepare scans in parallel processes, and join their crops.

    A scan that fails does not affect others; the next run tries it again, as it does a scan whose file is damaged. Only
    one run at a time writes into a folder.

    Args:
        jobs: the scans; the joined files have these and no others.
        out: the folder, created if it does not exist.
        tables: the folder of LUNA16's tables, needed with patches: their tables are copied.
        workers: number of processes; None for one on each core.
        progress: called with the number of scans done, failed ones included, and of all.

    Raises:
        NotFound: there is no scan to prepare.
        BadOption: ``out`` is a file.
        CannotWrite: the disk is full, the folder read-only, or another run is writing there.
    """
    if not jobs:
        raise NotFound("There is no scan to prepare: no folder holds a CT of LIDC-IDRI or LUNA16.")
    with own_folder(Path(out)) as staging:
        return _prepare(jobs, _Place(Path(out), staging), tables, workers or os.cpu_count() or 1, progress)


@dataclass(frozen=True)
class _Place:
    """The folder of a run, and a private one for unfinished files."""

    out: Path
    staging: Path


def _prepare(
    jobs: Sequence[Job], place: _Place, tables: Path | None, workers: int, progress: Progress | None
) -> Prepared:
    folder = place.out / SCANS
    with input_errors(writing=place.out):
        folder.mkdir(exist_ok=True)
    targets = {job.series_uid: folder / f"{job.series_uid}.{job.fingerprint()}.npz" for job in jobs}
    waiting = [job for job in jobs if not _is_whole(targets[job.series_uid])]
    done = len(jobs) - len(waiting)
    failed: dict[str, str] = {}
    show = progress or (lambda *_: None)
    show(done, len(jobs))
    work = {job.series_uid: (job, targets[job.series_uid], place.staging) for job in waiting}
    for uid, problem in in_processes(_work, work, workers):
        done += 1
        if problem:
            failed[uid] = problem
        show(done, len(jobs))
    ready = {uid: path for uid, path in sorted(targets.items()) if uid not in failed}
    for uid, path in ready.items():
        for stale in set(folder.glob(f"{uid}.*.npz")) - {path}:
            stale.unlink()
    rows = _join(ready, failed, place)
    for table in (tables / ANNOTATIONS, tables / EXCLUDED) if tables and rows["patches"] else ():
        if table.is_file():
            with whole_file(place.out / "luna16" / table.name, place.staging) as part:
                shutil.copyfile(table, part)
    problems = {uid: str(_read_array(path, "slices.problem")[0]) for uid, path in ready.items()}
    unsliced = {uid: problem for uid, problem in problems.items() if problem}
    return Prepared(len(waiting) - len(failed), len(jobs) - len(waiting), failed, rows, unsliced)


def _work(job: Job, target: Path, staging: Path) -> None:
    arrays = crops_of(job)
    with whole_file(target, staging) as part:
        _write_arrays(part, arrays.items())


# ---------------------------------------------------------------- crops of one scan


def crops_of(job: Job) -> Arrays:
    """All crops of a scan: "stacks.hu_jls", "cubes.ratings", "patches.world_xyz_mm" …, as in the joined files, and its
    whole slices: "slices.hu_u8" …. Patches are "patches.hu_u8" until they are joined into pictures of 64.

    Raises:
        NodulensError: the scan cannot be read, or its outlines are on none of its slices.
    """
    series = job.series_uid if job.path.is_dir() else None
    if job.scan is None:
        volume, scan = read_folder(job.path, series=series)
    else:
        volume, scan = read(job.path, series=series), job.scan
    nodules = cluster(scan)
    groups = {
        "stacks": {**_about(nodules, scan), **_stacks(nodules, volume)},
        "cubes": {**_about(nodules, scan), **_cubes(job, nodules, volume)},
        "patches": {**_whose(scan, len(job.centres_lps)), **_patches(job, volume)},
        "slices": _slices(job, nodules, scan, volume),
    }
    return {f"{group}.{name}": array for group, arrays in groups.items() for name, array in arrays.items()}


def _about(nodules: Sequence[LidcNodule], scan: LidcScan) -> Arrays:
    """A row for each nodule; ratings of the first four readers."""
    n = len(nodules)
    ratings = ratings_of(nodules)
    return {
        **_whose(scan, n),
        "pixel_spacing_mm": np.full(n, scan.pixel_mm, dtype=np.float32),
        "slice_spacing_mm": np.full(n, scan.slice_mm, dtype=np.float32),
        "slice_thickness_mm": np.full(n, scan.slice_thickness_mm, dtype=np.float32),
        "readers": ratings.readers,
        "ratings": ratings.values[:, :MOST_READERS],
        "rating_names": np.array(RATINGS),
    }


def _whose(scan: LidcScan, rows: int) -> Arrays:
    return {"patient_id": np.full(rows, scan.patient_id, "U64"), "series_uid": np.full(rows, scan.series_uid, "U64")}


def _stacks(nodules: Sequence[LidcNodule], volume: Volume) -> Arrays:
    """Every slice that a reader outlined, 96 × 96 stored pixels around the centre of the outlines."""
    heights = slices_mm(volume.geometry)
    rank = np.argsort(np.argsort(heights))
    hu, bits, owner, marked, corners = [], [], [], [], []
    for number, nodule in enumerate(nodules):
        slices = np.unique(slice_index([c.z_mm for r in nodule.readings for c in r.contours], heights))
        slices = slices[np.argsort(heights[slices])]
        low, high = int(slices.min()), int(slices.max()) + 1
        middle = np.add(nodule.box.start[1:], nodule.box.stop[1:]) // 2
        row, column = (int(v) - STACK_PX // 2 for v in middle)
        box = Box((low, row, column), (high, row + STACK_PX, column + STACK_PX))
        hu.append(CROP_STEPS.steps(crop_array(volume.hu, box, AIR_HU)[slices - low]).reshape(-1, STACK_PX))
        bits.append(_bits(masks_on(nodule, volume.geometry, box)[:, slices - low]))
        owner.append(np.full(len(slices), number, dtype=np.int32))
        marked.append(slices)
        corners.append((row, column))
    slices = np.concatenate([np.zeros(0, dtype=int), *marked])
    row0, col0 = np.array(corners, dtype=np.int16).reshape(-1, 2).T
    picture = np.zeros((0, STACK_PX, STACK_PX), dtype=np.uint8)
    return {
        **_encoded(hu, np.array([len(slices), STACK_PX, STACK_PX], dtype=np.int32)),
        "reader_bits": np.concatenate([picture, *bits]),
        "slice_nodule": np.concatenate([np.zeros(0, dtype=np.int32), *owner]),
        "slice_z_mm": heights[slices].astype(np.float32),
        "slice_index": rank[slices].astype(np.int32),
        "slice_calibration": np.full(len(slices), NATIVE, dtype=np.uint8),
        "crop_row0": row0,
        "crop_col0": col0,
    }


def _cubes(job: Job, nodules: Sequence[LidcNodule], volume: Volume) -> Arrays:
    """50³ voxels of 1 mm around the centre of each nodule, axes rising towards superior, posterior and left.

    The centre is at voxel 25, unless the cube would begin before the scan: then it begins with the scan. Voxels beyond
    ``size`` are outside the scan.
    """
    n, shape = len(nodules), (CUBE_MM,) * 3
    hu, excluded = [], []
    bits, other = np.zeros((n, *shape), dtype=np.uint8), np.zeros((n, *shape), dtype=bool)
    origins, sizes = np.zeros((n, 3)), np.zeros((n, 3), dtype=np.uint8)
    middles = [middle_on(nodule, volume.geometry) for nodule in nodules]
    first, last = _extent(volume.geometry)
    for row, (nodule, middle) in enumerate(zip(nodules, middles, strict=True)):
        origins[row] = np.maximum(np.subtract(middle, CUBE_MM // 2), first + 0.5)
        sizes[row] = np.minimum(np.floor(last - origins[row]).astype(int) + 1, CUBE_MM)[::-1]
        x, y, z = (float(v) for v in origins[row])
        cube = Geometry.axial(shape, origin_lps=(x, y, z))
        around = _around(cube, volume.geometry)
        crop, orientation = canonical(volume.crop(around))

        own = masks_on(nodule, volume.geometry, around)
        others = np.zeros((1, *around.shape), dtype=bool)
        for neighbour in nodules:
            if neighbour is not nodule:
                others |= masks_on(neighbour, volume.geometry, around).any(axis=0)
        # nearest neighbour preserves volumes; interpolation would shrink small nodules
        masks = (resample_array(orientation.apply(m), crop.geometry, cube, order=0, fill=0) for m in (*own, *others))
        *readers, foreign = masks
        hu.append(mosaic(CROP_STEPS.steps(resample_array(crop.hu, crop.geometry, cube, fill=AIR_HU)), *CUBE_TILES))
        bits[row], other[row] = _bits(np.stack(readers)), foreign > 0
        excluded += [(row, *found) for found in _excluded(job.excluded, cube, bits[row] > 0, other[row])]
    nearest = ((finding.nearest(nodules, np.reshape(middles, (-1, 3))), finding) for finding in job.findings)
    known = {id(nodule): finding for nodule, finding in nearest if nodule is not None}
    found = [known.get(id(nodule)) for nodule in nodules]
    centres = [f.centre_lps if f else middle for f, middle in zip(found, middles, strict=True)]
    return {
        **_encoded(hu, np.array(shape, dtype=np.int16)),
        "hu_mosaic": np.array(CUBE_TILES, dtype=np.int16),
        "reader_bits": bits,
        "other": np.packbits(other, axis=-1),
        "centre_lps": np.array(centres, dtype=np.float32).reshape(-1, 3),
        "diameter_mm": np.array([f.diameter_mm or -1.0 if f else -1.0 for f in found], dtype=np.float32),
        "origin_lps": origins,
        "sign": np.ones((n, 2), dtype=np.int8),
        "size": sizes,
        "in_luna16": np.array([f is not None for f in found], dtype=bool),
        "stack_nodule": np.arange(n, dtype=np.int32),
        "excluded_cube": np.array([row for row, *_ in excluded], dtype=np.int32),
        "excluded_zyx": np.array([place for _, place, *_ in excluded], dtype=np.float32).reshape(-1, 3),
        "excluded_diameter_mm": np.array([size for *_, size, _ in excluded], dtype=np.float32),
        "excluded_where": np.array([where for *_, where in excluded], dtype=np.uint8),
    }


def _extent(grid: Geometry) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """LPS mm of the outer faces of a scan along each axis of the body."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.shape])).reshape(3, -1).T
    points = grid.to_lps(corners)
    return points.min(axis=0), points.max(axis=0)


def _excluded(
    findings: Sequence[Finding], cube: Geometry, own: NDArray[np.bool_], other: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.float64], float, int]]:
    """Index (z, y, x), diameter (−1 unknown) and code of each finding in a cube: 1 on its nodule, 2 on another, else
    0."""
    for finding in findings:
        index = cube.to_index(finding.centre_lps)
        nearest = np.rint(index).astype(int)
        if ((nearest >= 0) & (nearest < cube.shape)).all():
            where = 1 if own[tuple(nearest)] else 2 if other[tuple(nearest)] else 0
            yield index, finding.diameter_mm or -1.0, where


def _encoded(pictures: Sequence[NDArray[np.uint8]], shape: NDArray[Any]) -> Arrays:
    streams = encode(pictures)
    return {"hu_jls": streams.data, "hu_offset": streams.offset, "hu_shape": shape}


def _around(cube: Geometry, grid: Geometry) -> Box:
    """The box of a grid that contains a cube, with a margin of one voxel for interpolation."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in cube.shape])).reshape(3, -1).T
    index = grid.to_index(cube.to_lps(corners))
    z, y, x = np.floor(index.min(axis=0)).astype(int) - 1
    deep, low, right = np.ceil(index.max(axis=0)).astype(int) + 2
    return Box((z, y, x), (deep, low, right))


def _patches(job: Job, volume: Volume) -> Arrays:
    """The nearest axial slice, 64 × 64 pixels of the scan's own size, the centre at pixel (32, 32)."""
    turned, _ = canonical(volume)
    index = np.rint(turned.geometry.to_index(job.centres_lps)).astype(int)
    half = PATCH_PX // 2
    boxes = (Box((z, y - half, x - half), (z + 1, y + half, x + half)) for z, y, x in index)
    hu = [PATCH_STEPS.steps(crop_array(turned.hu, box, AIR_HU)) for box in boxes]
    return {
        "hu_u8": np.concatenate([np.zeros((0, PATCH_PX, PATCH_PX), dtype=np.uint8), *hu]),
        "world_xyz_mm": job.centres_lps.astype(np.float32),
        "nodule_diameter_mm": job.diameters_mm.astype(np.float32),
    }


def _slices(job: Job, nodules: Sequence[LidcNodule], scan: LidcScan, volume: Volume) -> Arrays:
    """Whole axial slices from low to high, rows rising towards posterior and columns towards left.

    Masks of nodules are the consensus of half of the readers. Without a source of lung masks there are no slices; if no
    lungs are found, there is a "problem" instead: stacks and cubes need no lungs.
    """
    turned, orientation = canonical(volume)
    problem, lungs = "", None
    try:
        lungs = _lungs(job, volume, orientation)
    except NoLungs as error:
        problem = str(error)
    agreed, areas, near = _outlined(nodules, volume.geometry, orientation)
    middle, central, others = np.zeros((3, len(agreed)), dtype=bool)
    if lungs is None:
        lungs = np.zeros(agreed.shape, dtype=np.uint8)
    cross_section = np.isin(lungs, SIDES).sum(axis=(1, 2))
    if cross_section.any():
        middle, central, others = _chosen(cross_section, areas, near, np.random.default_rng([*job.series_uid.encode()]))
    rows = np.flatnonzero(middle | central | others)
    slice_mm, row_mm, column_mm = turned.geometry.spacing_zyx
    return {
        **_whose(scan, len(rows)),
        "hu_u8": CROP_STEPS.steps(turned.hu[rows]),
        "lungs": lungs[rows],
        "nodule": agreed[rows],
        "middle": middle[rows],
        "central": central[rows],
        "nodule_px": agreed[rows].sum(axis=(1, 2), dtype=np.int32),
        "airway_px": (lungs[rows] == AIRWAYS).sum(axis=(1, 2), dtype=np.int32),
        "airways_known": np.full(len(rows), job.lungs is not None),
        "slice_z_mm": slices_mm(turned.geometry)[rows].astype(np.float32),
        "slice_spacing_mm": np.full(len(rows), slice_mm, dtype=np.float32),
        "slice_thickness_mm": np.full(len(rows), scan.slice_thickness_mm, dtype=np.float32),
        "lungs_ml": np.full(len(rows), cross_section.sum() * turned.geometry.voxel_mm3 / 1000, dtype=np.float32),
        "pixel_spacing_mm": np.full((len(rows), 2), (row_mm, column_mm), dtype=np.float32),
        "shape_px": np.full((len(rows), 2), agreed.shape[1:], dtype=np.int32),
        "problem": np.array([problem]),
    }


def _lungs(job: Job, volume: Volume, orientation: Reorientation) -> NDArray[np.uint8] | None:
    """(z, y, x) in canonical orientation: the left lung 1, the right 2, airways 3 if LUNA16's mask has them.

    Raises:
        NoLungs: none are found.
        BadGeometry: the mask is on another grid.
    """
    if job.lungs is not None:
        given = orientation.apply(read_lungs(job.lungs, volume.geometry).labels)
        if not np.isin(given, SIDES).any():
            raise NoLungs(f"{job.lungs} holds no lungs.")
        return given
    return job.find_lungs(canonical(volume)[0]).labels.astype(np.uint8) if job.find_lungs else None


def _outlined(
    nodules: Sequence[LidcNodule], grid: Geometry, orientation: Reorientation
) -> tuple[NDArray[np.bool_], NDArray[np.int_], NDArray[np.bool_]]:
    """In canonical orientation: (z, y, x) the consensus of half of the readers; (nodules, z) its area for each nodule;
    (z,) whether readers outlined anything there, or both above and below."""
    agreed = np.zeros(grid.shape, dtype=bool)
    areas = np.zeros((len(nodules), grid.shape[0]), dtype=int)
    near = np.zeros(grid.shape[0], dtype=bool)
    for nodule, area in zip(nodules, areas, strict=True):
        box = box_on(nodule, grid).clipped(grid.shape)
        own = consensus(masks_on(nodule, grid, box))
        agreed[box.slices] |= own
        area[box.slices[0]] = own.sum(axis=(1, 2))
        near[box.slices[0]] = True
    upwards = slice(None, None, -1 if orientation.flips[0] else None)
    return orientation.apply(agreed), areas[:, upwards], near[upwards]


def _chosen(
    cross_section: NDArray[np.int_], areas: NDArray[np.int_], near: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """(3, z) which slices are the middle one, central to a nodule, or others that are kept.

    The middle one has the largest cross-section of the lungs, a central one that of its nodule. Others are random: up
    to :data:`THROUGH` of each nodule, and up to :data:`WITHOUT` of the scan without any outline.
    """
    middle, central, others = out = np.zeros((3, len(near)), dtype=bool)
    middle[cross_section.argmax()] = True
    for area in areas[areas.any(axis=1)]:
        central[area.argmax()] = True
        others[rng.permutation(np.setdiff1d(np.flatnonzero(area), area.argmax()))[:THROUGH]] = True
    others[rng.permutation(np.flatnonzero(~near & ~middle))[:WITHOUT]] = True
    return out


def _bits(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(readers, …) → bit j set where reader j's mask is; at most eight readers."""
    return np.asarray(np.packbits(masks, axis=0, bitorder="little")[0])


# ---------------------------------------------------------------- files


def _join(ready: Mapping[str, Path], failed: Mapping[str, str], place: _Place) -> dict[str, int]:
    """Join the crops of scans, unless the joined files are of these very files."""
    out, manifest = place.out, place.out / MANIFEST
    prints = {uid: path.suffixes[-2][1:] for uid, path in ready.items()}
    known = _known(manifest)
    rows = known.rows
    whole = all(_is_whole(out / name) for group, name in FILES.items() if rows.get(group))
    if known.scans != prints or not whole:
        manifest.unlink(missing_ok=True)  # invalid from here on
        rows = {group: _join_group(group, list(ready.values()), name, place) for group, name in FILES.items()}
        rows["slices"] = sum(len(_read_array(path, "slices.patient_id")) for path in ready.values())
    with whole_file(manifest, place.staging) as part:
        part.write_text(records.encode(PreparedScans(rows, dict(sorted(failed.items())), prints), FORM), "utf-8")
    return rows


def _known(manifest: Path) -> PreparedScans:
    """The record of the last complete run; an empty one without a valid file."""
    try:
        return read_prepared(manifest)
    except (FileNotFoundError, UnreadableFile):
        return PreparedScans({}, {}, {})


def _join_group(group: str, paths: Sequence[Path], file: str, place: _Place) -> int:
    """Join one kind of crop of all scans, an array at a time; no file without crops."""
    target = place.out / file
    nodules = [_read_array(path, f"{group}.patient_id") for path in paths]
    rows = sum(map(len, nodules))
    if not rows:
        target.unlink(missing_ok=True)
        return 0
    with zipfile.ZipFile(paths[0]) as archive:
        names = [n.removesuffix(".npy").partition(".")[2] for n in archive.namelist() if n.startswith(f"{group}.")]
    first = np.cumsum([0, *map(len, nodules[:-1])])

    def joined() -> Iterator[tuple[str, NDArray[Any]]]:
        for name in names:
            parts = [_read_array(path, f"{group}.{name}") for path in paths[: 1 if name in CONSTANT else None]]
            if name == "hu_u8":
                yield from _patch_pictures(np.concatenate(parts)).items()
            elif name == "hu_shape":
                slices = np.array([sum(int(p[0]) for p in parts), *parts[0][1:]], dtype=np.int32)
                yield name, parts[0] if group == "cubes" else slices
            elif name == "hu_offset":
                yield name, np.cumsum(np.concatenate([[0], *map(np.diff, parts)]), dtype=np.int64)
            elif name in NUMBERS:
                yield name, np.concatenate([p + np.int32(offset) for p, offset in zip(parts, first, strict=True)])
            else:
                yield name, np.concatenate(parts)

    with input_errors(writing=place.out):
        target.parent.mkdir(exist_ok=True)
    with whole_file(target, place.staging) as part:
        _write_arrays(part, joined())
    return rows


def _patch_pictures(patches: NDArray[np.uint8]) -> Arrays:
    """(N, 64, 64) as pictures of 64 patches, the last padded with 0."""
    each = PATCH_TILES[0] * PATCH_TILES[1]
    filled = np.pad(patches, ((0, -len(patches) % each), (0, 0), (0, 0)))
    pictures = [mosaic(filled[k : k + each], *PATCH_TILES) for k in range(0, len(filled), each)]
    return _encoded(pictures, np.array(patches.shape, dtype=np.int32))


def _read_array(path: Path, name: str) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as archive:
        return np.asarray(archive[name])


def _is_whole(path: Path) -> bool:
    """Whether a file of arrays exists and all its checksums are correct."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except BROKEN:
        return False


def _write_arrays(path: Path, arrays: Any) -> None:
    """As :func:`numpy.savez_compressed`, but from an iterator of arrays."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
