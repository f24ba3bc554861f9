"""Splits by patient: balance, what the file names, and every way in which a patient could stand on both sides."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nodulens.data.dataset import Item
from nodulens.data.folds import EVALUATION_PATIENTS, fold_of, is_left_out, may_train
from nodulens.data.splits import (
    EVALUATION,
    Parts,
    Split,
    by_group,
    check_together,
    fixed,
    in_shares,
    of_groups,
    read_split,
    refuse_overlap,
    stratified,
    write_split,
)
from nodulens.errors import BadOption, NotFound, PatientOverlap, UnreadableFile

KINDS = ("benign", "undecided", "malignant")


@pytest.fixture(scope="module")
def items() -> tuple[Item, ...]:
    """300 patients with one to many nodules, as uneven as LIDC's, and one evaluation patient."""
    rng = np.random.default_rng(1)
    counts = rng.geometric(0.4, 300)
    counts[7] = 23
    made = [
        Item(f"{p}-{k}", f"LIDC-IDRI-{p + 100:04d}", str(rng.choice(KINDS, p=(0.5, 0.35, 0.15))))
        for p, n in enumerate(counts)
        for k in range(n)
    ]
    return (*made, Item("e", "LIDC-IDRI-0003", "malignant"))


def test_folds_are_even_in_every_stratum_and_in_patients(items: tuple[Item, ...]) -> None:
    split = stratified(items, folds=5, seed=3)
    table = dict(by_group(split, items))
    assert set(table) == {"0", "1", "2", "3", "4", EVALUATION}
    for kind in KINDS:
        counts = [table[str(k)][kind] for k in range(5)]
        assert max(counts) - min(counts) <= 3
    sizes = Counter(split.groups.values())
    assert max(sizes[str(k)] for k in range(5)) - min(sizes[str(k)] for k in range(5)) <= 3


def test_folds_are_as_even_as_scikit_learns(items: tuple[Item, ...]) -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    kept = [i for i in items if i.patient_id not in EVALUATION_PATIENTS]
    kinds, patients = np.array([i.stratum for i in kept]), np.array([i.patient_id for i in kept])

    def spread(folds: list[np.ndarray]) -> float:
        counts = np.array([[np.sum(kinds[rows] == kind) for kind in KINDS] for rows in folds])
        return float((counts.std(axis=0) / counts.mean(axis=0)).mean())

    theirs = selection.StratifiedGroupKFold(5, shuffle=True, random_state=0).split(kinds, kinds, patients)
    group = np.array(stratified(kept, 5).group_of(kept))
    assert spread([np.flatnonzero(group == str(k)) for k in range(5)]) <= spread([test for _, test in theirs]) + 0.01


def test_the_same_seed_gives_the_same_split_whatever_the_order(items: tuple[Item, ...]) -> None:
    assert stratified(items, seed=5) == stratified(items[::-1], seed=5)
    assert stratified(items, seed=5) != stratified(items, seed=6)


def test_shares_need_only_their_ratio(items: tuple[Item, ...]) -> None:
    split = in_shares(items, (1902, 265, 475), seed=1)
    assert split == in_shares(items, (19.02, 2.65, 4.75), seed=1)
    sizes = Counter(split.groups[i.patient_id] for i in items)
    for part, share in (("train", 1902), ("validation", 265), ("test", 475)):
        assert sizes[part] / len(items) == pytest.approx(share / 2642, abs=0.02)
    assert set(in_shares(items, (7, 3)).groups.values()) == {"train", "test", EVALUATION}


def test_fixed_folds_are_those_of_the_projects_training(items: tuple[Item, ...]) -> None:
    patients = [i.patient_id for i in items]
    split = fixed(items)
    for fold in range(5):
        parts = split.parts(fold)
        assert parts.train == set(np.array(patients)[may_train(patients, fold)])
        assert parts.test == set(np.array(patients)[is_left_out(patients, fold)])
    assert split.patients(EVALUATION) == {"LIDC-IDRI-0003"}


def test_a_few_patients_may_leave_a_fixed_fold_empty() -> None:
    patient = "LIDC-IDRI-0100"
    split = fixed([Item("a", patient)])
    assert split.parts(fold_of(patient)).test == {patient}
    assert split.parts((fold_of(patient) + 1) % 5).test == frozenset()


def test_every_round_leaves_nobody_on_both_sides(items: tuple[Item, ...]) -> None:
    for split in (stratified(items, 7), fixed(items), in_shares(items, (6, 2, 2))):
        tested: Counter[str] = Counter()
        for parts in split.rounds():
            assert not parts.train & parts.test and not parts.train & EVALUATION_PATIENTS
            tested.update(parts.test)
        if split.folds:
            assert tested == Counter({i.patient_id for i in items} - EVALUATION_PATIENTS)


def test_given_folds_keep_a_patients_scans_together() -> None:
    scans = [Item("a", "P1"), Item("b", "P2"), Item("c", "P1"), Item("d", "P3")]
    split = of_groups(scans, {"a": 2, "b": 1, "c": 0, "d": 2}, "luna16")
    assert dict(split.groups) == {"P1": "0", "P2": "1", "P3": "2"} and split.method == "luna16"
    assert "P1" in split.notes[0]
    with pytest.raises(BadOption, match="No luna16 fold is given for d"):
        of_groups(scans, {"a": 2, "b": 1, "c": 0}, "luna16")


def test_a_split_returns_from_its_file(items: tuple[Item, ...], tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    for split in (
        stratified(items, 3, 9),
        in_shares(items, (8, 2)),
        replace(fixed(items), notes=("ä",), data_sets=("x",)),
    ):
        write_split(split, path)
        assert read_split(path) == split
    record = json.loads(path.read_text("utf-8"))
    assert record["schema"] == "nodulens-split/1" and set(record["patients"]) == {i.patient_id for i in items}


def test_a_file_that_was_tampered_with_is_refused(items: tuple[Item, ...], tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    write_split(in_shares(items, (8, 2)), path)
    text = path.read_text("utf-8")

    def broken(changed: str) -> Path:
        path.write_text(changed, "utf-8")
        return path

    with pytest.raises(PatientOverlap, match="LIDC-IDRI-0003") as caught:
        read_split(broken(text.replace('"LIDC-IDRI-0003": "evaluation"', '"LIDC-IDRI-0003": "train"')))
    assert caught.value.patients == ("LIDC-IDRI-0003",)
    with pytest.raises(UnreadableFile, match="twice: LIDC-IDRI-0100"):
        read_split(broken(text.replace('"patients": {', '"patients": {\n  "LIDC-IDRI-0100": "test",')))
    with pytest.raises(UnreadableFile, match="do not fit"):
        read_split(broken("\n".join(line for line in text.splitlines() if "LIDC-IDRI-0100" not in line)))
    with pytest.raises(UnreadableFile, match="schema"):
        read_split(broken(text.replace("nodulens-split/1", "nodulens-split/9")))
    with pytest.raises(UnreadableFile, match="A split puts patients into"):
        read_split(broken(text.replace('"train"', '"trian"')))
    with pytest.raises(UnreadableFile, match="no JSON"):
        read_split(broken(text[: len(text) // 2]))
    with pytest.raises(NotFound, match="nodulens data split"):
        read_split(tmp_path / "none.json")


def test_overlap_is_refused_by_name() -> None:
    with pytest.raises(PatientOverlap, match="7 patients in both a and b: P0, P1, P2, P3, P4 and 2 more") as caught:
        refuse_overlap([f"P{k}" for k in range(7)] * 2, (f"P{k}" for k in range(99)), ("a", "b"))
    assert len(caught.value.patients) == 7
    with pytest.raises(PatientOverlap, match="1 patient in both train and evaluation: LIDC-IDRI-0001"):
        Parts(frozenset({"P", "LIDC-IDRI-0001"}), frozenset({"Q"}))
    with pytest.raises(PatientOverlap, match="both validation and test"):
        Parts(frozenset({"P"}), test=frozenset({"Q"}), validation=frozenset({"Q"}))
    Parts(frozenset({"P"}), test=frozenset({"LIDC-IDRI-0001"}))


def test_two_data_sets_must_be_split_alike(items: tuple[Item, ...]) -> None:
    half = [i for i in items if int(i.patient_id[-1]) % 2]
    check_together({"all": fixed(items), "half": fixed(half)})
    together = stratified([*items, *half], 4)
    check_together({"one": together, "other": together})
    with pytest.raises(PatientOverlap, match=r"train of all and test of half"):
        check_together({"all": stratified(items, 5, 0), "half": stratified(half, 5, 1)})
    with pytest.raises(PatientOverlap, match=r"train of folds and test of shares"):
        check_together({"folds": stratified(items), "shares": in_shares(items, (7, 3))})
    with pytest.raises(PatientOverlap):
        check_together({"shares": in_shares(items, (7, 3)), "folds": stratified(items)})


def test_a_split_is_for_the_patients_that_it_names(items: tuple[Item, ...]) -> None:
    with pytest.raises(BadOption, match="does not name P1"):
        fixed(items).group_of([*items, Item("x", "P1")])


def test_impossible_splits_are_refused(items: tuple[Item, ...]) -> None:
    for wrong in (lambda: stratified(items, 1), lambda: in_shares(items, (1,)), lambda: in_shares(items, (1, -1))):
        with pytest.raises(BadOption):
            wrong()
    with pytest.raises(BadOption, match="2 patients cannot be split into 3 parts"):
        stratified([Item("a", "P"), Item("b", "Q"), Item("c", "LIDC-IDRI-0001")], 3)
    with pytest.raises(BadOption):
        Split({"P": "0", "Q": "train"}, 2, "mine")
    with pytest.raises(BadOption):
        fixed(items).parts(5)
    with pytest.raises(BadOption):
        in_shares(items, (7, 3)).parts(0)
