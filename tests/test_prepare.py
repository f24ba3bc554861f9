"""Crops from whole scans: what they hold, going on after a stop, scans that fail, processes that die."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

import made_luna16
from nodulens.core.private import PARTIAL, own_folder
from nodulens.data.jpegls import Streams
from nodulens.data.lidc import LidcScan
from nodulens.data.lidc_ct import find_scans
from nodulens.data.luna16 import Finding, Luna16
from nodulens.data.material import CUBES, PATCHES, STACKS, Cubes, Patches, Stacks, read_arrays
from nodulens.data.prepare import (
    Job,
    Prepared,
    crops_of,
    jobs_of_lidc,
    jobs_of_luna16,
    jobs_of_xml,
    prepare,
)
from nodulens.data.whole_slices import WholeSlices
from nodulens.errors import CannotWrite, NotFound

if os.name == "posix":
    import resource

posix = pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX does")


def jobs_of(luna: Luna16, **changes: Any) -> tuple[Job, ...]:
    return jobs_of_luna16(luna, luna.candidates(), negatives=4, **changes)


def jobs_in(root: Path, count: int = 3) -> tuple[Job, ...]:
    return jobs_of(made_luna16.opened(root, count))


@pytest.fixture(scope="module")
def jobs(luna: Luna16) -> tuple[Job, ...]:
    return jobs_of(luna)


@pytest.fixture(scope="module")
def out(jobs: tuple[Job, ...], luna: Luna16, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans prepared in two processes."""
    folder = tmp_path_factory.mktemp("out")
    told: list[tuple[int, int]] = []
    done = prepare(jobs, folder, tables=luna.root, workers=2, progress=lambda *step: told.append(step))
    assert done == Prepared(3, 0, {}, {"stacks": 3, "cubes": 3, "patches": 18, "slices": 24})
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    return folder


# ---------------------------------------------------------------- what the crops hold


def test_training_reads_what_was_prepared(out: Path) -> None:
    stacks, cubes, patches = Stacks(out), Cubes(out), Patches(out)
    assert stacks.patients == cubes.patients == ["P0", "P1", "P2"]
    assert [i.stratum for i in stacks.items()] == ["benign", "malignant", "benign"]
    block = np.zeros((5, 96, 96), dtype=bool)
    block[:, 43:54, 42:55] = True  # its middle at pixel 48
    for item in stacks.items():
        sample = stacks.load(item)
        assert sample.reader_masks is not None and sample.reader_masks.shape == (3, *block.shape)
        assert (sample.reader_masks == block).all() and np.array_equal(sample.image == made_luna16.NODULE, block)
        assert sample.spacing_zyx == pytest.approx(made_luna16.SPACING)
    assert len(patches.label) == 18 and patches.label.sum() == 6
    assert np.allclose(patches.weight[patches.label], 0.5)  # an annotation and a candidate on each nodule
    assert set(patches.diameter_mm.tolist()) == {0.0, 9.5}


@pytest.mark.parametrize("number", range(3))
def test_cubes_rise_towards_superior_posterior_left(out: Path, luna: Luna16, number: int) -> None:
    cubes, raw = Cubes(out), read_arrays(out / CUBES)
    block = np.argwhere(cubes.masks(number).all(axis=0))
    lowest, highest = _faces(luna.root, number)
    begin = np.maximum(raw["centre_lps"][number] - 25, lowest + 0.5)  # a cube does not begin before its scan
    assert raw["origin_lps"][number] == pytest.approx(begin, abs=1e-3)
    middle = (raw["centre_lps"][number] - begin)[::-1]
    assert np.abs(block.mean(axis=0) - middle).max() < 0.6
    assert len(block) == pytest.approx(np.prod(made_luna16.BLOCK_MM), rel=0.15)
    hu = cubes.hu(number)
    assert hu[tuple(block.T)].mean() == pytest.approx(0, abs=120)  # its edge is blurred
    first = np.rint(middle).astype(int) + 10
    corner = hu[tuple(slice(k, k + 8) for k in first)]
    bright = np.array(np.unravel_index(corner.argmax(), corner.shape)) + first
    assert np.abs(bright - middle - made_luna16.MARKER_MM).max() <= 1.5 and corner.max() > -650
    z, y, _ = (slice(k, k + 8) for k in first)
    assert hu[z, y, 8:16].max() < -750  # nothing where it would be mirrored
    scanned = cubes.scanned(number)
    assert scanned.start == (0, 0, 0)
    assert scanned.stop == tuple(np.minimum(np.floor(highest - begin) + 1, 50)[::-1])
    z = scanned.stop[0]  # one voxel more is half air by interpolation
    assert (hu[z + 1 :] == -1000).all() and (hu[:z] > -1000).any(axis=(1, 2)).all()


def _faces(root: Path, number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """LPS mm of the scan's outer faces, low and high, by ITK."""
    (path,) = root.glob(f"subset*/{made_luna16.uid(number)}.mhd")
    image = sitk.ReadImage(str(path))
    ends = [(-0.5,) * 3, tuple(n - 0.5 for n in image.GetSize())]
    corners = np.array([image.TransformContinuousIndexToPhysicalPoint(end) for end in ends])
    return corners.min(axis=0), corners.max(axis=0)


def test_findings_that_luna16_excludes_go_with_their_cubes(jobs: tuple[Job, ...]) -> None:
    """Each with the cubes that it lies in, and whether it is their nodule."""
    (finding,) = jobs[0].findings
    x, y, z = finding.centre_lps
    beside, far = Finding((x + 12, y, z), None), Finding((x + 90, y, z), 4.0)
    crops = crops_of(replace(jobs[0], excluded=(finding, beside, far)))
    assert crops["cubes.excluded_cube"].tolist() == [0, 0] and crops["cubes.excluded_where"].tolist() == [1, 0]
    assert crops["cubes.excluded_diameter_mm"].tolist() == [9.5, -1]
    on = crops["cubes.centre_lps"][0] - crops["cubes.origin_lps"][0]
    assert np.allclose(crops["cubes.excluded_zyx"][:, ::-1], on + np.array([(0, 0, 0), (12, 0, 0)]), atol=0.01)


def test_patches_show_the_centre_at_32_32(out: Path, jobs: tuple[Job, ...]) -> None:
    raw, patches = read_arrays(out / PATCHES), Patches(out)
    on, hu = raw["nodule_diameter_mm"] > 0, patches.hu(np.arange(len(patches)))
    assert hu[on, 32, 32] == pytest.approx(0, abs=3)
    wanted = np.concatenate([job.centres_lps for job in jobs])
    assert np.abs(raw["world_xyz_mm"] - wanted).max() < 1e-3
    nodule = hu[on][::2, 20:44, 20:44] > -120
    assert (nodule.sum((1, 2)) == 11 * 13).all()  # the slice through the middle of the block


def headers(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Array → its shape but for the rows, and its kind of number; nothing but headers is read."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                np.lib.format.read_magic(member)
                shape, _, dtype = np.lib.format.read_array_header_1_0(member)
                found[name] = shape[1:], dtype.kind if dtype.kind == "U" else dtype.str
    return found


def test_the_files_are_those_of_the_public_crops(out: Path, shared: Path) -> None:
    """But for what can only be said of those: how they were matched with the challenge's scans, and their doubts."""
    public = {"number", "ipp", "registration", "doubt", "contrast_hu", "same_as"}
    for name in (STACKS, CUBES, PATCHES):
        theirs = headers(shared / name)
        assert headers(out / name) == {k: v for k, v in theirs.items() if k.removesuffix(".npy") not in public}


# ---------------------------------------------------------------- going on, failing, dying


def test_what_is_done_is_not_done_again(jobs: tuple[Job, ...], luna: Luna16, out: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.npz")}
    again = prepare(jobs, out, tables=luna.root, workers=2)
    assert (again.made, again.skipped) == (0, 3)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.npz")} == before


def test_what_changed_is_made_anew(tmp_path: Path) -> None:
    jobs, out = jobs_in(tmp_path / "in"), tmp_path / "out"
    prepare(jobs, out, workers=1)
    first = {p.name for p in (out / "scans").iterdir()}
    scan = jobs[1].scan
    assert scan is not None
    fewer = (jobs[0], replace(jobs[1], scan=replace(scan, readings=scan.readings[:2])), jobs[2])
    assert prepare(fewer, out, workers=1).made == 1
    assert len({p.name for p in (out / "scans").iterdir()} - first) == 1  # and the old one is gone
    assert len(list((out / "scans").iterdir())) == 3
    assert read_arrays(out / STACKS)["readers"].tolist() == [3, 2, 3]
    os.utime(jobs[0].path, ns=(1, 1))
    assert prepare(fewer, out, workers=1).made == 1
    assert prepare(fewer[:2], out, workers=1) == Prepared(
        0, 2, {}, {"stacks": 2, "cubes": 2, "patches": 12, "slices": 16}
    )
    assert len(list((out / "scans").iterdir())) == 3  # what another call made stays
    assert [scan.patient for scan in WholeSlices(out).scans] == ["P0", "P1"]


def test_a_scan_that_fails_costs_only_itself(tmp_path: Path) -> None:
    jobs, out = jobs_in(tmp_path / "in", 4), tmp_path / "out"
    raw = jobs[1].path.with_suffix(".raw")
    data = raw.read_bytes()
    raw.write_bytes(data[:1000])
    scan = jobs[2].scan
    assert scan is not None
    high = [replace(r, contours=tuple(replace(c, z_mm=900.0) for c in r.contours)) for r in scan.readings]
    other = replace(jobs[2], scan=replace(scan, readings=tuple(high), z_mm=(898.0, 900.0)))
    done = prepare((*jobs[:2], other, jobs[3]), out, workers=2)
    assert set(done.failed) == {made_luna16.uid(1), made_luna16.uid(2)}
    assert "promises" in done.failed[made_luna16.uid(1)] and "no slice" in done.failed[made_luna16.uid(2)]
    assert (done.made, done.rows["stacks"]) == (2, 2)
    assert Stacks(out).patients == ["P0", "P3"]
    raw.write_bytes(data)
    rows = {"stacks": 4, "cubes": 4, "patches": 24, "slices": 32}
    assert prepare(jobs, out, workers=2) == Prepared(2, 2, {}, rows)


@dataclass(frozen=True)
class Deadly:
    """A job whose process dies, as one does that the system kills for its memory."""

    series_uid: str = made_luna16.uid(99)
    scan: None = None

    def fingerprint(self) -> str:
        return "0" * 16

    @property
    def path(self) -> Path:
        os._exit(9)


def test_a_process_that_dies_costs_only_its_scan(tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path / "in")
    done = prepare((jobs[0], Deadly(), *jobs[1:]), tmp_path / "out", workers=2)  # type: ignore[arg-type]
    assert list(done.failed) == [made_luna16.uid(99)] and "killed" in done.failed[made_luna16.uid(99)]
    assert done.made == 3 and done.rows["stacks"] == 3


RUN = """
import pickle, sys
from pathlib import Path
from nodulens.data.prepare import prepare
if __name__ == "__main__":
    prepare(pickle.loads(Path(sys.argv[1]).read_bytes()), sys.argv[2], workers=2)
"""


@posix
def test_a_kill_leaves_nothing_half_made_and_the_next_run_finishes(tmp_path: Path) -> None:
    jobs, out = jobs_in(tmp_path / "in", 16), tmp_path / "out"
    script, pickled = tmp_path / "run.py", tmp_path / "jobs"
    script.write_text(RUN)
    pickled.write_bytes(pickle.dumps(jobs))
    run = subprocess.Popen([sys.executable, script, pickled, out], start_new_session=True)
    scans = out / "scans"
    wait_until(lambda: scans.is_dir() and len(list(scans.iterdir())) >= 3)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    wait_until(lambda: not alive(run.pid))  # its workers follow it
    whole = sorted(scans.iterdir())
    assert 3 <= len(whole) < 16 and (out / PARTIAL).is_dir()
    for path in whole:
        read_arrays(path)
    assert not (out / STACKS).exists() and not (out / "prepared.json").exists()
    with pytest.raises(NotFound, match="preparing was stopped"):
        WholeSlices(out)
    damaged = bytearray(whole[0].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    whole[0].write_bytes(damaged)
    whole[1].write_bytes(whole[1].read_bytes()[:-100])
    done = prepare(jobs, out, workers=2)
    assert done.skipped == len(whole) - 2 and done.made == 16 - len(whole) + 2 and not done.failed
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    joined = read_arrays(out / STACKS)
    wanted = [crops_of(job) for job in jobs]
    for key in ("hu_jls", "reader_bits", "ratings", "slice_z_mm", "series_uid"):
        assert np.array_equal(joined[key], np.concatenate([crops[f"stacks.{key}"] for crops in wanted]))
    assert joined["slice_nodule"].tolist() == np.repeat(np.arange(16), 5).tolist()
    for scan, crops in zip(WholeSlices(out).scans, wanted, strict=True):
        hu, lungs, nodule = scan.read(np.arange(len(scan.middle)))
        assert np.array_equal(hu, crops["slices.hu_u8"].astype(int) * 8 - 1000)
        assert np.array_equal(lungs, crops["slices.lungs"]) and np.array_equal(nodule, crops["slices.nodule"])


@posix
def test_a_full_disk_ends_the_run_and_blames_no_scan(tmp_path: Path) -> None:
    """Files may not grow beyond a limit, as on a disk that is full."""
    jobs, out = jobs_in(tmp_path / "in"), tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(CannotWrite, match=r"scans.*\.npz cannot be written: File too large"):
            prepare(jobs, out, workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path for path in out.rglob("*") if path.is_file()] == []
    assert prepare(jobs, out, workers=1).made == 3


def test_two_runs_do_not_write_into_one_folder(jobs: tuple[Job, ...], tmp_path: Path) -> None:
    with own_folder(tmp_path), pytest.raises(CannotWrite, match="Another run"):
        prepare(jobs, tmp_path)
    assert list(tmp_path.iterdir()) == []


def alive(group: int) -> bool:
    """Whether any process of a session still runs."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it ended just now
            continue
        if int(fields[3]) == group and fields[0] not in "ZX":
            return True
    return False


def wait_until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_nothing_to_prepare_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no scan to prepare"):
        prepare((), tmp_path)


def test_non_nodules_are_drawn_by_seed(luna: Luna16) -> None:
    one, same, other = (jobs_of(luna, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a.centres_lps, b.centres_lps) for a, b in zip(one, same, strict=True))
    assert any(not np.array_equal(a.centres_lps, b.centres_lps) for a, b in zip(one, other, strict=True))


# ---------------------------------------------------------------- real scans


def test_stacks_of_real_scans_are_those_of_the_public_file(shared: Path, database: tuple[LidcScan, ...]) -> None:
    public = _with_steps(read_arrays(shared / STACKS))
    jobs = jobs_of_lidc(database, find_scans(shared / "ct")[0])
    jobs = tuple(j for j in jobs if j.scan and j.scan.patient_id in ("LIDC-IDRI-0001", "LIDC-IDRI-0003"))
    compared = 0
    for job in jobs:
        crops = crops_of(job)
        own = _with_steps({k.removeprefix("stacks."): v for k, v in crops.items() if k.startswith("stacks.")})
        theirs = np.flatnonzero(public["series_uid"] == job.series_uid)
        for n in theirs:
            (m,) = np.flatnonzero((own["ratings"] == public["ratings"][n]).all(axis=(1, 2)))
            for key in ("readers", "pixel_spacing_mm", "slice_spacing_mm", "slice_thickness_mm", "patient_id"):
                assert own[key][m] == public[key][n]
            a, b = np.flatnonzero(own["slice_nodule"] == m), np.flatnonzero(public["slice_nodule"] == n)
            for key in ("slice_z_mm", "slice_index"):
                assert np.array_equal(own[key][a], public[key][b])
            whole = np.zeros((2, 2, len(a), 512, 512), dtype=np.uint8)  # ours and theirs, HU and bits
            for side, (crop, rows, k) in enumerate(((own, a, m), (public, b, n))):
                row, column = int(crop["crop_row0"][k]), int(crop["crop_col0"][k])
                for kind, key in enumerate(("hu_u8", "reader_bits")):
                    whole[side, kind, :, row : row + 96, column : column + 96] = crop[key][rows]
            assert np.array_equal(whole[0, 1], whole[1, 1])
            both = (whole[0, 0] > 0) & (whole[1, 0] > 0)
            steps = np.abs(whole[0, 0].astype(int) - whole[1, 0])[both]
            assert steps.max() <= 1 and both.sum() > 0.85 * 96 * 96 * len(a)
            compared += 1
    assert compared == 5


def _with_steps(stacks: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    streams = Streams(stacks["hu_jls"], stacks["hu_offset"])
    steps = np.concatenate([streams.picture(k) for k in range(len(streams))]).reshape(stacks["hu_shape"])
    return stacks | {"hu_u8": steps}


def test_the_xml_beside_a_scan_gives_the_same_masks(
    shared: Path, database: tuple[LidcScan, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "LIDC-IDRI-0003"
    folder.mkdir()
    for file in [*(shared / "ct" / folder.name).iterdir(), shared / "lidc" / "xml" / "LIDC-IDRI-0003.xml"]:
        (folder / file.name).symlink_to(file)
    folders, wrong = find_scans(tmp_path)
    (of_xml,), (of_database,) = jobs_of_xml(folders), jobs_of_lidc(database, folders)
    assert not wrong and of_xml.fingerprint() != of_database.fingerprint()
    a, b = crops_of(of_xml), crops_of(of_database)
    for key in ("stacks.hu_jls", "stacks.slice_z_mm", "stacks.crop_row0", "cubes.hu_jls", "stacks.readers"):
        assert np.array_equal(a[key], b[key])
    held = [np.unpackbits(crops["stacks.reader_bits"][..., None], axis=-1).sum(-1) for crops in (a, b)]
    assert np.array_equal(*held)  # readers may stand in another order
