"""The protocols of docs/full-data.md: its commands on a small copy of both data sets, and the folds of LUNA16."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import full_layout
from conftest import REPOSITORY, Done, Run, refused
from nodulens.data import lidc
from nodulens.data.folds import EVALUATION_PATIENTS, fold_of
from nodulens.data.lidc import UID_ROOT, LidcScan
from nodulens.data.splits import FIXED, Split, read_split, write_split
from nodulens.errors import BadOption
from nodulens.evaluate.cohort import CohortPlan, run_cohort
from nodulens.evaluate.folds import read_folds
from nodulens.evaluate.truths import Cohort, CohortScan, TableTruths, patients_of
from nodulens.methods import run_record
from nodulens.methods.catalogue import CONV3_CLASSIFIER, NNUNET_SAM, SE_AUX_UNET
from nodulens.methods.recipe import Recipe, changed
from nodulens.methods.run_record import SPLIT
from nodulens.methods.run_record import Run as Trained
from nodulens.runtime.engine import load_models
from nodulens.train.options import TrainOptions, every_fold

SMALL: Mapping[str, str] = {
    "sam2-densenet": "classifier.size=32 classifier.epochs=1",
    "se-aux-unet": "segmenter.size=32 segmenter.examples=4 segmenter.batch=4 segmenter.epochs=1",
    "nnunet-sam": "segmenter.size=64 segmenter.examples=4 segmenter.batch=4 segmenter.epochs=1 "
    "classifier.size=32 classifier.epochs=1 prompted=none",
    "resnet-unet-patch-cnn": "segmenter.size=64 segmenter.examples=4 segmenter.batch=4 segmenter.epochs=1 "
    "filter.epochs=1",
    "conv3-classifier": "classifier.size=44 classifier.epochs=1",
}
"""What makes each recipe small; all else is as the page has it."""
SCANS = 10


def documented(heading: str) -> Iterator[list[str]]:
    """The commands of a section of the page."""
    text = (REPOSITORY / "docs" / "full-data.md").read_text(encoding="utf-8")
    _, _, section = text.partition(f"\n## {heading}\n")
    for line in section.partition("\n## ")[0].splitlines():
        if line.startswith("nodulens "):
            yield shlex.split(line, comments=True)[1:]


@pytest.fixture(scope="module")
def scans(database: tuple[LidcScan, ...]) -> list[LidcScan]:
    """The ten of LUNA16 with most outlines."""
    most = sorted(full_layout.challenge(database, None), key=lambda scan: -len(scan.readings))
    return [full_layout.coarse(scan) for scan in most if scan.patient_id not in EVALUATION_PATIENTS][:SCANS]


@pytest.fixture(scope="module")
def folder(scans: list[LidcScan], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with both data sets, a scan of LUNA16 in each subset; all tests of the page write there."""
    folder = tmp_path_factory.mktemp("full")
    full_layout.write_luna16(folder / "LUNA16", scans)
    full_layout.write_lidc(folder / "LIDC-IDRI", scans)
    return folder


@pytest.fixture
def call(
    folder: Path, scans: list[LidcScan], run: Run, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], list[tuple[list[str], Done]]]:
    """Run the commands of a section of the page, small, in that folder, with a database that knows those scans alone;
    what is prepared already is skipped by the command itself."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(lidc, "read_database", lambda path=None: tuple(scans))

    def section(heading: str) -> list[tuple[list[str], Done]]:
        made = []
        for words in documented(heading):
            one = ("--workers", "1") if "prepare" in words or "--scans" in words else ()
            small = (
                [word for value in SMALL[words[1]].split() for word in ("--set", value)] if words[0] == "train" else []
            )
            done = run(*words, *small, *one)
            partial = words[:3] == ["data", "check", "luna16"]  # ten scans are no whole LUNA16
            assert done.code == (1 if partial else 0), f"{words}: {done.code}, {done.err[-2000:]}"
            made.append((words, done))
        return made

    return section


# ---------------------------------------------------------------- the page


def prepare(call: Callable[[str], list[tuple[list[str], Done]]]) -> None:
    call("Download, check, prepare")


@pytest.mark.training
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("method", "ABCDE")
def test_the_commands_of_a_method_run(method: str, call: Callable[[str], list[tuple[list[str], Done]]]) -> None:
    """From download to table; a part of LUNA16 is no whole."""
    prepare(call)
    steps = call(next(heading for heading in headings() if heading.startswith(f"{method}. ")))
    assert steps[0][0][:2] == ["data", "split"] and steps[-1][0][0] == "evaluate"
    words, done = steps[-1]
    assert "on its test patients" in done.out and Path(words[-1], "predictions.csv").is_file()
    if method == "B":
        split = read_split(Path("b0.json"))
        assert {part: len(split.patients(part)) for part in ("train", "test")} == {"train": 9, "test": 1}


@pytest.mark.training
@pytest.mark.usefixtures("one_thread")
def test_lunas_ten_folds_make_one_curve(
    call: Callable[[str], list[tuple[list[str], Done]]], scans: list[LidcScan], run: Run
) -> None:
    prepare(call)
    call("LUNA16's ten folds")
    assert sorted(path.name for path in Path("ten").iterdir()) == [f"fold{k}" for k in range(SCANS)]
    records = [json.loads(path.read_text()) for path in Path("ten-page", "scans").iterdir()]
    split, patient = read_split(Path("ten.json")), {scan.series_uid: scan.patient_id for scan in scans}
    assert len(records) == SCANS and not any(record["trained_on"] for record in records)
    assert all(str(record["fold"]) == split.groups[patient[Path(record["name"]).stem]] for record in records)
    again = run("evaluate", "ten", "--scans", "LUNA16", "--truth", "luna16", "-o", "ten-page", "--json")
    found = json.loads(again.out)
    assert found["scans"] == SCANS and {one["kind"] for one in found["groups"]} >= {"fold", "size"}
    unseen = ("--scans", "LUNA16", "--truth", "luna16", "--unseen", "--workers", "1", "--json")
    one = run("evaluate", "ten/fold3", *unseen, "-o", "one")
    assert one.code == 0 and json.loads(one.out)["scans"] == 1 and len(json.loads(one.out)["left_out"]) == SCANS - 1


def headings() -> list[str]:
    text = (REPOSITORY / "docs" / "full-data.md").read_text(encoding="utf-8")
    return [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]


def test_whole_scans_of_b_are_reckoned_with_the_time_of_the_results() -> None:
    docs = REPOSITORY / "docs"
    reckoned = re.search(
        r"(\d+) ms a slice on two threads \| ([\d,]+) slices \| (\d+) h", (docs / "full-data.md").read_text()
    )
    measured = re.search(r"\| \*\*`se-aux-unet`\*\* \|.* (\d+) ms \|", (docs / "results.md").read_text())
    assert reckoned is not None and measured is not None and reckoned[1] == measured[1]
    hours = int(reckoned[1]) / 1000 * int(reckoned[2].replace(",", "")) / 3600
    assert int(reckoned[3]) == round(hours)


# ---------------------------------------------------------------- runs of every fold


def write_folds(folder: Path, splits: list[Split], recipe: Recipe = SE_AUX_UNET) -> Path:
    """Records of runs that are done, without networks."""
    for number, split in enumerate(splits):
        place = folder / f"fold{number}"
        place.mkdir(parents=True)
        done = dict.fromkeys(recipe.networks, 1.0)
        run_record.write_run(Trained(recipe, "nodulens train … --every-fold", number, seconds=done), place)
        write_split(split, place / SPLIT)
    return folder


def test_a_patient_is_judged_by_the_run_that_left_it_out(tmp_path: Path) -> None:
    evaluation = sorted(EVALUATION_PATIENTS)[0]
    split = Split({"a": "0", "b": "1", "c": "2", evaluation: "evaluation"}, 3, "luna16")
    folds = read_folds(write_folds(tmp_path / "runs", [split] * 3))
    assert folds is not None
    assert [folds.fold(p) for p in ("a", "b", "c", evaluation, "of another data set")] == [0, 1, 2, 0, 0]
    assert [path.name for path in folds.folders] == ["fold0", "fold1", "fold2"]
    fixed = [Split({"a": str(fold_of("a"))}, 5, FIXED)] * 5
    own = read_folds(write_folds(tmp_path / "fixed", fixed))
    assert own is not None and own.fold("LIDC-IDRI-0100") == fold_of("LIDC-IDRI-0100")
    assert read_folds(tmp_path) is None and read_folds(tmp_path / "runs" / "fold0") is None


def test_folds_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    split = Split({"a": "0", "b": "1"}, 2, "luna16")
    with pytest.raises(BadOption, match=r"no run in .*fold1; train it: nodulens train"):
        read_folds(write_folds(tmp_path / "one", [split]))
    with pytest.raises(BadOption, match="different splits"):
        read_folds(write_folds(tmp_path / "two", [split, replace(split, groups={"a": "1", "b": "0"})]))
    mixed = write_folds(tmp_path / "mixed", [split, split])
    other = Trained(CONV3_CLASSIFIER, "nodulens train …", 1, seconds={"classifier": 1.0})
    run_record.write_run(other, mixed / "fold1")
    with pytest.raises(BadOption, match="conv3-classifier without fold 1, where one of se-aux-unet"):
        read_folds(mixed)
    run_record.write_run(replace(other, recipe=SE_AUX_UNET, seconds={}), mixed / "fold1")
    with pytest.raises(BadOption, match="segmenter is not trained yet"):
        read_folds(mixed)
    longer = changed(SE_AUX_UNET, ["segmenter.epochs=7", "renderings=2"])
    run_record.write_run(replace(other, recipe=longer, seconds={"segmenter": 1.0}), mixed / "fold1")
    with pytest.raises(BadOption, match=r"other settings \(renderings, segmenter.epochs\)"):
        read_folds(mixed)


def test_folds_may_differ_in_what_a_network_plans_by_its_slices(tmp_path: Path) -> None:
    split = Split({"a": "0", "b": "1"}, 2, "luna16")
    runs = write_folds(tmp_path / "runs", [split, split], NNUNET_SAM)
    own = replace(run_record.read_run(runs / "fold1"), recipe=changed(NNUNET_SAM, ["segmenter.size=192"]))
    run_record.write_run(own, runs / "fold1")
    assert read_folds(runs) is not None


def test_every_fold_has_a_folder_and_other_test_patients_are_refused(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "split.json"
    write_split(Split({"a": "0", "b": "1", "c": "2"}, 3, "luna16"), path)
    found = every_fold(tmp_path / "runs", TrainOptions(split=path, epochs=3))
    assert {place.name: (own.fold, own.epochs) for place, own in found.items()} == {
        f"fold{k}": (k, 3) for k in range(3)
    }
    assert len(every_fold(tmp_path, TrainOptions())) == 5
    write_split(Split({"a": "train", "b": "test"}, 0, "stratified"), path)
    words = ("train", "se-aux-unet", "--data", tmp_path, "-o", tmp_path / "runs", "--every-fold")
    refused(run(*words, "--split", path), "--every-fold")
    refused(run(*words, "--fold", "1"), "leave out --fold")
    refused(run(*words, "--everybody"), "--everybody")


def test_patients_of_luna16_come_from_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    uid = UID_ROOT + "1"
    known = LidcScan(uid, "1.2", "LIDC-IDRI-0100", 0.7, 2.5, (0.0, 1.0), None, ())
    monkeypatch.setattr(lidc, "read_database", lambda path=None: (known,))
    scans = [CohortScan(f"{one}.mhd", Path(f"{one}.mhd")) for one in (uid, UID_ROOT + "2", "mine")]
    assert patients_of(Cohort((*scans, CohortScan("folder", Path("folder"), uid)), {})) == {
        f"{uid}.mhd": "LIDC-IDRI-0100",
        "folder": "LIDC-IDRI-0100",
    }
    monkeypatch.setattr(lidc, "read_database", lambda path=None: pytest.fail("it is not needed"))
    assert patients_of(Cohort((scans[2],), {})) == {}


def test_scans_of_training_patients_are_left_out_where_that_is_asked(tmp_path: Path) -> None:
    taught = next(iter(load_models().volume.card.patients))
    cohort = Cohort((CohortScan("a", tmp_path / "a"),), {})
    plan = CohortPlan("default", TableTruths(tmp_path / "none.csv"), patients={"a": taught}, unseen=True)
    with pytest.raises(BadOption, match="A network of default was trained on the patients of all 1 scans"):
        run_cohort(cohort, plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
