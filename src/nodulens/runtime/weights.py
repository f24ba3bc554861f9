"""Model files, each with a card: those that ship with the package, and those of a run.

A card (JSON) describes the file: sha256, licence, input, training patients, training command, and figures measured on
held-out patients. Nothing is ever fetched.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodulens.errors import CorruptWeights, MissingWeights, UnreadableFile
from nodulens.io.records import Format, decode

FOLDER = Path(__file__).resolve().parents[1] / "weights"
NAMES = ("screen", "volume", "segmenter", "malignancy", "measured")
METHODS = "nodulens_methods"
"""The package with the networks of the published methods, see :mod:`nodulens.methods.shipped`."""
TOGETHER = {"screen": "detector", "volume": "detector", "measured": "malignancy"}
"""Networks that are trained together → the name of their training; any other's is its own name."""
FORM = Format(None, "card")


@dataclass(frozen=True)
class _Stored:
    """The JSON of a card."""

    name: str
    sha256: str
    licence: str
    command: str
    trained_on: dict[str, Any]
    input: dict[str, Any]
    figures: dict[str, Any]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Card:
    """The card of a model file.

    Attributes:
        name: "screen", "volume", "segmenter", "malignancy" or "measured"; of a run also "filter" or "classifier".
        path: of the ONNX file.
        sha256: of that file.
        licence: of the weights.
        command: that trains it again.
        trained_on: material, and the patients of the training and validation set.
        input: name → shape and meaning.
        figures: measured on held-out patients, each with its basis.
        settings: parameters of inference, such as calibration and thresholds.
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

    @property
    def patients(self) -> frozenset[str]:
        """Those of its training and validation set."""
        return frozenset(p for part in ("patients", "watched") for p in self.trained_on.get(part, ()))


def card(name: str, folder: Path = FOLDER) -> Card:
    """Read the card of a model.

    Raises:
        MissingWeights: no card or no model file; the message says how to train one.
        CorruptWeights: the card cannot be read.
    """
    path = folder / f"{name}.json"
    model = folder / f"{name}.onnx"
    if not path.exists() or not model.exists():
        missing = path if not path.exists() else model
        if METHODS in folder.parts:
            raise MissingWeights(f"{missing} does not exist. {_reinstall(folder)}")
        raise MissingWeights(
            f"{missing} does not exist. Train it: python -m nodulens.train {TOGETHER.get(name, name)} --data FOLDER "
            f"--out {folder}"
        )
    try:
        stored = decode(_Stored, path.read_text(encoding="utf-8"), FORM)
    except (UnicodeDecodeError, UnreadableFile) as error:
        raise CorruptWeights(f"{path} is not a card of a model: {error} {_reinstall(folder)}") from error
    return Card(path=model, **vars(stored))


def check(known: Card) -> None:
    """Compare a model file with its card.

    Raises:
        CorruptWeights: the hash differs.
    """
    checked(known.path, known.sha256)


def checked(path: Path, sha256: str) -> bytes:
    """Read a model file and compare it with the hash on its card.

    Raises:
        CorruptWeights: the hash differs.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise CorruptWeights(
            f"{path} is not the file its card describes (sha256 {found[:12]}…, expected {sha256[:12]}…). "
            f"{_reinstall(path.parent)}"
        )
    return content


def _reinstall(folder: Path) -> str:
    """What to do where a file of a folder is damaged."""
    return f"Reinstall {'nodulens-methods' if METHODS in folder.parts else 'nodulens'}."
