"""``nodulens data check lidc|luna16``: made-up copies of official size and layout, whole and damaged in every way."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import full_layout
from conftest import Run, refused
from lidc_xml_files import write as write_xml
from nodulens.data import lidc
from nodulens.data.downloads import DOWNLOADS, SUBSET_SCANS, TABLE_ROWS, DataCheck, Problem
from nodulens.data.lidc import LidcScan
from nodulens.data.lidc_check import check_lidc
from nodulens.data.luna16 import ANNOTATIONS, CANDIDATES, EXCLUDED, LUNGS, SERIES, open_luna16
from nodulens.data.luna16_check import check_luna16

HEADER = "seriesuid,coordX,coordY,coordZ,{}\n"


@pytest.fixture(scope="module")
def challenge(database: tuple[LidcScan, ...]) -> list[LidcScan]:
    return full_layout.challenge(database, None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, challenge: list[LidcScan]) -> Path:
    """LUNA16 in full: 888 scans with all slices, of 2 × 2 pixels; the tables with all their rows."""
    root = tmp_path_factory.mktemp("whole")
    numbers = [k for k, n in enumerate(SUBSET_SCANS) for _ in range(n)]
    for number, scan in zip(numbers, challenge, strict=True):
        folder = root / f"subset{number}"
        folder.mkdir(exist_ok=True)
        write_scan(folder, scan.series_uid, len(scan.z_mm), scan.pixel_mm)
    uid = challenge[0].series_uid
    for name, rows in TABLE_ROWS.items():
        header = HEADER.format("class" if name in CANDIDATES else "diameter_mm")
        lines = [f"{uid},{k},0,0,1" for k in range(rows)]
        text = "\n".join(scan.series_uid for scan in challenge) if name == SERIES else header + "\n".join(lines)
        (root / name).write_text(text + "\n")
    return root


def write_scan(folder: Path, uid: str, slices: int, pixel_mm: float, packed: bool = False) -> Path:
    lines = ["ObjectType = Image", "NDims = 3", "TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = 0 0 0"]
    raw = f"{uid}.{'zraw' if packed else 'raw'}"
    lines += [f"ElementSpacing = {pixel_mm} {pixel_mm} 1", f"DimSize = 2 2 {slices}", "ElementType = MET_SHORT"]
    lines += ["CompressedData = True", "CompressedDataSize = 40"] if packed else []
    path = folder / f"{uid}.mhd"
    path.write_text("\n".join([*lines, f"ElementDataFile = {raw}"]) + "\n")
    (folder / raw).write_bytes(bytes(40 if packed else 8 * slices))
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """Of the first two subsets and the tables, to be damaged."""
    root = tmp_path / "LUNA16"
    root.mkdir()
    for path in whole.iterdir():
        if path.name in ("subset0", "subset1"):
            shutil.copytree(path, root / path.name)
        elif path.is_file() and path.name not in CANDIDATES:
            shutil.copy(path, root)
    return root


def kinds(found: DataCheck) -> dict[str, Problem]:
    """The problems by the beginning of what they say."""
    return {problem.what: problem for problem in found.problems}


def places(found: DataCheck, what: str) -> Mapping[str, str]:
    [problem] = [problem for problem in found.problems if problem.what.startswith(what)]
    return problem.places


# ---------------------------------------------------------------- LUNA16


def test_a_whole_copy_is_complete(run: Run, whole: Path, database: Sequence[LidcScan]) -> None:
    done = run("data", "check", "luna16", whole)
    assert done.code == 0, done.out + done.err
    assert done.out.endswith("LUNA16 is complete: 888 scans.\n") and done.out.count("curl") == 1
    found = check_luna16(whole, database)
    assert found.complete and found.share == 1 and found.missing_gigabytes == 0
    parts = {part.name: part for part in found.parts}
    assert [parts[f"subset{k}"].here for k in range(10)] == list(SUBSET_SCANS)
    assert all(parts[f"{name}, rows"].here == rows for name, rows in TABLE_ROWS.items())
    assert [one.name for one in found.downloads] == ["seg-lungs-LUNA16.zip"], "which is optional"
    assert {problem.kind for problem in found.problems} == {"note"}


def test_a_part_says_which_share_it_is_and_what_brings_the_rest(
    run: Run, copy: Path, database: Sequence[LidcScan]
) -> None:
    calls: list[tuple[int, int]] = []
    found = check_luna16(copy, database, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (178, 178) and not found.complete
    assert found.scans == 178 and found.share == pytest.approx(178 / 888)
    assert found.missing_gigabytes is not None and 80 < found.missing_gigabytes < 110
    assert list(places(found, "Subsets are missing")) == [f"subset{k}" for k in range(2, 10)]
    assert len(places(found, "Series of the challenge")) == 710
    wanted = {one.name for one in found.downloads}
    assert wanted == {*(f"subset{k}.zip" for k in range(2, 10)), "candidates.csv", "candidates_V2.zip", f"{LUNGS}.zip"}
    done = run("data", "check", "luna16", copy)
    assert done.code == 1 and "178 of 888 scans (20.0 %) can be used" in done.out
    assert "curl -L -C - -o subset7.zip https://zenodo.org/records/4121926/files/subset7.zip" in done.out
    said = run("data", "check", "luna16", copy, "--json")
    assert said.code == 1
    told = json.loads(said.out)
    assert told["schema"] == "nodulens-data-check/1" and not told["complete"] and told["scans"] == 178
    assert told["downloads"][0]["how"].startswith("curl") and told["problems"][0]["remedy"]


def test_damage_is_named_with_its_file_and_its_remedy(copy: Path, database: Sequence[LidcScan]) -> None:
    zero, one = (sorted((copy / f"subset{k}").glob("*.mhd")) for k in (0, 1))
    raws = [path.with_suffix(".raw") for path in zero]
    raws[0].write_bytes(raws[0].read_bytes()[:-1])
    raws[1].unlink()
    zero[2].unlink()
    for path in (zero[3], raws[3]):
        shutil.copy(path, copy / "subset1")
    (copy / "subset1" / "subset1").mkdir()
    for path in (one[0], one[0].with_suffix(".raw")):
        path.rename(copy / "subset1" / "subset1" / path.name)
    write_scan(copy / "subset0", "1.2.3", 5, 0.7)
    write_scan(copy / "subset1", one[1].stem, 5, 0.7)
    (copy / "CSVFILES").mkdir()
    (copy / EXCLUDED).rename(copy / "CSVFILES" / EXCLUDED)
    (copy / ANNOTATIONS).write_text(HEADER.format("diameter_mm") + "1.2,1,2,3,4\n")
    (copy / "subset5.zip").write_bytes(b"PK\3\4 and no end")
    with zipfile.ZipFile(copy / "subset6.zip", "w") as archive:
        archive.writestr("subset6/1.mhd", "x")
    (copy / "subset7.zip.part").touch()
    (copy / LUNGS).mkdir()
    write_scan(copy / LUNGS, one[2].stem, 4, 0.7, packed=True)
    cut = write_scan(copy / LUNGS, one[3].stem, 4, 0.7, packed=True)
    cut.with_suffix(".zraw").write_bytes(bytes(30))

    found = check_luna16(copy, database)
    broken = places(found, "Scans cannot be read")
    assert set(broken) == {f"subset0/{zero[k].name}" for k in (0, 1)}
    assert "truncated" in broken[f"subset0/{zero[0].name}"] and "not there" in broken[f"subset0/{zero[1].name}"]
    assert str(copy) not in " ".join(broken.values())
    assert list(places(found, "Voxel files have no header")) == [f"subset0/{raws[2].name}"]
    assert dict(places(found, "Series lie in several")) == {zero[3].stem: "subset0, subset1"}
    assert list(places(found, "Scans lie where")) == [f"subset1/subset1/{one[0].name}"]
    assert list(places(found, "Scans are of no series")) == ["subset0/1.2.3.mhd"]
    assert list(places(found, "Scans have another number of slices")) == [f"subset1/{one[1].name}"]
    assert list(places(found, "Tables lie where")) == [f"CSVFILES/{EXCLUDED}"]
    assert dict(places(found, "A table is not")) == {ANNOTATIONS: "1 of 1,186 rows"}
    assert list(places(found, "Archives are cut short")) == ["subset5.zip"]
    assert dict(places(found, "Archives are not unpacked")) == {"subset6.zip": "0 of 89 scans"}
    assert list(places(found, "Downloads are not done")) == ["subset7.zip.part"]
    assert dict(places(found, "Lung masks are missing")) == {LUNGS: "2 of 888"}
    assert "30 in the file" in places(found, "Lung masks cannot")[f"{LUNGS}/{cut.name}"]
    assert found.scans == 178 - 5, "the two broken, the one without header, the repeated and the misplaced one"
    wanted = {one.name for one in found.downloads}
    assert "subset0.zip" in wanted, "of which scans are broken"
    assert "subset1.zip" not in wanted and "subset6.zip" not in wanted, "all of it is there, or packed"
    assert "evaluationScript.zip" not in wanted and ANNOTATIONS in wanted
    assert all(problem.remedy.endswith((".", ")")) for problem in found.problems)


def test_archives_that_are_unpacked_may_go_and_thorough_compares_checksums(
    copy: Path, database: Sequence[LidcScan]
) -> None:
    archive = copy / "subset0.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted((copy / "subset0").iterdir())[:4]:
            packed.write(path, f"subset0/{path.name}")
    assert list(places(check_luna16(copy, database), "Archives are unpacked")) == ["subset0.zip"]
    data = bytearray(archive.read_bytes())
    data[data.index(b"ObjectType")] ^= 1
    archive.write_bytes(data)
    assert not any(problem.kind == "broken" for problem in check_luna16(copy, database).problems)
    damaged = places(check_luna16(copy, database, thorough=True), "Archives are cut short")
    assert "checksum" in damaged["subset0.zip"]


def test_other_scans_of_lidc_and_scans_in_no_subset(
    copy: Path, database: Sequence[LidcScan], challenge: list[LidcScan]
) -> None:
    other = next(scan for scan in database if scan.series_uid not in {one.series_uid for one in challenge})
    write_scan(copy / "subset0", other.series_uid, len(other.z_mm), other.pixel_mm)
    loose = sorted((copy / "subset1").glob("*.mhd"))[0]
    for path in (loose, loose.with_suffix(".raw")):
        path.rename(copy / path.name)
    found = check_luna16(copy, database)
    assert list(places(found, f"Scans of LIDC are not in {SERIES}")) == [f"subset0/{other.series_uid}.mhd"]
    assert list(places(found, "Scans lie in no subset")) == [loose.name]
    (copy / SERIES).unlink()
    found = check_luna16(copy, database)
    assert found.missing_gigabytes is None and found.scans == 179, "without the list it may be of the challenge"


def test_subsets_may_be_links_to_another_disk(copy: Path, tmp_path: Path, database: Sequence[LidcScan]) -> None:
    """The other commands follow them, too."""
    shutil.move(copy / "subset0", tmp_path / "disk")
    (copy / "subset0").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert check_luna16(copy, database).scans == 178
    assert len(open_luna16(copy, database).files) == 178


def test_what_cannot_be_checked(run: Run, tmp_path: Path) -> None:
    refused(run("data", "check", "luna16", tmp_path / "none"), "no folder", "none")
    refused(run("data", "check", "lidc", tmp_path / "none"), "no folder", "none")
    refused(run("data", "check", "luna16", tmp_path, "--database", tmp_path / "no.sqlite"), "no.sqlite")


# ---------------------------------------------------------------- LIDC-IDRI


@pytest.fixture(scope="module")
def three(database: tuple[LidcScan, ...]) -> tuple[LidcScan, ...]:
    """All of a small LIDC."""
    return tuple(full_layout.coarse(scan) for scan in database[:3])


@pytest.fixture
def tcia(three: tuple[LidcScan, ...], tmp_path: Path) -> Path:
    full_layout.write_lidc(tmp_path / "LIDC-IDRI", three)
    return tmp_path / "LIDC-IDRI"


def test_lidc_whole_and_damaged(
    tcia: Path, three: tuple[LidcScan, ...], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lidc, "read_database", lambda path=None: three)
    done = run("data", "check", "lidc", tcia, "--workers", "1")
    assert done.code == 0 and done.out.endswith("LIDC-IDRI is complete: 3 scans.\n"), done.out

    first, second, third = (sorted(tcia.glob(f"{scan.patient_id}/*/*")) for scan in three)
    slices = sorted(first[0].glob("*.dcm"))
    slices[3].write_bytes(slices[3].read_bytes()[:-10])
    sorted(second[0].glob("*.dcm"))[5].unlink()
    xml = next(iter(third[0].glob("*.xml")))
    xml.write_text(xml.read_text()[:-40])
    shutil.copytree(third[0], tcia / "again")
    (tcia / "again" / xml.name).unlink()
    write_xml(tcia / "radiograph.xml", root="IdriReadMessage")
    full_layout.write_lidc(tcia / "more", [replace(three[0], series_uid="1.2.3.4")])
    (tcia / "LIDC-XML-only.zip").write_bytes(b"PK\3\4")

    calls: list[tuple[int, int]] = []
    found = check_lidc(tcia, three, workers=1, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (3, 3) and not found.complete and found.scans == 1
    named = first[0].relative_to(tcia).as_posix()
    broken = places(found, "Scans have damaged or truncated slices")
    assert list(broken) == [named] and slices[3].name in broken[named] and str(tcia) not in broken[named]
    assert next(iter(places(found, "Scans lack slices").values())).endswith(f"of {len(three[1].z_mm)} slices")
    assert len(places(found, "Series lie in several folders")) == 1
    assert list(places(found, "CT is of no series").values()) == ["1.2.3.4"]
    assert list(places(found, "Annotations cannot be read")) == [xml.relative_to(tcia).as_posix()]
    assert len(places(found, "Scans have no XML")) == 1
    assert list(places(found, "Archives are cut short")) == ["LIDC-XML-only.zip"]
    assert found.downloads == DOWNLOADS["lidc"]


def test_an_uneven_scan_with_all_its_slices_is_noted_and_a_part_names_the_rest(
    tcia: Path, three: tuple[LidcScan, ...]
) -> None:
    for scan in three[1:]:
        shutil.rmtree(tcia / scan.patient_id)
    sorted(tcia.rglob("*.dcm"))[5].unlink()
    found = check_lidc(tcia, (replace(three[0], z_mm=three[0].z_mm[:-1]), *three[1:]), workers=1)
    assert found.scans == 1 and kinds(found)["Scans are no even stack of slices"].kind == "note"
    assert [place.split()[0] for place in places(found, "Scans are not there")] == [s.patient_id for s in three[1:]]


def test_series_of_one_folder_are_told_apart(tcia: Path, three: tuple[LidcScan, ...], tmp_path: Path) -> None:
    flat = tmp_path / "all" / "flat"
    flat.mkdir(parents=True)
    for number, scan in enumerate(three):
        first, *slices = sorted(tcia.glob(f"{scan.patient_id}/*/*/*.dcm"))
        (flat / f"{number}-0.dcm").write_bytes(first.read_bytes()[:-10])
        for k, path in enumerate(slices, start=1):
            shutil.copy(path, flat / f"{number}-{k}.dcm")
    found = check_lidc(flat.parent, three[1:], workers=1)
    assert list(places(found, "CT is of no series")) == [f"flat/{three[0].series_uid}"]
    broken = places(found, "Scans have damaged or truncated slices")
    assert list(broken) == [f"flat/{scan.series_uid}" for scan in three[1:]]
    assert check_lidc(tcia, three, workers=1).parts[0].here == 3


# ---------------------------------------------------------------- where to get them


def test_the_official_places_are_printed(run: Run) -> None:
    both = run("data", "sources")
    assert both.code == 0 and "cancerimagingarchive.net" in both.out and "MD5" in both.out
    one = run("data", "sources", "luna16")
    assert "cancerimagingarchive" not in one.out
    assert all(one.out.count(f"files/subset{k}.zip") == 1 for k in range(10))
