"""LUNA16 as it lies on disk, three ways round, held against ITK; and the challenge's own tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import made_luna16
from nodulens.data.lidc import LidcScan
from nodulens.data.lidc_ct import LidcNodules, LidcScans, find_scans
from nodulens.data.luna16 import Finding, Luna16, open_luna16, read_findings, summarize
from nodulens.errors import BadGeometry, BadOption, NotFound
from nodulens.io import read


def test_a_scan_is_an_item_of_its_patient(luna: Luna16) -> None:
    assert [(i.key, i.patient_id, i.stratum) for i in luna.items()] == [
        (made_luna16.uid(k), f"P{k}", "1") for k in range(3)
    ]
    assert luna.subset == {made_luna16.uid(k): k for k in range(3)}


@pytest.mark.parametrize("number", range(3), ids=("upright", "flipped", "upside down"))
def test_nodules_lie_where_they_lie_whichever_way_the_scan_is_stored(luna: Luna16, number: int) -> None:
    sample = luna.load(luna.items()[number])
    assert sample.unit == "hu" and sample.image.dtype == np.float32 and sample.geometry is not None
    assert sample.mask is not None and np.array_equal(sample.mask, sample.image == made_luna16.NODULE)
    assert np.all(np.diag(sample.geometry.direction[::-1]) > 0.99)  # superior, posterior, left
    (finding,) = luna.annotations[luna.items()[number].key]
    centre = sample.geometry.to_lps(np.argwhere(sample.mask).mean(axis=0))
    assert np.abs(centre - finding.centre_lps).max() < 1e-4
    bright = sample.geometry.to_lps(np.argwhere(sample.image == made_luna16.BRIGHT)[0])
    off = np.abs(bright - finding.centre_lps - made_luna16.MARKER_MM)
    assert np.all(off <= np.array(made_luna16.SPACING[::-1]) / 2 + 1e-6)
    (box,) = sample.boxes or ()
    inside = sample.image[box.slices]
    assert (inside == made_luna16.NODULE).mean() > 0.8  # a ball's box round a block's middle


@pytest.mark.parametrize("number", range(3))
def test_a_finding_finds_its_outlines_and_ratings(luna: Luna16, number: int) -> None:
    uid = made_luna16.uid(number)
    ((finding, nodule),) = luna.nodules(uid, luna.volume(uid).geometry)
    assert nodule is not None and len(nodule.readings) == made_luna16.READERS
    assert finding.diameter_mm == 9.5
    far = replace(finding, centre_lps=(finding.centre_lps[0] + 5, *finding.centre_lps[1:]))
    moved = replace(luna, annotations={uid: (far,)})
    assert moved.nodules(uid, luna.volume(uid).geometry) == ((far, None),)


def test_the_naive_formula_would_mirror_a_flipped_scan(luna: Luna16) -> None:
    """Why world − origin over spacing is not used: on a flipped scan it points out of the image."""
    (finding,) = luna.annotations[made_luna16.uid(1)]
    naive = (np.array(finding.centre_lps) - made_luna16.OFFSET) / made_luna16.SPACING[::-1]
    assert (naive[:2] < 0).all()
    right = luna.volume(made_luna16.uid(1)).geometry.to_index(finding.centre_lps)
    assert np.abs(right - made_luna16.BLOCK.centre_zyx).max() < 1e-4


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("left_value", [3, 4])
def test_left_is_where_left_is_whatever_its_number(tmp_path: Path, number: int, left_value: int) -> None:
    luna = made_luna16.opened(tmp_path)
    stored = made_luna16.write_lungs(luna.root, number, left_value)
    labels = stored[::-1] if number == 2 else stored  # the third is stored upside down
    lungs = luna.lungs(made_luna16.uid(number))
    assert (lungs.of("left lung") == (labels == left_value)).all()
    assert (lungs.of("right lung") == (labels == 7 - left_value)).all()
    assert (lungs.of("airways") == (labels == 5)).all()


def test_a_lung_mask_of_another_scan_is_refused(tmp_path: Path) -> None:
    luna, folder = made_luna16.opened(tmp_path), tmp_path / "seg-lungs-LUNA16"
    short = np.full((made_luna16.SHAPE[0] - 1, *made_luna16.SHAPE[1:]), 3, dtype=np.uint8)
    made_luna16.write_metaimage(folder, made_luna16.uid(0), short, made_luna16.DIRECTIONS[0], packed=True)
    with pytest.raises(BadGeometry, match="does not lie on the grid"):
        luna.lungs(made_luna16.uid(0))


def test_candidates_are_read(luna: Luna16) -> None:
    found = luna.candidates()
    assert found.labels.sum() == 3 and len(found.labels) == 21 and found.centres_lps.shape == (21, 3)
    with pytest.raises(NotFound, match=r"candidates\.csv"):
        luna.candidates("candidates.csv")


def test_the_ten_subsets_are_a_split(luna: Luna16, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="subset3"):
        luna.subset_split()
    scans = made_luna16.write(tmp_path, 11)
    same = [replace(s, patient_id="P0") if s.series_uid == made_luna16.uid(7) else s for s in scans]
    split = open_luna16(tmp_path, same).subset_split()
    assert split.folds == 10 and split.method == "luna16"
    assert split.groups == {f"P{k}": str(k % 10) for k in range(11) if k != 7}
    assert "P0 stands in several folds" in split.notes[0]


def test_what_is_missing_is_named(luna: Luna16, tmp_path: Path) -> None:
    known, root = tuple(luna.scans.values()), tmp_path / "twice"
    with pytest.raises(NotFound, match="is it LUNA16"):
        open_luna16(tmp_path, known)
    with pytest.raises(NotFound, match="no folder"):
        open_luna16(tmp_path / "none", known)
    with pytest.raises(NotFound, match=r"No 1\.2\.3\.mhd"):
        luna.volume("1.2.3")
    with pytest.raises(NotFound, match="not in the LIDC database"):
        open_luna16(luna.root, known[1:]).items()
    made_luna16.write(root)
    made_luna16.metaimage(root, 1)
    with pytest.raises(BadOption, match="keep one"):
        open_luna16(root, known)


def test_a_finding_without_size_is_one_voxel(luna: Luna16) -> None:
    grid = luna.volume(made_luna16.uid(0)).geometry
    centre = grid.to_lps((3, 4, 5))
    assert Finding((centre[0], centre[1], centre[2]), None).box(grid).shape == (1, 1, 1)
    with pytest.raises(BadOption):
        Finding((1e4, 0, 0), 5.0).box(grid)


# ---------------------------------------------------------------- the real tables and scans


def test_the_challenges_tables(shared: Path, database: tuple[LidcScan, ...]) -> None:
    found = summarize(open_luna16(shared / "luna16", database))
    assert (found.scans, found.patients, found.nodules, found.scans_with_nodules) == (888, 887, 1186, 601)
    assert (found.excluded, found.excluded_with_diameter) == (35192, 4679)
    assert found.lidc_nodules == found.nodules  # the very rule of the challenge, from the outlines alone
    assert sum(found.diameter_bands.values()) == 1186 and sum(found.nodules_per_scan.values()) == 888
    excluded = read_findings(shared / "luna16" / "annotations_excluded.csv")
    assert sum(f.diameter_mm is None for findings in excluded.values() for f in findings) == 35192 - 4679


def test_findings_of_real_scans_meet_the_readers_outlines(shared: Path, database: tuple[LidcScan, ...]) -> None:
    folders, wrong = find_scans(shared / "ct")
    assert len(folders) == 4 and not wrong
    of_patient = {s.patient_id: s for s in database if s.series_uid in folders}
    luna = open_luna16(shared / "luna16", database)
    scan = of_patient["LIDC-IDRI-0003"]
    ct = read(folders[scan.series_uid])
    pairs = luna.nodules(scan.series_uid, ct.geometry)
    assert [n and len(n.readings) for _, n in pairs] == [4, 4, 4]
    whole = LidcScans([scan], folders)
    sample = whole.load(whole.items()[0])
    assert sample.geometry is not None and len(sample.boxes or ()) == 4
    for finding, _ in pairs:
        z, y, x = np.rint(sample.geometry.to_index(finding.centre_lps)).astype(int)
        assert sample.mask is not None and sample.mask[z, y, x]
    single = LidcNodules([scan], folders)
    assert [i.stratum for i in single.items()] == ["benign", "malignant", "malignant", "malignant"]
    nodule = single.load(single.items()[1])
    assert nodule.label == 1 and nodule.ratings is not None and nodule.ratings.shape == (4, 9)
    assert nodule.mask is not None and nodule.reader_masks is not None
    assert nodule.image[nodule.mask].mean() > nodule.image[~nodule.mask].mean() + 300
    with pytest.raises(NotFound, match="download it"):
        LidcNodules([scan], {}).load(single.items()[0])
