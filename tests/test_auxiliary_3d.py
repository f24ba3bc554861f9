"""Method B's second head in three dimensions: its windows, both arms, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import auxiliary_3d
from experiments.auxiliary_3d import SIDE, Windows, judged, main, network
from nodulens.data.folds import EVALUATION_PATIENTS, fold_of
from nodulens.data.material import Cubes
from nodulens.errors import BadOption

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def windows(data: Path) -> Windows:
    return Windows.of(Cubes(data))


def test_both_arms_are_the_same_but_for_the_head() -> None:
    nets = []
    for auxiliary in (True, False):
        torch.manual_seed(0)
        nets.append(network(auxiliary=auxiliary).eval())
    x = torch.rand(2, 1, 16, 16, 16)
    with torch.inference_mode():
        (outline, presence), alone = nets[0](x), nets[1](x)
    assert outline.shape == x.shape and presence.shape == (2, 1)
    torch.testing.assert_close(outline, alone)
    head = sum(p.numel() for p in nets[0].parameters()) - sum(p.numel() for p in nets[1].parameters())
    assert head == 129 * 128 + 129


def test_windows_hold_a_nodule_or_nothing_that_anybody_outlined(data: Path, windows: Windows) -> None:
    assert not set(windows.patients) & EVALUATION_PATIENTS
    assert len(windows.patients) < len(Cubes(data)), "the cube that ends with its scan is left out"
    rng = np.random.default_rng(0)
    for number in range(len(windows.patients)):
        there = windows.at(number, rng)
        assert windows.nodule[number][there].shape == (SIDE,) * 3 and windows.nodule[number][there].any()
        away = windows.away(number, rng)
        assert away is None or not windows.other[number][away].any()


def test_folds_are_computed_once_and_both_arms_are_compared(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = {fold_of(p) for p in Windows.of(Cubes(data)).patients}
    main(data, tmp_path, epochs=1, folds=min(filled) + 1, threads=1)
    made = sorted(tmp_path.glob("*.json"))
    assert [p.stem for p in made] == [f"{arm}-{min(filled)}" for arm in ("with", "without")]
    rows = {p.stem.split("-")[0]: json.loads(p.read_text())["rows"] for p in made}
    assert {fold_of(p) for p in rows["with"]["patient"]} == {min(filled)}
    assert rows["with"]["patient"] == rows["without"]["patient"] and rows["without"]["head with"][0] is None
    first = capsys.readouterr().out
    assert "| Dice |" in first and "AUC of the head's output" in first
    monkeypatch.setattr(auxiliary_3d, "train", None)  # nothing is trained again
    main(data, tmp_path, epochs=1, folds=min(filled) + 1, threads=1)
    assert capsys.readouterr().out == first
    with pytest.raises(BadOption, match=r"with-\d\.json is of 1 epochs, not 2: name another folder"):
        main(data, tmp_path, epochs=2, folds=min(filled) + 1, threads=1)


def test_a_difference_is_paired_by_nodule() -> None:
    columns = {
        "patient": ["a", "a", "b"],
        "dice": [0.5, 0.0, 0.7],
        "invented": [True, None, False],
        "score with": [0.9, 0.2, 0.8],
        "score without": [0.3, None, 0.1],
        "head with": [2.0, -1.0, 1.0],
        "head without": [0.0, None, -2.0],
    }
    other = {**columns, "dice": [0.4, 0.0, 0.6], "head with": [None] * 3, "head without": [None] * 3}
    lines = {row[0]: row[1:] for row in judged({"with": columns, "without": other}).rows}
    assert str(lines["Dice"][0]).startswith("0.400") and str(lines["Dice"][2]).startswith("+0.067")
    assert str(lines["missed"][0]).startswith("0.333")
    assert str(lines["invented in windows without a nodule"][1]).startswith("0.500")
    assert lines["AUC of the head's output"] == ("0.833", "–", "–")
    assert lines["AUC of the largest probability of a voxel"][0] == "0.833"
