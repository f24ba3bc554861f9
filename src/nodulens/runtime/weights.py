"""The model files that ship with the package, each with a card beside it.

A card (JSON) says what the file is: sha256, licence, input and outputs, who it was trained on, by which command, and
the figures measured on patients left out. Nothing is ever fetched.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodulens.errors import CorruptWeights, MissingWeights

FOLDER = Path(__file__).resolve().parents[1] / "weights"
NAMES = ("patch", "volume", "segmenter", "malignancy")


@dataclass(frozen=True)
class Card:
    """What is known of one model file.

    Attributes:
        name: "patch", "volume", "segmenter" or "malignancy".
        path: of the ONNX file.
        sha256: of that file.
        licence: of the weights.
        command: that trains it again.
        trained_on: what material, and the patients whose scans took part.
        input: name → shape and meaning.
        figures: measured on patients left out, each with what it stands on.
        settings: numbers that go with the weights: calibration, thresholds.
    """

    name: str
    path: Path
    sha256: str
    licence: str
    command: str
    trained_on: dict[str, Any]
    input: dict[str, Any]
    figures: dict[str, Any]
    settings: dict[str, Any]


def card(name: str, folder: Path = FOLDER) -> Card:
    """The card of a model.

    Raises:
        MissingWeights: no card or no model file; says how to train one.
        CorruptWeights: the card cannot be read.
    """
    path = folder / f"{name}.json"
    model = folder / f"{name}.onnx"
    if not path.exists() or not model.exists():
        missing = path if not path.exists() else model
        raise MissingWeights(
            f"{missing} is not there. Train it: python -m nodulens.train {name} --data FOLDER --out {folder}"
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Card(path=model, **fields)
    except (ValueError, TypeError) as error:
        raise CorruptWeights(f"{path} is no card of a model ({error}). Reinstall nodulens.") from error


def check(known: Card) -> bytes:
    """Read a model file and compare it with its card.

    Returns:
        The file, so that what is run is what was compared.

    Raises:
        CorruptWeights: another hash.
    """
    content = known.path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != known.sha256:
        raise CorruptWeights(
            f"{known.path} is not the file its card describes (sha256 {found[:12]}…, expected {known.sha256[:12]}…). "
            "Reinstall nodulens."
        )
    return content
