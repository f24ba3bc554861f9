"""Whole slices of LIDC-IDRI and LUNA16: what is cut out of scans, and what the networks of whole slices make of it."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import made_luna16
import made_models
import made_reports
import small_scans
from conftest import Run
from nodulens.data import lidc
from nodulens.data.folds import EVALUATION_PATIENTS, fold_of
from nodulens.data.lidc import LidcScan, Reading
from nodulens.data.lidc_ct import LidcScans, find_scans
from nodulens.data.luna16 import Luna16, open_luna16
from nodulens.data.outlines import Contour
from nodulens.data.prepare import THROUGH, WITHOUT, Job, crops_of, jobs_of_luna16, prepare
from nodulens.data.whole_slices import SlicedScan, WholeSlices
from nodulens.errors import NotFound
from nodulens.io import read
from nodulens.methods.catalogue import NNUNET_SAM, RESNET_UNET_PATCH_CNN, SE_AUX_UNET
from nodulens.methods.load import load_method
from nodulens.methods.recipe import Recipe, changed
from nodulens.pipeline import analyze
from nodulens.stages.lungs import segment_lungs
from nodulens.stream import load_segmenter
from nodulens.train.run import division, parts_of
from nodulens.train.tasks import segmentation, slice_material
from nodulens.train.tasks.lung_tiles import TILES, lung_tiles
from nodulens.train.tasks.segmentation import evaluate, settled, train
from nodulens.train.tasks.slice_material import Slices

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("one_thread")]

COUNT = 9
NEVER = "LIDC-IDRI-0001"
"""Whose scan the last one is."""


def known_in(root: Path, count: int = COUNT) -> tuple[LidcScan, ...]:
    """A small LUNA16 with lung masks, the left lung now 3 and now 4; the last scan is of an evaluation patient."""
    *scans, last = made_luna16.write(root, count)
    for number in range(count):
        made_luna16.write_lungs(root, number, left_value=3 + number // 3 % 2)
    return (*scans, replace(last, patient_id=NEVER))


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Luna16:
    root = tmp_path_factory.mktemp("luna16")
    return open_luna16(root, known_in(root))


@pytest.fixture(scope="module")
def sliced(nine: Luna16, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("crops")
    assert not prepare(jobs_of_luna16(nine, nine.candidates(), 4), out, tables=nine.root, workers=1).failed
    return out


# ---- What is cut out of a scan


@pytest.mark.parametrize("number", range(6))
def test_slices_lie_as_the_patient_does_whichever_way_the_scan_is_stored(
    nine: Luna16, sliced: Path, number: int
) -> None:
    uid = made_luna16.uid(number)
    scan = WholeSlices(sliced).scans[number]
    whole = nine.load(nine.items()[number])
    assert whole.geometry is not None and whole.mask is not None
    assert (scan.series_uid, scan.patient, scan.airways_known) == (uid, f"P{number}", True)
    assert (scan.spacing_zyx, scan.shape) == (pytest.approx(made_luna16.SPACING), made_luna16.SHAPE[1:])
    volume_ml = np.isin(nine.lungs(uid).labels, (1, 2)).sum() * np.prod(made_luna16.SPACING) / 1000
    wanted = made_luna16.SPACING[0], made_luna16.SPACING[0], volume_ml
    assert (scan.facts.spacing_mm, scan.facts.thickness_mm, scan.facts.lungs_ml) == pytest.approx(wanted)
    crops = crops_of(jobs_of_luna16(nine, None)[number])
    z = np.rint([whole.geometry.to_index((0, 0, mm))[0] for mm in crops["slices.slice_z_mm"]]).astype(int)
    assert (np.diff(z) > 0).all()
    hu, lungs, nodule = scan.read(np.arange(len(z)))
    assert np.abs(hu - np.clip(whole.image[z], -1000, 400)).max() <= 4
    assert np.array_equal(nodule, whole.mask[z])
    assert np.array_equal(scan.nodule_px, whole.mask[z].sum(axis=(1, 2)))
    # sides by where ITK has them
    stored = sitk.ReadImage(str(nine.lungs_file(uid)))
    for side, towards in ((1, 1), (2, -1)):
        at = np.argwhere(lungs == side)
        places = whole.geometry.to_lps(np.column_stack([z[at[:, 0]], at[:, 1:]]))
        middle = stored.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in stored.GetSize()])
        assert (towards * (places[:, 0] - middle[0]) > 8).all()
        values = {stored[stored.TransformPhysicalPointToIndex(p.tolist())] for p in places[::97]}
        assert len(values) == 1 and values <= {3, 4}
    assert np.array_equal(scan.airway_px, (lungs == 3).sum(axis=(1, 2))) and set(scan.airway_px) == {0, 12}


def test_the_middle_slice_and_those_of_nodules_are_among_them(nine: Luna16, sliced: Path) -> None:
    scans = WholeSlices(sliced).scans
    assert len(scans) >= 6
    for scan in scans:
        area = np.isin(nine.lungs(scan.series_uid).labels, (1, 2)).sum(axis=(1, 2))
        _, lungs, _ = scan.read(np.flatnonzero(scan.middle))
        assert np.isin(lungs, (1, 2)).sum() == area.max() > np.median(area)
        assert scan.middle.sum() == scan.central.sum() == 1
        assert (scan.nodule_px > 0).sum() == 1 + THROUGH
        assert scan.nodule_px[scan.central][0] == scan.nodule_px.max()
        assert len(scan.middle) == 1 + 1 + THROUGH + WITHOUT


def test_the_number_of_a_side_makes_no_difference(tmp_path: Path) -> None:
    luna = open_luna16(tmp_path, known_in(tmp_path, 3))
    one = [crops_of(job) for job in jobs_of_luna16(luna, None)]
    for number in range(3):
        made_luna16.write_lungs(tmp_path, number, left_value=4)
    for before, job in zip(one, jobs_of_luna16(luna, None), strict=True):
        assert all(np.array_equal(before[name], array) for name, array in crops_of(job).items())


def outlined_balls(uid: str, patient: str) -> LidcScan:
    """What one reader would say of the balls in :func:`small_scans.noisy`: squares as large on five slices each."""
    grid = small_scans.noisy().geometry
    readings = []
    for number, (centre, diameter) in enumerate(made_reports.NODULES):
        z, y, x = np.rint(grid.to_index(centre)).astype(int).tolist()
        r = round(diameter / 2 / grid.spacing_zyx[1]) + 1
        xy = np.array([(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)], dtype=np.int32)
        planes = [grid.to_lps((k, 0, 0))[2] for k in range(z - 2, z + 3)]
        contours = tuple(Contour(float(mm), True, xy) for mm in planes)
        readings.append(Reading(str(number), np.full(9, 3, dtype=np.uint8), contours, 0))
    heights = tuple(float(grid.to_lps((k, 0, 0))[2]) for k in range(grid.shape[0]))
    return LidcScan(uid, "1.2", patient, grid.spacing_zyx[2], 2.5, heights, None, tuple(readings))


@pytest.mark.parametrize("kind", ["dicom", "flipped", "oblique"])
def test_without_masks_our_own_stage_finds_the_lungs(dicom: Path, tmp_path: Path, kind: str) -> None:
    volume = small_scans.noisy()
    if kind == "dicom":
        path = dicom
        scan = outlined_balls(read(path).source.series_uid or "", "P")
    else:
        scan = outlined_balls(made_luna16.uid(0), "P")
        turned = small_scans.turned(volume, (0, 1, 2), (False, True, True)) if kind == "flipped" else volume
        cos, sin = (-1, 0) if kind == "flipped" else (np.cos(0.1), np.sin(0.1))
        image = sitk.GetImageFromArray(np.asarray(turned.hu))
        image.SetSpacing(turned.geometry.spacing_zyx[::-1])
        image.SetOrigin(turned.geometry.origin_lps)
        image.SetDirection([cos, -sin, 0, sin, cos, 0, 0, 0, 1])
        path = tmp_path / "ct.mhd"
        sitk.WriteImage(image, str(path))
    if kind == "flipped":
        rows, columns = volume.geometry.shape[1:]  # LIDC counts stored pixels
        ends = np.array([columns - 1, rows - 1], dtype=np.int32)
        flipped = [replace(r, contours=tuple(replace(c, xy=ends - c.xy) for c in r.contours)) for r in scan.readings]
        scan = replace(scan, readings=tuple(flipped))
    job = Job(scan.series_uid, path, scan, find_lungs=segment_lungs)
    assert job.fingerprint() != replace(job, find_lungs=None).fingerprint()
    crops = {k.removeprefix("slices."): v for k, v in crops_of(job).items() if k.startswith("slices.")}
    assert not crops["airways_known"].any() and not crops["airway_px"].any() and not crops["problem"][0]
    z = np.rint([volume.geometry.to_index((0, 0, mm))[0] for mm in crops["slice_z_mm"]]).astype(int)
    stored = volume.hu[z] >= -1024  # of DICOM; what is lower turns round there
    assert np.abs(crops["hu_u8"] * 8.0 - 1000 - np.clip(volume.hu[z], -1000, 400))[stored].max() <= 4
    agree = (crops["lungs"] == segment_lungs(volume).labels[z]).mean()
    assert agree > 0.999
    for centre, _ in made_reports.NODULES:
        k, y, x = np.rint(volume.geometry.to_index(centre)).astype(int)
        rows = np.flatnonzero(crops["central"] & crops["nodule"][:, y, x])
        assert np.abs(z[rows] - k).min() <= 2
        assert set(crops["lungs"][rows, y, x]) == {1 if centre[0] > 0 else 2}
    assert crops["central"].sum() == 3 and crops["middle"].sum() == 1


def test_what_half_of_the_readers_hold_is_drawn(nine: Luna16) -> None:
    """And slices that any reader outlined something on are no slices without a nodule."""
    job = jobs_of_luna16(nine, None)[0]
    assert job.scan is not None
    first, second, third = job.scan.readings
    low = replace(third, contours=third.contours[:1])
    far = replace(second, contours=tuple(replace(c, z_mm=c.z_mm - 16) for c in second.contours[:2]))
    alone = crops_of(replace(job, scan=replace(job.scan, readings=(replace(first, contours=first.contours[:2]), low))))
    assert alone["slices.nodule_px"].astype(bool).sum() == 2
    both = crops_of(replace(job, scan=replace(job.scan, readings=(first, far))))
    heights = sorted({c.z_mm for c in (*first.contours, *far.contours)})
    without = both["slices.slice_z_mm"][both["slices.nodule_px"] == 0]
    assert len(without) >= WITHOUT and not np.isclose(without[:, None], heights, atol=0.1).any()


def test_a_mask_that_does_not_fit_costs_its_own_scan(tmp_path: Path) -> None:
    luna = open_luna16(tmp_path / "in", known_in(tmp_path / "in", 4))
    jobs = jobs_of_luna16(luna, None)
    other = made_luna16.write_lungs(luna.root, 1)[:-1]
    made_luna16.write_metaimage(
        luna.lungs_file(made_luna16.uid(1)).parent, made_luna16.uid(1), other, made_luna16.DIRECTIONS[1], packed=True
    )
    none = np.zeros(made_luna16.SHAPE, dtype=np.uint8)
    made_luna16.write_metaimage(
        luna.lungs_file(made_luna16.uid(2)).parent, made_luna16.uid(2), none, made_luna16.DIRECTIONS[2], packed=True
    )
    done = prepare(jobs, tmp_path / "out", workers=1)
    assert list(done.failed) == [made_luna16.uid(1)] and "grid of its scan" in done.failed[made_luna16.uid(1)]
    assert list(done.unsliced) == [made_luna16.uid(2)] and "holds no lungs" in done.unsliced[made_luna16.uid(2)]
    assert done.rows == {"stacks": 3, "cubes": 3, "patches": 3, "slices": 16}
    for number in (1, 2):
        made_luna16.write_lungs(luna.root, number)
    again = prepare(jobs, tmp_path / "out", workers=1)
    assert (again.made, again.skipped, again.rows["slices"]) == (2, 2, 32) and not again.failed and not again.unsliced


# ---- As material


def test_slices_of_scans_are_the_material_where_there_are_any(data: Path, sliced: Path, tmp_path: Path) -> None:
    material = slice_material.load(sliced, SE_AUX_UNET)
    assert isinstance(material, Slices)
    assert set(material.patients) == {f"P{n}" for n in range(COUNT - 1)}, "evaluation patients are left out"
    assert material.has_nodule.sum() == 3 * (COUNT - 1)
    both = shutil.copytree(data, tmp_path / "both")
    for name in ("scans", "prepared.json"):
        (both / name).symlink_to(sliced / name)
    assert slice_material.load(both, SE_AUX_UNET).patients == material.patients


def test_nothing_is_read_before_it_is_asked_for(sliced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    whole = SlicedScan.read

    def counted(scan: SlicedScan, rows: np.ndarray):  # type: ignore[no-untyped-def, type-arg]
        asked.append((scan.patient, len(rows)))
        return whole(scan, rows)

    monkeypatch.setattr(SlicedScan, "read", counted)
    material = slice_material.load(sliced, SE_AUX_UNET)
    field = segmentation.field_of(replace(config_of(SE_AUX_UNET), size=64))
    assert len(material.strata) == len(material.pixels_mm(field, np.arange(len(material.patients))))  # type: ignore[union-attr]
    assert not asked
    rows = np.flatnonzero(np.array(material.patients) == "P3")[:5]
    images, truth = material.examples(field, rows)
    assert asked == [("P3", 5)]
    assert images.shape == (5, 64, 64) and truth.shape == (5, 3, 64, 64)
    assert np.array_equal(truth[:, 2].any(axis=(1, 2)), material.has_nodule[rows])
    left, right = (np.nonzero(truth[:, k])[2].mean() for k in (0, 1))
    assert left > right


def test_which_slices_is_a_setting(sliced: Path) -> None:
    counts = {}
    for kind in ("middle", "central", "all"):
        material = slice_material.load(sliced, changed(SE_AUX_UNET, [f"slices={kind}"]))
        counts[kind] = len(material.patients), int(material.has_nodule.sum())
    n = COUNT - 1
    assert counts["central"] == (n, n)
    assert counts["middle"] == (n, 0)  # the lungs are largest above the blocks, or below
    assert counts["all"] == (8 * n, 3 * n)


def test_tiles_of_lung_are_cut_from_those_without_a_nodule(sliced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, original = [np.zeros(0)], SlicedScan.read

    def noted(scan: SlicedScan, z: np.ndarray) -> tuple[np.ndarray, ...]:
        read.append(scan.nodule_px[z])
        return original(scan, z)

    monkeypatch.setattr(SlicedScan, "read", noted)
    tiles = lung_tiles(sliced)
    assert 0 < len(tiles) <= TILES * sum(map(len, read)) and not np.concatenate(read).any()
    assert {*tiles.patients} <= {scan.patient for scan in WholeSlices(sliced).scans}
    inner = tiles.hu(np.arange(len(tiles)))[:, 32, 32]
    assert np.median(inner) < -700, "lung"


def test_settings_that_need_scans_say_so(data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    (tmp_path / "pictures" / "images").mkdir(parents=True)
    for place in (folder, tmp_path / "pictures"):
        with pytest.raises(NotFound, match=r"slices=middle need: cut them with nodulens data prepare"):
            slice_material.load(place, changed(SE_AUX_UNET, ["slices=middle"]))
    with pytest.raises(NotFound, match="one that nodulens data prepare has made"):
        (folder / "background" / "LIDC-IDRI-0293.nii.gz").unlink()
        slice_material.load(folder, SE_AUX_UNET)


def test_files_of_before_lack_thickness_and_volume(nine: Luna16, tmp_path: Path) -> None:
    prepare(jobs_of_luna16(nine, None)[:1], tmp_path, workers=1)
    (scan,) = WholeSlices(tmp_path).scans
    with np.load(scan.path) as archive:
        arrays = {name: archive[name] for name in archive.files if "thickness" not in name and "lungs_ml" not in name}
    np.savez(scan.path, **arrays)
    (before,) = WholeSlices(tmp_path).scans
    assert before.facts.spacing_mm == scan.facts.spacing_mm
    assert np.isnan([before.facts.thickness_mm, before.facts.lungs_ml]).all()


def test_what_is_gone_or_broken_is_named(nine: Luna16, tmp_path: Path) -> None:
    prepare(jobs_of_luna16(nine, None)[:2], tmp_path, workers=1)
    path = WholeSlices(tmp_path).scans[0].path
    path.rename(tmp_path / "away")
    with pytest.raises(NotFound, match="is gone"):
        slice_material.load(tmp_path, SE_AUX_UNET)
    (tmp_path / "prepared.json").write_text("{", "utf-8")
    with pytest.raises(Exception, match=r"prepared\.json cannot be read"):
        slice_material.load(tmp_path, SE_AUX_UNET)
    (tmp_path / "prepared.json").unlink()
    with pytest.raises(NotFound, match="preparing was stopped"):
        slice_material.load(tmp_path, SE_AUX_UNET)


def config_of(recipe: Recipe):  # type: ignore[no-untyped-def]
    assert recipe.segmenter is not None
    return replace(recipe.segmenter, size=32, epochs=1, batch=2)


@pytest.mark.filterwarnings("ignore:resnet50-unet starts from random weights")
@pytest.mark.parametrize("recipe", [NNUNET_SAM, RESNET_UNET_PATCH_CNN], ids=lambda r: r.name)
def test_the_other_networks_plan_train_and_are_judged_on_them(recipe: Recipe, sliced: Path, tmp_path: Path) -> None:
    material = slice_material.load(sliced, recipe)
    fold = fold_of("P0")
    rows = division(material, parts_of(material.patients, None, fold))
    config = settled(replace(config_of(recipe), examples=8), material, rows.train)
    net = train(config, material, rows.train, rows.validation, tmp_path / "run.pt")
    found = evaluate(made_models.model_of(net), config, material, rows.test)
    assert {row.patient for row in found.rows} == {p for p in material.patients if fold_of(p) == fold}
    assert found.figures.with_nodule == 3 * len({row.patient for row in found.rows})
    json.dumps(found.figures.to_json(), allow_nan=False)


# ---- Value 5 of LUNA16's masks, taken for nodules


def test_airways_stand_for_nodules_where_that_is_asked_for(sliced: Path, nine: Luna16) -> None:
    recipe = changed(SE_AUX_UNET, ["labels=luna16-mask"])
    with pytest.warns(UserWarning, match=r"trachea and airways.*hold no nodules, and no figure"):
        material = slice_material.load(sliced, recipe)
    field = segmentation.field_of(replace(config_of(recipe), size=80))
    rows = np.arange(len(material.patients))
    _, truth = material.examples(field, rows)
    shows = truth[:, 2].any(axis=(1, 2))
    assert np.array_equal(shows, material.has_nodule) and 0 < shows.sum() < len(rows)
    assert set(truth[:, 2].sum(axis=(1, 2))) == {0, 12}
    _, lidcs = slice_material.load(sliced, SE_AUX_UNET).examples(field, rows)
    assert np.array_equal(truth[:, :2] & ~lidcs[:, [2]], lidcs[:, :2])  # the same lungs, but for nodules on them
    assert not (truth[:, 2] & lidcs[:, 2]).any()


def test_scans_without_masks_are_refused_for_it(nine: Luna16, dicom: Path, data: Path, tmp_path: Path) -> None:
    recipe = changed(SE_AUX_UNET, ["labels=luna16-mask"])
    jobs = jobs_of_luna16(nine, None)[:2]
    scan = outlined_balls(read(dicom).source.series_uid or "", "P9")
    prepare([*jobs, Job(scan.series_uid, dicom, scan, find_lungs=segment_lungs)], tmp_path / "out", workers=1)
    refusals: Sequence[tuple[Path, str]] = (
        (tmp_path / "out", r"1 of 3 scans .* without LUNA16's lung masks.*unpack seg-lungs-LUNA16"),
        (data, r"labels=luna16-mask .*out of LUNA16, seg-lungs-LUNA16 beside"),
    )
    for place, words in refusals:
        with pytest.raises(NotFound, match=words), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            slice_material.load(place, recipe)
    assert set(slice_material.load(tmp_path / "out", SE_AUX_UNET).patients) == {"P0", "P1", "P9"}


# ---- From the command line


def test_from_scans_to_figures(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = known_in(tmp_path / "luna16")
    monkeypatch.setattr(lidc, "read_database", lambda path=None: known)
    crops, out = tmp_path / "crops", tmp_path / "run"
    broken = next((tmp_path / "luna16" / "subset2").glob("*.raw"))
    broken.write_bytes(broken.read_bytes()[:1000])
    assert run("data", "prepare", tmp_path / "luna16", "-o", crops, "--workers", "1").code == 2
    fold = fold_of("P0")
    small = ("--set", "segmenter.size=64", "--set", "segmenter.epochs=1", "--set", "segmenter.batch=4")
    words = ("train", "se-aux-unet", "--data", crops, "--fold", fold, "--threads", "1", *small)
    done = run(*words, "-o", out, "--set", "segmenter.examples=16")
    assert done.code == 0, done.err
    card = json.loads((out / "segmenter.json").read_text("utf-8"))
    taught = set(card["trained_on"]["patients"])
    able = {f"P{n}" for n in range(COUNT - 1) if n != 2}
    assert taught == {p for p in able if fold_of(p) != fold} and not taught & EVALUATION_PATIENTS
    found = evaluated(run, out, crops)
    rows = found["networks"]["segmenter"]["rows"]
    assert set(rows["patient"]) == {p for p in able if fold_of(p) == fold}
    assert found["networks"]["segmenter"]["figures"]["with_nodule"] == 3 * len(set(rows["patient"]))
    other = run(*words, "-o", out, "--set", "slices=middle")
    assert other.code == 2 and "holds a run with slices=all; name another folder for slices=middle" in other.err

    airway, few = tmp_path / "airway", ("--set", "segmenter.examples=4")
    done = run(*words, "-o", airway, "--set", "labels=luna16-mask", "--set", "slices=middle", *few)
    assert done.code == 0 and "trachea and airways" in done.err
    done = run("evaluate", airway, "--data", crops, "--json")
    assert done.code == 0 and "trachea and airways" in done.err
    found = json.loads(done.out)
    assert found["networks"]["segmenter"]["figures"]["slices"] == len(set(rows["patient"]))
    with pytest.warns(UserWarning, match="trachea and airways"):
        load_segmenter(airway, threads=1)
    method = load_method(str(airway), threads=1)
    report = analyze(small_scans.noisy(), method=method)
    assert "trachea and airways" in report.warnings[0]


def evaluated(run: Run, folder: Path, data: Path) -> dict:  # type: ignore[type-arg]
    done = run("evaluate", folder, "--data", data, "--json")
    assert done.code == 0, done.err
    found: dict = json.loads(done.out)  # type: ignore[type-arg]
    return found


# ---- Real scans


def test_slices_of_a_real_scan(shared: Path, database: tuple[LidcScan, ...]) -> None:
    folders, _ = find_scans(shared / "ct")
    (scan,) = (s for s in database if s.series_uid in folders and s.patient_id == NEVER)
    crops = crops_of(Job(scan.series_uid, folders[scan.series_uid], scan, find_lungs=segment_lungs))
    sample = LidcScans([scan], folders)
    whole = sample.load(sample.items()[0])
    assert whole.geometry is not None and whole.mask is not None
    z = np.rint([whole.geometry.to_index((0, 0, mm))[0] for mm in crops["slices.slice_z_mm"]]).astype(int)
    assert np.array_equal(crops["slices.nodule"], whole.mask[z])
    (central,) = z[crops["slices.central"]]
    assert whole.mask[central].sum() == whole.mask.sum(axis=(1, 2)).max()
    lungs, nodule = crops["slices.lungs"], crops["slices.nodule"]
    assert (lungs[nodule] == 1).mean() > 0.95  # it lies in the left lung
    assert lungs.astype(bool).sum(axis=(1, 2)).argmax() == np.flatnonzero(crops["slices.middle"])[0]
