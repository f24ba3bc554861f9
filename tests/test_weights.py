"""The model files that ship: what their cards say is so, and what is wrong with a file is found."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import nodulens
from nodulens.data.folds import EVALUATION_PATIENTS, FOLDS, fold_of, is_left_out, may_train
from nodulens.errors import CorruptWeights, MissingWeights
from nodulens.runtime.engine import load_model, load_models
from nodulens.runtime.weights import FOLDER, NAMES, TOGETHER, card, check

MEGABYTES = 30


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_all_there_is_to_know(name: str) -> None:
    known = card(name)
    assert known.name == name
    assert known.sha256 == hashlib.sha256(known.path.read_bytes()).hexdigest()
    check(known)
    assert "Apache-2.0" in known.licence and "CC BY" in known.licence
    assert known.command == f"python -m nodulens.train {TOGETHER.get(name, name)} --data ../shared/data"
    assert known.input, "what it expects"
    if name != "screen":  # which is judged with the network that it screens for
        assert "patient" in known.figures["stands_on"] or "fold" in known.figures["stands_on"]
    kind = {"trees", "depth", "seed"} if name == "measured" else {"epochs", "learning_rate", "seed"}
    assert kind <= set(known.trained_on["schedule"])
    assert len(known.trained_on["patients"]) >= 90
    assert not EVALUATION_PATIENTS & set(known.trained_on["patients"])
    assert set(known.trained_on["never"]) == EVALUATION_PATIENTS


def test_nothing_else_ships_and_all_of_it_is_small() -> None:
    there = {path.name for path in FOLDER.iterdir()}
    assert there == {f"{name}.{kind}" for name in NAMES for kind in ("onnx", "json")}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= MEGABYTES * 1_000_000


def test_cards_name_nothing_of_the_machine_they_were_made_on() -> None:
    for name in NAMES:
        text = (FOLDER / f"{name}.json").read_text("utf-8")
        assert not any(word in text for word in ("/tmp", "/home", "/work", "/root", "Users"))
        raw = (FOLDER / f"{name}.onnx").read_bytes()
        assert not any(word in raw for word in (b"/tmp/", b"/home/", b"/work/", b"site-packages"))


def test_the_detector_has_its_settings() -> None:
    screen, settings = card("screen").settings, card("volume").settings
    assert screen["least"] < 0 and screen["most"] >= 100
    assert 0 < settings["threshold"] < 1
    assert settings["calibration"][1] > 0, "a higher logit is a higher score"
    rows = settings["sensitivity_by_size"]
    assert rows and all(low < high and 0 <= found <= total for low, high, found, total in rows)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "weights"))


def test_a_changed_byte_is_found(copy: Path) -> None:
    path = copy / "segmenter.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptWeights, match=r"segmenter\.onnx is not the file its card describes.*Reinstall"):
        load_models(1, copy)


def test_a_truncated_file_is_found(copy: Path) -> None:
    path = copy / "screen.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CorruptWeights, match=r"screen\.onnx"):
        load_model("screen", 1, copy)


@pytest.mark.parametrize("kind", ["onnx", "json"])
def test_a_missing_file_says_how_to_train_it(copy: Path, kind: str) -> None:
    (copy / f"volume.{kind}").unlink()
    with pytest.raises(
        MissingWeights, match=rf"volume\.{kind} does not exist.*python -m nodulens\.train detector --data"
    ):
        load_models(1, copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"name": "screen"}', '"screen"'])
def test_a_damaged_card_is_named(copy: Path, text: str) -> None:
    (copy / "screen.json").write_text(text)
    with pytest.raises(CorruptWeights, match=r"screen\.json is not a card"):
        card("screen", copy)


def test_a_card_with_an_unknown_key_is_named(copy: Path) -> None:
    path = copy / "screen.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "sha": ""}))
    with pytest.raises(CorruptWeights, match="sha"):
        card("screen", copy)


SHAPES = {"screen": (1, 16, 16, 16), "volume": (1, 32, 32, 32), "segmenter": (4, 32, 32, 32), "malignancy": (2, 64, 64)}
SHAPES["measured"] = (len(card("measured").settings["features"]),)


@pytest.mark.parametrize("name", NAMES)
def test_batches_of_any_size_give_the_same_answers(name: str) -> None:
    model = load_model(name, 1)
    batch = np.random.default_rng(0).random((67, *SHAPES[name]), dtype=np.float32)
    together = model.run(batch)
    alone = model.run(batch[66:])
    assert all(out.shape[0] == 67 and out.dtype == np.float32 for out in together)
    for many, one in zip(together, alone, strict=True):
        np.testing.assert_allclose(many[66:], one, rtol=1e-3, atol=1e-4)


def test_a_model_file_is_read_and_compiled_once(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    whole = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or whole(path))  # type: ignore[func-returns-value]
    first, again = load_models(1, copy), load_models(1, copy)
    assert sorted(read) == sorted(f"{name}.onnx" for name in NAMES)
    assert all(getattr(first, name).run is getattr(again, name).run for name in NAMES)
    assert load_model("segmenter", 1, copy).run is first.segmenter.run and len(read) == len(NAMES)
    assert load_model("segmenter", 2, copy).run is not first.segmenter.run


def test_a_file_that_changes_is_not_the_one_that_was_read(copy: Path) -> None:
    before = load_model("screen", 1, copy)
    path = copy / "screen.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptWeights, match=r"screen\.onnx"):
        load_model("screen", 1, copy)
    shutil.copy(FOLDER / "screen.onnx", path)
    assert load_model("screen", 1, copy).run is not before.run


def test_doctor_looks_at_the_same_files() -> None:
    from nodulens.apps.doctor import examine

    found = examine()
    assert set(found["weights"]) == set(NAMES)
    assert all(state.startswith("intact") for state in found["weights"].values())
    assert found["versions"]["nodulens"] == nodulens.__version__


# ---- Who may train

PINNED = {"LIDC-IDRI-0002": 4, "LIDC-IDRI-0004": 1, "LIDC-IDRI-0293": 1, "LIDC-IDRI-0295": 2, "LIDC-IDRI-0306": 3}


@pytest.mark.parametrize(("patient", "fold"), PINNED.items())
def test_folds_never_change(patient: str, fold: int) -> None:
    """Shipped figures are out of fold: another fold function would make them a claim about other patients."""
    assert fold_of(patient) == fold


def test_folds_share_patients_out_and_never_evaluation_patients() -> None:
    patients = [f"LIDC-IDRI-{n:04d}" for n in range(1, 1011)] + sorted(EVALUATION_PATIENTS)
    judged = np.stack([is_left_out(patients, fold) for fold in range(FOLDS)])
    taught = np.stack([may_train(patients, fold) for fold in range(FOLDS)])
    evaluation = np.isin(patients, sorted(EVALUATION_PATIENTS))
    assert not (judged & taught).any()
    np.testing.assert_array_equal(judged.sum(0), ~evaluation)
    np.testing.assert_array_equal(taught.sum(0), np.where(evaluation, 0, FOLDS - 1))
    np.testing.assert_array_equal(may_train(patients, None), ~evaluation)
    assert judged.sum(1).min() > 150, "folds are of like size"
